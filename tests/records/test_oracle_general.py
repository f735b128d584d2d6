"""libCacheSim's binary records."""

import struct

from isotherm.records.oracle_general import decode_records, looks_like_records


def pack(*rows: tuple[int, int, int, int]) -> bytes:
    """Return packed records of (time, id, size, next)."""
    return b"".join(struct.pack("<IQIq", *row) for row in rows)


def test_fields() -> None:
    """Each record is 24 bytes without padding."""
    found = decode_records(pack((1, 2**64 - 1, 3, -1)) + b"tail")
    assert [(1, 2**64 - 1, 3, -1)] == found.tolist()


def test_told_from_other_bytes() -> None:
    """Times rise, and the next request is the object's own."""
    assert looks_like_records(pack((5, 7, 1, 2), (6, 8, 1, -1), (6, 7, 1, 2**63 - 1)))
    assert not looks_like_records(pack((5, 7, 1, 1), (6, 8, 1, -1), (6, 7, 1, -1)))
    assert not looks_like_records(pack((6, 7, 1, -1), (5, 8, 1, -1)))
    assert not looks_like_records(b"short")
    assert not looks_like_records(b"l 0x1fffff50 1 and other text, as long as records")
