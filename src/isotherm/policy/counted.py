"""What counts of devices say of the cells' rates, thresholds and all.

The regression over cells takes accesses and exposures. The pages of a cell differ,
their rates taken to be exponential about the cell's; then a page's count n is
geometric, with mu the mean, and says of the logarithm of mu what
``w n`` accesses over ``w t`` say, with ``w = 1 / (1 + mu)`` (negative binomial
regression; Lawless 1987). Of an event with E and V as mean and variance of the
count, the score is ``w (E - mu)`` and the information ``w mu - w^2 V`` (the missing
information of Orchard and Woodbury, 1972): so much is added as would have had both,
``w E - w^2 V`` accesses over ``(w mu - w^2 V) / rate``. Where the event was certain
that is nothing.

A geometric count that is at least k is k and another one: of a list with losses,
which says of every page that it was at least k, what is above k counts.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import HintBatch, RangeCounts
from isotherm.policy.cells import CELLS

Floats = NDArray[np.float64]


def below(mu: Floats, high: float) -> tuple[Floats, Floats]:
    """Return mean and variance of geometric counts that are below ``high`` >= 1.

    Args:
        mu: Mean of all counts.
        high: A whole number.
    """
    above = np.exp(-high * np.log1p(1.0 / mu))  # P(count >= high)
    under = np.maximum(1.0 - above, 1e-12)
    mean = mu - high * above / under
    variance = mu * (1.0 + mu) - high * high * above / under**2
    return np.maximum(mean, 0.0), np.maximum(variance, 0.0)


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
    mu = np.maximum(rate * seconds, 1e-9)
    weight = 1.0 / (1.0 + mu)
    if seen.magnitude and not seen.complete:
        count = np.maximum(0.0, count - threshold / width)
    accesses = weight * np.bincount(cell[page], count, CELLS)
    exposure = weight * np.bincount(cell[page], time, CELLS)
    if seen.complete:
        absent = _inside(seen.watched, len(cell)) & known
        absent[page] = False
        missing = np.bincount(cell[absent], minlength=CELLS)
        mean, variance = below(mu, max(1.0, threshold))
        unknown = weight * weight * variance
        accesses += missing * np.maximum(weight * mean - unknown, 0.0)
        exposure += missing * np.maximum(weight * mu - unknown, 0.0) * seconds / mu
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
