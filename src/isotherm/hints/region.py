"""Region sampling: what DAMON reports, one batch per aggregation."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import HintBatch, Look, Mechanism, RegionCounts
from isotherm.hints.capability import Capability

Column = NDArray[np.uint32]


class RegionMonitor(Protocol):
    """What a region driver needs of a machine."""

    def now_ns(self) -> int:
        """Return the machine's time."""
        ...

    def arm_regions(self) -> None:
        """Monitor the next epoch."""
        ...

    def drain_regions(
        self,
    ) -> tuple[Sequence[tuple[Column, Column, Column, Column]], int]:
        """Return snapshots since the last call and the entries looked at.

        A snapshot is start, end, nr_accesses and age, uint32 columns.
        """
        ...

    @property
    def checks(self) -> int:
        """Checks per aggregation."""
        ...

    @property
    def check_ns(self) -> int:
        """Sampling interval."""
        ...


class RegionSource:
    """Hands on the monitor's aggregations.

    Args:
        machine: The monitor.
        entry_ns: Time to read and clear one entry, on kdamond's CPU.
    """

    mechanism = Mechanism.REGION
    capability = Capability(unit_pages=0)

    def __init__(self, machine: RegionMonitor, entry_ns: float) -> None:
        self._machine = machine
        self._entry_ns = entry_ns
        self._start_ns = machine.now_ns()
        self._entries = 0  # looked at, and not yet charged to a batch

    def look(self, looks: tuple[Look, ...]) -> None:
        """Keep monitoring; DAMON chooses where to look by itself."""
        self._machine.arm_regions()

    def drain(self) -> tuple[HintBatch, ...]:
        """Return one batch per aggregation; the first carries the cost.

        Without an aggregation there is no batch: the next one carries the cost,
        and begins where the last one ended.
        """
        snapshots, entries = self._machine.drain_regions()
        self._entries += entries
        if not snapshots:
            return ()
        cost_ns, self._entries = self._entries * self._entry_ns, 0
        start_ns, self._start_ns = self._start_ns, self._machine.now_ns()
        return tuple(
            HintBatch(
                "region",
                start_ns,
                self._start_ns,
                RegionCounts(
                    *columns, self._machine.checks, self._machine.check_ns / 1e9
                ),
                background_ns=cost_ns if i == 0 else 0.0,
                capability=self.capability,
            )
            for i, columns in enumerate(snapshots)
        )
