"""``trace record --pid``: opens a host, looks at processes, writes what is hot."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog

from isotherm.core.changes import HostChanges
from isotherm.core.descriptors import as_many_as_allowed
from isotherm.core.errors import NotPermittedError, TargetGoneError, UsageError
from isotherm.core.units import NS_PER_S
from isotherm.daemon.config import BudgetConfig, Config, LoopConfig, SourcesConfig
from isotherm.daemon.hotness_trace import HotnessTrace, plan_glance, plan_looks
from isotherm.daemon.rundir import RunDirectory, run_directory
from isotherm.daemon.sources import Chosen, choose_sources
from isotherm.daemon.waiting import Waiter
from isotherm.hints.batch import HintBatch, HintSource, Look, Mechanism
from isotherm.hotness.tracker import GammaTracker
from isotherm.machine.linux.intervals import Ranges
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.targets.follow import Follower
from isotherm.machine.protocol import Machine
from isotherm.trace.format import Provenance, TraceInfo, TraceReader, TraceWriter

#: A page's evidence is halved in so many intervals: what cools must be seen to.
HALF_LIFE_INTERVALS: Final = 6.0
#: Of the CPU time for looking, for reading which pages have memory.
PLACEMENT_SHARE: Final = 0.25
LEAST_INTERVAL_S: Final = 0.1
MOST_INTERVAL_S: Final = 60.0

log = structlog.get_logger()

#: Called after each interval with seconds recorded and accesses written so far.
Progress = Callable[[float, int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to record.

    Attributes:
        pids: Processes; their children are followed.
        out: The trace file.
        duration_s: How long; None: until SIGINT, or the processes end.
        interval_s: Time that one estimate stands for.
        hints: Sources by name; ``auto``: the best that is there.
        intrusive: Sources may change something in the processes.
        seed: For random choices.
        cpu_percent: Of one core, for looking.
    """

    pids: tuple[int, ...]
    out: Path
    duration_s: float | None = 60.0
    interval_s: float = 1.0
    hints: tuple[str, ...] = ("auto",)
    intrusive: bool = False
    seed: int = 1
    cpu_percent: float = 2.0

    def check(self) -> None:
        """Complain about what cannot be.

        Raises:
            UsageError: A value is out of range.
        """
        if not self.pids:
            raise UsageError("trace record: expected at least one --pid")
        if not LEAST_INTERVAL_S <= self.interval_s <= MOST_INTERVAL_S:
            raise UsageError(
                f"interval: expected {LEAST_INTERVAL_S} to {MOST_INTERVAL_S:g} s,"
                f" got {self.interval_s:g}"
            )
        if self.duration_s is not None and not self.duration_s > 0:
            raise UsageError(f"duration: expected seconds > 0, got {self.duration_s:g}")


@dataclass(slots=True)
class Recording:
    """A recording under way: the machine's part of it, without signals or files.

    Args:
        machine: Whose memory.
        sources: Open hint sources.
        trace: Takes the rows.
        interval_s: Time between two estimates.
        seed: For stochastic rounding.
        reread: Reads now which pages of flat ranges have memory: a machine that
            knows it only by and by would have pages without accesses at first.
    """

    machine: Machine
    sources: tuple[HintSource, ...]
    trace: HotnessTrace
    interval_s: float
    seed: int = 1
    reread: Callable[[Ranges], None] | None = None
    accesses: int = 0
    lost: int = 0
    application_ns: float = 0.0
    background_ns: float = 0.0
    _last_ns: int = 0
    _tracker: GammaTracker | None = None
    _index: int = 0
    _glanced: list[HintBatch] = field(default_factory=list)

    def start(self) -> None:
        """Begin to look."""
        machine = self.machine
        self._tracker = GammaTracker(
            max(machine.pages, 8),
            round(self.interval_s * NS_PER_S),
            frozenset(
                source.mechanism
                for source in self.sources
                if isinstance(source.mechanism, Mechanism)
            ),
            self.seed,
            half_life_s=HALF_LIFE_INTERVALS * self.interval_s,
        )
        if self.reread is not None:
            self.reread(np.array([[0, machine.pages]], np.int64))
        self._last_ns = machine.clock.now_ns()
        self._look()

    @property
    def glance_s(self) -> float | None:
        """How long before the end of this interval to glance; None: not at all."""
        return plan_glance(self._index - 1, self.interval_s)

    def glance(self) -> None:
        """Read accessed bits within an interval: what is set then is set anew.

        A window that a source opens by itself ends when it is drained. Where a
        loaded host drains it late the window is as long as the delay, and tells
        busy pages from others no more. Between two readings the time is known.
        """
        look = Look(Mechanism.ACCESSED_BIT, 0, self.machine.pages)
        for source in self.sources:
            if source.mechanism is Mechanism.ACCESSED_BIT:
                self._glanced += source.drain()
                source.look((look,))

    def interval(self) -> None:
        """Take in what was seen since the last call, and write it.

        Sources are read first, of the memory that they have looked at; what has
        become of it since is for the next interval.
        """
        machine, tracker = self.machine, self._tracker
        assert tracker is not None  # noqa: S101  # start() was called
        glanced, self._glanced = self._glanced, []
        ended = (b for source in self.sources for b in source.drain())
        batches = (*glanced, *ended)
        now_ns = machine.clock.now_ns()
        view = tracker.update(batches, now_ns, machine.access_rate())
        self.accesses += self.trace.add(
            view, machine.placement(), machine.spaces, now_ns - self._last_ns
        )
        self._last_ns = now_ns
        self.lost += sum(batch.lost for batch in batches)
        self.application_ns += sum(batch.application_ns for batch in batches)
        self.background_ns += sum(batch.background_ns for batch in batches)
        change = machine.refresh()
        if change is not None:
            tracker.renew(change)
            self.trace.renew(change)
            if self.reread is not None:
                self.reread(change.renewed)
        self._look()

    def _look(self) -> None:
        looks = plan_looks(self._index, self.machine.pages)
        self._index += 1
        for source in self.sources:
            source.look(looks)


@dataclass(slots=True)
class _Facts:
    """What the provenance says."""

    details: dict[str, str] = field(default_factory=dict)


def record_processes(wanted: Wanted, progress: Progress | None = None) -> TraceInfo:
    """Record the hotness of processes until the time is over, or they are.

    SIGINT ends a recording early; what was recorded until then is kept. What killed
    runs have left is undone first.

    Raises:
        UsageError: A value is out of range, or a source is not known.
        TargetGoneError: A process is not there.
        NotPermittedError: It may not be looked into, or the run directory may be
            another user's.
        UnsupportedError: There is nothing to look with.
    """
    wanted.check()
    _check_there(wanted.pids)
    runs = RunDirectory(run_directory())
    with ExitStack() as stack:
        # Signals are taken until all is restored: the second ends nothing either.
        waiter = stack.enter_context(Waiter())
        stack.callback(runs.close)
        for line in runs.recover():
            log.warning("recovered", after="a run that was killed", what=line)
        changes = _changes(runs)
        stack.callback(changes.close)
        stack.callback(changes.restore)
        stack.enter_context(as_many_as_allowed())
        machine = LinuxMachine(
            Follower(wanted.pids), placement_budget_ns=_placement_ns(wanted)
        )
        stack.callback(machine.close)
        chosen = choose_sources(
            machine, _config(wanted), changes, intrusive=wanted.intrusive
        )
        for one in chosen:
            stack.callback(one.close)
            one.open()
        facts = _Facts()
        provenance = _provenance(wanted, machine, chosen, facts)
        with TraceWriter(wanted.out, provenance) as writer:
            recording = Recording(
                machine,
                tuple(one.source for one in chosen),
                HotnessTrace(writer, machine.pages, wanted.seed),
                wanted.interval_s,
                wanted.seed,
                machine.reread,
            )
            ended = _run(recording, machine, waiter, wanted, progress)
            facts.details |= _found(recording, ended)
    return TraceReader(wanted.out).info


def _run(
    recording: Recording,
    machine: LinuxMachine,
    waiter: Waiter,
    wanted: Wanted,
    progress: Progress | None,
) -> str:
    """Record interval after interval; return why it is over."""
    recording.start()
    began = due = time.monotonic()
    while True:
        # Where the work took more than the interval the next one is whole, too:
        # in no time nothing is seen. Its accesses are those of the time it took.
        now = time.monotonic()
        due += wanted.interval_s
        if due < now + wanted.interval_s / 2:
            due = now + wanted.interval_s
        glance_s = recording.glance_s
        if glance_s is not None:
            if waiter.wait(due - glance_s - now):
                return "interrupted"
            recording.glance()
            due = max(due, time.monotonic() + glance_s)
        if waiter.wait(due - time.monotonic()):
            return "interrupted"
        alive = any(t.process.alive() for t in machine.follower.targets.values())
        recording.interval()
        seconds = time.monotonic() - began
        if progress is not None:
            progress(seconds, recording.accesses)
        if not alive:
            return "the processes ended"
        if wanted.duration_s is not None and seconds >= wanted.duration_s - 1e-3:
            return "the time was over"


def _placement_ns(wanted: Wanted) -> float:
    """Return the time that an interval has for reading where pages are."""
    looking_ns = wanted.cpu_percent / 100 * wanted.interval_s * NS_PER_S
    return PLACEMENT_SHARE * looking_ns


def _config(wanted: Wanted) -> Config:
    return Config(
        loop=LoopConfig(epoch_s=wanted.interval_s, seed=wanted.seed),
        sources=SourcesConfig(use=wanted.hints),
        budget=BudgetConfig(cpu_percent=wanted.cpu_percent),
    )


def _changes(runs: RunDirectory) -> HostChanges:
    try:
        return HostChanges(runs.journal)
    except OSError as error:
        raise NotPermittedError(
            f"{runs.journal}: {error.strerror}",
            hint="ISOTHERM_RUN_DIRECTORY names another place",
        ) from None


def _check_there(pids: tuple[int, ...]) -> None:
    for pid in pids:
        if not Path(f"/proc/{pid}").is_dir():
            raise TargetGoneError(f"pid {pid}: no such process")


def _provenance(
    wanted: Wanted, machine: LinuxMachine, chosen: tuple[Chosen, ...], facts: _Facts
) -> Provenance:
    names = ", ".join(one.name for one in chosen)
    facts.details = {
        "accesses_are": "synthesised: estimated rate times interval, whole accesses",
        "time": "CLOCK_MONOTONIC since the beginning, by interval",
        "interval_s": f"{wanted.interval_s:g}",
        "hints": names,
        "half_life_s": f"{HALF_LIFE_INTERVALS * wanted.interval_s:g}",
        "seed": str(wanted.seed),
        "kernel": os.uname().release,
    }
    owners = [target.owner for target in machine.follower.targets.values()]
    return Provenance(
        command=", ".join(owners),
        tool=f"isotherm live: {names}",
        date=datetime.now(UTC).date().isoformat(),
        note="rates estimated from hints; single accesses, their order within an "
        "interval and writes were not seen",
        source="live",
        details=facts.details,
    )


def _found(recording: Recording, ended: str) -> dict[str, Any]:
    return {
        "ended": ended,
        "intervals": str(recording.trace.intervals),
        "processes": ", ".join(recording.trace.owners),
        "hints_lost": str(recording.lost),
        "application_s": f"{recording.application_ns / NS_PER_S:.6f}",
        "background_s": f"{recording.background_ns / NS_PER_S:.6f}",
    }
