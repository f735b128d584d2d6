"""How often translations miss: Che's approximation of a TLB over known rates.

In a cache of C entries, least recently used out, an entry of rate r stays for about
the same time T as every other, the characteristic time, so that it misses with
probability exp(-r T); T is such that C entries are there on average (Che, Tung and
Wang, "Hierarchical web caching systems", IEEE JSAC 20(7), 2002; for IP and page
caches shown to hold well beyond its assumptions by Fricker, Robert and Roberts,
ITC 2012). A small page is an entry of its own, a huge one is one entry with the rate
of all its pages.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Halvings of the bracket of ln T: 60 octaves wide at first, so that T is known to
#: a thousandth of an octave.
HALVINGS = 16
LEAST_S, MOST_S = 1e-9, 1e9


def characteristic_s(rate: Floats, count: Floats, entries: int) -> float:
    """Return how long a translation stays that is not used again, seconds.

    Args:
        rate: Accesses per second of each kind of entry, float64[n], >= 0.
        count: Pages of that kind, float64[n], >= 0.
        entries: Translations that fit.

    Returns:
        Infinite where all fit.

    >>> all_fit = characteristic_s(np.array([5.0]), np.array([100.0]), 100)
    >>> half = characteristic_s(np.array([5.0]), np.array([100.0]), 50)
    >>> all_fit, round(half, 3)  # 1 - exp(-5 T) = 1/2
    (inf, 0.139)
    """
    used = rate > 0
    rate, count = rate[used], count[used]
    if float(count.sum()) <= entries:
        return float("inf")
    low, high = np.log(LEAST_S), np.log(MOST_S)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        there = float(count @ -np.expm1(-rate * np.exp(middle)))
        if there < entries:
            low = middle
        else:
            high = middle
    return float(np.exp(0.5 * (low + high)))


def misses_per_s(rate: Floats, stays_s: float) -> Floats:
    """Return how often an entry of each rate misses, per second.

    Args:
        rate: Accesses per second, float64[n].
        stays_s: From `characteristic_s`.
    """
    if np.isinf(stays_s):
        return np.zeros_like(rate)
    missed: Floats = rate * np.exp(-rate * stays_s)
    return missed
