"""Huge pages of the simulated machine: walks, whole moves, sizes, the one bit."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from isotherm.core.errors import ConfigError, UnsupportedError
from isotherm.machine.sim import huge_kernels, play
from isotherm.machine.sim.huge_machine import HugeSimMachine
from isotherm.machine.sim.huge_spec import HUGE_MOVE_SHARE, HugeSpec
from isotherm.machine.sim.mechanisms import SimPageTable
from isotherm.machine.sim.spec import MachineSpec, load_machine, parse_machine
from isotherm.machine.sim.trouble import Faults
from isotherm.trace.stream import AccessChunk

PAGES = 4 * 512 + 100
FAST, SLOW = 0, 1
EBUSY, ENOMEM, EINVAL = 16, 12, 22


def spec(**huge: float) -> MachineSpec:
    """Return the reference machine with other huge pages, as large as the model."""
    gib = PAGES * 4096 / (1 << 30)
    return msgspec.structs.replace(
        load_machine("dram-cxl"), huge_pages=HugeSpec(**huge), reference_gib=gib
    )


def machine(
    fast_ratio: float = 0.5, faults: Faults | None = None, **huge: float
) -> HugeSimMachine:
    """Return a machine with all pages in slow memory, all ranges huge."""
    made = HugeSimMachine(spec(**huge), PAGES, fast_ratio, faults=faults)
    made.place(np.full(PAGES, SLOW, np.uint8))
    made.begin_huge(1.0)
    return made


def move(on: HugeSimMachine, page: list[int], node: int) -> list[int]:
    """Move pages to a node; return errnos."""
    pages = np.array(page, np.uint32)
    return on.move(pages, np.full(len(pages), node, np.uint8)).errno.tolist()


def resize(on: HugeSimMachine, page: list[int], *, huge: bool) -> list[int]:
    """Change the size of ranges; return errnos."""
    pages = np.array(page, np.uint32)
    return on.resize(pages, np.full(len(pages), huge)).errno.tolist()


def chunk(page: list[int]) -> AccessChunk:
    """Return accesses to pages."""
    return AccessChunk(np.array(page, np.uint32))


@pytest.mark.parametrize("ways", [1, 3])
@pytest.mark.parametrize("sets", [1, 8])
def test_look_up_equals_its_twin(ways: int, sets: int) -> None:
    """Same misses, same translations kept."""
    rng = np.random.default_rng(3)
    page = (rng.zipf(1.3, 3000) % PAGES).astype(np.uint32)
    huge = np.array([True, False, True, False])
    kept = []
    for run in (huge_kernels.look_up, huge_kernels.look_up_twin):
        tlb, missed = np.zeros((sets, ways), np.uint32), np.zeros(2, np.int64)
        run(page, huge, tlb, missed)
        kept.append((tlb.tolist(), missed.tolist()))
    assert kept[0] == kept[1]


def test_placing_equals_its_twin() -> None:
    """Same pages, errnos, counts and room, with pinned pages and a full node."""
    rng = np.random.default_rng(4)
    start = rng.integers(0, 2, PAGES).astype(np.uint8)
    start[:1024] = SLOW
    start[rng.random(PAGES) < 0.001] |= play.UNMOVABLE
    huge = np.array([True, True, False, False])
    page = rng.integers(0, PAGES, 900).astype(np.uint32)
    node = rng.integers(0, 2, 900).astype(np.uint8)
    results = []
    for run in (huge_kernels.place, huge_kernels.place_twin):
        flags = start.copy()
        used = np.bincount(flags & play.NODE_MASK, minlength=2).astype(np.int64)
        moved, whole = np.zeros((2, 2), np.int64), np.zeros((2, 2), np.int64)
        errno = np.zeros(900, np.int16)
        errno[:3] = EBUSY
        capacity = np.array([used[0] + 700, PAGES])
        run(flags, huge, page, node, used, capacity, moved, whole, errno)
        results.append([x.tolist() for x in (flags, used, moved, whole, errno)])
    assert results[0] == results[1]


def test_folding_bits_equals_its_twin() -> None:
    """Same bits cleared, same blocks told of, whatever the stripe and the node."""
    rng = np.random.default_rng(5)
    start = rng.choice(np.array([0, 1, 8, 9], np.uint8), 2200, p=[0.4, 0.4, 0.1, 0.1])
    start[512:1024] = 1
    huge = np.array([True, True, False, True])
    for step, node in ((1, -1), (3, -1), (5, 1), (200, -1)):
        results = []
        for run in (huge_kernels.fold_bits, huge_kernels.fold_bits_twin):
            flags, out = start.copy(), np.zeros(2, np.int64)
            touched = np.zeros(-(-(270 - 2) // step), np.bool_)
            run(flags, huge, 2, 270, step, play.ACCESSED, node, touched, out)
            results.append([x.tolist() for x in (flags, touched, out)])
        assert results[0] == results[1]


def test_one_page_takes_its_huge_page_along() -> None:
    """512 pages move for the price of one huge page; more rows cost nothing more."""
    on = machine()
    result = on.move(np.array([700, 701], np.uint32), np.zeros(2, np.uint8))
    assert ([0, 0], 1) == (result.errno.tolist(), result.huge)
    assert HUGE_MOVE_SHARE * 512 * 2500 == pytest.approx(result.cost_ns)
    expected = [SLOW] * 512 + [FAST] * 512 + [SLOW] * (PAGES - 1024)
    assert expected == on.placement().tolist()
    assert [512, PAGES - 512] == on.used.tolist()
    assert result.cost_ns == on.bill.migration_ns


def test_a_huge_page_without_room_stays_whole() -> None:
    """Two fit into half of the memory, the third is ENOMEM for each of its rows."""
    on = machine()
    assert [0, 0, ENOMEM, ENOMEM] == move(on, [0, 600, 1100, 1101], FAST)
    assert 1024 == int((on.placement() == FAST).sum())


def test_a_huge_page_with_a_pinned_page_stays() -> None:
    """One pinned page among 512 is EBUSY for all of them; a collapse too."""
    on = machine(faults=Faults(pinned=0.01))
    assert (on.flags[:512] & play.UNMOVABLE).any()
    assert [EBUSY] == move(on, [0], FAST)
    on.resize(np.array([0], np.uint32), np.array([False]))
    assert [EBUSY] == resize(on, [0], huge=True)


def test_a_split_page_moves_page_by_page() -> None:
    """After a split one page moves alone; its cost is that of a small page."""
    on = machine()
    assert [0] == resize(on, [512], huge=False)
    assert 90e3 == on.bill.migration_ns
    result = on.move(np.array([700], np.uint32), np.zeros(1, np.uint8))
    assert (2500.0, 0) == (result.cost_ns, result.huge)
    assert 1 == int((on.placement() == FAST).sum())


def test_a_collapse_gathers_where_most_pages_are() -> None:
    """200 pages in fast memory come to the 312 in slow memory, and count as copied."""
    on = machine()
    resize(on, [0], huge=False)
    move(on, list(range(200)), FAST)
    assert [0] == resize(on, [0], huge=True)
    assert {SLOW} == set(on.placement()[:512].tolist())
    assert [0, PAGES] == on.used.tolist()
    assert on.huge_pages().huge.all()


def test_a_collapse_into_a_full_node_is_enomem() -> None:
    """Most pages are in fast memory, which has no room for the rest."""
    on = machine(fast_ratio=300 / PAGES)
    resize(on, [0], huge=False)
    move(on, list(range(300)), FAST)
    assert [ENOMEM] == resize(on, [0], huge=True)
    assert 300 == int((on.placement() == FAST).sum())


def test_only_whole_ranges_change() -> None:
    """Within a range, or the rest behind the last whole one: EINVAL."""
    on = machine()
    assert [EINVAL, EINVAL] == resize(on, [5, 2048], huge=False)
    assert [0] == resize(on, [0], huge=True)  # as it is: nothing to pay
    assert 0.0 == on.bill.migration_ns


def test_walks_add_to_the_latency_of_accesses() -> None:
    """Four accesses to four huge pages are four huge walks; small ones one each."""
    on = machine(entries=12, ways=12)
    costs = on.advance(chunk([0, 1, 600, 0]), 10**9)
    assert 4 * 250.0 + 2 * 5.0 == costs.access_ns
    resize(on, [0], huge=False)
    costs = on.advance(chunk([0, 1, 600, 0]), 10**9)
    assert 4 * 250.0 + 2 * 53.0 == costs.access_ns
    assert [2, 2] == on.huge_memory.tally.missed.tolist()


def test_a_model_has_its_share_of_the_tlb() -> None:
    """Whole sets, one at least, all of them at reference size and beyond."""
    assert 1536 == HugeSpec().entries_of(1.0) == HugeSpec().entries_of(7.0)
    assert 768 == HugeSpec().entries_of(0.5)
    assert 12 == HugeSpec().entries_of(1e-6)


def test_a_huge_page_has_one_accessed_bit() -> None:
    """Unset it says so of all its pages, set of none; and it is one entry to read."""
    on = machine()
    resize(on, [512], huge=False)
    table = SimPageTable(on, faults=False, bits=True)
    on.advance(chunk([3, 520]), 10**9)
    bits, observed, entries = table.read_accessed(0, 256, 1, None)
    assert [0] * 64 == observed[:64].tolist()
    assert {0xFF} == set(observed[64:].tolist())
    assert {65: 1} == {i: int(bits[i]) for i in np.flatnonzero(bits)}
    assert 3 + 512 == entries
    bits, observed, _ = table.read_accessed(0, 256, 1, None)
    assert ({0}, {0xFF}) == (set(bits.tolist()), set(observed.tolist()))


def test_the_kernels_thread_makes_ranges_huge_again() -> None:
    """At 1024 pages a second it collapses two split ranges a second."""
    on = machine(khugepaged_pages_per_s=1024)
    assert on.huge_pages().kernel_would.all()
    assert 2.0 == on.huge_pages().kernel_round_s
    resize(on, [0, 512, 1024, 1536], huge=False)
    counts = []
    for _ in range(3):
        on.advance(chunk([0]), 10**9)
        counts.append(int(on.huge_pages().huge.sum()))
    assert [2, 4, 4] == counts


def test_the_table_of_a_machine_file_is_checked() -> None:
    """Entries must be whole sets, figures not negative; unknown keys are named."""
    text = (
        'name = "m"\ndescription = ""\n[[nodes]]\nkind = "dram"\ntier = 0\n'
        "read_latency_ns = [80]\n[[nodes]]\nkind = 'cxl'\ntier = 1\n"
        "read_latency_ns = [250]\n[huge_pages]\n"
    )
    assert 64 == parse_machine(text + "entries = 64\nways = 4", "m").huge_pages.entries
    with pytest.raises(ConfigError, match="a multiple of ways"):
        parse_machine(text + "entries = 50", "m")
    with pytest.raises(ConfigError, match=r"huge_pages\.walk_ns: expected >= 0"):
        parse_machine(text + "walk_ns = -1", "m")
    with pytest.raises(ConfigError, match="walk"):
        parse_machine(text + "walk = 1", "m")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: HugeSimMachine(load_machine("ocp-expander"), PAGES, 0.5),
        lambda: machine().fill_on_demand(),
    ],
)
def test_what_is_not_modelled_is_refused(ask: Callable[[], object]) -> None:
    """A compressing expander and a tier filled on demand have small pages alone."""
    with pytest.raises(UnsupportedError, match="huge"):
        ask()
