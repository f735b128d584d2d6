"""Where members of kernel structures are, from the kernel's own type information.

BTF is a header, a section of types and a section of strings (Documentation/bpf/
btf.rst; include/uapi/linux/btf.h). Types are numbered by their order, so finding
one by number takes a walk; that is done once.
"""

import struct
from typing import Final

from isotherm.core.errors import UnsupportedError

_MAGIC: Final = 0xEB9F
_STRUCT, _UNION = 4, 5
#: Kinds that only name or qualify another type: TYPEDEF, VOLATILE, CONST,
#: RESTRICT, TYPE_TAG.
_ALIASES: Final = frozenset({8, 9, 10, 11, 18})
#: Bytes after the type itself: INT, ARRAY, VAR, DECL_TAG.
_FIXED: Final = {1: 4, 3: 12, 14: 4, 17: 4}
#: Bytes a member: STRUCT, UNION, ENUM, FUNC_PROTO, DATASEC, ENUM64.
_EACH: Final = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_type = struct.Struct("<III").unpack_from


class TypeInfo:
    """The types of one kernel.

    Args:
        data: What /sys/kernel/btf/vmlinux holds.

    Raises:
        UnsupportedError: The data is not BTF of this byte order.
    """

    def __init__(self, data: bytes) -> None:
        try:
            magic, _, _, header, at, size, strings, length = struct.unpack_from(
                "<HBBIIIII", data
            )
        except struct.error as error:
            raise UnsupportedError(f"kernel types: {error}") from error
        if magic != _MAGIC:
            raise UnsupportedError(
                f"kernel types: expected magic {_MAGIC:#x}, found {magic:#x}"
            )
        self._types = data[header + at : header + at + size]
        self._strings = data[header + strings : header + strings + length]
        self._at = [0]  # type 0 is void
        self._structs: dict[int, int] = {}  # name offset -> position
        position, end, types = 0, len(self._types), self._types
        fixed, each, positions = _FIXED, _EACH, self._at
        while position < end:
            positions.append(position)
            name, info, _ = _type(types, position)
            kind = info >> 24 & 31
            if kind == _STRUCT and name:
                self._structs.setdefault(name, position)
            position += 12 + fixed.get(kind, 0)
            if kind in each:
                position += each[kind] * (info & 0xFFFF)

    def members(self, name: str) -> dict[str, int]:
        """Return the byte offset of every member of a structure.

        Members of anonymous structures and unions in it count as its own.

        Raises:
            UnsupportedError: The kernel has no such structure.
        """
        wanted = name.encode()
        for offset, position in self._structs.items():
            if self._name(offset) == wanted:
                found: dict[str, int] = {}
                self._collect(position, 0, found)
                return found
        raise UnsupportedError(f"kernel types: no struct {name}")

    def _name(self, offset: int) -> bytes:
        return self._strings[offset : self._strings.index(b"\0", offset)]

    def _collect(self, position: int, base: int, found: dict[str, int]) -> None:
        _, info, _ = _type(self._types, position)
        bitfields = info >> 31
        for i in range(info & 0xFFFF):
            name, kind, bits = _type(self._types, position + 12 + 12 * i)
            offset = base + ((bits & 0xFFFFFF) if bitfields else bits) // 8
            if name:
                found.setdefault(self._name(name).decode(), offset)
                continue
            inner = self._at[kind]
            while (_type(self._types, inner)[1] >> 24 & 31) in _ALIASES:
                inner = self._at[_type(self._types, inner)[2]]
            if (_type(self._types, inner)[1] >> 24 & 31) in (_STRUCT, _UNION):
                self._collect(inner, offset, found)
