"""DAMON in a guest: regions and single pages are what the target touches.

What it says is compared with that, page by page.
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
from isotherm.hints.live.damon import DamonRegions
from isotherm.hints.live.damon_admin import ADMIN, DamonAdmin, in_use, patiently
from isotherm.hints.live.damon_pages import DamonPages
from isotherm.hints.live.frame_map import FrameMap
from isotherm.machine.linux.spaces import SpaceMap
from tests.vm.touching import (
    BLOCK,
    LIMIT_S,
    PAGES,
    pages_of,
    rates_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.kernel("6.12", "newer")]
DAMON_STAT = Path("/sys/module/damon_stat/parameters/enabled")


@pytest.fixture(autouse=True)
def damon_is_free() -> Iterator[None]:
    """Have DAMON_STAT, which newer kernels start by themselves, leave DAMON to us."""
    before = DAMON_STAT.read_text().strip() if DAMON_STAT.exists() else "N"
    if before == "Y":
        DAMON_STAT.write_text("N")
    yield
    if before == "Y":
        DAMON_STAT.write_text("Y")


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


def nr_kdamonds() -> int:
    """Return how many kdamonds sysfs has."""
    return int((ADMIN / "kdamonds/nr_kdamonds").read_text())


def is_on() -> bool:
    """Return whether kdamond 0 runs."""
    return patiently((ADMIN / "kdamonds/0/state").read_text).strip() == "on"


# ---- regions


def test_the_hot_block_is_found_and_nothing_is_left(
    spaces: SpaceMap, tmp_path: Path
) -> None:
    """The block's pages are hot, the quarter before it cold; sysfs is as it was."""
    changes = HostChanges(tmp_path / "journal")
    with DamonRegions(spaces, DamonAdmin(changes, 1), budget=0.2) as source:
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


def test_among_all_memory_the_hot_block_stands_out(spaces: SpaceMap) -> None:
    """By frames, its rate is many times that of cold memory, and less than its own.

    A region of frames is seldom the block alone: it has strangers' frames in it,
    and the block stands in several. So it is told apart by what many aggregations
    say together, and how hot it is by none.
    """
    admin, frames = DamonAdmin(HostChanges(None), 1), FrameMap(spaces)
    said, count = np.zeros(PAGES), np.zeros(PAGES)
    with DamonRegions(spaces, admin, frames=frames, budget=0.2) as source:
        end = time.monotonic() + LIMIT_S
        while True:
            for batch in wait_for_batches(source, 1):
                rate = rates_of(batch.seen)  # type: ignore[arg-type]
                told = np.isfinite(rate)
                said[told] += rate[told]
                count += told
            mean = said / np.maximum(count, 1)
            hot, cold = mean[slice(*BLOCK)].mean(), mean[:1536].mean()
            if count.min() >= 10 and hot > 0.05 and hot > 5 * cold:
                break
            assert time.monotonic() < end, (count.min(), hot, cold, source.error)
        assert nr_kdamonds() == 1
    assert 0 == nr_kdamonds()


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
def test_new_spaces_are_followed(spaces: SpaceMap, toucher: tuple[int, int]) -> None:
    """A range that is added while kdamond runs is in the next batches."""
    pid, first = toucher
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
    toucher: tuple[int, int], spaces: SpaceMap
) -> None:
    """The kdamond ends with its only target; the source goes on without an error."""
    pid, _ = toucher
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
    toucher: tuple[int, int], tmp_path: Path
) -> None:
    """A killed user's kdamonds run on until the journal is read; then none is left."""
    pid, first = toucher
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
        # A bit that is not set: the target did not get round in that window.
        while (known[3968:4352] != truth[3968:4352]).any():
            assert time.monotonic() < end, (known[3968:4352], source.error)
            for batch in wait_for_batches(source, 1):
                assert isinstance(batch.seen, AccessedBits)
                page, found = pages_of(batch.seen)
                assert not (found & ~truth[page]).any()
                known[page] = np.maximum(known[page], found)
                cost_ns += batch.background_ns
    assert cost_ns > 0
    assert (known[:3968] == -1).all()
    assert (0, 0) == (nr_kdamonds(), changes.pending)
    changes.close()
