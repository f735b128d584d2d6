"""Which flat page stands on a physical frame, from pagemap of the own processes.

Physical evidence (DAMON's physical regions, the idle page bitmap, device lists)
names frames. Only frames of managed processes can be translated: what else is in
memory is counted, never guessed. The map is read in turns, so it is as old as the
time since a page's turn; a page that moved in between is found where it was.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError
from isotherm.machine.linux.pagemap import FRAME, PRESENT
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import NO_PAGE, SpaceMap

#: No frame: the page has no memory, or we may not see where.
NO_FRAME: Final = 0

#: Reads pagemap entries of virtual pages [start, end) of a process, uint64.
ReadEntries = Callable[[int, int, int], NDArray[np.uint64]]


class Pagemaps:
    """Pagemap of several processes; the default way to read entries."""

    def __init__(self) -> None:
        self._open: dict[int, Process] = {}

    def read(self, pid: int, start: int, end: int) -> NDArray[np.uint64]:
        """Return the entries; zeros where the process is gone or not ours."""
        try:
            held = self._open.get(pid)
            if held is None or not held.alive():
                self.close_gone()
                held = self._open[pid] = Process(pid)
            return held.pagemap(start, end)
        except IsothermError:
            return np.zeros(end - start, np.uint64)

    def close_gone(self) -> None:
        """Give back the descriptors of processes that have ended."""
        for pid in [p for p, held in self._open.items() if not held.alive()]:
            self._open.pop(pid).close()

    def close(self) -> None:
        """Give back all descriptors."""
        for held in self._open.values():
            held.close()
        self._open = {}


class FrameMap:
    """Frames of the flat pages, four bytes a page.

    Args:
        spaces: Which page is whose.
        read: Reads pagemap entries; None: from /proc.
    """

    def __init__(self, spaces: SpaceMap, read: ReadEntries | None = None) -> None:
        self._spaces = spaces
        self._pagemaps = Pagemaps()
        self._read = read or self._pagemaps.read
        self._frame = np.zeros(0, np.uint32)
        self._next = 0  # flat page at which the next turn begins
        self._sorted: tuple[NDArray[np.uint32], NDArray[np.uint32]] | None = None
        self._version = -1

    def close(self) -> None:
        """Give back the descriptors; may be called again."""
        self._pagemaps.close()

    @property
    def nbytes(self) -> int:
        """Memory of the map."""
        extra = 0 if self._sorted is None else sum(c.nbytes for c in self._sorted)
        return int(self._frame.nbytes) + extra

    def refresh(self, pages: int) -> int:
        """Read the entries of the next ``pages`` flat pages in turn.

        Some 32 ns a page. Returns how many were read.
        """
        total = self._spaces.pages
        if total > len(self._frame):
            more = np.zeros(total - len(self._frame), np.uint32)
            self._frame = np.concatenate([self._frame, more])
        if self._version != self._spaces.version:
            self._forget_unowned()
        if total == 0:
            return 0
        done, at = 0, self._next % total
        while done < min(pages, total):
            end = min(total, at + min(pages, total) - done)
            self._refresh(at, end)
            done += end - at
            at = end % total
        self._next = at
        return done

    def _forget_unowned(self) -> None:
        self._version = self._spaces.version
        base, end, _, _ = self._spaces.extents()
        step = np.zeros(len(self._frame) + 1, np.int32)
        np.add.at(step, base, 1)
        np.add.at(step, end, -1)
        self._frame[np.cumsum(step[:-1]) == 0] = NO_FRAME
        self._sorted = None

    def _refresh(self, first: int, last: int) -> None:
        base, end, start_vpage, owner = self._spaces.extents()
        for i in np.flatnonzero((base < last) & (end > first)).tolist():
            low, high = max(first, int(base[i])), min(last, int(end[i]))
            start = int(start_vpage[i]) + low - int(base[i])
            entry = self._read(int(owner[i]), start, start + high - low)
            frame = np.where(entry & PRESENT != 0, entry & FRAME, np.uint64(NO_FRAME))
            # 2^32 frames are 16 TiB; what lies beyond is not translated.
            frame[frame >> np.uint64(32) != 0] = NO_FRAME
            self._frame[low:high] = frame.astype(np.uint32)
        self._sorted = None

    def frames(self, first: int, last: int) -> NDArray[np.uint32]:
        """Return the frames of flat pages ``[first, last)`` (a view); 0 if none."""
        return self._frame[first:last]

    def _by_frame(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        if self._sorted is None:
            page = np.flatnonzero(self._frame).astype(np.uint32)
            frame = self._frame[page]
            order = np.argsort(frame, kind="stable")
            self._sorted = frame[order], page[order]
        return self._sorted

    def flat_pages(self, frame: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Return the flat page on each frame, NO_PAGE where none is known.

        Of a frame that several pages share, the first.
        """
        known, page = self._by_frame()
        flat = np.full(len(frame), NO_PAGE, np.uint32)
        if len(known) == 0 or len(frame) == 0:
            return flat
        at = np.searchsorted(known, frame.astype(np.uint64))
        at[at == len(known)] = 0
        there = known[at] == frame
        flat[there] = page[at[there]]
        return flat

    def to_flat(
        self, start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
        """Cut regions of frames into ranges of flat pages.

        Args:
            start: First frame of each region, ascending and disjoint, int64[n].
            end: One past the last.

        Returns:
            Which region, first flat page and one past the last, int64[k] each,
            ascending by page; and how many regions hold no page that is known.
        """
        page = np.flatnonzero(self._frame)
        frame = self._frame[page].astype(np.int64)
        if len(start) == 0 or len(page) == 0:
            nothing = np.empty(0, np.int64)
            return nothing, nothing, nothing, len(start)
        region = np.searchsorted(start, frame, side="right") - 1
        inside = (region >= 0) & (frame < end[region])
        page, region = page[inside], region[inside]
        if len(page) == 0:
            return page, page, page, len(start)
        first = np.ones(len(page), np.bool_)
        first[1:] = (page[1:] != page[:-1] + 1) | (region[1:] != region[:-1])
        begin = np.flatnonzero(first)
        last = np.concatenate([begin[1:], [len(page)]]) - 1
        empty = len(start) - len(np.unique(region))
        return region[begin], page[begin], page[last] + 1, empty
