"""Inner loops of a compressing memory device: block cache, stored sizes, moves.

A page is one 4 KiB block. What a block takes stored is counted in lines of 64
bytes, 1 to 64. A small set-associative cache on the device holds blocks
decompressed; a written block is compressed again when it leaves the cache.
"""

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel
from isotherm.machine.sim.play import NODE_MASK, UNMOVABLE

BLOCK_LINES = 64  #: lines of 64 bytes in a block
WAYS = 4  #: of the block cache
EMPTY = 0xFFFFFFFF  #: tag of an empty way
MASK32 = 0xFFFFFFFF

# The device's books, one int64 each.
USED = 0  #: lines stored
CLOCK = 1  #: accesses that the cache has seen
HITS = 2
MISSES = 3
PACKED = 4  #: blocks compressed again when they left the cache
READ = 5  #: lines of media read
WRITTEN = 6  #: lines of media written
FAILED = 7  #: blocks that no longer fitted when they were written back
REFUSED = 8  #: pages refused
PEAK = 9  #: most lines stored
GREW = 10  #: blocks that took more lines than before
BOOKS = 11

EBUSY, ENOMEM = 16, 12

Books = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def mixed(x: int) -> int:
    """Return 32 well-mixed bits of ``x``, >= 0 and below 2^32 (xor-multiply)."""
    x = ((x >> 16) ^ x) * 0x7FEB352D & MASK32
    x = ((x >> 15) ^ x) * 0x846CA68B & MASK32
    return (x >> 16) ^ x


@compiled
def stored_lines(page: Any, mix: Floats) -> int:
    """Return the lines that a block takes when it is compressed now.

    Whether a page is compressible is its own and stays, as long as the workload's
    share of such pages does; how well it compresses is drawn anew at every write.

    Args:
        page: >= 0.
        mix: float64[5]: seed, number of the draw (both whole), share of
            incompressible pages, mean lines of the others, half the spread as a
            share of that mean.
    """
    own = mixed((page ^ int(mix[0])) & MASK32)
    if own < mix[2] * 4294967296.0:
        return BLOCK_LINES
    drawn = mixed(own ^ int(mix[1]))
    mean = mix[3] * (1.0 + mix[4] * (drawn / 2147483648.0 - 1.0))
    lines = int(mean + mixed(drawn) / 4294967296.0)
    return min(BLOCK_LINES, max(1, lines))


def store_all_twin(
    page: NDArray[np.uint32], lines: NDArray[np.uint8], mix: Floats, books: Books
) -> None:
    """Plain twin of `store_all`."""
    for p in page.tolist():
        books[USED] -= int(lines[p])
        lines[p] = stored_lines(p, mix)
        books[USED] += int(lines[p])
    books[PEAK] = max(books[PEAK], books[USED])


@kernel(twin=store_all_twin)
def store_all(
    page: NDArray[np.uint32], lines: NDArray[np.uint8], mix: Floats, books: Books
) -> None:
    """Store pages, whether there is room or not.

    Args:
        page: uint32[n].
        lines: Lines of every page, 0 where it is not stored, uint8[pages], changed.
        mix: See `stored_lines`.
        books: int64[BOOKS], changed.
    """
    for i in range(page.size):
        p = np.int64(page[i])
        books[USED] -= lines[p]
        lines[p] = stored_lines(p, mix)
        books[USED] += lines[p]
    books[PEAK] = max(books[PEAK], books[USED])


@compiled
def write_back(
    p: Any, lines: NDArray[np.uint8], media_lines: int, mix: Floats, books: Books
) -> None:
    """Compress a block that was written; where it no longer fits, the write fails."""
    now = stored_lines(p, mix)
    before = np.int64(lines[p])
    books[PACKED] += 1
    if now > before:
        if books[USED] + now - before > media_lines:
            books[FAILED] += 1
            return
        books[GREW] += 1
    lines[p] = now
    books[USED] += now - before
    books[WRITTEN] += now
    books[PEAK] = max(books[PEAK], books[USED])


def access_blocks_twin(
    flags: NDArray[np.uint8],
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
    node: int,
    tag: NDArray[np.uint32],
    used_at: NDArray[np.int64],
    dirty: NDArray[np.uint8],
    lines: NDArray[np.uint8],
    media_lines: int,
    mix: Floats,
    books: Books,
) -> None:
    """Twin of `access_blocks`: every set as an ordered dictionary."""
    sets = len(tag) // WAYS
    held: list[OrderedDict[int, int]] = []  # page: way, least recently used first
    free: list[list[int]] = []  # ways that hold nothing, in order
    for s in range(sets):
        ways = range(s * WAYS, s * WAYS + WAYS)
        full = sorted((w for w in ways if tag[w] != EMPTY), key=lambda w: used_at[w])
        held.append(OrderedDict((int(tag[w]), w) for w in full))
        free.append([w for w in ways if tag[w] == EMPTY])
    for i in np.flatnonzero((flags[page] & NODE_MASK) == node).tolist():
        p = int(page[i])
        wrote = len(write) > 0 and write[i] > 0
        books[CLOCK] += 1
        ways_of = held[p % sets]
        if p in ways_of:
            books[HITS] += 1
            way = ways_of[p]
            ways_of.move_to_end(p)
            dirty[way] = dirty[way] or wrote
        else:
            books[MISSES] += 1
            books[READ] += int(lines[p])
            if free[p % sets]:
                way = free[p % sets].pop(0)
            else:
                gone, way = ways_of.popitem(last=False)
                if dirty[way]:
                    write_back(gone, lines, media_lines, mix, books)
            ways_of[p] = way
            tag[way] = p
            dirty[way] = wrote
        used_at[way] = books[CLOCK]


@kernel(twin=access_blocks_twin)
def access_blocks(
    flags: NDArray[np.uint8],
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
    node: int,
    tag: NDArray[np.uint32],
    used_at: NDArray[np.int64],
    dirty: NDArray[np.uint8],
    lines: NDArray[np.uint8],
    media_lines: int,
    mix: Floats,
    books: Books,
) -> None:
    """Let accesses to one node go through its block cache, in order.

    Args:
        flags: uint8[pages]; the node is in bits 0 to 2.
        page: uint32[n].
        write: 1 for a write, uint8[n] or empty (all reads).
        node: Accesses to other nodes are none of the device's business.
        tag: Page in every way, EMPTY for none, uint32[sets * WAYS], changed.
        used_at: ``books[CLOCK]`` of its last access, int64[sets * WAYS], changed.
        dirty: Whether it was written, uint8[sets * WAYS], changed.
        lines: Lines that every page takes stored, uint8[pages], changed.
        media_lines: Lines that the device has.
        mix: See `stored_lines`.
        books: int64[BOOKS], changed.
    """
    sets = tag.size // WAYS
    for i in range(page.size):
        p = np.int64(page[i])
        if np.int64(flags[p] & np.uint8(NODE_MASK)) != node:
            continue
        wrote = np.uint8(0)
        if write.size > 0 and write[i] > 0:
            wrote = np.uint8(1)
        books[CLOCK] += 1
        first: Any = (p % sets) * WAYS
        way = first
        hit = False
        for w in range(first, first + WAYS):
            if tag[w] == page[i]:
                way = w
                hit = True
                break
            if tag[way] != EMPTY and (tag[w] == EMPTY or used_at[w] < used_at[way]):
                way = w
        if hit:
            books[HITS] += 1
            dirty[way] = dirty[way] | wrote
        else:
            books[MISSES] += 1
            books[READ] += lines[p]
            if tag[way] != EMPTY and dirty[way] > 0:
                write_back(np.int64(tag[way]), lines, media_lines, mix, books)
            tag[way] = page[i]
            dirty[way] = wrote
        used_at[way] = books[CLOCK]


def place_blocks_twin(
    flags: NDArray[np.uint8],
    page: NDArray[np.uint32],
    node: NDArray[np.uint8],
    used: NDArray[np.int64],
    capacity: NDArray[np.int64],
    moved: NDArray[np.int64],
    errno: NDArray[np.int16],
    compressed: int,
    tag: NDArray[np.uint32],
    lines: NDArray[np.uint8],
    limit_lines: int,
    mix: Floats,
    books: Books,
) -> None:
    """Plain twin of `place_blocks`."""
    for i in range(len(page)):
        p, there = int(page[i]), int(node[i])
        if errno[i]:
            continue
        here = int(flags[p]) & NODE_MASK
        if flags[p] & UNMOVABLE:
            errno[i] = EBUSY
        elif here != there and used[there] >= capacity[there]:
            errno[i] = ENOMEM
        elif here != there:
            if there == compressed:
                size = stored_lines(p, mix)
                if books[USED] + size > limit_lines:
                    errno[i] = ENOMEM
                    books[REFUSED] += 1
                    continue
                lines[p] = size
                books[USED] += size
                books[WRITTEN] += size
            elif here == compressed:
                books[USED] -= int(lines[p])
                books[READ] += int(lines[p])
                lines[p] = 0
                tag[tag == p] = EMPTY
            used[here] -= 1
            used[there] += 1
            moved[here, there] += 1
            flags[p] = (int(flags[p]) & ~NODE_MASK & 0xFF) | there
    books[PEAK] = max(books[PEAK], books[USED])


@kernel(twin=place_blocks_twin)
def place_blocks(
    flags: NDArray[np.uint8],
    page: NDArray[np.uint32],
    node: NDArray[np.uint8],
    used: NDArray[np.int64],
    capacity: NDArray[np.int64],
    moved: NDArray[Any],
    errno: NDArray[np.int16],
    compressed: int,
    tag: NDArray[np.uint32],
    lines: NDArray[np.uint8],
    limit_lines: int,
    mix: Floats,
    books: Books,
) -> None:
    """Move pages in order as far as there is room, stored bytes counted.

    As `isotherm.machine.sim.play.place`, and in addition:

    Args:
        flags: See there.
        page: See there.
        node: See there.
        used: See there.
        capacity: See there.
        moved: See there.
        errno: ENOMEM too for a page that the device refuses.
        compressed: Node whose pages are stored compressed.
        tag: Of the block cache; a page that leaves the node leaves it too.
        lines: Lines that every page takes stored, uint8[pages], changed.
        limit_lines: A page that would take the device beyond it is refused.
        mix: See `stored_lines`.
        books: int64[BOOKS], changed.
    """
    sets = tag.size // WAYS
    for i in range(page.size):
        if errno[i] != 0:
            continue
        p = np.int64(page[i])
        f = flags[p]
        here = np.int64(f & np.uint8(NODE_MASK))
        there = np.int64(node[i])
        if f & np.uint8(UNMOVABLE):
            errno[i] = EBUSY
            continue
        if here == there:
            continue
        if used[there] >= capacity[there]:
            errno[i] = ENOMEM
            continue
        if there == compressed:
            size = stored_lines(p, mix)
            if books[USED] + size > limit_lines:
                errno[i] = ENOMEM
                books[REFUSED] += 1
                continue
            lines[p] = size
            books[USED] += size
            books[WRITTEN] += size
        elif here == compressed:
            books[USED] -= lines[p]
            books[READ] += lines[p]
            lines[p] = 0
            first = (p % sets) * WAYS
            for w in range(first, first + WAYS):
                if tag[w] == page[i]:
                    tag[w] = EMPTY
        used[here] -= 1
        used[there] += 1
        moved[here, there] += 1
        flags[p] = (f & np.uint8(0xFF ^ NODE_MASK)) | np.uint8(there)
    books[PEAK] = max(books[PEAK], books[USED])
