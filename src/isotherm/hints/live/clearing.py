"""Clearing accessed bits of another process, through the kernel.

Writing 1 to /proc/PID/clear_refs clears every page of the process and nothing
else. It takes its mmap lock for writing, so a large process would wait long to
map memory; faults and accesses do not wait (clear_refs_write(),
fs/proc/task_mmu.c). Translations are not flushed: a page whose translation stays
cached looks untouched, as to all of the kernel's own aging.

MADV_COLD clears a range and flushes. It also moves the pages to the cold end of
the LRU (every time, with MGLRU), passes over pages that several processes map,
and refuses locked ones (madvise_cold_or_pageout_pte_range(), mm/madvise.c).
Measured in the two-tier guest: 240 ns a page against 900 ns.

So a process of up to 4 GiB is cleared as a whole, a larger one by range.
"""

import os
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError
from isotherm.hints.live.bit_reader import GRANULE, GRANULE_BLOCKS, Bits, Granules
from isotherm.machine.linux.intervals import Ranges, cut, normalised, total
from isotherm.machine.linux.pagemap import EXCLUSIVE
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.syscalls import MADV_COLD

#: Bits that stay set are looked for at every so many clearings of a process.
CHECK_EVERY: Final = 8
#: With so many of the set bits not to be cleared, the whole process is.
SHARED_SHARE: Final = 0.05
#: A process with so many managed pages or fewer is cleared as a whole: some 50 to
#: 150 ms under its mmap lock at this size (42 to 150 ns a page).
WHOLE_PAGES: Final = 1 << 20

Read = Callable[[int, Granules], tuple[Bits, NDArray[np.bool_]]]
ProcessOf = Callable[[int], Process | None]


def spans(granule: Granules) -> Ranges:
    """Return the virtual pages of granules as ranges."""
    return normalised(np.stack([granule, granule + 1], axis=1) * GRANULE)


class Clearing:
    """Clears by range while that works, by process where it does not.

    Args:
        read: Reads bits back, to find those that stay set.
        whole_pages: Managed pages up to which a process is cleared as a whole.
        process_of: Returns the process of a pid that the spaces name, or None; the
            caller's to close. A number that has been given out again is then nobody
            that is cleared. None: processes are opened here.
    """

    def __init__(
        self,
        read: Read,
        whole_pages: int = WHOLE_PAGES,
        process_of: ProcessOf | None = None,
    ) -> None:
        self._read = read
        self._whole_pages = whole_pages
        self._process_of = process_of
        self._processes: dict[int, Process] = {}
        self._turns: dict[int, int] = {}
        self._whole: set[int] = set()
        self._stuck: dict[int, dict[int, Bits]] = {}  # by process and granule

    def close(self) -> None:
        """Give the descriptors back."""
        for pid in list(self._processes):
            self._forget(pid)

    def clears_all(self, pid: int, pages: int) -> bool:
        """Return whether a process with so many pages is cleared as a whole."""
        return pages <= self._whole_pages or pid in self._whole

    def _forget(self, pid: int) -> None:
        process = self._processes.pop(pid)
        if self._process_of is None:
            process.close()
        self._whole.discard(pid)
        self._turns.pop(pid, None)
        self._stuck.pop(pid, None)

    def _process(self, pid: int) -> Process | None:
        process = self._processes.get(pid)
        theirs = None if self._process_of is None else self._process_of(pid)
        known = self._process_of is None or theirs is process
        if process is not None and known and process.alive():
            return process
        if process is not None:
            self._forget(pid)
        for other in [p for p, held in self._processes.items() if not held.alive()]:
            self._forget(other)
        if self._process_of is not None:
            if theirs is None or not theirs.alive():
                return None
            self._processes[pid] = theirs
            return theirs
        try:
            process = self._processes[pid] = Process(pid)
        except IsothermError:
            return None
        return process

    def clear(
        self, pid: int, granule: Granules, mapped: NDArray[np.int64]
    ) -> Bits | None:
        """Clear the bits of granules; return those that stay, if any."""
        process = self._process(pid)
        if process is None or len(granule) == 0:
            return None
        if self.clears_all(pid, total(normalised(mapped[:, :2]))):
            self._clear_all(process)
            return None
        ranges = cut(normalised(mapped[:, :2]), spans(granule))
        refused = process.madvise(ranges, MADV_COLD) < total(ranges) << 12
        turn = self._turns.get(pid, 0)
        self._turns[pid] = turn + 1
        if turn % CHECK_EVERY == 0:
            self._find_stuck(process, granule, refused)
        return self._mask(pid, granule)

    def _clear_all(self, process: Process) -> None:
        try:
            fd = process.open("clear_refs", os.O_WRONLY)
        except IsothermError:
            return
        try:
            os.write(fd, b"1")
        except OSError:
            return
        finally:
            os.close(fd)

    def _find_stuck(self, process: Process, granule: Granules, refused: bool) -> None:
        """Note which bits were not cleared because others map the page, too."""
        known = self._stuck.setdefault(process.pid, {})
        for g in granule.tolist():
            known.pop(g, None)
        still, ok = self._read(process.pid, granule)
        stuck_pages = 0
        for row in np.flatnonzero(still.any(axis=1) & ok).tolist():
            start = int(granule[row]) * GRANULE
            try:
                entries = process.pagemap(start, start + GRANULE)
            except IsothermError:
                return
            alone = np.packbits(entries & EXCLUSIVE != 0, bitorder="little")
            stuck = still[row] if refused else still[row] & ~alone
            count = int(np.bitwise_count(stuck).sum())
            if count:
                known[int(granule[row])] = stuck
                stuck_pages += count
        if stuck_pages > SHARED_SHARE * len(granule) * GRANULE:
            self._whole.add(process.pid)
            known.clear()
            self._clear_all(process)

    def _mask(self, pid: int, granule: Granules) -> Bits | None:
        known = self._stuck.get(pid)
        if not known:
            return None
        mask = np.zeros((len(granule), GRANULE_BLOCKS), np.uint8)
        for row, g in enumerate(granule.tolist()):
            if g in known:
                mask[row] = known[g]
        return mask if mask.any() else None
