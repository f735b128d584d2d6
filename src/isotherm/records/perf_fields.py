"""What a perf sample holds, and where.

``sample_type`` selects the fields, and the kernel writes them in a fixed order
(perf_output_sample(), kernel/events/core.c; include/uapi/linux/perf_event.h at
PERF_RECORD_SAMPLE). Most are one 64-bit word. Behind one of variable length
nothing has a fixed place: a program of a few steps finds it, record by record.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Final

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

#: The size of a record is 16 bits of bytes: so many words at most.
MOST_WORDS: Final = 0xFFFF // 8


class Kind(IntEnum):
    """Kinds of record: enum perf_event_type; those from 64 on are files' own."""

    MMAP = 1
    LOST = 2
    COMM = 3
    EXIT = 4
    THROTTLE = 5
    UNTHROTTLE = 6
    FORK = 7
    READ = 8
    SAMPLE = 9
    MMAP2 = 10
    AUX = 11
    ITRACE_START = 12
    LOST_SAMPLES = 13
    SWITCH = 14
    SWITCH_CPU_WIDE = 15
    NAMESPACES = 16
    KSYMBOL = 17
    BPF_EVENT = 18
    CGROUP = 19
    TEXT_POKE = 20
    AUX_OUTPUT_HW_ID = 21


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


#: Bits that are known here; a sample with another one cannot be read.
KNOWN: Final = Field((1 << 25) - 1)

#: The order in which the kernel writes the fields of a sample.
ORDER: Final = (
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
#: Fields whose length differs from sample to sample.
VARIABLE: Final = (
    Field.READ
    | Field.CALLCHAIN
    | Field.RAW
    | Field.BRANCH_STACK
    | Field.REGS_USER
    | Field.STACK_USER
    | Field.REGS_INTR
    | Field.AUX
)


class ReadFormat(IntFlag):
    """Bits of ``read_format``: what READ holds beside the count."""

    TOTAL_TIME_ENABLED = 1 << 0
    TOTAL_TIME_RUNNING = 1 << 1
    ID = 1 << 2
    GROUP = 1 << 3
    LOST = 1 << 4


#: Bits of ``branch_sample_type`` that lengthen BRANCH_STACK.
_BRANCH_HW_INDEX: Final = 1 << 17
_BRANCH_COUNTERS: Final = 1 << 19


class Step(IntEnum):
    """What a step of the program does; its row is (step, a, b, column)."""

    WORDS = 0  #: copy ``a`` words to columns from ``column`` on; -1: pass over
    COUNTED = 1  #: a count n, ``a`` words, n times ``b`` words
    RAW = 2  #: a size of 32 bits and so many bytes, up to a whole word
    UNLESS_ZERO = 3  #: a word, and ``a`` words unless it is 0
    STACK = 4  #: a size, and unless it is 0 so many bytes and a word
    BYTES = 5  #: a size and so many bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """What of an event decides on the length of its samples' fields.

    Attributes:
        read_format: ``read_format`` of its attributes.
        branch_sample_type: ``branch_sample_type``.
        regs_user: ``sample_regs_user``, a mask of registers.
        regs_intr: ``sample_regs_intr``.
    """

    read_format: int = 0
    branch_sample_type: int = 0
    regs_user: int = 0
    regs_intr: int = 0


_NO_PROGRAM: Final = np.empty((0, 4), np.int64)


@dataclass(frozen=True, slots=True)
class SampleLayout:
    """Where each field of a sample stands.

    Attributes:
        sample_type: Fields that the event selects.
        fields: Fields that are read, one column each, in the kernel's order.
        slot: Word of each read field, counted from the record's header, int64[k];
            of those that have a place.
        words: Words that a sample has at least, its header included.
        exact: Whether every sample has just so many.
        program: Where fields are read behind one of variable length: what the
            words behind the header are, int64[steps, 4]; else empty.
    """

    sample_type: Field
    fields: tuple[Field, ...]
    slot: Counts
    words: int
    exact: bool = False
    program: Counts = field(default_factory=lambda: _NO_PROGRAM)

    @staticmethod
    def of(
        sample_type: Field,
        shape: Shape | None = None,
        wanted: Iterable[Field] | None = None,
    ) -> "SampleLayout":
        """Return the layout of a sample type.

        Args:
            sample_type: Fields that the event selects.
            shape: How long those of variable length are; None: fields from the
                first of them on are not read.
            wanted: Fields to read; None: all that are one word.

        >>> SampleLayout.of(Field.TID | Field.TIME | Field.ADDR).slot.tolist()
        [1, 2, 3]
        >>> SampleLayout.of(Field.IP | Field.CPU | Field.RAW | Field.PHYS_ADDR).words
        3
        >>> layout = SampleLayout.of(Field.IP | Field.RAW | Field.PHYS_ADDR, Shape())
        >>> [Step(row[0]).name for row in layout.program.tolist()]
        ['WORDS', 'RAW', 'WORDS']
        """
        there = [f for f in ORDER if f & sample_type]
        wish = set(there if wanted is None else wanted)
        before = next((i for i, f in enumerate(there) if f & VARIABLE), len(there))
        placed = [(i, f) for i, f in enumerate(there[:before]) if f in wish]
        behind = [f for f in there[before:] if f in wish and not f & VARIABLE]
        exact = before == len(there) and not sample_type & ~KNOWN
        slot = np.array([1 + i for i, _ in placed], np.int64)
        fields = tuple(f for _, f in placed)
        if shape is None or not behind:
            return SampleLayout(sample_type, fields, slot, 1 + before, exact)
        return SampleLayout.by_steps(sample_type, shape, wish)

    @staticmethod
    def by_steps(
        sample_type: Field, shape: Shape, wanted: Iterable[Field]
    ) -> "SampleLayout":
        """Return a layout with a program, whether the fields have places or not."""
        there = [f for f in ORDER if f & sample_type]
        wish = set(wanted)
        fields = tuple(f for f in there if f in wish and not f & VARIABLE)
        program, least = _program(there, wish, shape)
        none = np.empty(0, np.int64)
        return SampleLayout(sample_type, fields, none, 1 + least, program=program)


def _program(there: list[Field], wish: set[Field], shape: Shape) -> tuple[Counts, int]:
    """Return the steps through a sample, and the words that it has at least."""
    rows: list[list[int]] = []
    column = least = 0
    for one in there:
        if one & VARIABLE:
            step = _variable(one, shape)
            rows.append([*step, -1])
            least += step[1] if step[0] == Step.WORDS else 1
            continue
        at = -1
        if one in wish:
            at, column = column, column + 1
        least += 1
        last = rows[-1] if rows and rows[-1][0] == Step.WORDS else None
        # Neighbours join where their columns are neighbours, or neither has one.
        if last is not None and at == (-1 if last[3] < 0 else last[3] + last[1]):
            last[1] += 1
        else:
            rows.append([Step.WORDS, 1, 0, at])
    return np.array(rows, np.int64).reshape(-1, 4), least


def _variable(one: Field, shape: Shape) -> tuple[int, int, int]:
    """Return step, a and b of a field of variable length."""
    form = ReadFormat(shape.read_format & 0x1F)
    times = ReadFormat.TOTAL_TIME_ENABLED | ReadFormat.TOTAL_TIME_RUNNING
    if one is Field.READ:
        each = 1 + (form & (ReadFormat.ID | ReadFormat.LOST)).bit_count()
        if form & ReadFormat.GROUP:
            return Step.COUNTED, (form & times).bit_count(), each
        return Step.WORDS, each + (form & times).bit_count(), 0
    if one is Field.CALLCHAIN:
        return Step.COUNTED, 0, 1
    if one is Field.RAW:
        return Step.RAW, 0, 0
    if one is Field.BRANCH_STACK:
        index = int(bool(shape.branch_sample_type & _BRANCH_HW_INDEX))
        counters = int(bool(shape.branch_sample_type & _BRANCH_COUNTERS))
        return Step.COUNTED, index, 3 + counters
    if one is Field.REGS_USER:
        return Step.UNLESS_ZERO, shape.regs_user.bit_count(), 0
    if one is Field.REGS_INTR:
        return Step.UNLESS_ZERO, shape.regs_intr.bit_count(), 0
    if one is Field.STACK_USER:
        return Step.STACK, 0, 0
    return Step.BYTES, 0, 0
