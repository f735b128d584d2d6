"""Which flat page is which page of which process.

Virtual pages are given flat pages by the granule: 512 pages, aligned, the size
of a huge page. A granule of a process with any managed page has a flat granule
of its own, so blocks of eight and huge pages never straddle two owners, and a
mapping that is split, joined or grown keeps the flat pages that it had.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGES_PER_HUGE_PAGE
from isotherm.machine.linux.intervals import (
    EMPTY,
    Ranges,
    cut,
    difference,
    normalised,
    total,
)
from isotherm.machine.linux.sharing import resolve

#: Flat page of what no space holds.
NO_PAGE: Final = 0xFFFFFFFF
#: Owner of a flat page that nobody has.
NO_PID: Final = -1
GRANULE: Final = PAGES_PER_HUGE_PAGE
#: Flat pages are uint32, and the last one is NO_PAGE: 16 TiB of pages.
MOST_GRANULES: Final = (1 << 32) // GRANULE - 1

_NO_RUNS = np.empty((0, 3), np.int64)


@dataclass(frozen=True, slots=True)
class _Owned:
    """One process: ``mapped`` virtual pages and where its granules are.

    Attributes:
        mapped: Managed virtual pages, normalised.
        runs: int64[n, 3]: first virtual granule, one past the last, first flat
            granule; ascending by virtual granule.
        extents: int64[n, 3]: start_vpage, end_vpage, base; ascending.
    """

    mapped: Ranges
    runs: NDArray[np.int64]
    extents: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Table:
    """All extents, ascending by base: what ``locate`` searches."""

    base: NDArray[np.int64]
    end: NDArray[np.int64]
    start_vpage: NDArray[np.int64]
    pid: NDArray[np.int32]


_EMPTY_TABLE = _Table(*(np.empty(0, np.int64),) * 3, np.empty(0, np.int32))


class SpaceMap:
    """Gives flat pages to the mappings of processes, and takes them back.

    A pure data structure: it reads nothing. One thread may look things up while
    another updates it; a look-up sees the state before or after an update.

    Args:
        most_granules: Most granules of 512 flat pages; what does not fit is left
            out and counted in ``left_out_pages``.
    """

    def __init__(self, most_granules: int = MOST_GRANULES) -> None:
        self._most = most_granules
        self._owned: dict[int, _Owned] = {}
        self._left_out: dict[int, int] = {}
        #: Free flat granules below ``_top``, normalised.
        self._free: Ranges = EMPTY
        #: Given up since the last ``take_renewed``: not given out again before it,
        #: so that what is on its way to the old owner meets no new one.
        self._resting: list[Ranges] = []
        self._top = 0
        self._pages = 0
        self._renewed: list[Ranges] = []
        self._table: _Table | None = _EMPTY_TABLE
        #: What processes map of others' pages: see `sharing`.
        self._aliases: dict[int, NDArray[np.int64]] = {}
        #: Counts up with every change; for those who keep what they looked up.
        self.version = 0

    # -- changing ---------------------------------------------------------

    def update(self, pid: int, mapped: Ranges) -> bool:
        """Make ``mapped`` the managed pages of a process; return whether it changed.

        Pages that were managed before keep their flat pages.

        Args:
            pid: A process id > 0.
            mapped: Virtual page numbers, int64[n, 2] ``[start, end)``, in any order.
        """
        old = self._owned.get(pid)
        mapped = normalised(np.asarray(mapped, np.int64).reshape(-1, 2))
        if old is None:
            if len(mapped) == 0:
                return False
            old = _Owned(EMPTY, _NO_RUNS, _NO_RUNS)
        left_out = self._left_out.get(pid, 0)
        if np.array_equal(old.mapped, mapped) and not left_out:
            return False
        wanted = normalised(
            np.stack([mapped[:, 0] // GRANULE, -(-mapped[:, 1] // GRANULE)], axis=1)
        )
        runs = self._keep(old.runs, wanted)
        runs, left = self._allocate(runs, wanted)
        extents = _extents(mapped, runs)
        if left:
            mapped = normalised(extents[:, :2])
        self._left_out[pid] = left * GRANULE
        self._note(old, difference(old.mapped, mapped))
        new = _Owned(mapped, runs, extents)
        self._note(new, difference(mapped, old.mapped))
        ends = extents[:, 2] + extents[:, 1] - extents[:, 0]
        self._pages = max(self._pages, int(ends.max(initial=0)))
        owned = dict(self._owned)
        if len(mapped):
            owned[pid] = new
        else:
            owned.pop(pid, None)
            self._left_out.pop(pid, None)
        self._owned = owned
        self._table = None
        self.version += 1
        return True

    def set_aliases(self, aliases: dict[int, NDArray[np.int64]]) -> None:
        """Have pages of processes stand for pages of others, and for no others."""
        old = self._aliases
        if aliases.keys() == old.keys() and all(
            np.array_equal(rows, old[pid]) for pid, rows in aliases.items()
        ):
            return
        self._aliases = dict(aliases)
        self.version += 1

    @property
    def aliases(self) -> dict[int, NDArray[np.int64]]:
        """What processes map of others' pages, int64[n, 4] by process."""
        return self._aliases

    def forget(self, pid: int) -> bool:
        """Give up all pages of a process; return whether it had any."""
        return self.update(pid, EMPTY)

    def take_renewed(self) -> NDArray[np.int64]:
        """Return and clear the flat ranges whose history is void, int64[n, 2].

        They were given to a new owner or given up since the last call.
        """
        renewed = normalised(np.concatenate([EMPTY, *self._renewed]))
        self._renewed = []
        self._free = normalised(np.concatenate([self._free, *self._resting]))
        self._resting = []
        return renewed

    # -- looking up -------------------------------------------------------

    @property
    def pages(self) -> int:
        """Length of the flat index: one past the last page ever given out."""
        return self._pages

    @property
    def mapped_pages(self) -> int:
        """Pages that have an owner now."""
        return sum(total(owned.mapped) for owned in self._owned.values())

    @property
    def left_out_pages(self) -> int:
        """Pages for which the flat index had no room."""
        return sum(self._left_out.values())

    def pids(self) -> tuple[int, ...]:
        """Return the processes that have pages, or map others', ascending."""
        return tuple(sorted(self._owned.keys() | self._aliases.keys()))

    def ranges(self, pid: int) -> NDArray[np.int64]:
        """Return int64[n, 3]: start_vpage, end_vpage, base; ascending by address.

        Empty for a process that has none.
        """
        owned = self._owned.get(pid)
        return _NO_RUNS if owned is None else owned.extents

    def extents(
        self,
    ) -> tuple[
        NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]
    ]:
        """Return base, end, start_vpage and pid of all extents, ascending by base."""
        table = self._sorted()
        return table.base, table.end, table.start_vpage, table.pid

    def flat_pages(self, pid: int, vpage: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Return the flat page of each virtual page, NO_PAGE where it has none."""
        aliases = self._aliases.get(pid)
        if aliases is None:
            return self._own_pages(pid, vpage)
        flat = self._own_pages(pid, vpage)
        rest = np.flatnonzero(flat == NO_PAGE)
        keeper, there = resolve(aliases, vpage[rest].astype(np.int64))
        for one in np.unique(keeper[keeper >= 0]).tolist():
            rows = keeper == one
            page = there[rows].astype(np.uint64)
            flat[rest[rows]] = self._own_pages(one, page)
        return flat

    def _own_pages(self, pid: int, vpage: NDArray[np.uint64]) -> NDArray[np.uint32]:
        extents = self.ranges(pid)
        flat = np.full(len(vpage), NO_PAGE, np.uint32)
        if len(extents) == 0 or len(vpage) == 0:
            return flat
        page = vpage.astype(np.int64)
        at = np.searchsorted(extents[:, 0], page, side="right") - 1
        known = at >= 0
        at[~known] = 0
        known &= page < extents[at, 1]
        at, page = at[known], page[known]
        flat[known] = (extents[at, 2] + page - extents[at, 0]).astype(np.uint32)
        return flat

    def locate(
        self, page: NDArray[np.uint32]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """Return owner and virtual page of each flat page; NO_PID and 0 if none."""
        table = self._sorted()
        pid = np.full(len(page), NO_PID, np.int32)
        vpage = np.zeros(len(page), np.uint64)
        if len(table.base) == 0 or len(page) == 0:
            return pid, vpage
        flat = page.astype(np.int64)
        at = np.searchsorted(table.base, flat, side="right") - 1
        known = at >= 0
        at[~known] = 0
        known &= flat < table.end[at]
        at, flat = at[known], flat[known]
        pid[known] = table.pid[at]
        vpage[known] = (table.start_vpage[at] + flat - table.base[at]).astype(np.uint64)
        return pid, vpage

    def _sorted(self) -> _Table:
        table = self._table
        if table is not None:
            return table
        owned = self._owned
        rows = [o.extents for o in owned.values()]
        if not rows:
            self._table = _EMPTY_TABLE
            return _EMPTY_TABLE
        all_rows = np.concatenate(rows)
        pid = np.repeat(np.array(list(owned), np.int32), [len(r) for r in rows])
        order = np.argsort(all_rows[:, 2])
        all_rows = all_rows[order]
        length = all_rows[:, 1] - all_rows[:, 0]
        base = np.ascontiguousarray(all_rows[:, 2])
        table = _Table(
            base, base + length, np.ascontiguousarray(all_rows[:, 0]), pid[order]
        )
        if owned is self._owned:
            self._table = table
        return table

    # -- granules ---------------------------------------------------------

    def _keep(self, runs: NDArray[np.int64], wanted: Ranges) -> NDArray[np.int64]:
        """Return the runs cut to what is wanted; the rest goes to rest."""
        if len(runs) == 0:
            return runs
        gone = cut(difference(normalised(runs[:, :2]), wanted), runs[:, :2])
        if len(gone):
            at = np.searchsorted(runs[:, 0], gone[:, 0], side="right") - 1
            flat = gone + (runs[at, 2] - runs[at, 0])[:, None]
            self._resting.append(flat)
        kept = cut(wanted, runs[:, :2])
        at = np.searchsorted(runs[:, 0], kept[:, 0], side="right") - 1
        flat_start = runs[at, 2] + kept[:, 0] - runs[at, 0]
        return np.column_stack([kept, flat_start])

    def _allocate(
        self, runs: NDArray[np.int64], wanted: Ranges
    ) -> tuple[NDArray[np.int64], int]:
        """Return runs for all that is wanted, and how many granules found no room."""
        new = difference(wanted, normalised(runs[:, :2]))
        rows = [runs]
        left = 0
        for start, end in new.tolist():
            before = runs[runs[:, 1] == start]
            near = -1
            if len(before):
                near = int(before[0, 2] + before[0, 1] - before[0, 0])
            at = start
            while at < end:
                flat, length = self._grab(end - at, near)
                if length == 0:
                    left += end - at
                    break
                rows.append(np.array([[at, at + length, flat]], np.int64))
                at, near = at + length, flat + length
        joined = np.concatenate(rows)
        return _joined(joined[np.argsort(joined[:, 0])]), left

    def _grab(self, length: int, near: int) -> tuple[int, int]:
        """Take up to ``length`` free granules in a row; return first and how many.

        At ``near`` if that is free, else the first gap that holds all, else the
        end, else the largest gap.
        """
        free = self._free
        size = free[:, 1] - free[:, 0]
        at = np.flatnonzero(free[:, 0] == near)
        if len(at):
            i = int(at[0])
        elif near == self._top < self._most:
            return self._grow(length)
        else:
            fits = np.flatnonzero(size >= length)
            if len(fits):
                i = int(fits[0])
            elif self._top < self._most:
                return self._grow(length)
            elif len(free):
                i = int(size.argmax())
            else:
                return 0, 0
        first, took = int(free[i, 0]), min(length, int(size[i]))
        rest = free.copy()
        rest[i, 0] += took
        self._free = rest[rest[:, 0] < rest[:, 1]]
        return first, took

    def _grow(self, length: int) -> tuple[int, int]:
        first, took = self._top, min(length, self._most - self._top)
        self._top += took
        return first, took

    def _note(self, owned: _Owned, vpages: Ranges) -> None:
        """Note virtual pages of an owner as renewed."""
        if len(vpages):
            extents = _extents(vpages, owned.runs)
            base = extents[:, 2]
            self._renewed.append(
                np.stack([base, base + extents[:, 1] - extents[:, 0]], axis=1)
            )


def _joined(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return runs with those joined that follow each other on both sides."""
    if len(runs) < 2:
        return runs
    length = runs[:, 1] - runs[:, 0]
    after = runs[:, 2] + length
    first = np.ones(len(runs), np.bool_)
    first[1:] = (runs[1:, 0] != runs[:-1, 1]) | (runs[1:, 2] != after[:-1])
    start = np.flatnonzero(first)
    last = np.concatenate([start[1:], [len(runs)]]) - 1
    return np.column_stack([runs[start, 0], runs[last, 1], runs[start, 2]])


def _extents(mapped: Ranges, runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return start_vpage, end_vpage and base of mapped pages that have granules."""
    pieces = cut(mapped, runs[:, :2] * GRANULE)
    if len(pieces) == 0:
        return _NO_RUNS
    at = np.searchsorted(runs[:, 0], pieces[:, 0] // GRANULE, side="right") - 1
    base = runs[at, 2] * GRANULE + pieces[:, 0] - runs[at, 0] * GRANULE
    return np.column_stack([pieces, base])
