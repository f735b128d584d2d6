"""The devices that the conformance suite runs on; add one here, it is held to all."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from isotherm.gpu import numpy_backend
from isotherm.gpu.backend import ITEM_BYTES, Backend, Geometry
from isotherm.gpu.elements import numpy_dtype


def make_numpy(geometry: Geometry, host: np.ndarray) -> Backend:
    """Return the reference."""
    return numpy_backend.create(geometry, host)


def make_torch(geometry: Geometry, host: np.ndarray) -> Backend:
    """Return torch's, on a GPU where there is one, else on the CPU."""
    module = _module("isotherm.gpu.torch_backend", "torch")
    return module.create(geometry, host)


def make_triton(geometry: Geometry, host: np.ndarray) -> Backend:
    """Return Triton's, on a GPU where there is one, else in the interpreter."""
    _module("isotherm.gpu.torch_backend", "torch")
    import torch

    if not torch.cuda.is_available():
        # Read when triton is imported first: tests/gpu/conftest.py sets it early.
        assert os.environ.get("TRITON_INTERPRET") == "1"
    module = _module("isotherm.gpu.triton_backend", "triton")
    return module.create(geometry, host)


def _module(name: str, needs: str) -> Any:
    """Import a backend, or skip with words."""
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed; make gpu has it")
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not there")
    return importlib.import_module(name)


Maker = Callable[[Geometry, np.ndarray], Backend]

DEVICES: dict[str, Maker] = {
    "numpy": make_numpy,
    "torch": make_torch,
    "triton": make_triton,
}


def host_arena(geometry: Geometry, seed: int = 1) -> np.ndarray:
    """Return a host arena of small whole numbers, its padding 0xEE.

    Sums of them are exact in every type, whatever the order.
    """
    random = np.random.default_rng(seed)
    arena = np.full((geometry.pages, geometry.page_bytes), 0xEE, np.uint8)
    low = 0 if geometry.dtype == "uint8" else -8
    shape = (geometry.pages, geometry.rows_per_page * geometry.row_dim)
    whole = random.integers(low, 8, shape)
    if geometry.dtype == "bfloat16":
        stored = (whole.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        stored = whole.astype(numpy_dtype(geometry.dtype))
    used = shape[1] * ITEM_BYTES[geometry.dtype]
    arena[:, :used] = stored.view(np.uint8)
    return arena


def rows_of(geometry: Geometry, host: np.ndarray) -> np.ndarray:
    """Return the rows in a host arena, [pages * rows_per_page, row_dim], a copy."""
    used = geometry.rows_per_page * geometry.row_dim
    elements = host.view(numpy_dtype(geometry.dtype))[:, :used]
    return elements.reshape(-1, geometry.row_dim).copy()
