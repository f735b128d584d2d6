"""Indices that people hand in: looked at on the host."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError
from isotherm.gpu.backend import Geometry


class RowIndexError(IsothermError, IndexError):
    """An index is outside the tensor."""


def on_host(index: Any) -> NDArray[Any]:
    """Return indices as an array of numpy; those on a device are waited for."""
    if isinstance(index, (np.ndarray, list)):
        return np.asarray(index)
    found: NDArray[Any] = index.detach().cpu().numpy()
    return found


def check_index(index: Any, end: int) -> None:
    """Raise unless all of an index is in [0, end).

    Raises:
        RowIndexError: It says which is not, and where it stands.
    """
    looked = on_host(index)
    bad = np.flatnonzero((looked < 0) | (looked >= end))
    if len(bad):
        raise RowIndexError(
            f"index: expected 0 to {end - 1}, got {int(looked.flat[bad[0]])}"
            f" at {int(bad[0])}, {len(bad)} in all"
        )


def pages_of(index: Any, geometry: Geometry) -> NDArray[np.uint32]:
    """Return the pages of rows, none twice, ascending.

    Raises:
        RowIndexError: A row is outside.
    """
    check_index(index, geometry.rows)
    row = on_host(index).astype(np.int64).ravel()
    return np.unique(row // geometry.rows_per_page).astype(np.uint32)
