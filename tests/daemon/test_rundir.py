"""The run directory: locks, records, and what killed daemons leave."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isotherm.daemon.rundir import (
    HOST,
    RunDirectory,
    RunRecord,
    run_directory,
    start_ticks,
)

CHILD = """
import os, signal, sys
from pathlib import Path
from isotherm.core.changes import HostChanges
from isotherm.daemon.rundir import *
runs = RunDirectory(Path(sys.argv[1]))
changes = HostChanges(runs.journal)
changes.write(Path(sys.argv[2]), 1)
runs.lock([4242, HOST])
runs.announce(RunRecord(pid=os.getpid(), start_ticks=start_ticks(os.getpid()),
    since_s=0.0, mover="isotherm", targets="pid 4242", pids=(4242,), command=()))
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def knob(tmp_path):
    """Return a file like those in sysfs."""
    path = tmp_path / "knob"
    path.write_text("0\n")
    return path


@pytest.fixture
def daemon(tmp_path, knob):
    """Start a process that has locked, announced and changed."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "run"), str(knob)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert "ready\n" == child.stdout.readline()
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_target_is_managed_once(tmp_path, daemon):
    """Who holds a process is named, with the command that stops it."""
    runs = RunDirectory(tmp_path / "run")
    taken = runs.lock([4241, 4242, HOST])
    assert [
        f"isotherm, pid {daemon.pid}, manages pid 4242",
        f"isotherm, pid {daemon.pid}, manages the kernel's movers",
    ] == [mover.why for mover in taken]
    assert {f"isotherm stop {daemon.pid}"} == {mover.command for mover in taken}
    assert all(mover.refuses for mover in taken)
    assert [daemon.pid] == [record.pid for record in runs.runs()]
    runs.close()


def test_recovery_leaves_a_living_daemon_alone(tmp_path, daemon, knob):
    """What a daemon that lives has changed stays changed."""
    runs = RunDirectory(tmp_path / "run")
    assert [] == runs.recover()
    assert "1\n" == knob.read_text()
    assert [daemon.pid] == [record.pid for record in runs.runs()]


def test_a_killed_daemon_is_cleaned_up(tmp_path, daemon, knob):
    """After SIGKILL locks are free, changes undone, and nothing is left."""
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    runs = RunDirectory(tmp_path / "run")
    assert [f"{knob}: '1' -> '0'"] == runs.recover()
    assert "0\n" == knob.read_text()
    assert [] == runs.lock([4242, HOST])
    assert [] == runs.runs()
    assert [] == runs.recover()
    runs.close()
    assert not (tmp_path / "run").exists()


def test_a_recycled_pid_is_no_daemon(tmp_path):
    """A record whose start time is another process's does not count."""
    runs = RunDirectory(tmp_path)
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    runs.announce(
        RunRecord(
            pid=os.getpid(),
            start_ticks=ticks + 1,
            since_s=0.0,
            mover="isotherm",
            targets="",
            pids=(),
            command=(),
        )
    )
    assert [] == runs.runs()


def test_locks_can_be_given_up(tmp_path, daemon):
    """Unlocking one process keeps the others."""
    runs = RunDirectory(tmp_path / "run")
    assert [] == runs.lock([1, 2])
    runs.unlock([1])
    assert 1 == len(runs.lock([4242]))
    runs.close()


@pytest.mark.parametrize(
    ("environment", "uid", "expected"),
    [
        ({}, 0, "/run/isotherm"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/run/user/7/isotherm"),
        ({"ISOTHERM_RUN_DIRECTORY": "/x"}, 0, "/x"),
    ],
)
def test_where_it_is(environment, uid, expected):
    """Root's is under /run, a user's under the runtime directory."""
    assert Path(expected) == run_directory(environment, uid)
