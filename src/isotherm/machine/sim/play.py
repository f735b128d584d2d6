"""Playing accesses over the page flags: the simulator's innermost loops.

One byte a page holds all that hardware and page table know of it, so an access
is one read-modify-write of one byte, and a million pages fit in a core's cache.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel, prefetch

NODE_MASK = 0x07  #: bits 0-2: the node the page is on
ACCESSED = 0x08  #: the accessed bit, read by scans
REGION_ACCESSED = 0x10  #: the same bit as region sampling sees it (young/idle)
POISONED = 0x20  #: PROT_NONE: the next access is a hint fault
DIRTY = 0x40  #: written since it was last cleared
UNMOVABLE = 0x80  #: pinned: a move fails with EBUSY

MAX_NODES = 8
AHEAD = 32  # accesses; the distance at which prefetching pays most in bench_core
LANE_FLUSH = 60_000  # below 2^16: four 16-bit lanes of one word count four nodes

_PLAIN = np.uint8(0xFF ^ POISONED)

Flags = NDArray[np.uint8]
Counts = NDArray[np.int64]


def play_plain_twin(
    flags: Flags, page: NDArray[np.uint32], mask: int, counts: Counts
) -> None:
    """Numpy twin of `play_plain`."""
    counts[:MAX_NODES] += np.bincount(flags[page] & NODE_MASK, minlength=MAX_NODES)
    flags[page] |= np.uint8(mask)


@kernel(twin=play_plain_twin)
def play_plain(
    flags: Flags, page: NDArray[np.uint32], mask: int, counts: Counts
) -> None:
    """Access pages in order: set ``mask`` on each, count accesses per node.

    Args:
        flags: uint8[pages], changed.
        page: Pages, uint32[n]; nodes 0 to 3 only.
        mask: Bits that an access sets.
        counts: Accesses per node, int64[8], added to.
    """
    n = page.size
    bits = np.uint8(mask)
    i = 0
    while i < n:
        end = min(n, i + LANE_FLUSH)
        ahead = max(i, min(end, n - AHEAD))
        lanes = np.uint64(0)
        while i < ahead:
            prefetch(flags, page[i + AHEAD])
            p = page[i]
            f = flags[p]
            flags[p] = f | bits
            lanes += np.uint64(1) << (np.uint64(f & np.uint8(3)) << np.uint64(4))
            i += 1
        while i < end:
            p = page[i]
            f = flags[p]
            flags[p] = f | bits
            lanes += np.uint64(1) << (np.uint64(f & np.uint8(3)) << np.uint64(4))
            i += 1
        for k in range(4):
            counts[k] += np.int64((lanes >> np.uint64(16 * k)) & np.uint64(0xFFFF))


def play_full_twin(
    flags: Flags,
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
    initiator: NDArray[np.uint8],
    mask: int,
    counts: NDArray[np.int64],
) -> None:
    """Numpy twin of `play_full`."""
    who = np.zeros(len(page), np.int64)
    if len(initiator):
        who = np.where(initiator < counts.shape[0], initiator, 0).astype(np.int64)
    wrote = (
        (write > 0).astype(np.int64) if len(write) else np.zeros(len(page), np.int64)
    )
    np.add.at(counts, (who, wrote, flags[page] & NODE_MASK), 1)
    flags[page] |= np.uint8(mask)
    flags[page[wrote > 0]] |= np.uint8(DIRTY)


@kernel(twin=play_full_twin)
def play_full(
    flags: Flags,
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
    initiator: NDArray[np.uint8],
    mask: int,
    counts: NDArray[np.int64],
) -> None:
    """Access pages in order, telling writes and initiators apart.

    Args:
        flags: uint8[pages], changed.
        page: Pages, uint32[n].
        write: 1 for a write, uint8[n] or empty (all reads).
        initiator: uint8[n] or empty (all 0); one that the machine lacks is 0.
        mask: Bits that an access sets; a write sets DIRTY too.
        counts: int64[initiators, 2, 8], added to.
    """
    bits = np.uint8(mask)
    for i in range(page.size):
        p = page[i]
        f = flags[p]
        w = 0
        if write.size > 0 and write[i] > 0:
            w = 1
        who = 0
        if initiator.size > 0 and initiator[i] < counts.shape[0]:
            who = initiator[i]
        counts[who, w, f & np.uint8(NODE_MASK)] += 1
        if w == 1:
            flags[p] = f | bits | np.uint8(DIRTY)
        else:
            flags[p] = f | bits


def take_faults_twin(
    flags: Flags,
    page: NDArray[np.uint32],
    fault_page: NDArray[np.uint32],
    fault_at: NDArray[np.int64],
) -> int:
    """Numpy twin of `take_faults`."""
    at = np.flatnonzero(flags[page] & POISONED)
    _, first = np.unique(page[at], return_index=True)
    at = at[np.sort(first)]
    fault_page[: len(at)] = page[at]
    fault_at[: len(at)] = at
    flags[page[at]] &= _PLAIN
    return len(at)


@kernel(twin=take_faults_twin)
def take_faults(
    flags: Flags,
    page: NDArray[np.uint32],
    fault_page: NDArray[np.uint32],
    fault_at: NDArray[np.int64],
) -> int:
    """Take the hint faults of accesses in order; poisoned pages become plain.

    Args:
        flags: uint8[pages], changed.
        page: Pages, uint32[n].
        fault_page: Filled with pages that faulted, in order.
        fault_at: Filled with the position of the faulting access.

    Returns:
        Number of faults; the arrays must hold as many as there are poisoned pages.
    """
    k = 0
    for i in range(page.size):
        p = page[i]
        f = flags[p]
        if f & np.uint8(POISONED):
            flags[p] = f & _PLAIN
            fault_page[k] = p
            fault_at[k] = i
            k += 1
    return k


def read_bits_twin(
    flags: Flags,
    first: int,
    last: int,
    step: int,
    bit: int,
    node: int,
    bits: NDArray[np.uint8],
    observed: NDArray[np.uint8],
) -> int:
    """Numpy twin of `read_bits`."""
    rows = flags.reshape(-1, 8)[first:last:step]
    mine = np.ones(rows.shape, np.bool_) if node < 0 else (rows & NODE_MASK) == node
    found = ((rows & bit) != 0) & mine
    bits[: len(rows)] = np.packbits(found, axis=1, bitorder="little")[:, 0]
    observed[: len(rows)] = np.packbits(mine, axis=1, bitorder="little")[:, 0]
    rows &= np.where(mine, np.uint8(0xFF ^ bit), np.uint8(0xFF))
    return int(mine.sum())


@kernel(twin=read_bits_twin)
def read_bits(
    flags: Flags,
    first: int,
    last: int,
    step: int,
    bit: int,
    node: int,
    bits: NDArray[np.uint8],
    observed: NDArray[np.uint8],
) -> int:
    """Read and clear one bit of every page in blocks ``first:last:step``.

    Args:
        flags: uint8[8 x blocks], changed.
        first: First block of eight pages.
        last: One past the last block.
        step: Take one block in so many.
        bit: Which flag.
        node: Only pages on this node; -1 for all.
        bits: Filled: bit i is page i of the block, uint8[ceil((last-first)/step)].
        observed: Filled: which pages were looked at.

    Returns:
        Page-table entries read.
    """
    keep = np.uint8(0xFF ^ bit)
    want = np.uint8(bit)
    looked = 0
    k = 0
    for b in range(first, last, step):
        found = 0
        mine = 0
        for i in range(8):
            f = flags[8 * b + i]
            if node < 0 or np.int64(f & np.uint8(NODE_MASK)) == node:
                mine |= 1 << i
                looked += 1
                if f & want:
                    found |= 1 << i
                    flags[8 * b + i] = f & keep
        bits[k] = found
        observed[k] = mine
        k += 1  # noqa: SIM113  # kept plain for numba
    return looked


def nodes_twin(flags: Flags, out: NDArray[np.uint8]) -> None:
    """Numpy twin of `nodes_of`."""
    np.bitwise_and(flags[: len(out)], NODE_MASK, out=out)


@kernel(twin=nodes_twin)
def nodes_of(flags: Flags, out: NDArray[np.uint8]) -> None:
    """Write the node of every page to ``out``, uint8[pages]."""
    for i in range(out.size):
        out[i] = flags[i] & np.uint8(NODE_MASK)


def place_twin(
    flags: Flags,
    page: NDArray[np.uint32],
    node: NDArray[np.uint8],
    used: NDArray[np.int64],
    capacity: NDArray[np.int64],
    moved: NDArray[np.int64],
    errno: NDArray[np.int16],
) -> None:
    """Plain twin of `place`."""
    for i in range(len(page)):
        if errno[i]:
            continue
        f = int(flags[page[i]])
        here, there = f & NODE_MASK, int(node[i])
        if f & UNMOVABLE:
            errno[i] = 16
        elif here != there and used[there] >= capacity[there]:
            errno[i] = 12
        elif here != there:
            used[here] -= 1
            used[there] += 1
            moved[here, there] += 1
            flags[page[i]] = (f & ~NODE_MASK & 0xFF) | there


@kernel(twin=place_twin)
def place(
    flags: Flags,
    page: NDArray[np.uint32],
    node: NDArray[np.uint8],
    used: NDArray[np.int64],
    capacity: NDArray[np.int64],
    moved: NDArray[Any],
    errno: NDArray[np.int16],
) -> None:
    """Move pages in order as far as there is room.

    Args:
        flags: uint8[pages], changed.
        page: uint32[n].
        node: Where to, uint8[n].
        used: Pages per node, int64[nodes], changed.
        capacity: Pages per node, int64[nodes].
        moved: Pages moved, int64[nodes, nodes] [from, to], added to.
        errno: In: nonzero for pages that fail anyway; out: EBUSY (16) for an
            unmovable page, ENOMEM (12) where there is no room, int16[n].
    """
    for i in range(page.size):
        if errno[i] != 0:
            continue
        f = flags[page[i]]
        here = np.int64(f & np.uint8(NODE_MASK))
        there = np.int64(node[i])
        if f & np.uint8(UNMOVABLE):
            errno[i] = 16
        elif here != there:
            if used[there] >= capacity[there]:
                errno[i] = 12
            else:
                used[here] -= 1
                used[there] += 1
                moved[here, there] += 1
                flags[page[i]] = (f & np.uint8(0xFF ^ NODE_MASK)) | np.uint8(there)
