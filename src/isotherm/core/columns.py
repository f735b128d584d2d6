"""Columns of pages that grow, and columns of ranges."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def grown(column: NDArray[Any], length: int, fill: float = 0) -> NDArray[Any]:
    """Return a column of ``length`` rows: the old ones first, the rest ``fill``.

    The column itself where it is that long already.

    >>> grown(np.array([3, 4], np.uint8), 4, 9).tolist()
    [3, 4, 9, 9]
    """
    more = length - len(column)
    if more <= 0:
        return column
    rest = np.full((more, *column.shape[1:]), fill, column.dtype)
    return np.concatenate([column, rest])


def joined(ranges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ranges with those that touch or overlap made one.

    Args:
        ranges: Rows [start, end), ascending by both, int64[n, 2].

    Returns:
        Rows [start, end), ascending, with gaps between them, int64[k, 2].

    >>> joined(np.array([[0, 4], [3, 6], [6, 8], [9, 10]])).tolist()
    [[0, 8], [9, 10]]
    """
    if len(ranges) == 0:
        return ranges
    start, end = ranges[:, 0], ranges[:, 1]
    at = np.flatnonzero(np.concatenate([[True], start[1:] > end[:-1]]))
    last = np.concatenate([at[1:], [len(start)]]) - 1
    return np.stack([start[at], end[last]], axis=1)
