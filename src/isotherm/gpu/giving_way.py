"""Device memory that others need: the tensor gives way, its pages are on the host."""

from collections.abc import Callable
from typing import TypeVar

from isotherm.gpu.backend import HbmExhaustedError
from isotherm.gpu.tiered import TieredTensor

T = TypeVar("T")

#: Given back at a time.
STEP_BYTES = 256 << 20


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error says that device memory is exhausted: ours, torch's."""
    if isinstance(error, HbmExhaustedError):
        return True
    return any(
        kind.__name__ == "OutOfMemoryError" and kind.__module__.startswith("torch")
        for kind in type(error).__mro__
    )


def with_room(
    tensor: TieredTensor, call: Callable[[], T], step_bytes: int = STEP_BYTES
) -> T:
    """Return what a call returns; where device memory runs out, give way, call again.

    Args:
        tensor: Gives slots back, the last ones first, as long as it has any.
        call: Takes device memory; it is called again from the beginning.
        step_bytes: Given back before each further call.

    Raises:
        Exception: What the call raises: anything else at once, no memory when
            nothing is left to give.
    """
    while True:
        try:
            return call()
        except Exception as error:
            if not is_exhausted(error) or tensor.shrink(step_bytes) == 0:
                raise
