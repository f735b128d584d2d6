"""Packets of the Statistical Profiling Extension, as a core writes them."""

import struct

END = b"\x01"


def address(index: int, value: int) -> bytes:
    """Return an address packet: 0 PC, 1 target, 2 data, 3 physical; more: extended."""
    head = bytes([0xB0 | index & 7])
    if index > 7:
        head = bytes([0x20 | index >> 3]) + head
    return head + struct.pack("<Q", value)


def counter(index: int, value: int) -> bytes:
    """Return a counter packet: 0 total, 1 issue, 2 translation."""
    return bytes([0x98 | index]) + struct.pack("<H", value)


def op(*, store: bool = False, kind: int = 1) -> bytes:
    """Return an operation packet; kind 1 is load, store, atomic."""
    return bytes([0x48 | kind, int(store)])


def events(bits: int, size: int = 4) -> bytes:
    """Return an events packet with a payload of some size."""
    return bytes([0x42 | (size.bit_length() - 1) << 4]) + bits.to_bytes(size, "little")


def source(value: int, size: int = 1) -> bytes:
    """Return a data source packet."""
    return bytes([0x43 | (size.bit_length() - 1) << 4]) + value.to_bytes(size, "little")


def context(value: int, index: int = 0) -> bytes:
    """Return a context packet of EL1 or EL2."""
    return bytes([0x64 | index]) + struct.pack("<I", value)


def timestamp(value: int) -> bytes:
    """Return a timestamp, which ends a record."""
    return b"\x71" + struct.pack("<Q", value)


def access(
    page: int, *, frame: int = 0, store: bool = False, time: int = 0, tid: int = 4242
) -> bytes:
    """Return a record as a Neoverse core writes one."""
    out = address(0, 0xFFFF << 48 | 0x1234) + op(store=store)
    out += counter(0, 300) + counter(1, 20) + events(1 << 9 | 1 << 3 | 2)
    out += address(2, page << 12 | 0x18 | 0xA5 << 56) + counter(2, 5)
    if frame:
        out += address(3, frame << 12 | 0x18 | 1 << 63)
    out += source(0xE) + context(tid)
    return out + (timestamp(time) if time else END)


def aligned(record: bytes, size: int = 64) -> bytes:
    """Return a record filled up with padding."""
    return record + bytes(-len(record) % size)
