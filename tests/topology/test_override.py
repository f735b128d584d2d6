"""Overrides: a person's word wins, shows as configured, and is checked."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.errors import ConfigError
from isotherm.topology.model import (
    Figure,
    InitiatorKind,
    MemoryKind,
    Source,
    Topology,
)
from isotherm.topology.override import apply_overrides, read_overrides


@pytest.fixture
def override(tmp_path: Path):
    """Return what applies a file's text to a topology."""

    def apply(topology: Topology | None, text: str) -> Topology:
        path = tmp_path / "machine.toml"
        path.write_text(text)
        return apply_overrides(topology, read_overrides(path), path)

    return apply


def test_an_empty_file_changes_nothing(dram_cxl, override) -> None:
    """What a file leaves out stays as it was read."""
    topology = dram_cxl().read()
    assert topology == override(topology, "")


def test_a_figure_is_corrected_and_tiers_follow(dram_cxl, override) -> None:
    """One latency changes, the others stay, and the tier is derived again."""
    text = '[[performance]]\ninitiator = "cpu0"\nnode = 1\nread_latency_ns = 150\n'
    topology = override(dram_cxl().tier(4, "0").tier(46, "1").read(), text)
    row = topology.performance_of(0, 1)
    assert Figure(150, Source.CONFIGURED) == row.read_latency_ns
    assert Figure(250, Source.FIRMWARE) == row.write_latency_ns
    assert [(4, 576), (37, 4800)] == [(t.id, t.adistance) for t in topology.tiers]
    sources = [Source.FIRMWARE, Source.CONFIGURED]
    assert sources == [tier.source for tier in topology.tiers]
    assert "tiers derived again" in topology.notes[-1]


def test_tiers_are_set(dram_cxl, override) -> None:
    """Tiers of the file stand as written, fastest first."""
    topology = override(
        dram_cxl().tier(4, "0-1").read(), "[[tier]]\nnodes = [1]\n[[tier]]\nnodes = [0]"
    )
    assert [(1,), (0,)] == [tier.nodes for tier in topology.tiers]
    assert [Source.CONFIGURED] * 2 == [tier.source for tier in topology.tiers]


def test_tiers_take_the_kernels_number_from_an_adistance(dram_cxl, override) -> None:
    """An abstract distance in the file gives the tier's number."""
    text = "[[tier]]\nnodes = [0]\nadistance = 576\n[[tier]]\nnodes = [1]\n"
    tiers = override(dram_cxl().read(), text).tiers
    assert [(4, 576), (5, None)] == [(tier.id, tier.adistance) for tier in tiers]


def test_a_node_is_corrected(dram_cxl, override) -> None:
    """Kind, capacity, cache, CPUs and label; the kernel's tiers stay."""
    text = """
    [[node]]
    id = 1
    kind = "pmem"
    capacity = "32GiB"
    side_cache = 4096
    label = "slow"
    """
    base = dram_cxl().tier(4, "0").tier(46, "1").read()
    topology = override(base, text)
    node = topology.nodes[1]
    assert (MemoryKind.PMEM, Source.CONFIGURED) == (node.kind, node.kind_source)
    assert (32 << 30, Source.CONFIGURED) == (node.capacity_bytes, node.capacity_source)
    assert (4096, "slow") == (node.side_cache_bytes, node.label)
    assert base.tiers == topology.tiers


def test_a_gpu_becomes_an_initiator(dram_cxl, override) -> None:
    """A new initiator gets the next number, and may have figures at once."""
    text = """
    [[initiator]]
    name = "gpu0"
    kind = "gpu"
    [[performance]]
    initiator = "gpu0"
    node = 0
    read_latency_ns = 700
    """
    topology = override(dram_cxl().read(), text)
    gpu = topology.initiators[1]
    assert (1, InitiatorKind.GPU, None) == (gpu.id, gpu.kind, gpu.node)
    row = topology.performance_of(1, 0)
    assert Figure(700, Source.CONFIGURED) == row.read_latency_ns
    assert [4, 46] == [tier.id for tier in topology.tiers]


def test_an_initiator_is_corrected(dram_cxl, override) -> None:
    """A known name keeps its number."""
    topology = override(
        dram_cxl().read(), '[[initiator]]\nname = "cpu0"\nkind = "gpu"\nnode = 1'
    )
    first = topology.initiators[0]
    assert (0, InitiatorKind.GPU, 1) == (first.id, first.kind, first.node)


REPLACED = """
mode = "replace"
[[node]]
id = 0
kind = "dram"
capacity = "16GiB"
cpus = "0-3"
[[node]]
id = 1
kind = "cxl"
capacity = "64GiB"
[[performance]]
initiator = "cpu0"
node = 0
read_latency_ns = 80
read_bandwidth_mib_s = 102400
[[performance]]
initiator = "cpu0"
node = 1
read_latency_ns = 250
read_bandwidth_mib_s = 30720
"""


def test_a_whole_machine_in_a_file(override) -> None:
    """With mode = "replace" nothing is read; all is configured."""
    topology = override(None, REPLACED)
    assert [(4, 576, (0,)), (46, 6000, (1,))] == [
        (tier.id, tier.adistance, tier.nodes) for tier in topology.tiers
    ]
    assert {Source.CONFIGURED} == {tier.source for tier in topology.tiers}
    assert ["cpu0"] == [initiator.name for initiator in topology.initiators]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node = 3", "node: expected `array`, got `int`"),
        ("nod = 3", "top level: object contains unknown field `nod`"),
        ("[[node]]\nid = 0\nknd = 'x'", "node[0]: object contains unknown field `knd`"),
        ("[[node]]\nid = -1", "node[0].id: expected `int` >= 0"),
        ("[[node]]\nid = 9", "node[0].id: found node 9, expected one of 0-1"),
        ("[[node]]\nid = 0\n[[node]]\nid = 0", "node[1]: found again what node[0]"),
        (
            "[[node]]\nid = 0\nkind = 'ram'",
            "node[0].kind: got 'ram', expected one of dram, ",
        ),
        ("[[node]]\nid = 0\ncapacity = 'big'", "node[0].capacity: expected bytes or"),
        ("[[node]]\nid = 0\ncapacity = '999P'", "node[0].capacity: expected less than"),
        ("[[node]]\nid = 0\ncpus = '3-1'", "node[0].cpus: expected a list"),
        ("[[tier]]\nnodes = [0]", "tier: found nodes 0, expected each of 0-1 once"),
        ("[[tier]]\nnodes = [0, 1, 1]", "tier: found nodes"),
        (
            "[[tier]]\nnodes=[0]\nadistance=600\n[[tier]]\nnodes=[1]\nadistance=599",
            "tier[1].adistance: found 599, expected 640 or more",
        ),
        (
            "[[performance]]\ninitiator = 'gpu0'\nnode = 0",
            "performance[0].initiator: found 'gpu0', expected one of cpu0",
        ),
        (
            "[[performance]]\ninitiator = 'cpu0'\nnode = 7",
            "performance[0].node: found node 7",
        ),
        (
            "[[performance]]\ninitiator = 'cpu0'\nnode = 0\nread_latency_ns = 0",
            "performance[0].read_latency_ns: expected `float` > 0",
        ),
        (
            "[[performance]]\ninitiator = 'cpu0'\nnode = 0\nread_latency_ns = inf",
            "performance[0].read_latency_ns: expected a finite number",
        ),
        (
            "[[performance]]\ninitiator = 'cpu0'\nnode = 0\nread_latency_ns = 1e300",
            "performance[0].read_latency_ns: expected from 0.1 to 1e+09, got 1e+300",
        ),
        (
            "[[performance]]\ninitiator = 'cpu0'\nnode = 0\nread_latency_ns = 1e-300",
            "performance[0].read_latency_ns: expected from 0.1",
        ),
        (
            (
                "[[performance]]\ninitiator = 'cpu0'\nnode = 0\n"
                "read_bandwidth_mib_s = 1e30"
            ),
            "performance[0].read_bandwidth_mib_s: expected from 0.1 to 1e+09",
        ),
        ("[[node]]\nid = 1\ncpus = ''", "node[0].cpus: expected a list such as 0-3,8"),
        ("[[node]]\nid = 1\ncpus = '0'", "node[0].cpus: found 0, which node 0 has"),
        (
            (
                "mode = 'replace'\n"
                "[[node]]\nid = 0\nkind = 'dram'\ncapacity = 9\ncpus = '0-3'\n"
                "[[node]]\nid = 1\nkind = 'dram'\ncapacity = 9\ncpus = '2-5'\n"
            ),
            "node[0].cpus: found 2-3, which node 1 has",
        ),
        ("[[initiator]]\nname = 'npu0'", "initiator[0].kind: expected cpu or gpu"),
        (
            "[[initiator]]\nname = 'x'\nkind = 'gpu'\nnode = 5",
            "initiator[0].node: found node 5",
        ),
        ("mode = 'replace'", "node: expected at least one"),
        ("mode = 'replace'\n[[node]]\nid = 0", "node[0]: expected a kind"),
        (
            "mode = 'replace'\n[[node]]\nid = 0\nkind = 'dram'",
            "node[0]: expected a capacity",
        ),
        ("x = [", "expected TOML: "),
    ],
)
def test_a_wrong_file_is_told_with_its_field(
    dram_cxl, override, text: str, message: str
) -> None:
    """Each error names the file and the field, and what was expected."""
    with pytest.raises(ConfigError) as error:
        override(dram_cxl().read(), text)
    assert f"machine.toml: {message}" in error.value.message


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that cannot be read is a configuration error that names it."""
    with pytest.raises(ConfigError, match=r"gone\.toml: cannot be read"):
        read_overrides(tmp_path / "gone.toml")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A file that is not UTF-8 is no TOML."""
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(ConfigError, match="expected TOML"):
        read_overrides(path)


@given(
    st.floats(1, 1e4),
    st.floats(1, 1e6),
    st.sampled_from(["read", "write"]),
)
def test_any_positive_figure_keeps_each_node_in_one_tier(
    tmp_path_factory, dram_cxl, latency: float, bandwidth: float, side: str
) -> None:
    """Whatever a person writes, tiers hold every node once, fastest first."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(
        f'[[performance]]\ninitiator = "cpu0"\nnode = 1\n'
        f"{side}_latency_ns = {latency}\n{side}_bandwidth_mib_s = {bandwidth}\n"
    )
    topology = apply_overrides(dram_cxl().read(), read_overrides(path), path)
    assert [0, 1] == sorted(n for tier in topology.tiers for n in tier.nodes)
    numbers = [tier.id for tier in topology.tiers]
    assert numbers == sorted(set(numbers))
