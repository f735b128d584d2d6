"""Memory-side caches in an ACPI HMAT: the table's bytes to rows.

ACPI 6.5, section 5.2.28: a header of 36 bytes and a reserved word, then structures
that begin with a type and a length. Type 2 is a memory-side cache; since ACPI 6.5
its address mode says whether the memory behind includes the cache's own size.
"""

import struct
from typing import Final, NamedTuple

HEADER_BYTES: Final = 40
CACHE_TYPE: Final = 2
#: The cache is memory of its own, 1:1 with what it caches: Flat Memory Mode.
EXTENDED_LINEAR: Final = 1

_STRUCTURE = struct.Struct("<HHI")  # type, reserved, length
_CACHE = struct.Struct("<HHIIIQIHH")  # ..., domain, reserved, size, attributes, mode, n


class SideCache(NamedTuple):
    """One memory-side cache."""

    domain: int  #: proximity domain of the memory that it caches
    size_bytes: int
    address_mode: int  #: 0: transparent, `EXTENDED_LINEAR`; others are reserved


def parse_side_caches(table: bytes) -> list[SideCache]:
    """Return the memory-side caches of a table, as it lists them.

    Raises:
        ValueError: It is no HMAT, or a structure in it reaches beyond its end.
    """
    if len(table) < HEADER_BYTES or table[:4] != b"HMAT":
        raise ValueError(f"HMAT: expected its signature, got {table[:4]!r}")
    length = int.from_bytes(table[4:8], "little")
    if not HEADER_BYTES <= length <= len(table):
        raise ValueError(f"HMAT: {length} bytes in its header, {len(table)} there")
    found, at = [], HEADER_BYTES
    while at < length:
        if at + _STRUCTURE.size > length:
            raise ValueError(f"HMAT: {length - at} bytes left over at {at}")
        kind, _, size = _STRUCTURE.unpack_from(table, at)
        least = _CACHE.size if kind == CACHE_TYPE else _STRUCTURE.size
        if size < least or at + size > length:
            raise ValueError(
                f"HMAT: structure at {at}: expected {least} to {length - at} bytes, "
                f"got {size}"
            )
        if kind == CACHE_TYPE:
            _, _, _, domain, _, cache, _, mode, _ = _CACHE.unpack_from(table, at)
            found.append(SideCache(domain, cache, mode))
        at += size
    return found
