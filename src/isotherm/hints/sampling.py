"""Sampling: every period-th access, as PEBS, IBS and SPE report it."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import HintBatch, Look, Mechanism, Samples
from isotherm.hints.capability import Capability


class SampleColumns(Protocol):
    """Samples as columns, with the period that they stand for and the losses."""

    @property
    def page(self) -> NDArray[np.uint32]:
        """Flat pages."""
        ...

    @property
    def write(self) -> NDArray[np.uint8]:
        """1 for a write."""
        ...

    @property
    def initiator(self) -> NDArray[np.uint8]:
        """Initiator, 255 unknown."""
        ...

    @property
    def period(self) -> float:
        """Accesses per sample."""
        ...

    @property
    def lost(self) -> int:
        """Samples dropped."""
        ...

    @property
    def latency_ns(self) -> NDArray[np.float32] | None:
        """How long each took; None if untold."""
        ...

    @property
    def stall_ns(self) -> NDArray[np.float32] | None:
        """For how much of that its processor waited for it; None if untold."""
        ...

    @property
    def stream(self) -> NDArray[np.uint8] | None:
        """Which stream or thread accessed; None if untold."""
        ...


class SamplingMachine(Protocol):
    """What a sampling driver needs of a machine."""

    def now_ns(self) -> int:
        """Return the machine's time."""
        ...

    def drain_samples(self) -> SampleColumns:
        """Return the samples since the last call."""
        ...

    def set_period(self, period: int) -> None:
        """Take one sample in ``period`` accesses from now on."""
        ...


class SamplingSource:
    """Drains a sampler once an epoch.

    Args:
        machine: The sampler.
        sample_ns: Time that one sample takes from the application: the
            interrupt or microcode assist, and its share of the drain.
    """

    mechanism = Mechanism.SAMPLING
    capability = Capability(knows_initiator=True, knows_latency=True)

    def __init__(self, machine: SamplingMachine, sample_ns: float) -> None:
        self._machine = machine
        self._sample_ns = sample_ns
        self._start_ns = machine.now_ns()

    def look(self, looks: tuple[Look, ...]) -> None:
        """Change the period where a look names one."""
        for look in looks:
            if look.mechanism is Mechanism.SAMPLING and look.period is not None:
                self._machine.set_period(look.period)

    def drain(self) -> tuple[HintBatch, ...]:
        """Return one batch."""
        got = self._machine.drain_samples()
        seen = Samples(
            got.page,
            got.write,
            got.initiator,
            got.period,
            got.latency_ns,
            got.stall_ns,
            None if got.stream is None else got.stream.astype(np.int64),
        )
        start_ns, self._start_ns = self._start_ns, self._machine.now_ns()
        cost_ns = (len(got.page) + got.lost) * self._sample_ns
        return (
            HintBatch(
                "sampling",
                start_ns,
                self._start_ns,
                seen,
                got.lost,
                application_ns=cost_ns,
                capability=self.capability,
            ),
        )
