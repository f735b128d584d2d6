"""One tensor, every backend: the same rows, and the same placement."""

from typing import Any

import numpy as np
import pytest

from isotherm.gpu.backend import Geometry
from isotherm.gpu.tiered import RowIndexError, TieredTensor
from tests.gpu.devices import DEVICES, Maker, host_arena

ROWS, DIM = 600, 32
TABLE = np.arange(ROWS * DIM, dtype=np.float32).reshape(ROWS, DIM) % 1000


def played(backend: str) -> tuple[Any, ...]:
    """Return what a fixed sequence of calls leaves: figures, table, versions."""
    random = np.random.default_rng(1)
    with TieredTensor.from_host(
        TABLE.copy(),
        backend=backend,
        writable=True,
        deterministic=True,
        epoch_rows=256,
        hit_shift=0,
        bandwidths=(2e12, 3e10),
    ) as tensor:
        model = TABLE.copy()
        device = tensor.backend
        for i in range(12):
            hot = random.integers(0, 40, 200) * 7
            row = np.concatenate([hot, random.integers(0, ROWS, 56)])
            np.testing.assert_array_equal(model[row], device.numpy(tensor.gather(row)))
            if i % 4 == 3:
                some = np.unique(row[:20])
                model[some] += 1
                tensor.scatter_(some, model[some])
        tensor.prefetch([1, 2, 3], wait=True)
        tensor.flush()
        tensor.settle()
        np.testing.assert_array_equal(model, tensor.host_rows()[:, 0])
        state = [device.peek(name).tolist() for name in ("loc", "ver", "dirty")]
        return (tensor.stats(), *state)


def test_placement_is_that_of_the_reference(make_device: Maker) -> None:
    """Deterministic tensors decide alike whatever carries their launches out.

    A backend whose readers deposit nothing copies what is promoted, sooner.
    """
    name = next(n for n, maker in DEVICES.items() if maker is make_device)
    make_device_or_skip(make_device)
    found = played(name)
    assert found[0].promoted > 0
    if found[0].deposits:
        assert played("numpy") == found
    else:
        assert "torch" == name


def make_device_or_skip(make_device: Maker) -> None:
    """Skip where the backend is not installed."""
    shape = Geometry(4, 32, "float32", 1, 1)
    make_device(shape, host_arena(shape)).close()


def test_an_index_outside_is_told(make_device: Maker) -> None:
    """Every backend's counters carry it to a later call."""
    name = next(n for n, maker in DEVICES.items() if maker is make_device)
    make_device_or_skip(make_device)
    with TieredTensor.from_host(
        TABLE, backend=name, engine="manual", bandwidths=(2e12, 3e10)
    ) as tensor:
        tensor.gather(np.array([ROWS, 1]))
        with pytest.raises(RowIndexError, match=f"one of them {ROWS}"):
            tensor.step()
