"""Distributions over an index, as a few thousand bins of constant density.

A sampler that stores one weight a page misses the cache on every draw and needs
8 bytes a page. Where a density is smooth, bins that are exact at its peak and
grow with the index hold it in a table that stays in the first-level cache: the
total of every bin is exact, and inside one the density is flat. With bins of
1/256 of their index, a Zipf 0.99 page is off by at most 0.2 %.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Ranks with a bin of their own.
EXACT_RANKS = 512
#: Beyond them a bin spans this share of its index.
BIN_SHARE = 1 / 256
#: 32 random bits pick an index within a bin: above this the rounding would show.
MAX_BIN_LENGTH = 1 << 16


@dataclass(frozen=True, slots=True)
class Density:
    """A density over ``[0, span)``, flat within each bin.

    Attributes:
        start: First index of each bin, int64, increasing.
        length: Indices in each bin, int64, >= 1, at most ``MAX_BIN_LENGTH``.
        weight: Share of each bin, float64; sums to 1.
        span: Number of indices.
    """

    start: NDArray[np.int64]
    length: NDArray[np.int64]
    weight: NDArray[np.float64]
    span: int


def density_from_edges(
    edges: NDArray[np.int64], weight: NDArray[np.float64]
) -> Density:
    """Return a density from bin edges and bin weights; long bins are split.

    Args:
        edges: int64[n+1], increasing strictly from 0; the last one is the span.
        weight: float64[n], >= 0, any scale.
    """
    length = np.diff(edges)
    pieces = -(-length // MAX_BIN_LENGTH)
    owner = np.repeat(np.arange(len(length)), pieces)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    low = edges[:-1][owner] + number * length[owner] // pieces[owner]
    high = edges[:-1][owner] + (number + 1) * length[owner] // pieces[owner]
    share = weight[owner] * (high - low) / length[owner]
    return Density(low, high - low, share / share.sum(), int(edges[-1]))


def flat(span: int) -> Density:
    """Return the uniform density over ``span`` >= 1 indices."""
    return density_from_edges(np.array([0, span], np.int64), np.ones(1))


def power_edges(span: int, offset: float) -> NDArray[np.int64]:
    """Return bin edges for a density that falls as a power of ``index + offset``."""
    edges = list(range(min(EXACT_RANKS, span) + 1))
    while edges[-1] < span:
        step = int((edges[-1] + offset) * BIN_SHARE)
        edges.append(min(edges[-1] + max(1, step), span))
    return np.array(edges, np.int64)


def power(span: int, exponent: float, offset: float = 1.0) -> Density:
    """Return a density proportional to ``(index + offset) ** -exponent``.

    Zipf's law is ``offset`` 1: index 0 is the hottest rank. The first 512 ranks
    carry their exact weight; a longer bin carries the integral from half a rank
    below its first to half a rank above its last, which equals its sum to 3e-7
    (the second term of the Euler-Maclaurin formula).

    Args:
        span: Number of indices, >= 1.
        exponent: >= 0.
        offset: > 0.
    """
    edges = power_edges(span, offset)
    low = edges[:-1] + offset
    high = edges[1:] + offset
    exact = low**-exponent
    inner = np.maximum(low - 0.5, 1e-9)  # used from rank 512 on only
    slope = 1.0 - exponent
    if slope == 0.0:
        area = np.log((high - 0.5) / inner)
    else:
        area = ((high - 0.5) ** slope - inner**slope) / slope
    return density_from_edges(edges, np.where(np.diff(edges) == 1, exact, area))


def bell(span: int, sigma: float) -> Density:
    """Return a normal density about ``span // 2``, cut at both ends.

    Args:
        span: Number of indices, >= 1.
        sigma: Standard deviation in indices, > 0.
    """
    edges = np.unique(np.linspace(0, span, min(span, 4096) + 1).astype(np.int64))
    scale = 1.0 / (sigma * math.sqrt(2.0))
    centre = span // 2
    # Index i covers [i - 0.5, i + 0.5) about its own place.
    cdf = np.array([math.erf((edge - 0.5 - centre) * scale) for edge in edges.tolist()])
    return density_from_edges(edges, np.maximum(np.diff(cdf), 0.0))
