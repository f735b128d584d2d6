"""Machines as data: the built-in ones, TOML files, recorded trees."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.errors import ConfigError, IsothermError, UsageError
from isotherm.machine.sim.spec import (
    BUILT_IN,
    CostSpec,
    MachineSpec,
    load_machine,
    parse_machine,
)
from isotherm.topology.model import InitiatorKind, MemoryKind, Source

TWO_NODES = """
name = "tiny"
description = "two nodes"
[[nodes]]
kind = "dram"
tier = 0
read_latency_ns = [80]
initiators = [0]
[[nodes]]
kind = "cxl"
tier = 1
read_latency_ns = [250]
"""

#: Figures of each built-in machine: read latencies of initiator 0, bandwidths.
FIGURES = {
    "dram-cxl": ([80, 250], [None, None]),
    "dram-cxl-fast": ([114, 271], [218, 26]),
    "dram-pmem": ([92, 323], [81, 26]),
    "dram-remote": ([70, 135], [205, 75]),
    "hbm-dram-cxl": ([110, 114, 271], [800, 218, 26]),
    "dram-zram": ([80, 4600], [None, None]),
    "gpu-host": ([400, 1200], [3350, 55]),
    "gpu-coherent": ([400, 900], [3400, 486]),
    "two-socket-cxl": ([80, 140, 250], [218, 218, 26]),
    "ocp-expander": ([114, 271, 391], [218, 26, 26]),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_machines(name: str) -> None:
    """Every machine that --list names loads, with the documented figures."""
    spec = load_machine(name)
    latency, bandwidth = FIGURES[name]
    assert name == spec.name
    assert latency == [node.read_latency_ns[0] for node in spec.nodes]
    assert bandwidth == [node.read_bandwidth_gb_s for node in spec.nodes]


def test_the_reference_cost_model() -> None:
    """dram-cxl is the machine that policies were studied on, figure by figure."""
    spec = load_machine("dram-cxl")
    assert 1 == spec.parallelism
    assert CostSpec(200, 30, 1000, 0, 2500, 0) == spec.costs


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("ratio", [0.5, 0.2, 1 / 9, 1.0])
def test_capacities(name: str, ratio: float) -> None:
    """The fastest tier holds the ratio to the page; the last one everything."""
    spec = load_machine(name)
    capacity = spec.capacities(4099, ratio)
    last = max(node.tier for node in spec.nodes)
    fast = [c for c, n in zip(capacity, spec.nodes, strict=True) if n.tier == 0]
    slow = [c for c, n in zip(capacity, spec.nodes, strict=True) if n.tier == last]
    assert int(4099 * ratio) == sum(fast)
    assert [4099] * len(slow) == slow
    assert min(capacity) >= 0


def test_the_middle_tier_holds_its_share_of_the_fastest() -> None:
    """HBM holds a fifth, DRAM twice that."""
    assert [200, 400, 1000] == load_machine("hbm-dram-cxl").capacities(1000, 0.2)


def test_two_fast_nodes_share_the_tier() -> None:
    """Two sockets hold a half of the fast pages each, the odd one is not lost."""
    assert [115, 116, 1159] == load_machine("two-socket-cxl").capacities(1159, 0.2)


@pytest.mark.parametrize("name", BUILT_IN)
def test_as_a_topology(name: str) -> None:
    """Every node is in one tier, every pair has its figures, all configured."""
    spec = load_machine(name)
    topology = spec.topology(spec.capacities(1000, 0.2))
    assert sorted(range(len(spec.nodes))) == sorted(
        node for tier in topology.tiers for node in tier.nodes
    )
    for who in topology.initiators:
        assert who.node is not None
        if who.kind is topology.initiators[0].kind:
            assert 0 == topology.tier_of(who.node)
        for i, node in enumerate(spec.nodes):
            row = topology.performance_of(who.id, i)
            assert row is not None
            assert row.read_latency_ns is not None
            assert node.read_latency_ns[who.id] == row.read_latency_ns.value
            assert Source.CONFIGURED is row.read_latency_ns.source


def test_a_toml_file(tmp_path: Path) -> None:
    """A file needs no more than nodes with latencies."""
    path = tmp_path / "tiny.toml"
    path.write_text(TWO_NODES)
    spec = load_machine(str(path))
    assert [MemoryKind.DRAM, MemoryKind.CXL] == [n.kind for n in spec.nodes]
    assert [InitiatorKind.CPU] == spec.initiators
    assert CostSpec() == spec.costs


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("[80]", '["fast"]', "nodes[0].read_latency_ns[0]: expected `float`"),
        ("[80]", "[0]", "nodes[0].read_latency_ns: expected 1 figures > 0"),
        ("[80]", "[]", "nodes[0].read_latency_ns"),
        ("[80]", "[nan]", "nodes[0].read_latency_ns"),
        ("[80]", "[80, 90]", "nodes[0].read_latency_ns"),
        ("[250]", "[250]\nwrite_latency_ns = [-1]", "nodes[1].write_latency_ns"),
        ("[250]", "[250]\nread_bandwidth_gb_s = 0", "nodes[1].read_bandwidth_gb_s"),
        ("[250]", "[250]\nwrite_bandwidth_gb_s = inf", "nodes[1].write_bandwidth"),
        ("[250]", "[250]\ncapacity_ratio = -2", "nodes[1].capacity_ratio"),
        ("[250]", "[250]\nspeed = 3", "unknown field `speed`"),
        ("[250]", "[250]\ninitiators = [1]", "nodes[1].initiators"),
        ("[250]", "[250]\ncapacity_ratio = 1e300", "nodes[1].capacity_ratio: expected"),
        ("[250]", "[1e300]", "nodes[1].read_latency_ns"),
        ("[250]", "[79]", "tier 1 answers in 79 ns, tier 0 above it (nodes[0]) in 80"),
        ('"cxl"', '"cxx"', "compressed, remote, unknown; did you mean 'cxl'?"),
        ('name = "tiny"', 'name = "tiny"\ninitiators = ["tpu"]', "one of cpu, gpu"),
        ("tier = 1", "tier = 2", "nodes.tier: expected 0, 1, … without gaps"),
        ("tier = 1", "tier = 0", "nodes.tier"),
        ('"cxl"', '"tape"', "nodes[1].kind: invalid enum value"),
        ('name = "tiny"', "", "missing required field `name`"),
        ('name = "tiny"', 'name = "tiny"\nparallelism = 0.5', "parallelism"),
        ('name = "tiny"', 'name = "tiny"\nreference_gib = 0', "reference_gib"),
        ('name = "tiny"', 'name = "tiny"\ninitiators = []', "initiators: expected 1"),
        ('name = "tiny"', 'name = "tiny', "expected TOML"),
        ("[[nodes]]", "[costs]\nsample_ns = -1\n[[nodes]]", "costs.sample_ns"),
        ("[[nodes]]", "[costs]\nfault_ns = nan\n[[nodes]]", "costs.fault_ns"),
    ],
)
def test_errors_name_file_and_field(
    tmp_path: Path, old: str, new: str, field: str
) -> None:
    """What makes no machine is refused with the file, the field and what was read."""
    path = tmp_path / "broken.toml"
    path.write_text(TWO_NODES.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_machine(str(path))
    assert caught.value.message.startswith(f"{path}: ")
    assert field in caught.value.message


def test_a_wide_tier_may_answer_later() -> None:
    """HBM above DRAM: more latency, more bandwidth; equal latencies are fine too."""
    later = TWO_NODES.replace("[250]", "[70]\nread_bandwidth_gb_s = 100")
    with pytest.raises(ConfigError, match="tiers from fast to slow"):
        parse_machine(later, "x")
    wide = later.replace("[80]", "[80]\nread_bandwidth_gb_s = 400")
    assert [80.0] == parse_machine(wide, "x").nodes[0].read_latency_ns
    assert parse_machine(TWO_NODES.replace("[250]", "[80]"), "x")


@pytest.mark.parametrize(
    ("pages", "ratio", "room"),
    [
        (100, 0.29, 29),
        (100, 0.57, 57),
        (1000, 1 / 3, 333),
        (10, 1.0, 10),
        (32768, 1 / 2, 16384),
        (32768, 1 / 5, 6553),
        (32768, 1 / 9, 3640),
    ],
)
def test_a_share_is_what_was_written(pages: int, ratio: float, room: int) -> None:
    """0.29 of 100 pages are 29, although 0.29 is a little less in binary."""
    assert room == load_machine("dram-cxl").capacities(pages, ratio)[0]


def test_too_many_nodes_and_too_few() -> None:
    """Two to eight nodes fit the simulator."""
    node = TWO_NODES.rpartition("[[nodes]]")[2]
    eight = TWO_NODES + 6 * ("[[nodes]]" + node)
    assert 8 == len(parse_machine(eight, "x").nodes)
    with pytest.raises(ConfigError, match="x: nodes: expected 2 to 8, got 9"):
        parse_machine(eight + "[[nodes]]" + node, "x")
    one = TWO_NODES.rpartition("[[nodes]]")[0]
    with pytest.raises(ConfigError, match="x: nodes: expected 2 to 8, got 1"):
        parse_machine(one, "x")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are a clear error."""
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes\.toml: expected TOML in UTF-8"):
        load_machine(str(path))


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_machine_or_a_clear_error(text: str) -> None:
    """No text makes the parser fail in another way."""
    try:
        parse_machine(TWO_NODES + text, "x")
    except IsothermError as error:
        assert error.message.startswith("x: ")  # noqa: PT017  # or no error at all


def test_a_misspelt_name() -> None:
    """The nearest name is suggested."""
    with pytest.raises(UsageError, match="did you mean 'dram-cxl'"):
        load_machine("dram-clx")


# ---- recorded trees


def make_tree(root: Path, latency: dict[int, int]) -> Path:
    """Return a two-node machine: CPUs on node 0, memory on both."""
    node = root / "sys/devices/system/node"
    for i in (0, 1):
        folder = node / f"node{i}"
        folder.mkdir(parents=True)
        (folder / "meminfo").write_text(f"Node {i} MemTotal:  {(i + 1) << 20} kB\n")
        (folder / "cpulist").write_text("0-3\n" if i == 0 else "\n")
        (folder / "distance").write_text("10 20\n" if i == 0 else "20 10\n")
        if i in latency:
            access = folder / "access0/initiators"
            access.mkdir(parents=True)
            (access / "read_latency").write_text(f"{latency[i]}\n")
            (access / "read_bandwidth").write_text("20000\n")
            (access / "node0").mkdir()
    for name, text in (
        ("online", "0-1"),
        ("possible", "0-1"),
        ("has_memory", "0-1"),
        ("has_cpu", "0"),
    ):
        (node / name).write_text(text + "\n")
    return root


def test_a_recorded_tree_with_latencies(tmp_path: Path) -> None:
    """Firmware latencies of two tiers make a machine, with the tree's sizes."""
    spec = load_machine(str(make_tree(tmp_path / "host", {0: 80, 1: 300})))
    assert [[80.0], [300.0]] == [n.read_latency_ns for n in spec.nodes]
    assert [0, 1] == [n.tier for n in spec.nodes]
    assert [20.97152] * 2 == [n.read_bandwidth_gb_s for n in spec.nodes]
    assert [1.0, 2.0] == [n.capacity_ratio for n in spec.nodes]
    assert [[0], []] == [n.initiators for n in spec.nodes]


def test_a_tree_without_latencies_names_the_file_that_helps(tmp_path: Path) -> None:
    """The error says what is missing; the file that its hint names makes it run."""
    root = make_tree(tmp_path / "host", {})
    with pytest.raises(UsageError, match="read latencies for at least two") as caught:
        load_machine(str(root))
    beside = tmp_path / "host.overrides.toml"
    assert caught.value.hint is not None
    assert str(beside) in caught.value.hint
    assert (Path(__file__).parents[2] / "docs/reference/topology.md").is_file()
    beside.write_text(
        '[[performance]]\ninitiator = "cpu0"\nnode = 0\nread_latency_ns = 90\n'
        '[[performance]]\ninitiator = "cpu0"\nnode = 1\nread_latency_ns = 400\n'
        "write_latency_ns = 500\n"
        "[[tier]]\nnodes = [0]\n[[tier]]\nnodes = [1]\n"
    )
    spec = load_machine(str(root))
    assert [[90.0], [400.0]] == [n.read_latency_ns for n in spec.nodes]
    assert [500.0] == spec.nodes[1].write_latency_ns


def test_broken_overrides_beside_a_tree(tmp_path: Path) -> None:
    """They are an error of that file, not ignored."""
    root = make_tree(tmp_path / "host", {})
    (tmp_path / "host.overrides.toml").write_text("nodes = 3\n")
    with pytest.raises(ConfigError, match=r"host\.overrides\.toml"):
        load_machine(str(root))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "fakeheteromemtiers",
        "nvidiagpunumanodes",
        "memorysidecaches",
        "32em64t-2n8c+dax+nvme+mic+dimms",
    ],
)
def test_recorded_machines_say_what_they_lack(shared_dir: Path, name: str) -> None:
    """Trees whose firmware gave no latencies are refused with a hint."""
    path = shared_dir / "topologies" / f"{name}.tar.bz2"
    if not path.is_file():
        pytest.skip(f"no recorded machine at {path}")
    with pytest.raises(UsageError, match="expected read latencies") as caught:
        load_machine(str(path))
    assert caught.value.hint is not None
    assert f"{path}.overrides.toml" in caught.value.hint


def test_a_machine_survives_toml() -> None:
    """What was parsed can be written down and parsed again."""
    spec = load_machine("dram-pmem")
    assert spec == msgspec.convert(msgspec.to_builtins(spec), MachineSpec)
