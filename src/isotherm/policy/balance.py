"""Balancing tiers by their loaded latency: how far to go in one epoch.

Where the upper tier of a boundary is the busy one, accesses take longer there than
below, and pages leave it. Both latencies follow from how many do; what is measured
is an epoch old. So steps are small, half as long whenever the sign of what an access
saves turns, and longer as long as it stays (as the step lengths of resilient
propagation, Riedmiller and Braun 1993).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

FIRST_STEP: Final = 0.1  # of the accesses of both tiers
LEAST_STEP: Final = 0.002
SHORTER: Final = 0.5
LONGER: Final = 1.3

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Balance:
    """The step of one boundary; none until its upper tier has been the slower one."""

    def __init__(self) -> None:
        self._step: float | None = None
        self._saves = True

    @property
    def step(self) -> float | None:
        """Share of the accesses that may change tiers in an epoch; None: any."""
        return self._step

    def follow(self, saved_ns: float) -> None:
        """Take note of what an access saves in the upper tier; negative: it loses."""
        saves = saved_ns >= 0
        if self._step is None:
            self._step = None if saves else FIRST_STEP
        elif saves != self._saves:
            self._step = max(LEAST_STEP, SHORTER * self._step)
        else:
            self._step *= LONGER
            if self._step > 1.0 and saves:  # the load has gone
                self._step = None
            elif self._step > 1.0:
                self._step = 1.0
        self._saves = saves

    def within(
        self, up: Ints, down: Ints, rate: Floats, accesses: float
    ) -> tuple[Ints, Ints]:
        """Return as many pages of each cell as the step allows, hottest first.

        Args:
            up: Pages of each cell that go up, int64[CELLS].
            down: Pages that go down.
            rate: Of every cell.
            accesses: Of both tiers, a second.
        """
        if self._step is None:
            return up, down
        most = self._step * accesses
        return _hottest(up, rate, most), _hottest(down, rate, most)


def _hottest(count: Ints, rate: Floats, most: float) -> Ints:
    """Return as many pages of the hottest cells as get so many accesses together."""
    order = np.argsort(-rate, kind="stable")
    work = np.cumsum(count[order] * rate[order])
    before = np.concatenate([[0.0], work[:-1]])
    fits = np.maximum(0.0, most - before) / np.maximum(rate[order], 1e-9)
    kept = np.zeros_like(count)
    kept[order] = np.minimum(count[order], np.ceil(fits)).astype(np.int64)
    return kept
