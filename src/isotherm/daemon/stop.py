"""Stopping daemons, and undoing what dead ones have left."""

import os
import select
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from isotherm.core.errors import IsothermError, NotPermittedError, UsageError
from isotherm.daemon.rundir import RunDirectory, RunRecord
from isotherm.daemon.waiting import STOP_SIGNAL


@dataclass(slots=True)
class Stopped:
    """What became of a call to stop.

    Attributes:
        stopped: Daemons that have restored everything and moved their last page.
        recovered: What was undone after daemons that had been killed.
    """

    stopped: list[RunRecord] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)


def choose(
    runs: Sequence[RunRecord], pids: Sequence[int], *, every: bool
) -> list[RunRecord]:
    """Return the runs that are meant.

    Args:
        runs: Those that are alive.
        pids: Of daemons, or of processes that they were told to manage; empty with
            one run: that one.
        every: All of them.

    Raises:
        UsageError: Nobody is meant, or it is not clear who.
    """
    if every:
        return list(runs)
    if pids:
        chosen = []
        for pid in pids:
            found = [run for run in runs if pid == run.pid or pid in run.pids]
            if not found:
                raise UsageError(
                    f"pid {pid}: no isotherm, and managed by none", hint=_list(runs)
                )
            chosen += [run for run in found if run not in chosen]
        return chosen
    if len(runs) > 1:
        raise UsageError(
            f"{len(runs)} runs: expected --all or the pid of one", hint=_list(runs)
        )
    return list(runs)


def stop(
    directory: RunDirectory,
    pids: Sequence[int] = (),
    *,
    every: bool = False,
    wait_s: float = 30.0,
) -> Stopped:
    """Stop daemons and wait until they have restored everything.

    A daemon that was started with a command lets it go on: it only stops managing.

    Raises:
        UsageError: It is not clear who is meant.
        NotPermittedError: A daemon is another user's, or the directory may be.
        IsothermError: A daemon did not answer in time.
    """
    done = Stopped(recovered=directory.recover())
    for run in choose(directory.runs(), pids, every=every):
        _stop_one(directory, run, wait_s)
        done.stopped.append(run)
    directory.tidy()
    return done


def _stop_one(directory: RunDirectory, run: RunRecord, wait_s: float) -> None:
    try:
        pidfd = os.pidfd_open(run.pid)
    except ProcessLookupError:
        return
    try:
        if not directory.is_alive(run):
            return  # it has ended, and its number is somebody else's
        signal.pidfd_send_signal(pidfd, STOP_SIGNAL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        record = directory.directory / f"run-{run.pid}.json"
        # A daemon with a command lives on; its record goes when all is restored.
        left_ms = wait_s * 1000
        while left_ms > 0 and record.exists():
            if poll.poll(50):
                return
            left_ms -= 50
        if record.exists():
            raise IsothermError(
                f"pid {run.pid}: has not stopped within {wait_s:g} s",
                hint=f"kill -9 {run.pid} && isotherm stop",
            )
    except PermissionError:
        raise NotPermittedError(
            f"pid {run.pid}: EPERM: another user's isotherm",
            hint="run as that user or as root",
        ) from None
    finally:
        os.close(pidfd)


def _list(runs: Sequence[RunRecord]) -> str:
    if not runs:
        return "no isotherm runs"
    return "; ".join(f"isotherm stop {run.pid} ({run.targets})" for run in runs)
