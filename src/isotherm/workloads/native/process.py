"""The running workload: threads that draw, touch and count, by the wall clock.

Time is real: a hot set that moves after 60 s moves 60 s after the first access,
whatever the machine manages in between. A workload with a rate is an open loop
that does not catch up: what it cannot do in time is left out, and the reported
throughput says so.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from isotherm.core.errors import IsothermError, UsageError
from isotherm.core.units import NS_PER_S
from isotherm.workloads import spec
from isotherm.workloads.build import build
from isotherm.workloads.native.layout import (
    MAX_THREADS,
    State,
    TruthFile,
    create_truth,
)
from isotherm.workloads.native.memory import HUGE, Buffer, Placing
from isotherm.workloads.native.touch import prepare, touch, verify
from isotherm.workloads.stream import TICK_S, Generated, Stream

#: Accesses drawn at once at full speed.
BATCH = 1 << 16
#: With a rate, a thread wakes this often; each wake-up costs some 50 µs.
SLICE_S = 0.005
#: A thread that is this far behind its rate forgets what it owes.
MAX_DEBT_S = 0.1
#: Draws between the beginnings of two threads' streams.
LANE_DRAWS = 1 << 44


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        kind: Name of the generator.
        pages: Footprint.
        rate: Accesses per page per second; 0: as fast as it goes.
        duration_s: How long, from the first access on; None: until stopped.
        seed: As for simulated workloads: same seed, same hot pages.
        options: Parameters of the generator.
        truth: Where to publish; None: nowhere.
        threads: 1, 2, 4 ... 64; each has its own lines of every page.
        huge: Advice about huge pages: default, always or never.
        placing: Where the memory is allocated first.
        placing_stays: Keep the memory policy; else it is dropped once the memory
            is there, so that nothing forbids moving it.
    """

    kind: str
    pages: int = 32768
    rate: float = 10.0
    duration_s: float | None = 60.0
    seed: int = 1
    options: dict[str, object] = field(default_factory=dict)
    truth: Path | None = None
    threads: int = 1
    huge: str = "default"
    placing: Placing | None = None
    placing_stays: bool = False


@dataclass(frozen=True, slots=True)
class Second:
    """What happened in about a second.

    Attributes:
        time_s: Since the first access.
        phase: Changes of the hot set so far.
        accesses: Made in it.
        accesses_per_s: Throughput.
        errors: Accesses that found damaged data, since the beginning.
    """

    time_s: float
    phase: int
    accesses: int
    accesses_per_s: float
    errors: int


@dataclass(frozen=True, slots=True)
class Result:
    """What the whole run did."""

    accesses: int
    writes: int
    errors: int
    damaged_lines: int
    lost_writes: int
    duration_s: float
    accesses_per_s: float


class _Skips(Protocol):
    def skip(self, draws: int) -> None: ...


def checked(plan: Plan) -> tuple[Generated, spec.GeneratorSpec]:
    """Return the generator that a plan names.

    Raises:
        UsageError: A value is out of range.
        ConfigError: No such generator or parameter.
    """
    for good, what in (
        (1 <= plan.pages <= 1 << 28, f"pages: expected 1 to 2^28, got {plan.pages}"),
        (0 <= plan.rate <= 1e9, f"rate: expected 0 to 1e9, got {plan.rate}"),
        (plan.seed >= 0, f"seed: expected >= 0, got {plan.seed}"),
        (
            plan.duration_s is None or plan.duration_s > 0,
            f"duration: expected seconds > 0, got {plan.duration_s}",
        ),
        (
            plan.threads in (1, 2, 4, 8, 16, 32, MAX_THREADS),
            f"threads: expected a power of two up to 64, got {plan.threads}",
        ),
        (plan.huge in HUGE, f"huge: expected {', '.join(HUGE)}, got {plan.huge!r}"),
    ):
        if not good:
            raise UsageError(what)
    own = spec.parse_generator(
        {**plan.options, "kind": plan.kind}, plan.kind, from_text=True
    )
    made = build(own, plan.kind, plan.pages, plan.seed)
    if plan.threads > 1 and not _skips(made.start()):
        raise UsageError(
            f"{plan.kind}: its accesses depend on those before, so that one thread "
            f"makes them, got {plan.threads} threads"
        )
    return made, own


def _skips(stream: Stream) -> bool:
    """Return whether a stream can begin anywhere: threads draw apart."""
    table = getattr(stream, "table", None)
    return hasattr(stream, "skip") and table is not None and not table.sweep_pages


def phase_at(own: spec.GeneratorSpec, tick: int) -> int:
    """Return how often the hot set has changed at once before a tick's end."""
    if isinstance(own, spec.GupsShift):
        return int(tick >= round(own.shift_s / TICK_S))
    if isinstance(own, spec.Phases):
        return int(tick * TICK_S / own.phase_s)
    return 0


class Native:
    """One native workload; :meth:`run` does all of it.

    Args:
        plan: What to run.
        stop: Set by somebody to end it early; looked at every few milliseconds.
    """

    def __init__(self, plan: Plan, stop: threading.Event | None = None) -> None:
        self.plan = plan
        self._made, self._own = checked(plan)
        self._stop = threading.Event() if stop is None else stop
        self._failed: list[BaseException] = []

    def run(self, report: Callable[[Second], None] | None = None) -> Result:
        """Prepare the memory, touch it until the end, verify it.

        Args:
            report: Called about once a second.

        Raises:
            UsageError: The truth file cannot be made, or there is no such node.
        """
        plan = self.plan
        memory = Buffer(plan.pages, plan.huge)
        with create_truth(
            plan.truth,
            plan.pages,
            plan.threads,
            pid=os.getpid(),
            start_ticks=start_ticks("self"),
            address=memory.address,
            rate=plan.rate,
            workload=plan.kind.encode()[:64],
        ) as truth:
            try:
                return self._run(memory, truth, report or (lambda _: None))
            finally:
                memory.close()

    def _run(
        self, memory: Buffer, truth: TruthFile, report: Callable[[Second], None]
    ) -> Result:
        plan = self.plan
        if plan.placing is not None:
            memory.place(plan.placing)
        prepare(memory.words)
        if plan.placing is not None and not plan.placing_stays:
            memory.place(Placing("default", ()))
        self._warm_up()
        began = time.monotonic_ns()
        truth.set(
            began_ns=began, phase_began_ns=began, updated_ns=began, state=State.RUNNING
        )
        threads = [
            threading.Thread(target=self._lane, args=(lane, memory, truth, began))
            for lane in range(plan.threads)
        ]
        for thread in threads:
            thread.start()
        try:
            self._watch(truth, began, report)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self._failed:
            raise self._failed[0]
        took = (time.monotonic_ns() - began) / NS_PER_S
        damaged, total = verify(memory.words)
        accesses, writes = int(truth.accesses.sum()), int(truth.writes.sum())
        errors, lost = int(truth.errors.sum()), writes - total
        good = not (damaged or errors or lost)
        truth.set(state=State.DONE if good else State.DAMAGED)
        return Result(accesses, writes, errors, damaged, lost, took, accesses / took)

    def _warm_up(self) -> None:
        """Compile the loops (numba), so that the first second is like the others."""
        stream = self._made.start()
        stream.tick(0)
        page = np.zeros(1, np.uint32)
        write = np.zeros(1 if self._made.writes else 0, np.uint8)
        stream.fill(page, write if self._made.writes else None)
        scratch = np.zeros(512, np.uint64)
        touch(scratch, page * 0, write, np.zeros(1, np.uint64), 0, 0, 1)

    def _watch(
        self, truth: TruthFile, began: int, report: Callable[[Second], None]
    ) -> None:
        """Report every second until the time is over or somebody stops us."""
        plan = self.plan
        end = None if plan.duration_s is None else began + plan.duration_s * NS_PER_S
        seen, at = 0, began
        while not self._failed:
            now = time.monotonic_ns()
            due = at + NS_PER_S
            if end is not None:
                due = min(due, int(end))
            stopped = self._stop.wait(max(0.0, (due - now) / NS_PER_S))
            now = time.monotonic_ns()
            made = int(truth.accesses.sum())
            report(
                Second(
                    time_s=(now - began) / NS_PER_S,
                    phase=truth.get("phase"),
                    accesses=made - seen,
                    accesses_per_s=(made - seen) / max((now - at) / NS_PER_S, 1e-9),
                    errors=int(truth.errors.sum()),
                )
            )
            seen, at = made, now
            if stopped or (end is not None and now >= end):
                return

    def _lane(self, lane: int, memory: Buffer, truth: TruthFile, began: int) -> None:
        try:
            self._touch_on(lane, memory, truth, began)
        except BaseException as error:  # noqa: BLE001  # handed to the main thread
            self._failed.append(error)
            self._stop.set()

    def _touch_on(
        self, lane: int, memory: Buffer, truth: TruthFile, began: int
    ) -> None:
        plan, words, counts = self.plan, memory.words, truth.counts[lane]
        stream = self._made.start()
        if lane:
            cast("_Skips", stream).skip(lane * LANE_DRAWS)
        per_ns = plan.rate * plan.pages / plan.threads / NS_PER_S
        page = np.empty(BATCH, np.uint32)
        write = np.empty(BATCH if self._made.writes else 0, np.uint8)
        made, tick, owed_since = 0, -1, began
        while not self._stop.is_set():
            now = time.monotonic_ns()
            while tick < (now - began) / (TICK_S * NS_PER_S) - 1 or tick < 0:
                tick += 1
                stream.tick(tick)
                self._publish_phase(truth, lane, tick, now)
            count = BATCH
            if per_ns:
                count = int((now - owed_since) * per_ns)
                if count > per_ns * MAX_DEBT_S * NS_PER_S:
                    count = int(per_ns * MAX_DEBT_S * NS_PER_S)
                    owed_since = now - int(count / per_ns)
                count = min(count, BATCH)
                if count < max(1.0, per_ns * SLICE_S * NS_PER_S):
                    time.sleep(SLICE_S)
                    continue
                owed_since += int(count / per_ns)
            drawn, marks = page[:count], write[: min(count, len(write))]
            stream.fill(drawn, marks if len(write) else None)
            damaged, written = touch(
                words, drawn, marks, counts, made, lane, plan.threads
            )
            made += count
            truth.accesses[lane] = made
            truth.writes[lane] += np.uint64(written)
            truth.errors[lane] += np.uint64(damaged)
            if not lane:
                truth.set(updated_ns=now)

    def _publish_phase(self, truth: TruthFile, lane: int, tick: int, now: int) -> None:
        phase = phase_at(self._own, tick)
        if lane == 0 and phase != truth.get("phase"):
            truth.set(phase=phase, phase_began_ns=now)


def start_ticks(pid: int | str) -> int:
    """Return when a process started, in clock ticks since boot; 0: it has gone.

    It is the 22nd field of ``/proc/PID/stat``; the second, the name, may hold
    anything up to its last parenthesis.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def complaint(result: Result) -> IsothermError | None:
    """Return what is wrong with the data at the end, if anything is."""
    if not (result.errors or result.damaged_lines or result.lost_writes):
        return None
    return IsothermError(
        f"memory is damaged: {result.damaged_lines} lines, {result.errors} accesses "
        f"that found one, {result.lost_writes} writes lost",
        hint="somebody changed or lost this process's memory",
    )
