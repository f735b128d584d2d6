"""One run of an experiment: a closed loop, and what its last part was like.

The simulator's loop is open: accesses do not wait for memory. A benchmark's threads
do: each keeps so many accesses in flight and goes on when one comes back. Here the
accesses of an epoch follow from the latency of the one before (`ClosedLoop`), so
that throughput is what comes out.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.machine.sim.spec import MachineSpec
from isotherm.observability.recorder import Recorder
from isotherm.trace.stream import AccessChunk, AccessStream, Pace, Workload

Sample = Mapping[str, Any]
_COLUMNS: Final = "page", "write", "stream"


class Watch(Recorder):
    """Keeps a few figures of every epoch, and tells a closed loop its latency."""

    def __init__(self, loop: "ClosedLoop | None" = None) -> None:
        super().__init__()
        self._loop = loop
        self.samples: list[dict[str, Any]] = []

    def start(self, **facts: Any) -> None:
        """Take the footprint as one region: nobody draws this run."""
        self._pages = self._region_pages = len(facts["node"])

    def epoch(self, **facts: Any) -> None:
        """Keep an epoch; see `Recorder.epoch`."""
        costs = facts["costs"]
        counts: NDArray[np.int64] = facts["accesses_per_node"]
        outcome = facts["outcome"]
        went = outcome.errno == 0
        sample = {
            "accesses": int(counts.sum()),
            "per_node": counts,
            "latency_ns": facts["latency_ns"],
            "tried": len(went),
            "moved": int(went.sum()),
            "promoted": int((went & (outcome.node == 0)).sum()),
            "notes": dict(facts["notes"] or {}),
            **costs,
        }
        self.samples.append(sample)
        if self._loop is not None:
            self._loop.tell(sample)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Do nothing: there are no files."""

    def tail(self, share: float) -> "Tail":
        """Return the last part of the run as one."""
        first = int(len(self.samples) * (1 - share))
        return Tail(tuple(self.samples[first:]))


@dataclass(frozen=True, slots=True)
class Tail:
    """Epochs taken together."""

    samples: tuple[Sample, ...]

    def total(self, field_name: str) -> float:
        """Return the sum of a figure."""
        return float(sum(s[field_name] for s in self.samples))

    @property
    def local_share(self) -> float:
        """Accesses that node 0 served, as a share."""
        served = sum(int(s["per_node"][0]) for s in self.samples)
        return served / self.total("accesses")

    @property
    def access_ns(self) -> float:
        """Memory time of an access, without the costs of looking and moving."""
        return self.total("access_ns") / self.total("accesses")

    @property
    def all_fast_ns(self) -> float:
        """The same with everything in the fastest tier."""
        return self.total("all_fast_ns") / self.total("accesses")

    @property
    def in_line_ns(self) -> float:
        """An access with what the program itself waits for: faults and moves."""
        waits = self.total("application_ns") + self.total("migration_ns")
        return self.access_ns + waits / self.total("accesses")


@dataclass(slots=True)
class Ordered:
    """A workload whose pages are first touched in their order, one time each.

    With placement first-access the lowest pages fill the fast tier: files that
    were read before the program allocated its own memory.
    """

    inner: Workload
    name: str = "ordered"

    @property
    def pages(self) -> int:
        """As the inner workload's."""
        return self.inner.pages

    def epochs(self, pace: Pace) -> Iterator[AccessChunk]:
        """Yield the touches before the first epoch's accesses."""
        for index, chunk in enumerate(self.inner.epochs(pace)):
            if index:
                yield chunk
                continue
            touch = np.arange(self.pages, dtype=np.uint32)
            write = chunk.write
            if write is not None:
                write = np.concatenate([np.zeros(self.pages, np.uint8), write])
            yield AccessChunk(np.concatenate([touch, chunk.page]), write)


@dataclass(slots=True)
class ClosedLoop:
    """A workload that waits: the next epoch's accesses follow from the last one's.

    Attributes:
        inner: Its accesses, in their order; its pace is not used.
        epochs_wanted: Epochs to play; 0: until ``work`` is done.
        per_epoch: Accesses of an epoch, from what the last epoch was like; called
            with None before the first.
        work: Accesses after which it ends; 0: no end of its own.
    """

    inner: Workload
    per_epoch: Callable[[Sample | None], int]
    epochs_wanted: int = 0
    work: int = 0
    name: str = "closed-loop"
    _last: Sample | None = field(default=None, init=False)

    @property
    def pages(self) -> int:
        """As the inner workload's."""
        return self.inner.pages

    @property
    def streams(self) -> tuple[AccessStream, ...]:
        """As the inner workload's; none where it has none."""
        return getattr(self.inner, "streams", ())

    @property
    def stream_starts(self) -> tuple[int, ...]:
        """First pages of the streams, as the inner workload has them."""
        return getattr(self.inner, "stream_starts", ())

    def tell(self, sample: Sample) -> None:
        """Take what an epoch was like."""
        self._last = sample

    def epochs(self, pace: Pace) -> Iterator[AccessChunk]:
        """Yield epochs of as many accesses as come back in one."""
        self._last = None
        done = index = 0
        source = _Cutter(self.inner, pace)
        while index < self.epochs_wanted or done < self.work:
            count = max(1, self.per_epoch(self._last))
            if self.work and not self.epochs_wanted:
                count = min(count, self.work - done)
            yield source.take(count)
            done += count
            index += 1


class _Cutter:
    """Cuts a workload's accesses anew."""

    def __init__(self, inner: Workload, pace: Pace) -> None:
        endless = Pace(pace.epoch_ns, pace.rate or 10.0, 1 << 60)
        self._chunks = inner.epochs(endless)
        self._parts: list[AccessChunk] = []
        self._have = 0

    def take(self, count: int) -> AccessChunk:
        """Return the next accesses."""
        while self._have < count:
            chunk = next(self._chunks)
            kept = {
                name: column.copy()  # a generator may reuse its arrays
                for name in _COLUMNS
                if (column := getattr(chunk, name)) is not None
            }
            self._parts.append(AccessChunk(**kept))
            self._have += len(chunk)
        taken = {
            name: np.concatenate([getattr(part, name) for part in self._parts])
            for name in _COLUMNS
            if getattr(self._parts[0], name) is not None
        }
        whole = AccessChunk(**taken)
        self._parts = [whole.slice(count, self._have)]
        self._have -= count
        return whole.slice(0, count)


def play_one(
    policy: str,
    workload: Workload,
    machine: str | MachineSpec,
    *,
    fast_ratio: float,
    seed: int = 1,
    rate: float = 10.0,
    seconds: float | None = None,
    epoch_s: float = 0.5,
    placement: str = "first-access",
    sampling_period: int = 2000,
    options: Mapping[str, float] | None = None,
) -> Watch:
    """Simulate one run and return its epochs.

    Args:
        policy: Name of a policy.
        workload: Its accesses; a `ClosedLoop` says itself when it ends.
        machine: Name of a built-in machine, or one that has none.
        fast_ratio: Fast capacity over footprint.
        seed: For everything random.
        rate: Accesses per page per second.
        seconds: Simulated; None: as long as the workload lasts.
        epoch_s: Length of an epoch.
        placement: Where pages are born.
        sampling_period: Accesses per sample.
        options: The policy's parameters.
    """
    closed = workload if isinstance(workload, ClosedLoop) else None
    watch = Watch(closed)
    accesses = None
    if closed is None and seconds is not None:
        accesses = round(rate * workload.pages * seconds)
    spec = SimulationSpec(
        policy,
        workload.name,
        machine if isinstance(machine, str) else machine.name,
        fast_ratio,
        accesses=accesses,
        seed=seed,
        rate=rate,
        placement=placement,
        sampling_period=sampling_period,
        epoch_s=epoch_s,
        options=dict(options or {}),
    )
    own = None if isinstance(machine, str) else machine
    simulate(spec, workload=workload, recorder=watch, machine=own)
    return watch


def epoch_accesses(in_flight: float, access_ns: float, epoch_s: float) -> int:
    """Return how many accesses come back in an epoch (Little's law).

    Args:
        in_flight: Accesses under way at any time.
        access_ns: Time of one.
        epoch_s: Length of the epoch.
    """
    return int(in_flight * epoch_s * NS_PER_S / access_ns)
