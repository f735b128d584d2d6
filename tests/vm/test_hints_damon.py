"""DAMON, page tables and mappings in a guest: what a process touches is what they say.

The target touches a block of pages and some scattered ones over and over, and no
others: what each source says is compared with that, page by page.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from isotherm.core.changes import HostChanges
from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import AccessedBits, HintBatch, Look, Mechanism, RegionCounts
from isotherm.hints.live.accessed_bits import LiveAccessedBits
from isotherm.hints.live.accessed_range import AccessedRanges
from isotherm.hints.live.clearing import Clearing
from isotherm.hints.live.damon import DamonRegions
from isotherm.hints.live.damon_admin import ADMIN, DamonAdmin, in_use, patiently
from isotherm.hints.live.damon_pages import DamonPages
from isotherm.hints.live.frame_map import FrameMap
from isotherm.hints.live.idle_page import IdlePageBits
from isotherm.hints.live.page_table import PageTableBits
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import SpaceMap

pytestmark = [pytest.mark.slow, pytest.mark.kernel("6.12", "newer")]
DAMON_STAT = Path("/sys/module/damon_stat/parameters/enabled")
#: Other load on the machine makes all of this many times slower.
LIMIT_S = 240.0
PAGES = 8192
BLOCK = (2048, 4096)  # touched all the time
SCATTERED = tuple(range(4099, PAGES, 23))  # and so is every 23rd page from here on
EVERYWHERE = Look(Mechanism.ACCESSED_BIT, 0, PAGES)
CHILD = textwrap.dedent(
    f"""
    import ctypes, mmap, os, time

    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, ({PAGES} + 512) * 4096, flags)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    skip = -start % (512 * 4096)
    memory.madvise(15)  # no huge pages
    for page in range({PAGES}):
        memory[skip + page * 4096] = 1
    print((start + skip) >> 12, flush=True)
    places = [skip + page * 4096 for page in range(*{BLOCK})]
    places += [skip + page * 4096 for page in {SCATTERED}]
    while True:
        for place in places:
            memory[place]
        time.sleep(0.005)
    """
)


@pytest.fixture(autouse=True)
def damon_is_free() -> Iterator[None]:
    """Have DAMON_STAT, which newer kernels start by themselves, leave DAMON to us."""
    before = DAMON_STAT.read_text().strip() if DAMON_STAT.exists() else "N"
    if before == "Y":
        DAMON_STAT.write_text("N")
    yield
    if before == "Y":
        DAMON_STAT.write_text("Y")


@pytest.fixture
def target(quiet_kernel: None) -> Iterator[tuple[int, int]]:
    """Give pid and first virtual page of the target."""
    child = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", CHILD], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    first = int(child.stdout.readline())
    yield child.pid, first
    child.stdout.close()
    child.kill()
    child.wait()


@pytest.fixture
def spaces(target: tuple[int, int]) -> SpaceMap:
    """Return a map of the target's memory: its first page is flat page 0."""
    pid, first = target
    made = SpaceMap()
    made.update(pid, np.array([[first, first + PAGES]]))
    assert [[first, first + PAGES, 0]] == made.ranges(pid).tolist()
    return made


@pytest.fixture
def truth() -> NDArray[np.bool_]:
    """Return which pages the target touches."""
    touched = np.zeros(PAGES, np.bool_)
    touched[slice(*BLOCK)] = True
    touched[list(SCATTERED)] = True
    return touched


def wait_for_batches(
    source: DamonRegions | DamonPages, count: int, limit_s: float = LIMIT_S
) -> list[HintBatch]:
    """Return at least so many batches."""
    batches: list[HintBatch] = []
    end = time.monotonic() + limit_s
    while len(batches) < count:
        batches += source.drain()
        assert time.monotonic() < end, f"{len(batches)} batches, {source.error}"
        time.sleep(0.1)
    return batches


def pages_of(seen: AccessedBits) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return flat pages and whether their bit was set."""
    page = (seen.block[:, None].astype(np.int64) * 8 + np.arange(8)).ravel()
    return page, np.unpackbits(seen.bits, bitorder="little").astype(np.bool_)


def rates_of(seen: RegionCounts) -> NDArray[np.float64]:
    """Return the share of positive checks of every page; NaN where nothing is said."""
    rate = np.full(PAGES, np.nan)
    for start, end, found in zip(
        seen.start.tolist(), seen.end.tolist(), seen.nr_accesses.tolist(), strict=True
    ):
        rate[start:end] = found / seen.checks
    return rate


def nr_kdamonds() -> int:
    """Return how many kdamonds sysfs has."""
    return int((ADMIN / "kdamonds/nr_kdamonds").read_text())


def is_on() -> bool:
    """Return whether kdamond 0 runs."""
    return patiently((ADMIN / "kdamonds/0/state").read_text).strip() == "on"


# ---- regions


@pytest.mark.parametrize(
    # kdamond takes minutes to tell a block apart among all of memory.
    "kind",
    ["virtual", pytest.param("physical", marks=pytest.mark.slow_vm)],
)
def test_the_hot_block_is_found_and_nothing_is_left(
    kind: str, spaces: SpaceMap, tmp_path: Path
) -> None:
    """The block's pages are hot, the quarter before it cold; sysfs is as it was."""
    changes = HostChanges(tmp_path / "journal")
    frames = FrameMap(spaces) if kind == "physical" else None
    admin = DamonAdmin(changes, 1)
    with DamonRegions(spaces, admin, frames=frames, budget=0.2) as source:
        end = time.monotonic() + LIMIT_S
        while True:
            rate = rates_of(wait_for_batches(source, 1)[-1].seen)  # type: ignore[arg-type]
            told = np.isfinite(rate).mean()
            rate[np.isnan(rate)] = 0.5
            hot, cold = rate[slice(*BLOCK)].mean(), rate[:1536].mean()
            if told > 0.99 and hot > 0.7 and cold < 0.1:
                break
            assert time.monotonic() < end, (told, hot, cold, source.error)
        assert nr_kdamonds() == 1
    assert (0, 0) == (nr_kdamonds(), changes.pending)
    changes.close()
    assert not (tmp_path / "journal").exists()


@pytest.mark.slow_vm("newer")
def test_its_cost_is_stated_and_kept(spaces: SpaceMap) -> None:
    """Batches carry kdamond's time; over the budget the intervals are widened."""
    with DamonRegions(spaces, DamonAdmin(HostChanges(None), 1), budget=1e-4) as source:
        batches = wait_for_batches(source, 1)
        assert batches[0].background_ns > 0
        end = time.monotonic() + LIMIT_S
        while source.scale < 4:
            assert time.monotonic() < end
            time.sleep(0.1)
        latest = wait_for_batches(source, 1)[-1].seen
        assert isinstance(latest, RegionCounts)
        assert latest.interval_s > 0.005


@pytest.mark.slow_vm("newer")
def test_new_spaces_are_followed(spaces: SpaceMap, target: tuple[int, int]) -> None:
    """A range that is added while kdamond runs is in the next batches."""
    pid, first = target
    half = SpaceMap()
    half.update(pid, np.array([[first, first + BLOCK[0]]]))
    with DamonRegions(half, DamonAdmin(HostChanges(None), 1), budget=0.2) as source:
        seen = wait_for_batches(source, 1)[-1].seen
        assert isinstance(seen, RegionCounts)
        assert seen.end.max() == BLOCK[0]
        half.update(pid, np.array([[first, first + PAGES]]))
        end = time.monotonic() + LIMIT_S
        while wait_for_batches(source, 1)[-1].seen.end.max() < PAGES:  # type: ignore[union-attr]
            assert time.monotonic() < end


@pytest.mark.slow_vm("newer")
def test_snapshots_from_sysfs_say_the_same(spaces: SpaceMap) -> None:
    """Without the tracepoint the stat scheme's regions are read."""

    def refuse(pid: int) -> None:
        raise UnsupportedError("no tracefs")

    admin = DamonAdmin(HostChanges(None), 1)
    with DamonRegions(spaces, admin, open_trace=refuse, budget=0.5) as source:  # type: ignore[arg-type]
        end = time.monotonic() + LIMIT_S
        while True:
            rate = rates_of(wait_for_batches(source, 1)[-1].seen)  # type: ignore[arg-type]
            hot, cold = np.nanmean(rate[slice(*BLOCK)]), np.nanmean(rate[:1536])
            if hot > 0.6 and cold < 0.1:
                break
            assert time.monotonic() < end, (hot, cold, source.error)


@pytest.mark.slow_vm("newer")
def test_an_ended_target_ends_nothing_else(
    target: tuple[int, int], spaces: SpaceMap
) -> None:
    """The kdamond ends with its only target; the source goes on without an error."""
    pid, _ = target
    with DamonRegions(spaces, DamonAdmin(HostChanges(None), 1), budget=0.2) as source:
        wait_for_batches(source, 1)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        spaces.forget(pid)
        end = time.monotonic() + LIMIT_S
        while is_on():
            assert time.monotonic() < end
            time.sleep(0.05)
        source.drain()
    assert nr_kdamonds() == 0


# ---- other users, kills


def test_somebody_elses_kdamond_is_left_alone(spaces: SpaceMap) -> None:
    """It is named, nothing is made, and it is as it was."""
    (ADMIN / "kdamonds/nr_kdamonds").write_text("1")
    try:
        source = DamonRegions(spaces, DamonAdmin(HostChanges(None)))
        with pytest.raises(UnsupportedError, match="somebody else has made kdamond 0"):
            source.open()
        source.close()
        assert nr_kdamonds() == 1
    finally:
        (ADMIN / "kdamonds/nr_kdamonds").write_text("0")
    assert in_use() is None


@pytest.mark.kernel("newer")
def test_damon_stat_is_named(spaces: SpaceMap) -> None:
    """While it is on nothing else can monitor: the message has the way out."""
    DAMON_STAT.write_text("Y")
    try:
        source = DamonRegions(spaces, DamonAdmin(HostChanges(None)))
        with pytest.raises(UnsupportedError, match="damon_stat is on") as caught:
            source.open()
        assert f"echo N > {DAMON_STAT}" == caught.value.hint
        assert nr_kdamonds() == 0
    finally:
        DAMON_STAT.write_text("N")


@pytest.mark.slow_vm("newer")
def test_after_sigkill_recovery_removes_ours(
    target: tuple[int, int], tmp_path: Path
) -> None:
    """A killed user's kdamonds run on until the journal is read; then none is left."""
    pid, first = target
    journal = tmp_path / "journal"
    program = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        import numpy as np
        from isotherm.core.changes import HostChanges
        from isotherm.hints.live.damon import DamonRegions
        from isotherm.hints.live.damon_admin import DamonAdmin
        from isotherm.machine.linux.spaces import SpaceMap

        spaces = SpaceMap()
        spaces.update({pid}, np.array([[{first}, {first + PAGES}]]))
        source = DamonRegions(spaces, DamonAdmin(HostChanges(Path({str(journal)!r}))))
        source.open()
        while not source.drain():
            time.sleep(0.05)
        print("watching", flush=True)
        time.sleep(1000)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert "watching\n" == child.stdout.readline()
    child.stdout.close()
    child.kill()
    child.wait()
    assert is_on()
    said = HostChanges.recover(journal)
    assert ["damon: 2 kdamonds stopped and removed"] == said
    assert 0 == nr_kdamonds()
    assert [] == HostChanges.recover(journal)


# ---- single pages


def test_damon_reads_single_pages(
    spaces: SpaceMap, truth: NDArray[np.bool_], tmp_path: Path
) -> None:
    """Every page that was looked at has the bit that the target gave it."""
    changes = HostChanges(tmp_path / "journal")
    looks = (Look(Mechanism.ACCESSED_BIT, 3968, 4352, window_s=0.1),)
    with DamonPages(spaces, DamonAdmin(changes, 1), budget=1.0, pages=128) as source:
        source.look(looks)
        known, cost_ns = np.full(PAGES, -1), 0.0
        end = time.monotonic() + LIMIT_S
        while (known[3968:4352] < 0).any():
            assert time.monotonic() < end, source.error
            for batch in wait_for_batches(source, 1):
                assert isinstance(batch.seen, AccessedBits)
                page, found = pages_of(batch.seen)
                known[page] = found
                cost_ns += batch.background_ns
    assert cost_ns > 0
    assert truth[3968:4352].tolist() == (known[3968:4352] == 1).tolist()
    assert (known[:3968] == -1).all()
    assert (0, 0) == (nr_kdamonds(), changes.pending)
    changes.close()


def look_through(
    source: LiveAccessedBits, look: Look, wait_s: float = 0.4
) -> list[HintBatch]:
    """Return the batches of one look."""
    source.look((look,))
    time.sleep(wait_s)  # the time in which bits gather is what is tested
    return list(source.drain())


@pytest.mark.parametrize("whole_pages", [0, PAGES], ids=["by range", "as a whole"])
def test_page_tables_say_what_was_touched(
    spaces: SpaceMap, truth: NDArray[np.bool_], whole_pages: int
) -> None:
    """The bits of all pages are exact, however they are cleared."""
    reader = PageTableBits()
    reader._clearing = Clearing(reader.read, whole_pages)
    with LiveAccessedBits(reader, spaces, 400_000_000, budget=1.0) as source:
        first = look_through(source, EVERYWHERE)
        assert [0.0] == np.unique(first[0].seen.interval_s).tolist()  # type: ignore[union-attr]
        end = time.monotonic() + LIMIT_S
        while True:
            (batch,) = look_through(source, EVERYWHERE)
            assert isinstance(batch.seen, AccessedBits)
            page, found = pages_of(batch.seen)
            assert list(range(PAGES)) == page.tolist()
            assert not (found & ~truth).any()
            if (found == truth).all():
                break  # else the target did not get round in that time
            assert time.monotonic() < end, np.flatnonzero(found != truth)
        assert batch.seen.interval_s.min() > 0.3
        assert batch.background_ns > 0
        assert batch.application_ns > 0


@pytest.mark.slow_vm("newer")
def test_a_window_gives_two_batches(spaces: SpaceMap, truth: NDArray[np.bool_]) -> None:
    """The first is marked as opening, the second covers about the window."""
    look = Look(Mechanism.ACCESSED_BIT, 0, PAGES, window_s=0.2)
    with LiveAccessedBits(PageTableBits(), spaces, 600_000_000, budget=1.0) as source:
        look_through(source, EVERYWHERE)
        end = time.monotonic() + LIMIT_S
        while True:
            batches = look_through(source, look, 0.7)
            if len(batches) == 2:  # else the thread came too late
                opening, window = (batch.seen for batch in batches)
                assert isinstance(opening, AccessedBits)
                assert isinstance(window, AccessedBits)
                found = pages_of(window)[1]
                assert (True, False) == (opening.opening, window.opening)
                assert not (found & ~truth).any()
                # Else one of the two was held up.
                near = window.interval_s.max() < opening.interval_s.min() + 0.5
                if near and (found == truth).all():
                    break
            assert time.monotonic() < end


@pytest.mark.slow_vm("newer")
def test_page_tables_of_an_ended_process_are_not_read(
    spaces: SpaceMap, target: tuple[int, int]
) -> None:
    """Its pages are counted as lost."""
    with LiveAccessedBits(PageTableBits(), spaces, 400_000_000, budget=1.0) as source:
        look_through(source, EVERYWHERE)
        os.kill(target[0], signal.SIGKILL)
        os.waitid(os.P_PID, target[0], os.WEXITED | os.WNOWAIT)
        (batch,) = look_through(source, EVERYWHERE)
        assert (0, PAGES) == (len(batch.seen.block), batch.lost)  # type: ignore[union-attr]


@pytest.mark.slow_vm("newer")
def test_huge_pages_have_one_bit(quiet_kernel: None) -> None:
    """All pages of a huge page that is touched have the bit, of others none."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    enabled.write_text("always")
    program = CHILD.replace("memory.madvise(15)", "memory.madvise(14)")
    child = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", program], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        first = int(child.stdout.readline())
        spaces = SpaceMap()
        spaces.update(child.pid, np.array([[first, first + PAGES]]))
        with LiveAccessedBits(
            PageTableBits(), spaces, 400_000_000, budget=1.0
        ) as source:
            look_through(source, EVERYWHERE)
            end = time.monotonic() + LIMIT_S
            expected = [False] * 4 + [True] * 12
            found = np.zeros((1, 512), np.bool_)
            while expected != found[:, 1].tolist():
                assert time.monotonic() < end, found[:, 1]
                (batch,) = look_through(source, EVERYWHERE)
                found = pages_of(batch.seen)[1].reshape(-1, 512)  # type: ignore[arg-type]
                assert (found == found[:, :1]).all()
    finally:
        child.stdout.close()
        child.kill()
        child.wait()


def test_debians_kernels_have_no_idle_bitmap() -> None:
    """The probe says what is missing."""
    found = IdlePageBits.probe()
    assert not found.present
    assert "ENOENT: needs a kernel with CONFIG_IDLE_PAGE_TRACKING" in found.why


# ---- mappings


@pytest.mark.slow_vm("newer")
def test_mappings_tell_hot_from_cold(target: tuple[int, int]) -> None:
    """Split by a userfaultfd, chunks of 2 MiB have their shares; else all have one."""
    pid, first = target
    spaces = SpaceMap()
    spaces.update(pid, np.array([[first, first + PAGES]]))
    before = len(Process(pid).mappings())
    for intrusive, expected in (
        (frozenset[int](), None),
        (frozenset({pid}), [0.0] * 4 + [1.0] * 4),
    ):
        with AccessedRanges(
            spaces, interval_s=0.3, budget=1.0, intrusive=intrusive
        ) as source:
            assert () == source.drain()
            assert {} == source.refused
            wanted = [0.25] * 8 if expected is None else expected  # 2226 of 8192 pages
            end = time.monotonic() + LIMIT_S
            share = np.full(PAGES, np.nan)
            while wanted != share[:4096:512].tolist():
                assert time.monotonic() < end, share[:4096:512]
                time.sleep(0.5)  # bits gather
                for batch in source.drain():
                    assert isinstance(batch.seen, RegionCounts)
                    told = rates_of(batch.seen)
                    share[~np.isnan(told)] = told[~np.isnan(told)]
            if expected is None:
                assert [0.25] == np.unique(share).tolist()
    assert before == len(Process(pid).mappings())
