"""Records of the Arm Statistical Profiling Extension, decoded in bulk.

An AUX area holds packets: a header byte, sometimes two, and a payload of 1 to 8
bytes; an end or a timestamp packet ends a record (Arm ARM DDI 0487, D10.2; the
kernel's reader is tools/perf/util/arm-spe-decoder/arm-spe-pkt-decoder.c). Nothing
marks where a record begins: after a header that is none the rest of the area
cannot be believed, and is counted.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.records.data_source import Where

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Counts = NDArray[np.int64]


class Column(IntEnum):
    """What is read of a record, one row of the columns each."""

    VIRTUAL = 0  #: data address, without its tag; 0 unknown
    PHYSICAL = 1  #: its physical address; 0 unknown
    OP = 2  #: payload of the operation packet
    EVENTS = 3  #: bits of `Event`
    SOURCE = 4  #: where the data was, as the core numbers it
    TOTAL = 5  #: cycles of latency, from dispatch to completion
    ISSUE = 6  #: cycles until it was issued
    TRANSLATION = 7  #: cycles of address translation
    TIME = 8  #: counter of the generic timer
    CONTEXT = 9  #: CONTEXTIDR: the process, where the kernel keeps it there
    PRESENT = 10  #: bits of `Present`


COLUMNS: Final = len(Column)


class Present(IntFlag):
    """Which packets a record had."""

    VIRTUAL = 1
    PHYSICAL = 2
    ACCESS = 4  #: an operation of the class load, store, atomic
    EVENTS = 8
    SOURCE = 16
    TOTAL = 32
    ISSUE = 64
    TRANSLATION = 128
    TIME = 256
    CONTEXT = 512


class Event(IntFlag):
    """Bits of the events packet that say where an access went."""

    RETIRED = 1 << 1
    L1D_REFILL = 1 << 3
    TLB_WALK = 1 << 5
    LLC_ACCESS = 1 << 8
    LLC_MISS = 1 << 9
    REMOTE = 1 << 10


# What a header begins, by its first byte.
(
    _BAD,
    _PAD,
    _END,
    _TIME,
    _EVENTS,
    _SOURCE,
    _CONTEXT,
    _OP,
    _EXTENDED,
    _ADDRESS,
    _COUNTER,
) = range(11)
#: A record that is handed out has an operation, an address and an end.
_LEAST_BYTES: Final = 12
_ADDRESS_MASK: Final = np.uint64((1 << 56) - 1)
_KERNEL_BYTE: Final = np.uint64(0xFF << 48)
_KERNEL_TOP: Final = np.uint64(0xFF << 56)


def _tables() -> tuple[Bytes, Bytes]:
    """Return class and payload bytes of every first byte of a header."""
    kind = np.full(256, _BAD, np.uint8)
    byte = np.arange(256)
    kind[0x00], kind[0x01], kind[0x71] = _PAD, _END, _TIME
    kind[(byte & 0xCF) == 0x42] = _EVENTS
    kind[(byte & 0xCF) == 0x43] = _SOURCE
    kind[(byte & 0xFC) == 0x64] = _CONTEXT
    kind[(byte & 0xFC) == 0x48] = _OP
    kind[(byte & 0xFC) == 0x20] = _EXTENDED
    kind[(byte & 0xF8) == 0xB0] = _ADDRESS
    kind[(byte & 0xF8) == 0x98] = _COUNTER
    size = (1 << ((byte >> 4) & 3)).astype(np.uint8)
    size[(kind == _PAD) | (kind == _END)] = 0
    return kind, size


_KIND, _SIZE = _tables()


def _starts(data: Bytes, base: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where packets begin, from the first on, and how long each is.

    Where each byte's packet would end, were it one, is known at once; which are
    packets follows by jumping from the first, twice as far in every round. The
    last one may be broken or cut off.
    """
    n = len(data)
    place = np.arange(n)
    first, second = data, np.append(data[1:], np.uint8(0))
    kind, size = _KIND[first], 1 + _SIZE[first].astype(np.int64)
    extended = kind == _EXTENDED
    wide = extended & np.isin(_KIND[second], (_ADDRESS, _COUNTER))
    size[wide] = 2 + _SIZE[second[wide]]
    unit = np.int64(2) << (first & 0xF).astype(np.int64)
    skip = extended & (second == 0) & (place + 1 < n)
    size[skip] = (unit - ((place + base) & (unit - 1)))[skip]
    cut = extended & (place + 1 == n)
    size[cut] = 2
    bad = (kind == _BAD) | (extended & ~wide & ~skip & ~cut)
    after = np.where(bad, n, np.minimum(place + size, n))
    after = np.append(after, n)
    reached = np.zeros(n + 1, np.bool_)
    reached[0] = True
    jump, step = after, 1
    while step <= n:
        reached[jump[np.flatnonzero(reached)]] = True
        jump, step = jump[jump], 2 * step
    start = np.flatnonzero(reached[:n])
    size = np.where(bad, -1, size)
    return start, size[start]


def decode_twin(
    data: Bytes, base: int, kinds: Bytes, sizes: Bytes, columns: Words
) -> tuple[int, int, int]:
    """Numpy twin of `decode`."""
    start, size = _starts(data, base)
    ends_at = start + size
    bad = np.flatnonzero(size < 0)
    short = np.flatnonzero(ends_at > len(data))
    stop = min([*bad.tolist()[:1], *short.tolist()[:1], len(start)])
    start, size = start[:stop], size[:stop]
    extended = kinds[data[start]] == _EXTENDED
    head = data[np.minimum(start + extended, len(data) - 1)] if len(data) else data
    kind = kinds[head]
    kind[extended & (head == 0)] = _PAD
    payload = sizes[head].astype(np.int64)
    value = np.zeros(len(start), np.uint64)
    for k in range(8):
        inside = (k < payload) & (kind != _PAD) & (kind != _END)
        byte = data[np.where(inside, start + 1 + extended + k, 0)].astype(np.uint64)
        value[inside] |= byte[inside] << np.uint64(8 * k)
    index = (head & 7).astype(np.int64)
    index[extended] |= (data[start[extended]] & 3).astype(np.int64) << 3
    ends = (kind == _END) | (kind == _TIME)
    record = np.cumsum(ends) - ends
    total = int(ends.sum())
    out = np.zeros((COLUMNS, total + 1), np.uint64)
    present = np.zeros(total + 1, np.uint64)

    def put(which: NDArray[np.bool_], column: Column, bit: Present) -> None:
        rows = record[which]
        out[column][rows] = value[which]
        present[rows] |= np.uint64(bit)

    virtual = (kind == _ADDRESS) & (index == 2)
    physical = (kind == _ADDRESS) & (index == 3)
    value[virtual | physical] &= _ADDRESS_MASK
    kernel_side = virtual & ((value & _KERNEL_BYTE) == _KERNEL_BYTE)
    value[kernel_side] |= _KERNEL_TOP
    put(virtual, Column.VIRTUAL, Present.VIRTUAL)
    put(physical, Column.PHYSICAL, Present.PHYSICAL)
    put((kind == _OP) & (head & 3 == 1), Column.OP, Present.ACCESS)
    put(kind == _EVENTS, Column.EVENTS, Present.EVENTS)
    put(kind == _SOURCE, Column.SOURCE, Present.SOURCE)
    for which, column, bit in (
        (0, Column.TOTAL, Present.TOTAL),
        (1, Column.ISSUE, Present.ISSUE),
        (2, Column.TRANSLATION, Present.TRANSLATION),
    ):
        put((kind == _COUNTER) & (index == which), column, bit)
    put(kind == _CONTEXT, Column.CONTEXT, Present.CONTEXT)
    put(kind == _TIME, Column.TIME, Present.TIME)
    out[Column.PRESENT] = present
    address = np.uint64(Present.VIRTUAL | Present.PHYSICAL)
    good = (present & address != 0) & (present & np.uint64(Present.ACCESS) != 0)
    row = np.flatnonzero(good[:total])
    columns[:, : len(row)] = out[:, row]
    last = np.flatnonzero(ends)
    used = int(start[last[-1]] + size[last[-1]]) if len(last) else 0
    # Padding behind the last record is done with; a packet that is cut off is not.
    rest = kind[int(last[-1]) + 1 :] if len(last) else kind
    pads = int(np.argmax(rest != _PAD)) if (rest != _PAD).any() else len(rest)
    if pads:
        at = stop - len(rest) + pads - 1
        used = int(start[at] + size[at])
    broken = len(data) - used if len(bad) and stop == bad[0] else 0
    return len(row), used, broken


@kernel(twin=decode_twin)
def decode(
    data: Bytes, base: int, kinds: Bytes, sizes: Bytes, columns: Words
) -> tuple[int, int, int]:
    """Decode records of loads and stores.

    Args:
        data: Packets, beginning with a record, uint8[n].
        base: Where in the AUX area they begin: padding aligns to that.
        kinds: Class of every header byte, uint8[256].
        sizes: Payload of every header byte, uint8[256].
        columns: Changed, uint64[COLUMNS, > n / 12]; a row for each `Column`.

    Returns:
        Records written; bytes done with, the rest begins a record that is not
        whole; bytes that cannot be believed, from there to the end.
    """
    at: Any = np.int64(0)
    used: Any = np.int64(0)
    present: Any = 0
    n, rows, fresh = data.size, 0, True
    columns[:, 0] = 0
    while at < n:
        head = data[at]
        kind = kinds[head]
        begin, high = at + 1, np.int64(0)
        if kind == _EXTENDED:
            if at + 1 >= n:
                break
            high = (np.int64(head) & 3) << 3
            begin = at + 2
            if data[at + 1] == 0:
                unit = np.int64(2) << (np.int64(head) & 0xF)
                after = at + unit - ((at + base) & (unit - 1))
                if after > n:
                    break
                at = after
                if fresh:
                    used = at
                continue
            head = data[at + 1]
            kind = kinds[head]
            if kind not in (_ADDRESS, _COUNTER):
                return rows, int(used), int(n - used)
        elif kind == _BAD:
            return rows, int(used), int(n - used)
        after = begin + np.int64(sizes[head])
        if after > n:
            break
        at = after
        if kind == _PAD:
            if fresh:
                used = at
            continue
        fresh = False
        value = np.uint64(0)
        for k in range(after - begin):
            value |= np.uint64(data[begin + k]) << np.uint64(8 * k)
        which = (np.int64(head) & 7) | high
        if kind == _ADDRESS:
            value &= _ADDRESS_MASK
            if which == 2:
                if value & _KERNEL_BYTE == _KERNEL_BYTE:
                    value |= _KERNEL_TOP
                columns[0, rows] = value
                present |= 1
            elif which == 3:
                columns[1, rows] = value
                present |= 2
        elif kind == _COUNTER:
            if which < 3:
                columns[5 + which, rows] = value
                present |= 32 << which
        elif kind == _OP:
            if head & 3 == 1:
                columns[2, rows] = value
                present |= 4
        elif kind == _EVENTS:
            columns[3, rows] = value
            present |= 8
        elif kind == _SOURCE:
            columns[4, rows] = value
            present |= 16
        elif kind == _CONTEXT:
            columns[9, rows] = value
            present |= 512
        else:
            if kind == _TIME:
                columns[8, rows] = value
                present |= 256
            used = at
            if present & 3 and present & 4:
                columns[10, rows] = present
                rows += 1
            present, fresh = 0, True
            columns[:, rows] = 0
    return rows, int(used), 0


@dataclass(frozen=True, slots=True)
class SpeRecords:
    """Loads and stores of a stretch of an AUX area.

    Attributes:
        columns: One row for each `Column`, uint64[11, n].
        used: Bytes done with; what follows begins a record that is not whole yet.
        broken_bytes: Bytes at the end that cannot be believed.
    """

    columns: Words
    used: int
    broken_bytes: int

    def __len__(self) -> int:
        return int(self.columns.shape[1])

    def column(self, which: Column) -> Words:
        """Return one column, uint64[n]."""
        found: Words = self.columns[which]
        return found

    def has(self, which: Present) -> NDArray[np.bool_]:
        """Return which records had a packet."""
        found: NDArray[np.bool_]
        found = (self.columns[Column.PRESENT] & np.uint64(which)) != 0
        return found

    @property
    def is_store(self) -> NDArray[np.uint8]:
        """1 for what stores, uint8[n]."""
        stores: NDArray[np.uint8]
        stores = (self.columns[Column.OP] & np.uint64(1)).astype(np.uint8)
        return stores


#: Places further on are aligned like this one less: padding fills far less.
_ALIGNED: Final = 1 << 40


def decode_spe(data: Bytes, base: int = 0) -> SpeRecords:
    """Return the loads and stores in a stretch of an AUX area.

    Never fails: what is no packet is counted in ``broken_bytes``.

    Args:
        data: Packets, beginning with a record, uint8[n].
        base: Where in the AUX area they begin.
    """
    columns = np.empty((COLUMNS, len(data) // _LEAST_BYTES + 1), np.uint64)
    base %= _ALIGNED  # a file may name any place of 64 bits
    rows, used, broken = decode(data, base, _KIND, _SIZE, columns)
    return SpeRecords(columns[:, : int(rows)], int(used), int(broken))


#: Data sources of Neoverse N1, N2, V1, V2 and the Cortex cores beside them
#: (tools/perf/util/arm-spe-decoder/arm-spe-decoder.h, ARM_SPE_COMMON_DS_*).
_COMMON: Final = {
    0x0: Where.CACHE,  # L1
    0x8: Where.CACHE,  # L2
    0x9: Where.CACHE,  # another core
    0xA: Where.CACHE,  # local cluster
    0xB: Where.CACHE,  # system cache
    0xC: Where.CACHE,  # another cluster
    0xD: Where.REMOTE,  # another socket: its cache or its memory
    0xE: Where.LOCAL,
}
_COMMON_TABLE: Final = np.array([_COMMON.get(i, Where.UNKNOWN) for i in range(16)])


def where_of_source(records: SpeRecords, *, common: bool) -> NDArray[np.uint8]:
    """Return what each record says of the memory, a `Where`, uint8[n].

    Args:
        records: Records.
        common: Whether the core numbers its sources as the Neoverse ones do; else
            only the events are used: one that asked the last cache and did not miss it
            was a hit.
    """
    where = np.full(len(records), Where.UNKNOWN, np.uint8)
    events = records.column(Column.EVENTS)
    last = events & np.uint64(Event.LLC_ACCESS | Event.LLC_MISS)
    where[last == np.uint64(Event.LLC_ACCESS)] = Where.CACHE
    where[events & np.uint64(Event.REMOTE) != 0] = Where.REMOTE
    if common:
        source = records.column(Column.SOURCE)
        named = records.has(Present.SOURCE) & (source < 16)
        where[named] = _COMMON_TABLE[source[named].astype(np.int64)]
    return where
