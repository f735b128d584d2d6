"""DAMON's regions as a source, on a tree of files that behaves like the kernel's."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.changes import HostChanges
from isotherm.core.clock import VirtualClock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import RegionCounts
from isotherm.hints.live import damon as module
from isotherm.hints.live.damon import DamonRegions, read_ram
from isotherm.hints.live.frame_map import FrameMap
from isotherm.machine.linux.spaces import SpaceMap
from tests.hints.live.fake_damon import (
    FIRST,
    MS,
    FakeDamon,
    FakeTrace,
    admin_of,
    nr_kdamonds,
)


def start_source(
    damon: FakeDamon,
    spaces: SpaceMap,
    clock: VirtualClock,
    open_trace: Callable[[int], FakeTrace],
    **options: object,
) -> DamonRegions:
    """Return an open source that was stepped once."""
    source = DamonRegions(
        spaces,
        admin_of(damon, HostChanges(None), 1),
        now_ns=clock.now_ns,
        open_trace=open_trace,  # type: ignore[arg-type]
        threaded=False,
        **options,  # type: ignore[arg-type]
    )
    source.open()
    source.step()
    return source


def test_reports_become_regions_of_flat_pages(
    damon: FakeDamon, spaces: SpaceMap, clock: VirtualClock, open_trace, traces, own_pid
) -> None:
    """Ranges are told to the kernel; a report is translated, with its checks."""
    source = start_source(damon, spaces, clock, open_trace)
    assert [(own_pid, [[FIRST << 12, (FIRST + 1024) << 12]])] == damon.seen
    clock.advance(100 * MS)
    traces[0].report(
        (0, 1, 2, 9), (0, FIRST, FIRST + 512, 20), (0, FIRST + 512, FIRST + 1024, 3)
    )
    traces[0].lost = 4
    (batch,) = source.drain()
    seen = batch.seen
    assert isinstance(seen, RegionCounts)
    assert ([0, 512], [512, 1024]) == (seen.start.tolist(), seen.end.tolist())
    assert ([20, 3], 20, 0.005) == (
        seen.nr_accesses.tolist(),
        seen.checks,
        seen.interval_s,
    )
    assert 5 == batch.lost  # four that the kernel dropped, one that is nobody's
    assert (1_000 * MS, 1_100 * MS) == (batch.start_ns, batch.end_ns)
    assert batch.background_ns > 0
    assert () == source.drain()
    source.close()
    assert traces[0].closed
    assert 0 == nr_kdamonds(damon)


def test_a_window_of_old_ranges_is_dropped(
    damon: FakeDamon, spaces: SpaceMap, clock: VirtualClock, open_trace, traces, own_pid
) -> None:
    """After new ranges are committed, what began before is not handed on."""
    source = start_source(damon, spaces, clock, open_trace)
    spaces.update(own_pid, np.array([[FIRST, FIRST + 2048]]))
    clock.advance(50 * MS)
    source.step()
    assert [(0, "on"), (0, "commit")] == damon.commands
    assert [[FIRST << 12, (FIRST + 2048) << 12]] == damon.seen[0][1]
    clock.advance(60 * MS)
    traces[0].report((0, FIRST, FIRST + 1024, 20))
    assert () == source.drain()
    clock.advance(60 * MS)
    traces[0].report((0, FIRST, FIRST + 2048, 20))
    assert [2048] == source.drain()[0].seen.end.tolist()  # type: ignore[union-attr]
    source.close()


def test_intervals_follow_the_budget(
    damon: FakeDamon, spaces: SpaceMap, clock: VirtualClock, open_trace, monkeypatch
) -> None:
    """Twice the intervals while kdamond takes too much, and back when far less."""
    used = [0]
    monkeypatch.setattr(module, "cpu_ns", lambda pid: used[0])
    source = start_source(damon, spaces, clock, open_trace, budget=0.01)
    sample = damon.admin / (
        "kdamonds/0/contexts/0/monitoring_attrs/intervals/sample_us"
    )
    said = []
    for spent_ms in (50, 30, 8, 5, 1, 1, 1):
        clock.advance(1_000 * MS)
        used[0] += spent_ms * MS
        source.step()
        said.append(int(sample.read_text()))
    assert [10_000, 20_000, 20_000, 20_000, 10_000, 5_000, 5_000] == said
    source.close()


def test_a_kdamond_that_ended_is_started_again(
    damon: FakeDamon, spaces: SpaceMap, clock: VirtualClock, open_trace, traces, own_pid
) -> None:
    """It ends with its targets; with new ones it starts, and is listened to anew."""
    source = start_source(damon, spaces, clock, open_trace)
    damon.end(0)
    source.step()
    assert [(0, "on"), (0, "on")] == damon.commands
    assert [True, False] == [trace.closed for trace in traces]
    spaces.forget(own_pid)
    source.step()
    assert (0, "off") == damon.commands[-1]
    source.step()
    assert (0, "off") == damon.commands[-1]
    source.close()


def test_without_a_trace_the_stat_scheme_is_read(
    damon: FakeDamon, spaces: SpaceMap, clock: VirtualClock
) -> None:
    """Snapshots come from tried_regions, one a step."""

    def refuse(pid: int) -> FakeTrace:
        raise UnsupportedError("no tracefs")

    source = start_source(damon, spaces, clock, refuse)
    assert [(0, "on"), (0, "commit")] == damon.commands
    damon.tried = [
        ((FIRST + 8 * i) << 12, (FIRST + 8 * i + 8) << 12, i, 1) for i in range(12)
    ]
    source.step()
    (batch,) = source.drain()
    assert isinstance(batch.seen, RegionCounts)
    assert list(range(12)) == batch.seen.nr_accesses.tolist()
    assert list(range(0, 96, 8)) == batch.seen.start.tolist()
    source.close()


def test_physical_regions_are_translated(
    damon: FakeDamon,
    spaces: SpaceMap,
    clock: VirtualClock,
    open_trace,
    traces,
    tmp_path: Path,
    own_pid: int,
) -> None:
    """All RAM is watched; regions without a page that is ours are counted."""
    iomem = tmp_path / "iomem"
    iomem.write_text(
        "00000000-00000fff : Reserved\n"
        "00001000-0009fbff : System RAM\n"
        "  00002000-00002fff : Kernel code\n"
        "00100000-3fffffff : System RAM\n"
    )
    frames = FrameMap(spaces, lambda pid, start, end: entries(start, end))
    source = start_source(damon, spaces, clock, open_trace, frames=frames, iomem=iomem)
    assert [(0, [[0x1000, 0x9F000], [0x100000, 0x40000000]])] == damon.seen
    for _ in range(8):  # the frame map is read in turns
        clock.advance(100 * MS)
        traces[0].report((0, 0, 5000, 0), (0, 5000, 5512, 20), (0, 5512, 9000, 3))
        (batch,) = source.drain()
    seen = batch.seen
    assert isinstance(seen, RegionCounts)
    # Page i stands on frame 5000 + i.
    assert ([0, 512], [512, 1024], [20, 3]) == (
        seen.start.tolist(),
        seen.end.tolist(),
        seen.nr_accesses.tolist(),
    )
    assert 1 == batch.lost
    source.close()


def entries(start: int, end: int) -> np.ndarray:
    """Return pagemap entries: page i of the space is on frame 5000 + i."""
    frame = np.arange(start, end, dtype=np.uint64) - np.uint64(FIRST - 5000)
    return frame | np.uint64(1 << 63)


def test_no_ram_shown_is_an_error(tmp_path: Path) -> None:
    """Without privileges /proc/iomem shows zeros."""
    (tmp_path / "iomem").write_text("00000000-00000000 : System RAM\n")
    with pytest.raises(UnsupportedError, match="no System RAM is shown"):
        read_ram(tmp_path / "iomem")


def test_what_the_kernel_refuses_for_a_moment_is_tried_again(
    damon: FakeDamon, spaces: SpaceMap, clock: VirtualClock, open_trace, monkeypatch
) -> None:
    """A bare OSError in the thread is kept, and does not end it."""
    tried = threading.Event()

    def step(source: DamonRegions) -> None:
        tried.set()
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(DamonRegions, "step", step)
    source = DamonRegions(
        spaces, admin_of(damon, HostChanges(None), 1), now_ns=clock.now_ns
    )
    source.open()
    assert tried.wait(30)
    thread = source._thread
    assert thread is not None
    while source.error is None:
        thread.join(0.01)
        assert thread.is_alive()
    assert "busy" in str(source.error)
    assert thread.is_alive()
    source.close()
