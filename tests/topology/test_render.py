"""JSON and text of a topology."""

import json

from isotherm.topology.render import as_json, render_topology


def test_json_has_every_figure_with_its_source(dram_cxl) -> None:
    """Raw units, a source beside each figure, null for what nobody says."""
    machine = dram_cxl().access(1, 0, (250, 0, 30720, 30720))
    document = json.loads(json.dumps(as_json(machine.read())))
    assert ["nodes", "tiers", "initiators", "performance"] == list(document)[:4]
    assert {
        "initiator": 0,
        "initiator_name": "cpu0",
        "node": 1,
        "read_latency_ns": {"value": 250.0, "source": "firmware"},
        "write_latency_ns": None,
        "read_bandwidth_mib_s": {"value": 30720.0, "source": "firmware"},
        "write_bandwidth_mib_s": {"value": 30720.0, "source": "firmware"},
    } == document["performance"][1]
    assert [[0], [1]] == [tier["nodes"] for tier in document["tiers"]]
    node = document["nodes"][1]
    assert (64 << 30, "firmware", "cxl", "firmware", 1) == (
        node["capacity_bytes"],
        node["capacity_source"],
        node["kind"],
        node["kind_source"],
        node["tier"],
    )
    assert {"id": 0, "name": "cpu0", "kind": "cpu", "node": 0} == document[
        "initiators"
    ][0]


def test_text_of_two_tiers(dram_cxl) -> None:
    """The whole text, as people see it."""
    expected = """\
tiers, fastest first
  0: node 0 (dram)
     memory_tier4, adistance 576, firmware: abstract distance from latency and
     bandwidth, node 0 = 576
  1: node 1 (cxl)
     memory_tier46, adistance 6000, firmware: abstract distance from latency and
     bandwidth, node 0 = 576

nodes
  node  kind  said by   capacity  cpus  side cache  label
     0  dram  assumed   16.0 GiB  0-3            -  -
     1  cxl   firmware  64.0 GiB  -              -  dax0.0

initiators
  id  name  kind  node
   0  cpu0  cpu      0

performance, unloaded
  from  node  read ns  write ns  read MiB/s  write MiB/s  said by
  cpu0     0       80        80      102400       102400  firmware
  cpu0     1      250       250       30720        30720  firmware

DAX devices (kmem: serves as the node)
  device  kind      size  node  driver
  dax0.0  cxl   64.0 GiB     1  kmem
"""
    assert expected == render_topology(dram_cxl().read())


def test_unknowns_are_words(new_machine) -> None:
    """What nobody says is "unknown" on the screen, and notes come last."""
    machine = new_machine().put("sys/devices/system/node/online", "0")
    text = render_topology(machine.read())
    assert "unknown" in text
    assert "none that the tree tells of" in text
    assert text.rstrip().split("\n\n")[-1].startswith("notes\n")
