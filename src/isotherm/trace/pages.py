"""Compaction: any 64-bit page number becomes a dense index, in first-seen order.

An open-addressing table with linear probing and Fibonacci hashing (Knuth,
TAOCP vol. 3, section 6.4). It holds the raw page and its index plus one; zero
marks an empty slot, so that every 64-bit number is a possible page. At most
half of the slots are used: 24 to 48 bytes a page.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import TraceFormatError
from isotherm.core.kernels import compiled, kernel

#: 2**64 / golden ratio, odd.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
#: Half of the largest table: 2**31 slots, 24 GiB.
_MAX_PAGES = 1 << 30
_FIRST_SLOTS_LOG2 = 12

_Keys = NDArray[np.uint64]
_Ids = NDArray[np.uint32]


@compiled
def _home(raw: np.uint64, shift: np.uint64) -> np.int64:
    return np.int64((raw * _GOLDEN) >> shift)


def _probe(raw: _Keys, keys: _Keys, ids: _Ids, shift: int) -> _Ids:
    """Return ``id + 1`` of each raw page, 0 where the table lacks it."""
    with np.errstate(over="ignore"):
        slot = ((raw * _GOLDEN) >> np.uint64(shift)).astype(np.int64)
    mask = len(ids) - 1
    found = np.zeros(len(raw), np.uint32)
    pending = np.arange(len(raw))
    while len(pending):
        at = slot[pending]
        hit = (ids[at] != 0) & (keys[at] == raw[pending])
        found[pending[hit]] = ids[at[hit]]
        pending = pending[(ids[at] != 0) & ~hit]
        slot[pending] = (slot[pending] + 1) & mask
    return found


def _insert(raw: _Keys, labels: _Ids, keys: _Keys, ids: _Ids, shift: int) -> None:
    """Put absent, distinct raw pages into the table, ``labels`` being id + 1."""
    with np.errstate(over="ignore"):
        slot = ((raw * _GOLDEN) >> np.uint64(shift)).astype(np.int64)
    mask = len(ids) - 1
    pending = np.arange(len(raw))
    while len(pending):
        at = slot[pending]
        free = ids[at] == 0
        # Of several that want one free slot the first takes it; the others pass on.
        winners = pending[free][np.unique(at[free], return_index=True)[1]]
        keys[slot[winners]] = raw[winners]
        ids[slot[winners]] = labels[winners]
        keep = np.ones(len(raw), np.bool_)
        keep[winners] = False
        pending = pending[keep[pending]]
        slot[pending] = (slot[pending] + 1) & mask


def _intern_numpy(
    raw: _Keys,
    keys: _Keys,
    ids: _Ids,
    shift: int,
    known: int,
    limit: int,
    page: _Ids,
    fresh: NDArray[np.uint8],
) -> tuple[int, int]:
    distinct, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
    label = _probe(distinct, keys, ids, shift)
    absent = np.flatnonzero(label == 0)
    absent = absent[np.argsort(first[absent])]
    room = limit - known
    done = len(raw)
    if len(absent) > room:
        done = int(first[absent[room]])
        absent = absent[:room]
    label[absent] = np.arange(known + 1, known + 1 + len(absent), dtype=np.uint32)
    _insert(distinct[absent], label[absent], keys, ids, shift)
    # Pages beyond the cut have label 0; their rows are not written.
    page[:done] = label[inverse[:done]] - np.uint32(1)
    fresh[:done] = 0
    fresh[first[absent]] = 1
    return done, known + len(absent)


@kernel(twin=_intern_numpy)
def intern(
    raw: _Keys,
    keys: _Keys,
    ids: _Ids,
    shift: int,
    known: int,
    limit: int,
    page: _Ids,
    fresh: NDArray[np.uint8],
) -> tuple[int, int]:
    """Write the dense index of each raw page; stop where the table is full.

    Args:
        raw: Raw page numbers, shape (n,).
        keys: Table of raw pages, a power of two long.
        ids: Table of index + 1, 0 for an empty slot.
        shift: 64 minus log2 of the table's length.
        known: Pages in the table.
        limit: Pages that the table may hold.
        page: Receives the dense indices, shape (n,).
        fresh: Receives 1 on the row that shows a page first, else 0, shape (n,).

    Returns:
        Rows done, pages known. The row after is the first of a page too many.
    """
    mask = len(ids) - 1
    wide = np.uint64(shift)
    for row in range(len(raw)):
        key = raw[row]
        if row > 0 and key == raw[row - 1]:
            page[row] = page[row - 1]
            fresh[row] = 0
            continue
        slot = _home(key, wide)
        while ids[slot] != 0 and keys[slot] != key:
            slot = (slot + 1) & mask
        if ids[slot] == 0:
            if known >= limit:
                return row, known
            known += 1
            keys[slot] = key
            ids[slot] = known
            fresh[row] = 1
        else:
            fresh[row] = 0
        page[row] = ids[slot] - 1
    return len(raw), known


def _rehash_numpy(
    old_keys: _Keys, old_ids: _Ids, keys: _Keys, ids: _Ids, shift: int
) -> None:
    used = old_ids != 0
    _insert(old_keys[used], old_ids[used], keys, ids, shift)


@kernel(twin=_rehash_numpy)
def rehash(old_keys: _Keys, old_ids: _Ids, keys: _Keys, ids: _Ids, shift: int) -> None:
    """Put everything that one table holds into an empty, larger one."""
    mask = len(ids) - 1
    wide = np.uint64(shift)
    for old in range(len(old_ids)):
        if old_ids[old] == 0:
            continue
        slot = _home(old_keys[old], wide)
        while ids[slot] != 0:
            slot = (slot + 1) & mask
        keys[slot] = old_keys[old]
        ids[slot] = old_ids[old]


class PageIndex:
    """Raw page numbers to dense indices, numbered as they are first seen."""

    def __init__(self) -> None:
        self._log2 = _FIRST_SLOTS_LOG2
        self._keys = np.zeros(1 << self._log2, np.uint64)
        self._ids = np.zeros(1 << self._log2, np.uint32)
        self._known = 0

    def __len__(self) -> int:
        return self._known

    def intern(self, raw: _Keys, page: _Ids, fresh: NDArray[np.uint8]) -> None:
        """Write the dense index of each raw page.

        Args:
            raw: Raw page numbers, uint64, shape (n,).
            page: Receives dense indices, uint32, shape (n,).
            fresh: Receives 1 on the row that shows a page first, else 0.

        Raises:
            TraceFormatError: More than 2**30 distinct pages.
        """
        start = 0
        while start < len(raw):
            done, self._known = intern(
                raw[start:],
                self._keys,
                self._ids,
                64 - self._log2,
                self._known,
                1 << (self._log2 - 1),
                page[start:],
                fresh[start:],
            )
            start += done
            if start < len(raw):
                self._grow()

    def _grow(self) -> None:
        if self._known >= _MAX_PAGES:
            raise TraceFormatError(
                f"trace: more than {self._known} distinct pages, expected fewer",
                hint="import with a larger --page-bytes",
            )
        self._log2 += 1
        keys = np.zeros(1 << self._log2, np.uint64)
        ids = np.zeros(1 << self._log2, np.uint32)
        rehash(self._keys, self._ids, keys, ids, 64 - self._log2)
        self._keys, self._ids = keys, ids
