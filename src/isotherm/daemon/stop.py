"""Stopping daemons, and undoing what dead ones have left."""

import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from isotherm.core.changes import HostChanges
from isotherm.core.errors import IsothermError, NotPermittedError, UsageError
from isotherm.daemon.rundir import RunDirectory, RunRecord, start_ticks
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
    wait_s: float = 60.0,
) -> Stopped:
    """Stop daemons and wait until they have restored everything.

    A daemon that was started with a command lets it go on: it only stops managing.

    Raises:
        UsageError: It is not clear who is meant.
        NotPermittedError: A daemon is another user's, or the directory may be.
        IsothermError: A daemon did not answer in time; the others have stopped.
    """
    try:
        chosen = choose(directory.runs(), pids, every=every)
    except UsageError:
        directory.recover()
        raise
    with ExitStack() as stack:
        asked = []
        refused: list[IsothermError] = []
        # All of them first: none goes on moving while another takes its time.
        for run in chosen:
            try:
                pidfd = _ask(directory, run)
            except IsothermError as error:
                refused.append(error)
                continue
            if pidfd is not None:
                stack.callback(os.close, pidfd)
                asked.append((run, pidfd))
        done = Stopped(recovered=directory.recover())
        until_s = time.monotonic() + wait_s
        for run, pidfd in asked:
            if _has_stopped(directory, run, pidfd, until_s):
                done.stopped.append(run)
            else:
                refused.append(_deaf(run, wait_s))
        if asked:  # one may have been killed meanwhile
            done.recovered += directory.recover()
    directory.tidy()
    if refused:
        raise refused[0]
    return done


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call to stop would do.

    Attributes:
        stops: Daemons that would be told.
        restores: What they would put back.
        recovers: What would be put back after daemons that have been killed.
    """

    stops: list[RunRecord]
    restores: list[str]
    recovers: list[str]


def plan(
    directory: RunDirectory,
    pids: Sequence[int] = (),
    *,
    every: bool = False,
    only_recover: bool = False,
) -> Plan:
    """Return what ``stop`` would do; nothing is changed, and nobody told.

    Args:
        directory: Where daemons leave word.
        pids: As in ``stop``.
        every: Likewise.
        only_recover: Nobody is to stop.

    Raises:
        UsageError: It is not clear who is meant.
        NotPermittedError: The directory is not ours alone.
    """
    chosen = [] if only_recover else choose(directory.runs(), pids, every=every)
    stops = {run.pid for run in chosen}
    restores: list[str] = []
    recovers: list[str] = []
    for journal in sorted(directory.directory.glob("run-*.journal")):
        number = journal.stem.removeprefix("run-")
        pid = int(number) if number.isdecimal() else 0
        if pid not in stops and start_ticks(pid) is not None:
            continue  # another that runs, or one that has not left word yet
        said = restores if pid in stops else recovers
        try:
            said += HostChanges.peek(journal)
        except FileNotFoundError:
            continue  # it has ended meanwhile
        except OSError as error:
            said.append(f"cannot be read: {journal}: {error.strerror}")
        except IsothermError as error:
            said.append(f"cannot be read: {error.message}")
    return Plan(chosen, restores, recovers)


def _ask(directory: RunDirectory, run: RunRecord) -> int | None:
    """Tell a daemon to stop; return its pidfd, None where it has ended.

    Raises:
        NotPermittedError: It is another user's.
    """
    try:
        pidfd = os.pidfd_open(run.pid)
    except ProcessLookupError:
        return None
    try:
        if directory.is_alive(run):  # else its number is somebody else's
            signal.pidfd_send_signal(pidfd, STOP_SIGNAL)
            return pidfd
    except ProcessLookupError:
        pass
    except PermissionError:
        os.close(pidfd)
        raise NotPermittedError(
            f"pid {run.pid}: EPERM: another user's isotherm",
            hint="run as that user or as root",
        ) from None
    os.close(pidfd)
    return None


def _has_stopped(
    directory: RunDirectory, run: RunRecord, pidfd: int, until_s: float
) -> bool:
    """Wait until a daemon has ended or put everything back; return whether it has.

    A daemon with a command lives on; its record goes when all is restored.
    """
    record = directory.directory / f"run-{run.pid}.json"
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while record.exists():
        if poll.poll(50):
            return True
        if time.monotonic() >= until_s:
            return not record.exists()
    return True


def _deaf(run: RunRecord, wait_s: float) -> IsothermError:
    return IsothermError(
        f"pid {run.pid}: has not stopped within {wait_s:g} s",
        hint=f"of a service: systemctl stop isotherm; else kill -9 {run.pid}"
        " && isotherm stop",
    )


def _list(runs: Sequence[RunRecord]) -> str:
    if not runs:
        return "no isotherm runs"
    return "; ".join(f"isotherm stop {run.pid} ({run.targets})" for run in runs)
