"""From units of device memory to ranges of pages: what a hot list says of the host."""

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGE_BYTES
from isotherm.hints.interleave import Window

NO_PAGE: Final = 0xFFFFFFFF

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]


class FrameTable(Protocol):
    """Which flat page stands on which frame."""

    def frames(self, first: int, last: int) -> NDArray[np.uint32]:
        """Return the frames of flat pages ``[first, last)``; 0 where none is known."""
        ...

    def flat_pages(self, frame: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Return the flat page on each frame, 0xFFFFFFFF where none is known."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """What one device listed.

    Attributes:
        window: Where its memory stands in the host.
        unit: Units, uint64[n]; one may come several times.
        count: Accesses, uint64[n].
        complete: Nothing is missing that was above the threshold.
    """

    window: Window
    unit: Words
    count: Words
    complete: bool


@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges of flat pages with their accesses, ascending.

    Attributes:
        start: uint32[n].
        end: uint32[n].
        count: Accesses of the whole range, where a part of it was seen scaled up,
            float32[n].
        beyond: Units that lie in no window.
        unknown: Frames that no known page stands on.
    """

    start: NDArray[np.uint32]
    end: NDArray[np.uint32]
    count: NDArray[np.float32]
    beyond: int
    unknown: int


def is_shared(window: Window, shift: int) -> bool:
    """Return whether a page is of several units."""
    split = window.ways > 1 and window.granularity < PAGE_BYTES
    return split or (1 << shift) < PAGE_BYTES


def units_a_page(window: Window, shift: int) -> int:
    """Return how many units, of all devices, a page is of."""
    if (1 << shift) <= window.granularity or window.ways == 1:
        return max(1, PAGE_BYTES >> shift)
    return min(window.ways, max(1, PAGE_BYTES // window.granularity))


def to_ranges(
    listed: list[Listed], shift: int, table: FrameTable, *, merge: bool
) -> Ranges:
    """Translate the hot lists of the devices of one region.

    A range of several pages is one row where its pages are neighbours in the flat
    index; where they are not, each row has its share of the count by its pages. A
    page that is of several units has the accesses of those that were listed; of a
    device whose list is not complete only the part that was listed counts as seen,
    and the count is scaled up by it.

    Args:
        listed: What each device listed.
        shift: Units of ``2^shift`` bytes.
        table: Which page stands on which frame.
        merge: One row a range; else one an entry.
    """
    beyond = unknown = 0
    page, length, count, part = [], [], [], []
    whole = 0.0  # share of a page that complete lists have seen
    for one in listed:
        inside = one.window.holds(one.unit, shift)
        beyond += int(len(inside) - inside.sum())
        unit, hits = one.unit[inside], one.count[inside].astype(np.float64)
        if merge:
            unit, back = np.unique(unit, return_inverse=True)
            hits = _sums(back, hits, len(unit))
        found = one.window.pieces(unit, shift)
        rows = _pages(found.frame, found.frames, table)
        unknown += rows.unknown
        each = hits[found.unit] * found.part / found.frames
        page.append(rows.start)
        length.append(rows.length)
        count.append(each[rows.piece] * rows.length)
        seen = found.share[rows.piece]
        if one.complete and one.window.granularity >= PAGE_BYTES:
            seen = np.ones_like(seen)  # its pages are on no other device
        elif one.complete:
            whole += 1 / one.window.ways
            seen = np.zeros_like(seen)
        part.append(seen)
    if not listed:
        nothing = np.empty(0, np.uint32)
        return Ranges(nothing, nothing, np.empty(0, np.float32), 0, 0)
    start, size = np.concatenate(page), np.concatenate(length)
    hits, seen = np.concatenate(count), np.concatenate(part)
    if merge:
        key, back = np.unique(start << 32 | size, return_inverse=True)
        start, size = key >> 32, key & 0xFFFFFFFF
        hits, seen = _sums(back, hits, len(key)), _sums(back, seen, len(key))
    else:
        order = np.argsort(start, kind="stable")
        start, size, hits, seen = start[order], size[order], hits[order], seen[order]
    if is_shared(listed[0].window, shift):
        hits /= np.minimum(seen + whole, 1.0)
    return Ranges(
        start.astype(np.uint32),
        (start + size).astype(np.uint32),
        hits.astype(np.float32),
        beyond,
        unknown,
    )


def _sums(group: NDArray[np.int64], values: Floats, groups: int) -> Floats:
    return np.bincount(group, values, groups).astype(np.float64)


@dataclass(frozen=True, slots=True)
class _Rows:
    piece: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    unknown: int


def _pages(
    frame: NDArray[np.int64], frames: NDArray[np.int64], table: FrameTable
) -> _Rows:
    """Return the runs of flat pages that pieces stand for."""
    piece = np.arange(len(frame))
    if len(frames) and frames.max() > 1:
        piece = np.repeat(piece, frames)
        first = np.repeat(frame - np.cumsum(frames) + frames, frames)
        frame = first + np.arange(len(piece))
    page = table.flat_pages(frame.astype(np.uint64)).astype(np.int64)
    known = page != NO_PAGE
    piece, page = piece[known], page[known]
    unknown = len(known) - len(page)
    if len(frames) == 0 or frames.max() == 1:
        return _Rows(piece, page, np.ones_like(page), unknown)
    order = np.lexsort((page, piece))
    piece, page = piece[order], page[order]
    new = np.ones(len(page), np.bool_)
    new[1:] = (piece[1:] != piece[:-1]) | (page[1:] != page[:-1] + 1)
    begin = np.flatnonzero(new)
    length = np.diff(np.append(begin, len(page)))
    return _Rows(piece[begin], page[begin], length, unknown)


def watched_pages(
    table: FrameTable, pages: int, windows: tuple[Window, ...]
) -> NDArray[np.int64]:
    """Return the flat ranges that stand in windows, int64[k, 2], ascending."""
    frame = table.frames(0, pages)
    inside = np.zeros(len(frame) + 2, np.int8)
    for low, high in {window.frames() for window in windows}:
        inside[1:-1] |= (frame >= low) & (frame < high)
    step = np.diff(inside)
    return np.stack([np.flatnonzero(step == 1), np.flatnonzero(step == -1)], axis=1)
