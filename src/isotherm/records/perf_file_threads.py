"""Which process a thread belongs to, from the records of a perf.data file.

Samples name both; the context of Arm's SPE is the thread alone.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.records.perf_fields import Kind
from isotherm.records.perf_sample import Words

_LOW: Final = 0xFFFF_FFFF
#: Numbers from here on are negative: of no thread.
_NOBODY: Final = 1 << 31


def take_threads(words: Words, process: dict[int, int]) -> None:
    """Take note of the threads that records tell of.

    COMM, MMAP and MMAP2 begin with process and thread; FORK with process, its
    parent, thread, its parent (include/uapi/linux/perf_event.h).

    Args:
        words: Whole records, one behind the other, uint64[n].
        process: Changed: the process of each thread.

    >>> comm = [24 << 48 | Kind.COMM, 71 << 32 | 70, 0]
    >>> known = {}
    >>> take_threads(np.array(comm, np.uint64), known)
    >>> known
    {71: 70}
    """
    at = 0
    while at < len(words):
        head = int(words[at])
        kind, size = head & _LOW, head >> 51
        if size == 0:
            return
        if kind in (Kind.COMM, Kind.MMAP, Kind.MMAP2) and at + 1 < len(words):
            both = int(words[at + 1])
            _take(both >> 32, both & _LOW, process)
        elif kind == Kind.FORK and size >= 3 and at + 2 < len(words):
            _take(int(words[at + 2]) & _LOW, int(words[at + 1]) & _LOW, process)
        at += size


def _take(tid: int, pid: int, process: dict[int, int]) -> None:
    if 0 < tid < _NOBODY and pid < _NOBODY:
        process[tid] = pid


def processes_of(thread: Words, process: dict[int, int]) -> NDArray[np.int32]:
    """Return the process of each thread, itself where none is known, int32[n].

    Args:
        thread: Numbers of threads, of which the lower 32 bits are used, uint64[n].
        process: The process of each thread that is known.
    """
    low = thread.astype(np.uint32).view(np.int32)
    each, place = np.unique(low, return_inverse=True)
    owner = np.array([process.get(t, t) for t in each.tolist()], np.int32)
    found: NDArray[np.int32] = owner[place]
    return found
