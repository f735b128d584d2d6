"""Columns that grow: one row a page, and pages come while a host runs."""

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
