"""What IBS and PEBS have in common: one event a CPU, drained once an epoch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core.clock import Clock
from isotherm.hints.batch import HintBatch, Look, Mechanism
from isotherm.hints.capability import Capability
from isotherm.hints.live.frame_map import FrameMap
from isotherm.hints.live.perf_event_cpu import mean_period, refusal
from isotherm.hints.live.perf_event_nodes import read_physical_nodes
from isotherm.hints.live.perf_event_period import SAMPLE_NS, PeriodControl
from isotherm.hints.live.perf_event_samples import Accesses, Translator
from isotherm.records.data_source import DataSource, where_of
from isotherm.records.perf_fields import Field
from isotherm.records.perf_ring import RingRecords
from isotherm.topology.model import Topology

#: What every sample holds.
FIELDS: Final = (
    Field.IP
    | Field.TID
    | Field.TIME
    | Field.ADDR
    | Field.CPU
    | Field.PERIOD
    | Field.WEIGHT_STRUCT
    | Field.DATA_SRC
    | Field.PHYS_ADDR
)


class Sampler(Protocol):
    """Events that give records: `CpuEvents`, or what stands in for them."""

    def open(self) -> None:
        """Begin."""
        ...

    def drain(self) -> list[RingRecords]:
        """Return what came since the last call."""
        ...

    def set_period(self, period: int) -> bool:
        """Change the events per sample; return False where that cannot be."""
        ...

    def close(self) -> None:
        """Stop; may be called again."""
        ...


#: Says which samples are accesses to memory.
Keep = Callable[[Accesses, DataSource], NDArray[np.bool_]]


def accesses_of(records: RingRecords) -> tuple[Accesses, DataSource]:
    """Return samples of `FIELDS` as accesses, and their data sources."""
    word = records.column(Field.DATA_SRC)
    source = DataSource.of(word)
    accesses = Accesses(
        records.pid,
        records.column(Field.ADDR),
        records.column(Field.PHYS_ADDR),
        records.cpu,
        source.is_store,
        records.weight.astype(np.uint32),
        where_of(word),
        records.tid,
    )
    return accesses, source


class MemorySampling:
    """A source that drains a sampler: filters, translates, keeps to the budget.

    Args:
        name: Of the source.
        sampler: The events.
        keep: Which samples are accesses to memory.
        translate: Finds pages and nodes.
        control: The period.
        clock: The machine's.
        capability: What the source sees.
        root: Root of the host's files.
        sample_ns: Time that a sample takes from the application.
    """

    mechanism: Final = Mechanism.SAMPLING

    def __init__(
        self,
        name: str,
        sampler: Sampler,
        keep: Keep,
        translate: Translator,
        control: PeriodControl,
        clock: Clock,
        capability: Capability,
        root: Path = Path("/"),
        sample_ns: float = SAMPLE_NS,
    ) -> None:
        self.name = name
        self.capability = capability
        self.translate = translate
        self.control = control
        self._sampler = sampler
        self._keep = keep
        self._clock = clock
        self._root = root
        self._sample_ns = sample_ns
        self._start_ns = 0
        self._is_open = False
        #: Samples that were no access to memory; times that the kernel throttled.
        self.filtered = self.throttled = 0

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def frames(self) -> FrameMap | None:
        """The map of frames; None where there is none."""
        return self.translate.frames

    def take_tiers(self, topology: Topology) -> None:
        """Learn which memory has come and gone."""
        self.translate.take_nodes(read_physical_nodes(self._root))

    def open(self) -> None:
        """Begin to sample every CPU.

        Raises:
            NotPermittedError: Events of every process may not be opened.
            UnsupportedError: The kernel refuses for another reason.
        """
        try:
            self._sampler.open()
        except OSError as error:
            raise refusal(self.name, error) from error
        self._start_ns = self._clock.now_ns()
        self._is_open = True

    def close(self) -> None:
        """Stop; may be called again."""
        self._sampler.close()
        self._is_open = False

    def look(self, looks: tuple[Look, ...]) -> None:
        """Take the period that a look names, as far as the budget allows."""
        for look in looks:
            if look.mechanism is not Mechanism.SAMPLING or look.period is None:
                continue
            if self.control.ask(look.period):
                self._retune()

    def drain(self) -> tuple[HintBatch, ...]:
        """Return the samples since the last drain, in one batch."""
        if not self._is_open:
            return ()
        began = time.thread_time_ns()
        found = self._sampler.drain()
        total = sum(map(len, found))
        missing = sum(r.missing for r in found)
        throttled = sum(r.throttled for r in found)
        self.throttled += throttled
        parts, times = [], []
        for records in found:
            accesses, source = accesses_of(records)
            kept = self._keep(accesses, source)
            self.filtered += int(len(kept) - kept.sum())
            parts.append(accesses.rows(kept))
            times.append(records.column(Field.TIME)[kept])
        accesses = Accesses.joined(parts, times)
        self.translate.refresh()
        period = mean_period(found, float(self.control.period))
        # What was dropped would have been like what was kept.
        period *= (total + missing) / total if total else 1.0
        seen, unknown = self.translate.samples(accesses, period)
        start_ns, self._start_ns = self._start_ns, self._clock.now_ns()
        application_ns = (total + missing) * self._sample_ns
        background_ns = float(time.thread_time_ns() - began)
        if self.control.after(
            application_ns + background_ns,
            self._start_ns - start_ns,
            throttled=throttled > 0,
        ):
            self._retune()
        return (
            HintBatch(
                self.name,
                start_ns,
                self._start_ns,
                seen,
                lost=missing + unknown,
                application_ns=application_ns,
                background_ns=background_ns,
                capability=self.capability,
            ),
        )

    def _retune(self) -> None:
        """Sample with the control's period; the old one stays where it is refused."""
        self._sampler.set_period(self.control.period)
