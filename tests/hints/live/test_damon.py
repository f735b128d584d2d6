"""DAMON's driver on a tree of files that behaves like the kernel's."""

import errno
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.changes import HostChanges
from isotherm.core.clock import VirtualClock
from isotherm.core.errors import IsothermError, UnsupportedError
from isotherm.hints.batch import AccessedBits, Look, Mechanism, RegionCounts
from isotherm.hints.live import damon as module
from isotherm.hints.live.damon import DamonRegions, read_ram
from isotherm.hints.live.damon_admin import (
    DamonAdmin,
    Intervals,
    Target,
    in_use,
    probe,
)
from isotherm.hints.live.damon_pages import CHECKS, DamonPages, most_pages
from isotherm.hints.live.damon_trace import Regions, decode, find_event, parse_format
from isotherm.hints.live.frame_map import FrameMap
from isotherm.hints.live.regions import coarsened, to_flat
from isotherm.machine.linux.spaces import SpaceMap
from tests.hints.live.fake_damon import FakeDamon, FakeTrace

FIRST = 512 * 1000  # first virtual page of the target
MS = 1_000_000


@pytest.fixture
def damon(tmp_path: Path) -> FakeDamon:
    """Return DAMON's files, unused."""
    return FakeDamon(tmp_path)


@pytest.fixture
def clock() -> VirtualClock:
    """Return a clock at one second."""
    return VirtualClock(1_000 * MS)


@pytest.fixture
def traces() -> list[FakeTrace]:
    """Return the traces that were opened, oldest first."""
    return []


@pytest.fixture
def open_trace(
    traces: list[FakeTrace], clock: VirtualClock
) -> Callable[[int], FakeTrace]:
    """Return what opens a trace."""

    def begin(pid: int) -> FakeTrace:
        traces.append(FakeTrace(pid, clock.now_ns))
        return traces[-1]

    return begin


@pytest.fixture
def spaces(own_pid: int) -> SpaceMap:
    """Return a map in which this process has 1024 pages, from flat page 0 on."""
    made = SpaceMap()
    made.update(own_pid, np.array([[FIRST, FIRST + 1024]]))
    return made


@pytest.fixture
def own_pid() -> int:
    """Return the id of a process that is there."""
    import os

    return os.getpid()


def admin_of(damon: FakeDamon, changes: HostChanges, count: int = 2) -> DamonAdmin:
    """Return an admin on the fake tree."""
    return DamonAdmin(
        changes,
        count,
        admin=damon.admin,
        modules=damon.modules,
        write=damon.write,
    )


def nr_kdamonds(damon: FakeDamon) -> int:
    """Return how many the tree has."""
    return int((damon.admin / "kdamonds/nr_kdamonds").read_text())


# ---- the control files


def test_all_kdamonds_are_made_at_once_and_marked(damon: FakeDamon) -> None:
    """Two users get one each; a third is told; the mark is the same odd number."""
    admin = admin_of(damon, HostChanges(None))
    first, second = admin.take("a"), admin.take("b")
    assert first is not second
    assert first is admin.take("a")
    assert 2 == nr_kdamonds(damon)
    marks = {
        path.read_text()
        for path in damon.admin.glob("kdamonds/*/contexts/0/*/*/update_us")
    }
    assert 1 == len(marks)
    with pytest.raises(UnsupportedError, match="all are taken"):
        admin.take("c")


def test_the_last_user_takes_the_tree_down(damon: FakeDamon, tmp_path: Path) -> None:
    """A user that goes stops its own; with the last all are gone, and the journal."""
    changes = HostChanges(tmp_path / "journal")
    admin = admin_of(damon, changes)
    kdamond = admin.take("a")
    admin.take("b")
    kdamond.set_targets([Target(1, np.array([[0, 4096]]))])
    kdamond.start()
    admin.give_back("a")
    assert [(0, "on"), (0, "off")] == damon.commands
    assert (2, 1) == (nr_kdamonds(damon), changes.pending)
    admin.give_back("b")
    assert (0, 0) == (nr_kdamonds(damon), changes.pending)
    assert [] == admin.give_back("b")
    changes.close()
    assert not (tmp_path / "journal").exists()


def test_what_a_kill_leaves_is_removed(damon: FakeDamon, tmp_path: Path) -> None:
    """The journal alone suffices to stop and remove what is marked as ours."""
    changes = HostChanges(tmp_path / "journal")
    kdamond = admin_of(damon, changes).take("a")
    kdamond.set_targets([Target(1, np.array([[0, 4096]]))])
    kdamond.start()
    changes.close()  # what a kill does to the lock
    assert ["damon: 2 kdamonds stopped and removed"] == HostChanges.recover(
        tmp_path / "journal"
    )
    assert 0 == nr_kdamonds(damon)
    assert "off" == (damon.admin / "kdamonds/0/state").read_text()[:3]


@pytest.mark.parametrize("marked", [True, False])
def test_recovery_leaves_others_alone(
    damon: FakeDamon, tmp_path: Path, marked: bool
) -> None:
    """Kdamonds with another mark are somebody's who came after the kill."""
    changes = HostChanges(tmp_path / "journal")
    admin_of(damon, changes).take("a")
    changes.close()
    damon.write(damon.admin / "kdamonds/nr_kdamonds", "0")
    damon.write(damon.admin / "kdamonds/nr_kdamonds", "2")
    if marked:
        for i in range(2):
            damon.write(damon.admin / f"kdamonds/{i}/contexts/nr_contexts", "1")
    else:
        (damon.admin / "kdamonds/1/state").write_text("on\n")
    said = HostChanges.recover(tmp_path / "journal")
    assert ["damon: left alone, these kdamonds are somebody else's"] == said
    assert 2 == nr_kdamonds(damon)


def test_other_users_are_named(damon: FakeDamon) -> None:
    """The message has state and pid, the hint what would end it; nothing is made."""
    damon.write(damon.admin / "kdamonds/nr_kdamonds", "1")
    (damon.admin / "kdamonds/0/state").write_text("on\n")
    (damon.admin / "kdamonds/0/pid").write_text("77\n")
    base = damon.admin / "kdamonds"
    with pytest.raises(UnsupportedError) as caught:
        admin_of(damon, HostChanges(None)).take("a")
    assert "damon: somebody else has made kdamond 0 on (pid 77)" == caught.value.message
    assert f"echo off > {base}/0/state; echo 0 > {base}/nr_kdamonds" == (
        caught.value.hint
    )
    found = probe(damon.admin, damon.modules)
    assert (False, caught.value.hint) == (found.present, found.command)
    assert [] == damon.commands


def test_an_exclusive_module_is_named(damon: FakeDamon) -> None:
    """A module that is on has DAMON alone; one that is off has not."""
    enabled = damon.modules / "damon_stat/parameters/enabled"
    enabled.parent.mkdir(parents=True)
    enabled.write_text("N\n")
    assert in_use(damon.admin, damon.modules) is None
    assert probe(damon.admin, damon.modules).present
    enabled.write_text("Y\n")
    assert (
        "damon_stat is on and has DAMON alone",
        f"echo N > {enabled}",
    ) == in_use(damon.admin, damon.modules)


def test_a_kernel_without_damon_is_named(tmp_path: Path) -> None:
    """The file that was looked for is in the message."""
    found = probe(tmp_path / "none", tmp_path)
    assert not found.present
    assert str(tmp_path / "none/kdamonds/nr_kdamonds") in found.why
    assert found.why.endswith("a kernel with CONFIG_DAMON_SYSFS (and VADDR, PADDR)")
    assert found.command is None


def test_what_the_kernel_refuses_is_an_error(damon: FakeDamon) -> None:
    """A sampling interval above the aggregation's ends with the errno's name."""
    kdamond = admin_of(damon, HostChanges(None), 1).take("a")
    kdamond.set_intervals(Intervals(sample_us=10, aggregate_us=5))
    with pytest.raises(IsothermError, match="damon: on: EINVAL"):
        kdamond.start()


def test_a_busy_lock_is_waited_for(damon: FakeDamon) -> None:
    """EBUSY while somebody else has DAMON's lock is tried again."""
    refused = []

    def write(path: Path, value: str) -> None:
        if len(refused) < 2:
            refused.append(path)
            raise OSError(errno.EBUSY, "Device or resource busy")
        damon.write(path, value)

    admin = DamonAdmin(
        HostChanges(None), 1, admin=damon.admin, modules=damon.modules, write=write
    )
    admin.take("a")
    assert (2, 1) == (len(refused), nr_kdamonds(damon))


# ---- reports


def test_a_ring_of_reports_is_decoded() -> None:
    """Records of the tracepoint become columns; what was dropped is counted."""
    place = parse_format(
        "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n"
        "\tfield:unsigned long target_id;\toffset:8;\tsize:8;\tsigned:0;\n"
        "\tfield:unsigned int nr_regions;\toffset:16;\tsize:4;\tsigned:0;\n"
        "\tfield:unsigned long start;\toffset:24;\tsize:8;\tsigned:0;\n"
        "\tfield:unsigned long end;\toffset:32;\tsize:8;\tsigned:0;\n"
        "\tfield:unsigned int nr_accesses;\toffset:40;\tsize:4;\tsigned:0;\n"
        "\tfield:unsigned int age;\toffset:44;\tsize:4;\tsigned:0;\n"
    )
    data = b""
    for i in range(3):
        raw = struct.pack(
            "<HBBiQIxxxxQQII", 7, 0, 0, 1, i, 3, i << 12, 9 << 12, i, 10 + i
        )
        data += struct.pack("<IHHQI", 9, 0, 72, 1000 + i, len(raw) + 4) + raw + bytes(4)
    data += struct.pack("<IHHQQ", 2, 0, 24, 1, 5)
    seen = decode(np.frombuffer(data, np.uint64), place)
    assert [1000, 1001, 1002] == seen.time_ns.tolist()
    assert [0, 1, 2] == seen.target.tolist()
    assert [0, 4096, 8192] == seen.start.tolist()
    assert [9 << 12] * 3 == seen.end.tolist()
    assert [0, 1, 2] == seen.nr_accesses.tolist()
    assert [10, 11, 12] == seen.age.tolist()
    assert 5 == seen.lost


def test_reports_are_told_apart_by_aggregation() -> None:
    """A target or address that does not ascend begins the next one."""
    target = np.array([0, 0, 1, 0, 0, 1, 1])
    start = np.array([1, 5, 1, 1, 5, 1, 7])
    column = np.zeros(7, np.int64)
    parts = Regions(column, target, start, start + 1, column, column).snapshots()
    assert [3, 4] == [len(part) for part in parts]
    assert [] == Regions(*(column[:0],) * 6).snapshots()


def test_without_tracefs_the_command_is_given(tmp_path: Path) -> None:
    """The error says how to mount it."""
    with pytest.raises(UnsupportedError) as caught:
        find_event((tmp_path,))
    assert "mount -t tracefs none /sys/kernel/tracing" == caught.value.hint


def test_small_gaps_close_first() -> None:
    """Of many ranges the largest gaps stay; few ranges stay as they are."""
    ranges = np.array([[0, 1], [3, 4], [5, 6], [50, 60]])
    assert [[0, 6], [50, 60]] == coarsened(ranges, 2).tolist()
    assert ranges.tolist() == coarsened(ranges, 4).tolist()
    assert [[0, 60]] == coarsened(ranges, 1).tolist()


def test_regions_are_cut_at_spaces() -> None:
    """What lies between spaces is nobody's."""
    extents = np.array([[100, 200, 0], [300, 400, 612]])
    region, first, last = to_flat(
        extents, np.array([50, 150, 210, 390]), np.array([150, 210, 390, 500])
    )
    assert [0, 1, 2, 3] == region.tolist()
    assert [(0, 50), (50, 100), (612, 702), (702, 712)] == list(
        zip(first.tolist(), last.tolist(), strict=True)
    )


# ---- regions as a source


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


# ---- single pages


def test_single_pages_are_read_block_by_block(
    damon: FakeDamon, spaces: SpaceMap, clock: VirtualClock, open_trace, traces, own_pid
) -> None:
    """A window of one-page regions goes through the look's range, in turns."""
    source = DamonPages(
        spaces,
        admin_of(damon, HostChanges(None), 1),
        pages=64,
        budget=1.0,
        now_ns=clock.now_ns,
        open_trace=open_trace,
        threaded=False,
    )
    source.open()
    source.step()
    assert [] == damon.commands
    source.look((Look(Mechanism.ACCESSED_BIT, 64, 256, window_s=0.1),))
    places = []
    for _ in range(4):
        source.step()
        ranges = damon.seen[0][1]
        assert 64 == len(ranges)
        assert all(end - start == 4096 for start, end in ranges)
        first = (ranges[0][0] >> 12) - FIRST
        places.append(first)
        for _ in range(CHECKS):
            clock.advance(100 * MS)
            pages = [page >> 12 for page, _ in ranges]
            traces[-1].report(*((0, p, p + 1, p % 5 == 0) for p in pages))
        source.step()  # reads, and moves the window on if the budget lets it
        batches = source.drain()
        assert CHECKS == len(batches)
        seen = batches[0].seen
        assert isinstance(seen, AccessedBits)
        assert list(range(first // 8, first // 8 + 8)) == seen.block.tolist()
        found = np.unpackbits(seen.bits, bitorder="little")
        expected = [int((FIRST + first + i) % 5 == 0) for i in range(64)]
        assert expected == found.tolist()
        assert np.allclose(0.1, seen.interval_s)
        clock.advance(60_000 * MS)
    assert [64, 128, 192, 64] == places
    source.close()
    assert 0 == nr_kdamonds(damon)


def test_the_window_fits_the_limit_on_files(monkeypatch) -> None:
    """Two files a page, of a third of those that may be open."""
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    assert 168 == most_pages()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 20, 1 << 20))
    assert 4096 == most_pages()
