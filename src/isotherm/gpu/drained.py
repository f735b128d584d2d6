"""What a drain brings, made of the columns that a device has listed."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isotherm.gpu.backend import Drained

#: Columns of a device's totals, int64[STRIPES, STATS]: the rows keep programs that add
#: to them from meeting at one address.
HITS, MISSES, DEPOSITS, OUT_OF_RANGE, BAD_INDEX = range(5)
STATS, STRIPES = 8, 64

#: Numbers of pages or slots, and their counts.
Column = tuple[NDArray[np.uint32], NDArray[np.uint32]]


def ascending(number: NDArray[np.uint32], count: NDArray[np.uint32]) -> Column:
    """Return both columns in the order of the first: one sort of packed words."""
    packed = np.sort((number.astype(np.uint64) << np.uint64(32)) | count)
    return (packed >> np.uint64(32)).astype(np.uint32), packed.astype(np.uint32)


def drained_of(totals: NDArray[np.int64], misses: Column, hits: Column) -> Drained:
    """Return what a drain answers."""
    out_of_range = int(totals[OUT_OF_RANGE])
    return Drained(
        *misses,
        *hits,
        int(totals[HITS]),
        int(totals[MISSES]),
        int(totals[DEPOSITS]),
        out_of_range=out_of_range,
        bad_index=int(totals[BAD_INDEX]) if out_of_range else None,
    )


def joined(a: Drained, b: Drained) -> Drained:
    """Return two drains as one; counts of one page or slot are added."""

    def add(*columns: NDArray[np.uint32]) -> Column:
        number, at = np.unique(np.concatenate(columns[::2]), return_inverse=True)
        count = np.bincount(at, np.concatenate(columns[1::2]), len(number))
        return number, count.astype(np.uint32)

    return Drained(
        *add(a.miss_page, a.miss_count, b.miss_page, b.miss_count),
        *add(a.hit_slot, a.hit_count, b.hit_slot, b.hit_count),
        a.hits + b.hits,
        a.misses + b.misses,
        a.deposits + b.deposits,
        out_of_range=a.out_of_range + b.out_of_range,
        bad_index=a.bad_index if b.bad_index is None else b.bad_index,
    )


def highest(drained: Drained, most: int | None) -> Drained:
    """Return a drain with the highest ``most`` counts of misses."""
    count = drained.miss_count
    if most is None or len(count) <= most:
        return drained
    top = np.sort(np.argsort(count, kind="stable")[len(count) - most :])
    left_out = int(count.sum(dtype=np.int64) - count[top].sum(dtype=np.int64))
    return replace(
        drained,
        miss_page=drained.miss_page[top],
        miss_count=count[top],
        left_out=left_out,
    )
