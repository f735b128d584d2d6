"""struct perf_event_attr, as files keep it.

The structure grows at its end; ``size`` says which version it is
(include/uapi/linux/perf_event.h). What a short one lacks is 0.
"""

import struct
from dataclasses import dataclass
from typing import Final

from isotherm.records.perf_fields import ORDER, VARIABLE, Field, Shape

#: PERF_ATTR_SIZE_VER0; nothing shorter was ever written.
LEAST_BYTES: Final = 64
#: Bits of the flag word.
FREQ: Final = 1 << 10
SAMPLE_ID_ALL: Final = 1 << 18
USE_CLOCKID: Final = 1 << 25
_FULL: Final = struct.Struct("<IIQQQQQIIQQQQIiQII")


@dataclass(frozen=True, slots=True)
class EventAttr:
    """What an event was opened with, as far as reading its samples needs it.

    Attributes:
        type: PMU type.
        config: Event.
        period: Events per sample, or samples a second with ``frequency``.
        frequency: Whether the kernel adapts the period.
        sample_type: Fields of each sample.
        shape: How long fields of variable length are.
        sample_id_all: Whether other records end with the sample's ids.
        clockid: Clock of the times; None: perf's own.
    """

    type: int
    config: int
    period: int
    frequency: bool
    sample_type: Field
    shape: Shape
    sample_id_all: bool
    clockid: int | None

    @property
    def id_word(self) -> int | None:
        """Return at which word of a sample the event's id stands; None: it has none.

        >>> attr = parse_attr(_FULL.pack(1, 112, 2, 1, 0x4b, *(0,) * 13))
        >>> attr.id_word  # IP, TID, ADDR, ID
        4
        """
        if self.sample_type & Field.IDENTIFIER:
            return 1
        if not self.sample_type & Field.ID:
            return None
        place = 1
        for one in ORDER:
            if one is Field.ID:
                return place
            place += bool(one & self.sample_type and not one & VARIABLE)
        return None


def parse_attr(data: bytes) -> EventAttr:
    """Return the attributes of an event.

    Raises:
        ValueError: There are too few bytes.
    """
    if len(data) < LEAST_BYTES:
        raise ValueError(f"{len(data)} bytes, expected {LEAST_BYTES} or more")
    size = int.from_bytes(data[4:8], "little")
    whole = data[: min(size or LEAST_BYTES, len(data), _FULL.size)]
    if size and size < LEAST_BYTES:
        raise ValueError(f"attributes of {size} bytes, expected {LEAST_BYTES} or more")
    field = _FULL.unpack(whole + bytes(_FULL.size - len(whole)))
    flags = field[6]
    return EventAttr(
        type=field[0],
        config=field[2],
        period=field[3],
        frequency=bool(flags & FREQ),
        sample_type=Field(field[4]),
        shape=Shape(field[5], field[11], field[12], field[15]),
        sample_id_all=bool(flags & SAMPLE_ID_ALL),
        clockid=field[14] if flags & USE_CLOCKID else None,
    )
