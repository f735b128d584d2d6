"""Where a sampled access found its data, and which kind of memory that is.

A word of bit fields (union perf_mem_data_src, include/uapi/linux/perf_event.h).
PMUs fill it in with different care: Intel's tables have no code for CXL, so reads
from there look like DRAM; IBS gives no level for stores. So it says only whether
memory answered; of which node a page is, its place says.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.records.perf_fields import Counts

Words = NDArray[np.uint64]

#: The word of an access that the PMU knows nothing of (PERF_MEM_NA).
NOTHING_KNOWN: Final = 0x1E_0508_0021

# First bit and width of each field.
_OP: Final = (0, 5)
_SNOOP: Final = (19, 5)
_LOCK: Final = (24, 2)
_LEVEL: Final = (33, 4)
_REMOTE: Final = (37, 1)
_HOPS: Final = (43, 3)
_REGION: Final = (46, 5)


class Op(IntEnum):
    """Bits of the operation."""

    NA = 1
    LOAD = 2
    STORE = 4
    PREFETCH = 8
    EXEC = 16


class Level(IntEnum):
    """What answered (``mem_lvl_num``); 0 where only the older field was filled in."""

    OLD = 0
    L1 = 1
    L2 = 2
    L3 = 3
    L4 = 4
    L2_MHB = 5
    MEMORY_SIDE_CACHE = 6
    L0 = 7
    UNCACHED = 8
    CXL = 9
    IO = 10
    ANY_CACHE = 11
    LINE_FILL_BUFFER = 12
    RAM = 13
    PMEM = 14
    NA = 15


class Where(IntEnum):
    """What kind of memory an access went to."""

    UNKNOWN = 0
    CACHE = 1  #: none: a cache on the way answered
    LOCAL = 2  #: DRAM of the same node
    REMOTE = 3  #: DRAM of another one
    CXL = 4
    PMEM = 5
    OTHER = 6  #: uncached, or a device's


_TO_WHERE: Final = np.array(
    [
        Where.UNKNOWN,
        *(Where.CACHE,) * 5,
        Where.CACHE,
        Where.CACHE,
        Where.OTHER,
        Where.CXL,
        Where.OTHER,
        Where.CACHE,
        Where.CACHE,
        Where.LOCAL,
        Where.PMEM,
        Where.UNKNOWN,
    ],
    np.uint8,
)
# The older field mem_lvl, 14 bits from bit 5: hit, and where.
_OLD_SHIFT: Final = np.uint64(5)
_OLD_HIT: Final = 1 << 1
_OLD_MISS: Final = 1 << 2
_OLD_CACHE: Final = (1 << 3) | (1 << 4) | (1 << 5) | (1 << 6) | (3 << 10)
_OLD_LOCAL: Final = 1 << 7
_OLD_REMOTE: Final = (1 << 8) | (1 << 9)
_OLD_OTHER: Final = (1 << 12) | (1 << 13)


@dataclass(frozen=True, slots=True)
class DataSource:
    """The fields of many words, each uint8[n].

    Attributes:
        op: Bits of `Op`.
        level: A `Level`.
        remote: 1: on another node, socket or board than the processor.
        hops: How far, 0 unknown: 1 another core's node, 2 node, 3 socket, 4 board.
        region: Number of the memory region plus 1 (Linux 6.20 and later), 0
            unknown; which memory that is the machine's maker decides.
        snoop: Bits of what the snoop met, as the kernel numbers them.
        locked: 1 for a locked instruction.
    """

    op: NDArray[np.uint8]
    level: NDArray[np.uint8]
    remote: NDArray[np.uint8]
    hops: NDArray[np.uint8]
    region: NDArray[np.uint8]
    snoop: NDArray[np.uint8]
    locked: NDArray[np.uint8]

    @staticmethod
    def of(word: Words) -> "DataSource":
        """Take words apart, uint64[n].

        >>> found = DataSource.of(np.array([NOTHING_KNOWN], np.uint64))
        >>> Op(found.op[0]).name, Level(found.level[0]).name, int(found.remote[0])
        ('NA', 'NA', 0)
        """
        return DataSource(
            _bits(word, _OP),
            _bits(word, _LEVEL),
            _bits(word, _REMOTE),
            _bits(word, _HOPS),
            _bits(word, _REGION),
            _bits(word, _SNOOP),
            (_bits(word, _LOCK) == 2).astype(np.uint8),
        )

    @property
    def is_memory(self) -> NDArray[np.bool_]:
        """Whether it is a load or a store at all."""
        found: NDArray[np.bool_] = (self.op & (Op.LOAD | Op.STORE)) != 0
        return found

    @property
    def is_store(self) -> NDArray[np.uint8]:
        """1 for what stores, uint8[n]; a word may say that it does both."""
        stores: NDArray[np.uint8] = ((self.op & Op.STORE) != 0).astype(np.uint8)
        return stores


def _bits(word: Words, field: tuple[int, int]) -> NDArray[np.uint8]:
    shift, width = field
    part = (word >> np.uint64(shift)) & np.uint64((1 << width) - 1)
    return part.astype(np.uint8)


def where_of(word: Words) -> NDArray[np.uint8]:
    """Return what each word says of the memory, a `Where`, uint8[n].

    Intel's PMU names the level that was asked, in both fields: a word with a cache
    in the newer one may tell a miss of it, or memory, in the older one
    (pebs_data_source[], arch/x86/events/intel/ds.c). The older one is then right.

    >>> ram, cxl = (13 << 33) | 2, (9 << 33) | 2
    >>> remote = ram | 1 << 37
    >>> [Where(w).name for w in where_of(np.array([ram, remote, cxl, 2], np.uint64))]
    ['LOCAL', 'REMOTE', 'CXL', 'UNKNOWN']
    """
    found = DataSource.of(word)
    where = _TO_WHERE[found.level]
    where[(where == Where.LOCAL) & (found.remote == 1)] = Where.REMOTE
    old = (word >> _OLD_SHIFT).astype(np.int64) & 0x3FFF
    missed = (old & _OLD_MISS != 0) & (old & _OLD_HIT == 0)
    where[(found.level >= Level.L1) & (found.level <= Level.L4) & missed] = (
        Where.UNKNOWN
    )
    cached = (found.level != Level.OLD) & (_TO_WHERE[found.level] == Where.CACHE)
    where[cached & (old & _OLD_LOCAL != 0)] = Where.LOCAL
    where[cached & (old & _OLD_REMOTE != 0)] = Where.REMOTE
    use = (found.level == Level.OLD) & (old & _OLD_HIT != 0)
    for mask, kind in (
        (_OLD_OTHER, Where.OTHER),
        (_OLD_REMOTE, Where.REMOTE),
        (_OLD_LOCAL, Where.LOCAL),
        (_OLD_CACHE, Where.CACHE),
    ):
        where[use & (old & mask != 0)] = kind
    return where


@dataclass(frozen=True, slots=True)
class PhysicalNodes:
    """Which node each physical address belongs to.

    Attributes:
        start: First byte of each range, uint64[n], ascending.
        end: One past the last, uint64[n].
        node: int16[n].
    """

    start: Words
    end: Words
    node: NDArray[np.int16]

    @staticmethod
    def of_blocks(blocks: dict[int, Counts], block_bytes: int) -> "PhysicalNodes":
        """Join blocks of memory, given by node, into ranges."""
        number = np.concatenate([*blocks.values(), np.empty(0, np.int64)])
        node = np.repeat(
            np.array(list(blocks), np.int16), [len(b) for b in blocks.values()]
        )
        order = np.argsort(number, kind="stable")
        number, node = number[order], node[order]
        first = np.ones(len(number), np.bool_)
        first[1:] = (number[1:] != number[:-1] + 1) | (node[1:] != node[:-1])
        begin = np.flatnonzero(first)
        last = np.concatenate([begin[1:], [len(number)]])[: len(begin)] - 1
        size = np.uint64(block_bytes)
        return PhysicalNodes(
            number[begin].astype(np.uint64) * size,
            (number[last] + 1).astype(np.uint64) * size,
            node[begin],
        )

    def node_of(self, address: Words) -> NDArray[np.int16]:
        """Return the node of each address, -1 where there is none, int16[n]."""
        if not len(self.start):
            return np.full(len(address), -1, np.int16)
        at = np.searchsorted(self.start, address, side="right") - 1
        inside = (at >= 0) & (address < self.end[at])
        return np.where(inside, self.node[at], -1).astype(np.int16)
