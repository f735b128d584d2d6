"""What counts of devices say of the cells' rates, thresholds and all.

The regression over cells takes accesses and exposures. Of a page of a cell with
mu accesses expected, an event has the score E - mu and the information mu - V for
the logarithm of the rate, E and V being the mean and variance of the count given
the event (the missing information of Orchard and Woodbury, 1972). So much is added
as would have had both: ``E - V`` accesses over ``(mu - V) / rate``. Where the event
is a count, V is 0 and that is the count and its exposure.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import HintBatch, RangeCounts
from isotherm.policy.cells import CELLS

TERMS = 512  # of a sum at most; a count further from the threshold says nothing
_ENOUGH = 1e6  # times the term at the threshold: the event was certain

Floats = NDArray[np.float64]


def below(mu: Floats, high: float) -> tuple[Floats, Floats]:
    """Return mean and variance of Poisson counts that are below ``high`` >= 1.

    Where that was certain, both are mu.
    """
    at = high - 1.0
    total = np.ones_like(mu)
    first, second = np.full_like(mu, at), np.full_like(mu, at * at)
    term = np.ones_like(mu)
    for k in range(min(TERMS, int(at))):
        n = at - k
        term = np.where(total < _ENOUGH, term * (n / mu), 0.0)
        total += term
        first += term * (n - 1.0)
        second += term * (n - 1.0) ** 2
    return _moments(mu, total, first, second, cut_off=at > TERMS)


def at_least(mu: Floats, low: float) -> tuple[Floats, Floats]:
    """Return mean and variance of Poisson counts of ``low`` >= 1 or more.

    Where that was certain, both are mu.
    """
    total = np.ones_like(mu)
    first, second = np.full_like(mu, low), np.full_like(mu, low * low)
    term = np.ones_like(mu)
    for k in range(TERMS):
        n = low + k + 1.0
        term = np.where(total < _ENOUGH, term * (mu / n), 0.0)
        total += term
        first += term * n
        second += term * n * n
    return _moments(mu, total, first, second, cut_off=False)


def _moments(
    mu: Floats, total: Floats, first: Floats, second: Floats, *, cut_off: bool
) -> tuple[Floats, Floats]:
    mean = first / total
    variance = np.maximum(second / total - mean * mean, 0.0)
    certain = (total >= _ENOUGH) | cut_off
    return np.where(certain, mu, mean), np.where(certain, mu, variance)


def of_cells(
    batch: HintBatch,
    seen: RangeCounts,
    cell: NDArray[np.uint16],
    known: NDArray[np.bool_],
    rate: Floats,
    stream: float,
) -> tuple[Floats, Floats]:
    """Return accesses and exposure of every cell, float64[CELLS] each.

    Args:
        batch: The batch.
        seen: Its counts.
        cell: Cell of every page when it was counted.
        known: Pages that were in a tier then, bool[pages].
        rate: Rate of every cell, accesses per page per second.
        stream: Accesses that the source counts over those that rates are of.
    """
    longest_s = (batch.end_ns - batch.start_ns) / NS_PER_S
    if len(seen.exposure_s):
        longest_s = float(seen.exposure_s.max())
    seconds = longest_s * seen.share * stream
    threshold = float(np.ceil(seen.threshold * seen.share - 1e-6))
    page, row, width = _pages(seen)
    use = known[page]
    page, row, width = page[use], row[use], width[use]
    count = seen.count.astype(np.float64)[row] * seen.share / width
    time = seen.exposure_s.astype(np.float64)[row] * (seen.share * stream)
    if not seen.magnitude:
        count, time = _crossings(count, time, threshold, page)
    named: NDArray[np.int64] = np.bincount(cell[page], minlength=CELLS)
    accesses = np.bincount(cell[page], count, CELLS).astype(np.float64)
    exposure = np.bincount(cell[page], time, CELLS).astype(np.float64)
    mu = np.maximum(rate * seconds, 1e-9)
    per_access = seconds / mu  # exposure of one access
    if seen.complete:
        absent = _inside(seen.watched, len(cell)) & known
        absent[page] = False
        missing = np.bincount(cell[absent], minlength=CELLS)
        mean, variance = below(mu, max(1.0, threshold))
        accesses += missing * np.maximum(mean - variance, 0.0)
        exposure += missing * np.maximum(mu - variance, 0.0) * per_access
    elif seen.magnitude and threshold > 0:
        mean, variance = at_least(mu, threshold)
        accesses = np.maximum(0.0, accesses - named * (mean - variance))
        exposure = named * variance * per_access
    return accesses, exposure


def _pages(
    seen: RangeCounts,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the pages of all ranges, which row each is of, and its width."""
    start = seen.start.astype(np.int64)
    width = seen.end.astype(np.int64) - start
    row = np.repeat(np.arange(len(start)), width)
    first = np.repeat(start - np.cumsum(width) + width, width)
    return first + np.arange(len(row)), row, width[row]


def _crossings(
    count: Floats, time: Floats, threshold: float, page: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Weigh crossings by what they tell of a count; a page has its time once."""
    _, back, times = np.unique(page, return_inverse=True, return_counts=True)
    whole = np.bincount(back, count)[back]
    weight = whole / np.maximum(whole + threshold * threshold / 6.0, 1e-12)
    return count * weight, time * weight / times[back]


def _inside(ranges: NDArray[np.int64], pages: int) -> NDArray[np.bool_]:
    """Return which pages lie in ranges [start, end), int64[n, 2]."""
    edge = np.bincount(ranges[:, 0], minlength=pages + 1).astype(np.int64)
    edge -= np.bincount(ranges[:, 1], minlength=pages + 1)
    inside: NDArray[np.bool_] = np.cumsum(edge[:pages]) > 0
    return inside
