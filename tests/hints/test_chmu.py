"""The source: what devices listed becomes counts of pages."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import HintBatch, Mechanism, RangeCounts
from isotherm.hints.chmu import RegisterLists, choose_unit
from isotherm.hints.chmu_ranges import Listed, to_ranges, units_a_page, watched_pages
from isotherm.hints.interleave import Window
from isotherm.lab.hotness_unit import simulated_chmu, simulated_devices
from isotherm.machine.sim.chmu import DeviceSpec, HotnessUnit
from isotherm.machine.sim.chmu_spec import HotnessUnitSpec
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import load_machine
from isotherm.trace.stream import AccessChunk

PAGES = 512
EPOCH_NS = 500_000_000
PAGE = 4096
#: No cache in front: every access is seen.
BARE = HotnessUnitSpec(node=1, llc_mib=0.0)


def machine_with(spec: HotnessUnitSpec, pages: int = PAGES) -> SimMachine:
    """Return a machine whose even pages are on the slow node."""
    made = SimMachine(
        msgspec.structs.replace(load_machine("dram-cxl"), hotness_unit=spec), pages, 0.5
    )
    made.place((np.arange(pages) % 2 == 0).astype(np.uint8))
    return made


def accesses(counts: dict[int, int]) -> AccessChunk:
    """Return accesses, so many of each page, mixed."""
    page = np.repeat(list(counts), list(counts.values())).astype(np.uint32)
    return AccessChunk(np.random.default_rng(2).permutation(page))


def counted(batch: HintBatch) -> dict[tuple[int, int], float]:
    """Return the counts of a batch by range."""
    seen = batch.seen
    assert isinstance(seen, RangeCounts)
    rows = zip(seen.start.tolist(), seen.end.tolist(), seen.count.tolist(), strict=True)
    return {(start, end): count for start, end, count in rows}


def one_epoch(machine: SimMachine, source, counts: dict[int, int]) -> HintBatch:
    """Play one epoch, and return its batch."""
    machine.advance(accesses(counts), EPOCH_NS)
    (batch,) = source.drain()
    return batch


def test_pages_come_back() -> None:
    """Pages on the node, as often as they were accessed; others are not seen."""
    machine = machine_with(BARE)
    source = simulated_chmu(machine, EPOCH_NS)
    batch = one_epoch(machine, source, {0: 5, 1: 50, 10: 2, 12: 1, 500: 300})
    assert {(0, 1): 5, (10, 11): 2, (500, 501): 300} == counted(batch)
    seen = batch.seen
    assert isinstance(seen, RangeCounts)
    assert [0.5] * 3 == seen.exposure_s.tolist()
    assert (2.0, True, 1.0, True) == (
        seen.threshold,
        seen.complete,
        seen.share,
        seen.magnitude,
    )
    assert [[p, p + 1] for p in range(0, PAGES, 2)] == seen.watched.tolist()
    assert (0, EPOCH_NS) == (batch.start_ns, batch.end_ns)
    assert (3 + 6) * 500.0 == batch.background_ns


def test_what_it_declares() -> None:
    """Behind the caches, thresholded, no initiator, no latency."""
    can = simulated_chmu(machine_with(BARE), EPOCH_NS).capability
    assert can.post_cache
    assert can.thresholded
    assert can.sees_prefetch
    assert can.sees_reads
    assert can.sees_writes
    assert not can.knows_initiator
    assert not can.knows_latency
    assert 1 == can.unit_pages


def test_pages_that_move_take_their_counts_along() -> None:
    """Another frame, the same page; what has left the node is not seen any more."""
    machine = machine_with(BARE)
    source = simulated_chmu(machine, EPOCH_NS)
    hot = {2: 9, 3: 9, 4: 9}
    assert {(2, 3), (4, 5)} == set(counted(one_epoch(machine, source, hot)))
    machine.move(np.array([3, 2], np.uint32), np.array([1, 0], np.uint8))
    assert {(3, 4): 9, (4, 5): 9} == counted(one_epoch(machine, source, hot))
    machine.move(np.array([2, 5, 7], np.uint32), np.array([1, 1, 1], np.uint8))
    batch = one_epoch(machine, source, hot | {5: 3, 6: 4, 7: 5})
    assert {2: 9, 3: 9, 4: 9, 5: 3, 6: 4, 7: 5} == {
        start: count for (start, _), count in counted(batch).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("ways", [1, 2, 3, 4, 6, 8, 12, 16])
@pytest.mark.parametrize("granularity", [256, 1024, 4096, 16384])
def test_any_interleave(ways: int, granularity: int) -> None:
    """With units that fit into granules every page has all of its accesses."""
    spec = msgspec.structs.replace(
        BARE,
        ways=ways,
        granularity=granularity,
        unit_bytes=(256, 1024, 4096),
        hot_list=8000,
    )
    machine = machine_with(spec)
    _, source = simulated_devices(machine, EPOCH_NS)
    source._settings = replace(source.settings, threshold=1)
    for device in source.devices:
        device.lists.start(source.settings)
    wanted = {0: 640, 10: 128, 250: 77, 510: 1}
    batch = one_epoch(machine, source, wanted)
    got = {start: count for (start, _), count in counted(batch).items()}
    assert got == pytest.approx(wanted)
    assert isinstance(batch.seen, RangeCounts)
    assert 1.0 == batch.seen.share
    assert batch.seen.complete


def test_units_that_span_pages_split_over_devices() -> None:
    """A unit of 4 KiB in granules of 1 KiB is a part of four pages: all share."""
    spec = msgspec.structs.replace(BARE, ways=4, granularity=1024)
    machine = machine_with(spec)
    machine.place(np.ones(PAGES, np.uint8))
    source = simulated_chmu(machine, EPOCH_NS, seed=None)
    assert 12 == source.settings.unit_shift
    assert 0 == source.capability.unit_pages
    batch = one_epoch(machine, source, {8: 400, 10: 400})
    assert {(8, 12): pytest.approx(800)} == counted(batch)


def test_large_units_are_ranges() -> None:
    """Neighbours in memory and in the index: one row; else their share each."""
    spec = msgspec.structs.replace(BARE, unit_bytes=(16384,))
    for seed in (None, 1):
        machine = machine_with(spec)
        machine.place(np.ones(PAGES, np.uint8))
        source = simulated_chmu(machine, EPOCH_NS, seed=seed)
        batch = one_epoch(machine, source, {21: 80})
        got = counted(batch)
        assert 80 == pytest.approx(sum(got.values()))
        assert 4 == sum(end - start for start, end in got)
        if seed is None:
            assert [(20, 24)] == list(got)
        else:
            assert any(start <= 21 < end for start, end in got)


def test_down_sampling_is_corrected() -> None:
    """Counts are of accesses; the share says how many were looked at."""
    spec = msgspec.structs.replace(BARE, down_sampling=(2,))
    machine = machine_with(spec)
    batch = one_epoch(machine, simulated_chmu(machine, EPOCH_NS), {4: 4000})
    assert counted(batch)[(4, 5)] == pytest.approx(4000, rel=0.15)
    assert isinstance(batch.seen, RangeCounts)
    assert (0.25, 8.0) == (batch.seen.share, batch.seen.threshold)


def test_always_on_says_only_that_it_was_reached() -> None:
    """One row a crossing; the count is the threshold."""
    spec = msgspec.structs.replace(BARE, modes=("always-on",))
    machine = machine_with(spec)
    source = simulated_chmu(machine, EPOCH_NS)
    machine.advance(accesses({6: 5, 8: 3, 10: 1}), EPOCH_NS)
    (batch,) = source.drain()
    seen = batch.seen
    assert isinstance(seen, RangeCounts)
    assert ([6, 6, 8], [2, 2, 2]) == (seen.start.tolist(), seen.count.tolist())
    assert not seen.magnitude
    assert 0.5 == pytest.approx(seen.exposure_s[0], rel=1e-2)


def test_no_batch_before_an_epoch_has_ended() -> None:
    """Devices with longer epochs than the loop's report when theirs are over."""
    spec = msgspec.structs.replace(BARE, min_epoch_s=1.5)
    machine = machine_with(spec)
    source = simulated_chmu(machine, EPOCH_NS)
    drained = []
    for _ in range(6):
        machine.advance(accesses({4: 2}), EPOCH_NS)
        drained.append(source.drain())
    assert [0, 0, 1, 0, 0, 1] == [len(batches) for batches in drained]
    (batch,) = drained[2]
    assert {(4, 5): 6} == counted(batch)
    assert isinstance(batch.seen, RangeCounts)
    assert [1.5] == batch.seen.exposure_s.tolist()
    assert (0, 3 * EPOCH_NS) == (batch.start_ns, batch.end_ns)


def test_the_threshold_follows_the_list() -> None:
    """Up until the list is not full, down while next to nothing is listed."""
    spec = msgspec.structs.replace(BARE, hot_list=64)
    machine = machine_with(spec)
    source = simulated_chmu(machine, EPOCH_NS)
    wanted = {page: 3 + page % 40 for page in range(0, PAGES, 2)}
    completes = []
    for _ in range(12):
        seen = one_epoch(machine, source, wanted).seen
        assert isinstance(seen, RangeCounts)
        completes.append(seen.complete)
        assert (seen.count >= seen.threshold).all()
    assert not completes[0]
    assert all(completes[6:])
    assert source.settings.threshold > 20
    assert source.overflows == completes.count(False)
    for _ in range(20):
        one_epoch(machine, source, {2: 4})
    assert source.settings.threshold <= 4


def test_counters_that_run_out_are_never_complete() -> None:
    """Absence says nothing where a device has fewer counters than units."""
    spec = msgspec.structs.replace(BARE, counters=64)
    machine = machine_with(spec)
    seen = one_epoch(machine, simulated_chmu(machine, EPOCH_NS), {4: 90}).seen
    assert isinstance(seen, RangeCounts)
    assert not seen.complete


def test_a_machine_without_a_unit() -> None:
    """Said in words, with what to do."""
    machine = SimMachine(load_machine("dram-zram"), 64, 0.5)
    with pytest.raises(UnsupportedError, match="dram-zram: no CXL hotness unit"):
        simulated_chmu(machine, EPOCH_NS)


def test_an_instance_that_is_not_there() -> None:
    """Refused by number; nothing runs before it was started."""
    unit = HotnessUnit(DeviceSpec(1 << 28))
    with pytest.raises(UnsupportedError, match="instance: expected below 1, got 3"):
        RegisterLists(unit, 3)
    with pytest.raises(UnsupportedError, match="was not started"):
        _ = RegisterLists(unit).settings


def test_mechanism_and_close() -> None:
    """The name that --hints takes; closed, it counts nothing."""
    machine = machine_with(BARE)
    source = simulated_chmu(machine, EPOCH_NS)
    assert Mechanism.CHMU == source.mechanism
    source.close()
    source.close()
    machine.advance(accesses({4: 9}), EPOCH_NS)
    assert all(counted(b) == {} for b in source.drain())


@pytest.mark.parametrize(
    ("shifts", "ways", "granularity", "expected"),
    [
        ((12, 13), 1, 256, 12),
        ((13, 21), 1, 256, 13),
        ((8, 9), 1, 256, 9),
        ((8, 10, 12), 4, 1024, 10),
        ((12, 13), 4, 1024, 12),
        ((8, 12, 13), 4, 16384, 12),
    ],
)
def test_choice_of_unit(
    shifts: tuple[int, ...], ways: int, granularity: int, expected: int
) -> None:
    """A page, or a granule where granules are less; else the smallest."""
    size = 48 * 16384
    assert expected == choose_unit(shifts, Window(0, size, ways, granularity))


class Table:
    """Page p stands on frame p + 8, but for page 3: that one has no memory."""

    def frames(self, first: int, last: int) -> np.ndarray:
        """Return the frames of flat pages."""
        frame = np.arange(first + 8, last + 8, dtype=np.uint32)
        frame[max(0, 3 - first) : max(0, 4 - first)] = 0
        return frame

    def flat_pages(self, frame: np.ndarray) -> np.ndarray:
        """Return the page on each frame."""
        known = (frame >= 8) & (frame < 40) & (frame != 11)
        return np.where(known, frame - np.uint64(8), 0xFFFFFFFF).astype(np.uint32)


def listed(window: Window, unit: list[int], count: list[int], *, complete: bool):
    """Return what a device listed."""
    return Listed(
        window, np.array(unit, np.uint64), np.array(count, np.uint64), complete
    )


def test_a_unit_with_a_hole() -> None:
    """Pages that nobody knows get their share of the count, too: it is not ours."""
    one = listed(Window(8 * PAGE, 32 * PAGE), [0], [80], complete=True)
    got = to_ranges([one], 15, Table(), merge=True)
    assert ([0, 4], [3, 8]) == (got.start.tolist(), got.end.tolist())
    assert [30.0, 40.0] == got.count.tolist()
    assert (1, 0) == (got.unknown, got.beyond)


@pytest.mark.parametrize(
    ("complete", "expected"),
    [((True, True), 12), ((False, False), 24), ((False, True), 12)],
)
def test_a_page_of_which_a_part_was_listed(
    complete: tuple[bool, bool], expected: float
) -> None:
    """What a complete list leaves out is cold; what another does is unknown."""
    first = Window(8 * PAGE, 32 * PAGE, 2, 2048, 0)
    second = replace(first, position=1)
    both = [
        listed(first, [5], [12], complete=complete[0]),
        listed(second, [], [], complete=complete[1]),
    ]
    got = to_ranges(both, 11, Table(), merge=True)
    assert ([5], [6], [expected]) == (
        got.start.tolist(),
        got.end.tolist(),
        got.count.tolist(),
    )


def test_nothing_was_listed() -> None:
    """No devices, or empty lists: no ranges."""
    assert 0 == len(to_ranges([], 12, Table(), merge=True).start)
    one = listed(Window(8 * PAGE, 32 * PAGE), [], [], complete=True)
    for merge in (True, False):
        got = to_ranges([one], 12, Table(), merge=merge)
        assert (0, 0, 0) == (len(got.start), got.unknown, got.beyond)


def test_watched_pages() -> None:
    """Runs of pages whose frames are in the windows."""
    windows = (Window(8 * PAGE, 8 * PAGE), Window(20 * PAGE, 4 * PAGE))
    got = watched_pages(Table(), 16, windows)
    assert [[0, 3], [4, 8], [12, 16]] == got.tolist()
    assert [] == watched_pages(Table(), 0, windows).tolist()


@pytest.mark.parametrize(
    ("ways", "granularity", "shift", "expected"),
    [
        (1, 256, 12, 1),
        (1, 256, 8, 16),
        (4, 1024, 10, 4),
        (4, 1024, 12, 4),
        (8, 1024, 12, 4),
        (2, 256, 12, 2),
        (4, 8192, 12, 1),
        (4, 4096, 16, 1),
    ],
)
def test_units_of_a_page(
    ways: int, granularity: int, shift: int, expected: int
) -> None:
    """So many units hold a page's accesses."""
    window = Window(0, 1 << 20, ways, granularity)
    assert expected == units_a_page(window, shift)
