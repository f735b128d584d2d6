"""Registers of the CXL Hotness Monitoring Unit: where every field stands.

CXL 3.2, section 8.2.8; offsets and fields as the driver posted for Linux in
November 2024 and QEMU's model agree on. A *block* has a common part of 16 bytes
and one or more *instances* of equal length after it; all registers are little
endian. Driver and device model read the layout from here.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


@dataclass(frozen=True, slots=True)
class Bits:
    """A field of a 64-bit register.

    Attributes:
        offset: Of the register in bytes.
        low: Lowest bit.
        width: Number of bits.
    """

    offset: int
    low: int
    width: int

    @property
    def most(self) -> int:
        """Largest value."""
        return (1 << self.width) - 1

    def of(self, register: int) -> int:
        """Return the field of a register's value.

        >>> Bits(0, 8, 8).of(0x1234)
        18
        """
        return (register >> self.low) & self.most

    def put(self, register: int, value: int) -> int:
        """Return a register's value with the field replaced.

        Raises:
            ValueError: The value does not fit.

        >>> hex(Bits(0, 8, 8).put(0xFFFF, 0x12))
        '0x12ff'
        """
        if not 0 <= value <= self.most:
            raise ValueError(
                f"register {self.offset:#x}: expected 0 to {self.most}, got {value}"
            )
        return (register & ~(self.most << self.low)) | (value << self.low)


# The common part, from the block's start.
COMMON_BYTES: Final = 0x10
VERSION: Final = Bits(0x00, 0, 4)
NUM_INSTANCES: Final = Bits(0x00, 8, 8)
INSTANCE_LENGTH: Final = Bits(0x08, 0, 16)

# Capabilities, from an instance's start.
CAP0: Final = 0x00
CAP_MSI: Final = Bits(CAP0, 0, 4)
CAP_OVERFLOW_INTERRUPT: Final = Bits(CAP0, 4, 1)
CAP_FILL_INTERRUPT: Final = Bits(CAP0, 5, 1)
CAP_EPOCH_TYPE: Final = Bits(CAP0, 6, 2)
CAP_TRACKED: Final = Bits(CAP0, 8, 6)
CAP_MAX_EPOCH_SCALE: Final = Bits(CAP0, 16, 4)
CAP_MAX_EPOCH_MULTIPLE: Final = Bits(CAP0, 20, 12)
CAP_MIN_EPOCH_SCALE: Final = Bits(CAP0, 32, 4)
CAP_MIN_EPOCH_MULTIPLE: Final = Bits(CAP0, 36, 12)
CAP_HOT_LIST_SIZE: Final = Bits(CAP0, 48, 16)
CAP1: Final = 0x08
CAP_UNIT_SIZES: Final = Bits(CAP1, 0, 32)
CAP_DOWN_SAMPLING: Final = Bits(CAP1, 32, 16)
CAP_EPOCH_BASED: Final = Bits(CAP1, 48, 1)
CAP_ALWAYS_ON: Final = Bits(CAP1, 49, 1)
CAP_RANDOM_DOWN_SAMPLING: Final = Bits(CAP1, 50, 1)
CAP_OVERLAPPING: Final = Bits(CAP1, 51, 1)
CAP_POSTPONED: Final = Bits(CAP1, 52, 1)
CAP_BITMAP_OFFSET: Final = Bits(0x10, 0, 64)
CAP_HOT_LIST_OFFSET: Final = Bits(0x18, 0, 64)

# Configuration.
CFG0: Final = 0x40
TRACK: Final = Bits(CFG0, 0, 8)
RANDOM_DOWN_SAMPLING: Final = Bits(CFG0, 8, 1)
INTERRUPT_ON_OVERFLOW: Final = Bits(CFG0, 9, 1)
INTERRUPT_ON_FILL: Final = Bits(CFG0, 10, 1)
ENABLE: Final = Bits(CFG0, 16, 1)
RESET: Final = Bits(CFG0, 17, 1)
THRESHOLD: Final = Bits(CFG0, 32, 32)
CFG1: Final = 0x48
UNIT_SIZE: Final = Bits(CFG1, 0, 32)
DOWN_SAMPLING: Final = Bits(CFG1, 32, 8)
REPORTING: Final = Bits(CFG1, 40, 8)
EPOCH_SCALE: Final = Bits(CFG1, 48, 4)
EPOCH_MULTIPLE: Final = Bits(CFG1, 52, 12)
CFG2: Final = 0x50
NOTIFY_AT: Final = Bits(CFG2, 0, 16)

# State.
STATUS: Final = 0x60
ENABLED: Final = Bits(STATUS, 0, 1)
OPERATION: Final = Bits(STATUS, 16, 16)
COUNTER_WIDTH: Final = Bits(STATUS, 32, 8)
OVERFLOW: Final = Bits(STATUS, 40, 1)
FILL: Final = Bits(STATUS, 41, 1)
HEAD: Final = 0x68
TAIL: Final = 0x6A

#: What lies before the bitmap and the hot list in an instance.
FIXED_BYTES: Final = 0x70
#: Memory that one bit of the range bitmap turns on.
BITMAP_BYTES: Final = 256 << 20
#: Bit N of CAP_UNIT_SIZES stands for units of 2^(N + 8) bytes.
UNIT_SHIFT_LEAST: Final = 8


class Tracked(IntEnum):
    """Requests that an instance counts, the value of the field TRACK."""

    NON_TEE_READS = 1
    NON_TEE_WRITES = 2
    NON_TEE = 3
    READS = 4
    WRITES = 5
    ALL = 6


class Reporting(IntEnum):
    """When hot units are reported, the value of the field REPORTING."""

    EPOCH = 0
    ALWAYS_ON = 1


class Operation(IntEnum):
    """What the device is busy with, the value of the field OPERATION."""

    NONE = 0
    ENABLE = 1
    DISABLE = 2
    RESET = 3


#: Nanoseconds of one multiple, by the value of a scale field.
EPOCH_SCALES_NS: Final = {
    1: 100_000,
    2: 1_000_000,
    3: 10_000_000,
    4: 100_000_000,
    5: 1_000_000_000,
}


def epoch_ns(scale: int, multiple: int) -> int:
    """Return the length of an epoch; 0 for a scale that is not defined.

    >>> epoch_ns(4, 5)
    500000000
    """
    return EPOCH_SCALES_NS.get(scale, 0) * multiple


def epoch_fields(length_ns: int) -> tuple[int, int]:
    """Return scale and multiple of the epoch nearest to a length, finest scale first.

    Raises:
        ValueError: No scale and multiple give about that length.

    >>> epoch_fields(500_000_000)
    (2, 500)
    >>> epoch_fields(100_000_000_000)
    (4, 1000)
    """
    for scale, one_ns in EPOCH_SCALES_NS.items():
        multiple = round(length_ns / one_ns)
        if 1 <= multiple <= EPOCH_MULTIPLE.most:
            return scale, multiple
    raise ValueError(f"epoch: expected 100 us to 4095 s, got {length_ns} ns")
