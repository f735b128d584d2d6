"""The guest's processor computes: an emulator may not."""

import numpy as np
import pytest


@pytest.mark.parametrize(
    "kind", [np.int64, np.uint64, np.int32, np.uint32, np.float32, np.float64]
)
def test_numpy_sorts(kind):
    """An argsort is an order, and it sorts; vector gathers are what is at stake."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        column = (rng.random(int(rng.integers(1, 700))) * 1e6).astype(kind)
        order = np.argsort(column)
        assert list(range(len(column))) == sorted(order.tolist())
        assert sorted(column.tolist()) == column[order].tolist()
