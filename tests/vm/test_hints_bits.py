"""Page tables and mappings in a guest: bits are those of the pages that are touched."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from isotherm.hints.batch import AccessedBits, HintBatch, Look, Mechanism, RegionCounts
from isotherm.hints.live.accessed_bits import LiveAccessedBits
from isotherm.hints.live.accessed_range import AccessedRanges
from isotherm.hints.live.clearing import Clearing
from isotherm.hints.live.idle_page import IdlePageBits
from isotherm.hints.live.page_table import PageTableBits
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import SpaceMap
from tests.vm.touching import (
    CHILD,
    EVERYWHERE,
    LIMIT_S,
    PAGES,
    pages_of,
    rates_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.kernel("6.12", "newer")]


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
    spaces: SpaceMap, toucher: tuple[int, int]
) -> None:
    """Its pages are counted as lost."""
    with LiveAccessedBits(PageTableBits(), spaces, 400_000_000, budget=1.0) as source:
        look_through(source, EVERYWHERE)
        os.kill(toucher[0], signal.SIGKILL)
        os.waitid(os.P_PID, toucher[0], os.WEXITED | os.WNOWAIT)
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
def test_mappings_tell_hot_from_cold(toucher: tuple[int, int]) -> None:
    """Split by a userfaultfd, chunks of 2 MiB have their shares; else all have one."""
    pid, first = toucher
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
