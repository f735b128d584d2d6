"""Small numbers and exact functions: what lets numba and numpy agree to the bit.

A rate and its exposure are kept as minifloats: the top bits of an IEEE single.
Encoding and decoding are integer shifts, so no library rounds them differently.
Logarithm and power are polynomials of IEEE additions and multiplications, in the
same order in a scalar loop and on an array.

Everything here works on a scalar in a kernel and, by the ``*_array`` twins, on
arrays.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled

Int = int | np.integer  #: what a kernel may hand to a helper

RATE_BITS = 10  #: 5 of exponent, 5 of mantissa
EXPOSURE_BITS = 6  #: 4 of exponent, 2 of mantissa
RATE_SHIFT = 23 - 5
EXPOSURE_SHIFT = 23 - 2
RATE_OFFSET = (127 - 12) << 5  #: smallest rate 2^-12 of the reference
EXPOSURE_OFFSET = (127 - 6) << 2  #: smallest exposure 2^-6 reference periods
RATE_CODES = 1 << RATE_BITS
EXPOSURE_CODES = 1 << EXPOSURE_BITS

_LN2 = 0.6931471805599453
_SQRT2 = 1.4142135623730951
_MIX_1 = np.uint64(0x9E3779B97F4A7C15)
_MIX_2 = np.uint64(0xD6E8FEB86659FD93)
_S32 = np.uint64(32)


@compiled
def mix(page: Int, salt: Int) -> np.uint64:
    """Return 64 well-mixed bits of a page and a salt (two rounds of mum-less mix)."""
    x = (np.uint64(page) + np.uint64(salt) * _MIX_2) * _MIX_1
    x = (x ^ (x >> _S32)) * _MIX_2
    return x ^ (x >> _S32)


def mix_array(page: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """Return `mix` of every page."""
    salted = np.array([salt], np.uint64) * _MIX_2
    x = (page.astype(np.uint64) + salted) * _MIX_1
    x = (x ^ (x >> _S32)) * _MIX_2
    return x ^ (x >> _S32)


@compiled
def encode(value: float, shift: int, offset: int, codes: int, noise: Int) -> int:
    """Return the minifloat code of a positive value, rounded by ``noise``.

    Args:
        value: > 0.
        shift: Mantissa bits of a single that are dropped.
        offset: Code of the smallest value.
        codes: Number of codes; the result is clipped to [0, codes).
        noise: Uniform in [0, 2^shift): rounds up with the right probability.
    """
    bits = np.int64(np.float32(value).view(np.int32))
    code = int(((bits + noise) >> shift) - offset)
    return min(max(code, 0), codes - 1)


def encode_array(
    value: NDArray[np.float64],
    shift: int,
    offset: int,
    codes: int,
    noise: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return `encode` of every value."""
    bits = value.astype(np.float32).view(np.int32).astype(np.int64)
    code: NDArray[np.int64] = np.clip(((bits + noise) >> shift) - offset, 0, codes - 1)
    return code


@compiled
def decode(code: Int, shift: int, offset: int) -> float:
    """Return the value of a minifloat code."""
    return np.float64(np.int32((np.int64(code) + offset) << shift).view(np.float32))


def decode_array(
    code: NDArray[np.integer], shift: int, offset: int
) -> NDArray[np.float64]:
    """Return `decode` of every code."""
    bits = ((code.astype(np.int64) + offset) << shift).astype(np.int32)
    return bits.view(np.float32).astype(np.float64)


@compiled
def log2(x: float) -> float:
    """Return log2 of a positive normal number to about 1e-10."""
    bits = np.float64(x).view(np.int64)
    exponent = ((bits >> 52) & 0x7FF) - 1023
    m = np.int64((bits & 0x000FFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
    e = np.float64(exponent)
    if m > _SQRT2:
        m = m * 0.5
        e = e + 1.0
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    t = ((((q / 11.0 + 1.0 / 9.0) * q + 1.0 / 7.0) * q + 0.2) * q + 1.0 / 3.0) * q + 1.0
    return e + s * t * (2.0 / _LN2)


def log2_array(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `log2` of every number."""
    bits = np.ascontiguousarray(x, np.float64).view(np.int64)
    exponent = ((bits >> 52) & 0x7FF) - 1023
    m = ((bits & 0x000FFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
    big = m > _SQRT2
    m = np.where(big, m * 0.5, m)
    e = np.where(big, exponent + 1.0, exponent + 0.0)
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    t = ((((q / 11.0 + 1.0 / 9.0) * q + 1.0 / 7.0) * q + 0.2) * q + 1.0 / 3.0) * q + 1.0
    return e + s * t * (2.0 / _LN2)


@compiled
def exp2(x: float) -> float:
    """Return 2 to a power in (-1000, 1000) to 1e-8 (the series ends with t^7)."""
    whole = np.floor(x + 0.5)
    t = (x - whole) * _LN2
    p = (
        (
            (
                (((t / 5040.0 + 1.0 / 720.0) * t + 1.0 / 120.0) * t + 1.0 / 24.0) * t
                + 1.0 / 6.0
            )
            * t
            + 0.5
        )
        * t
        + 1.0
    ) * t + 1.0
    scale = np.int64((np.int64(whole) + 1023) << 52).view(np.float64)
    return float(p * scale)


def exp2_array(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `exp2` of every number."""
    whole = np.floor(x + 0.5)
    t = (x - whole) * _LN2
    p = (
        (
            (
                (((t / 5040.0 + 1.0 / 720.0) * t + 1.0 / 120.0) * t + 1.0 / 24.0) * t
                + 1.0 / 6.0
            )
            * t
            + 0.5
        )
        * t
        + 1.0
    ) * t + 1.0
    return p * ((whole.astype(np.int64) + 1023) << 52).view(np.float64)
