"""Run a grid on some cores or on a Dask cluster; go on where it stopped."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from isotherm.core.errors import IsothermError, UnsupportedError
from isotherm.core.names import distinct_names
from isotherm.lab.grid import spec_key, spec_values
from isotherm.lab.regret import judge
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.lab.store import ResultStore
from isotherm.observability.recorder import Recorder
from isotherm.observability.timeline import Timeline

log = structlog.get_logger()

#: A run whose worker was killed is tried so often (out of memory, an operator).
ATTEMPTS: Final = 3

Answer = tuple[dict[str, Any], Timeline | None]
Work = Callable[[SimulationSpec, bool], Answer]


@dataclass(slots=True)
class Comparison:
    """What came out of a grid.

    Attributes:
        results: Judged results (JSON contract and regret), in the grid's order.
        timelines: By index into ``results``, for the runs that were to keep one.
        errors: Runs that this machine or policy cannot do, with the reason.
        resumed: Runs that were taken from the store.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    timelines: dict[int, Timeline] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    resumed: int = 0


def work(spec: SimulationSpec, keep_timeline: bool) -> Answer:
    """Make one run; this is what a worker does."""
    recorder = Recorder() if keep_timeline else None
    result = simulate(spec, recorder=recorder)
    return result, None if recorder is None else recorder.timeline()


def compare(
    specs: Sequence[SimulationSpec],
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    store: ResultStore | None = None,
    keep_timeline: Callable[[SimulationSpec], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
    work: Work = work,
) -> Comparison:
    """Make every run and judge the results; the same whatever ``jobs``.

    Args:
        specs: The runs.
        jobs: Processes; None: one per core; 1: in this process.
        scheduler: Address of a Dask scheduler instead.
        store: Where finished runs are kept; those in it are not made again.
        keep_timeline: Which runs keep a timeline; they are made even if stored.
        progress: Called with runs done and runs in all.
        work: What a worker does, for tests.

    Raises:
        UnsupportedError: No run of the grid can be done here.
        IsothermError: A run failed, or its worker was killed again and again.
    """
    keep = keep_timeline or (lambda spec: False)
    keys = [spec_key(spec) for spec in specs]
    answers: dict[int, Answer] = {}
    failed: dict[int, IsothermError] = {}
    out = Comparison()
    todo = []
    for index, (spec, key) in enumerate(zip(specs, keys, strict=True)):
        if store is not None and key in store.done and not keep(spec):
            answers[index] = (store.done[key], None)
            out.resumed += 1
        else:
            todo.append(index)
    if progress is not None:
        progress(len(answers), len(specs))
    jobs = min(jobs or usable_cores(), max(1, len(todo)))
    tasks = {index: (specs[index], keep(specs[index])) for index in todo}
    if scheduler is not None:
        stream = _on_dask(scheduler, tasks, work)
    elif jobs == 1:
        stream = _here(tasks, work)
    else:
        stream = _in_processes(tasks, jobs, work)
    # Closed here, not by the collector: at exit a pool can no longer shut down.
    with closing(stream):
        for index, answer in stream:
            if isinstance(answer, UnsupportedError):
                failed[index] = answer
                log.warning(
                    "unsupported", run=_describe(specs[index]), error=answer.message
                )
            elif isinstance(answer, IsothermError):
                raise answer
            else:
                answers[index] = answer
                if store is not None:
                    store.add(keys[index], answer[0])
            if progress is not None:
                progress(len(answers) + len(failed), len(specs))
    if failed and not answers:
        raise next(iter(failed.values()))
    order = sorted(answers)
    rows = [dict(answers[index][0]) for index in order]
    _tell_apart(rows, [specs[index] for index in order])
    out.results = judge(rows)
    for position, index in enumerate(order):
        timeline = answers[index][1]
        if timeline is not None:
            out.timelines[position] = timeline
    out.errors = [
        {"spec": spec_values(specs[index]), "error": error.message}
        for index, error in sorted(failed.items())
    ]
    if store is not None:
        store.save(out.results, [keys[index] for index in order])
    return out


def _tell_apart(rows: list[dict[str, Any]], specs: list[SimulationSpec]) -> None:
    """Give files of one name (``a/x.parquet``, ``b/x.parquet``) their folders."""
    for kind in ("workload", "machine"):
        asked: dict[str, set[str]] = {}
        for row, spec in zip(rows, specs, strict=True):
            asked.setdefault(row[kind], set()).add(getattr(spec, kind))
        for row, spec in zip(rows, specs, strict=True):
            paths = sorted(asked[row[kind]])
            if len(paths) > 1:
                names = dict(zip(paths, distinct_names(paths), strict=True))
                row[kind] = names[getattr(spec, kind)]


def usable_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


Tasks = dict[int, tuple[SimulationSpec, bool]]
Stream = Generator[tuple[int, Answer | IsothermError], None, None]


def _here(tasks: Tasks, work: Work) -> Stream:
    for index, (spec, keep) in tasks.items():
        try:
            yield index, work(spec, keep)
        except IsothermError as error:
            yield index, error


def _start_worker() -> None:
    """Let the parent alone handle Ctrl-C, and end when it is gone.

    A worker is the fork server's child, so the kernel's parent-death signal would
    not tell of the command's end: the pipe that the command holds open does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_processes(tasks: Tasks, jobs: int, work: Work) -> Stream:
    """Run on processes; a new pool takes over when one of them is killed."""
    # One thread each: numpy and numba would otherwise start one per core.
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["isotherm.lab.compare"])
    waiting = list(reversed(tasks))
    attempts = dict.fromkeys(tasks, 0)
    running: dict[Future[Answer], int] = {}
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker)
    try:
        while waiting or running:
            broken = False
            while waiting and len(running) < jobs and not broken:
                index = waiting.pop()
                try:
                    running[pool.submit(work, *tasks[index])] = index
                    attempts[index] += 1
                except BrokenProcessPool:
                    waiting.append(index)
                    broken = True
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                index = running.pop(future)
                try:
                    yield index, future.result()
                except BrokenProcessPool:
                    waiting.append(index)
                    broken = True
                except IsothermError as error:
                    yield index, error
            if broken:
                waiting += running.values()
                running.clear()
                pool.shutdown(wait=True, cancel_futures=True)
                for index in waiting:
                    if attempts[index] >= ATTEMPTS:
                        raise _killed(
                            tasks[index][0], ATTEMPTS, "fewer --jobs need less memory"
                        )
                log.warning("worker killed, trying again", runs=len(waiting))
                pool = ProcessPoolExecutor(
                    jobs, mp_context=context, initializer=_start_worker
                )
    finally:
        if running:  # interrupted: do not wait for runs that nobody wants
            for process in list((pool._processes or {}).values()):  # noqa: SLF001  # no public way
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _on_dask(address: str, tasks: Tasks, work: Work) -> Stream:
    try:
        from distributed import Client, KilledWorker, as_completed  # noqa: PLC0415  # optional
    except ImportError:
        raise UnsupportedError(
            "--scheduler: dask.distributed is not installed",
            hint="pip install 'distributed'",
        ) from None
    try:
        client = Client(address, timeout="10s")  # type: ignore[no-untyped-call]  # theirs
    except (OSError, ValueError) as error:
        raise IsothermError(
            f"scheduler {address}: cannot connect: {error}",
            hint="start one with: dask scheduler",
        ) from error
    with client:
        futures = {
            client.submit(work, spec, keep, pure=False, retries=ATTEMPTS - 1): index
            for index, (spec, keep) in tasks.items()
        }
        for future in as_completed(futures):  # type: ignore[no-untyped-call]  # theirs
            try:
                yield futures[future], future.result()
            except IsothermError as error:
                yield futures[future], error
            except KilledWorker as error:
                index = futures[future]
                yield (
                    index,
                    _killed(
                        tasks[index][0],
                        error.allowed_failures + 1,
                        "fewer threads a worker need less memory",
                    ),
                )


def _killed(spec: SimulationSpec, times: int, hint: str) -> IsothermError:
    return IsothermError(
        f"{_describe(spec)}: its process was killed {times} times", hint=hint
    )


def _describe(spec: SimulationSpec) -> str:
    return f"{spec.policy} on {spec.workload}, {spec.machine}, {spec.fast_ratio:g}"
