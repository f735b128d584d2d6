"""Counter-based random numbers: the same integers in a compiled loop and in numpy.

Draw ``i`` of a stream is ``mix64(key + (i + 1) * GOLDEN)``: splitmix64 (Steele,
Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014),
whose constants these are. No draw depends on the one before, so a stream can be
cut anywhere and made in blocks.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_A = np.uint64(0xBF58476D1CE4E5B9)
MIX_B = np.uint64(0x94D049BB133111EB)
S27, S30, S31, S32 = (np.uint64(n) for n in (27, 30, 31, 32))
LOW32 = np.uint64(0xFFFFFFFF)


@compiled
def mix64(z: np.uint64) -> np.uint64:
    """Return splitmix64's finaliser of one 64-bit word (for kernels)."""
    z = (z ^ (z >> S30)) * MIX_A
    z = (z ^ (z >> S27)) * MIX_B
    return z ^ (z >> S31)


def mix64_array(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's finaliser of every word of an array."""
    z = (z ^ (z >> S30)) * MIX_A
    z = (z ^ (z >> S27)) * MIX_B
    return z ^ (z >> S31)


def draw_words(key: np.uint64, first: int, count: int) -> NDArray[np.uint64]:
    """Return draws ``[first, first + count)`` of the stream ``key``, uint64."""
    counter = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    return mix64_array(key + counter * GOLDEN)


def generator(seed: int, label: str) -> np.random.Generator:
    """Return numpy's generator for one purpose: same seed and label, same numbers.

    Args:
        seed: >= 0.
        label: What it is for; two labels give unrelated streams.
    """
    return np.random.default_rng([seed, zlib.crc32(label.encode())])


def stream_key(rng: np.random.Generator) -> np.uint64:
    """Return a key for ``draw_words`` and the kernels, drawn from ``rng``."""
    return np.uint64(rng.integers(0, 1 << 64, dtype=np.uint64))
