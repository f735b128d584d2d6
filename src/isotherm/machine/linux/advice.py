"""Advice about pages of another process: out to swap, in again, cold, huge."""

import errno
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError
from isotherm.core.units import PAGES_PER_HUGE_PAGE
from isotherm.machine.linux import pagemap, syscalls
from isotherm.machine.linux.intervals import Ranges
from isotherm.machine.linux.process import Process

#: Pages of a range below which one more system call for its pagemap does not pay.
_GAP_PAGES: Final = 64


def runs_of(vpage: NDArray[np.uint64]) -> Ranges:
    """Return ascending, distinct pages as ranges, int64[n, 2].

    >>> runs_of(np.array([1, 2, 3, 9], np.uint64)).tolist()
    [[1, 4], [9, 10]]
    """
    page = vpage.astype(np.int64)
    first = np.flatnonzero(np.diff(page, prepend=-2) != 1)
    last = np.concatenate([first[1:], [len(page)]]) - 1
    return np.stack([page[first], page[last] + 1], axis=1)


def read_entries(process: Process, vpage: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the pagemap entry of each ascending page, 0 where it cannot be read."""
    entries = np.zeros(len(vpage), np.uint64)
    page = vpage.astype(np.int64)
    cuts = np.flatnonzero(np.diff(page) > _GAP_PAGES) + 1
    for rows in np.split(np.arange(len(page)), cuts):
        if len(rows) == 0:
            continue
        start = int(page[rows[0]])
        try:
            found = process.pagemap(start, int(page[rows[-1]]) + 1)
        except IsothermError:
            return entries
        entries[rows] = found[page[rows] - start]
    return entries


def page_out(process: Process, vpage: NDArray[np.uint64]) -> NDArray[np.int16]:
    """Put pages out to swap; return an errno each, int16[n].

    Whether they went is read from the page table: the kernel takes the advice
    without swap, and of shared and locked pages, and does nothing.

    Args:
        process: Whose.
        vpage: Virtual pages, ascending, distinct.

    Returns:
        0 where it is swapped out, EAGAIN where it stayed, ENOENT where there is no
        page, or what the whole call answered.
    """
    result = process.madvise(runs_of(vpage), syscalls.MADV_PAGEOUT)
    if result < 0 and -result not in (errno.EINVAL, errno.ENOMEM):
        return np.full(len(vpage), -result, np.int16)
    entries = read_entries(process, vpage)
    code = np.full(len(vpage), errno.ENOENT, np.int16)
    code[(entries & pagemap.PRESENT) != 0] = errno.EAGAIN
    code[(entries & pagemap.SWAPPED) != 0] = 0
    return code


def bring_in(process: Process, vpage: NDArray[np.uint64]) -> NDArray[np.int16]:
    """Bring pages back from swap; return an errno each, int16[n].

    First all are asked for (WILLNEED), which overlaps the reads; then a byte of
    each is read from outside, so that the page, not its owner, pays for the fault.

    Args:
        process: Whose.
        vpage: Virtual pages, ascending, distinct.

    Returns:
        0 where the page is there now, EAGAIN where it is not, or what the whole
        call answered.
    """
    process.madvise(runs_of(vpage), syscalls.MADV_WILLNEED)
    result = process.touch(vpage)
    if result < 0 and -result != errno.EFAULT:
        return np.full(len(vpage), -result, np.int16)
    entries = read_entries(process, vpage)
    there = (entries & pagemap.PRESENT) != 0
    return np.where(there, 0, errno.EAGAIN).astype(np.int16)


def collapse(process: Process, granule: NDArray[np.int64]) -> NDArray[np.int16]:
    """Make huge pages; return an errno each, int16[n].

    Args:
        process: Whose.
        granule: Virtual page numbers / 512.

    Returns:
        0, or what the kernel says: EINVAL where the mapping refuses huge pages,
        ENOMEM without a free one, EAGAIN or EBUSY where a page is held.
    """
    code = np.zeros(len(granule), np.int16)
    start = granule * PAGES_PER_HUGE_PAGE
    for i, at in enumerate(start.tolist()):
        one = np.array([[at, at + PAGES_PER_HUGE_PAGE]], np.int64)
        code[i] = -min(process.madvise(one, syscalls.MADV_COLLAPSE), 0)
    return code
