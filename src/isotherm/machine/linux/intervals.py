"""Sets of whole numbers as sorted, disjoint ranges, int64[n, 2], [start, end)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ranges = NDArray[np.int64]

EMPTY: Ranges = np.empty((0, 2), np.int64)


def normalised(ranges: Ranges) -> Ranges:
    """Return ranges sorted, with those that touch or overlap joined.

    Args:
        ranges: int64[n, 2], in any order; empty ones are dropped.

    >>> normalised(np.array([[8, 9], [0, 4], [4, 6], [5, 5]])).tolist()
    [[0, 6], [8, 9]]
    """
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    if len(ranges) < 2:
        return np.ascontiguousarray(ranges, np.int64)
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ranges[:, 1])
    first = np.concatenate([[True], ranges[1:, 0] > reach[:-1]])
    start = np.flatnonzero(first)
    last = np.concatenate([start[1:], [len(ranges)]]) - 1
    return np.stack([ranges[start, 0], reach[last]], axis=1)


def covered(ranges: Ranges, point: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each point lies in one of the ranges, bool[m]."""
    began = np.searchsorted(ranges[:, 0], point, side="right")
    over = np.searchsorted(ranges[:, 1], point, side="right")
    return began > over


def _select(
    a: Ranges,
    b: Ranges,
    keep: Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.bool_]],
) -> Ranges:
    point = np.unique(np.concatenate([a.ravel(), b.ravel()]))
    if len(point) < 2:
        return EMPTY
    chosen = keep(covered(a, point[:-1]), covered(b, point[:-1]))
    return normalised(np.stack([point[:-1], point[1:]], axis=1)[chosen])


def difference(a: Ranges, b: Ranges) -> Ranges:
    """Return what is in ``a`` and not in ``b``; both normalised.

    >>> difference(np.array([[0, 9]]), np.array([[2, 4], [8, 12]])).tolist()
    [[0, 2], [4, 8]]
    """
    return _select(a, b, lambda x, y: x & ~y)


def intersection(a: Ranges, b: Ranges) -> Ranges:
    """Return what is in both; both normalised.

    >>> intersection(np.array([[0, 9]]), np.array([[2, 4], [8, 12]])).tolist()
    [[2, 4], [8, 9]]
    """
    return _select(a, b, lambda x, y: x & y)


def cut(ranges: Ranges, at: Ranges) -> Ranges:
    """Return the parts of ``ranges`` in ``at``, split at its borders; not joined.

    >>> cut(np.array([[1, 7]]), np.array([[0, 4], [4, 8]])).tolist()
    [[1, 4], [4, 7]]
    """
    point = np.unique(np.concatenate([ranges.ravel(), at.ravel()]))
    if len(point) < 2:
        return EMPTY
    chosen = covered(ranges, point[:-1]) & covered(at, point[:-1])
    return np.stack([point[:-1], point[1:]], axis=1)[chosen]


def total(ranges: Ranges) -> int:
    """Return how many numbers are in disjoint ranges."""
    return int((ranges[:, 1] - ranges[:, 0]).sum())
