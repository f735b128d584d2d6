"""The rate of a cell, learnt out of sample.

What a cell's pages do in the epoch after they were put there is compared with
what the estimator had promised. A Poisson regression with few weights maps
(history, own rate, region rate) to the true rate: a free value per cell would
be noise where memory is flat, a formula alone would trust every source alike.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.cells import CELLS, HISTORY_LEVELS, features

DECAY = 0.985  # per epoch of 0.5 s: half of the evidence is 23 s old
RIDGE = 4.0
#: Before any evidence: history levels, own rate, region rate (policy study, step 9).
PRIOR = np.array([-0.2, 0.0, 0.1, 0.3, 0.5, 0.3])
STEP_LIMIT = 0.3  # of a weight in one Newton step
NEWTON_STEPS = 2

Floats = NDArray[np.float64]


class CellRates:
    """Counts per cell, and the regression over them."""

    def __init__(self) -> None:
        self._z = features()
        self.weights = PRIOR.copy()
        self._accesses = np.zeros(CELLS)
        self._exposure = np.zeros(CELLS)

    def forget(self) -> None:
        """Decay by one epoch."""
        self._accesses *= DECAY
        self._exposure *= DECAY

    def add_samples(
        self, cell: NDArray[np.uint16], population: Floats, exposure_s: float
    ) -> None:
        """Add samples by the cell that their page was in before.

        Args:
            cell: Cell of every sample.
            population: Pages per cell in that epoch.
            exposure_s: Seconds of exposure per page: epoch over period.
        """
        self._accesses += np.bincount(cell, minlength=CELLS)
        self._exposure += population * exposure_s

    def add_bits(
        self,
        cell: NDArray[np.uint16],
        bit: NDArray[np.bool_],
        interval_s: float,
        weight: float = 1.0,
    ) -> None:
        """Add accessed bits as a Poisson stream seen through them would give.

        The share q of set bits means ``x = -ln(1 - q)`` accesses per page; its
        information about x is that of ``x e^-x / (1 - e^-x)`` counted ones.
        """
        looked = np.bincount(cell, minlength=CELLS).astype(np.float64)
        found = np.bincount(cell, weights=bit, minlength=CELLS)
        q = np.minimum(found / np.maximum(looked, 1.0), 0.98)
        x = -np.log1p(-q)
        seen = np.where(x > 1e-3, x * np.exp(-x) / np.maximum(q, 1e-9), 1.0)
        self._accesses += x * looked * seen * weight
        self._exposure += looked * interval_s * seen * weight

    def fit(self, mean_rate: float) -> Floats:
        """Return the rate of every cell, float64[CELLS], accesses per page per s."""
        z = self._z
        log_mean = np.log(mean_rate)
        ridge = RIDGE * np.eye(HISTORY_LEVELS + 2)
        for _ in range(NEWTON_STEPS):
            expected = self._exposure * np.exp(
                np.clip(z @ self.weights, -12.0, 12.0) + log_mean
            )
            gradient = z.T @ (self._accesses - expected)
            gradient -= ridge @ (self.weights - PRIOR)
            hessian = (z.T * expected) @ z + ridge
            step = np.linalg.solve(hessian, gradient)
            self.weights = self.weights + np.clip(step, -STEP_LIMIT, STEP_LIMIT)
        rate: Floats = np.exp(np.clip(z @ self.weights, -12.0, 12.0) + log_mean)
        return rate
