"""The region level: what a page's neighbourhood does now.

Each block of eight pages keeps recent accesses and their exposure, decaying
with a short half-life. A block's region is not an aligned chunk: of the windows
of ``WINDOW`` blocks that hold the block (left, centre, right), the one that
looks most like a single rate is taken, so that an edge between hot and cold
stays sharp wherever it runs (the idea of an edge-preserving mean, Kuwahara 1976).

A set bit over x expected accesses stands for ``x / (1 - e^-x)`` of them: one
step of expectation-maximisation for the rate of a Poisson stream seen through
its accessed bits.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel
from isotherm.hotness import arithmetic as ar

HALF_SHIFT = 16  #: block state is the upper half of an IEEE single
_HALF_CODES = 1 << 16
_TINY = 1e-30
_LOG2_E = 1.4426950408889634

Half = NDArray[np.uint16]
Floats = NDArray[np.float64]


@compiled
def half(value: float, noise: np.uint64) -> int:
    """Return the upper half of a single, stochastically rounded."""
    low = np.int64(noise & np.uint64(0xFFFF))
    return ar.encode(max(value, _TINY), HALF_SHIFT, 0, _HALF_CODES, low)


def half_array(value: Floats, noise: NDArray[np.uint64]) -> Half:
    """Return `half` of every value."""
    low = (noise & np.uint64(0xFFFF)).astype(np.int64)
    code = ar.encode_array(np.maximum(value, _TINY), HALF_SHIFT, 0, _HALF_CODES, low)
    return code.astype(np.uint16)


def whole_array(code: Half) -> Floats:
    """Return the values of halves."""
    return ar.decode_array(code, HALF_SHIFT, 0)


def look_blocks_twin(
    accesses: Half,
    exposure: Half,
    rate: Half,
    pages: int,
    block: NDArray[np.uint32],
    bits: NDArray[np.uint8],
    interval: Floats,
    rho: Floats,
    sampled: Floats,
    salt: int,
) -> None:
    """Numpy twin of `look_blocks`."""
    j = block.astype(np.int64)
    n = np.minimum(8, pages - 8 * j).astype(np.float64)
    a = rho * whole_array(accesses[j])
    b = rho * whole_array(exposure[j])
    x = whole_array(rate[j]) * interval
    miss = ar.exp2_array(np.maximum(-x * _LOG2_E, -60.0))
    each = np.where(x > 1e-6, x / np.where(x > 1e-6, 1.0 - miss, 1.0), 1.0)
    k = ((bits[:, None] >> np.arange(8)) & 1).sum(1)
    a = np.where(interval > 0, a + k * each, a)
    b = np.where(interval > 0, b + n * interval, b) + n * sampled
    noise = ar.mix_array(j.astype(np.uint64), salt)
    accesses[j] = half_array(a, noise)
    exposure[j] = half_array(b, noise >> np.uint64(32))


@kernel(twin=look_blocks_twin)
def look_blocks(
    accesses: Half,
    exposure: Half,
    rate: Half,
    pages: int,
    block: NDArray[np.uint32],
    bits: NDArray[np.uint8],
    interval: Floats,
    rho: Floats,
    sampled: Floats,
    salt: int,
) -> None:
    """Decay looked-at blocks and add what the look saw.

    Args:
        accesses: Recent accesses per block, uint16[blocks], changed.
        exposure: Their page-periods, uint16[blocks], changed.
        rate: Region rate of each block before, uint16[blocks].
        pages: Pages in all: the last block may hold fewer than eight.
        block: uint32[n].
        bits: Accessed bits, uint8[n].
        interval: What they cover, reference periods; 0: no bits.
        rho: Share of the old evidence that is left.
        sampled: Sampling exposure of a page since the last look.
        salt: For rounding.
    """
    for i in range(block.size):
        j = np.int64(block[i])
        n = np.float64(min(8, pages - 8 * j))
        a = rho[i] * ar.decode(np.int64(accesses[j]), HALF_SHIFT, 0)
        b = rho[i] * ar.decode(np.int64(exposure[j]), HALF_SHIFT, 0)
        t = interval[i]
        if t > 0:
            x = ar.decode(np.int64(rate[j]), HALF_SHIFT, 0) * t
            each = 1.0
            if x > 1e-6:
                each = x / (1.0 - ar.exp2(max(-x * _LOG2_E, -60.0)))
            k = 0
            for m in range(8):
                k += (bits[i] >> m) & 1
            a = a + k * each
            b = b + n * t
        b = b + n * sampled[i]
        noise = ar.mix(j, salt)
        accesses[j] = half(a, noise)
        exposure[j] = half(b, noise >> np.uint64(32))


def add_to_blocks_twin(
    accesses: Half, page: NDArray[np.uint32], count: float, salt: int
) -> None:
    """Plain twin of `add_to_blocks`."""
    for k in range(len(page)):
        j = page[k : k + 1].astype(np.int64) >> 3
        noise = ar.mix_array(j.astype(np.uint64), salt + k)
        accesses[j] = half_array(whole_array(accesses[j]) + count, noise)


@kernel(twin=add_to_blocks_twin)
def add_to_blocks(
    accesses: Half, page: NDArray[np.uint32], count: float, salt: int
) -> None:
    """Add ``count`` accesses to the block of every page, in order."""
    for k in range(page.size):
        j = np.int64(page[k]) >> 3
        a = ar.decode(np.int64(accesses[j]), HALF_SHIFT, 0) + count
        accesses[j] = half(a, ar.mix(j, salt + k))


def region_rates_twin(
    accesses: Half,
    exposure: Half,
    stamp: NDArray[np.uint16],
    now: int,
    weight: Floats,
    window: int,
    prior: float,
    prior_rate: float,
    rate: Half,
) -> None:
    """Numpy twin of `region_rates`."""
    blocks = len(accesses)
    age = (now - stamp.astype(np.int64)) & 0xFFFF
    w = weight[np.minimum(age, len(weight) - 1)]
    a = whole_array(accesses) * w
    b = whole_array(exposure) * w
    v = np.where(b > 1e-12, a * a / np.where(b > 1e-12, b, 1.0), 0.0)
    span = min(window, blocks)
    sums = [np.concatenate([[0.0], np.cumsum(x)]) for x in (a, b, v)]
    wa, wb, wv = (s[span:] - s[:-span] for s in sums)
    mean = (wa + prior * prior_rate) / (wb + prior)
    spread = wv - np.where(wb > 1e-12, wa * wa / np.where(wb > 1e-12, wb, 1.0), 0.0)
    spread = spread / np.maximum(mean, 1e-12)
    j = np.arange(blocks)
    last = blocks - span
    first = np.clip(np.stack([j - span // 2, j - span + 1, j]), 0, last)
    best = np.argmin(spread[first], axis=0)
    out = mean[first[best, j]]
    rate[:] = half_array(out, np.full(blocks, 0x8000, np.uint64))


@kernel(twin=region_rates_twin)
def region_rates(
    accesses: Half,
    exposure: Half,
    stamp: NDArray[np.uint16],
    now: int,
    weight: Floats,
    window: int,
    prior: float,
    prior_rate: float,
    rate: Half,
) -> None:
    """Write the region rate of every block.

    Args:
        accesses: Recent accesses per block, uint16[blocks].
        exposure: Their page-periods, uint16[blocks].
        stamp: Epoch of the last look, modulo 2^16, uint16[blocks].
        now: Epoch.
        weight: What evidence of an age in epochs still weighs; older: the last.
        window: Blocks in a region.
        prior: Page-periods of the prior.
        prior_rate: Rate of the prior.
        rate: Filled, uint16[blocks].
    """
    blocks = accesses.size
    span = min(window, blocks)
    oldest = weight.size - 1
    pa = np.zeros(blocks + 1)
    pb = np.zeros(blocks + 1)
    pv = np.zeros(blocks + 1)
    for j in range(blocks):
        w = weight[min((now - np.int64(stamp[j])) & 0xFFFF, oldest)]
        a = ar.decode(np.int64(accesses[j]), HALF_SHIFT, 0) * w
        b = ar.decode(np.int64(exposure[j]), HALF_SHIFT, 0) * w
        pa[j + 1] = pa[j] + a
        pb[j + 1] = pb[j] + b
        pv[j + 1] = pv[j] + (a * a / b if b > 1e-12 else 0.0)
    last = blocks - span
    for k in range(last + 1):  # in place: mean and spread of the window from k
        wa = pa[k + span] - pa[k]
        wb = pb[k + span] - pb[k]
        wv = pv[k + span] - pv[k]
        mean = (wa + prior * prior_rate) / (wb + prior)
        spread = wv - (wa * wa / wb if wb > 1e-12 else 0.0)
        pa[k] = mean
        pv[k] = spread / max(mean, 1e-12)
    for j in range(blocks):
        best = min(max(j - span // 2, 0), last)
        left = min(max(j - span + 1, 0), last)
        right = min(max(j, 0), last)
        if pv[left] < pv[best]:
            best = left
        if pv[right] < pv[best]:
            best = right
        rate[j] = half(pa[best], np.uint64(0x8000))
