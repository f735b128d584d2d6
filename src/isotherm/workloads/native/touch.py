"""Touching memory: one cache line an access, read and checked, or written.

A line holds a number of writes and a check word that depends on the number and
on the line's place. Data that was lost, swapped with other data or torn is
noticed by the next access to it; data from the past by the sum of all lines at
the end, which is the number of writes made.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel
from isotherm.workloads.rng import GOLDEN, MIX_A

#: 64-bit words of a page, and of a cache line.
PAGE_WORDS = 512
LINE_WORDS = 8
#: Lines made or verified at a time: 4 MiB of memory.
_BLOCK = 1 << 16
_S58 = np.uint64(58)


@compiled
def _check_word(value: np.uint64, word: np.uint64) -> np.uint64:
    """Return the check of a line whose first word is number ``word``."""
    return np.uint64((value ^ ((word + np.uint64(1)) * MIX_A)) * GOLDEN)


def _check_array(
    value: NDArray[np.uint64], word: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    return (value ^ ((word + np.uint64(1)) * MIX_A)) * GOLDEN


def _touch_twin(
    words: NDArray[np.uint64],
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
    counts: NDArray[np.uint64],
    first: int,
    lane: int,
    lanes: int,
) -> tuple[int, int]:
    number = np.arange(first, first + len(page), dtype=np.uint64)
    line = (number * GOLDEN) >> _S58
    line = (line & ~np.uint64(lanes - 1)) | np.uint64(lane)
    at = (page * np.uint64(PAGE_WORDS) + line * np.uint64(LINE_WORDS)).astype(np.int64)
    good = words[at + 1] == _check_array(words[at], at.astype(np.uint64))
    np.add.at(counts, page, np.uint64(1))
    written = 0
    if len(write):
        to = at[good & (write != 0)]
        np.add.at(words, to, np.uint64(1))
        words[to + 1] = _check_array(words[to], to.astype(np.uint64))
        written = len(to)
    return len(page) - int(np.count_nonzero(good)), written


@kernel(_touch_twin)
def touch(
    words: NDArray[np.uint64],
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
    counts: NDArray[np.uint64],
    first: int,
    lane: int,
    lanes: int,
) -> tuple[int, int]:
    """Touch one line of every page given; return damaged accesses and writes.

    A damaged line is counted at every access and never written again.

    Args:
        words: The memory, uint64[pages * 512].
        page: uint32[n].
        write: 1 where the access writes, uint8[n]; uint8[0]: none does.
        counts: uint64[pages], one added for every access.
        first: Accesses made before: decides which line of the page.
        lane: This thread; it touches lines ``l`` with ``l % lanes == lane``.
        lanes: Threads, a power of two up to 64.
    """
    damaged = 0
    written = 0
    writes = len(write) > 0
    number = np.uint64(first) * GOLDEN
    mask = ~np.uint64(lanes - 1)
    own = np.uint64(lane)
    for i in range(len(page)):
        line = np.int64(((number >> _S58) & mask) | own)
        number += GOLDEN
        at = np.int64(page[i]) * PAGE_WORDS + line * LINE_WORDS
        counts[page[i]] += np.uint64(1)
        value = words[at]
        if words[at + 1] != _check_word(value, np.uint64(at)):
            damaged += 1
        elif writes and write[i] != 0:
            words[at] = value + np.uint64(1)
            words[at + 1] = _check_word(value + np.uint64(1), np.uint64(at))
            written += 1
    return damaged, written


def prepare(words: NDArray[np.uint64]) -> None:
    """Write every line once, in order: this is the first touch of the memory.

    Args:
        words: Zeroes, uint64[pages * 512].
    """
    lines = words.reshape(-1, LINE_WORDS)
    for start in range(0, len(lines), _BLOCK):
        block = lines[start : start + _BLOCK]
        place = np.arange(start, start + len(block), dtype=np.uint64)
        block[:, 1] = _check_array(np.zeros_like(place), place * np.uint64(LINE_WORDS))


def verify(words: NDArray[np.uint64]) -> tuple[int, int]:
    """Return the number of damaged lines, and the sum of writes of the others."""
    lines = words.reshape(-1, LINE_WORDS)
    damaged = total = 0
    for start in range(0, len(lines), _BLOCK):
        block = lines[start : start + _BLOCK]
        place = np.arange(start, start + len(block), dtype=np.uint64)
        value = block[:, 0]
        good = block[:, 1] == _check_array(value, place * np.uint64(LINE_WORDS))
        good &= (block[:, 2:] == 0).all(axis=1)
        damaged += len(block) - int(np.count_nonzero(good))
        total += int(value[good].sum())
    return damaged, total
