"""Indices that people hand in: looked at on the host."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError, UsageError
from isotherm.gpu.backend import ITEM_BYTES, Geometry


class RowIndexError(IsothermError, IndexError):
    """An index is outside the tensor."""


def on_host(index: Any) -> NDArray[Any]:
    """Return indices as an array of numpy; those on a device are waited for."""
    if isinstance(index, (np.ndarray, list)):
        return np.asarray(index)
    found: NDArray[Any] = index.detach().cpu().numpy()
    return found


def one_axis(index: Any) -> Any:
    """Return an index as it is: kernels read as many as it holds, one axis of them.

    Raises:
        UsageError: It has another number of axes.
    """
    if index.ndim != 1:
        raise UsageError(f"index: expected [n], got {list(index.shape)}")
    return index


def check_out(out: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Raise unless a launch can store its rows there.

    Raises:
        UsageError: It is of another shape or size of element, or not contiguous.
    """
    dense = getattr(out, "is_contiguous", lambda: out.flags.c_contiguous)()
    if tuple(out.shape) != shape or out.itemsize != ITEM_BYTES[dtype] or not dense:
        raise UsageError(
            f"out: expected {list(shape)} of {dtype}, contiguous, got"
            f" {list(out.shape)} of {out.dtype}"
        )


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
