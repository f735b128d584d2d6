"""The fastest tier as a demand-filled cache: exact least recently used.

What a memory-side cache or a swap front does: every miss brings the page in and,
once the tier is full, sends the least recently used one out. A page is one
eight-byte node of a doubly linked ring, so an access touches three cache lines:
the node and its two neighbours. All three are asked for ahead of time.
"""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel, prefetch

#: ``prev`` of a page that is not in the fast tier.
ABSENT = 0xFFFFFFFF
#: Most pages: a node counts its neighbours in 32 bits, ``ABSENT`` is taken.
MAX_PAGES = ABSENT - 1
#: Accesses ahead at which a node, and later its two neighbours, are asked for.
AHEAD = 32
AHEAD_NEIGHBOURS = 16

Ring = NDArray[np.uint32]


def access_lru_twin(
    ring: Ring,
    page: NDArray[np.uint32],
    capacity: int,
    state: NDArray[np.int64],
    hit: NDArray[np.uint8],
) -> None:
    """Twin of `access_lru`: the same ring, walked as an ordered dictionary."""
    sentinel = len(ring) // 2 - 1
    lru: OrderedDict[int, None] = OrderedDict()  # least recently used first
    at = int(ring[2 * sentinel])
    while at != sentinel:
        lru[at] = None
        at = int(ring[2 * at])
    for i, p in enumerate(page.tolist()):
        if len(hit):
            hit[i] = p in lru
        if p in lru:
            lru.move_to_end(p)
            state[0] += 1
        elif capacity > 0:
            if len(lru) == capacity:
                lru.popitem(last=False)
                state[2] += 1
            lru[p] = None
            state[1] += 1
    ring[0 : 2 * sentinel : 2] = ABSENT
    order = np.array([sentinel, *reversed(lru), sentinel], np.uint32).astype(np.int64)
    ring[2 * order[1:]] = order[:-1]
    ring[2 * order[:-1] + 1] = order[1:]
    state[3] = len(lru)


@kernel(twin=access_lru_twin)
def access_lru(
    ring: Ring,
    page: NDArray[np.uint32],
    capacity: int,
    state: NDArray[np.int64],
    hit: NDArray[np.uint8],
) -> None:
    """Access pages in order; a miss promotes, and evicts when the tier is full.

    Args:
        ring: uint32[2 (pages + 1)], changed: ``ring[2p]`` is the page used next
            after ``p`` (or ABSENT), ``ring[2p + 1]`` the one used next before.
            Page ``pages`` is the sentinel: after the newest, before the oldest.
        page: Pages, uint32[n], each below ``pages``.
        capacity: Pages that the tier holds, >= 0; with 0 every access misses.
        state: int64[4]: hits, promotions, evictions (added to), residents (set).
        hit: Filled with 1 for a hit, 0 for a miss, uint8[n]; empty: not told.
    """
    absent = np.uint32(ABSENT)
    sentinel = np.uint32(ring.size // 2 - 1)
    head = 2 * np.int64(sentinel)
    newest = ring[head + 1]
    oldest = ring[head]
    resident = state[3]
    hits = 0
    promoted = 0
    evicted = 0
    n = page.size
    told = hit.size > 0
    for i in range(n):
        if i + AHEAD < n:
            prefetch(ring, 2 * np.int64(page[i + AHEAD]))
        if i + AHEAD_NEIGHBOURS < n:
            soon = 2 * np.int64(page[i + AHEAD_NEIGHBOURS])
            if ring[soon] != absent:
                prefetch(ring, 2 * np.int64(ring[soon]))
                prefetch(ring, 2 * np.int64(ring[soon + 1]))
        p = page[i]
        at = 2 * np.int64(p)
        after = ring[at]
        if told:
            hit[i] = after != absent
        if after != absent:
            hits += 1
            if p == newest:
                continue
            before = ring[at + 1]
            ring[2 * np.int64(after) + 1] = before
            ring[2 * np.int64(before)] = after
            if p == oldest:
                oldest = after
        else:
            if capacity == 0:
                continue
            promoted += 1
            if resident == capacity:
                evicted += 1
                gone = 2 * np.int64(oldest)
                oldest = ring[gone]
                ring[gone] = absent
                ring[2 * np.int64(oldest) + 1] = sentinel
                if oldest == sentinel:
                    newest = sentinel
            else:
                resident += 1
            if oldest == sentinel:
                oldest = p
        ring[at] = sentinel
        ring[at + 1] = newest
        ring[2 * np.int64(newest)] = p
        newest = p
        ring[head + 1] = newest
        ring[head] = oldest
    ring[head + 1] = newest
    ring[head] = oldest
    state[0] += hits
    state[1] += promoted
    state[2] += evicted
    state[3] = resident


class DemandFillLru:
    """An exact LRU over dense page numbers; eight bytes a page.

    Args:
        pages: Footprint, at most 2^32 - 2.
        capacity: Pages that the fast tier holds, >= 0; it starts empty.

    Attributes:
        promoted: Pages brought in since the start, as the owner counts them.
        evicted: Pages sent out since the start, likewise.

    Raises:
        ValueError: A figure is out of its range.

    >>> cache = DemandFillLru(pages=4, capacity=2)
    >>> cache.access(np.array([0, 1, 0, 2, 1], np.uint32))
    (1, 4, 2)
    >>> cache.resident.tolist()
    [0, 1, 1, 0]
    """

    def __init__(self, pages: int, capacity: int) -> None:
        if not 0 <= pages <= MAX_PAGES:
            raise ValueError(f"pages: expected 0 to {MAX_PAGES}, got {pages}")
        if capacity < 0:
            raise ValueError(f"capacity: expected >= 0, got {capacity}")
        self._capacity = capacity
        self._ring: Ring = np.full(2 * (pages + 1), ABSENT, np.uint32)
        self._ring[-2:] = pages
        self._state = np.zeros(4, np.int64)
        self.promoted = 0
        self.evicted = 0

    def access(
        self, page: NDArray[np.uint32], hit: NDArray[np.uint8] | None = None
    ) -> tuple[int, int, int]:
        """Access pages in order; return hits, pages promoted, pages evicted.

        Args:
            page: uint32[n], each below ``pages`` (not checked).
            hit: Filled with 1 for a hit, 0 for a miss, uint8[n]; None: not told.
        """
        self._state[:3] = 0
        told = np.empty(0, np.uint8) if hit is None else hit
        access_lru(self._ring, page, self._capacity, self._state, told)
        return int(self._state[0]), int(self._state[1]), int(self._state[2])

    @property
    def resident(self) -> NDArray[np.uint8]:
        """Which pages the fast tier holds: 1 or 0, uint8[pages], a copy."""
        resident: NDArray[np.uint8] = (self._ring[:-2:2] != ABSENT).astype(np.uint8)
        return resident

    @property
    def nr_resident(self) -> int:
        """Pages in the fast tier."""
        return int(self._state[3])
