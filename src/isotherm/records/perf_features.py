"""What perf says of the machine in the header of a perf.data file.

Each feature is a section of its own (tools/perf/Documentation/
perf.data-file-format.txt). One that is damaged is left out: none is needed to
read samples.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Strings and lists longer than this are taken for damage.
_MOST: Final = 1 << 20


class Feature(IntEnum):
    """Features that are read; their numbers are bits of the file's header."""

    HOSTNAME = 3
    OSRELEASE = 4
    VERSION = 5
    ARCH = 6
    CPUDESC = 8
    CPUID = 9
    CMDLINE = 11
    EVENT_DESC = 12
    NUMA_TOPOLOGY = 14
    MEM_TOPOLOGY = 22
    COMPRESSED = 27


#: Bits of the header's feature mask.
FEATURE_BITS: Final = 256


@dataclass(slots=True)
class Features:
    """What the header says; None and empty where it says nothing.

    Attributes:
        hostname: Name of the host.
        osrelease: Its kernel.
        version: perf's version.
        arch: Its machine name, such as ``x86_64``.
        cpudesc: Its processor.
        cpuid: The processor's identification.
        cmdline: How perf was called.
        event_names: Name of each event that has ids, by the first of them.
        cpus_of_node: CPUs of each NUMA node.
        block_bytes: Size of a block of memory; 0 unknown.
        blocks_of_node: Numbers of the blocks of memory of each node, int64[n].
        mmap_bytes: Most bytes that one compressed record becomes; 0 unknown.
    """

    hostname: str | None = None
    osrelease: str | None = None
    version: str | None = None
    arch: str | None = None
    cpudesc: str | None = None
    cpuid: str | None = None
    cmdline: tuple[str, ...] = ()
    event_names: dict[int, str] = field(default_factory=dict)
    cpus_of_node: dict[int, tuple[int, ...]] = field(default_factory=dict)
    block_bytes: int = 0
    blocks_of_node: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    mmap_bytes: int = 0

    def take(self, number: int, data: bytes) -> bool:
        """Read one section; return False if it is unknown or damaged."""
        try:
            kind = Feature(number)
            _READERS[kind](self, _Cursor(data))
        except (ValueError, struct.error):
            return False
        return True

    def node_of_cpu(self) -> NDArray[np.int16]:
        """Return the node of every CPU, -1 unknown, int16[CPUs]."""
        most = max((max(c, default=-1) for c in self.cpus_of_node.values()), default=-1)
        node = np.full(most + 1, -1, np.int16)
        for number, cpus in self.cpus_of_node.items():
            node[list(cpus)] = number
        return node

    def node_of_physical(self, address: NDArray[np.uint64]) -> NDArray[np.int16]:
        """Return the node of every physical address, -1 unknown, int16[n]."""
        found = np.full(len(address), -1, np.int16)
        if not self.block_bytes or not self.blocks_of_node:
            return found
        block = np.concatenate(list(self.blocks_of_node.values()))
        node = np.repeat(
            np.array(list(self.blocks_of_node), np.int16),
            [len(b) for b in self.blocks_of_node.values()],
        )
        order = np.argsort(block, kind="stable")
        block, node = block[order], node[order]
        if not len(block):
            return found
        wanted = (address // np.uint64(self.block_bytes)).astype(np.int64)
        at = np.minimum(np.searchsorted(block, wanted), len(block) - 1)
        there = block[at] == wanted
        found[there] = node[at[there]]
        return found


class _Cursor:
    """Reads a section from its start; ValueError or struct.error beyond its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def u32(self) -> int:
        return self._one("<I", 4)

    def u64(self) -> int:
        return self._one("<Q", 8)

    def _one(self, form: str, size: int) -> int:
        value: int = struct.unpack_from(form, self._data, self._at)[0]
        self._at += size
        return value

    def count(self) -> int:
        value = self.u32()
        if value > _MOST:
            raise ValueError(f"a count of {value}")
        return value

    def bytes(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise ValueError(f"{size} bytes beyond the end")
        self._at += size
        return self._data[self._at - size : self._at]

    def string(self) -> str:
        return self.bytes(self.count()).partition(b"\0")[0].decode("utf-8", "replace")


def _cmdline(features: Features, section: _Cursor) -> None:
    features.cmdline = tuple(section.string() for _ in range(section.count()))


def _events(features: Features, section: _Cursor) -> None:
    count, size = section.count(), section.count()
    for _ in range(count):
        section.bytes(size)
        ids = section.count()
        name = section.string()
        numbers = [section.u64() for _ in range(ids)]
        if numbers:
            features.event_names[numbers[0]] = name


def _numa(features: Features, section: _Cursor) -> None:
    found = {}
    for _ in range(section.count()):
        node = section.count()
        section.bytes(16)  # total and free
        found[node] = parse_list(section.string())
    features.cpus_of_node = found


def _memory(features: Features, section: _Cursor) -> None:
    if section.u64() != 1:
        raise ValueError("another version")
    size, count = section.u64(), section.u64()
    if size == 0 or size & (size - 1) or count > _MOST:
        raise ValueError("no block size, or too many nodes")
    found: dict[int, NDArray[np.int64]] = {}
    for _ in range(count):
        node, bits = section.u64(), section.u64()
        if node > 1023 or bits > 8 * _MOST:  # MAX_NUMNODES
            raise ValueError("no such node")
        data = np.frombuffer(section.bytes(-(-bits // 64) * 8), np.uint8)
        found[node] = np.flatnonzero(np.unpackbits(data, bitorder="little"))
    features.block_bytes, features.blocks_of_node = size, found


def _compressed(features: Features, section: _Cursor) -> None:
    section.bytes(16)  # version, type, level, ratio
    features.mmap_bytes = section.u32()


def _text(name: str):  # type: ignore[no-untyped-def]  # one of _READERS
    def read(features: Features, section: _Cursor) -> None:
        setattr(features, name, section.string())

    return read


_READERS: Final = {
    **{kind: _text(kind.name.lower()) for kind in Feature if kind < Feature.CMDLINE},
    Feature.CMDLINE: _cmdline,
    Feature.EVENT_DESC: _events,
    Feature.NUMA_TOPOLOGY: _numa,
    Feature.MEM_TOPOLOGY: _memory,
    Feature.COMPRESSED: _compressed,
}


def parse_list(text: str) -> tuple[int, ...]:
    """Return the numbers of a list as the kernel writes them.

    Raises:
        ValueError: It is no such list, or longer than any machine's.

    >>> parse_list("0-2,8")
    (0, 1, 2, 8)
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first:
            continue
        low, high = int(first), int(last or first)
        if not 0 <= low <= high < 1 << 16:
            raise ValueError(f"{part!r}: no range of CPUs")
        numbers += range(low, high + 1)
    return tuple(numbers)
