"""Evidence into rates: the kernels that fuse every hint into a page's Gamma filter.

A page's access rate has a Gamma(a, b) posterior: mean a/b, exposure b. It is
kept as one 16-bit code: ten bits of mean, six of exposure, both minifloats,
relative to a reference rate. Observations:

* samples: ``a += n``, ``b += seconds / period``;
* accessed bit 0 over T: ``b += T`` (exact);
* accessed bit 1 over T: the exact posterior is a difference of two Gammas; it is
  replaced by the Gamma of the same mean and variance, and skipped where the bit
  was certain anyway (P(0) < 1e-3);
* hint fault after tau: ``a += 1``, ``b += tau``; silent for tau: ``b += tau``.

Between looks both decay towards the prior: ``rho = 2^(-seconds / half-life)``.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel
from isotherm.hotness import arithmetic as ar

CERTAIN = 1e-3  #: P(bit = 0) below which a set bit says nothing
HISTORY_MASK = 0x3F  #: the last six looks, newest in bit 0
SAMPLED = 0x80  #: sampled since the last look
NO_BITS = 0  #: a look that only decays; samples make history
BITS = 1  #: a look at accessed bits
OPENING = 2  #: the walk that opens a window: bits, but no history

Codes = NDArray[np.uint16]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]


@compiled
def _pack(mean: float, exposure: float, noise: np.uint64) -> int:
    low = np.int64(noise & np.uint64((1 << ar.RATE_SHIFT) - 1))
    high = np.int64((noise >> np.uint64(32)) & np.uint64((1 << ar.EXPOSURE_SHIFT) - 1))
    m = ar.encode(mean, ar.RATE_SHIFT, ar.RATE_OFFSET, ar.RATE_CODES, low)
    e = ar.encode(
        exposure, ar.EXPOSURE_SHIFT, ar.EXPOSURE_OFFSET, ar.EXPOSURE_CODES, high
    )
    return (m << ar.EXPOSURE_BITS) | e


def pack_array(mean: Floats, exposure: Floats, noise: NDArray[np.uint64]) -> Codes:
    """Return codes of means and exposures, rounded by 64 bits of noise each."""
    low = (noise & np.uint64((1 << ar.RATE_SHIFT) - 1)).astype(np.int64)
    high = (noise >> np.uint64(32)) & np.uint64((1 << ar.EXPOSURE_SHIFT) - 1)
    m = ar.encode_array(mean, ar.RATE_SHIFT, ar.RATE_OFFSET, ar.RATE_CODES, low)
    e = ar.encode_array(
        exposure,
        ar.EXPOSURE_SHIFT,
        ar.EXPOSURE_OFFSET,
        ar.EXPOSURE_CODES,
        high.astype(np.int64),
    )
    return ((m << ar.EXPOSURE_BITS) | e).astype(np.uint16)


def doubted(code: Codes, prior: int, trust: float) -> Codes:
    """Return codes of pages whose pattern may have ended.

    The logarithm of every rate keeps ``trust`` of its distance to the prior's, and
    what has been seen of a page counts no more than the prior does.

    Args:
        code: uint16[n].
        prior: Code of a page that nothing is known of.
        trust: In [0, 1].
    """
    every = np.arange(1 << 16)
    middle, most = prior >> ar.EXPOSURE_BITS, prior & (ar.EXPOSURE_CODES - 1)
    rate = middle + np.rint(((every >> ar.EXPOSURE_BITS) - middle) * trust).astype(int)
    exposure = np.minimum(every & (ar.EXPOSURE_CODES - 1), most)
    table = ((rate << ar.EXPOSURE_BITS) | exposure).astype(np.uint16)
    found: Codes = table[code]
    return found


def unpack_array(code: Codes) -> tuple[Floats, Floats]:
    """Return mean and exposure of codes, in reference units."""
    mean = ar.decode_array(code >> ar.EXPOSURE_BITS, ar.RATE_SHIFT, ar.RATE_OFFSET)
    exposure = ar.decode_array(
        code & (ar.EXPOSURE_CODES - 1), ar.EXPOSURE_SHIFT, ar.EXPOSURE_OFFSET
    )
    return mean, exposure


@compiled
def set_bit(a: float, b: float, interval: float) -> tuple[float, float]:
    """Return the Gamma with the moments of the posterior after a set bit."""
    r = b / (b + interval)
    q0 = ar.exp2(max(a * ar.log2(r), -900.0))
    if q0 <= CERTAIN:
        return a, b
    q1 = q0 * r
    q2 = q1 * r
    z = 1.0 - q0 + 1e-9
    m1 = a / b * (1.0 - q1) / z
    m2 = a * (a + 1.0) / (b * b) * (1.0 - q2) / z
    v = m2 - m1 * m1
    if v <= 1e-9 * m1 * m1:
        return a, b
    return m1 * m1 / v, m1 / v


def set_bit_array(a: Floats, b: Floats, interval: Floats) -> tuple[Floats, Floats]:
    """Return `set_bit` of every pair."""
    r = b / (b + interval)
    q0 = ar.exp2_array(np.maximum(a * ar.log2_array(r), -900.0))
    q1 = q0 * r
    q2 = q1 * r
    z = 1.0 - q0 + 1e-9
    m1 = a / b * (1.0 - q1) / z
    m2 = a * (a + 1.0) / (b * b) * (1.0 - q2) / z
    v = m2 - m1 * m1
    use = (q0 > CERTAIN) & (v > 1e-9 * m1 * m1)
    v = np.where(use, v, 1.0)
    return np.where(use, m1 * m1 / v, a), np.where(use, m1 / v, b)


def look_twin(
    code: Codes,
    history: Bytes,
    block: NDArray[np.uint32],
    bits: Bytes,
    interval: Floats,
    rho: Floats,
    exposure: Floats,
    kind: int,
    a0: float,
    b0: float,
    salt: int,
) -> None:
    """Numpy twin of `look`."""
    page = (block.astype(np.int64)[:, None] * 8 + np.arange(8)).ravel()
    bit = ((bits[:, None] >> np.arange(8)) & 1).ravel() == 1
    keep = page < len(code)
    page, bit = page[keep], bit[keep]
    rho, exposure, interval = (np.repeat(x, 8)[keep] for x in (rho, exposure, interval))
    mean, b = unpack_array(code[page])
    a = rho * (mean * b) + (1.0 - rho) * a0
    b = rho * b + (1.0 - rho) * b0
    b = b + exposure
    h = history[page]
    if kind != NO_BITS:
        a1, b1 = set_bit_array(a, b, np.where(interval > 0, interval, 1.0))
        on = bit & (interval > 0)
        a = np.where(on, a1, a)
        b = np.where(on, b1, np.where(interval > 0, b + interval, b))
        seen = bit
    else:
        seen = (h & SAMPLED) != 0
    if kind != OPENING:
        history[page] = ((h << np.uint8(1)) & HISTORY_MASK) | seen
    code[page] = pack_array(a / b, b, ar.mix_array(page.astype(np.uint64), salt))


@kernel(twin=look_twin)
def look(
    code: Codes,
    history: Bytes,
    block: NDArray[np.uint32],
    bits: Bytes,
    interval: Floats,
    rho: Floats,
    exposure: Floats,
    kind: int,
    a0: float,
    b0: float,
    salt: int,
) -> None:
    """Decay the pages of looked-at blocks and fuse what the look saw.

    Args:
        code: Filters, uint16[pages], changed.
        history: Last looks, uint8[pages], changed.
        block: Blocks of eight pages, uint32[n].
        bits: Accessed bits, uint8[n].
        interval: What the bits cover, reference periods, float64[n]; 0: unknown.
        rho: Share of the old evidence that is left, float64[n].
        exposure: Sampling exposure since the last look, float64[n].
        kind: NO_BITS, BITS or OPENING.
        a0: Prior shape.
        b0: Prior exposure.
        salt: For rounding; differs from look to look.
    """
    for k in range(block.size):
        first = np.int64(block[k]) * 8
        w = rho[k]
        t = interval[k]
        for i in range(8):
            p = first + i
            if p >= code.size:
                break
            c = np.int64(code[p])
            b = ar.decode(
                c & (ar.EXPOSURE_CODES - 1), ar.EXPOSURE_SHIFT, ar.EXPOSURE_OFFSET
            )
            a = ar.decode(c >> ar.EXPOSURE_BITS, ar.RATE_SHIFT, ar.RATE_OFFSET) * b
            a = w * a + (1.0 - w) * a0
            b = w * b + (1.0 - w) * b0
            b = b + exposure[k]
            h = history[p]
            seen = 0
            if kind != NO_BITS:
                if (bits[k] >> i) & 1:
                    seen = 1
                if t > 0.0:
                    if seen:
                        a, b = set_bit(a, b, t)
                    else:
                        b = b + t
            elif h & np.uint8(SAMPLED):
                seen = 1
            if kind != OPENING:
                history[p] = ((h << 1) & HISTORY_MASK) | seen
            code[p] = _pack(a / b, b, ar.mix(p, salt))


def add_events_twin(
    code: Codes,
    history: Bytes,
    page: NDArray[np.uint32],
    count: float,
    seconds: Floats,
    salt: int,
) -> None:
    """Plain twin of `add_events`."""
    for k in range(len(page)):
        p = page[k : k + 1]
        mean, b = unpack_array(code[p])
        a = mean * b + count
        b = b + seconds[k]
        noise = ar.mix_array(p.astype(np.uint64), salt + k)
        code[p] = pack_array(a / b, b, noise)
        if count > 0:
            history[p] |= np.uint8(SAMPLED)


@kernel(twin=add_events_twin)
def add_events(
    code: Codes,
    history: Bytes,
    page: NDArray[np.uint32],
    count: float,
    seconds: Floats,
    salt: int,
) -> None:
    """Add ``count`` accesses and an exposure to each page, in order.

    A sample has exposure 0 here: the exposure of sampling is added to every page
    at its next look. A hint fault brings its delay, a silent page a count of 0.

    Args:
        code: Filters, uint16[pages], changed.
        history: SAMPLED is set where count > 0, uint8[pages], changed.
        page: uint32[n], repeats allowed.
        count: Accesses per event.
        seconds: Exposure of each event, reference periods, float64[n].
        salt: For rounding.
    """
    for k in range(page.size):
        p = np.int64(page[k])
        c = np.int64(code[p])
        b = ar.decode(
            c & (ar.EXPOSURE_CODES - 1), ar.EXPOSURE_SHIFT, ar.EXPOSURE_OFFSET
        )
        a = ar.decode(c >> ar.EXPOSURE_BITS, ar.RATE_SHIFT, ar.RATE_OFFSET) * b + count
        b = b + seconds[k]
        code[p] = _pack(a / b, b, ar.mix(p, salt + k))
        if count > 0:
            history[p] = history[p] | np.uint8(SAMPLED)


def see_twin(
    code: Codes,
    history: Bytes,
    page: NDArray[np.uint32],
    bit: Bytes,
    interval: Floats,
    looks: int,
    salt: int,
) -> None:
    """Numpy twin of `see`."""
    p = page.astype(np.int64)
    mean, b = unpack_array(code[p])
    a = mean * b
    on = bit > 0
    a1, b1 = set_bit_array(a, b, interval)
    a, b = np.where(on, a1, a), np.where(on, b1, b + interval)
    code[p] = pack_array(a / b, b, ar.mix_array(p.astype(np.uint64), salt))
    h = history[p]
    if looks:
        history[p] = ((h << np.uint8(1)) & HISTORY_MASK) | on
    else:
        history[p] = np.where(on, h | np.uint8(SAMPLED), h)


@kernel(twin=see_twin)
def see(
    code: Codes,
    history: Bytes,
    page: NDArray[np.uint32],
    bit: Bytes,
    interval: Floats,
    looks: int,
    salt: int,
) -> None:
    """Fuse bits of single pages, without decay.

    Args:
        code: Filters, uint16[pages], changed.
        history: Last looks, uint8[pages], changed.
        page: uint32[n], none twice.
        bit: 1 where the page was found accessed, uint8[n].
        interval: What the bit covers, reference periods, float64[n], > 0.
        looks: 1: the bits make history; 0: set ones count like samples.
        salt: For rounding.
    """
    for k in range(page.size):
        p = np.int64(page[k])
        c = np.int64(code[p])
        b = ar.decode(
            c & (ar.EXPOSURE_CODES - 1), ar.EXPOSURE_SHIFT, ar.EXPOSURE_OFFSET
        )
        a = ar.decode(c >> ar.EXPOSURE_BITS, ar.RATE_SHIFT, ar.RATE_OFFSET) * b
        seen = 0
        if bit[k] > 0:
            seen = 1
            a, b = set_bit(a, b, interval[k])
        else:
            b = b + interval[k]
        h = history[p]
        if looks:
            history[p] = ((h << 1) & HISTORY_MASK) | seen
        elif seen:
            history[p] = h | np.uint8(SAMPLED)
        code[p] = _pack(a / b, b, ar.mix(p, salt))
