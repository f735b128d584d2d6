"""A tensor gives its slots to whoever runs out of device memory."""

import numpy as np
import pytest

from isotherm.gpu.backend import HbmExhaustedError
from isotherm.gpu.giving_way import is_exhausted, with_room
from isotherm.gpu.tiered import TieredTensor

TABLE = np.arange(100 * 32, dtype=np.float32).reshape(100, 32)

#: As torch has it: torch.OutOfMemoryError, a RuntimeError.
TorchError = type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})


def make() -> TieredTensor:
    """Return a tensor with 50 slots of 128 bytes."""
    return TieredTensor.from_host(
        TABLE, backend="numpy", hbm_bytes="50%", deterministic=True, min_slots=1
    )


@pytest.mark.parametrize("kind", [HbmExhaustedError, TorchError])
def test_it_gives_way_until_there_is_room(kind: type[Exception]) -> None:
    """The call is made again after each step, and what it returns comes back."""
    with make() as tensor:
        tensor.prefetch(np.arange(50), wait=True)
        calls = 0

        def call() -> str:
            nonlocal calls
            calls += 1
            if tensor.stats().slots > 30:
                raise kind("no memory")
            return "there"

        assert "there" == with_room(tensor, call, 10 * 128)
        assert (3, 30) == (calls, tensor.stats().slots)
        np.testing.assert_array_equal(TABLE, tensor.gather(np.arange(100)))


def test_with_nothing_left_the_error_comes_through() -> None:
    """The tensor ends on the host, and the caller is told."""
    with make() as tensor:

        def call() -> None:
            raise HbmExhaustedError("no memory")

        with pytest.raises(HbmExhaustedError):
            with_room(tensor, call, 20 * 128)
        assert 0 == tensor.stats().slots
        np.testing.assert_array_equal(TABLE[:5], tensor.gather(np.arange(5)))


def test_other_errors_take_nothing() -> None:
    """A call that fails for another reason costs no slot."""
    with make() as tensor:

        def call() -> None:
            raise MemoryError("the host's")

        with pytest.raises(MemoryError):
            with_room(tensor, call)
        assert 50 == tensor.stats().slots
    assert not is_exhausted(RuntimeError("CUDA error: out of memory"))
