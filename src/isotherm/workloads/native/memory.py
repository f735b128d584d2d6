"""Memory to be touched: mapped, advised about huge pages, placed on nodes."""

import ctypes
import errno
import mmap
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import NotPermittedError, UnsupportedError, UsageError
from isotherm.core.units import HUGE_PAGE_BYTES, PAGE_BYTES

#: Numbers of mbind(2) and move_pages(2) (include/uapi/asm-generic/unistd.h, and
#: arch/x86/entry/syscalls/syscall_64.tbl).
_CALLS: Final = {"x86_64": (237, 279), "aarch64": (235, 239)}
#: include/uapi/linux/mempolicy.h
_MODES: Final = {"default": 0, "preferred": 1, "bind": 2, "interleave": 3}
_MAX_NODES: Final = 1024
#: How memory is advised: words for --huge.
HUGE: Final = ("default", "always", "never")

_libc = ctypes.CDLL(None, use_errno=True)


def syscall_numbers() -> tuple[int, int]:
    """Return the numbers of mbind and move_pages.

    Raises:
        UnsupportedError: Another architecture.
    """
    machine = platform.machine()
    if machine not in _CALLS:
        raise UnsupportedError(
            f"system calls of {machine} are not known, expected one of "
            + ", ".join(_CALLS)
        )
    return _CALLS[machine]


@dataclass(frozen=True, slots=True)
class Placing:
    """A memory policy: a mode of mbind(2) and its nodes."""

    mode: str
    nodes: tuple[int, ...]


def parse_placing(text: str) -> Placing:
    """Return what ``bind:1``, ``preferred:0`` or ``interleave:0,1`` asks for.

    Raises:
        UsageError: It is none of them.

    >>> parse_placing("interleave:0,1")
    Placing(mode='interleave', nodes=(0, 1))
    """
    mode, _, nodes = text.partition(":")
    try:
        numbers = tuple(int(word) for word in nodes.split(",")) if nodes else ()
    except ValueError:
        numbers = ()
    good = bool(numbers) and all(0 <= node < _MAX_NODES for node in numbers)
    if mode == "default":
        good = not nodes
    if mode not in _MODES or not good:
        raise UsageError(
            f"place: expected default, bind:N, preferred:N or interleave:N,M, "
            f"got {text!r}"
        )
    return Placing(mode, numbers)


class Buffer:
    """Private anonymous memory, aligned to huge pages.

    Attributes:
        words: The memory, uint64[pages * 512].
        address: Of page 0.

    Args:
        pages: Length.
        huge: One of ``HUGE``.
    """

    def __init__(self, pages: int, huge: str = "default") -> None:
        size = pages * PAGE_BYTES
        # The last huge page is ours alone, so that no neighbour shares its heat.
        whole = -(-size // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES + HUGE_PAGE_BYTES
        try:
            self._map = mmap.mmap(
                -1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            )
        except OSError as error:
            raise UnsupportedError(
                f"{pages} pages: {error.strerror}", hint="fewer --pages"
            ) from None
        raw = np.frombuffer(self._map, np.uint8)
        skip = -raw.ctypes.data % HUGE_PAGE_BYTES
        self.address = int(raw.ctypes.data) + skip
        self.words: NDArray[np.uint64] = raw[skip : skip + size].view(np.uint64)
        self._size = size
        if huge != "default":
            advice = mmap.MADV_HUGEPAGE if huge == "always" else mmap.MADV_NOHUGEPAGE
            try:
                self._map.madvise(advice)
            except OSError as error:
                raise UnsupportedError(
                    f"madvise for huge pages: {error.strerror}", hint="--huge default"
                ) from None

    def place(self, placing: Placing) -> None:
        """Set where the memory is to be allocated: mbind(2) on this buffer alone.

        Raises:
            UsageError: There is no such node.
            NotPermittedError: The cpuset forbids it.
        """
        mask = (ctypes.c_ulong * (_MAX_NODES // 64))()
        for node in placing.nodes:
            mask[node // 64] |= 1 << (node % 64)
        failed = _libc.syscall(
            ctypes.c_long(syscall_numbers()[0]),
            ctypes.c_void_p(self.address),
            ctypes.c_size_t(-(-self._size // PAGE_BYTES) * PAGE_BYTES),
            ctypes.c_int(_MODES[placing.mode]),
            mask if placing.nodes else None,
            ctypes.c_ulong(_MAX_NODES + 1 if placing.nodes else 0),
            ctypes.c_uint(0),
        )
        if not failed:
            return
        code = ctypes.get_errno()
        said = f"mbind {placing.mode} {list(placing.nodes)}: {os.strerror(code)}"
        if code == errno.EINVAL:
            raise UsageError(said, hint="isotherm topology lists the nodes")
        raise NotPermittedError(said)

    def close(self) -> None:
        """Unmap the memory; as long as somebody else holds it, it stays."""
        del self.words
        with suppress(BufferError):
            self._map.close()


def query_nodes(pid: int, address: int, pages: int) -> NDArray[np.int16]:
    """Return the node of every page, or minus an errno: move_pages(2) as a query.

    Args:
        pid: The process; 0: this one.
        address: Of the first page.
        pages: How many.

    Raises:
        NotPermittedError: Somebody else's process.
        ProcessLookupError: No such process, or one that has given up its memory.
    """
    status = np.empty(pages, np.int32)
    where = address + np.arange(pages, dtype=np.uint64) * np.uint64(PAGE_BYTES)
    failed = _libc.syscall(
        ctypes.c_long(syscall_numbers()[1]),
        ctypes.c_int(pid),
        ctypes.c_ulong(pages),
        ctypes.c_void_p(where.ctypes.data),
        None,
        ctypes.c_void_p(status.ctypes.data),
        ctypes.c_int(0),
    )
    if failed:
        code = ctypes.get_errno()
        # EINVAL: it is ending and has no memory any more (find_mm_struct() in
        # mm/migrate.c); nothing else is wrong with our arguments.
        if code == errno.ESRCH or (code == errno.EINVAL and pid):
            raise ProcessLookupError(code, os.strerror(code))
        raise NotPermittedError(
            f"move_pages query of pid {pid}: {os.strerror(code)}",
            hint="run as the same user or as root",
        )
    return status.astype(np.int16)
