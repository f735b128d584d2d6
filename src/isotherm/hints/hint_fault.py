"""Hint faults: poisoned entries, and how long it took until somebody came."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import FaultDelays, HintBatch, Look, Mechanism
from isotherm.hints.capability import Capability


class FaultColumns(Protocol):
    """Hint faults in order, as columns; see `FaultDelays`."""

    @property
    def page(self) -> NDArray[np.uint32]:
        """Flat pages."""
        ...

    @property
    def delay_s(self) -> NDArray[np.float32]:
        """Seconds since the page was poisoned."""
        ...

    @property
    def exposure_s(self) -> NDArray[np.float32]:
        """Seconds since it was poisoned or last reported silent."""
        ...

    @property
    def write(self) -> NDArray[np.uint8]:
        """1 for a write."""
        ...

    @property
    def initiator(self) -> NDArray[np.uint8]:
        """Initiator, 255 unknown."""
        ...


class PoisonedTable(Protocol):
    """What a hint-fault driver needs of a machine."""

    def now_ns(self) -> int:
        """Return the machine's time."""
        ...

    def poison(
        self, start_page: int, end_page: int, node: int | None
    ) -> tuple[int, NDArray[np.uint32], NDArray[np.float32]]:
        """Poison the entries of a range.

        Returns:
            Entries walked; pages that were still poisoned from before, and for
            how many seconds without a touch since they were last reported.
        """
        ...

    def drain_faults(self) -> FaultColumns:
        """Return the faults since the last call."""
        ...


class HintFaultSource:
    """Poisons where it is told to look and reports the faults.

    Args:
        machine: The page table.
        fault_ns: Time of one fault, paid by the application.
        entry_ns: Time to poison an entry; the kernel does it in the task's own
            context (task_numa_work, kernel/sched/fair.c), so the application
            pays for that too.
    """

    mechanism = Mechanism.HINT_FAULT
    capability = Capability(knows_initiator=True)

    def __init__(
        self, machine: PoisonedTable, fault_ns: float, entry_ns: float
    ) -> None:
        self._machine = machine
        self._fault_ns = fault_ns
        self._entry_ns = entry_ns
        self._start_ns = machine.now_ns()
        self._walked = 0
        self._silent: list[NDArray[np.uint32]] = []
        self._silent_s: list[NDArray[np.float32]] = []

    def look(self, looks: tuple[Look, ...]) -> None:
        """Poison the ranges asked for."""
        for look in looks:
            if look.mechanism is Mechanism.HINT_FAULT:
                walked, silent, silent_s = self._machine.poison(
                    look.start_page, look.end_page, look.node
                )
                self._walked += walked
                self._silent.append(silent)
                self._silent_s.append(silent_s)

    def drain(self) -> tuple[HintBatch, ...]:
        """Return one batch."""
        got = self._machine.drain_faults()
        cost_ns = len(got.page) * self._fault_ns + self._walked * self._entry_ns
        start_ns, self._start_ns = self._start_ns, self._machine.now_ns()
        seen = FaultDelays(
            got.page,
            got.delay_s,
            got.write,
            got.initiator,
            np.concatenate([np.empty(0, np.uint32), *self._silent]),
            np.concatenate([np.empty(0, np.float32), *self._silent_s]),
            got.exposure_s,
        )
        self._walked = 0
        self._silent, self._silent_s = [], []
        return (
            HintBatch(
                "hint-fault",
                start_ns,
                self._start_ns,
                seen,
                application_ns=cost_ns,
                capability=self.capability,
            ),
        )
