"""A modelled last-level cache: what of a program's references reaches memory.

Set-associative, 64-byte lines, 16 ways, exact LRU within a set, write-allocate
and write-back, indexed by the virtual address (``line % sets``): one level, no
prefetcher, no sharing. A reference that crosses a line touches both lines.

A miss hands on one read of the line's page (the fill, for loads and stores
alike); when the line it evicts was written to, one write of that line's page
follows (the write-back). What is still in the cache at the end stays there.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isotherm.core.errors import UsageError
from isotherm.core.kernels import kernel
from isotherm.core.units import CACHE_LINE_BYTES, PAGE_BYTES, render_bytes

WAYS = 16
#: Smallest cache, and the step: one set.
SET_BYTES = WAYS * CACHE_LINE_BYTES
_LINE_SHIFT = CACHE_LINE_BYTES.bit_length() - 1
_PAGE_SHIFT = PAGE_BYTES.bit_length() - 1
#: An empty way. Entries are ``line << 1 | dirty``; no line is this large.
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


class MemoryAccesses(NamedTuple):
    """What reached memory, in order, as columns of equal length.

    Attributes:
        page: Page number (address / 4096), uint64.
        write: 1 for a write-back (without a cache: for a write), uint8.
        source: Index of the reference that caused it, int64, non-decreasing.
    """

    page: NDArray[np.uint64]
    write: NDArray[np.uint8]
    source: NDArray[np.int64]


class LastLevelCache:
    """The cache, with its state between blocks of references.

    Args:
        size_bytes: Capacity, a multiple of 1024 (one set of 16 lines); 0 lets
            every reference through, once for each page that it touches.

    Raises:
        UsageError: The size is negative or no multiple of 1024.
    """

    def __init__(self, size_bytes: int) -> None:
        if size_bytes < 0 or size_bytes % SET_BYTES:
            raise UsageError(
                f"cache of {size_bytes} B: expected a multiple of "
                f"{render_bytes(SET_BYTES)} (16 lines of 64 B), or 0 for no cache",
                hint="--llc 8MiB",
            )
        self.size_bytes = size_bytes
        self.sets = size_bytes // SET_BYTES
        #: Most recently used first: ``(sets, 16)``, ``line << 1 | dirty``.
        self._ways = np.full((self.sets, WAYS), _EMPTY, dtype=np.uint64)

    def filter(
        self, address: ArrayLike, write: ArrayLike, size: ArrayLike = 1
    ) -> MemoryAccesses:
        """Return what a block of references sends to memory.

        Args:
            address: First byte of each reference, uint64, shape (n,).
            write: 1 for a write, shape (n,).
            size: Bytes touched, 1 to 65535, shape (n,) or one for all.

        Raises:
            ValueError: A reference of 0 bytes, or one that runs past 2**64.
        """
        first = np.ascontiguousarray(address, dtype=np.uint64)
        wrote = np.ascontiguousarray(write, dtype=np.uint8)
        touched = np.broadcast_to(np.asarray(size, dtype=np.uint16), first.shape)
        last = first + (touched - np.uint64(1))
        if len(first) and (not touched.all() or np.any(last < first)):
            raise ValueError("filter: expected references of >= 1 byte below 2**64")
        shift = np.uint64(_LINE_SHIFT if self.sets else _PAGE_SHIFT)
        begin, end = first >> shift, last >> shift
        touches = int(np.sum(end - begin)) + len(first)
        capacity = 2 * touches if self.sets else touches
        page = np.empty(capacity, dtype=np.uint64)
        write_back = np.empty(capacity, dtype=np.uint8)
        source = np.empty(capacity, dtype=np.int64)
        if self.sets:
            rows = _filter(begin, end, wrote, self._ways, page, write_back, source)
        else:
            rows = _split(begin, end, wrote, page, write_back, source)
        # Copies: the buffers are an upper bound many times what is left.
        return MemoryAccesses(
            page[:rows].copy(), write_back[:rows].copy(), source[:rows].copy()
        )


def _split(
    begin: NDArray[np.uint64],
    end: NDArray[np.uint64],
    write: NDArray[np.uint8],
    page: NDArray[np.uint64],
    out_write: NDArray[np.uint8],
    source: NDArray[np.int64],
) -> int:
    """Write a row for each page that each reference touches; return the rows."""
    counts = (end - begin).astype(np.int64) + 1
    total = int(counts.sum())
    source[:total] = np.repeat(np.arange(len(begin)), counts)
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    page[:total] = begin[source[:total]] + within.astype(np.uint64)
    out_write[:total] = write[source[:total]] != 0
    return total


def _filter_plain(
    begin: NDArray[np.uint64],
    end: NDArray[np.uint64],
    write: NDArray[np.uint8],
    ways: NDArray[np.uint64],
    page: NDArray[np.uint64],
    out_write: NDArray[np.uint8],
    source: NDArray[np.int64],
) -> int:
    """Do what :func:`_filter` does, in plain Python integers and lists."""
    sets = [[entry for entry in row if entry != int(_EMPTY)] for row in ways.tolist()]
    rows = 0
    columns = zip(begin.tolist(), end.tolist(), write.tolist(), strict=True)
    for index, (first, last, wrote) in enumerate(columns):
        for line in range(first, last + 1):
            row = sets[line % len(sets)]
            dirty = 1 if wrote else 0
            found = [entry for entry in row if entry >> 1 == line]
            if found:
                row.remove(found[0])
                row.insert(0, found[0] | dirty)
                continue
            row.insert(0, line << 1 | dirty)
            sent = [(line, 0)]
            if len(row) > WAYS:
                victim = row.pop()
                if victim & 1:
                    sent.append((victim >> 1, 1))
            for sent_line, kind in sent:
                page[rows] = sent_line >> (_PAGE_SHIFT - _LINE_SHIFT)
                out_write[rows] = kind
                source[rows] = index
                rows += 1
    ways[:] = _EMPTY
    for at, row in enumerate(sets):
        ways[at, : len(row)] = row
    return rows


@kernel(twin=_filter_plain)
def _filter(
    begin: NDArray[np.uint64],
    end: NDArray[np.uint64],
    write: NDArray[np.uint8],
    ways: NDArray[np.uint64],
    page: NDArray[np.uint64],
    out_write: NDArray[np.uint8],
    source: NDArray[np.int64],
) -> int:
    """Run lines ``begin..end`` of each reference through the cache.

    Args:
        begin: First line of each reference, shape (n,).
        end: Last line of each, shape (n,).
        write: Not 0 for a write, shape (n,).
        ways: State, shape (sets, 16), most recently used first; changed.
        page: Receives the pages, at least twice the lines touched.
        out_write: Receives 0 for a fill, 1 for a write-back.
        source: Receives the index of the reference.

    Returns:
        Rows written.
    """
    one = np.uint64(1)
    page_shift = np.uint64(_PAGE_SHIFT - _LINE_SHIFT)
    sets = np.uint64(ways.shape[0])
    rows = 0
    for index in range(len(begin)):
        dirty = np.uint64(1) if write[index] != 0 else np.uint64(0)
        line = begin[index]
        while True:
            at = line % sets
            entry = ways[at, 0]
            if entry >> one == line:
                ways[at, 0] = entry | dirty
            else:
                way = 1
                while way < WAYS and ways[at, way] >> one != line:
                    way += 1
                if way < WAYS:
                    entry = ways[at, way] | dirty
                else:
                    way = WAYS - 1
                    victim = ways[at, way]
                    entry = (line << one) | dirty
                    page[rows] = line >> page_shift
                    out_write[rows] = 0
                    source[rows] = index
                    rows += 1
                    if victim != _EMPTY and victim & one != 0:
                        page[rows] = victim >> one >> page_shift
                        out_write[rows] = 1
                        source[rows] = index
                        rows += 1
                while way > 0:
                    ways[at, way] = ways[at, way - 1]
                    way -= 1
                ways[at, 0] = entry
            if line == end[index]:
                break
            line += one
    return rows
