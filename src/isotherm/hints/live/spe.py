"""Arm's statistical profiling: operations drawn by the core, written to an AUX area.

A record tells virtual and physical address, latency and events of a load or store
(`isotherm.records.spe`). The process is known only where the kernel keeps it in
CONTEXTIDR (CONFIG_PID_IN_CONTEXTIDR); else the physical address finds the page. Source
of the settings: drivers/perf/arm_spe_pmu.c.
"""

import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core.availability import Availability
from isotherm.core.clock import Clock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import HintBatch, Look, Mechanism, Samples
from isotherm.hints.capability import Capability
from isotherm.hints.live.frame_map import FrameMap
from isotherm.hints.live.perf_event import EventSpec
from isotherm.hints.live.perf_event_cpu import CpuEvents, refusal, try_event
from isotherm.hints.live.perf_event_nodes import read_physical_nodes
from isotherm.hints.live.perf_event_period import PeriodControl
from isotherm.hints.live.perf_event_pmu import Pmu, cycles_per_ns, pmu_names, read_pmu
from isotherm.hints.live.perf_event_samples import (
    NO_PID,
    Accesses,
    Translator,
    only_memory,
)
from isotherm.machine.linux.spaces import SpaceMap
from isotherm.records.perf_fields import Field
from isotherm.records.perf_ring import RingRecords
from isotherm.records.spe import (
    Column,
    Present,
    SpeRecords,
    decode_spe,
    where_of_source,
)
from isotherm.topology.model import Topology

NAME: Final = "spe"
#: Operations a sample to begin with.
PERIOD: Final = 65536
LEAST_PERIOD: Final = 1024
MOST_PERIOD: Final = 0xFFFF_FF00  # PMSIRR_EL1.INTERVAL: bits 31 to 8
MULTIPLE: Final = 256
#: Cycles below which nothing came from memory.
LATENCY_CYCLES: Final = 96
#: Time that a record takes from the application: the core writes it by itself, 64
#: bytes of memory traffic. Assumed, not measured on hardware.
RECORD_NS: Final = 100.0
#: 1 MiB a CPU: 16000 records.
AUX_PAGES: Final = 256
#: The kernel shows what the core wrote after so many bytes: records that took long
#: are few, and half an area of them would be minutes old.
WATERMARK: Final = mmap.PAGESIZE
RECORD_BYTES: Final = 64
#: A record that is not whole after this is none (PMSIDR_EL1.MaxSize: 2 KiB).
_MOST_RECORD: Final = 2048
#: Part numbers of cores that share one table of data sources (MIDR_EL1).
_COMMON_PARTS: Final = frozenset({0xD0C, 0xD40, 0xD49, 0xD4F, 0xD8E, 0xD84})
_MIDR: Final = Path("sys/devices/system/cpu/cpu0/regs/identification/midr_el1")


class SpeSampler(Protocol):
    """Events with AUX areas: `CpuEvents`, or what stands in for them."""

    spec: EventSpec

    def open(self) -> None:
        """Begin."""
        ...

    def drain(self) -> list[RingRecords]:
        """Return what came beside the samples."""
        ...

    def drain_aux(self) -> dict[int, tuple[NDArray[np.uint8], int]]:
        """Return bytes of each CPU, and where in its area they began."""
        ...

    def set_period(self, period: int) -> bool:
        """Change the operations per sample."""
        ...

    def close(self) -> None:
        """Stop; may be called again."""
        ...


def find_pmu(root: Path = Path("/")) -> Pmu | None:
    """Return the first PMU of this kind; None if there is none."""
    names = (name for name in pmu_names(root) if name.startswith("arm_spe_"))
    return next((pmu for name in names if (pmu := read_pmu(name, root))), None)


def event_of(pmu: Pmu, period: int = PERIOD) -> EventSpec:
    """Return the event: loads and stores, with time and physical address.

    Raises:
        UnsupportedError: The PMU has not the terms for that.
    """
    terms = {"load_filter": 1, "store_filter": 1}
    wishes = {"ts_enable": 1, "pa_enable": 1, "jitter": 1}
    wishes["min_latency"] = LATENCY_CYCLES
    terms |= {name: value for name, value in wishes.items() if name in pmu.formats}
    try:
        config, config1, config2, config3 = pmu.encode(**terms)
    except KeyError as error:
        raise UnsupportedError(f"{pmu.name}/format: no {error}") from error
    return EventSpec(
        pmu.type,
        config,
        Field.TID | Field.TIME | Field.CPU,
        period=period,
        config1=config1,
        config2=config2,
        config3=config3,
        inherit=False,
        aux_watermark=WATERMARK,
    )


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What the rings held that was sampled with one period.

    Attributes:
        period: Operations a sample.
        areas: Bytes of each CPU's AUX area, and where in it they began.
        beside: What came beside them.
    """

    period: int
    areas: dict[int, tuple[NDArray[np.uint8], int]]
    beside: list[RingRecords]

    @property
    def damaged(self) -> int:
        return sum(r.aux_damaged for r in self.beside)

    @property
    def throttled(self) -> bool:
        return any(r.throttled for r in self.beside)

    @property
    def is_empty(self) -> bool:
        missing = sum(r.missing for r in self.beside)
        return not (missing or self.damaged or self.throttled) and not any(
            len(data) for data, _ in self.areas.values()
        )


def accesses_of(records: SpeRecords, cpu: int, *, common: bool) -> Accesses:
    """Return the records of one CPU as accesses; the process is the context."""
    known = records.has(Present.CONTEXT)
    context = records.column(Column.CONTEXT).astype(np.int32)
    return Accesses(
        np.where(known & (context > 0), context, NO_PID).astype(np.int32),
        records.column(Column.VIRTUAL),
        records.column(Column.PHYSICAL),
        np.full(len(records), cpu, np.int32),
        records.is_store,
        records.column(Column.TOTAL).astype(np.uint32),
        where_of_source(records, common=common),
    )


class SpeSource:
    """Samples of loads and stores that took as long as memory takes.

    Args:
        spaces: Which flat page is whose.
        clock: The machine's, CLOCK_MONOTONIC.
        budget: CPU time that sampling may take, of one CPU.
        frames: Which flat page is on a frame; None: records without a process are
            lost.
        initiator_of_cpu: Initiator of every CPU, uint8; None: unknown.
        period: Operations a sample to begin with.
        root: Root of the host's files.
        make: Makes the events; None: `CpuEvents` with AUX areas.
    """

    mechanism: Final = Mechanism.SAMPLING

    def __init__(
        self,
        spaces: SpaceMap,
        clock: Clock,
        *,
        budget: float = 0.02,
        frames: FrameMap | None = None,
        initiator_of_cpu: NDArray[np.uint8] | None = None,
        period: int = PERIOD,
        root: Path = Path("/"),
        make: Callable[[EventSpec, tuple[int, ...] | None], SpeSampler] = (
            lambda event, cpus: CpuEvents(event, cpus, aux_pages=AUX_PAGES)
        ),
    ) -> None:
        self._root = root
        pmu = find_pmu(root)
        if pmu is None:
            raise UnsupportedError(self.probe(root).why)
        speed = cycles_per_ns(root)
        self.capability = Capability(
            post_cache=True,
            knows_initiator=initiator_of_cpu is not None,
            knows_latency=speed is not None,
        )
        hardware = int(pmu.caps.get("min_interval", "0") or "0")
        least = max(LEAST_PERIOD, hardware)
        self.control = PeriodControl(period, least, MOST_PERIOD, MULTIPLE, budget)
        self._sampler = make(event_of(pmu, self.control.period), pmu.cpus)
        self._common = read_part(root) in _COMMON_PARTS
        self._clock = clock
        self._proc = root / "proc"
        self._owners: dict[int, int] = {}
        self.translate = Translator(
            spaces,
            read_physical_nodes(root),
            frames=frames,
            initiator_of_cpu=initiator_of_cpu,
            cycles_per_ns=speed,
            owner=self._owner,
        )
        self._carry: dict[int, NDArray[np.uint8]] = {}
        self._in_force = self.control.period
        self._flushed: list[_Stretch] = []
        self._start_ns = 0
        self._is_open = False
        #: Records of what no memory answered; times that an area was cut short.
        self.filtered = self.damaged = 0

    @staticmethod
    def probe(root: Path = Path("/")) -> Availability:
        """Say whether SPE is there and may be used."""
        pmu = find_pmu(root)
        if pmu is None:
            why = "/sys/bus/event_source/devices: no arm_spe_*: no Arm SPE"
            return Availability(NAME, "source", present=False, why=why)
        try:
            event = event_of(pmu)
        except UnsupportedError as error:
            return Availability(NAME, "source", present=False, why=error.message)
        return try_event(NAME, event, pmu.name)

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
            raise refusal(NAME, error) from error
        self._start_ns = self._clock.now_ns()
        self._is_open = True

    def close(self) -> None:
        """Stop; may be called again."""
        self._sampler.close()
        self._carry, self._flushed = {}, []
        self._is_open = False

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self, looks: tuple[Look, ...]) -> None:
        """Sample as rarely as a look says, or rarer."""
        for look in looks:
            if look.mechanism is not Mechanism.SAMPLING or look.period is None:
                continue
            if self.control.ask(look.period):
                self._retune()

    def drain(self) -> tuple[HintBatch, ...]:
        """Return the samples since the last drain, a batch for each period."""
        if not self._is_open:
            return ()
        began = time.thread_time_ns()
        self._owners.clear()  # numbers of threads are given out again
        stretches, self._flushed = [*self._flushed, self._take()], []
        held = [one for one in stretches if not one.is_empty] or stretches[-1:]
        self.translate.refresh()
        read = [self._samples_of(one) for one in held]
        start_ns, self._start_ns = self._start_ns, self._clock.now_ns()
        application_ns = [count * RECORD_NS for _, _, count in read]
        background_ns = float(time.thread_time_ns() - began)
        spent_ns = sum(application_ns) + background_ns
        elapsed_ns = self._start_ns - start_ns
        rarer = any(one.throttled or one.damaged for one in held)
        if self.control.after(spent_ns, elapsed_ns, throttled=rarer):
            self._retune()
        return tuple(
            HintBatch(
                NAME,
                start_ns,
                self._start_ns,
                seen,
                lost=lost,
                application_ns=cost_ns,
                background_ns=background_ns / len(read),
                capability=self.capability,
            )
            for (seen, lost, _), cost_ns in zip(read, application_ns, strict=True)
        )

    def _take(self) -> _Stretch:
        areas = self._sampler.drain_aux()  # before the records that speak of them
        return _Stretch(self._in_force, areas, self._sampler.drain())

    def _retune(self) -> None:
        """Change the period, and keep what was sampled with the one before.

        The kernel stops the event for that and so shows what the core has written
        (__perf_event_period(), kernel/events/core.c). Records carry no period.
        """
        if not self._sampler.set_period(self.control.period):
            return
        if self._is_open:
            before = self._take()
            if not before.is_empty:
                self._flushed.append(before)
        self._in_force = self.control.period

    def _samples_of(self, stretch: _Stretch) -> tuple[Samples, int, int]:
        """Return samples, how many were lost or unknown, and how many were taken."""
        parts, times, lost = [], [], 0
        for cpu, (data, at) in stretch.areas.items():
            records, broken = self._decode(cpu, data, at)
            lost += -(-broken // RECORD_BYTES)
            accesses = accesses_of(records, cpu, common=self._common)
            kept = only_memory(accesses.where)
            self.filtered += int(len(kept) - kept.sum())
            parts.append(accesses.rows(kept))
            times.append(records.column(Column.TIME)[kept])
        if stretch.damaged:  # what is cut off there goes on nowhere
            lost += len(self._carry)
            self._carry = {}
        self.damaged += stretch.damaged
        lost += stretch.damaged + sum(r.missing for r in stretch.beside)
        accesses = Accesses.joined(parts, times)
        total = len(accesses)
        period = float(stretch.period)
        corrected = period * (total + lost) / total if total else period
        seen, unknown = self.translate.samples(accesses, corrected)
        return seen, lost + unknown, total + lost

    def _decode(
        self, cpu: int, data: NDArray[np.uint8], at: int
    ) -> tuple[SpeRecords, int]:
        """Return the records of a CPU, and the bytes that were none."""
        held = self._carry.pop(cpu, data[:0])
        records = decode_spe(np.concatenate([held, data]), max(0, at - len(held)))
        rest = len(held) + len(data) - records.used
        if records.broken_bytes or rest > _MOST_RECORD:
            return records, max(records.broken_bytes, rest)
        if rest:
            self._carry[cpu] = np.concatenate([held, data])[records.used :]
        return records, 0

    def _owner(self, tid: int) -> int:
        """Return the process of a thread; NO_PID if it is gone."""
        found = self._owners.get(tid)
        if found is not None:
            return found
        owner = NO_PID
        try:
            for line in (self._proc / str(tid) / "status").read_text().splitlines():
                if line.startswith("Tgid:"):
                    owner = int(line.split()[1])
                    break
        except (OSError, ValueError, IndexError):
            pass
        self._owners[tid] = owner
        return owner


def read_part(root: Path = Path("/")) -> int | None:
    """Return the part number of the first core (MIDR_EL1, bits 4 to 15), if told."""
    try:
        return int((root / _MIDR).read_text(), 16) >> 4 & 0xFFF
    except (OSError, ValueError):
        return None
