"""Which flat page stands on a physical frame, from pagemap of the own processes.

Physical evidence (DAMON's physical regions, the idle page bitmap, device lists)
names frames. Only frames of managed processes can be translated: what else is in
memory is counted, never guessed. The map is read in turns, so it is as old as the
time since a page's turn; a page that moved in between is found where it was.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError
from isotherm.hints.live import frame_table as table
from isotherm.machine.linux.pagemap import PRESENT
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import SpaceMap

#: No frame: the page has no memory, or we may not see where.
NO_FRAME: Final = 0
#: Pages read at a time: 256 KiB of entries, which the second-level cache holds.
BLOCK_PAGES: Final = 1 << 15
#: Columns of no mapping at all.
_NOTHING: Final = np.empty(0, np.int64)
NO_EXTENTS: Final = (_NOTHING, _NOTHING, _NOTHING, _NOTHING)

#: Columns base, end, start_vpage, owner of mappings, ascending by base.
Extents = tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.integer]
]

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


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """What a map could and could not translate, since it was made.

    Attributes:
        asked: Frames that somebody asked for.
        found: Of them, those that a managed page stands on.
        read: Pagemap entries read.
        changed: Of them, those with another frame than before.
        shared: Of them, those on a frame that stands for another managed page: it
            is translated to that one.
        hidden: Of them, those whose frame the kernel does not show us.
        beyond: Of them, those on frames beyond 16 TiB.
    """

    asked: int
    found: int
    read: int
    changed: int
    shared: int
    hidden: int
    beyond: int

    @property
    def untranslated(self) -> int:
        """Frames that were asked for and are nobody's here."""
        return self.asked - self.found

    def __str__(self) -> str:
        """In words, with what cannot be translated and why.

        >>> print(FrameCounts(1000, 900, 5000, 10, 3, 0, 2))
        900 of 1000 frames translated; 3 shared entries, 2 beyond 16 TiB
        """
        parts = [
            (self.shared, "shared entries"),
            (self.hidden, "hidden entries (CAP_SYS_ADMIN shows them)"),
            (self.beyond, "beyond 16 TiB"),
        ]
        rest = ", ".join(f"{count} {words}" for count, words in parts if count)
        said = f"{self.found} of {self.asked} frames translated"
        return f"{said}; {rest}" if rest else said


class FrameMap:
    """Frames of the flat pages, and, once somebody looks frames up, the way back.

    Four bytes a page; the way back takes four bytes a frame of every 256 KiB of
    memory that a managed page stands on: four a page where memory is not scattered,
    and in the worst case a thousandth of the host's memory.

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
        self._back: table.Tables | None = None
        self._state = np.zeros(table.STATE, np.int64)
        self._counts = [0, 0, 0]  # asked, found, read
        self._version = -1
        self._extents: Extents = NO_EXTENTS

    def close(self) -> None:
        """Give back the descriptors; may be called again."""
        self._pagemaps.close()

    @property
    def nbytes(self) -> int:
        """Memory of the map."""
        back = 0 if self._back is None else self._back.nbytes
        return int(self._frame.nbytes) + back

    @property
    def counts(self) -> FrameCounts:
        """What was translated so far, and what could not be."""
        state = self._state if self._back is None else self._back.state
        kinds = (table.CHANGED, table.SHARED, table.HIDDEN, table.BEYOND)
        return FrameCounts(*self._counts, *(int(state[kind]) for kind in kinds))

    def refresh(self, pages: int) -> int:
        """Read the entries of the next ``pages`` flat pages in turn.

        Reads ``BLOCK_PAGES`` at a time: memory does not grow with ``pages``. What
        it costs a page: docs/measurements.md#frame-map. Returns how many were read.
        """
        total = self._spaces.pages
        if total > len(self._frame):
            more = np.zeros(total - len(self._frame), np.uint32)
            self._frame = np.concatenate([self._frame, more])
        if self._version != self._spaces.version:
            self._forget_others()
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

    def _forget_others(self) -> None:
        """Forget the frames of pages that are no longer what they were."""
        self._version = self._spaces.version
        before, self._extents = self._extents, self._spaces.extents()
        for first, last in _changed_owner(before, self._extents):
            end = min(last, len(self._frame))
            for at in range(first, end, BLOCK_PAGES):
                nothing = np.zeros(min(BLOCK_PAGES, end - at), np.uint64)
                self._store(nothing, at)

    def _refresh(self, first: int, last: int) -> None:
        base, end, start_vpage, owner = self._extents
        for i in np.flatnonzero((base < last) & (end > first)).tolist():
            low, high = max(first, int(base[i])), min(last, int(end[i]))
            start = int(start_vpage[i]) - int(base[i])
            for at in range(low, high, BLOCK_PAGES):
                upto = min(high, at + BLOCK_PAGES)
                entry = self._read(int(owner[i]), start + at, start + upto)
                self._store(entry, at)
                self._counts[2] += upto - at

    def _store(self, entry: NDArray[np.uint64], first: int) -> None:
        back = self._back
        if back is None:
            table.store_entries(entry, first, self._frame, self._state)
            return
        done = 0
        while True:
            done += table.update(
                entry[done:],
                first + done,
                self._frame,
                back.directory,
                back.page,
                back.used,
                back.free,
                back.state,
            )
            if done == len(entry):
                return
            back.grow(entry[done])

    def frames(self, first: int, last: int) -> NDArray[np.uint32]:
        """Return the frames of flat pages ``[first, last)`` (a view); 0 if none."""
        return self._frame[first:last]

    def flat_pages(self, frame: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Return the flat page on each frame, NO_PAGE where none is known.

        Of a frame that several pages share, the first. A physical address is
        ``frame << 12``. What is not found is counted in ``counts``.
        """
        back = self._back
        if back is None:
            back = self._way_back()
        flat = np.empty(len(frame), np.uint32)
        wanted = np.ascontiguousarray(frame, np.uint64)
        self._counts[1] += table.find(wanted, back.directory, back.page, flat)
        self._counts[0] += len(frame)
        return flat

    def _way_back(self) -> table.Tables:
        """Make the table of frames out of what is known."""
        back = self._back = table.Tables()
        for at in range(0, len(self._frame), BLOCK_PAGES):
            known = self._frame[at : at + BLOCK_PAGES]
            entry = np.where(known > 0, known | PRESENT, np.uint64(0))
            self._store(entry.astype(np.uint64), at)
        # These pages have been counted, but for those that share a frame.
        for kind in (table.CHANGED, table.HIDDEN, table.BEYOND):
            back.state[kind] = self._state[kind]
        return back

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


def _changed_owner(before: Extents, now: Extents) -> Iterator[tuple[int, int]]:
    """Yield ranges of flat pages that stand for something else than before."""
    edge = np.unique(np.concatenate([before[0], before[1], now[0], now[1]]))
    if len(edge) < 2:
        return
    kept = np.ones(len(edge) - 1, np.bool_)
    keys = []
    for base, end, start_vpage, owner in (before, now):
        if len(base) == 0:
            kept[:] = False
            continue
        row = np.searchsorted(base, edge[:-1], side="right") - 1
        kept &= (row >= 0) & (edge[:-1] < end[row])
        keys.append(np.stack([start_vpage[row] - base[row], owner[row]]))
    if len(keys) == 2:
        kept &= (keys[0] == keys[1]).all(0)
    for i in np.flatnonzero(~kept).tolist():
        yield int(edge[i]), int(edge[i + 1])
