"""PAGEMAP_SCAN in pieces: every run once, wherever the kernel says a walk ended."""

import ctypes
import mmap
import os
import struct

import numpy as np
import pytest

from isotherm.core.units import PAGE_BYTES
from isotherm.hints.live import pagemap_scan
from isotherm.hints.live.pagemap_scan import (
    Category,
    open_pagemap,
    probe_scan,
    scan_runs,
    why_not,
)

ROOM = 8192  # runs in one call


class FakeKernel:
    """Answers the ioctl: every other page is present, ``short`` pages are taken back.

    ``short`` is by how many pages the end of the walk lies before the last run.
    """

    def __init__(self, pages: int, short: int) -> None:
        self.pages, self.short = pages, short
        self.asked: list[int] = []

    def ioctl(self, fd: int, request: int, argument: bytearray) -> int:
        """Fill the caller's vector as the kernel does."""
        words = list(struct.unpack("<12Q", argument))
        start, end, vector, room = words[2], words[3], words[5], words[6]
        self.asked.append(start // PAGE_BYTES)
        first = -(-start // PAGE_BYTES)
        page = np.arange(first + first % 2, end // PAGE_BYTES, 2, dtype=np.uint64)
        taken = page[:room]
        rows = np.zeros((len(taken), 3), np.uint64)
        rows[:, 0] = taken * PAGE_BYTES
        rows[:, 1] = (taken + 1) * PAGE_BYTES
        ctypes.memmove(vector, rows.ctypes.data, rows.nbytes)
        if len(taken) == room:
            walked = int(rows[-1, 1]) - self.short * PAGE_BYTES
        else:
            walked = end
        words[4] = walked
        argument[:] = struct.pack("<12Q", *words)
        return len(taken)


@pytest.mark.parametrize("short", [0, 3, ROOM])
@pytest.mark.parametrize("runs", [ROOM - 1, ROOM, ROOM + 1, 3 * ROOM + 5])
def test_every_run_is_returned_once(monkeypatch, runs, short):
    """A walk that ends before the last run returned goes on after that run."""
    kernel = FakeKernel(2 * runs, short)
    monkeypatch.setattr(pagemap_scan.fcntl, "ioctl", kernel.ioctl)
    found = scan_runs(0, 0, 2 * runs, all_of=Category.PRESENT)
    assert np.arange(0, 2 * runs, 2).tolist() == found[:, 0].tolist()
    assert (found[:, 0] + 1).tolist() == found[:, 1].tolist()
    assert sorted(set(kernel.asked)) == kernel.asked


def test_no_second_call_where_room_was_left(monkeypatch):
    """Fewer runs than there was room for: the whole range has been walked."""
    kernel = FakeKernel(100, 0)
    monkeypatch.setattr(pagemap_scan.fcntl, "ioctl", kernel.ioctl)
    scan_runs(0, 0, 100, all_of=Category.PRESENT)
    assert [0] == kernel.asked


def test_more_runs_than_one_call_returns():
    """On this kernel: every other page of memory touched is found, and no other."""
    error = probe_scan()
    if error is not None:
        pytest.skip(why_not(error))
    pages = 2 * ROOM + 4000
    memory = mmap.mmap(-1, pages * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(0, pages, 2):
        memory[page * PAGE_BYTES] = 1
    address = np.frombuffer(memory, np.uint8).ctypes.data // PAGE_BYTES
    fd = open_pagemap(os.getpid())
    try:
        found = scan_runs(
            fd, address, address + pages, any_of=Category.PRESENT | Category.SWAPPED
        )
    finally:
        os.close(fd)
    assert np.arange(0, pages, 2).tolist() == (found[:, 0] - address).tolist()
    assert pages // 2 == int((found[:, 1] - found[:, 0]).sum())
