"""Memory that several processes map: managed once, whoever accesses it.

Pages of files and of shared memory have one name in all processes: device, inode and
offset. The first process that was followed of those that map a page manages it, the
keeper; what others map of it is an alias of the keeper's page, so that their accesses
count for it and it is moved once. When the keeper lets go, the next one is.

Private mappings that may be written are each process's own: what was written is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.linux.intervals import (
    Ranges,
    cut,
    difference,
    intersection,
    normalised,
    total,
)
from isotherm.machine.linux.mappings import Kind, Managed, Mappings

#: Columns of aliases: first and last virtual page, keeper, its first virtual page.
ALIAS_COLUMNS = 4
NO_ALIASES: NDArray[np.int64] = np.empty((0, ALIAS_COLUMNS), np.int64)


class Mapper(Protocol):
    """A process with its mappings: a ``Target``."""

    @property
    def pid(self) -> int:
        """The process."""
        ...

    @property
    def mappings(self) -> Mappings:
        """All of them."""
        ...

    @property
    def managed(self) -> Managed:
        """What of them is managed, were it alone."""
        ...


@dataclass(frozen=True, slots=True)
class Shared:
    """Who manages what.

    Attributes:
        own: Virtual pages that each process manages itself, by process.
        aliases: What it maps of others', int64[n, 4] by process: virtual pages
            [start, end), the keeper, the keeper's virtual page of the first.
    """

    own: dict[int, Ranges] = field(default_factory=dict)
    aliases: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def aliased_pages(self) -> int:
        """Virtual pages that are managed by way of another mapping."""
        return sum(int((a[:, 1] - a[:, 0]).sum()) for a in self.aliases.values())


def shareable(mappings: Mappings) -> NDArray[np.bool_]:
    """Return which mappings show pages that others may map as well, bool[n]."""
    named = np.isin(mappings.kind, (Kind.SHMEM, Kind.FILE)) & (mappings.inode > 0)
    kept: NDArray[np.bool_] = named & (mappings.shared | ~mappings.writable)
    return kept


def split(mappers: Iterable[Mapper]) -> Shared:
    """Return who manages what, of processes in the order that they were followed.

    All pieces of files are cut at each other's borders; of those that show the same
    pages the first manages them. Costs a few array operations a process.
    """
    found = Shared()
    pids: list[int] = []
    parts: list[_Pieces] = []
    for mapper in mappers:
        own = mapper.managed.ranges
        found.own[mapper.pid] = own
        pids.append(mapper.pid)
        parts.append(_pieces(mapper.mappings, own))
    rows = np.concatenate([_NO_PIECES, *parts])
    who = np.repeat(np.array(pids, np.int64), [len(part) for part in parts])
    if not len(rows):
        return found
    row, keeper, low, high = _shown_twice(rows)
    first = rows[row, _VPAGE] + low - rows[row, _FIRST]
    there = rows[keeper, _VPAGE] + low - rows[keeper, _FIRST]
    aliases = np.stack([first, first + high - low, who[keeper], there], axis=1)
    for pid in np.unique(who[row]).tolist():
        own = aliases[who[row] == pid]
        found.aliases[pid] = own[np.lexsort(own.T[::-1])]
        taken = normalised(np.ascontiguousarray(own[:, :2]))
        found.own[pid] = difference(found.own[pid], taken)
    return found


#: Columns of pieces: device and inode of the file, its pages [first, last), and the
#: virtual page of the first.
_DEVICE, _INODE, _FIRST, _LAST, _VPAGE = range(5)
_Pieces = NDArray[np.int64]
_NO_PIECES: _Pieces = np.empty((0, 5), np.int64)


def _pieces(mappings: Mappings, managed: Ranges) -> _Pieces:
    """Return what a process maps of files that others may map, by virtual page."""
    row = np.flatnonzero(shareable(mappings))
    if not len(row):
        return _NO_PIECES
    start = mappings.start[row]
    at = np.stack([start, mappings.end[row]], axis=1)
    here = cut(managed, at)
    of = np.searchsorted(start, here[:, 0], side="right") - 1
    shift = mappings.offset[row][of] - start[of]
    return np.stack(
        [
            mappings.device[row][of],
            mappings.inode[row][of],
            here[:, 0] + shift,
            here[:, 1] + shift,
            here[:, 0],
        ],
        axis=1,
    )


def _shown_twice(rows: _Pieces) -> tuple[NDArray[np.int64], ...]:
    """Return pieces of files that an earlier row shows as well.

    Returns:
        Row, the first row that shows the same pages, and these pages of the file
        [low, high); joined where they lie beside each other.
    """
    order = np.lexsort((rows[:, _INODE], rows[:, _DEVICE]))
    name = rows[order][:, [_DEVICE, _INODE]]
    new = np.any(name[1:] != name[:-1], axis=1)
    file = np.empty(len(rows), np.int64)
    file[order] = np.concatenate([[0], np.cumsum(new)])
    # Borders of pieces, by file and page; a row covers those between its own.
    border = np.concatenate([file, file]), np.concatenate([rows[:, 2], rows[:, 3]])
    order = np.lexsort((border[1], border[0]))
    of, page = border[0][order], border[1][order]
    other = (of[1:] != of[:-1]) | (page[1:] != page[:-1])
    number = np.concatenate([[0], np.cumsum(other)])
    kept = np.concatenate([[0], np.flatnonzero(other) + 1])
    page = page[kept]
    place = np.empty(len(order), np.int64)
    place[order] = number
    begin, end = place[: len(rows)], place[len(rows) :]
    size = end - begin
    row = np.repeat(np.arange(len(rows)), size)
    segment = np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size)
    segment += begin[row]
    first = np.full(len(page), len(rows), np.int64)
    np.minimum.at(first, segment, row)
    alias = first[segment] < row
    row, segment = row[alias], segment[alias]
    keeper = first[segment]
    if not len(row):
        return row, keeper, row, row
    joins = (row[1:] == row[:-1]) & (keeper[1:] == keeper[:-1])
    joins &= segment[1:] == segment[:-1] + 1
    begins = np.concatenate([[True], ~joins])
    ends = np.concatenate([~joins, [True]])
    low, high = page[segment[begins]], page[segment[ends] + 1]
    return row[begins], keeper[begins], low, high


def resolve(
    aliases: NDArray[np.int64], vpage: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return keeper and its virtual page of each page, -1 where it is no alias."""
    keeper = np.full(len(vpage), -1, np.int64)
    there = np.zeros(len(vpage), np.int64)
    if len(aliases) == 0 or len(vpage) == 0:
        return keeper, there
    at = np.searchsorted(aliases[:, 0], vpage, side="right") - 1
    inside = (at >= 0) & (vpage < aliases[np.maximum(at, 0), 1])
    row = aliases[at[inside]]
    keeper[inside] = row[:, 2]
    there[inside] = row[:, 3] + vpage[inside] - row[:, 0]
    return keeper, there


def mirrors(
    aliases: dict[int, NDArray[np.int64]], keeper: int, ranges: Ranges
) -> Sequence[tuple[int, int, int, int]]:
    """Return where else pages of a keeper are mapped.

    Args:
        aliases: By process, as in `Shared`.
        keeper: A process.
        ranges: Virtual pages of it, normalised.

    Returns:
        Process, its first virtual page, the keeper's [start, end).
    """
    found: list[tuple[int, int, int, int]] = []
    for pid, rows in aliases.items():
        for start, end, who, vpage in rows.tolist():
            if who != keeper:
                continue
            span = np.array([[vpage, vpage + end - start]], np.int64)
            for low, high in intersection(ranges, span).tolist():
                found.append((pid, start + low - vpage, low, high))
    return found


def aliased(shared: Shared, pid: int) -> int:
    """Return how many pages of a process another mapping manages."""
    rows = shared.aliases.get(pid, NO_ALIASES)
    return total(normalised(rows[:, :2])) if len(rows) else 0
