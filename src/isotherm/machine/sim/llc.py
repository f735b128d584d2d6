"""A last-level cache in front of a device: which accesses it gets to see.

The simulator's accesses name pages. Each takes a line of its page, drawn from the
number of the access, so that a page's lines are used evenly. The cache is
set-associative, with exact LRU in a set.

Left out: that lines of a page are used in order or unevenly, prefetching,
write-backs (a miss is one request, a read or a write as the access was), several
caches, and what the cache does to latency: the accesses that the machine bills are
taken to be those that miss.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel
from isotherm.core.units import CACHE_LINE_BYTES, PAGE_BYTES

LINES: Final = PAGE_BYTES // CACHE_LINE_BYTES  #: of a page
NO_SLOT: Final = 0xFFFFFFFF  #: of a page that the device does not hold
_EMPTY: Final = 0xFFFFFFFFFFFFFFFF

Words = NDArray[np.uint64]
Slots = NDArray[np.uint32]
Counts = NDArray[np.int64]


@compiled
def mix(x: np.uint64) -> np.uint64:
    """Return 64 well-mixed bits of a number (the finaliser of MurmurHash3)."""
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def mix_array(x: Words) -> Words:
    """Return `mix` of every number."""
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xFF51AFD7ED558CCD)
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xC4CEB9FE1A85EC53)
    found: Words = x ^ (x >> np.uint64(33))
    return found


def miss_twin(
    page: NDArray[np.uint32],
    first: int,
    slot: Slots,
    ways: Words,
    at: Counts,
    address: Words,
) -> int:
    """Plain twin of `miss`."""
    number = np.uint64(first) + np.arange(len(page), dtype=np.uint64)
    draw = mix_array(number) % np.uint64(LINES)
    tag = page.astype(np.uint64) * np.uint64(LINES) + draw
    missed = np.ones(len(page), np.bool_)
    if len(ways):
        home = (mix_array(tag) % np.uint64(len(ways))).tolist()
        state = [[w for w in row if w != _EMPTY] for row in ways.tolist()]
        for i, (own, line) in enumerate(zip(home, tag.tolist(), strict=True)):
            row = state[own]
            if line in row:
                row.remove(line)
                missed[i] = False
            row.insert(0, line)
            del row[ways.shape[1] :]
        ways[:] = _EMPTY
        for own, row in enumerate(state):
            ways[own, : len(row)] = row
    missed &= slot[page] != NO_SLOT
    found = np.flatnonzero(missed)
    at[: len(found)] = found
    where = slot[page[found]].astype(np.uint64) * np.uint64(PAGE_BYTES)
    address[: len(found)] = where + draw[found] * np.uint64(CACHE_LINE_BYTES)
    return len(found)


@kernel(twin=miss_twin)
def miss(
    page: NDArray[np.uint32],
    first: int,
    slot: Slots,
    ways: Words,
    at: Counts,
    address: Words,
) -> int:
    """Play accesses through the cache; name those that reach the device.

    Args:
        page: Pages in order, uint32[n].
        first: Number of the first access since the start: its line is drawn of it.
        slot: Where in the device's memory each page is, uint32[pages], or NO_SLOT.
        ways: The cache, most recently used first, uint64[sets, ways], changed; no
            sets: there is no cache.
        at: Filled with the index of each access that reaches the device, int64[n].
        address: Filled with its offset in the device's memory, uint64[n].

    Returns:
        How many do.
    """
    sets = np.uint64(ways.shape[0])
    deep = ways.shape[1]
    found = 0
    for i in range(page.size):
        p = page[i]
        draw = mix(np.uint64(first + i)) % np.uint64(LINES)
        line = np.uint64(p) * np.uint64(LINES) + draw
        missed = True
        if sets > np.uint64(0):
            row = mix(line) % sets
            if ways[row, 0] == line:
                continue
            way = 1
            while way < deep and ways[row, way] != line:
                way += 1
            if way < deep:
                missed = False
            else:
                way = deep - 1
            while way > 0:
                ways[row, way] = ways[row, way - 1]
                way -= 1
            ways[row, 0] = line
        if missed and slot[p] != np.uint32(0xFFFFFFFF):
            at[found] = i
            address[found] = np.uint64(slot[p]) * np.uint64(4096) + draw * np.uint64(64)
            found += 1
    return found


class LineCache:
    """The cache, with its state from one epoch to the next.

    Args:
        size_bytes: Its size, rounded down to whole sets; 0: no cache.
        ways: Lines in a set.
    """

    def __init__(self, size_bytes: int, ways: int = 16) -> None:
        sets = size_bytes // (ways * CACHE_LINE_BYTES)
        self._ways = np.full((sets, ways), _EMPTY, np.uint64)
        self._played = 0

    @property
    def size_bytes(self) -> int:
        """Size as it came out."""
        return self._ways.size * CACHE_LINE_BYTES

    def filter(self, page: NDArray[np.uint32], slot: Slots) -> tuple[Counts, Words]:
        """Return which accesses reach the device and where in its memory.

        Args:
            page: Pages in order, uint32[n].
            slot: As for `miss`.

        Returns:
            Indices, int64[k], and offsets in bytes, uint64[k].
        """
        at = np.empty(len(page), np.int64)
        address = np.empty(len(page), np.uint64)
        found = int(miss(page, self._played, slot, self._ways, at, address))
        self._played += len(page)
        return at[:found], address[:found]
