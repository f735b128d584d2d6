"""The simulated machine: time, costs, capacity, trouble, all by small numbers."""

import dataclasses
import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.core.kernels import TWINS
from isotherm.machine.sim import play
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import load_machine
from isotherm.machine.sim.trouble import Faults
from isotherm.trace.stream import AccessChunk

DT_NS = 500_000_000
EBUSY, ENOMEM, ENOENT, EFAULT, ENODEV = 16, 12, 2, 14, 19


def machine_of(
    pages: int = 100,
    ratio: float = 0.2,
    name: str = "dram-cxl",
    faults: Faults | None = None,
    **changes: object,
) -> SimMachine:
    """Return a machine with its first pages in the fast tier, filled up."""
    spec = msgspec.structs.replace(load_machine(name), **changes)
    machine = SimMachine(spec, pages, ratio, faults=faults)
    fast = int(machine.capacity[0])
    node = np.full(pages, len(spec.nodes) - 1, np.uint8)
    node[:fast] = 0
    machine.place(node)
    return machine


def chunk_of(*pages: int, **columns: list[int]) -> AccessChunk:
    """Return accesses to these pages, with columns."""
    dtypes = {"write": np.uint8, "initiator": np.uint8, "time_ns": np.int64}
    rest = {name: np.array(c, dtypes[name]) for name, c in columns.items()}
    return AccessChunk(np.array(pages, np.uint32), **rest)


def uint(*values: int) -> np.ndarray:
    """Return pages."""
    return np.array(values, np.uint32)


def nodes(*values: int) -> np.ndarray:
    """Return nodes."""
    return np.array(values, np.uint8)


# ---- time


@pytest.mark.parametrize("dt_ns", [1, 23, DT_NS, 4099])
def test_an_epoch_advances_the_clock_by_its_length(dt_ns: int) -> None:
    """Exactly, whatever happens in it."""
    machine = machine_of()
    for epoch in range(1, 4):
        for offset in (0, dt_ns // 2, dt_ns):
            machine.at(offset, lambda _: None)
        machine.advance(chunk_of(0, 99, 5), dt_ns)
        assert epoch * dt_ns == machine.clock.now_ns()


def test_actions_run_at_their_offset() -> None:
    """Between the accesses before and after it, with the right time, in order."""
    machine = machine_of()
    machine.bits_wanted = play.ACCESSED
    machine.advance(chunk_of(), DT_NS)
    seen = []

    def look(now_ns: int) -> None:
        touched = np.flatnonzero(machine.flags & play.ACCESSED).tolist()
        seen.append((now_ns - DT_NS, machine.clock.now_ns() - DT_NS, touched))

    machine.at(DT_NS, look)
    machine.at(DT_NS // 2, look)
    machine.at(0, look)
    machine.advance(chunk_of(1, 2, 3, 4), DT_NS)
    half = DT_NS // 2
    expected = [(0, 0, []), (half, half, [1, 2]), (DT_NS, DT_NS, [1, 2, 3, 4])]
    assert expected == seen
    machine.advance(chunk_of(5), DT_NS)
    assert 3 == len(seen)


def test_a_timed_chunk_places_actions_by_its_own_times() -> None:
    """Accesses before the action's time are played before it, the rest after."""
    machine = machine_of()
    machine.bits_wanted = play.ACCESSED
    machine.advance(chunk_of(), DT_NS)
    seen = []
    machine.at(
        DT_NS // 2,
        lambda _: seen.append(np.flatnonzero(machine.flags & play.ACCESSED).tolist()),
    )
    time_ns = [DT_NS, DT_NS + 1, DT_NS + DT_NS // 2, 2 * DT_NS - 1]
    machine.advance(chunk_of(1, 2, 3, 4, time_ns=time_ns), DT_NS)
    assert [[1, 2]] == seen


def test_actions_of_one_offset_keep_their_order() -> None:
    """First asked, first done."""
    machine = machine_of()
    seen: list[int] = []
    for i in range(5):
        machine.at(23, lambda _, i=i: seen.append(i))
    machine.advance(chunk_of(), DT_NS)
    assert [0, 1, 2, 3, 4] == seen


def test_an_idle_epoch() -> None:
    """Time passes, nothing is charged, the rate is 0."""
    machine = machine_of()
    assert machine.access_rate() is None
    costs = machine.advance(chunk_of(), DT_NS)
    assert (0.0, 0.0) == (costs.access_ns, costs.all_fast_ns)
    assert 0.0 == machine.access_rate()


# ---- costs


def test_accesses_cost_their_node_s_latency() -> None:
    """Three fast, two slow: 3 x 80 + 2 x 250 ns; all fast 5 x 80."""
    machine = machine_of()
    costs = machine.advance(chunk_of(0, 1, 19, 20, 99), DT_NS)
    assert 740.0 == costs.access_ns == machine.bill.access_ns
    assert 400.0 == costs.all_fast_ns == machine.bill.all_fast_ns
    assert (5, 3) == (machine.bill.accesses, machine.bill.fast_accesses)
    assert [3, 2] == costs.accesses.sum((0, 1))[:2].tolist()
    assert 5 / 100 / 0.5 == machine.access_rate()


def test_parallelism_divides_latency() -> None:
    """Four accesses that wait together cost a quarter each."""
    machine = machine_of(parallelism=4.0)
    assert 185.0 == machine.advance(chunk_of(0, 1, 19, 20, 99), DT_NS).access_ns


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["dram-cxl", "dram-pmem", "two-socket-cxl", "hbm-dram-cxl"]),
    st.lists(st.tuples(st.integers(0, 99), st.booleans(), st.integers(0, 2))),
    st.booleans(),
    st.booleans(),
)
def test_no_access_is_lost(
    name: str, accesses: list[tuple[int, bool, int]], writes: bool, named: bool
) -> None:
    """Counts over initiators, writes and nodes add up, on every path of the code."""
    machine = machine_of(name=name)
    column = np.array(accesses, np.int64).reshape(-1, 3)
    chunk = AccessChunk(
        column[:, 0].astype(np.uint32),
        column[:, 1].astype(np.uint8) if writes else None,
        column[:, 2].astype(np.uint8) if named else None,
    )
    costs = machine.advance(chunk, DT_NS)
    assert len(accesses) == costs.accesses.sum() == machine.bill.accesses
    node = machine.placement()[chunk.page]
    expected = np.bincount(node, minlength=play.MAX_NODES)
    assert expected.tolist() == costs.accesses.sum((0, 1)).tolist()


def test_who_asks_decides_the_latency() -> None:
    """On two sockets the other one's memory takes 140 ns, one's own 80."""
    machine = machine_of(10, 1.0, "two-socket-cxl", reference_gib=1e-3)
    machine.place(np.zeros(10, np.uint8))
    costs = machine.advance(chunk_of(1, 2, 3, initiator=[0, 1, 255]), 10**15)
    assert 80 + 140 + 80 == pytest.approx(costs.access_ns)
    assert 3 * 80 == pytest.approx(costs.all_fast_ns)


def test_writes_cost_their_own_latency() -> None:
    """A node with a write latency charges it for writes."""
    spec = load_machine("dram-cxl")
    slow = msgspec.structs.replace(spec.nodes[1], write_latency_ns=[900.0])
    machine = machine_of(nodes=[spec.nodes[0], slow])
    costs = machine.advance(chunk_of(0, 99, 99, write=[1, 0, 1]), DT_NS)
    assert 80 + 250 + 900 == costs.access_ns


@pytest.mark.parametrize("name", ["dram-cxl", "dram-cxl-fast", "gpu-host"])
def test_all_fast_costs_what_all_fast_costs(name: str) -> None:
    """With every page in the fast tier both bills are the same to the bit."""
    machine = machine_of(4099, 1.0, name)
    page = np.random.default_rng(1).integers(0, 4099, 50_000).astype(np.uint32)
    for _ in range(3):
        machine.advance(AccessChunk(page), 1_000_000)
    assert machine.bill.all_fast_ns == machine.bill.access_ns


def test_looking_and_moving_are_billed_apart() -> None:
    """Application, background and migration each have their own figure."""
    machine = machine_of()
    machine.charge(10.0, 20.0)
    machine.charge(1.0, 2.0)
    machine.move(uint(0, 1, 2), nodes(1, 1, 1))
    bill = machine.bill
    assert (11.0, 22.0, 7500.0) == (
        bill.application_ns,
        bill.background_ns,
        bill.migration_ns,
    )
    assert 0.0 == bill.access_ns


def test_a_move_costs_fixed_page_and_bytes() -> None:
    """Fixed once a call, the rest for every page that moved."""
    machine = machine_of(name="dram-cxl-fast")
    result = machine.move(uint(0, 1, 99), nodes(1, 1, 1))
    assert [0, 0, 0] == result.errno.tolist()
    assert 5000 + 2 * (700 + 0.1 * 4096) == pytest.approx(result.cost_ns)
    assert 0.0 == machine.move(uint(), nodes()).cost_ns


def test_a_page_that_cannot_move_costs_half() -> None:
    """Busy, pinned, no room: half of 700 ns each; a page that is gone costs none."""
    busy = machine_of(name="dram-cxl-fast", faults=Faults(busy=1.0))
    assert 5000 + 2 * 350 == busy.move(uint(0, 1), nodes(1, 1)).cost_ns
    pinned = machine_of(name="dram-cxl-fast", faults=Faults(pinned=1.0))
    assert 5000 + 350 == pinned.move(uint(0), nodes(1)).cost_ns
    full = machine_of(name="dram-cxl-fast")
    assert 5000 + 350 == full.move(uint(99), nodes(0)).cost_ns
    assert 5000 + 350 == full.bill.migration_ns
    gone = machine_of(name="dram-cxl-fast", faults=Faults(vanished=1.0))
    assert 5000 == gone.move(uint(0, 1), nodes(1, 1)).cost_ns


def test_expected_cost_is_that_of_a_large_batch() -> None:
    """Staying costs nothing; the fixed part is left to the cost model."""
    one = 700 + 0.1 * 4096
    expected = [[0.0, one], [one, 0.0]]
    assert expected == machine_of(name="dram-cxl-fast").move_cost_ns().tolist()


# ---- bandwidth


def loaded(machine: SimMachine, accesses: int, page: int, dt_ns: int) -> list[float]:
    """Return loaded over unloaded latency per node after one epoch."""
    machine.advance(AccessChunk(np.full(accesses, page, np.uint32)), dt_ns)
    return (machine.latency_ns() / machine.read_ns)[0].tolist()


def test_latency_rises_on_the_node_that_is_busy() -> None:
    """At half of a node's bandwidth its latency is 1.125 times; the other's is 1."""
    pages = 1 << 16  # a quarter GiB of a 256 GiB machine: 26/1024 GB/s
    machine = machine_of(pages, 0.2, "dram-cxl-fast")
    room_bytes = 26 * pages * 4096 / (256 << 30) * DT_NS
    accesses = round(room_bytes / 64 / 2)
    fast, slow = loaded(machine, accesses, pages - 1, DT_NS)
    assert 1.0 == fast
    assert 1.125 == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("pages", [1000, 4000])
def test_bandwidth_scales_with_the_footprint(pages: int) -> None:
    """The same rate loads a small model of a machine as much as a large one."""
    machine = machine_of(pages, 0.2, "dram-cxl-fast")
    _, slow = loaded(machine, 100 * pages, pages - 1, DT_NS)
    machine = machine_of(2 * pages, 0.2, "dram-cxl-fast")
    _, twice = loaded(machine, 200 * pages, 2 * pages - 1, DT_NS)
    assert 1 < slow == pytest.approx(twice)


def test_migration_takes_bandwidth_once() -> None:
    """Moved bytes load both nodes in the epoch in which they move, not after."""
    machine = machine_of(1000, 0.2, "dram-cxl-fast")
    machine.move(np.arange(10, dtype=np.uint32), np.ones(10, np.uint8))
    fast, slow = loaded(machine, 0, 0, DT_NS)
    assert 1 < fast < slow
    assert [1.0, 1.0] == loaded(machine, 0, 0, DT_NS)


def test_an_overloaded_node_stays_finite() -> None:
    """An open loop may ask for more than there is: 12 times, no more."""
    machine = machine_of(100, 0.2, "dram-cxl-fast")
    assert 12.13 == pytest.approx(loaded(machine, 10_000, 99, 1000)[1], rel=1e-3)


# ---- places


@pytest.mark.parametrize("pages", [23, 4099])
def test_placement_and_usage_agree(pages: int) -> None:
    """Every page is on one node, and usage counts it there."""
    machine = machine_of(pages)
    fast = int(pages * 0.2)
    assert [fast, pages - fast] == machine.usage().used_pages.tolist()
    assert pages == len(machine.placement())
    counted = np.bincount(machine.placement(), minlength=2)
    assert counted.tolist() == machine.usage().used_pages.tolist()
    assert [0, fast] == machine.usage().free_pages.tolist()


def test_watermarks_rise() -> None:
    """The marks are min < low < high < promo, a thousandth of the node apart."""
    usage = machine_of(50_000).usage()
    assert [10, 50] == usage.min_pages.tolist()
    assert [20, 100] == usage.low_pages.tolist()
    assert [30, 150] == usage.high_pages.tolist()
    assert [40, 200] == usage.promo_pages.tolist()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["dram-cxl", "hbm-dram-cxl", "two-socket-cxl"]),
    st.lists(
        st.lists(st.tuples(st.integers(0, 29), st.integers(0, 2)), max_size=30),
        max_size=6,
    ),
    st.integers(0, 5),
)
def test_no_node_holds_more_than_it_can(
    name: str, calls: list[list[tuple[int, int]]], seed: int
) -> None:
    """After any moves and with any trouble, capacity holds and no page is lost."""
    spec = load_machine(name)
    trouble = Faults(busy=0.1, no_memory=0.1, vanished=0.05, pinned=0.05)
    machine = SimMachine(spec, 30, 0.2, seed, faults=trouble)
    machine.place(np.full(30, len(spec.nodes) - 1, np.uint8))
    for call in calls:
        before = machine.placement().copy()
        page, node = uint(*(p for p, _ in call)), nodes(*(n for _, n in call))
        errno = machine.move(page, node).errno
        usage, after = machine.usage(), machine.placement()
        assert (usage.used_pages <= usage.capacity_pages).all()
        counted = np.bincount(after, minlength=len(spec.nodes))
        assert counted.tolist() == usage.used_pages.tolist()
        told = set(page[errno == 0].tolist())
        assert set(np.flatnonzero(before != after).tolist()) <= told


def test_a_full_node_answers_enomem() -> None:
    """Until a page leaves it."""
    machine = machine_of()
    assert [ENOMEM] == machine.move(uint(99), nodes(0)).errno.tolist()
    assert [0, 0] == machine.move(uint(0, 99), nodes(1, 0)).errno.tolist()
    assert [1, 0] == machine.placement()[[0, 99]].tolist()


def test_a_page_that_is_there_already_is_no_error() -> None:
    """It counts as done, costs nothing and needs no room."""
    machine = machine_of()
    result = machine.move(uint(0), nodes(0))
    assert ([0], 0.0) == (result.errno.tolist(), result.cost_ns)


def test_pages_and_nodes_that_are_not_there() -> None:
    """As move_pages(2): EFAULT, ENODEV; the others of the batch still move."""
    machine = machine_of()
    errno = machine.move(uint(100, 1, 2, 1 << 31), nodes(1, 7, 1, 0)).errno
    assert [EFAULT, ENODEV, 0, EFAULT] == errno.tolist()
    assert 1 == machine.placement()[2]


def test_what_failed_beforehand_is_not_looked_at() -> None:
    """Kernel and twin leave alone a page or node that is not there."""
    pair = (play.place, play.place_twin)
    for function in TWINS.get("isotherm.machine.sim.play.place", pair):
        flags, used = np.zeros(8, np.uint8), np.array([8, 0])
        errno = np.array([EFAULT, ENODEV, 0], np.int16)
        moved = np.zeros((2, 2), np.int64)
        page, node = uint(1 << 31, 0, 3), nodes(1, 200, 1)
        function(flags, page, node, used, np.array([8, 8]), moved, errno)
        assert [EFAULT, ENODEV, 0] == errno.tolist()
        assert ([7, 1], 1) == (used.tolist(), int(flags[3]))


# ---- trouble


def test_injected_trouble() -> None:
    """Each kind comes at its share, by its errno; a refused page stays."""
    pages = 4099
    trouble = Faults(busy=0.2, no_memory=0.1, vanished=0.3, pinned=0.05)
    machine = SimMachine(load_machine("dram-cxl"), pages, 1.0, 3, faults=trouble)
    machine.place(np.ones(pages, np.uint8))
    page = np.arange(pages, dtype=np.uint32)
    errno = machine.move(page, np.zeros(pages, np.uint8)).errno
    share = {e: float((errno == e).mean()) for e in (0, EBUSY, ENOMEM, ENOENT)}
    assert 1.0 == pytest.approx(sum(share.values()))
    assert 0.3 == pytest.approx(share[ENOENT], abs=0.03)
    assert 0.7 * 0.2 + 0.7 * 0.05 == pytest.approx(share[EBUSY], abs=0.03)
    assert 0.7 * 0.1 == pytest.approx(share[ENOMEM], abs=0.03)
    assert ((machine.placement() == 0) == (errno == 0)).all()


def test_busy_passes_and_gone_stays() -> None:
    """EBUSY of chance moves later; vanished and pinned pages never do."""
    trouble = Faults(busy=0.5, vanished=0.1, pinned=0.1)
    machine = SimMachine(load_machine("dram-cxl"), 1000, 1.0, 1, faults=trouble)
    machine.place(np.ones(1000, np.uint8))
    page = np.arange(1000, dtype=np.uint32)
    for _ in range(40):
        errno = machine.move(page, np.zeros(1000, np.uint8)).errno
    stuck = int((machine.placement() == 1).sum())
    assert 200 == pytest.approx(stuck, abs=40)
    assert {ENOENT, EBUSY, 0} == set(errno.tolist())


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"busy": 1.5}, "faults.busy: expected 0 to 1"),
        ({"pinned": -0.1}, "faults.pinned"),
        ({"vanished": float("nan")}, "faults.vanished"),
        ({"busy": 0.6, "no_memory": 0.6}, "busy and no_memory"),
    ],
)
def test_shares_out_of_range(shares: dict[str, float], words: str) -> None:
    """Trouble that is no share is refused."""
    with pytest.raises(UsageError, match=words):
        Faults(**shares)


def test_the_same_seed_gives_the_same_trouble() -> None:
    """Two machines of one seed refuse the same pages, two seeds do not."""
    page = np.arange(500, dtype=np.uint32)
    errnos = []
    for seed in (1, 1, 2):
        machine = SimMachine(
            load_machine("dram-cxl"), 500, 1.0, seed, faults=Faults(busy=0.5)
        )
        machine.place(np.ones(500, np.uint8))
        errnos.append(machine.move(page, np.zeros(500, np.uint8)).errno.tolist())
    assert errnos[0] == errnos[1] != errnos[2]


# ---- demand fill


def test_demand_fill_charges_what_it_moves() -> None:
    """A miss is served slowly and brings the page in; an eviction is a move too."""
    machine = machine_of(10, 0.2)
    machine.fill_on_demand()
    costs = machine.advance(chunk_of(7, 8, 7, 9), DT_NS)
    assert [1, 3] == costs.accesses.sum((0, 1))[:2].tolist()
    assert 80 + 3 * 250 == costs.access_ns
    assert 4 * 2500.0 == machine.bill.migration_ns  # three in, one out
    cache = machine.demand_fill
    assert cache is not None
    assert (3, 1) == (cache.promoted, cache.evicted)
    assert [7, 9] == np.flatnonzero(machine.placement() == 0).tolist()
    assert [2, 8] == machine.usage().used_pages.tolist()


def test_a_miss_is_a_call_of_its_own() -> None:
    """Three in, one out, three calls: each page and each call is charged."""
    machine = machine_of(10, 0.2, "dram-cxl-fast")
    machine.fill_on_demand()
    machine.advance(chunk_of(7, 8, 7, 9), DT_NS)
    one = 700 + 0.1 * 4096
    assert 4 * one + 3 * 5000 == pytest.approx(machine.bill.migration_ns)


def test_demand_fill_tells_writes_and_initiators_apart() -> None:
    """A hit is the fast node's, a miss the slow one's, each by who and how."""
    spec = load_machine("dram-cxl")
    both = [
        msgspec.structs.replace(n, read_latency_ns=[r, 2 * r], write_latency_ns=[w, w])
        for n, r, w in zip(spec.nodes, (80.0, 250.0), (90.0, 900.0), strict=True)
    ]
    machine = machine_of(10, 0.2, nodes=both, initiators=[*spec.initiators] * 2)
    machine.fill_on_demand()
    chunk = chunk_of(7, 8, 7, 7, write=[1, 0, 1, 0], initiator=[0, 1, 0, 255])
    costs = machine.advance(chunk, DT_NS)
    assert [[1, 0], [1, 1]] == costs.accesses[0, :, :2].tolist()
    assert [[0, 1], [0, 0]] == costs.accesses[1, :, :2].tolist()
    assert 900 + 500 + 90 + 80 == costs.access_ns


def test_a_fast_tier_of_several_nodes_is_not_filled_on_demand() -> None:
    """The machine is named."""
    with pytest.raises(UnsupportedError, match="two-socket-cxl"):
        machine_of(name="two-socket-cxl").fill_on_demand()


def test_columns_of_costs_are_plain_numbers() -> None:
    """A bill can be written to JSON as it is."""
    machine = machine_of()
    machine.advance(chunk_of(0, 99), DT_NS)
    machine.move(uint(0), nodes(1))
    bill = dataclasses.asdict(machine.bill)
    assert bill == msgspec.json.decode(msgspec.json.encode(bill))


def test_the_node_column_survives_every_flag() -> None:
    """Moving a page keeps its bits, accessing it keeps its node."""
    machine = machine_of(8, 1.0)
    for bits, node in itertools.product((0, play.ACCESSED | play.POISONED), (0, 1)):
        machine.place(np.zeros(8, np.uint8))
        machine.flags[:] |= np.uint8(bits)
        machine.move(uint(3), nodes(node))
        assert bits | node == machine.flags[3]
        assert node == machine.placement()[3]
        machine.flags[:] = 0
