"""Records of a perf ring buffer, decoded in bulk.

The kernel writes what ``sample_type`` selects, in a fixed order, each field in
one or more 64-bit words (perf_output_sample(), kernel/events/core.c; the order
is in include/uapi/linux/perf_event.h at PERF_RECORD_SAMPLE). A layout works out
at which word each field stands; a kernel walks the records once and copies the
wanted words into columns. Page-fault events, PEBS, IBS and any other source of
plain samples share this: they differ in the fields they select.
"""

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel

Words = NDArray[np.uint64]
Counts = NDArray[np.int64]

# Kinds of record: enum perf_event_type in include/uapi/linux/perf_event.h.
RECORD_LOST = 2
RECORD_THROTTLE = 5
RECORD_UNTHROTTLE = 6
RECORD_SAMPLE = 9
RECORD_LOST_SAMPLES = 13

# What `walk` counts besides the samples.
LOST, THROTTLED, OTHER, BROKEN_WORDS = range(4)
TALLIES = 4
_FIRST_STRIDE = 64  # records that the twin tries at once for a run, doubling


class Field(IntFlag):
    """Bits of ``sample_type`` (enum perf_event_sample_format)."""

    IP = 1 << 0
    TID = 1 << 1
    TIME = 1 << 2
    ADDR = 1 << 3
    READ = 1 << 4
    CALLCHAIN = 1 << 5
    ID = 1 << 6
    CPU = 1 << 7
    PERIOD = 1 << 8
    STREAM_ID = 1 << 9
    RAW = 1 << 10
    BRANCH_STACK = 1 << 11
    REGS_USER = 1 << 12
    STACK_USER = 1 << 13
    WEIGHT = 1 << 14
    DATA_SRC = 1 << 15
    IDENTIFIER = 1 << 16
    TRANSACTION = 1 << 17
    REGS_INTR = 1 << 18
    PHYS_ADDR = 1 << 19
    AUX = 1 << 20
    CGROUP = 1 << 21
    DATA_PAGE_SIZE = 1 << 22
    CODE_PAGE_SIZE = 1 << 23
    WEIGHT_STRUCT = 1 << 24


#: The order in which the kernel writes the fields of a sample.
ORDER = (
    Field.IDENTIFIER,
    Field.IP,
    Field.TID,
    Field.TIME,
    Field.ADDR,
    Field.ID,
    Field.STREAM_ID,
    Field.CPU,
    Field.PERIOD,
    Field.READ,
    Field.CALLCHAIN,
    Field.RAW,
    Field.BRANCH_STACK,
    Field.REGS_USER,
    Field.STACK_USER,
    Field.WEIGHT,
    Field.WEIGHT_STRUCT,
    Field.DATA_SRC,
    Field.TRANSACTION,
    Field.REGS_INTR,
    Field.PHYS_ADDR,
    Field.CGROUP,
    Field.DATA_PAGE_SIZE,
    Field.CODE_PAGE_SIZE,
    Field.AUX,
)
#: Fields whose length differs from sample to sample: nothing after them has a place.
VARIABLE = (
    Field.READ
    | Field.CALLCHAIN
    | Field.RAW
    | Field.BRANCH_STACK
    | Field.REGS_USER
    | Field.STACK_USER
    | Field.REGS_INTR
    | Field.AUX
)


@dataclass(frozen=True, slots=True)
class SampleLayout:
    """Where each field of a sample stands.

    Attributes:
        sample_type: Fields that the event selects.
        fields: Fields that are read, in the kernel's order.
        slot: Word of each read field, counted from the record's header, int64[k].
        words: Words that a sample has at least, its header included.
    """

    sample_type: Field
    fields: tuple[Field, ...]
    slot: Counts
    words: int

    @staticmethod
    def of(sample_type: Field) -> "SampleLayout":
        """Return the layout of a sample type.

        Fields from the first of variable length on are not read.

        >>> SampleLayout.of(Field.TID | Field.TIME | Field.ADDR).slot.tolist()
        [1, 2, 3]
        >>> SampleLayout.of(Field.IP | Field.CPU | Field.RAW | Field.PHYS_ADDR).words
        3
        """
        fields: list[Field] = []
        for field in ORDER:
            if not field & sample_type:
                continue
            if field & VARIABLE:
                break
            fields.append(field)
        slot = np.arange(1, 1 + len(fields), dtype=np.int64)
        return SampleLayout(sample_type, tuple(fields), slot, 1 + len(fields))


@dataclass(frozen=True, slots=True)
class RingRecords:
    """What a stretch of a ring held.

    Attributes:
        layout: The layout of the samples.
        columns: One row a field of the layout, uint64[fields, samples].
        lost: Samples that the kernel says it had to drop.
        throttled: Times that the kernel stopped the event for being too fast.
        other: Records of other kinds, passed over.
        broken_words: Words at the end that are no whole record.
    """

    layout: SampleLayout
    columns: Words
    lost: int
    throttled: int
    other: int
    broken_words: int

    def __len__(self) -> int:
        return int(self.columns.shape[1])

    def column(self, field: Field) -> Words:
        """Return one field of every sample, uint64[n].

        TID and CPU hold two 32-bit halves; `pid`, `tid` and `cpu` take them apart.

        Raises:
            KeyError: The layout has no such field.
        """
        if field not in self.layout.fields:
            raise KeyError(f"{field!r}: not among the fields that are read")
        found: Words = self.columns[self.layout.fields.index(field)]
        return found

    @property
    def pid(self) -> NDArray[np.int32]:
        """Process of every sample."""
        return self._half(Field.TID, 0)

    @property
    def tid(self) -> NDArray[np.int32]:
        """Thread of every sample."""
        return self._half(Field.TID, 1)

    @property
    def cpu(self) -> NDArray[np.int32]:
        """CPU of every sample."""
        return self._half(Field.CPU, 0)

    def _half(self, field: Field, which: int) -> NDArray[np.int32]:
        shifted = self.column(field) >> np.uint64(32 * which)
        return (shifted & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)


def _run_length(words: Words, at: int, size: int, wanted: int) -> int:
    """Return how many records from ``at`` on have the same kind and size."""
    kind = np.uint64(0xFFFF0000FFFFFFFF)  # misc may differ within a run
    found, step = 1, _FIRST_STRIDE
    while True:
        here = at + found * size
        stop = min(len(words), here + step * size)
        heads = words[here:stop:size]
        # The last head may stand in a record that is cut off.
        if len(heads) and here + (len(heads) - 1) * size + size > len(words):
            heads = heads[:-1]
        same = (heads & kind) == np.uint64(wanted)
        if not len(same) or not same.all():
            return found + int(np.argmin(same)) if len(same) else found
        found += len(same)
        step *= 2


def walk_twin(
    words: Words, slot: Counts, least: int, columns: Words, tally: Counts
) -> int:
    """Numpy twin of `walk`: takes runs of records of one size at once."""
    at, rows, end = 0, 0, len(words)
    while at < end:
        head = int(words[at])
        kind, size = head & 0xFFFFFFFF, head >> 51
        if size == 0 or at + size > end or (head >> 48) & 7:
            break
        if kind != RECORD_SAMPLE:
            if kind == RECORD_LOST and size >= 3:
                tally[LOST] += int(words[at + 2])
            elif kind == RECORD_LOST_SAMPLES and size >= 2:
                tally[LOST] += int(words[at + 1])
            elif kind == RECORD_THROTTLE:
                tally[THROTTLED] += 1
            elif kind != RECORD_UNTHROTTLE:
                tally[OTHER] += 1
            at += size
            continue
        run = _run_length(words, at, size, head & 0xFFFF0000FFFFFFFF)
        if size < least:
            tally[OTHER] += run
        else:
            table = words[at : at + run * size].reshape(run, size)
            columns[:, rows : rows + run] = table[:, slot].T
            rows += run
        at += run * size
    tally[BROKEN_WORDS] += end - at
    return rows


@kernel(twin=walk_twin)
def walk(words: Words, slot: Counts, least: int, columns: Words, tally: Counts) -> int:
    """Walk records and copy the wanted words of every sample.

    Args:
        words: The records, whole, uint64[n].
        slot: Words to copy, counted from a record's header, int64[k].
        least: A sample with fewer words is not of this layout.
        columns: Changed, uint64[k, >= n / least].
        tally: Counts of other things are added here, int64[TALLIES].

    Returns:
        Samples copied.
    """
    at, rows, end = np.int64(0), 0, words.size
    while at < end:
        head = words[at]
        kind = np.int64(head & np.uint64(0xFFFFFFFF))
        size = np.int64(head >> np.uint64(51))  # bytes / 8, the upper 16 bits
        odd = np.int64(head >> np.uint64(48)) & 7
        if size == 0 or at + size > end or odd != 0:
            break
        if kind == RECORD_SAMPLE:
            if size < least:
                tally[OTHER] += 1
            else:
                for k in range(slot.size):
                    columns[k, rows] = words[at + slot[k]]
                rows += 1
        elif kind == RECORD_LOST and size >= 3:
            tally[LOST] += np.int64(words[at + 2])
        elif kind == RECORD_LOST_SAMPLES and size >= 2:
            tally[LOST] += np.int64(words[at + 1])
        elif kind == RECORD_THROTTLE:
            tally[THROTTLED] += 1
        elif kind != RECORD_UNTHROTTLE:
            tally[OTHER] += 1
        at += size
    tally[BROKEN_WORDS] += end - at
    return rows


def decode_ring(words: Words, layout: SampleLayout) -> RingRecords:
    """Return the samples of a stretch of a ring as columns.

    Args:
        words: Whole records, oldest first, uint64[n].
        layout: What the samples hold.
    """
    room = len(words) // max(1, layout.words)
    columns = np.empty((len(layout.slot), room), np.uint64)
    tally = np.zeros(TALLIES, np.int64)
    rows = int(walk(words, layout.slot, layout.words, columns, tally))
    return RingRecords(
        layout,
        columns[:, :rows],
        int(tally[LOST]),
        int(tally[THROTTLED]),
        int(tally[OTHER]),
        int(tally[BROKEN_WORDS]),
    )
