"""System calls that Python does not wrap, as thin as they can be; errno is data.

Each returns what the kernel returned, or ``-errno``. None raises. The interpreter
lock is not held during a call, so a move in one thread stops no other.
"""

import ctypes
import errno
import os
import platform
import sys
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core import privileged
from isotherm.core.errors import UnsupportedError

#: move_pages(2): pages that only this process maps, or all (CAP_SYS_NICE).
MPOL_MF_MOVE: Final = 1 << 1
MPOL_MF_MOVE_ALL: Final = 1 << 2

#: Advice that process_madvise(2) takes for another process
#: (process_madvise_remote_valid() in mm/madvise.c).
MADV_WILLNEED: Final = 3
MADV_COLD: Final = 20
MADV_PAGEOUT: Final = 21
MADV_COLLAPSE: Final = 25

#: Most entries of an iovec array (include/uapi/linux/uio.h).
UIO_MAXIOV: Final = 1024

#: What a status holds before the kernel has written it: no node, no errno.
NO_STATUS: Final = -(1 << 20)

# arch/x86/entry/syscalls/syscall_64.tbl; scripts/syscall.tbl for the rest.
_NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {"move_pages": 279, "process_vm_readv": 310, "kcmp": 312},
    "aarch64": {"move_pages": 239, "process_vm_readv": 270, "kcmp": 272},
    "riscv64": {"move_pages": 239, "process_vm_readv": 270, "kcmp": 272},
    "loongarch64": {"move_pages": 239, "process_vm_readv": 270, "kcmp": 272},
}
_EVERYWHERE: Final = {"pidfd_getfd": 438, "process_madvise": 440}

#: Answers after which the rest of a vector need not be tried.
_NO_USE: Final = frozenset({errno.ESRCH, errno.EPERM, errno.EBADF, errno.ENOSYS})

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_ioctl = _libc.ioctl
_ioctl.restype = ctypes.c_int


def number(name: str) -> int:
    """Return a system call's number on this processor.

    Raises:
        UnsupportedError: The processor is not one of those known.
    """
    if name in _EVERYWHERE:
        return _EVERYWHERE[name]
    machine = platform.machine()
    numbers = _NUMBERS.get(machine)
    if numbers is None or sys.maxsize < 1 << 32:
        raise UnsupportedError(
            f"system calls: found processor {machine}, expected one of "
            f"{', '.join(_NUMBERS)}, 64 bits"
        )
    return numbers[name]


def _call(name: str, *args: int | None) -> int:
    """Make a call with arguments that fit a register; return -errno if it failed."""
    words = [ctypes.c_long(arg or 0) for arg in args]
    result = int(_syscall(ctypes.c_long(number(name)), *words))
    return result if result >= 0 else -ctypes.get_errno()


@dataclass(frozen=True, slots=True)
class MovePages:
    """What move_pages(2) answered.

    Attributes:
        result: Pages that were not moved and not looked at further, or -errno.
        status: int32[n]: a node, a -errno, or NO_STATUS where nothing was said.
    """

    result: int
    status: NDArray[np.int32]


def move_pages(
    pid: int,
    address: NDArray[np.uint64],
    node: NDArray[np.int32] | None,
    flags: int = MPOL_MF_MOVE,
) -> MovePages:
    """Move pages of a process, or ask where they are.

    Args:
        pid: Whose pages.
        address: Virtual addresses, uint64[n].
        node: Where each goes, int32[n]; None only asks.
        flags: MPOL_MF_MOVE or MPOL_MF_MOVE_ALL.
    """
    address = np.ascontiguousarray(address, np.uint64)
    status = np.full(len(address), NO_STATUS, np.int32)
    if len(address) == 0:
        return MovePages(0, status)
    target = None
    if node is not None:
        target = np.ascontiguousarray(node, np.int32)
    result = _call(
        "move_pages",
        pid,
        len(address),
        address.ctypes.data,
        None if target is None else target.ctypes.data,
        status.ctypes.data,
        0 if target is None else flags,
    )
    return MovePages(result, status)


def process_madvise(
    pidfd: int, start: NDArray[np.uint64], size: NDArray[np.uint64], advice: int
) -> int:
    """Give advice about ranges of a process; return bytes advised, or -errno.

    Ranges go in calls of 1024. The kernel ends a call at the first range that it
    refuses; that range is passed over, and the rest is tried.

    Args:
        pidfd: Whose memory.
        start: Addresses, page-aligned, uint64[n].
        size: Bytes, uint64[n].
        advice: MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED or MADV_COLLAPSE.

    Returns:
        The bytes that were taken in; -errno if none was.
    """
    vector = np.column_stack([start, size]).astype(np.uint64, copy=False)
    vector = np.ascontiguousarray(_pieces(vector))
    reached = np.cumsum(vector[:, 1])
    advised, failed, at = 0, 0, 0
    while at < len(vector):
        rows = vector[at : at + UIO_MAXIOV]
        result = _call("process_madvise", pidfd, rows.ctypes.data, len(rows), advice, 0)
        if result < 0:
            failed = failed or result
            if -result in _NO_USE:
                break
            at += 1
            continue
        before = int(reached[at - 1]) if at else 0
        over = int(np.searchsorted(reached, np.uint64(before + result), side="right"))
        if over > at:  # a range that was taken in by half is given again
            advised += int(reached[over - 1]) - before
        at = max(over, at + 1)
    return advised if advised or not failed else failed


def _pieces(vector: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return ranges of at most 1 GiB.

    A call takes in 2 GiB less a page (MAX_RW_COUNT, include/linux/fs.h): a larger
    range would never be done.
    """
    most = np.uint64(1 << 30)
    parts = np.maximum((vector[:, 1] + most - np.uint64(1)) // most, np.uint64(1))
    if (parts == 1).all():
        return vector
    row = np.repeat(np.arange(len(vector)), parts.astype(np.int64))
    first = np.cumsum(parts) - parts
    offset = (np.arange(len(row), dtype=np.uint64) - first[row]) * most
    size = np.minimum(vector[row, 1] - offset, most)
    return np.column_stack([vector[row, 0] + offset, size])


def touch(pid: int, address: NDArray[np.uint64]) -> int:
    """Read one byte at each address of a process, which faults its pages in.

    Args:
        pid: Whose memory; as process_vm_readv(2), it needs the right to trace it.
        address: uint64[n].

    Returns:
        How many were read, or -errno if none was.
    """
    remote = np.column_stack([address, np.ones(len(address), np.uint64)])
    remote = np.ascontiguousarray(remote, np.uint64)
    buffer = np.empty(UIO_MAXIOV, np.uint8)
    done, failed, at = 0, 0, 0
    while at < len(remote):
        rows = remote[at : at + UIO_MAXIOV]
        local = np.array([buffer.ctypes.data, len(rows)], np.uint64)
        result = _call(
            "process_vm_readv",
            pid,
            local.ctypes.data,
            1,
            rows.ctypes.data,
            len(rows),
            0,
        )
        if result < 0:
            failed = failed or result
            if -result in _NO_USE:
                break
            at += 1
            continue
        done += result
        at += result if result == len(rows) else result + 1
    return done if done or not failed else failed


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Return a copy of another process's file descriptor, or -errno.

    The copy is closed on exec; the caller closes it.
    """
    return _call("pidfd_getfd", pidfd, fd, 0)


def shares_memory(pid: int, other: int) -> bool:
    """Return whether two processes have one address space, as after vfork(2).

    False where the kernel has no kcmp(2) or we may not ask.
    """
    asked = privileged.broker()
    if asked is not None:
        return asked.shares_memory(pid, other)
    kcmp_vm = 1  # include/uapi/linux/kcmp.h
    return _call("kcmp", pid, other, kcmp_vm, 0, 0) == 0


def ioctl(fd: int, request: int, argument: NDArray[np.generic]) -> int:
    """Make an ioctl on a block of memory; return its result, or -errno."""
    result = int(
        _ioctl(
            ctypes.c_int(fd),
            ctypes.c_ulong(request),
            ctypes.c_void_p(argument.ctypes.data),
        )
    )
    return result if result >= 0 else -ctypes.get_errno()


def errno_name(code: int) -> str:
    """Return an errno with its meaning, for messages.

    >>> errno_name(16)
    'EBUSY'
    """
    return errno.errorcode.get(code, os.strerror(code))
