"""What a simulated epoch, and a simulation, took."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class EpochCosts:
    """What one epoch took, in nanoseconds of the application's memory time.

    Attributes:
        accesses: int64[initiators, 2, 8]: [initiator, is write, node].
        access_ns: Stall: latency of all accesses over their parallelism.
        all_fast_ns: The same with everything on the fastest tier.
    """

    accesses: NDArray[np.int64]
    access_ns: float = 0.0
    all_fast_ns: float = 0.0


@dataclass(slots=True)
class Bill:
    """Costs since the start, told apart by who pays."""

    access_ns: float = 0.0
    all_fast_ns: float = 0.0
    migration_ns: float = 0.0
    application_ns: float = 0.0
    background_ns: float = 0.0
    accesses: int = 0
    fast_accesses: int = 0
    #: Made by another initiator than the one that the node is nearest to.
    remote_accesses: int = 0
    births: int = 0
    fast_births: int = 0
