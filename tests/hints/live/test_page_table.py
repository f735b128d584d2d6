"""Page tables of a small kernel in a file: found, read, and not trusted too far.

The file is what /proc/kcore is: an ELF file with a direct map of RAM. In it are a
list of tasks, their mm, and page tables of four levels.
"""

import struct
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.hints.live.btf import TypeInfo
from isotherm.hints.live.kernel_memory import KernelMemory
from isotherm.hints.live.page_table import PageTableBits, TopTables

DIRECT = 0xFFFF_8880_0000_0000
IMAGE = 0xFFFF_FFFF_8100_0000
RAM = 64  # pages, from physical page 16 on
BASE = 16 << 12
HEAD = 4096  # of the file: ELF headers
IMAGE_AT = HEAD + RAM * 4096
TASKS, TGID, MM, PGD = 24, 40, 48, 16
ACCESSED, HUGE = 1 << 5, 1 << 7
NUMA = 1 << 8  # protected for a hint fault: not present


def btf(*structs: tuple[str, list[tuple[str, int, int]]]) -> bytes:
    """Return type information: type 1 is an int, 2.. are the structures.

    A structure is its name and (member, type, byte offset).
    """
    strings, types = b"\0", struct.pack("<IIII", 0, 1 << 24, 4, 32)
    for name, members in structs:
        info = 4 << 24 | len(members)
        types += struct.pack("<III", _string(name), info, 64)
        strings_of_type = [name] if name else []
        for member, kind, offset in members:
            types += struct.pack("<III", _string(member), kind, offset * 8)
            strings_of_type += [member] if member else []
    strings = b"\0" + b"".join(s.encode() + b"\0" for s in _STRINGS)
    head = struct.pack(
        "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)
    )
    return head + types + strings


_STRINGS: list[str] = []


def _string(text: str) -> int:
    if not text:
        return 0
    if text not in _STRINGS:
        _STRINGS.append(text)
    before = _STRINGS[: _STRINGS.index(text)]
    return 1 + sum(len(s) + 1 for s in before)


TYPES = [
    ("mm_struct", [("", 3, 8)]),  # the anonymous structure is type 3
    ("", [("map_count", 1, 0), ("pgd", 1, PGD - 8)]),
    (
        "task_struct",
        [("state", 1, 0), ("tasks", 1, TASKS), ("tgid", 1, TGID), ("mm", 1, MM)],
    ),
]


class Kernel:
    """The file, and what is in it."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.path = proc / "kcore"
        self.data = bytearray(IMAGE_AT + 4096)
        loads = [
            (HEAD, DIRECT + BASE, BASE, RAM * 4096),
            (IMAGE_AT, IMAGE, BASE, 4096),  # the image is mapped a second time
        ]
        self.data[:64] = (
            b"\x7fELF"
            + bytes(28)
            + struct.pack("<Q", 64)
            + bytes(14)
            + struct.pack("<HH", 56, len(loads))
            + bytes(6)
        )
        for i, (offset, address, physical, size) in enumerate(loads):
            row = struct.pack(
                "<IIQQQQQQ", 1, 0, offset, address, physical, size, size, 4096
            )
            self.data[64 + 56 * i : 120 + 56 * i] = row
        self._next = 1
        (proc / "kallsyms").write_text(
            f"{IMAGE + 8:x} T start\n{IMAGE:x} D init_task\n"
        )
        self._tasks: list[int] = [IMAGE]
        self._link()
        self.save()

    def save(self) -> None:
        """Write the file."""
        self.path.write_bytes(self.data)

    def page(self) -> int:
        """Return the physical address of a new page."""
        self._next += 1
        return BASE + (self._next - 1) * 4096

    def put(self, address: int, *words: int) -> None:
        """Write words at a virtual address."""
        at = address - IMAGE + IMAGE_AT
        if address < IMAGE:
            at = address - DIRECT - BASE + HEAD
        self.data[at : at + 8 * len(words)] = struct.pack(f"<{len(words)}Q", *words)

    def entry(self, table: int, index: int, value: int) -> None:
        """Write an entry of a table at a physical address."""
        self.put(DIRECT + table + index * 8, value)

    def _link(self) -> None:
        for task, after in zip(
            self._tasks, self._tasks[1:] + self._tasks[:1], strict=True
        ):
            self.put(task + TASKS, after + TASKS)

    def process(self, pid: int, vpage: int) -> tuple[int, int]:
        """Make a process with tables for the granule of a page.

        Returns:
            Physical addresses of its middle table and its page table.
        """
        task = DIRECT + self.page()
        mm = task + 1024
        top, upper, middle, leaf = (self.page() for _ in range(4))
        self.put(task + TGID, pid)
        self.put(task + MM, mm)
        self.put(mm + PGD, DIRECT + top)
        self.entry(top, vpage >> 27 & 511, upper | 1)
        self.entry(upper, vpage >> 18 & 511, middle | 1)
        self.entry(middle, vpage >> 9 & 511, leaf | 1)
        self._tasks.append(task)
        self._link()
        return middle, leaf


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """Return a kernel without processes."""
    (tmp_path / "types").write_bytes(btf(*TYPES))
    return Kernel(tmp_path)


@pytest.fixture
def reader(kernel: Kernel) -> PageTableBits:
    """Return a reader of that kernel; the check on ourselves is left out."""
    made = PageTableBits(kernel.proc, kernel.proc / "types")
    made._memory = KernelMemory(kernel.proc)
    made._tops = TopTables(made._memory, TypeInfo(btf(*TYPES)))
    made._levels = (39, 30)
    yield made
    made.close()


VPAGE = 0x7F12_3456_7  # somewhere in the middle of an address space
GRANULE = VPAGE >> 9


def pages(bits: np.ndarray) -> list[int]:
    """Return the pages whose bit is set."""
    return np.flatnonzero(np.unpackbits(bits.ravel(), bitorder="little")).tolist()


def test_members_are_found_in_anonymous_structures() -> None:
    """Their offset is added to that of the structure that holds them."""
    types = TypeInfo(btf(*TYPES))
    assert {"map_count": 8, "pgd": PGD} == types.members("mm_struct")
    assert TASKS == types.members("task_struct")["tasks"]
    with pytest.raises(UnsupportedError, match="no struct page"):
        types.members("page")
    with pytest.raises(UnsupportedError, match="expected magic 0xeb9f"):
        TypeInfo(bytes(64))


def test_memory_is_read_by_both_addresses(kernel: Kernel) -> None:
    """The direct map wins where the image is mapped as well."""
    kernel.put(DIRECT + BASE + 8, 77)
    kernel.put(IMAGE + 8, 88)
    kernel.save()
    with KernelMemory(kernel.proc) as memory:
        assert 77 == struct.unpack("<Q", memory.read_physical(BASE + 8, 8))[0]
        assert 77 == struct.unpack("<Q", memory.read(DIRECT + BASE + 8, 8))[0]
        assert 88 == struct.unpack("<Q", memory.read(IMAGE + 8, 8))[0]
        with pytest.raises(OSError, match="nothing at 0x10"):
            memory.read(16, 8)
        with pytest.raises(UnsupportedError, match="no symbol swapper"):
            memory.symbol("swapper")


def test_bits_are_those_of_the_entries(kernel: Kernel, reader: PageTableBits) -> None:
    """Present, or protected for a hint fault; what is swapped out was not touched."""
    _, leaf = kernel.process(42, VPAGE)
    kernel.entry(leaf, 0, 5 << 12 | 1 | ACCESSED)
    kernel.entry(leaf, 1, 6 << 12 | 1)
    kernel.entry(leaf, 9, 7 << 12 | NUMA | ACCESSED)
    kernel.entry(leaf, 10, 7 << 12 | ACCESSED)  # no page: another meaning
    kernel.entry(leaf, 511, 8 << 12 | 1 | ACCESSED)
    kernel.save()
    bits, ok = reader.read(42, np.array([GRANULE, GRANULE + 1]))
    assert [0, 9, 511] == pages(bits)
    assert [True, True] == ok.tolist()


def test_a_huge_page_has_one_bit(kernel: Kernel, reader: PageTableBits) -> None:
    """It is in the middle table and stands for all 512 pages."""
    middle, _ = kernel.process(42, VPAGE)
    kernel.entry(middle, (GRANULE & 511) + 1, 512 << 12 | 1 | HUGE | ACCESSED)
    kernel.entry(middle, (GRANULE & 511) + 2, 1024 << 12 | 1 | HUGE)
    kernel.save()
    bits, ok = reader.read(42, GRANULE + np.arange(3))
    assert list(range(512, 1024)) == pages(bits)
    assert ok.all()


def test_each_process_has_its_own_tables(kernel: Kernel, reader: PageTableBits) -> None:
    """Found by process id, also when the list has changed; none for one that is not."""
    _, first = kernel.process(42, VPAGE)
    kernel.entry(first, 3, 1 | ACCESSED)
    kernel.save()
    assert [3] == pages(reader.read(42, np.array([GRANULE]))[0])
    _, second = kernel.process(43, VPAGE)
    kernel.entry(second, 4, 1 | ACCESSED)
    kernel.save()
    assert [4] == pages(reader.read(43, np.array([GRANULE]))[0])
    assert [3] == pages(reader.read(42, np.array([GRANULE]))[0])
    assert [False] == reader.read(44, np.array([GRANULE]))[1].tolist()


def test_a_process_that_ended_is_not_read(
    kernel: Kernel, reader: PageTableBits
) -> None:
    """Its task is another's now: it is looked for anew, and not found."""
    kernel.process(42, VPAGE)
    kernel.save()
    assert [True] == reader.read(42, np.array([GRANULE]))[1].tolist()
    kernel.put(kernel._tasks[1] + TGID, 77)
    kernel.save()
    assert [False] == reader.read(42, np.array([GRANULE]))[1].tolist()


def test_a_table_that_changed_meanwhile_is_not_believed(
    kernel: Kernel, reader: PageTableBits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry that named it is read again; its own flags may change."""
    middle, leaf = kernel.process(42, VPAGE)
    kernel.entry(leaf, 3, 1 | ACCESSED)
    kernel.save()
    read_tables = reader._read_tables

    def change(entry: np.ndarray) -> np.ndarray:
        bits = read_tables(entry)
        kernel.entry(middle, GRANULE & 511, changed)
        kernel.save()
        return bits

    monkeypatch.setattr(reader, "_read_tables", change)
    changed = leaf | 1 | ACCESSED
    assert [True] == reader.read(42, np.array([GRANULE]))[1].tolist()
    changed = leaf + 4096 | 1
    assert [False] == reader.read(42, np.array([GRANULE]))[1].tolist()


def test_a_table_where_there_is_no_memory_is_empty(
    kernel: Kernel, reader: PageTableBits
) -> None:
    """Garbage in an upper entry ends in no bits, not in an error."""
    middle, _ = kernel.process(42, VPAGE)
    kernel.entry(middle, GRANULE & 511, 1 << 40 | 1)
    kernel.save()
    assert [] == pages(reader.read(42, np.array([GRANULE]))[0])


def test_hidden_addresses_and_missing_files_are_named(tmp_path: Path) -> None:
    """Each says what is missing and what would help."""
    reader = PageTableBits(tmp_path, tmp_path / "types")
    with pytest.raises(UnsupportedError, match="kcore: ENOENT") as caught:
        reader.open()
    assert "CONFIG_PROC_KCORE" in (caught.value.hint or "")
    kernel = Kernel(tmp_path)
    with pytest.raises(UnsupportedError, match="types: No such file") as caught:
        reader.open()
    assert "CONFIG_DEBUG_INFO_BTF" in (caught.value.hint or "")
    (kernel.proc / "kallsyms").write_text("0000000000000000 D init_task\n")
    (tmp_path / "types").write_bytes(btf(*TYPES))
    from isotherm.core.errors import NotPermittedError

    with pytest.raises(NotPermittedError, match="hides its addresses"):
        reader.open()


def test_tables_that_contradict_pagemap_are_refused(kernel: Kernel) -> None:
    """A reader that does not find its own frame is not opened."""
    proc_self = kernel.proc / "self"
    proc_self.mkdir()
    with (proc_self / "pagemap").open("wb") as file:
        file.truncate(1 << 40)  # zeros, wherever our page is
    reader = PageTableBits(kernel.proc, kernel.proc / "types")
    with pytest.raises(UnsupportedError, match="do not say of this process"):
        reader.open()
