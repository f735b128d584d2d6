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
    EMPTY,
    Ranges,
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
    """Return who manages what, of processes in the order that they were followed."""
    found = Shared()
    # Of each file: [first, last) page of the file, keeper, its virtual page of first.
    kept: dict[tuple[int, int], list[tuple[int, int, int, int]]] = {}
    for mapper in mappers:
        own, pid = mapper.managed.ranges, mapper.pid
        rows: list[tuple[int, int, int, int]] = []
        mappings = mapper.mappings
        for row in np.flatnonzero(shareable(mappings)).tolist():
            start, end = int(mappings.start[row]), int(mappings.end[row])
            here = intersection(mapper.managed.ranges, np.array([[start, end]]))
            if not len(here):
                continue
            name = int(mappings.device[row]), int(mappings.inode[row])
            shift = int(mappings.offset[row]) - start  # of the file, less virtual
            mine = _claim(kept.setdefault(name, []), here, shift, pid)
            rows += mine
        if rows:
            taken = normalised(np.array(rows, np.int64)[:, :2])
            own = difference(own, taken)
            found.aliases[pid] = np.array(sorted(rows), np.int64)
        found.own[pid] = own
    return found


def _claim(
    kept: list[tuple[int, int, int, int]], here: Ranges, shift: int, pid: int
) -> list[tuple[int, int, int, int]]:
    """Take what nobody has of a file; return what is an alias of others'."""
    wanted = here + shift
    aliases: list[tuple[int, int, int, int]] = []
    taken: list[Ranges] = [EMPTY]
    for first, last, keeper, vpage in kept:
        both = intersection(wanted, np.array([[first, last]], np.int64))
        aliases += [
            (low - shift, high - shift, keeper, vpage + low - first)
            for low, high in both.tolist()
        ]
        taken.append(both)
    free = difference(wanted, normalised(np.concatenate(taken)))
    kept += [(low, high, pid, low - shift) for low, high in free.tolist()]
    return aliases


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
