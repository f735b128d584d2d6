"""Kernel memory as /proc/kcore shows it: read-only, to root.

/proc/kcore is an ELF file of the kernel's address space (fs/proc/kcore.c). Its
program headers say where each stretch of virtual addresses stands in the file
and, for RAM, which physical addresses it maps. Nothing can be changed through it.
"""

import bisect
import errno
import os
import struct
from pathlib import Path
from typing import Final, Self

from isotherm.core.errors import IsothermError, NotPermittedError, UnsupportedError
from isotherm.machine.linux.syscalls import errno_name

_PT_LOAD: Final = 1
#: Stretches that map no RAM have no physical address: 0 or all ones.
_NO_PHYSICAL: Final = (0, (1 << 64) - 1)
#: The kernel's own image is mapped a second time from here on (x86-64,
#: __START_KERNEL_map); the direct map of all RAM lies below.
_IMAGE: Final = 0xFFFF_FFFF_8000_0000


class KernelMemory:
    """Reads kernel memory by virtual or physical address.

    Args:
        proc: Where procfs is mounted.

    Raises:
        NotPermittedError: Without CAP_SYS_RAWIO, or in lockdown.
        UnsupportedError: The kernel has no /proc/kcore.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        path = proc / "kcore"
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _as_error(path, error) from error
        try:
            self._read_headers(path)
        except BaseException:
            self.close()
            raise

    def _read_headers(self, path: Path) -> None:
        try:
            head = os.pread(self.fd, 64, 0)
            (table,) = struct.unpack_from("<Q", head, 32)
            size, count = struct.unpack_from("<HH", head, 54)
            rows = [
                struct.unpack("<IIQQQQQQ", os.pread(self.fd, 56, table + size * i))
                for i in range(count)
            ]
        except (OSError, struct.error) as error:
            raise UnsupportedError(f"{path}: {error}: expected an ELF file") from error
        if head[:4] != b"\x7fELF":
            raise UnsupportedError(f"{path}: found no ELF file")
        loads = [row for row in rows if row[0] == _PT_LOAD]
        #: (first address, one past the last, file offset), ascending.
        self._virtual = sorted((row[3], row[3] + row[6], row[2]) for row in loads)
        self._physical = sorted(
            (row[4], row[4] + row[6], row[2])
            for row in loads
            if row[4] not in _NO_PHYSICAL and row[3] < _IMAGE
        )

    def close(self) -> None:
        """Give the file back; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, address: int, size: int) -> bytes:
        """Return kernel memory at a virtual address.

        Raises:
            OSError: EFAULT, where nothing is mapped.
        """
        return self._read(_offset(self._virtual, address), size)

    def read_physical(self, address: int, size: int) -> bytes:
        """Return RAM at a physical address; see :meth:`read`."""
        return self._read(_offset(self._physical, address), size)

    def physical_offset(self, address: int) -> int:
        """Return where RAM at a physical address stands in the file; see read.

        Several stretches may be needed: ``os.preadv`` on ``fd`` takes it from here.
        """
        return _offset(self._physical, address)

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self.fd, size, offset)
        if len(data) != size:
            raise OSError(errno.EFAULT, "kernel memory: nothing there")
        return data

    def symbol(self, name: str) -> int:
        """Return the address of a kernel symbol.

        Raises:
            NotPermittedError: The kernel hides its addresses (kernel.kptr_restrict).
            UnsupportedError: There is no such symbol.
        """
        path = self._proc / "kallsyms"
        wanted = f" {name}\n".encode()
        rest = b""
        try:
            with path.open("rb", buffering=0) as file:
                while part := file.read(1 << 20):
                    rest += part
                    at = rest.find(wanted)
                    if at >= 0:
                        line = rest[rest.rfind(b"\n", 0, at) + 1 : at]
                        address = int(line.split()[0], 16)
                        if address == 0:
                            raise NotPermittedError(
                                f"{path}: the kernel hides its addresses",
                                hint="sysctl -w kernel.kptr_restrict=1",
                            )
                        return address
                    rest = rest[-4096:]
        except OSError as error:
            raise _as_error(path, error) from error
        raise UnsupportedError(f"{path}: no symbol {name}")


def _offset(stretches: list[tuple[int, int, int]], address: int) -> int:
    at = bisect.bisect_right(stretches, (address, 1 << 64, 0)) - 1
    if at >= 0:
        first, end, offset = stretches[at]
        if address < end:
            return offset + address - first
    raise OSError(errno.EFAULT, f"kernel memory: nothing at {address:#x}")


def _as_error(path: Path, error: OSError) -> IsothermError:
    name = errno_name(error.errno or 0)
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermittedError(
            f"{path}: {name}",
            hint="run as root (CAP_SYS_RAWIO) on a kernel without lockdown",
        )
    return UnsupportedError(
        f"{path}: {name}", hint="a kernel with CONFIG_PROC_KCORE and CONFIG_KALLSYMS"
    )
