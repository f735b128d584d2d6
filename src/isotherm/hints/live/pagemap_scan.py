"""PAGEMAP_SCAN: which pages of a range are present, swapped, written; in bulk.

One ioctl on /proc/PID/pagemap (v6.7, Documentation/admin-guide/mm/pagemap.rst)
answers in runs of pages of one category, at 11 ns a page of 4 KiB and far less
for huge ones; with asynchronous write protection it also re-arms what it reports.
"""

import errno
import fcntl
import os
import struct
from enum import IntFlag
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGE_BYTES

# _IOWR('f', 16, struct pm_scan_arg): twelve 64-bit words (include/uapi/linux/fs.h)
_PAGEMAP_SCAN: Final = 0xC0606610
_ARG: Final = struct.Struct("<12Q")
_WP_MATCHING: Final = 1 << 0
_CHECK_WPASYNC: Final = 1 << 1
#: Runs taken at once: 24 bytes each.
_RUNS: Final = 8192


class Category(IntFlag):
    """What PAGEMAP_SCAN tells of a page."""

    WPALLOWED = 1 << 0
    WRITTEN = 1 << 1
    FILE = 1 << 2
    PRESENT = 1 << 3
    SWAPPED = 1 << 4
    PFNZERO = 1 << 5
    HUGE = 1 << 6
    SOFT_DIRTY = 1 << 7
    GUARD = 1 << 8


NO_CATEGORY: Final = Category(0)


def open_pagemap(pid: int) -> int:
    """Return a descriptor of a process's pagemap.

    Raises:
        OSError: ENOENT or ESRCH: it is gone; EACCES, EPERM: not permitted.
    """
    return os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)


def scan_runs(
    fd: int,
    start_page: int,
    end_page: int,
    *,
    all_of: Category = NO_CATEGORY,
    any_of: Category = NO_CATEGORY,
    none_of: Category = NO_CATEGORY,
    protect: bool = False,
) -> NDArray[np.int64]:
    """Return runs of pages that have the categories, ascending.

    Args:
        fd: A pagemap.
        start_page: First virtual page.
        end_page: One past the last virtual page.
        all_of: Categories that a page must have.
        any_of: Categories of which it must have one, unless empty.
        none_of: Categories that it must not have.
        protect: Write-protect what is reported, in the same step; every page must
            be registered with asynchronous write protection.

    Returns:
        int64[n, 2] ``[start, end)`` in virtual pages.

    Raises:
        OSError: ENOTTY: the kernel has no PAGEMAP_SCAN (before v6.7); EPERM: a
            page is not registered, or not permitted; ESRCH: the process is gone.
    """
    flags = (_WP_MATCHING | _CHECK_WPASYNC) if protect else 0
    vector = np.empty((_RUNS, 3), np.uint64)
    parts: list[NDArray[np.int64]] = []
    at, end = start_page * PAGE_BYTES, end_page * PAGE_BYTES
    while at < end:
        argument = bytearray(
            _ARG.pack(
                _ARG.size,
                flags,
                at,
                end,
                0,
                vector.ctypes.data,
                _RUNS,
                0,
                int(none_of),
                int(all_of | none_of),
                int(any_of),
                int(all_of | any_of) or int(Category.PRESENT),
            )
        )
        count = fcntl.ioctl(fd, _PAGEMAP_SCAN, argument)
        if count:
            parts.append((vector[:count, :2] // PAGE_BYTES).astype(np.int64))
        if count < _RUNS:  # room was left: the whole range has been walked
            break
        # walk_end may lie before the last run returned (seen on 6.18).
        at = max(int(_ARG.unpack(argument)[4]), int(vector[count - 1, 1]))
    if not parts:
        return np.empty((0, 2), np.int64)
    return _joined(np.concatenate(parts))


def _joined(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return runs with those joined that touch."""
    first = np.ones(len(runs), np.bool_)
    first[1:] = runs[1:, 0] != runs[:-1, 1]
    last = np.append(first[1:], True)
    return np.column_stack([runs[first, 0], runs[last, 1]])


def pages_in(runs: NDArray[np.int64]) -> int:
    """Return how many pages runs hold."""
    return int((runs[:, 1] - runs[:, 0]).sum())


def expand(runs: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return every page of runs, ascending.

    >>> expand(np.array([[3, 5], [9, 10]])).tolist()
    [3, 4, 9]
    """
    size = runs[:, 1] - runs[:, 0]
    begin = np.repeat(runs[:, 0] - np.concatenate([[0], np.cumsum(size)[:-1]]), size)
    return (begin + np.arange(len(begin))).astype(np.uint64)


def probe_scan() -> OSError | None:
    """Return why PAGEMAP_SCAN does not work here; None if it does."""
    try:
        fd = open_pagemap(os.getpid())
    except OSError as error:
        return error
    try:
        scan_runs(fd, 0, 1, all_of=Category.PRESENT)
    except OSError as error:
        return error
    finally:
        os.close(fd)
    return None


def why_not(error: OSError) -> str:
    """Return an error of a scan in words."""
    name = errno.errorcode.get(error.errno or 0, "?")
    if error.errno == errno.ENOTTY:
        return "PAGEMAP_SCAN: ENOTTY; the kernel lacks it (it came with v6.7)"
    return f"PAGEMAP_SCAN: {name}"


def read_status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status.

    Raises:
        OSError: The process is gone.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key: value.strip() for key, _, value in pairs}
