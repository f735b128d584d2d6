"""From what a person says to a backend: shape, type, page, device, slots."""

import importlib
import importlib.util
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.core.units import parse_size, render_bytes
from isotherm.gpu import arena
from isotherm.gpu.backend import (
    ITEM_BYTES,
    LINE_BYTES,
    Backend,
    Geometry,
    HbmExhaustedError,
)

BACKENDS = ("numpy", "torch", "triton")

#: Fewer slots than this are not worth the looking: then all stays on the host.
MIN_SLOTS = 64


def rows_of(
    values: Any, dtype: str | None, row_dim: int | None
) -> tuple[int, int, str, NDArray[Any] | None]:
    """Return rows, row_dim, dtype and, where there are any, the rows.

    Args:
        values: An array [rows, row_dim] of numpy or torch, or a shape: zeros then.
        dtype: A key of ``ITEM_BYTES``; None: the array's, float32 for a shape.
        row_dim: Elements of a row; None: as the array or the shape has it.

    Raises:
        UsageError: They do not go together.
    """
    if isinstance(values, (tuple, int)):
        shape = (values,) if isinstance(values, int) else values
        if len(shape) == 1 and row_dim is not None:
            shape = (shape[0], row_dim)
        if len(shape) != 2 or row_dim not in {None, shape[1]}:
            raise UsageError(f"shape: expected (rows, row_dim), got {shape}")
        return shape[0], shape[1], _dtype(dtype or "float32"), None
    found = str(values.dtype).removeprefix("torch.")
    rows = _as_numpy(values)
    if found == "uint16" and dtype == "bfloat16":
        found = dtype
    if dtype is not None and dtype != found:
        raise UsageError(f"dtype: the array is of {found}, not of {dtype}")
    if rows.ndim == 1 and row_dim is not None:
        rows = rows.reshape(-1, row_dim)
    if rows.ndim != 2 or row_dim not in {None, rows.shape[1]}:
        raise UsageError(f"array: expected [rows, row_dim], got {list(rows.shape)}")
    return rows.shape[0], rows.shape[1], _dtype(found), rows


def _dtype(name: str) -> str:
    if name not in ITEM_BYTES:
        raise UsageError(
            f"dtype: expected one of {', '.join(ITEM_BYTES)}, got {name!r}"
            f"{did_you_mean(name, list(ITEM_BYTES))}"
        )
    return name


def _as_numpy(values: Any) -> NDArray[Any]:
    """Return an array of numpy with the same bytes; torch's bfloat16 as uint16."""
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    if str(values.dtype) == "torch.bfloat16":
        import torch  # noqa: PLC0415  # it is there: these are its values

        return np.asarray(values.view(torch.int16).numpy()).view(np.uint16)
    return np.asarray(values.numpy())


def rows_per_page(page: str | int, row_bytes: int) -> int:
    """Return how many rows move together.

    ``auto`` and ``row``: one row, or as many as a line of 128 bytes holds; hotness is
    of rows, and every further one in a page dilutes it. A number: so many, such as
    the tokens of a block of a key-value cache.

    Raises:
        UsageError: It is something else.
    """
    if page in {"auto", "row"}:
        return max(1, LINE_BYTES // row_bytes)
    if isinstance(page, int) and page >= 1:
        return page
    raise UsageError(f"page: expected auto, row or a number of rows, got {page!r}")


def slots_of(hbm_bytes: int | str, pages: int, page_bytes: int) -> int:
    """Return the slots that fit into bytes, or into a share of the tensor.

    Raises:
        UsageError: It is neither.

    >>> slots_of("10%", 1000, 128), slots_of("1KiB", 1000, 128), slots_of(128, 9, 128)
    (100, 8, 1)
    """
    if isinstance(hbm_bytes, str) and hbm_bytes.strip().endswith("%"):
        try:
            share = float(hbm_bytes.strip()[:-1]) / 100
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise UsageError(f"hbm_bytes: expected 0% to 100%, got {hbm_bytes!r}")
        return int(pages * share + 1e-9)
    size = parse_size(hbm_bytes) if isinstance(hbm_bytes, str) else hbm_bytes
    if size < 0:
        raise UsageError(f"hbm_bytes: expected at least 0, got {size}")
    return min(pages, size // page_bytes)


def choose_backend(name: str, values: Any) -> str:
    """Return which backend to use.

    ``auto``: on a CUDA device Triton, or torch where that is not installed; without
    one torch for a tensor of torch, else numpy.

    Raises:
        UsageError: There is none of the name.
        UnsupportedError: It is not installed.
    """
    if name != "auto":
        if name not in BACKENDS:
            raise UsageError(
                f"backend: expected auto, {', '.join(BACKENDS)}, got {name!r}"
                f"{did_you_mean(name, list(BACKENDS))}"
            )
        for module in {"triton": ("torch", "triton"), "torch": ("torch",)}.get(
            name, ()
        ):
            if importlib.util.find_spec(module) is None:
                raise UnsupportedError(
                    f"backend {name}: {module} is not installed",
                    hint='pip install "isotherm[gpu]"',
                )
        return name
    if importlib.util.find_spec("torch") is not None:
        import torch  # noqa: PLC0415  # seconds that the numpy backend must not pay

        if torch.cuda.is_available():
            return "triton" if importlib.util.find_spec("triton") else "torch"
        if isinstance(values, torch.Tensor):
            return "torch"
    return "numpy"


def open_backend(
    name: str,
    geometry: Geometry,
    host: NDArray[np.uint8],
    *,
    min_slots: int = MIN_SLOTS,
    **options: Any,
) -> Backend:
    """Return a backend with the slots asked for, or as many as can be had.

    Where the device has no memory for them it is asked for half, and so on; below
    ``min_slots`` everything stays on the host. Both are told as warnings. So is a
    host arena that must not be locked: launches then read it through copies.

    Args:
        name: Of ``BACKENDS``.
        geometry: With the slots asked for.
        host: The host arena.
        min_slots: Fewer than these are none.
        options: Of the module's ``create``.
    """
    module = importlib.import_module(f"isotherm.gpu.{name}_backend")
    if name != "numpy":
        refused = arena.refuse_lock(host.nbytes)
        if refused is not None and options.get("zero_copy", True):
            warnings.warn(f"host arena: not locked: {refused}", stacklevel=4)
            options["zero_copy"] = False
    wanted = geometry.slots
    slots = wanted
    while True:
        try:
            backend: Backend = module.create(
                replace(geometry, slots=slots), host, **options
            )
            break
        except HbmExhaustedError:
            if slots == 0:
                raise
            slots = slots // 2 if slots // 2 >= max(1, min_slots) else 0
    if slots < wanted:
        size = render_bytes(slots * geometry.page_bytes)
        asked = render_bytes(wanted * geometry.page_bytes)
        what = f"{size} used" if slots else "everything stays on the host"
        warnings.warn(f"device memory: {asked} not to be had: {what}", stacklevel=4)
    return backend
