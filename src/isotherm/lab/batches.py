"""Runs in batches: what one call of a worker does, and how large it is.

A small simulation takes milliseconds, and handing it to another process, or
through a scheduler, about one: several go together. Runs of one access stream
follow one another, so that a worker makes what they share once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isotherm import __version__
from isotherm.core.errors import IsothermError
from isotherm.lab import streams
from isotherm.lab.catalogue import is_generator
from isotherm.lab.simulate import DEFAULT_PAGES, SimulationSpec, simulate
from isotherm.lab.store import append_row
from isotherm.lab.watched import watch
from isotherm.observability.timeline import Timeline

#: A batch is meant to take so long: what a lost worker loses, at most.
BATCH_S: Final = 0.25
MAX_BATCH: Final = 64
#: Batches a worker, at least: the last ones end together.
BATCHES_PER_WORKER: Final = 8
#: For the size of batches only: a run of 20,480 accesses on 512 pages takes 4 ms in
#: the mean over policies, one of 2 M accesses on 4096 pages 60 ms (bench_sweep.py).
RUN_S: Final = 0.004
ACCESSES_PER_S: Final = 30e6
DEFAULT_SIMULATED_S: Final = 120.0

Answer = tuple[dict[str, Any], Timeline | None]
Work = Callable[[SimulationSpec, bool], Answer]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run.

    Attributes:
        index: In the sweep.
        key: As of ``spec_key``.
        spec: What is run.
        keep_timeline: Whether its timeline is wanted.
    """

    index: int
    key: str
    spec: SimulationSpec
    keep_timeline: bool = False

    def __str__(self) -> str:
        """Return its name in messages."""
        spec = self.spec
        return f"{spec.policy} on {spec.workload}, {spec.machine}, {spec.fast_ratio:g}"


@dataclass(frozen=True, slots=True)
class Job:
    """What all batches of a sweep share.

    Attributes:
        work: Makes one run.
        token: Names the sweep.
        trace_bytes: Of decoded traces that a host may keep.
        journal: Where workers of this host write finished runs; None: they do not.
        version: Of isotherm.
    """

    work: Work
    token: str
    trace_bytes: int
    journal: Path | None = None
    version: str = __version__


@dataclass(slots=True)
class Done:
    """What became of a batch.

    Attributes:
        answers: By index of the run; an error is of that run alone.
        decoded: Traces that were decoded to be shared.
    """

    answers: dict[int, Answer | IsothermError]
    decoded: int = 0


def work(spec: SimulationSpec, keep_timeline: bool) -> Answer:
    """Make one run; what it shares with others of its sweep is made once."""
    shared = streams.current()
    workload = future = None
    if shared is not None:
        spec.check()
        workload, future = shared.workload(spec), shared.future(spec)
    if keep_timeline:
        return watch(spec, workload=workload, future=future)
    return simulate(spec, workload=workload, future=future), None


def run_batch(job: Job, cells: Sequence[Cell]) -> Done:
    """Make the runs of a batch one after the other; this is what a worker does."""
    if job.version != __version__:
        raise IsothermError(
            f"a worker has isotherm {__version__}, expected {job.version}",
            hint="install the same version on the workers and here",
        )
    shared = streams.enter(job.token, job.trace_bytes)
    before = shared.decoded
    done = Done({})
    for cell in cells:
        try:
            answer = job.work(cell.spec, cell.keep_timeline)
        except IsothermError as error:
            done.answers[cell.index] = error
            continue
        done.answers[cell.index] = answer
        if job.journal is not None:
            append_row(job.journal, cell.key, answer[0])
    done.decoded = shared.decoded - before
    return done


def cut(cells: Iterable[Cell], workers: int) -> list[list[Cell]]:
    """Return the runs in batches, in their order.

    A run with a timeline goes alone: it is large.
    """
    waiting = list(cells)
    most = max(1, min(MAX_BATCH, len(waiting) // (workers * BATCHES_PER_WORKER)))
    batches: list[list[Cell]] = []
    room_s = 0.0
    for cell in waiting:
        cost_s = expected_s(cell.spec)
        alone = cell.keep_timeline or cost_s > room_s or len(batches[-1]) >= most
        if alone:
            batches.append([])
            room_s = 0.0 if cell.keep_timeline else BATCH_S
        batches[-1].append(cell)
        room_s -= cost_s
    return batches


def expected_s(spec: SimulationSpec) -> float:
    """Return roughly how long a run takes; of a whole trace: infinitely.

    Nobody opens a file to find out how large a batch is.
    """
    accesses = float("inf")
    if spec.accesses is not None:
        accesses = spec.accesses
    elif is_generator(spec.workload):
        pages = spec.pages or DEFAULT_PAGES
        accesses = pages * (spec.rate or 0.0) * DEFAULT_SIMULATED_S
    return RUN_S + accesses / ACCESSES_PER_S
