"""The region level: what a page's neighbourhood does now.

Each block of eight pages keeps its last look (how many bits were set, over what
interval), a decaying count of samples, and how unlike its looks are to those of
its left neighbour. A block's region is not an aligned chunk: a neighbour's
evidence counts by its bond, the product over the edges between the two, so that
it fades with distance and stops where looks have kept differing (an
edge-preserving recursive mean). An edge is believed in by its own history and by
that of all edges at the same alignment within 512 pages.

A region's rate pools its bits first and inverts then, ``x = -ln(1 - q)``: of a
saturated region the likelihood still says how hot it is at least, where an
average of page estimates says little. Bits weigh what they tell: their Fisher
information, ``x e^-x / (1 - e^-x)`` of the exposure that counting would have had.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel
from isotherm.hotness import arithmetic as ar

HALF_SHIFT = 16  #: block state is the upper half of an IEEE single
_HALF_CODES = 1 << 16
REGION_SHIFT = 20  #: a region's rate: 5 bits of exponent, 3 of mantissa
REGION_OFFSET = (127 - 12) << 3  #: smallest rate 2^-12 of the reference
REGION_CODES = 1 << 8
_REGION_ROUND = 1 << 19
_TINY = 1e-30
_LN2 = 0.6931471805599453
INTERVAL_SHIFT = 19  #: a look's interval: 8 bits of exponent, 4 of mantissa
_INTERVAL_CODES = 1 << 12
NO_LOOK = 0

KAPPA = 0.1  # pseudo-counts of set and unset bits
ALIKE_CODES = 6  # intervals at most 3/8 octave apart are compared
MARGIN = 32  # blocks that a region may reach beyond a stretch: bonds fade faster
CLASSES = 64  # alignments of an edge within 512 pages
EDGE_UNIT = 16.0  # of unlikeness in a byte
EDGE_GAIN = 1.0 / 16.0
CLASS_SIGMA = 6.0  # standard errors that halve the bonds of a class
EDGE_SHARE = 0.1
SPREAD = 1.5
ANGLE = np.arcsin(np.sqrt((np.arange(16) + 0.1).clip(0, 8.1) / 8.2))

Half = NDArray[np.uint16]
Bytes = NDArray[np.uint8]
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


@compiled
def look_code(k: int, interval: float) -> int:
    """Return the 16-bit code of a look: ``k`` of eight set over ``interval`` > 0."""
    t = ar.encode(interval, INTERVAL_SHIFT, 0, _INTERVAL_CODES, 1 << 18)
    return (k << 12) | t


def look_code_array(k: NDArray[np.int64], interval: Floats) -> Half:
    """Return `look_code` of every look."""
    noise = np.full(len(interval), 1 << 18, np.int64)
    t = ar.encode_array(interval, INTERVAL_SHIFT, 0, _INTERVAL_CODES, noise)
    return ((k << 12) | t).astype(np.uint16)


def look_blocks_twin(
    looked: Half,
    samples: Half,
    edge: Bytes,
    stamp: Half,
    now: int,
    block: NDArray[np.uint32],
    bits: Bytes,
    interval: Floats,
    rho: Floats,
    unlike: Floats,
    salt: int,
) -> None:
    """Numpy twin of `look_blocks`."""
    j = block.astype(np.int64)
    k = ((bits[:, None].astype(np.int64) >> np.arange(8)) & 1).sum(1)
    on = interval > 0
    looked[j[on]] = look_code_array(k[on], interval[on])
    noise = ar.mix_array(j.astype(np.uint64), salt)
    samples[j] = half_array(rho * whole_array(samples[j]), noise)
    has_left = on & (j > 0)
    j, k, noise = j[has_left], k[has_left], noise[has_left]
    left = looked[j - 1].astype(np.int64)
    fresh = ((now - stamp[j - 1].astype(np.int64)) & 0xFFFF) <= 1
    alike = np.abs((left & 0xFFF) - (looked[j].astype(np.int64) & 0xFFF)) <= ALIKE_CODES
    use = fresh & alike & (left != NO_LOOK)
    j, k, left, noise = j[use], k[use], left[use], noise[use]
    z = ANGLE[k] - ANGLE[left >> 12]
    z = 16.0 * z * z
    old = edge[j].astype(np.float64)
    grown = old + (np.minimum(z * EDGE_UNIT, 255.0) - old) * EDGE_GAIN
    draw = ((noise >> np.uint64(40)) & np.uint64(0xFFF)).astype(np.float64) / 4096.0
    edge[j] = np.minimum(np.floor(grown + draw), 255.0).astype(np.uint8)
    for r, x in zip((j % CLASSES).tolist(), z.tolist(), strict=True):
        unlike[0, r] += x
        unlike[1, r] += 1.0


@kernel(twin=look_blocks_twin)
def look_blocks(
    looked: Half,
    samples: Half,
    edge: Bytes,
    stamp: Half,
    now: int,
    block: NDArray[np.uint32],
    bits: Bytes,
    interval: Floats,
    rho: Floats,
    unlike: Floats,
    salt: int,
) -> None:
    """Remember the looks at blocks, decay their samples, compare with the left.

    The arcsine of the root of a share has the variance 1 / 4n whatever the
    share, so 16 times the squared difference of two blocks' angles is 1 on
    average where both have one rate, and more across an edge.

    Args:
        looked: Last look per block, uint16[blocks], changed.
        samples: Decayed samples per block, uint16[blocks], changed.
        edge: How unlike a block is to its left neighbour, uint8[blocks], changed.
        stamp: Epoch of the last look, uint16[blocks].
        now: Epoch.
        block: uint32[n], ascending.
        bits: Accessed bits, uint8[n].
        interval: What they cover, reference periods; 0: no bits.
        rho: Share of the old samples that is left.
        unlike: Sum and count of the differences by alignment class,
            float64[2, CLASSES], added to.
        salt: For rounding.
    """
    for i in range(block.size):
        j = np.int64(block[i])
        noise = ar.mix(j, salt)
        left_over = rho[i] * ar.decode(np.int64(samples[j]), HALF_SHIFT, 0)
        samples[j] = half(left_over, noise)
        if interval[i] <= 0:
            continue
        k = 0
        for m in range(8):
            k += (bits[i] >> m) & 1
        looked[j] = look_code(k, interval[i])
        if j == 0:
            continue
        left = np.int64(looked[j - 1])
        apart = (left & 0xFFF) - (np.int64(looked[j]) & 0xFFF)
        if (
            left == NO_LOOK
            or ((now - np.int64(stamp[j - 1])) & 0xFFFF) > 1
            or abs(apart) > ALIKE_CODES
        ):
            continue
        z = ANGLE[k] - ANGLE[left >> 12]
        z = 16.0 * z * z
        old = np.float64(edge[j])
        grown = old + (min(z * EDGE_UNIT, 255.0) - old) * EDGE_GAIN
        draw = np.float64((noise >> np.uint64(40)) & np.uint64(0xFFF)) / 4096.0
        edge[j] = np.uint8(min(np.floor(grown + draw), 255.0))
        unlike[0, j % CLASSES] += z
        unlike[1, j % CLASSES] += 1.0


def add_to_blocks_twin(
    samples: Half, page: NDArray[np.uint32], count: Floats, salt: int
) -> None:
    """Plain twin of `add_to_blocks`."""
    for k in range(len(page)):
        j = page[k : k + 1].astype(np.int64) >> 3
        noise = ar.mix_array(j.astype(np.uint64), salt + k)
        samples[j] = half_array(whole_array(samples[j]) + count[k], noise)


@kernel(twin=add_to_blocks_twin)
def add_to_blocks(
    samples: Half, page: NDArray[np.uint32], count: Floats, salt: int
) -> None:
    """Add ``count[k]`` accesses to the block of page k, in order."""
    for k in range(page.size):
        j = np.int64(page[k]) >> 3
        a = ar.decode(np.int64(samples[j]), HALF_SHIFT, 0) + count[k]
        samples[j] = half(a, ar.mix(j, salt + k))


def region_code_array(rate: Floats) -> Bytes:
    """Return the region codes of rates, rounded to nearest."""
    code = ar.encode_array(
        np.maximum(rate, _TINY),
        REGION_SHIFT,
        REGION_OFFSET,
        REGION_CODES,
        np.full(len(rate), _REGION_ROUND, np.int64),
    )
    return code.astype(np.uint8)


def region_rate_array(code: Bytes) -> Floats:
    """Return the rates of region codes, in reference units."""
    return ar.decode_array(code, REGION_SHIFT, REGION_OFFSET)


def region_rates_twin(
    looked: Half,
    samples: Half,
    edge: Bytes,
    stamp: Half,
    now: int,
    bit_weight: Floats,
    sample_weight: Floats,
    sampled: float,
    bond: Floats,
    prior: float,
    prior_rate: float,
    first: int,
    last: int,
    rate: Bytes,
) -> None:
    """Plain twin of `region_rates`."""
    low, high = max(0, first - MARGIN), min(len(looked), last + MARGIN)
    size = high - low
    age = (now - stamp[low:high].astype(np.int64)) & 0xFFFF
    code = looked[low:high].astype(np.int64)
    w = np.where(code == NO_LOOK, 0.0, bit_weight[np.minimum(age, len(bit_weight) - 1)])
    own = np.zeros((size, 5))
    own[:, 0] = w * (code >> 12).astype(np.float64)
    own[:, 1] = w * 8.0
    own[:, 2] = w * 8.0 * ar.decode_array(code & 0xFFF, INTERVAL_SHIFT, 0)
    ws = sample_weight[np.minimum(age, len(sample_weight) - 1)]
    own[:, 3] = whole_array(samples[low:high]) * ws
    own[:, 4] = 8.0
    tie = bond[np.arange(low, high) % CLASSES, edge[low:high]]
    ahead = np.zeros((size + 1, 5))
    for j in range(size - 1, 0, -1):
        ahead[j] = tie[j] * (own[j] + ahead[j + 1])
    total = np.empty((size, 5))
    behind = np.zeros(5)
    for j in range(size):
        behind = own[j] + tie[j] * behind
        total[j] = behind + ahead[j + 1]
    k, n, t, s, m = total.T
    n, t = np.maximum(n, 1e-9), np.maximum(t, 1e-12)
    q = (k + KAPPA) / (n + 2.0 * KAPPA)
    x = -ar.log2_array(1.0 - q) * _LN2
    exposure = t * (x * (1.0 - q) / q)
    accesses = x / (t / n) * exposure
    mean = (accesses + s + prior * prior_rate) / (exposure + m * sampled + prior)
    rate[first:last] = region_code_array(mean[first - low : last - low])


@kernel(twin=region_rates_twin)
def region_rates(
    looked: Half,
    samples: Half,
    edge: Bytes,
    stamp: Half,
    now: int,
    bit_weight: Floats,
    sample_weight: Floats,
    sampled: float,
    bond: Floats,
    prior: float,
    prior_rate: float,
    first: int,
    last: int,
    rate: Bytes,
) -> None:
    """Write the region rate of blocks ``[first, last)``: two recursive passes.

    Args:
        looked: Last look per block, uint16[blocks].
        samples: Decayed samples per block, uint16[blocks].
        edge: How unlike a block is to its left neighbour, uint8[blocks].
        stamp: Epoch of the last look, modulo 2^16, uint16[blocks].
        now: Epoch.
        bit_weight: What a look of an age in epochs weighs; older: the last.
        sample_weight: The same for samples.
        sampled: Sampling exposure of a page that the decayed samples stand for.
        bond: Share of a neighbour's evidence that counts, by alignment class
            and ``edge``, float64[CLASSES, 256].
        prior: Page-periods of the prior.
        prior_rate: Rate of the prior.
        first: First block to write; evidence reaches ``MARGIN`` blocks further.
        last: One past the last.
        rate: Filled: codes, uint8[blocks].
    """
    low = max(0, first - MARGIN)
    high = min(looked.size, last + MARGIN)
    right = np.empty((high - low + 1, 5))
    right[high - low, :] = 0.0
    for backward in range(2):
        sum_k = 0.0
        sum_n = 0.0
        sum_t = 0.0
        sum_s = 0.0
        sum_m = 0.0
        for i in range(high - low):
            j = low + i if backward else high - 1 - i
            age = int((now - np.int64(stamp[j])) & 0xFFFF)
            code = np.int64(looked[j])
            w = 0.0
            if code != NO_LOOK:
                w = bit_weight[min(age, bit_weight.size - 1)]
            k = w * np.float64(code >> 12)
            n = w * 8.0
            t = w * 8.0 * ar.decode(code & 0xFFF, INTERVAL_SHIFT, 0)
            s = ar.decode(np.int64(samples[j]), HALF_SHIFT, 0)
            s = s * sample_weight[min(age, sample_weight.size - 1)]
            tie = bond[j % CLASSES, edge[j]]
            if backward == 0:
                if j == low:
                    break
                sum_k = tie * (k + sum_k)
                sum_n = tie * (n + sum_n)
                sum_t = tie * (t + sum_t)
                sum_s = tie * (s + sum_s)
                sum_m = tie * (8.0 + sum_m)
                right[j - low, 0] = sum_k
                right[j - low, 1] = sum_n
                right[j - low, 2] = sum_t
                right[j - low, 3] = sum_s
                right[j - low, 4] = sum_m
                continue
            sum_k = k + tie * sum_k
            sum_n = n + tie * sum_n
            sum_t = t + tie * sum_t
            sum_s = s + tie * sum_s
            sum_m = 8.0 + tie * sum_m
            if j < first or j >= last:
                continue
            after = right[j - low + 1]
            all_n = max(sum_n + after[1], 1e-9)
            all_t = max(sum_t + after[2], 1e-12)
            q = (sum_k + after[0] + KAPPA) / (all_n + 2.0 * KAPPA)
            x = -ar.log2(1.0 - q) * _LN2
            exposure = all_t * (x * (1.0 - q) / q)
            accesses = x / (all_t / all_n) * exposure
            mean = (accesses + (sum_s + after[3]) + prior * prior_rate) / (
                exposure + (sum_m + after[4]) * sampled + prior
            )
            rate[j] = ar.encode(
                max(mean, _TINY),
                REGION_SHIFT,
                REGION_OFFSET,
                REGION_CODES,
                _REGION_ROUND,
            )


def bonds(unlike: Floats, looks: float, reach: float, scale: float) -> Floats:
    """Return the share of a neighbour's evidence that counts, [CLASSES, 256].

    An edge is believed in as far as its own history or that of all edges at the
    same alignment stands out from the quietest alignments.

    Args:
        unlike: Sum and count of differences by alignment class.
        looks: How often an edge has been compared so far.
        reach: Bond of two blocks of one region.
        scale: Excess of unlikeness that halves a bond.
    """
    n = unlike[1]
    known = n > 8
    if not known.any():
        return np.full((CLASSES, 256), reach)
    mean = np.where(known, unlike[0] / np.maximum(n, 1.0), np.nan)
    base = max(float(np.nanquantile(mean, 0.25)), 1e-3)
    mean = np.where(known, np.nan_to_num(mean, nan=base), base)
    noise = SPREAD * base
    step = max(scale * base, float(mean.max()) - base)
    share = EDGE_SHARE + (1.0 - 2.0 * EDGE_SHARE) * np.clip(
        (mean - base) / step, 0.0, 1.0
    )
    sure = np.sqrt(np.maximum(n, 1.0)) * np.maximum(0.0, mean - base) / noise
    share = np.where(sure > CLASS_SIGMA, share, EDGE_SHARE)
    inside = (sure <= CLASS_SIGMA) & (sure.max() > 2 * CLASS_SIGMA)
    share = np.where(inside, EDGE_SHARE / 8.0, share)
    prior = np.log(share / (1.0 - share))
    held = min(looks, 1.0 / EDGE_GAIN)
    gathered = 1.0 - (1.0 - EDGE_GAIN) ** looks
    own = np.arange(256.0) / EDGE_UNIT / max(gathered, 1e-3)
    odds = held * step * (own - base - step / 2.0) / noise**2
    out: Floats = reach / (
        1.0 + np.exp(np.clip(prior[:, None] + odds[None, :], -30, 30))
    )
    return out
