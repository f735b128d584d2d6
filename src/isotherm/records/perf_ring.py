"""Records of a perf ring buffer, decoded in bulk.

Where the wanted fields of a sample have fixed places, one kernel walks the
records once and copies the words into columns; where they have not, the records
are found first and gone through after that (`perf_sample`). Page-fault events,
PEBS, IBS and any other source of plain samples share this: they differ in the
fields they select. What is no sample is counted by its kind.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.records.perf_fields import (
    MOST_WORDS,
    ORDER,
    VARIABLE,
    Counts,
    Field,
    Kind,
    SampleLayout,
    Shape,
)
from isotherm.records.perf_sample import (
    AUX_DAMAGED,
    BROKEN_WORDS,
    KINDS,
    LOST,
    MALFORMED,
    TALLIES,
    Words,
    count_other_twin,
    gather,
    index,
    run_length,
)
from isotherm.records.perf_sample import count_other as _count_other

__all__ = [
    "ORDER",
    "RECORD_LOST",
    "RECORD_LOST_SAMPLES",
    "RECORD_SAMPLE",
    "RECORD_THROTTLE",
    "RECORD_UNTHROTTLE",
    "TALLIES",
    "VARIABLE",
    "Field",
    "RingRecords",
    "SampleLayout",
    "Shape",
    "Words",
    "decode_ring",
    "walk",
    "walk_twin",
]

RECORD_LOST: Final = int(Kind.LOST)
RECORD_THROTTLE: Final = int(Kind.THROTTLE)
RECORD_UNTHROTTLE: Final = int(Kind.UNTHROTTLE)
RECORD_SAMPLE: Final = int(Kind.SAMPLE)
RECORD_LOST_SAMPLES: Final = int(Kind.LOST_SAMPLES)


@dataclass(frozen=True, slots=True)
class RingRecords:
    """What a stretch of a ring held.

    Attributes:
        layout: The layout of the samples.
        columns: One row a field of the layout, uint64[fields, samples].
        lost: Samples that the kernel says it had to drop.
        throttled: Times that the kernel stopped the event for being too fast.
        other: Records that are neither samples nor news of losses, passed over.
        broken_words: Words at the end that are no whole record.
        malformed: Samples whose length is not what their fields say.
        aux_damaged: AUX records that tell of data cut short or overwritten.
        kinds: How many records of each `Kind`, int64[32]; place 0: of others.
    """

    layout: SampleLayout
    columns: Words
    lost: int
    throttled: int
    other: int
    broken_words: int
    malformed: int = 0
    aux_damaged: int = 0
    kinds: Counts = field(default_factory=lambda: np.zeros(32, np.int64))

    def __len__(self) -> int:
        return int(self.columns.shape[1])

    @property
    def missing(self) -> int:
        """Samples that were dropped or cannot be read.

        The broken words at the end count as the samples that they had room for.
        """
        return self.lost + self.malformed + -(-self.broken_words // self.layout.words)

    def column(self, one: Field) -> Words:
        """Return one field of every sample, uint64[n].

        TID and CPU hold two 32-bit halves; `pid`, `tid` and `cpu` take them apart.

        Raises:
            KeyError: The layout has no such field.
        """
        if one not in self.layout.fields:
            raise KeyError(f"{one!r}: not among the fields that are read")
        found: Words = self.columns[self.layout.fields.index(one)]
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

    @property
    def weight(self) -> NDArray[np.uint64]:
        """What the access weighs, as the PMU defines it: cycles, uint64[n].

        Of WEIGHT_STRUCT this is the first of three parts (var1_dw).
        """
        if Field.WEIGHT in self.layout.fields:
            return self.column(Field.WEIGHT)
        return self.column(Field.WEIGHT_STRUCT) & np.uint64(0xFFFFFFFF)

    @property
    def weight_parts(self) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """The other two parts of WEIGHT_STRUCT (var2_w, var3_w), uint16[n].

        PEBS: cycles until the instruction retired; IBS: cycles from tagging to
        retirement (var2_w).
        """
        whole = self.column(Field.WEIGHT_STRUCT)
        second = (whole >> np.uint64(32)).astype(np.uint16)
        return second, (whole >> np.uint64(48)).astype(np.uint16)

    def _half(self, one: Field, which: int) -> NDArray[np.int32]:
        shifted = self.column(one) >> np.uint64(32 * which)
        return (shifted & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)


def walk_twin(
    words: Words, slot: Counts, least: int, most: int, columns: Words, tally: Counts
) -> int:
    """Numpy twin of `walk`: takes runs of records of one size at once."""
    at, rows, end = 0, 0, len(words)
    while at < end:
        head = int(words[at])
        kind, size = head & 0xFFFFFFFF, head >> 51
        if size == 0 or at + size > end or (head >> 48) & 7:
            break
        if kind != RECORD_SAMPLE:
            count_other_twin(words, at, kind, size, tally)
            at += size
            continue
        run = run_length(words, at, size, head & 0xFFFF0000FFFFFFFF)
        tally[KINDS + RECORD_SAMPLE] += run
        if not least <= size <= most:
            tally[MALFORMED] += run
        else:
            table = words[at : at + run * size].reshape(run, size)
            columns[:, rows : rows + run] = table[:, slot].T
            rows += run
        at += run * size
    tally[BROKEN_WORDS] += end - at
    return rows


@kernel(twin=walk_twin)
def walk(
    words: Words, slot: Counts, least: int, most: int, columns: Words, tally: Counts
) -> int:
    """Walk records and copy the wanted words of every sample.

    Args:
        words: The records, whole, uint64[n].
        slot: Words to copy, counted from a record's header, int64[k].
        least: A sample with fewer words is not of this layout.
        most: Nor is one with more.
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
            tally[KINDS + RECORD_SAMPLE] += 1
            if size < least or size > most:
                tally[MALFORMED] += 1
            else:
                for k in range(slot.size):
                    columns[k, rows] = words[at + slot[k]]
                rows += 1
        else:
            _count_other(words, at, kind, size, tally)
        at += size
    tally[BROKEN_WORDS] += end - at
    return rows


def decode_ring(words: Words, layout: SampleLayout) -> RingRecords:
    """Return the samples of a stretch of a ring as columns.

    Never fails: what cannot be read is counted.

    Args:
        words: Whole records, oldest first, uint64[n].
        layout: What the samples hold.
    """
    tally = np.zeros(TALLIES, np.int64)
    if len(layout.program):
        at = np.empty(len(words) // layout.words + 1, np.int64)
        found, _ = index(words, 0, layout.words, at, tally)
        columns = np.empty((len(layout.fields), found), np.uint64)
        rows = int(gather(words, at[:found], layout.program, columns, tally))
    else:
        most = layout.words if layout.exact else MOST_WORDS
        columns = np.empty(
            (len(layout.slot), len(words) // max(1, layout.words)), np.uint64
        )
        rows = int(walk(words, layout.slot, layout.words, most, columns, tally))
    return records_of(layout, columns[:, :rows], tally)


def records_of(layout: SampleLayout, columns: Words, tally: Counts) -> RingRecords:
    """Return columns with what was counted beside them."""
    kinds = tally[KINDS : KINDS + 32].copy()
    known = (Kind.SAMPLE, Kind.LOST, Kind.LOST_SAMPLES, Kind.THROTTLE, Kind.UNTHROTTLE)
    other = int(kinds.sum()) - sum(int(kinds[k]) for k in known)
    return RingRecords(
        layout,
        columns,
        int(tally[LOST]),
        int(kinds[Kind.THROTTLE]),
        other,
        int(tally[BROKEN_WORDS]),
        int(tally[MALFORMED]),
        int(tally[AUX_DAMAGED]),
        kinds,
    )
