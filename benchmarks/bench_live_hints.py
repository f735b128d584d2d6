"""What the live hint sources cost: the application, and the process that looks.

Root, Linux 6.7 or later on x86-64. Each figure is the least of several runs, in
CPU time of the thread that pays: other load on the machine makes them larger,
never smaller. Page-out wants a zram swap and sets one up where it may.
"""

import contextlib
import ctypes
import mmap
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from isotherm.hints.live.page_fault import SPEC
from isotherm.hints.live.pagemap_scan import Category, open_pagemap, scan_runs
from isotherm.hints.live.perf_event import ThreadEvents
from isotherm.hints.live.userfaultfd import RemoteUserfaultfd
from isotherm.machine.linux import syscalls
from isotherm.machine.linux.process import Process
from isotherm.records.perf_ring import SampleLayout, decode_ring
from zram_swap import missing, zram_swap

PAGES = 1 << 15
REPEATS = 7


@numba.njit(nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def touch(memory: Any, pages: int) -> None:
    """Write one byte of every page."""
    for page in range(pages):
        memory[page * 4096] += 1


@contextlib.contextmanager
def some_memory() -> Iterator[tuple[Any, int]]:
    """Give small pages, none there yet, and the first virtual page."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, PAGES * 4096, flags)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    view = np.frombuffer(memory, np.uint8)
    yield view, ctypes.addressof(ctypes.c_char.from_buffer(memory)) >> 12


@contextlib.contextmanager
def timed(runs: list[float]) -> Iterator[None]:
    """Append CPU nanoseconds a page of the block."""
    began = time.thread_time_ns()
    yield
    runs.append((time.thread_time_ns() - began) / PAGES)


def least(name: str, runs: list[float]) -> None:
    """Print the least and the median."""
    print(f"{name:52} {min(runs):8.1f} {float(np.median(runs)):8.1f} ns")


def fault_samples() -> None:
    """First touches with and without a perf event on them; decoding them."""
    for watched in (False, True):
        runs: list[float] = []
        decode: list[float] = []
        for _ in range(REPEATS):
            with some_memory() as (view, _first), ThreadEvents(SPEC, 512) as events:
                if watched:
                    events.watch(os.getpid())
                with timed(runs):
                    touch(view, PAGES)
                with timed(decode):
                    events.drain()
        least("minor fault" + (", sampled" if watched else ""), runs)
        if watched:
            least("  read and decode a sample", decode)
    words = np.zeros(4 << 20, np.uint64)
    words[::4] = 9 | 32 << 48
    layout = SampleLayout.of(SPEC.fields)
    decode_ring(words, layout)
    began = time.thread_time_ns()
    decode_ring(words, layout)
    spent = (time.thread_time_ns() - began) / (1 << 20)
    print(f"{'decode alone, equal-sized records':52} {spent:8.1f} ns")


def write_tracking() -> None:
    """Arming, first writes of armed pages, reading, giving back."""
    arm: list[float] = []
    first: list[float] = []
    plain: list[float] = []
    read: list[float] = []
    back: list[float] = []
    number = 323  # userfaultfd on x86-64
    for _ in range(REPEATS):
        fd = ctypes.CDLL(None).syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | 1)
        uffd, pagemap = RemoteUserfaultfd(fd, os.getpid()), open_pagemap(os.getpid())
        with some_memory() as (view, page):
            touch(view, PAGES)
            end, written = page + PAGES, Category.WRITTEN
            with timed(arm):
                uffd.register(page, end)
                scan_runs(pagemap, page, end, all_of=written, protect=True)
            with timed(first):
                touch(view, PAGES)
            with timed(plain):
                touch(view, PAGES)
            with timed(read):
                scan_runs(pagemap, page, end, all_of=written)
            with timed(back):
                uffd.unregister(page, end)
        uffd.close()
        os.close(pagemap)
    least("write", plain)
    least("first write of an armed page", first)
    least("arm a page", arm)
    least("read whether it was written", read)
    least("give it back", back)


def page_out() -> None:
    """Putting pages out, and touching them again."""
    why = missing()
    if why:
        print(f"page-out: skipped: {why}")
        return
    page = np.zeros(4096, np.uint8)
    page[:1200] = np.random.default_rng(1).integers(0, 256, 1200)
    out: list[float] = []
    scattered: list[float] = []
    swapped: list[float] = []
    fetch: list[float] = []
    fetched: list[float] = []
    with zram_swap(1 << 30), Process(os.getpid()) as process:
        for _ in range(REPEATS):
            with some_memory() as (view, first):
                view.reshape(PAGES, 4096)[:] = page
                whole = np.array([[first, first + PAGES]])
                blocks = first + 8 * np.arange(PAGES // 8)
                pieces = np.column_stack([blocks, blocks + 8])
                for ranges, runs in ((whole, out), (pieces, scattered)):
                    with timed(runs):
                        process.madvise(ranges, syscalls.MADV_PAGEOUT)
                    with timed(swapped):
                        touch(view, PAGES)
                process.madvise(whole, syscalls.MADV_PAGEOUT)
                with timed(fetch):
                    process.madvise(whole, syscalls.MADV_WILLNEED)
                with timed(fetched):
                    touch(view, PAGES)
    least("put a page out, in one piece", out)
    least("put a page out, in blocks of eight", scattered)
    least("touch a page that is out", swapped)
    least("fetch a page into the swap cache", fetch)
    least("touch a page that was fetched", fetched)


def main() -> int:
    """Print all figures."""
    if os.geteuid() != 0:
        print("skipped: needs root", file=sys.stderr)
        return 0
    touch(np.zeros(4096, np.uint8), 1)
    print(f"{'a page or sample':52} {'least':>8} {'median':>8}")
    fault_samples()
    write_tracking()
    page_out()
    return 0


if __name__ == "__main__":
    sys.exit(main())
