"""Counts of pages, exact and cut off at a threshold, as evidence of rates.

A page with a Gamma(a, b) rate has N accesses in t seconds; before they are
counted, N is negative binomial: ``f(n + 1) / f(n) = q (a + n) / (n + 1)`` with
``q = t / (b + t)``. What a counter says of N is one of

* N = c: ``a += c``, ``b += t``;
* N < k, a watched page that a list with the threshold k does not name;
* N >= k, which a list says of every page that it names, and which is all that
  is left out again where nothing follows from not being named.

Given an event, N has the mean m and the variance w, and the rate is a mixture of
Gammas with the mean ``(a + m) / (b + t)`` and the variance
``(a + m + w) / (b + t)^2``; it is replaced by the Gamma of both, as after a set
accessed bit, which is N >= 1. As ``n f(n) = q (a + n - 1) f(n - 1)``, both
moments follow from one number, the hazard at the threshold
(docs/adr/0019-counts-and-their-thresholds.md).

Where an event was certain nothing is changed.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel
from isotherm.hotness import arithmetic as ar
from isotherm.hotness.evidence import (
    SAMPLED,
    Bytes,
    Codes,
    Floats,
    _pack,
    pack_array,
    unpack_array,
)

TELLS = 1e-3  #: an event that changes the expected count by less says nothing
TERMS = 512  #: of a series at most; the rest is taken to be geometric
_TINY = 1e-9
_LEAST = 1e-3  # of a shape


@compiled
def _fit(
    a: float, b: float, t: float, mean: float, second: float
) -> tuple[float, float]:
    """Return the Gamma after a count of such moments over t."""
    mean = max(mean, 0.0)
    total = a + mean
    spread = max(second - mean * mean, 0.0)
    exposure = (b + t) * (total / (total + spread))
    return total / (b + t) * exposure, exposure


def _fit_array(
    a: Floats, b: Floats, t: Floats, mean: Floats, second: Floats
) -> tuple[Floats, Floats]:
    """Return `_fit` of every page."""
    mean = np.maximum(mean, 0.0)
    total = a + mean
    spread = np.maximum(second - mean * mean, 0.0)
    exposure = (b + t) * (total / (total + spread))
    return total / (b + t) * exposure, exposure


@compiled
def below(a: float, b: float, t: float, high: float) -> tuple[float, float, bool]:
    """Return the Gamma after fewer than ``high`` >= 1 accesses in t; was it news."""
    x = t / b
    q = t / (b + t)
    enough = (a + high - 1.0) / (TELLS * a)
    term = 1.0
    total = 1.0
    step = 0.0
    n = high - 1.0
    for _ in range(TERMS):
        if n < 1.0 or total > enough or term < _TINY * total:
            break
        step = n / (q * (a + n - 1.0))
        term = term * step
        total = total + term
        n = n - 1.0
    if n >= 1.0 and total <= enough and term >= _TINY * total:
        if step >= 1.0:
            return a, b, False
        total = total + term * step / (1.0 - step)
    if total > enough:
        return a, b, False
    cut = (a + high - 1.0) / total
    mean = max(x * (a - cut), 0.0)
    second = x * ((a + 1.0) * mean + a - high * cut)
    shape, exposure = _fit(a, b, t, mean, second)
    return shape, exposure, True


def below_array(
    a: Floats, b: Floats, t: Floats, high: float
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return `below` of every page."""
    x = t / b
    q = t / (b + t)
    enough = (a + high - 1.0) / (TELLS * a)
    term = np.ones_like(a)
    total = np.ones_like(a)
    step = np.zeros_like(a)
    n = np.full_like(a, high - 1.0)
    for _ in range(TERMS):
        go = (n >= 1.0) & (total <= enough) & (term >= _TINY * total)
        if not go.any():
            break
        step = np.where(go, n / (q * (a + np.maximum(n, 1.0) - 1.0)), step)
        term = np.where(go, term * step, term)
        total = np.where(go, total + term, total)
        n = np.where(go, n - 1.0, n)
    cut_off = (n >= 1.0) & (total <= enough) & (term >= _TINY * total)
    grows = cut_off & (step >= 1.0)
    rest = term * step / np.where(step < 1.0, 1.0 - step, 1.0)
    total = np.where(cut_off & ~grows, total + rest, total)
    news = ~grows & (total <= enough)
    cut = (a + high - 1.0) / total
    mean = np.maximum(x * (a - cut), 0.0)
    second = x * ((a + 1.0) * mean + a - high * cut)
    shape, exposure = _fit_array(a, b, t, mean, second)
    return np.where(news, shape, a), np.where(news, exposure, b), news


@compiled
def at_least(a: float, b: float, t: float, low: float) -> tuple[float, float]:
    """Return the Gamma after ``low`` >= 1 accesses or more in t."""
    x = t / b
    q = t / (b + t)
    enough = (1.0 + x) * low / (TELLS * x * a)
    term = 1.0
    total = 1.0
    step = 0.0
    n = low
    for _ in range(TERMS):
        if total > enough or term < _TINY * total:
            break
        step = q * (a + n) / (n + 1.0)
        term = term * step
        total = total + term
        n = n + 1.0
    if total <= enough and term >= _TINY * total:
        if step >= 1.0:
            return a, b
        total = total + term * step / (1.0 - step)
    if total > enough:
        return a, b
    over = (1.0 + x) * low / total
    mean = x * a + over
    second = x * ((a + 1.0) * mean + a) + over * low
    return _fit(a, b, t, mean, second)


def at_least_array(
    a: Floats, b: Floats, t: Floats, low: float
) -> tuple[Floats, Floats]:
    """Return `at_least` of every page."""
    x = t / b
    q = t / (b + t)
    enough = (1.0 + x) * low / (TELLS * x * a)
    term = np.ones_like(a)
    total = np.ones_like(a)
    step = np.zeros_like(a)
    n = np.full_like(a, low)
    for _ in range(TERMS):
        go = (total <= enough) & (term >= _TINY * total)
        if not go.any():
            break
        step = np.where(go, q * (a + n) / (n + 1.0), step)
        term = np.where(go, term * step, term)
        total = np.where(go, total + term, total)
        n = np.where(go, n + 1.0, n)
    cut_off = (total <= enough) & (term >= _TINY * total)
    grows = cut_off & (step >= 1.0)
    rest = term * step / np.where(step < 1.0, 1.0 - step, 1.0)
    total = np.where(cut_off & ~grows, total + rest, total)
    news = ~grows & (total <= enough)
    over = (1.0 + x) * low / total
    mean = x * a + over
    second = x * ((a + 1.0) * mean + a) + over * low
    shape, exposure = _fit_array(a, b, t, mean, second)
    return np.where(news, shape, a), np.where(news, exposure, b)


def add_counts_twin(
    code: Codes,
    history: Bytes,
    page: NDArray[np.uint32],
    count: Floats,
    seconds: Floats,
    named_from: float,
    salt: int,
) -> None:
    """Numpy twin of `add_counts`."""
    p = page.astype(np.int64)
    mean, b = unpack_array(code[p])
    a = mean * b
    shape = a + count
    exposure = b + seconds
    if named_from > 0.0:
        listed_a, listed_b = at_least_array(a, b, seconds, named_from)
        shape = shape - (listed_a - a)
        exposure = np.minimum(np.maximum(exposure - (listed_b - b), b), b + seconds)
    shape = np.maximum(shape, _LEAST)
    noise = ar.mix_array(p.astype(np.uint64), salt)
    code[p] = pack_array(shape / exposure, exposure, noise)
    hit = p[count > 0.0]
    history[hit] = history[hit] | np.uint8(SAMPLED)


@kernel(twin=add_counts_twin)
def add_counts(
    code: Codes,
    history: Bytes,
    page: NDArray[np.uint32],
    count: Floats,
    seconds: Floats,
    named_from: float,
    salt: int,
) -> None:
    """Add a count and its exposure to each page.

    Args:
        code: Filters, uint16[pages], changed.
        history: SAMPLED is set where count > 0, uint8[pages], changed.
        page: uint32[n], none twice.
        count: Accesses, float64[n].
        seconds: Exposure, reference periods, float64[n], > 0.
        named_from: Only pages with so many accesses were named, and nothing
            follows from not being named: that they were says nothing then, only
            the count does. 0: that is not so.
        salt: For rounding.
    """
    for k in range(page.size):
        p = np.int64(page[k])
        c = np.int64(code[p])
        b = ar.decode(
            c & (ar.EXPOSURE_CODES - 1), ar.EXPOSURE_SHIFT, ar.EXPOSURE_OFFSET
        )
        a = ar.decode(c >> ar.EXPOSURE_BITS, ar.RATE_SHIFT, ar.RATE_OFFSET) * b
        t = seconds[k]
        shape = a + count[k]
        exposure = b + t
        if named_from > 0.0:
            listed_a, listed_b = at_least(a, b, t, named_from)
            shape = shape - (listed_a - a)
            exposure = min(max(exposure - (listed_b - b), b), b + t)
        shape = max(shape, _LEAST)
        code[p] = _pack(shape / exposure, exposure, ar.mix(p, salt))
        if count[k] > 0.0:
            history[p] = history[p] | np.uint8(SAMPLED)


def add_bounds_twin(
    code: Codes,
    page: NDArray[np.uint32],
    high: float,
    seconds: Floats,
    told: Floats,
    salt: int,
) -> None:
    """Numpy twin of `add_bounds`."""
    p = page.astype(np.int64)
    mean, b = unpack_array(code[p])
    shape, exposure, news = below_array(mean * b, b, seconds, high)
    told[:] = np.minimum(np.maximum((exposure - b) / seconds, 0.0), 1.0)
    noise = ar.mix_array(p.astype(np.uint64), salt)
    code[p[news]] = pack_array(shape / exposure, exposure, noise)[news]


@kernel(twin=add_bounds_twin)
def add_bounds(
    code: Codes,
    page: NDArray[np.uint32],
    high: float,
    seconds: Floats,
    told: Floats,
    salt: int,
) -> None:
    """Take each page to have had fewer than ``high`` accesses.

    Args:
        code: Filters, uint16[pages], changed.
        page: uint32[n], none twice.
        high: A whole number >= 1.
        seconds: Over how long, reference periods, float64[n], > 0.
        told: Filled: how much of what a count would have told that was, the
            exposure gained over ``seconds``, float64[n] in [0, 1].
        salt: For rounding.
    """
    for k in range(page.size):
        p = np.int64(page[k])
        c = np.int64(code[p])
        b = ar.decode(
            c & (ar.EXPOSURE_CODES - 1), ar.EXPOSURE_SHIFT, ar.EXPOSURE_OFFSET
        )
        a = ar.decode(c >> ar.EXPOSURE_BITS, ar.RATE_SHIFT, ar.RATE_OFFSET) * b
        shape, exposure, news = below(a, b, seconds[k], high)
        told[k] = min(max((exposure - b) / seconds[k], 0.0), 1.0)
        if news:
            code[p] = _pack(shape / exposure, exposure, ar.mix(p, salt))


def split_ranges_twin(
    code: Codes,
    start: NDArray[np.int64],
    width: NDArray[np.int64],
    count: Floats,
    seconds: Floats,
    first: NDArray[np.int64],
    page: NDArray[np.uint32],
    rate: Floats,
    exposure: Floats,
) -> None:
    """Numpy twin of `split_ranges`: page by page of all ranges at once."""
    total = np.zeros(len(start))
    doubt = np.zeros(len(start))
    widest = int(width.max()) if len(width) else 0
    for i in range(widest):
        inside = np.flatnonzero(width > i)
        mean, b = unpack_array(code[start[inside] + i])
        total[inside] += mean
        doubt[inside] += mean / b
    for i in range(widest):
        inside = np.flatnonzero(width > i)
        mean, b = unpack_array(code[start[inside] + i])
        t, c = seconds[inside], count[inside]
        m, v = total[inside], mean / b
        a = mean * b
        gain = v / (m / t + doubt[inside])
        new = mean + gain * (c / t - m)
        new = np.minimum(np.maximum(new, a / (b + t)), (a + c) / (b + t))
        others = np.maximum(doubt[inside] - v, 0.0)
        own = np.maximum(2.0 * (v / doubt[inside]) - 1.0, 0.0)
        learnt = b + t * (mean / (m + t * others))
        at = first[inside] + i
        page[at] = start[inside] + i
        rate[at] = new
        exposure[at] = own * learnt + (1.0 - own) * (a / new)


@kernel(twin=split_ranges_twin)
def split_ranges(
    code: Codes,
    start: NDArray[np.int64],
    width: NDArray[np.int64],
    count: Floats,
    seconds: Floats,
    first: NDArray[np.int64],
    page: NDArray[np.uint32],
    rate: Floats,
    exposure: Floats,
) -> None:
    """Split the counts of ranges among their pages, by what is thought of them.

    The linear Bayes estimate from a sum (Hartigan, 1969): with M and V the sums of
    the means m and variances v of the pages' rates, the surprise ``c / t - M`` goes
    to each by ``v / (M / t + V)``, and no page gets less than none of the accesses
    or more than all. A sum does not tell its pages apart, and to count it again and
    again as if it did would make their first guess a certainty: a page that holds
    half of the doubt or less keeps its shape, and with it the doubt about its share;
    one that holds more, v of V, gets ``2 v / V - 1`` of the exposure that a sum has
    for it, ``t m / (M + t (V - v))``. A range of one page gets it all.

    Args:
        code: Filters, uint16[pages].
        start: First pages, int64[n].
        width: Pages of each range, int64[n], >= 1.
        count: Accesses of the range, float64[n].
        seconds: Exposure, reference periods, float64[n], > 0.
        first: Where each range's rows begin below, int64[n].
        page: Filled: pages, uint32[sum of width].
        rate: Filled: the new mean of each, float64.
        exposure: Filled: its new exposure, float64.
    """
    for k in range(start.size):
        total = 0.0
        doubt = 0.0
        for i in range(width[k]):
            code_ = np.int64(code[start[k] + i])
            b = ar.decode(
                code_ & (ar.EXPOSURE_CODES - 1), ar.EXPOSURE_SHIFT, ar.EXPOSURE_OFFSET
            )
            mean = ar.decode(code_ >> ar.EXPOSURE_BITS, ar.RATE_SHIFT, ar.RATE_OFFSET)
            total += mean
            doubt += mean / b
        t = seconds[k]
        c = count[k]
        for i in range(width[k]):
            code_ = np.int64(code[start[k] + i])
            b = ar.decode(
                code_ & (ar.EXPOSURE_CODES - 1), ar.EXPOSURE_SHIFT, ar.EXPOSURE_OFFSET
            )
            mean = ar.decode(code_ >> ar.EXPOSURE_BITS, ar.RATE_SHIFT, ar.RATE_OFFSET)
            v = mean / b
            a = mean * b
            gain = v / (total / t + doubt)
            new = mean + gain * (c / t - total)
            new = min(max(new, a / (b + t)), (a + c) / (b + t))
            others = max(doubt - v, 0.0)
            own = max(2.0 * (v / doubt) - 1.0, 0.0)
            learnt = b + t * (mean / (total + t * others))
            at = first[k] + i
            page[at] = start[k] + i
            rate[at] = new
            exposure[at] = own * learnt + (1.0 - own) * (a / new)
