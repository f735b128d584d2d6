"""The rate of a cell, learnt out of sample.

What a cell's pages do in the epoch after they were put there is compared with
what the estimator had promised. A Poisson regression with few weights maps
(history, own rate, region rate) to the true rate: a free value per cell would
be noise where memory is flat, a formula alone would trust every source alike.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.cells import AHEAD, CELLS, alone_features, features

FORGET = 0.015  # per epoch of 0.5 s: half of the evidence is 23 s old, or older
KEEP = 1000.0  # counted accesses: sparse evidence is kept until so much has come
RIDGE = np.array([30.0, 30.0, 30.0, 30.0, 4.0, 4.0, 2.0])  # counted accesses
#: Before any evidence: history levels, own and region rate, 1
#: (docs/reference/isotherm.md).
PRIOR = np.array([-0.1, 0.0, 0.1, 0.2, 0.5, 0.3, 0.0])
DOUBT = 100.0  # samples that bits, or hope, weigh as much as
CAUTION = 1.0  # variances of a promise that are held against it
GOOD_SLOPE = 0.2  # of what bits show on what was promised: promises hold
PRIOR_SPREAD = 0.1  # of promises, squared
BITS_WEIGHT = 0.25  # of a bit in the regression where there are no samples
BIT_NEWS = 0.05  # of a counted access in a bit, where hope is given up
BIT_DECAY = 0.95  # per epoch
STEP_LIMIT = 0.3  # of a weight in one Newton step
NEWTON_STEPS = 2
LEAST_REST = 0.05  # of the accesses, that sweeps leave to the other pages
AHEAD_DOUBT = 4.0  # samples that the mean rate weighs as much as, ahead of a front

Floats = NDArray[np.float64]


class CellRates:
    """Counts per cell, and the regression over them.

    Args:
        has_samples: Whether samples will come; else bits have to do.
        alone: Whether cells are by a page's own rate, in fine steps.
    """

    def __init__(self, *, has_samples: bool, alone: bool = False) -> None:
        self._has_samples = has_samples
        self.belief = 0.0
        self._z = alone_features() if alone else features()
        self.weights = PRIOR.copy()
        self.regressed: Floats = np.ones(CELLS)
        self._accesses = np.zeros(CELLS)
        self._exposure = np.zeros(CELLS)
        self._fresh = 0.0  # counted since the last epoch
        self._promise = np.zeros(AHEAD)
        self._kept = self._given = 0.0  # of promises, by the samples that came
        self._bit_accesses = np.zeros(CELLS)
        self._bit_exposure = np.zeros(CELLS)

    def forget(self) -> None:
        """Decay by one epoch."""
        keep = 1.0 - min(FORGET, self._fresh / KEEP)
        self._fresh = 0.0
        self._kept *= keep
        self._given *= keep
        self._accesses *= keep
        self._exposure *= keep
        self._bit_accesses *= BIT_DECAY
        self._bit_exposure *= BIT_DECAY

    def add_samples(
        self,
        cell: NDArray[np.uint16],
        population: Floats,
        exposure_s: float,
        count: Floats | None = None,
    ) -> None:
        """Add samples by the cell that their page was in before.

        Args:
            cell: Cell of every sample.
            population: Pages per cell in that epoch.
            exposure_s: Seconds of exposure per page: epoch over period.
            count: What each sample counts for, float64[n]; None: 1.
        """
        found = np.bincount(cell, count, minlength=CELLS)
        self._add(found, population * exposure_s)

    def add_faults(
        self,
        cell: NDArray[np.uint16],
        seconds: NDArray[np.float32],
        silent: NDArray[np.uint16],
        silent_s: NDArray[np.float32],
        count: Floats | None = None,
    ) -> None:
        """Add hint faults: one access each, after so long; silence is exposure.

        Args:
            cell: Cell of every page that faulted.
            seconds: How long it had been silent before.
            silent: Cell of every page that stayed silent.
            silent_s: For how long.
            count: What the access of each fault counts for; None: 1.
        """
        exposure: Floats = np.bincount(cell, seconds, CELLS).astype(np.float64)
        exposure += np.bincount(silent, silent_s, CELLS)
        self._add(np.bincount(cell, count, minlength=CELLS), exposure)

    def add_counts(self, count: Floats, exposure: Floats) -> None:
        """Add accesses that a device has counted, and over how long, by cell."""
        self._add(count, exposure)

    def _add(self, count: NDArray[np.int64] | Floats, exposure: Floats) -> None:
        """Add counted accesses, and what they say of the promises made before."""
        self._accesses += count
        self._exposure += exposure
        count, exposure = count[:AHEAD], exposure[:AHEAD]
        total = float(count.sum())
        self._fresh += total
        share = exposure / max(float(exposure.sum()), 1e-12)
        apart = self._promise - float(share @ self._promise)
        self._kept += float(count @ apart)
        self._given += total * float(share @ apart**2)

    def add_bits(
        self,
        cell: NDArray[np.uint16],
        bit: NDArray[np.bool_],
        interval_s: float,
        count: Floats | None = None,
    ) -> None:
        """Add accessed bits as a Poisson stream seen through them would give.

        The share q of set bits means ``x = -ln(1 - q)`` accesses per page; its
        information about x is that of ``x e^-x / (1 - e^-x)`` counted ones.

        Args:
            cell: Cell of every page.
            bit: Whether it was accessed.
            interval_s: What the bits cover.
            count: What an access of each page counts for; None: 1.
        """
        looked = np.bincount(cell, minlength=CELLS).astype(np.float64)
        found: Floats = np.bincount(cell, bit, CELLS).astype(np.float64)
        each = None
        if count is not None:
            each = np.bincount(cell, count, CELLS) / np.maximum(looked, 1.0)
        self._add_shares(looked, found, interval_s, each)

    def add_regions(
        self,
        cell: NDArray[np.uint16],
        checks: NDArray[np.float64],
        nr_accesses: NDArray[np.float64],
        interval_s: float,
        count: Floats | None = None,
    ) -> None:
        """Add checks of regions, by the cell of a page of each region's blocks.

        Args:
            cell: Cell of one page a block.
            checks: Checks that fall on the block.
            nr_accesses: Those of them that found a bit.
            interval_s: What one check covers.
            count: What an access of each page counts for; None: 1.
        """
        looked: Floats = np.bincount(cell, checks, CELLS).astype(np.float64)
        found: Floats = np.bincount(cell, nr_accesses, CELLS).astype(np.float64)
        each = None
        if count is not None:
            each = np.bincount(cell, count * checks, CELLS) / np.maximum(looked, 1e-9)
        self._add_shares(looked, found, interval_s, each)

    def _add_shares(
        self,
        looked: Floats,
        found: Floats,
        interval_s: float,
        each: Floats | None = None,
    ) -> None:
        q = np.minimum(found / np.maximum(looked, 1e-9), 0.98)
        x = -np.log1p(-q)
        seen = np.where(x > 1e-3, x * np.exp(-x) / np.maximum(q, 1e-9), 1.0)
        if each is not None:
            x = x * each
        self._bit_accesses += x * looked * seen
        self._bit_exposure += looked * interval_s * seen

    def fit(self, mean_rate: float, population: Floats, trust: float = 1.0) -> Floats:
        """Return the rate of every cell, float64[CELLS], accesses per page per s.

        What a cell promises above or below the mean page is shrunk by its own
        uncertainty (the positive part of 1 - variance / promise^2, after James
        and Stein): noise moves no page. The rates add up to the mean rate.

        Args:
            mean_rate: Mean over all pages.
            population: Pages per cell.
            trust: How far accessed bits show where the accesses go, in [0, 1].
        """
        accesses, exposure = self._accesses, self._exposure
        if not self._has_samples:
            accesses = BITS_WEIGHT * self._bit_accesses
            exposure = BITS_WEIGHT * self._bit_exposure
        ahead = self._ahead_rate(mean_rate)
        accesses, exposure = accesses[:AHEAD], exposure[:AHEAD]
        swept = float(population[AHEAD:] @ ahead)
        rest = max(LEAST_REST, 1.0 - swept / max(mean_rate * population.sum(), 1e-12))
        all_pages = max(float(population.sum()), 1.0)
        population = population[:AHEAD]
        z = self._z
        log_mean = np.log(mean_rate)
        ridge = np.diag(RIDGE)
        for _ in range(NEWTON_STEPS):
            expected = exposure * np.exp(
                np.clip(z @ self.weights, -12.0, 12.0) + log_mean
            )
            gradient = z.T @ (accesses - expected)
            gradient -= ridge @ (self.weights - PRIOR)
            hessian = (z.T * expected) @ z + ridge
            step = np.linalg.solve(hessian, gradient)
            self.weights = self.weights + np.clip(step, -STEP_LIMIT, STEP_LIMIT)
        plain = np.exp(np.clip(z @ self.weights, -12.0, 12.0) + log_mean)
        self.regressed = np.append(plain, ahead)
        share = population / max(float(population.sum()), 1.0)
        apart = z - share @ z
        promise = apart @ self.weights
        variance = ((apart @ np.linalg.inv(hessian)) * apart).sum(1)
        sure = np.maximum(0.0, 1.0 - CAUTION * variance / np.maximum(promise**2, 1e-12))
        self._promise = sure * promise
        self.belief = self._believe(promise, mean_rate, trust)
        rate: Floats = np.exp(np.clip(self.belief * self._promise, -12.0, 12.0))
        pages = max(float(population.sum()), 1.0)
        plain_mean = mean_rate * rest * all_pages / pages
        rate *= plain_mean / max(float(share @ rate), 1e-12)
        return np.append(rate, ahead)

    def _ahead_rate(self, mean_rate: float) -> Floats:
        """Return the rate of the cells ahead of fronts: each drawn to that of all."""
        accesses, exposure = self._accesses[AHEAD:], self._exposure[AHEAD:]
        all_ = float(accesses.sum()) + AHEAD_DOUBT
        all_ /= float(exposure.sum()) + AHEAD_DOUBT / mean_rate
        rate: Floats = (accesses + AHEAD_DOUBT) / (exposure + AHEAD_DOUBT / all_)
        return rate

    @property
    def informed(self) -> float:
        """Return how much has been seen, in [0, 1]: 1 is enough to give up hope."""
        seen = float(self._accesses.sum() + BIT_NEWS * self._bit_accesses.sum())
        return min(1.0, seen / DOUBT)

    def _believe(self, promise: Floats, mean_rate: float, trust: float) -> float:
        """Return how far promises are believed, in [0, 1].

        Where a promise u of log rate is true, the samples that come have a mean
        u above that of all pages by the variance of u: kept over given is the
        slope of truth on promise. Until samples settle it, accessed bits stand
        in: they come in thousands.
        """
        hope = DOUBT * PRIOR_SPREAD
        first = 1.0
        seen = self._bit_exposure[:AHEAD] > 0
        total = float(self._bit_accesses[:AHEAD][seen].sum())
        if total > 0:
            first = self._bit_slope(promise, mean_rate, seen, total)
            first *= trust
        elif not self._accesses.any():
            first = 0.0
        slope = (self._kept + hope * first) / (self._given + hope)
        return min(1.0, max(0.0, slope))

    def _bit_slope(
        self,
        promise: Floats,
        mean_rate: float,
        seen: NDArray[np.bool_],
        total: float,
    ) -> float:
        """Return how far bits bear promises out, in [0, 1].

        Bits flatten what they show (they saturate, and bursts look like single
        accesses), so they are asked only whether promises hold at all.
        """
        weight = self._bit_accesses[:AHEAD][seen]
        found = np.log((weight + 0.5) / self._bit_exposure[:AHEAD][seen])
        x = promise[seen] - float(weight @ promise[seen]) / total
        y = found - np.log(mean_rate)
        spread = float(weight @ (x * x))
        slope = float(weight @ (x * y)) / (spread + DOUBT * PRIOR_SPREAD)
        return min(1.0, max(0.0, slope / GOOD_SLOPE))
