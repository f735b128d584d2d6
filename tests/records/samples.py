"""Records of every kind, built field by field as the kernel writes them."""

import struct
from collections.abc import Mapping
from typing import Any

from isotherm.records.perf_fields import ORDER, Field, Kind, ReadFormat, Shape

#: Events whose samples the sources read, and what may stand between their fields.
SHAPE = Shape(
    read_format=int(ReadFormat.GROUP | ReadFormat.ID | ReadFormat.TOTAL_TIME_ENABLED),
    branch_sample_type=1 << 17,
    regs_user=0b1011,
    regs_intr=0b111,
)


def record(kind: int, body: bytes, misc: int = 2) -> bytes:
    """Return a record with its header."""
    return struct.pack("<IHH", kind, misc, 8 + len(body)) + body


def sample(
    sample_type: Field, values: Mapping[Field, Any], shape: Shape = SHAPE
) -> bytes:
    """Return a sample: an int for a field of one word, parts for the others.

    READ: (time, [(value, id), ...]); CALLCHAIN: [ip, ...]; RAW, STACK_USER, AUX:
    bytes; BRANCH_STACK: [(from, to, flags), ...]; registers: [value, ...].
    """
    parts = [_field(f, values.get(f, 0), shape) for f in ORDER if f & sample_type]
    return record(Kind.SAMPLE, b"".join(parts))


def _field(one: Field, value: Any, shape: Shape) -> bytes:
    if one is Field.READ:
        form = ReadFormat(shape.read_format)
        if not form & ReadFormat.GROUP:
            words = 1 + int(form & 7).bit_count() + int(bool(form & ReadFormat.LOST))
            return struct.pack(f"<{words}Q", *range(words))
        total, rows = value or (0, [])
        flat = [word for row in rows for word in row]
        return struct.pack(f"<QQ{len(flat)}Q", len(rows), total, *flat)
    if one is Field.CALLCHAIN:
        return struct.pack(f"<Q{len(value or [])}Q", len(value or []), *(value or []))
    if one is Field.RAW:
        data = value or b""
        data += bytes(-(len(data) + 4) % 8)
        return struct.pack("<I", len(data)) + data
    if one is Field.BRANCH_STACK:
        flat = [word for row in value or [] for word in row]
        index = [0] * bool(shape.branch_sample_type & 1 << 17)
        count = len(value or [])
        return struct.pack(f"<Q{len(index) + len(flat)}Q", count, *index, *flat)
    if one in (Field.REGS_USER, Field.REGS_INTR):
        if not value:
            return bytes(8)
        return struct.pack(f"<Q{len(value)}Q", 2, *value)
    if one is Field.STACK_USER:
        data = value or b""
        return struct.pack("<Q", len(data)) + (
            data + struct.pack("<Q", 8) if data else b""
        )
    if one is Field.AUX:
        data = value or b""
        return struct.pack("<Q", len(data)) + data + bytes(-len(data) % 8)
    return struct.pack("<Q", value)


def between() -> list[bytes]:
    """Return a record of every kind that may stand between samples."""
    tail = struct.pack("<IIQ", 7, 8, 99)  # sample_id_all
    return [
        record(
            Kind.MMAP, struct.pack("<IIQQQ8s", 7, 8, 1 << 20, 4096, 0, b"a.out") + tail
        ),
        record(Kind.LOST, struct.pack("<QQ", 5, 17) + tail),
        record(Kind.COMM, struct.pack("<II8s", 7, 8, b"python") + tail),
        record(Kind.EXIT, struct.pack("<IIIIQ", 7, 1, 8, 1, 99) + tail),
        record(Kind.THROTTLE, struct.pack("<QQQ", 99, 5, 6) + tail),
        record(Kind.UNTHROTTLE, struct.pack("<QQQ", 99, 5, 6) + tail),
        record(Kind.FORK, struct.pack("<IIIIQ", 7, 1, 8, 1, 99) + tail),
        record(Kind.AUX, struct.pack("<QQQ", 0, 4096, 1) + tail),
        record(Kind.ITRACE_START, struct.pack("<II", 7, 8) + tail),
        record(Kind.LOST_SAMPLES, struct.pack("<Q", 3) + tail),
        record(Kind.SWITCH, tail),
    ]
