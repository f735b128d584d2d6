"""Elements in numpy: names of types, sums and their rounding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError

#: Types whose rows can be summed, and the type that sums are taken in.
SUM_DTYPE: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float32),
    "bfloat16": np.dtype(np.float32),
}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy type that carries a type; bfloat16 travels as uint16.

    >>> numpy_dtype("bfloat16"), numpy_dtype("float16")
    (dtype('uint16'), dtype('float16'))
    """
    return np.dtype(np.uint16 if name == "bfloat16" else name)


def as_sums(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Return values in the type that sums are taken in, exactly.

    Raises:
        UsageError: The type is not a floating one.
    """
    if name not in SUM_DTYPE:
        raise UsageError(
            f"gather_bag: expected one of {', '.join(SUM_DTYPE)}, got {name}"
        )
    if name == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(SUM_DTYPE[name])


def as_stored(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Return sums in the tensor's type, rounded to nearest, ties to even.

    >>> as_stored(np.float32([1.0, 1.00390625, 3.0]), "bfloat16").tolist()
    [16256, 16256, 16448]
    """
    if name != "bfloat16":
        return values.astype(numpy_dtype(name))
    bits = values.view(np.uint32)
    odd = (bits >> 16) & 1
    rounded = (bits + 0x7FFF + odd) >> 16
    nan = np.isnan(values)
    return np.where(nan, 0x7FC0, rounded).astype(np.uint16)
