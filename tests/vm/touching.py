"""A process that touches a block of pages and some scattered ones, and no others."""

import textwrap

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import AccessedBits, Look, Mechanism, RegionCounts

#: Other load on the machine makes all of this many times slower.
LIMIT_S = 240.0
PAGES = 8192
BLOCK = (2048, 4096)  # touched all the time
SCATTERED = tuple(range(4099, PAGES, 23))  # and so is every 23rd page from here on
EVERYWHERE = Look(Mechanism.ACCESSED_BIT, 0, PAGES)
CHILD = textwrap.dedent(
    f"""
    import ctypes, mmap, os, time

    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, ({PAGES} + 512) * 4096, flags)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    skip = -start % (512 * 4096)
    memory.madvise(15)  # no huge pages
    for page in range({PAGES}):
        memory[skip + page * 4096] = 1
    print((start + skip) >> 12, flush=True)
    places = [skip + page * 4096 for page in range(*{BLOCK})]
    places += [skip + page * 4096 for page in {SCATTERED}]
    while True:
        for place in places:
            memory[place]
        time.sleep(0.005)
    """
)


def pages_of(seen: AccessedBits) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return flat pages and whether their bit was set."""
    page = (seen.block[:, None].astype(np.int64) * 8 + np.arange(8)).ravel()
    return page, np.unpackbits(seen.bits, bitorder="little").astype(np.bool_)


def rates_of(seen: RegionCounts) -> NDArray[np.float64]:
    """Return the share of positive checks of every page; NaN where nothing is said."""
    rate = np.full(PAGES, np.nan)
    for start, end, found in zip(
        seen.start.tolist(), seen.end.tolist(), seen.nr_accesses.tolist(), strict=True
    ):
        rate[start:end] = found / seen.checks
    return rate
