"""Far memory at Google: does the controller keep its promotion rate?

Every job has its own threshold of age. A page older than it goes to far memory and
comes back when it is touched: a promotion. The target is at most 0.2 % of the working
set (pages touched within 120 s) a minute. Each minute the controller works out the
smallest threshold that would have kept the target in that minute, from the ages at
which pages were touched; it then uses the 98th percentile of the past ones, or the
last one if that is higher.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.lab.fidelity.published import Measured, Published

JOBS: Final = 12
PAGES: Final = 4096
MINUTES: Final = 12 * 60
#: Ages are counted in scans of accessed bits.
SCAN_MIN: Final = 2
#: A page's age is a byte.
MAX_AGE: Final = 255
TARGET: Final = 0.002
PERCENTILE: Final = 98
#: Of a job's life before its memory may leave.
WARM_UP_MIN: Final = 120
#: The summary counts what comes after this.
SETTLED_MIN: Final = 240


@dataclass(slots=True)
class Job:
    """A job: ages of its pages in scans, its threshold, what is far.

    Attributes:
        rate_per_min: Accesses to each page.
        age: Scans since the last touch, uint8[pages].
        far: Which pages are in far memory.
        touched_at: Of this minute: ages at which pages were touched.
        best: Smallest thresholds that would have kept the target, by minute.
        threshold: Pages of this age go, in scans.
    """

    rate_per_min: NDArray[np.float64]
    age: NDArray[np.int64]
    far: NDArray[np.bool_]
    best: list[int] = field(default_factory=list)
    threshold: int = MAX_AGE

    def minute(
        self, index: int, rng: np.random.Generator
    ) -> tuple[int, int, NDArray[np.int64]]:
        """Play one minute; return promotions, the working set and ages touched at."""
        touched = rng.random(len(self.age)) < -np.expm1(-self.rate_per_min)
        ages = self.age[touched].copy()
        promoted = int((self.far & touched).sum())
        self.far &= ~touched
        self.age[touched] = 0
        if index % SCAN_MIN == 0:
            idle = ~touched
            self.age[idle] = np.minimum(self.age[idle] + 1, MAX_AGE)
        working_set = int((self.age <= 1).sum())
        return promoted, working_set, ages

    def control(self, index: int, working_set: int, ages: NDArray[np.int64]) -> None:
        """Choose the threshold for the minute that follows; push out what is older."""
        allowed = TARGET * working_set
        # promotions[T]: touches of pages that would have been far with threshold T.
        histogram = np.bincount(ages, minlength=MAX_AGE + 1)
        promotions = histogram[::-1].cumsum()[::-1]
        fits = np.flatnonzero(promotions[1:] <= allowed)
        self.best.append(int(fits[0]) + 1 if len(fits) else MAX_AGE)
        past = int(np.ceil(np.percentile(self.best, PERCENTILE)))
        self.threshold = max(past, self.best[-1])
        if index >= WARM_UP_MIN:
            self.far |= self.age >= self.threshold


def play(published: Published, *, quick: bool, seed: int) -> Measured:
    """Return what is cold, what is far, and the promotion rate of the worst minutes."""
    rng = np.random.default_rng([seed, 0xFA])
    jobs = [_job(published, rng) for _ in range(4 if quick else JOBS)]
    rates, cold, far = [], [], []
    for index in range(MINUTES):
        for job in jobs:
            promoted, working_set, ages = job.minute(index, rng)
            job.control(index, working_set, ages)
            if index >= SETTLED_MIN:
                rates.append(100 * promoted / max(1, working_set))
                cold.append(float((job.age >= 1).mean()))
                far.append(float(job.far.mean()))
    name = "promotions a minute, % of the working set"
    return {
        ("share of memory", "fleet", "cold at 120 s"): float(np.mean(cold)),
        ("share of memory", "fleet", "far"): float(np.mean(far)),
        (name, "fleet", "98 % of a job's minutes"): float(
            np.percentile(rates, PERCENTILE)
        ),
    }


def draw_rates(
    published: Published, pages: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return accesses per minute to every page of a job of the fleet."""
    constants = published.constants
    median = constants["median_per_min"] * np.exp(
        constants["spread"] * rng.standard_normal()
    )
    rate: NDArray[np.float64] = median * np.exp(
        constants["sigma"] * rng.standard_normal(pages)
    )
    rate[rng.random(pages) < constants["idle"]] = 0.0
    return rate


def _job(published: Published, rng: np.random.Generator) -> Job:
    rate = draw_rates(published, PAGES, rng)
    return Job(rate, np.zeros(PAGES, np.int64), np.zeros(PAGES, np.bool_))
