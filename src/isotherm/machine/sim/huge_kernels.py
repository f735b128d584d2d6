"""Inner loops of simulated huge pages: the TLB, moves of whole ones, their one bit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.machine.sim.play import NODE_MASK, UNMOVABLE, Flags

SHIFT = 9  #: 512 pages in a huge page
SIZE = 1 << SHIFT
HUGE_KEY = 1 << 31  #: tells the translation of a huge page from that of a small one
EBUSY, ENOMEM = 16, 12

Ints = NDArray[np.int64]
Huge = NDArray[np.bool_]


def look_up_twin(
    page: NDArray[np.uint32], huge: Huge, tlb: NDArray[np.uint32], missed: Ints
) -> None:
    """Twin of `look_up`."""
    sets, ways = tlb.shape
    for p in page.tolist():
        block = p >> SHIFT
        is_huge = block < len(huge) and bool(huge[block])
        number = block if is_huge else p
        key = (number | HUGE_KEY if is_huge else number) + 1 & 0xFFFFFFFF
        row = tlb[number % sets]
        there = np.flatnonzero(row == key)
        at = int(there[0]) if len(there) else ways - 1
        if not len(there):
            missed[int(is_huge)] += 1
        row[1 : at + 1] = row[:at].copy()
        row[0] = key


@kernel(twin=look_up_twin)
def look_up(
    page: NDArray[np.uint32], huge: Huge, tlb: NDArray[np.uint32], missed: Ints
) -> None:
    """Translate accesses in order; count the misses.

    Args:
        page: Pages, uint32[n], below 2^31 - 1.
        huge: Which ranges are huge, bool[pages // 512].
        tlb: Translations of each set, most recently used first, uint32[sets, ways],
            0 for none; changed.
        missed: Misses of small and of huge pages, int64[2], added to.
    """
    sets = tlb.shape[0]
    ways = tlb.shape[1]
    for i in range(page.size):
        p = page[i]
        block = p >> np.uint32(SHIFT)
        number = np.int64(p)
        key = np.uint32(p + np.uint32(1))
        kind = 0
        if block < huge.size and huge[block]:
            number = np.int64(block)
            key = np.uint32((block | np.uint32(HUGE_KEY)) + np.uint32(1))
            kind = 1
        s = number % sets
        at = ways - 1
        found = False
        for w in range(ways):
            if tlb[s, w] == key:
                at = w
                found = True
                break
        if not found:
            missed[kind] += 1
        for w in range(at, 0, -1):
            tlb[s, w] = tlb[s, w - 1]
        tlb[s, 0] = key


def place_twin(
    flags: Flags,
    huge: Huge,
    page: NDArray[np.uint32],
    node: NDArray[np.uint8],
    used: Ints,
    capacity: Ints,
    moved: NDArray[Any],
    whole: NDArray[Any],
    errno: NDArray[np.int16],
) -> None:
    """Twin of `place`."""
    for i in range(len(page)):
        if errno[i]:
            continue
        block = int(page[i]) >> SHIFT
        first, size = int(page[i]), 1
        if block < len(huge) and huge[block]:
            first, size = block << SHIFT, SIZE
        here, there = int(flags[page[i]]) & NODE_MASK, int(node[i])
        pages = flags[first : first + size]
        if (pages & UNMOVABLE).any():
            errno[i] = EBUSY
        elif here != there and used[there] + size > capacity[there]:
            errno[i] = ENOMEM
        elif here != there:
            used[here] -= size
            used[there] += size
            (moved if size == 1 else whole)[here, there] += 1
            pages &= np.uint8(0xFF ^ NODE_MASK)
            pages |= np.uint8(there)


@kernel(twin=place_twin)
def place(
    flags: Flags,
    huge: Huge,
    page: NDArray[np.uint32],
    node: NDArray[np.uint8],
    used: Ints,
    capacity: Ints,
    moved: NDArray[Any],
    whole: NDArray[Any],
    errno: NDArray[np.int16],
) -> None:
    """Move pages in order as far as there is room; a huge page moves as one.

    Any page of a huge page takes all of it along, as move_pages(2) does; what is
    there already costs nothing.

    Args:
        flags: uint8[pages], changed.
        huge: Which ranges are huge, bool[pages // 512].
        page: uint32[n].
        node: Where to, uint8[n].
        used: Pages per node, int64[nodes], changed.
        capacity: Pages per node, int64[nodes].
        moved: Small pages moved, int64[nodes, nodes] [from, to], added to.
        whole: Huge pages moved, likewise.
        errno: In: nonzero for pages that fail anyway; out: EBUSY where a page of it
            is unmovable, ENOMEM where there is no room, int16[n].
    """
    for i in range(page.size):
        if errno[i] != 0:
            continue
        p = np.int64(page[i])
        block = p >> SHIFT
        first = p
        size = 1
        if block < huge.size and huge[block]:
            first = block << SHIFT
            size = SIZE
        here = np.int64(flags[p] & np.uint8(NODE_MASK))
        there = np.int64(node[i])
        stuck = False
        for q in range(first, first + size):
            if flags[q] & np.uint8(UNMOVABLE):
                stuck = True
        if stuck:
            errno[i] = EBUSY
        elif here != there:
            if used[there] + size > capacity[there]:
                errno[i] = ENOMEM
            else:
                used[here] -= size
                used[there] += size
                if size == 1:
                    moved[here, there] += 1
                else:
                    whole[here, there] += 1
                for q in range(first, first + size):
                    flags[q] = (flags[q] & np.uint8(0xFF ^ NODE_MASK)) | np.uint8(there)


def fold_bits_twin(
    flags: Flags,
    huge: Huge,
    first: int,
    last: int,
    step: int,
    bit: int,
    node: int,
    touched: NDArray[np.bool_],
    out: Ints,
) -> None:
    """Twin of `fold_bits`."""
    block = np.arange(first, last, step) >> (SHIFT - 3)
    inside = block < len(huge)
    inside[inside] = huge[block[inside]]
    for at in np.unique(block[inside]).tolist():
        pages = flags[at << SHIFT : (at + 1) << SHIFT]
        if node >= 0 and int(pages[0]) & NODE_MASK != node:
            continue
        rows = np.flatnonzero(block == at)
        touched[rows] = bool((pages & bit).any())
        pages &= np.uint8(0xFF ^ bit)
        out[0] += len(rows)
        out[1] += 1


@kernel(twin=fold_bits_twin)
def fold_bits(
    flags: Flags,
    huge: Huge,
    first: int,
    last: int,
    step: int,
    bit: int,
    node: int,
    touched: NDArray[np.bool_],
    out: Ints,
) -> None:
    """Read and clear the one bit that each huge page has.

    Args:
        flags: uint8[8 x blocks of eight], changed.
        huge: Which ranges are huge, bool[pages // 512].
        first: First block of eight pages looked at.
        last: One past the last.
        step: One block in so many is looked at.
        bit: Which flag.
        node: Only pages on this node; -1 for all.
        touched: Set where a block looked at is in a huge page whose bit was set,
            bool[ceil((last - first) / step)].
        out: Blocks looked at within huge pages, and huge pages that they are in,
            int64[2], added to.
    """
    keep = np.uint8(0xFF ^ bit)
    before = np.int64(-1)
    found = False
    mine = False
    k = 0
    for b in range(first, last, step):
        at = np.int64(b >> (SHIFT - 3))
        if at < huge.size and huge[at]:
            if at != before:
                before = at
                found = False
                here = np.int64(flags[at << SHIFT] & np.uint8(NODE_MASK))
                mine = node < 0 or here == node
                if mine:
                    for q in range(at << SHIFT, (at + 1) << SHIFT):
                        if flags[q] & np.uint8(bit):
                            found = True
                        flags[q] &= keep
                    out[1] += 1
            if mine:
                touched[k] = found
                out[0] += 1
        k += 1  # noqa: SIM113  # kept plain for numba
