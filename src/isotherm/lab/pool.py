"""Batches of runs on the processes of this host; killed ones are replaced."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Final

import structlog

from isotherm.core.errors import IsothermError
from isotherm.lab import streams
from isotherm.lab.batches import Cell, Done, Job, cut, run_batch
from isotherm.lab.trace_cache import remove_folder

log = structlog.get_logger()

#: A run whose worker was killed is tried so often (out of memory, an operator).
ATTEMPTS: Final = 3

Stream = Generator[Done, None, None]
#: Of runs whose worker was lost, those that it has finished, with their results.
Rescue = Callable[[Iterable[Cell]], Done]


def usable_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def killed(cell: Cell, times: int, hint: str) -> IsothermError:
    """Return the error of a run that ends its process whenever it is tried."""
    return IsothermError(f"{cell}: its process was killed {times} times", hint=hint)


def run_here(job: Job, cells: Iterable[Cell]) -> Stream:
    """Make the runs one after the other in this process."""
    try:
        for cell in cells:
            yield run_batch(job, [cell])
    finally:
        streams.leave(job.token)


def run_in_processes(
    job: Job, cells: Sequence[Cell], processes: int, rescue: Rescue
) -> Stream:
    """Make the runs on processes; a new pool takes over when one of them is killed.

    What ran when a process was lost is made again run by run, each alone in the
    pool: so a run that kills its process is known by name, and no other suffers
    for it.

    Raises:
        IsothermError: A run's process was killed again and again.
    """
    # One thread each: numpy and numba would otherwise start one per core.
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    waiting = deque(cut(cells, processes))
    suspects: deque[Cell] = deque()
    attempts: dict[int, int] = {}
    running: dict[Future[Done], list[Cell]] = {}
    pool = _new_pool(processes)
    try:
        while waiting or suspects or running:
            broken = _fill(pool, job, processes, waiting, suspects, running)
            if running and not broken:
                wait(running, return_when=FIRST_COMPLETED)
            done, lost = _collect(running, everything=broken)
            if not (broken or lost):
                # Before the results are looked at: workers need not wait for that.
                _fill(pool, job, processes, waiting, suspects, running)
                yield from done
                continue
            more, lost_too = _collect(running, everything=True)
            pool.shutdown(wait=True, cancel_futures=True)
            pool = _new_pool(processes)
            saved = rescue([*lost, *lost_too])
            yield from [*done, *more, saved]
            again = [c for c in [*lost, *lost_too] if c.index not in saved.answers]
            log.warning("worker killed, trying again", runs=len(again))
            for cell in again:
                attempts[cell.index] = attempts.get(cell.index, 0) + 1
                if attempts[cell.index] >= ATTEMPTS:
                    raise killed(cell, ATTEMPTS, "fewer --jobs need less memory")
            suspects.extend(again)
    finally:
        if running:  # interrupted: do not wait for runs that nobody wants
            _terminate(pool)
        pool.shutdown(wait=True, cancel_futures=True)
        remove_folder(job.token)


def _fill(
    pool: ProcessPoolExecutor,
    job: Job,
    processes: int,
    waiting: deque[list[Cell]],
    suspects: deque[Cell],
    running: dict[Future[Done], list[Cell]],
) -> bool:
    """Give every process something to do; return whether the pool is broken."""
    while suspects or waiting:
        if len(running) >= (1 if suspects else processes):
            return False
        batch = [suspects[0]] if suspects else waiting[0]
        try:
            running[pool.submit(run_batch, job, batch)] = batch
        except BrokenProcessPool:
            return True
        (suspects or waiting).popleft()
    return False


def _collect(
    running: dict[Future[Done], list[Cell]], *, everything: bool
) -> tuple[list[Done], list[Cell]]:
    """Take what is finished, or everything of a broken pool: results and lost runs.

    Raises:
        IsothermError: A batch could not be run at all.
    """
    done, lost = [], []
    for future in list(running):
        if not (everything or future.done()):
            continue
        batch = running.pop(future)
        try:
            done.append(future.result())
        except BrokenProcessPool:
            lost += batch
    return done, lost


def _new_pool(processes: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["isotherm.lab.batches"])
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker)


def _terminate(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):  # noqa: SLF001  # no public way
        process.terminate()


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
