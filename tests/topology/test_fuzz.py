"""A damaged tree is an error that says so, or unknowns: nothing else."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.errors import TopologyError
from isotherm.topology.model import Topology
from isotherm.topology.performance import FIGURES
from isotherm.topology.render import as_json, render_topology
from isotherm.topology.sysfs import read_tree
from isotherm.topology.tree import Link, MemoryStorage, Tree, open_tree

NODES = "sys/devices/system/node"
TEXTS = [
    b"",
    b"\0",
    b"0",
    b"-1",
    b"0-1",
    b"0-1023",
    b"1-0",
    b"99999999999999999999999",
    b"10 20",
    b"10 20 30",
    b"Node 1 MemTotal: 0 kB",
    b"Node: 1\nStatus: online",
    b"Node: 0-9\nStatus: online",
    b"\xff\xfe",
]


def check(topology: Topology) -> None:
    """Assert what holds for every topology, however it was come by."""
    ids = [node.id for node in topology.nodes]
    assert ids == sorted(set(ids))
    held = [node.id for node in topology.nodes if node.has_memory]
    assert held == sorted(node for tier in topology.tiers for node in tier.nodes)
    ranks = [tier.id for tier in topology.tiers]
    assert ranks == sorted(set(ranks))
    assert list(range(len(topology.initiators))) == [
        initiator.id for initiator in topology.initiators
    ]
    keys = [(row.initiator, row.node) for row in topology.performance]
    assert len(keys) == len(set(keys))
    for row in topology.performance:
        assert row.node in ids
        figures = [getattr(row, name) for name in FIGURES]
        known = [figure.value for figure in figures if figure is not None]
        assert known
        assert all(math.isfinite(value) and value > 0 for value in known)
    for node in topology.nodes:
        assert node.capacity_bytes is None or 0 <= node.capacity_bytes < 1 << 56
    for distances in topology.distances.values():
        assert all(10 <= distance <= 255 for distance in distances.values())
    assert max(map(len, render_topology(topology).split("\n"))) <= 80
    assert held == sorted(n for t in as_json(topology)["tiers"] for n in t["nodes"])


@pytest.fixture(scope="module")
def base(dram_cxl) -> dict[str, bytes | Link]:
    """Return a small machine with every sort of file in it."""
    machine = dram_cxl().tier(4, "0").tier(46, "1")
    machine.put("proc/driver/nvidia/gpus/0000:01:00.0/numa_status", "Node: -1\n")
    machine.put(f"{NODES}/node1/memory_side_cache/index1/size", "4096\n")
    machine.put(f"{NODES}/node0/cpumap", "f\n")
    machine.put("sys/bus/cxl/devices/mem0/numa_node", "0\n")
    return machine.entries


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutations(base, data: st.DataObject) -> None:
    """Files lost, cut, overwritten, relinked or added: TopologyError or a topology."""
    entries = dict(base)
    paths = sorted(entries)
    targets = st.sampled_from([*paths, "..", "/", "/sys", "../../..", ".", "x"])
    for _ in range(data.draw(st.integers(1, 6))):
        path = data.draw(st.sampled_from(paths))
        old = base[path]
        change = data.draw(
            st.one_of(
                st.just(None),
                st.sampled_from(TEXTS),
                st.binary(max_size=40),
                st.builds(Link, targets),
                st.integers(0, 30).map(
                    lambda n, old=old: old[:n] if isinstance(old, bytes) else None
                ),
            )
        )
        if data.draw(st.booleans()):
            path = path.replace("1", str(data.draw(st.integers(0, 12))))
        if change is None:
            entries.pop(path, None)
        else:
            entries[path] = change
    try:
        topology = read_tree(Tree("made", MemoryStorage(entries)))
    except TopologyError as error:
        message = error.message
    else:
        check(topology)
        return
    assert ": found " in message
    assert ", expected " in message


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_archives(tmp_path_factory, dram_cxl, data: st.DataObject) -> None:
    """A tar with bytes changed or lost: TopologyError or a topology."""
    mode = data.draw(st.sampled_from(["w", "w:gz", "w:bz2", "w:xz"]))
    path = tmp_path_factory.getbasetemp() / f"fuzz-{mode.replace(':', '-')}"
    dram_cxl().tar(path, mode)
    blob = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at] = data.draw(st.integers(0, 255))
    path.write_bytes(blob[: data.draw(st.integers(1, len(blob)))])
    try:
        topology = read_tree(open_tree(path))
    except TopologyError:
        return
    check(topology)
