"""Regions of processes and of physical memory as ranges of flat pages."""

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.linux.intervals import Ranges, normalised


def coarsened(ranges: Ranges, most: int) -> Ranges:
    """Return at most ``most`` ranges that cover the given ones: small gaps close.

    >>> coarsened(np.array([[0, 4], [5, 8], [100, 104]]), 2).tolist()
    [[0, 8], [100, 104]]
    """
    ranges = normalised(ranges)
    if len(ranges) <= most:
        return ranges
    gap = ranges[1:, 0] - ranges[:-1, 1]
    keep = np.sort(np.argsort(-gap, kind="stable")[: most - 1])
    start = np.concatenate([ranges[:1, 0], ranges[keep + 1, 0]])
    end = np.concatenate([ranges[keep, 1], ranges[-1:, 1]])
    return np.stack([start, end], axis=1)


def to_flat(
    extents: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut virtual regions of a process into ranges of flat pages.

    Args:
        extents: Start, end, base of its spaces, int64[m, 3], ascending.
        start: First virtual page of each region, ascending, int64[n].
        end: One past the last, int64[n].

    Returns:
        Which region, first flat page and one past the last, int64[k] each.
    """
    first = np.searchsorted(extents[:, 1], start, side="right")
    last = np.searchsorted(extents[:, 0], end, side="left")
    size = np.maximum(last - first, 0)
    region = np.repeat(np.arange(len(start)), size)
    within = np.arange(len(region)) - np.repeat(np.cumsum(size) - size, size)
    extent = np.repeat(first, size) + within
    low = np.maximum(start[region], extents[extent, 0])
    high = np.minimum(end[region], extents[extent, 1])
    shift = extents[extent, 2] - extents[extent, 0]
    return region, low + shift, high + shift
