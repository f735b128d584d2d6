"""What loads a node, and who stalls for it: all by small numbers."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.errors import ConfigError, UsageError
from isotherm.machine.sim.load import Load
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import MachineSpec, load_machine, parse_machine
from isotherm.trace.stream import AccessChunk, AccessStream, Background

DT_NS = 1_000_000_000
PAGES = 1 << 18  # 1 GiB
GB = 1e9

MACHINE = """
name = "small"
description = "two nodes of a machine of 1 GiB, 80 and 250 ns, 1 GB/s both"
reference_gib = 1
[[nodes]]
kind = "dram"
tier = 0
read_latency_ns = [80]
write_latency_ns = [100]
read_bandwidth_gb_s = 1
write_bandwidth_gb_s = 0.5
initiators = [0]
[[nodes]]
kind = "cxl"
tier = 1
read_latency_ns = [250]
read_bandwidth_gb_s = 1
"""


def spec_of(**changes: Any) -> MachineSpec:
    """Return the small machine, changed."""
    return msgspec.structs.replace(parse_machine(MACHINE, "small"), **changes)


def load_of(
    streams: tuple[AccessStream, ...] = (),
    background: tuple[Background, ...] = (),
    **changes: Any,
) -> Load:
    """Return its load at its own size: nothing is scaled."""
    return Load(spec_of(**changes), PAGES, streams, background)


def counts_of(*rows: tuple[int, int, int, int]) -> np.ndarray:
    """Return counts; a row is reads and writes of node 0, then of node 1."""
    out = np.zeros((len(rows), 2, 8), np.int64)
    for at, (read_fast, write_fast, read_slow, write_slow) in enumerate(rows):
        out[at, 0, :2] = read_fast, read_slow
        out[at, 1, :2] = write_fast, write_slow
    return out


NOTHING = np.zeros((2, 2))


# ---- background traffic


def test_background_loads_its_node_alone() -> None:
    """Half the read bandwidth taken by others: latency is 1.125 times the unloaded."""
    load = load_of(background=(Background(0, read_gb_s=0.5),))
    others = load.background_bytes(0, DT_NS)
    settled = load.settle(counts_of((0, 0, 0, 0)), NOTHING, others, DT_NS)
    assert [1.125, 1.0] == pytest.approx(settled.factor.tolist())


def test_reads_and_writes_of_others_have_their_own_room() -> None:
    """A write takes a larger share of a node that writes at half the speed."""
    load = load_of(background=(Background(0, read_gb_s=0.2, write_gb_s=0.15),))
    others = load.background_bytes(0, DT_NS)
    settled = load.settle(counts_of((0, 0, 0, 0)), NOTHING, others, DT_NS)
    rho = 0.2 / 1.0 + 0.15 / 0.5
    assert 1 + 0.25 * rho**2 / (1 - rho) == pytest.approx(settled.factor[0])


@pytest.mark.parametrize(
    ("start_s", "expected"), [(0, 0.0), (9, 0.0), (10, 1.0), (11, 0.5), (12, 0.0)]
)
def test_a_window_of_time(start_s: int, expected: float) -> None:
    """Traffic from 10 to 11.5 s: the epochs of a second get what falls into them."""
    load = load_of(background=(Background(1, read_gb_s=1, from_s=10, until_s=11.5),))
    found = load.background_bytes(start_s * DT_NS, DT_NS)
    assert [[0.0, expected * GB], [0.0, 0.0]] == found.tolist()


def test_background_is_to_scale() -> None:
    """On an eighth of the reference size both bandwidth and traffic are an eighth."""
    spec = spec_of(background=[Background(0, read_gb_s=0.5)])
    load = Load(spec, PAGES // 8)
    others = load.background_bytes(0, DT_NS)
    assert 0.5 * GB / 8 == pytest.approx(others[0, 0])
    settled = load.settle(counts_of((0, 0, 0, 0)), NOTHING, others, DT_NS)
    assert 1.125 == pytest.approx(settled.factor[0])


def test_the_machine_shows_what_others_do() -> None:
    """Policies see the loaded latency, and the application pays it."""
    machine = SimMachine(
        spec_of(), PAGES, 0.5, background=(Background(0, read_gb_s=0.5, from_s=1),)
    )
    chunk = AccessChunk(np.zeros(1, np.uint32))
    quiet = machine.advance(chunk, DT_NS)
    busy = machine.advance(chunk, DT_NS)
    assert 80.0 == pytest.approx(quiet.access_ns)
    assert 90.0 == pytest.approx(busy.access_ns)
    assert 90.0 == pytest.approx(float(machine.latency_ns()[0, 0]))


@pytest.mark.parametrize(
    ("node", "name", "words"),
    [(2, "small", "nodes 0 to 1"), (0, "dram-cxl", "no bandwidth")],
)
def test_traffic_that_loads_nothing_is_refused(
    node: int, name: str, words: str
) -> None:
    """A node that is not there, or one without a limit."""
    spec = spec_of() if name == "small" else load_machine(name)
    with pytest.raises(UsageError, match=words):
        Load(spec, PAGES, (), (Background(node, read_gb_s=1),))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[background]]\nnode = 5\n", "background\\[0\\].node: expected 0 to 1"),
        ("[[background]]\nnode = 0\nread_gb_s = -1\n", "read_gb_s: expected >= 0"),
        (
            "[[background]]\nnode = 0\nfrom_s = 2\nuntil_s = 1\n",
            "until_s: expected > 2",
        ),
        ("[[background]]\nnode = 0\nspeed = 1\n", "unknown field"),
        ("[[background]]\nread_gb_s = 1\n", "node"),
    ],
)
def test_a_machine_file_is_checked(text: str, words: str) -> None:
    """The message names the field and what was expected."""
    with pytest.raises(ConfigError, match=words):
        parse_machine(MACHINE + text, "m.toml")


# ---- streams


def test_a_stream_stalls_for_its_misses_over_those_in_flight() -> None:
    """1000 loads, an eighth of them misses, seven in flight; and a chase."""
    streams = (AccessStream("sweep", 7.0, 1 / 8), AccessStream("chase", 1.0))
    load = load_of(streams)
    counts = counts_of((1000, 0, 0, 0), (0, 0, 100, 0))
    settled = load.settle(counts, NOTHING, NOTHING, DT_NS)
    factor = settled.factor
    sweep, chase = 1000 / 8 * 80 / 7 * factor[0], 100 * 250 * factor[1]
    assert sweep + chase == pytest.approx(settled.access_ns)
    assert [sweep, chase] == pytest.approx(load.tally.access_ns.tolist())
    latency = 125 * 80 * factor[0] + 100 * 250 * factor[1]
    assert 1100 / (1000 / 56 + 100) == pytest.approx(load.met_parallelism)
    assert latency / 225 == pytest.approx(load.mean_latency_ns)


def test_hits_take_no_bandwidth() -> None:
    """What hits a line that is there loads no node."""
    streams = (AccessStream("sweep", 7.0, 1 / 8),)
    lines = int(0.5 * GB / 64)
    settled = load_of(streams).settle(
        counts_of((8 * lines, 0, 0, 0)), NOTHING, NOTHING, DT_NS
    )
    assert 1.125 == pytest.approx(settled.factor[0], rel=1e-6)


@given(st.floats(1, 64), st.floats(1, 64))
def test_an_initiator_has_so_many_misses_in_flight(wanted: float, most: float) -> None:
    """A stream has what it wants, up to what its initiator can."""
    load = load_of((AccessStream("a", wanted),), misses_in_flight=[most])
    assert [min(wanted, most)] == load.parallelism.tolist()


def test_a_stream_that_says_nothing_is_its_initiators() -> None:
    """A CPU with 4 misses in flight, a GPU with 64."""
    spec = load_machine("two-socket-cxl")
    spec = msgspec.structs.replace(spec, initiator_parallelism=[4.0, 64.0])
    streams = (AccessStream("cpu"), AccessStream("gpu", initiator=1))
    assert [4.0, 64.0] == Load(spec, PAGES, streams).parallelism.tolist()
    assert [4.0, 64.0] == Load(spec, PAGES).parallelism.tolist()


def test_the_reference_model_knows_no_parallelism() -> None:
    """On dram-cxl every access waits for its latency in full, hit or miss."""
    streams = (AccessStream("sweep", 7.0, 1 / 8), AccessStream("chase", 1.0))
    load = Load(load_machine("dram-cxl"), PAGES, streams)
    assert () == load.streams
    settled = load.settle(counts_of((10, 0, 5, 0)), NOTHING, NOTHING, DT_NS)
    assert 10 * 80 + 5 * 250 == pytest.approx(settled.access_ns)


def test_a_stream_has_the_latency_of_its_initiator() -> None:
    """The same node is 80 ns from one socket and 140 ns from the other."""
    spec = load_machine("two-socket-cxl")
    streams = (AccessStream("near"), AccessStream("far", initiator=1))
    load = Load(spec, PAGES, streams)
    counts = counts_of((10, 0, 0, 0), (10, 0, 0, 0))
    moved = np.zeros((2, 3))
    settled = load.settle(counts, moved, moved, DT_NS)
    assert [800.0, 1400.0] == pytest.approx(load.tally.access_ns.tolist(), rel=1e-3)
    assert [10, 10] == settled.accesses[:, 0, 0].tolist()


def test_an_initiator_that_is_not_there() -> None:
    """The message names the stream and how many there are."""
    with pytest.raises(UsageError, match=r"stream 'x'.*initiators 0 to 0, got 3"):
        load_of((AccessStream("x", initiator=3),))


def test_streams_that_are_alike_cost_what_one_costs() -> None:
    """Telling streams apart changes nothing where they stall alike."""
    one, two = load_of(), load_of((AccessStream("a"), AccessStream("b")))
    whole = one.settle(counts_of((7, 3, 5, 2)), NOTHING, NOTHING, DT_NS)
    parts = two.settle(counts_of((4, 1, 3, 0), (3, 2, 2, 2)), NOTHING, NOTHING, DT_NS)
    assert whole.access_ns == parts.access_ns
    assert whole.all_fast_ns == parts.all_fast_ns
    assert whole.access_ns == pytest.approx(float(two.tally.access_ns.sum()))


def test_the_report_adds_up() -> None:
    """Slowdowns weighed by all-fast time are the whole's; streams of one merge."""
    streams = (
        AccessStream("a.x", 4.0, workload="a"),
        AccessStream("a.y", 1.0, workload="a"),
        AccessStream("b", 2.0, workload="b"),
    )
    load = load_of(streams)
    counts = counts_of((70, 3, 50, 0), (9, 0, 9, 0), (10, 5, 100, 7))
    settled = load.settle(counts, NOTHING, NOTHING, DT_NS)
    overhead = 1000.0
    for rows in (load.report(overhead), load.report(overhead, "w")):
        total = sum(r["slowdown"] * r["all_fast_ns"] for r in rows)
        assert settled.access_ns + overhead == pytest.approx(total)
    assert ["a", "b"] == [r["name"] for r in load.report(overhead, "w")]
    assert [141, 122] == [r["accesses"] for r in load.report(overhead, "w")]


# ---- the closed loop


@settings(max_examples=50)
@given(
    fast=st.integers(1, 10**7),
    slow=st.integers(0, 10**7),
    threads=st.floats(0.5, 50),
    others=st.floats(0, 1.5),
)
def test_threads_are_busy_all_the_time(
    fast: int, slow: int, threads: float, others: float
) -> None:
    """Load follows from the time that the accesses take, and that from the load."""
    load = load_of(
        threads=threads, background=(Background(0, read_gb_s=others),), parallelism=4
    )
    traffic = load.background_bytes(0, DT_NS)
    settled = load.settle(counts_of((fast, 0, slow, 0)), NOTHING, traffic, DT_NS)
    took_ns = settled.access_ns / threads
    demand = np.array([[fast, slow], [0, 0]]) * 64.0 * DT_NS / took_ns
    expected = load_of().settle(
        counts_of((0, 0, 0, 0)), NOTHING, demand + traffic, DT_NS
    )
    assert expected.factor.tolist() == pytest.approx(settled.factor.tolist(), rel=1e-3)


def test_a_closed_loop_never_asks_for_more_than_there_is() -> None:
    """Ten times the bandwidth is asked of an open loop; threads wait instead."""
    counts = counts_of((0, 0, int(10 * GB / 64), 0))
    open_loop = load_of().settle(counts, NOTHING, NOTHING, DT_NS)
    closed = load_of(threads=2).settle(counts, NOTHING, NOTHING, DT_NS)
    assert 12 < open_loop.factor[1]
    assert 1 < closed.factor[1] < 1.3


@pytest.mark.parametrize("lines", [0.1, 1.0, 4.0, 200.0])
def test_neighbours_that_wait_move_their_lines_once_a_latency(lines: float) -> None:
    """Little's law holds for what they meet, and the other node is not loaded."""
    load = load_of(background=(Background(0, in_flight=lines, written_back=1),))
    others = load.background_bytes(0, DT_NS)
    settled = load.settle(counts_of((0, 0, 0, 0)), NOTHING, others, DT_NS)
    met_ns = 80 * settled.factor[0]
    moved = np.array([[lines * 64 * DT_NS / met_ns, 0.0]] * 2)
    expected = load_of().settle(counts_of((0, 0, 0, 0)), NOTHING, moved, DT_NS)
    assert expected.factor.tolist() == pytest.approx(settled.factor.tolist(), rel=1e-3)
    assert 1.0 == settled.factor[1]


def test_neighbours_that_wait_make_room_and_take_it_up() -> None:
    """Loaded by others, too, a node gives them less than when they are alone."""
    waiting = Background(0, in_flight=1, written_back=1)
    alone = load_of(background=(waiting,))
    none = counts_of((0, 0, 0, 0))
    alone_ns = alone.settle(none, NOTHING, alone.background_bytes(0, DT_NS), DT_NS)
    crowd = load_of(background=(waiting, Background(0, read_gb_s=0.3)))
    both_ns = crowd.settle(none, NOTHING, crowd.background_bytes(0, DT_NS), DT_NS)
    assert 1 < alone_ns.factor[0] < both_ns.factor[0]
