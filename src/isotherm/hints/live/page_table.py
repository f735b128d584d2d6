"""Accessed bits from the page tables themselves, 512 of them in one read.

No file of the kernel shows the accessed bit of a single page where idle page
tracking is not built in. But root may read kernel memory through /proc/kcore, and
a page-table page is 4 KiB of it with the bits of 512 pages. The tables are found
as the processor finds them: task, mm, top table, and down. Nothing is written:
clearing is asked of the kernel (clearing.py).

Tables may go while they are read. So the upper table that named a page-table page
is read again afterwards: if its entry is the same, the page was a page table of
this process all the time (a table that is freed has its entry cleared first).

x86-64: Intel SDM volume 3, 4.5; arch/x86/include/asm/pgtable_types.h.
"""

import errno
import os
import platform
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.availability import Availability
from isotherm.core.errors import IsothermError, UnsupportedError
from isotherm.core.units import PAGE_BYTES
from isotherm.hints.live.bit_reader import GRANULE, GRANULE_BLOCKS, Bits, Granules
from isotherm.hints.live.btf import TypeInfo
from isotherm.hints.live.clearing import Clearing, ProcessOf
from isotherm.hints.live.facts import missing
from isotherm.hints.live.kernel_memory import KernelMemory

ENTRIES: Final = 512
#: Read at once: 64 tables are 256 KiB, 128 MiB of a process.
TABLES_AT_ONCE: Final = 64

_PRESENT = np.uint64(1)
_ACCESSED_SHIFT = np.uint64(5)
_PROT_NONE_SHIFT = np.uint64(8)  # _PAGE_PROTNONE: poisoned for a NUMA hint fault
_THERE: Final = 1 | 1 << 8
_HUGE: Final = 1 << 7
_TABLE: Final = 0x000F_FFFF_FFFF_F000
_TASKS_AT_MOST: Final = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h


class TopTables:
    """Finds the top page table of a process.

    Args:
        memory: Kernel memory.
        types: The kernel's structures.
    """

    def __init__(self, memory: KernelMemory, types: TypeInfo) -> None:
        self._memory = memory
        task, mm = types.members("task_struct"), types.members("mm_struct")
        try:
            wanted = (task["tasks"], task["tgid"], task["mm"])
            self._pgd = mm["pgd"]
        except KeyError as error:
            raise UnsupportedError(f"kernel types: no member {error}") from error
        self._first = min(wanted)
        self._size = max(wanted) + 8 - self._first
        self._next, self._tgid, self._mm = (at - self._first for at in wanted)
        self._tasks = wanted[0]
        self._start = memory.symbol("init_task")
        self._known: dict[int, tuple[int, int, int]] = {}  # pid -> task, mm, top

    def _task(self, address: int) -> tuple[int, int, int]:
        """Return the next task, the process id and the mm of a task."""
        data = self._memory.read(address + self._first, self._size)
        (following,) = struct.unpack_from("<Q", data, self._next)
        (tgid,) = struct.unpack_from("<i", data, self._tgid)
        (mm,) = struct.unpack_from("<Q", data, self._mm)
        return following - self._tasks, tgid, mm

    def find(self, pid: int) -> int | None:
        """Return the address of a process's top table, None if it has none."""
        known = self._known.get(pid)
        if known is not None:
            try:
                _, tgid, mm = self._task(known[0])
            except OSError:
                mm = tgid = 0
            if (tgid, mm) == (pid, known[1]):
                return known[2]
            del self._known[pid]
        self._walk({pid})
        found = self._known.get(pid)
        return None if found is None else found[2]

    def _walk(self, wanted: Iterable[int]) -> None:
        """Go through all processes; a list that changes under us is tried again."""
        missing = set(wanted)
        for _ in range(3):
            try:
                at = self._task(self._start)[0]
                for _ in range(_TASKS_AT_MOST):
                    if at == self._start or not missing:
                        return
                    following, tgid, mm = self._task(at)
                    if tgid in missing and mm:
                        top = self._memory.read(mm + self._pgd, 8)
                        self._known[tgid] = (at, mm, struct.unpack("<Q", top)[0])
                        missing.discard(tgid)
                    at = following
            except OSError:
                continue


class PageTableBits:
    """Reads accessed bits through /proc/kcore.

    Args:
        proc: Where procfs is mounted.
        types: The kernel's type information.
        process_of: For clearing; see Clearing.
    """

    name = "page-table"

    def __init__(
        self,
        proc: Path = Path("/proc"),
        types: Path = Path("/sys/kernel/btf/vmlinux"),
        process_of: ProcessOf | None = None,
    ) -> None:
        self._proc = proc
        self._types = types
        self._memory: KernelMemory | None = None
        self._tops: TopTables | None = None
        self._levels: tuple[int, ...] = ()
        self._clearing = Clearing(self.read, process_of=process_of)
        self._buffer = np.empty((TABLES_AT_ONCE, ENTRIES), np.uint64)
        self._rows = [[row.view(np.uint8).data] for row in self._buffer]

    @staticmethod
    def probe() -> Availability:
        """Return whether the accessed bits of this very process can be read."""
        reader = PageTableBits()
        try:
            reader.open()
        except IsothermError as error:
            return missing("page-table", error)
        finally:
            reader.close()
        why = "/proc/kcore shows page tables; one read gives 512 accessed bits"
        return Availability("page-table", "source", True, why)

    def open(self) -> None:
        """Find the tables, and check them against pagemap on this process.

        Raises:
            UnsupportedError: Another processor, no BTF, no kcore, or page tables
                that do not say what pagemap says.
            NotPermittedError: Not root, or lockdown.
        """
        if self._memory is not None:
            return
        if platform.machine() != "x86_64":
            raise UnsupportedError(
                f"page tables: found processor {platform.machine()}, expected x86_64"
            )
        memory = KernelMemory(self._proc)
        try:
            try:
                types = TypeInfo(self._types.read_bytes())
            except OSError as error:
                raise UnsupportedError(
                    f"{self._types}: {error.strerror}",
                    hint="a kernel with CONFIG_DEBUG_INFO_BTF",
                ) from error
            self._tops = TopTables(memory, types)
            self._memory = memory
            self._find_levels()
        except BaseException:
            self.close()
            memory.close()
            raise

    def close(self) -> None:
        """Give the file back; may be called again."""
        if self._memory is not None:
            self._memory.close()
        self._memory = self._tops = None
        self._levels = ()
        self._clearing.close()

    def _find_levels(self) -> None:
        """Choose four or five levels: those with which our own frame is right."""
        probe = np.ones(ENTRIES, np.uint64)
        vpage = probe.ctypes.data // PAGE_BYTES
        with (self._proc / "self/pagemap").open("rb", buffering=0) as file:
            file.seek(vpage * 8)
            (entry,) = struct.unpack("<Q", file.read(8))
        frame = entry & ((1 << 55) - 1)
        for levels in ((39, 30), (48, 39, 30)):
            self._levels = levels
            tables = self._middle_tables(os.getpid(), {vpage >> 18})
            middle = tables.get(vpage >> 18)
            if middle is None:
                continue
            at = int(middle[vpage >> 9 & 511])
            if not at & 1:
                continue
            if at & _HUGE:
                found = ((at & _TABLE) >> 12) + (vpage & 511)
            else:
                leaf = self._table(at)
                found = (int(leaf[vpage & 511]) & _TABLE) >> 12
            if frame and found == frame:
                return
        raise UnsupportedError(
            "page tables: they do not say of this process what pagemap says",
            hint="run as root in the first pid namespace",
        )

    def _table(self, entry: int) -> NDArray[np.uint64]:
        assert self._memory is not None  # noqa: S101  # open
        data = self._memory.read_physical(entry & _TABLE, PAGE_BYTES)
        return np.frombuffer(data, np.uint64)

    def _middle_tables(
        self, pid: int, wanted: Iterable[int]
    ) -> dict[int, NDArray[np.uint64]]:
        """Return the tables whose entries name page-table pages, by GiB."""
        assert self._tops is not None  # noqa: S101  # open
        assert self._memory is not None  # noqa: S101
        found: dict[int, NDArray[np.uint64]] = {}
        top = self._tops.find(pid)
        if top is None:
            return found
        first = np.frombuffer(self._memory.read(top, PAGE_BYTES), np.uint64)
        for gib in wanted:
            table = first
            for shift in self._levels:
                entry = int(table[gib << 30 >> shift & 511])
                if not entry & 1 or (entry & _HUGE and shift == 30):
                    break
                try:
                    table = self._table(entry)
                except OSError:
                    break
            else:
                found[gib] = table
        return found

    def _middle(self, pid: int, granule: Granules) -> NDArray[np.uint64]:
        """Return the entry that names each granule's page table; 0 if none."""
        gib = granule >> 9
        entry = np.zeros(len(granule), np.uint64)
        for at, table in self._middle_tables(pid, np.unique(gib).tolist()).items():
            here = gib == at
            entry[here] = table[granule[here] & 511]
        return entry

    def read(self, pid: int, granule: Granules) -> tuple[Bits, NDArray[np.bool_]]:
        """Return accessed bits of granules; see BitReader.

        A huge page has one bit for all its pages.
        """
        bits = np.zeros((len(granule), GRANULE_BLOCKS), np.uint8)
        ok = np.zeros(len(granule), np.bool_)
        if self._memory is None or self._tops is None:
            return bits, ok
        try:
            if self._tops.find(pid) is None:
                return bits, ok
            before = self._middle(pid, granule)
        except OSError:
            return bits, ok
        there = before & np.uint64(_THERE) != 0
        huge = there & (before & np.uint64(_HUGE) != 0)
        bits[huge & (before >> _ACCESSED_SHIFT & _PRESENT != 0)] = 0xFF
        plain = np.flatnonzero(there & ~huge)
        for first in range(0, len(plain), TABLES_AT_ONCE):
            row = plain[first : first + TABLES_AT_ONCE]
            bits[row] = self._read_tables(before[row])
        try:
            after = self._middle(pid, granule)
        except OSError:
            return bits, ok
        # The entry's own accessed and dirty bits may change under us.
        ignored = np.uint64(~(1 << 5 | 1 << 6) & ((1 << 64) - 1))
        ok[:] = before & ignored == after & ignored
        return bits, ok

    def _read_tables(self, entry: NDArray[np.uint64]) -> Bits:
        """Return the accessed bits of page-table pages, uint8[n, 64]."""
        memory = self._memory
        assert memory is not None  # noqa: S101  # open
        for rows, at in zip(self._rows, entry.tolist(), strict=False):
            try:
                got = os.preadv(memory.fd, rows, memory.physical_offset(at & _TABLE))
            except OSError as error:
                if error.errno != errno.EFAULT:
                    raise
                got = 0
            if got != PAGE_BYTES:
                rows[0][:] = bytes(PAGE_BYTES)
        words = self._buffer[: len(entry)]
        set_bits = (words | words >> _PROT_NONE_SHIFT) & words >> _ACCESSED_SHIFT
        set_bits &= _PRESENT
        return np.packbits(set_bits.astype(np.uint8), axis=1, bitorder="little")

    def clear(
        self, pid: int, granule: Granules, mapped: NDArray[np.int64]
    ) -> Bits | None:
        """Ask the kernel to clear the bits of granules; see BitReader."""
        return self._clearing.clear(pid, granule, mapped)

    def clears_all(self, pid: int, pages: int) -> bool:
        """Return whether this process is cleared as a whole."""
        return self._clearing.clears_all(pid, pages)


assert GRANULE == ENTRIES  # noqa: S101  # one page-table page
