"""A skewed workload on real memory that counts its own accesses, page by page.

Usage: ``python zram_workload.py SHARED PAGES SECONDS_AT_MOST SEED``

A quarter of the pages is hot, a tenth is warm and the rest is never touched again
after it was filled. The classes stand in runs of 256 pages in random order. Every
access reads a page and adds 1 to the counter in its last word, and to the count of
the page in the file SHARED; in the end both must agree. Content is a third random
bytes, the rest zeros, so that lz4 makes a third of it.

SHARED, as 64-bit words: state (0 filling, 1 running, 2 to end, 3 ended), first
virtual page, accesses, CPU time of the thread in ns, pages whose counters
disagree; from byte 4096 on one uint32 a page, and after it one class byte a page.
"""

import ctypes
import mmap
import sys
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np

HOT, WARM, NEVER = 0, 1, 2
SHARES = (0.25, 0.10, 0.65)
RUN = 256
#: Of the accesses; the rest goes to the hot pages.
WARM_ACCESSES = 2e-4
RANDOM_BYTES = 1290
BATCH = 50_000
HEADER = 4096
STATE, VPAGE, ACCESSES, CPU_NS, WRONG = range(5)


def shared_bytes(pages: int) -> int:
    """Return the size of the shared file."""
    return HEADER + 5 * pages


def views(buffer: Any, pages: int) -> tuple[Any, Any, Any]:
    """Return header, counts and classes of the shared file."""
    header = np.frombuffer(buffer, np.int64, HEADER // 8)
    counts = np.frombuffer(buffer, np.uint32, pages, HEADER)
    classes = np.frombuffer(buffer, np.uint8, pages, HEADER + 4 * pages)
    return header, counts, classes


def lay_out(pages: int, seed: int) -> Any:
    """Return the class of every page."""
    runs = -(-pages // RUN)
    bounds = np.round(np.cumsum(SHARES) * runs).astype(int)
    kind = np.searchsorted(bounds, np.arange(runs), side="right").astype(np.uint8)
    kind = np.random.default_rng(seed).permutation(np.minimum(kind, NEVER))
    return np.repeat(kind, RUN)[:pages]


@numba.njit(nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def work(
    words: Any, counts: Any, hot: Any, warm: Any, accesses: int, state: np.uint64
) -> tuple[np.uint64, int]:
    """Make some accesses; returns the generator's state and a sum of what was read."""
    total = 0
    line = np.uint64(2**64 - 1) * np.uint64(0) + np.uint64(WARM_ACCESSES * 2**32)
    for _ in range(accesses):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        draw = state >> np.uint64(32)
        pick = state & np.uint64(0xFFFFFFFF)
        if draw < line:
            page = warm[(pick * np.uint64(warm.size)) >> np.uint64(32)]
        else:
            page = hot[(pick * np.uint64(hot.size)) >> np.uint64(32)]
        total += words[page, np.int64(pick & np.uint64(255))]
        words[page, 1023] += 1
        counts[page] += 1
    return state, total


def fill(words: Any, seed: int) -> None:
    """Give every page content that compresses to about a third."""
    rng = np.random.default_rng(seed)
    data = words.view(np.uint8)
    for first in range(0, len(data), 1024):
        part = data[first : first + 1024]
        part[:, :RANDOM_BYTES] = rng.integers(
            0, 256, (len(part), RANDOM_BYTES), np.uint8
        )
        part[:, RANDOM_BYTES] = 1  # so that every page is written to its last word
        part[:, -4:] = 0


def main(path: str, pages: int, seconds: float, seed: int) -> None:
    """Fill, run until told to end, and check."""
    with Path(path).open("r+b") as file:
        buffer = mmap.mmap(file.fileno(), shared_bytes(pages))
    header, counts, classes = views(buffer, pages)
    one, small = np.zeros(1, np.int64), np.zeros((1, 1024), np.uint32)
    work(small, np.zeros(1, np.uint32), one, one, 1, np.uint64(1))
    # What the interpreter has itself is as cold: locked, so that what is put out is
    # memory of which the truth is known.
    if ctypes.CDLL(None).mlockall(1):
        sys.exit("mlockall: not permitted")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, pages * 4096 + (2 << 20), flags)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    skip = -address % (2 << 20)
    words = np.frombuffer(memory, np.uint32, pages * 1024, skip).reshape(pages, 1024)
    fill(words, seed)
    classes[:] = lay_out(pages, seed)
    hot = np.flatnonzero(classes == HOT).astype(np.int64)
    warm = np.flatnonzero(classes == WARM).astype(np.int64)
    state, _ = work(words, counts, hot, warm, 1, np.uint64(seed + 0x9E3779B97F4A7C15))
    header[CPU_NS] = time.thread_time_ns()
    header[VPAGE] = (address + skip) >> 12
    header[STATE] = 1
    end = time.monotonic() + seconds
    while header[STATE] == 1 and time.monotonic() < end:
        state, _ = work(words, counts, hot, warm, BATCH, state)
        header[ACCESSES] += BATCH
        header[CPU_NS] = time.thread_time_ns()
    header[WRONG] = np.count_nonzero(words[:, 1023] != counts)
    header[STATE] = 3


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
