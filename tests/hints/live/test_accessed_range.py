"""What smaps says of mappings, and clearing: on a child of our own."""

import os
from collections.abc import Callable

import numpy as np
import pytest

from isotherm.core.clock import VirtualClock
from isotherm.hints.batch import RegionCounts
from isotherm.hints.live.accessed_range import (
    SHARES,
    AccessedRanges,
    alternate,
    nearest_share,
    parse_smaps,
)
from isotherm.hints.live.clearing import Clearing, spans
from isotherm.machine.linux.pagemap import EXCLUSIVE
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import SpaceMap
from tests.hints.live.conftest import Target

S = 1_000_000_000
SMAPS = b"""7f0000000000-7f0000200000 rw-p 00000000 00:00 0
Size:               2048 kB
KernelPageSize:        4 kB
Rss:                1024 kB
Pss:                1024 kB
Private_Dirty:      1024 kB
Referenced:          256 kB
Anonymous:          1024 kB
VmFlags: rd wr mr mw me ac
7f0000400000-7f0000401000 r--p 00000000 08:01 99   /usr/lib/Rss: Referenced: x.so
Size:                  4 kB
Rss:                   4 kB
Referenced:            4 kB
VmFlags: rd mr mw me
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0   [vsyscall]
Size:                  4 kB
Rss:                   0 kB
Referenced:            0 kB
VmFlags: ex
"""


def test_mappings_have_sizes_and_what_was_touched() -> None:
    """In pages; names that look like fields do no harm."""
    first = 0x7F0000000
    assert [
        [first, first + 512, 256, 64],
        [first + 0x400, first + 0x401, 1, 1],
    ] == parse_smaps(SMAPS)[:2].tolist()
    assert [0, 0] == parse_smaps(SMAPS)[2, 2:].tolist()
    assert (0, 4) == parse_smaps(b"").shape


@pytest.mark.parametrize("share", [0.0, 1e-5, 0.001, 0.02, 0.3, 0.5, 0.7, 0.97, 1.0])
def test_a_share_is_told_without_saturation(share: float) -> None:
    """As a fraction near it, of so few checks that one in eight pages stays unset."""
    checks, found = SHARES[nearest_share(np.array([share]))[0]].tolist()
    told = found / checks
    assert abs(told - share) <= max(0.3 * share, 2e-4)
    if share < 0.6:
        assert 1 - (1 - told) ** checks < 0.8


def test_every_second_chunk_is_split_off() -> None:
    """Chunks are aligned; where there are too many, they are larger."""
    ranges = np.array([[3, 20], [40, 42]])
    assert [(3, 4), (8, 12), (16, 20), (40, 42)] == alternate(ranges, 4, 100)
    assert len(alternate(np.array([[0, 1 << 30]]), 512, 1000)) <= 1000
    assert [] == alternate(np.empty((0, 2), np.int64), 4, 100)


@pytest.fixture
def touched(new_target: Callable[..., Target]) -> Target:
    """Return a target whose 1024 pages are there."""
    target = new_target(1024)
    target.fill()
    return target


def source_of(spaces: SpaceMap, clock: VirtualClock) -> AccessedRanges:
    """Return an open source that looks every second."""
    source = AccessedRanges(spaces, interval_s=1.0, budget=1e9, now_ns=clock.now_ns)
    source.open()
    return source


def test_the_share_of_a_mapping_is_seen(touched: Target) -> None:
    """A quarter was touched between two looks; the first look only clears."""
    clock = VirtualClock(S)
    source = source_of(touched.spaces(), clock)
    assert () == source.drain()
    clock.advance(S // 2)
    assert () == source.drain()  # it is not time yet
    touched.read(0, 1024, 4)
    clock.advance(S)
    (batch,) = source.drain()
    seen = batch.seen
    assert isinstance(seen, RegionCounts)
    assert [(0, 1024)] == list(zip(seen.start, seen.end, strict=True))
    assert (0.25, 1.5) == (seen.nr_accesses[0] / seen.checks, seen.interval_s)
    assert (S, S + 3 * S // 2) == (batch.start_ns, batch.end_ns)
    assert batch.background_ns > 0
    assert batch.application_ns > 0
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    source.close()
    source.close()
    assert before > len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert () == source.drain()


def test_an_ended_process_is_passed_over(touched: Target) -> None:
    """It gives no batch and no error."""
    clock = VirtualClock(S)
    source = source_of(touched.spaces(), clock)
    source.drain()
    touched.close()
    clock.advance(2 * S)
    assert () == source.drain()
    source.close()


def test_intervals_widen_beyond_the_budget(touched: Target) -> None:
    """They double up to a limit, and come back."""
    clock = VirtualClock(S)
    source = source_of(touched.spaces(), clock)
    source._budget = 0.0
    source.drain()
    for _ in range(3):
        clock.advance(100 * S)
        source.drain()
    assert 8.0 == source.interval_s
    source._budget = 1e9
    for _ in range(4):
        clock.advance(100 * S)
        source.drain()
    assert 1.0 == source.interval_s
    source.close()


def test_intervals_widen_where_the_target_pays_too_much(touched: Target) -> None:
    """Bits that 1024 pages set anew take 0.3 ms of its time: not every 10 ms."""
    clock = VirtualClock(S)
    source = source_of(touched.spaces(), clock)
    source.interval_s = 0.01
    source.drain()
    clock.advance(S // 100)
    touched.read(0, 1024)
    (batch,) = source.drain()
    assert 1024 * 300.0 == pytest.approx(batch.application_ns, rel=0.1)
    assert 0.02 == pytest.approx(source.interval_s)
    source.close()


def test_probe_finds_them_here() -> None:
    """Every Linux has smaps and clear_refs."""
    assert AccessedRanges.probe().present


# ---- clearing


def referenced(target: Target) -> int:
    """Return how many pages of the target's memory have a bit set."""
    from pathlib import Path

    rows = parse_smaps(Path(f"/proc/{target.pid}/smaps").read_bytes())
    inside = (rows[:, 0] < target.vpage + target.pages) & (rows[:, 1] > target.vpage)
    return int(rows[inside, 3].sum())


@pytest.mark.parametrize("whole_pages", [0, 1 << 20], ids=["by range", "as a whole"])
def test_bits_are_cleared(touched: Target, whole_pages: int) -> None:
    """By range only where it is asked for, as a whole everywhere."""
    nothing = lambda pid, granule: (  # noqa: E731
        np.zeros((len(granule), 64), np.uint8),
        np.ones(len(granule), np.bool_),
    )
    clearing = Clearing(nothing, whole_pages)
    mapped = np.array([[touched.vpage, touched.vpage + 1024]])
    assert (whole_pages > 0) == clearing.clears_all(touched.pid, 1024)
    before = referenced(touched)
    assert before >= 1024
    first = touched.vpage // 512
    assert clearing.clear(touched.pid, np.array([first]), mapped) is None
    if whole_pages:
        assert 0 == referenced(touched)
    else:
        assert before - 512 == referenced(touched)
    clearing.close()


def test_only_processes_that_are_followed_are_cleared(touched: Target) -> None:
    """A number without its process is nobody's; whoever lent it closes it."""
    nothing = lambda pid, granule: (  # noqa: E731
        np.zeros((len(granule), 64), np.uint8),
        np.ones(len(granule), np.bool_),
    )
    followed: dict[int, Process] = {}
    clearing = Clearing(nothing, 1 << 20, followed.get)
    mapped = np.array([[touched.vpage, touched.vpage + 1024]])
    granule = np.array([touched.vpage // 512])
    assert clearing.clear(touched.pid, granule, mapped) is None
    assert referenced(touched) >= 1024
    with Process(touched.pid) as process:
        followed[touched.pid] = process
        clearing.clear(touched.pid, granule, mapped)
        assert 0 == referenced(touched)
        clearing.close()
        assert process.alive()


@pytest.mark.parametrize(
    ("alone", "first", "expected"), [(True, 5, None), (False, 5, 5), (False, 255, None)]
)
def test_bits_that_stay_are_found(
    touched: Target,
    monkeypatch: pytest.MonkeyPatch,
    alone: bool,
    first: int,
    expected: int | None,
) -> None:
    """Pages that others map, too; with many of them all of the process is cleared."""
    still = np.zeros((1, 64), np.uint8)
    still[0, :8] = first
    clearing = Clearing(lambda pid, granule: (still, np.ones(1, np.bool_)), 0)
    entries = np.full(512, EXCLUSIVE if alone else 0, np.uint64)
    monkeypatch.setattr(Process, "pagemap", lambda self, start, end: entries)
    mapped = np.array([[touched.vpage, touched.vpage + 1024]])
    stuck = clearing.clear(touched.pid, np.array([touched.vpage // 512]), mapped)
    if expected is None:
        assert stuck is None
    else:
        assert stuck is not None
        assert [expected] * 8 + [0] * 56 == stuck[0].tolist()
    assert (first == 255) == clearing.clears_all(touched.pid, 1024)
    assert (first == 255) == (0 == referenced(touched))
    clearing.close()


def test_granules_are_joined_to_ranges() -> None:
    """Neighbours are one range."""
    assert [[512, 1536], [2560, 3072]] == spans(np.array([1, 2, 5])).tolist()


def test_the_process_that_is_followed_is_looked_at_not_its_number(
    new_target: Callable[..., Target],
) -> None:
    """A number that is nobody's is left alone; what is asked for stays open."""
    target, clock = new_target(64), VirtualClock()
    spaces = SpaceMap()
    spaces.update(target.pid, np.array([[target.vpage, target.vpage + 64]]))
    held: list[Process | None] = [None]
    opened: list[int] = []

    def refuse(pid: int) -> Process:
        opened.append(pid)
        return Process(pid)

    source = AccessedRanges(
        spaces,
        interval_s=1.0,
        now_ns=clock.now_ns,
        open_process=refuse,
        process_of=lambda _: held[0],
    )
    with Process(target.pid) as process, source:
        target.write(0, 64)
        source.drain()
        assert source._cleared == {}
        held[0] = process
        source.drain()
        assert source._cleared.keys() == {target.pid}
        held[0] = None
        clock.advance(2 * S)
        assert () == source.drain()
        assert source._cleared == {}
        held[0] = process
        source.drain()
        source.close()
        assert process.alive()
    assert [] == opened
