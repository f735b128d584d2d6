"""A simulated kdamond: adaptive regions, one random page a check.

Steps and defaults of mm/damon/core.c: sample 5 ms, aggregate 100 ms, 10 to 1000
regions; merge neighbours whose counts differ by at most a tenth of the maximum,
split each region in two at random while there is room.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.sim.play import REGION_ACCESSED

SAMPLE_NS = 5_000_000
CHECKS = 20  # per aggregation of 100 ms
MIN_REGIONS = 10
MAX_REGIONS = 1000


class Aggregation(NamedTuple):
    """Regions at the end of an aggregation, uint32 columns."""

    start: NDArray[np.uint32]
    end: NDArray[np.uint32]
    nr_accesses: NDArray[np.uint32]  #: checks that found a bit, of ``CHECKS``
    age: NDArray[np.uint32]  #: aggregations for which it has been stable


class RegionSampler:
    """kdamond over one range of pages.

    Args:
        flags: The machine's page flags.
        pages: Length of the range.
        seed: For the picks and splits.
        max_regions: At most so many regions.
    """

    def __init__(
        self,
        flags: NDArray[np.uint8],
        pages: int,
        seed: int,
        max_regions: int = MAX_REGIONS,
    ) -> None:
        self._flags = flags
        self._pages = pages
        self._rng = np.random.default_rng([seed, 0xDA])
        self._max = max_regions
        count = min(MIN_REGIONS, pages)
        self.start = (np.arange(count) * pages // count).astype(np.int64)
        self.nr = np.zeros(count, np.int64)
        self.last = np.zeros(count, np.int64)
        self.age = np.zeros(count, np.int64)
        self._pick: NDArray[np.int64] | None = None
        self._done = 0
        self.snapshots: list[Aggregation] = []
        self.entries = 0

    @property
    def end(self) -> NDArray[np.int64]:
        """One past the last page of each region."""
        return np.append(self.start[1:], self._pages)

    def check(self) -> None:
        """Look whether the picks of the last check were touched; pick anew."""
        if self._pick is not None:
            self.nr += (self._flags[self._pick] & REGION_ACCESSED) != 0
            self._done += 1
            if self._done == CHECKS:
                self._aggregate()
        span = self.end - self.start
        self._pick = self.start + (self._rng.random(len(span)) * span).astype(np.int64)
        self._flags[self._pick] &= np.uint8(0xFF ^ REGION_ACCESSED)
        self.entries += 2 * len(self._pick)

    def _aggregate(self) -> None:
        limit = max(1, CHECKS // 10)
        stable = np.abs(self.nr - self.last) <= limit
        self.age = np.where(stable, self.age + 1, 0)
        self._merge(limit)
        self.snapshots.append(
            Aggregation(
                self.start.astype(np.uint32),
                self.end.astype(np.uint32),
                self.nr.astype(np.uint32),
                self.age.astype(np.uint32),
            )
        )
        self._split()
        self.last = self.nr
        self.nr = np.zeros_like(self.nr)
        self._done = 0

    def _merge(self, limit: int) -> None:
        """Merge neighbours that look alike (damon_merge_regions_of)."""
        most = max(1, self._pages // MIN_REGIONS)
        size = self.end - self.start
        keep = [0]
        nr = [float(self.nr[0])]
        length = [int(size[0])]
        age = [float(self.age[0])]
        for i in range(1, len(self.start)):
            n, s = float(self.nr[i]), int(size[i])
            if abs(n - nr[-1]) <= limit and length[-1] + s <= most:
                both = length[-1] + s
                nr[-1] = (nr[-1] * length[-1] + n * s) / both
                age[-1] = (age[-1] * length[-1] + float(self.age[i]) * s) / both
                length[-1] = both
            else:
                keep.append(i)
                nr.append(n)
                length.append(s)
                age.append(float(self.age[i]))
        self.start = self.start[keep]
        self.nr = np.array(nr).astype(np.int64)
        self.age = np.array(age).astype(np.int64)

    def _split(self) -> None:
        """Split each region in two at random (kdamond_split_regions)."""
        if 2 * len(self.start) > self._max:
            return
        size = self.end - self.start
        cut = (
            self.start + 1 + (self._rng.random(len(size)) * (size - 1)).astype(np.int64)
        )
        wide = size >= 2
        order = np.argsort(np.concatenate([self.start, cut[wide]]), kind="stable")
        self.start = np.concatenate([self.start, cut[wide]])[order]
        self.nr = np.concatenate([self.nr, self.nr[wide]])[order]
        self.age = np.concatenate([self.age, self.age[wide]])[order]
