"""The run directory: locks, records, and what killed daemons leave."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from isotherm.core.changes import HostChanges
from isotherm.core.errors import NotPermittedError
from isotherm.daemon.rundir import (
    HOST,
    RunDirectory,
    RunRecord,
    run_directory,
    start_ticks,
)
from isotherm.daemon.stop import stop

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


LOCKER = """
import sys
from pathlib import Path
from isotherm.daemon.rundir import RunDirectory
assert [] == RunDirectory(Path(sys.argv[1])).lock([4242])
print("ready", flush=True)
input()
"""


@pytest.fixture
def sleeper():
    """Start a process that is no isotherm."""
    child = subprocess.Popen(["/bin/sleep", "600"])
    yield child
    child.kill()
    child.wait()


def planted(directory, pid):
    """Write a record of a process that never wrote one."""
    ticks = start_ticks(pid)
    assert ticks is not None
    record = RunRecord(
        pid=pid,
        start_ticks=ticks,
        since_s=0.0,
        mover="isotherm",
        targets="",
        pids=(),
        command=(),
    )
    directory.mkdir(mode=0o700)
    (directory / f"run-{pid}.json").write_bytes(msgspec.json.encode(record))


def test_a_file_alone_makes_no_daemon(tmp_path, sleeper):
    """A process gets no signal because a file names it and its start."""
    planted(tmp_path / "run", sleeper.pid)
    runs = RunDirectory(tmp_path / "run")
    assert [] == runs.runs()
    assert [] == stop(runs, every=True).stopped
    assert sleeper.poll() is None
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["writable", "link", "owner"])
def test_a_directory_that_others_may_have_made_is_refused(tmp_path, sleeper, knob, how):
    """Nothing in it is read, undone or signalled, and what is wrong is said."""
    made = tmp_path / "made"
    planted(made, sleeper.pid)
    changes = HostChanges(made / "run-1.journal")
    changes.write(knob, 1)
    del changes  # as if it had been killed
    if how == "writable":
        made.chmod(0o702)
    elif how == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root can give a directory to another user")
        os.chown(made, 65534, 65534)
    name = tmp_path / "run"
    name.symlink_to(made) if how == "link" else made.rename(name)
    runs = RunDirectory(name)
    for ask in (runs.runs, runs.recover, lambda: runs.lock([1]), lambda: stop(runs)):
        with pytest.raises(NotPermittedError, match=str(name)) as error:
            ask()
        assert "ISOTHERM_RUN_DIRECTORY" in str(error.value.hint)
    assert 4 == error.value.exit_code
    assert "1\n" == knob.read_text()
    assert sleeper.poll() is None


def test_a_journal_of_another_version_blocks_nobody(tmp_path, daemon, knob):
    """It is told, and left; the others are undone, and runs can be stopped."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    head = {"format": "isotherm-journal", "version": 9, "boot": boot}
    foreign = tmp_path / "run/run-1.journal"
    foreign.write_text(json.dumps(head) + "\n")
    foreign.chmod(0o600)
    daemon.kill()
    daemon.wait()
    done = stop(RunDirectory(tmp_path / "run"), every=True)
    assert sorted(
        [
            f"cannot be recovered: {foreign}: is of version 9, expected 1",
            f"{knob}: '1' -> '0'",
        ]
    ) == sorted(line.partition(" (")[0] for line in done.recovered)
    assert "remove the file" in "".join(done.recovered)
    assert foreign.exists()


def test_nobody_else_may_enter_it_whatever_the_umask(tmp_path):
    """Directory and lock file are their owner's."""
    before = os.umask(0)
    try:
        RunDirectory(tmp_path / "run").lock([1])
    finally:
        os.umask(before)
    paths = (tmp_path / "run", tmp_path / "run/targets.lock")
    assert [0o700, 0o600] == [path.stat().st_mode & 0o777 for path in paths]


def test_what_a_daemon_that_has_just_begun_has_left_stays(
    tmp_path, daemon, monkeypatch
):
    """Recovery asks the kernel about each file, not a list made before."""
    runs = RunDirectory(tmp_path / "run")
    (tmp_path / f"run/run-{daemon.pid}.sock").touch()
    (tmp_path / "run/run-4194304.sock").touch()
    monkeypatch.setattr(RunDirectory, "runs", lambda self: [])
    runs.recover()
    monkeypatch.undo()
    assert [daemon.pid] == [record.pid for record in runs.runs()]
    assert (tmp_path / f"run/run-{daemon.pid}.sock").exists()
    assert not (tmp_path / "run/run-4194304.sock").exists()


def test_the_lock_file_of_one_that_begins_stays(tmp_path):
    """Tidying up leaves it while somebody holds it; its locks still count."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert "ready\n" == child.stdout.readline()
        runs = RunDirectory(tmp_path / "run")
        runs.tidy()
        assert 1 == len(runs.lock([4242]))
        runs.close()
        assert (tmp_path / "run/targets.lock").exists()
        child.communicate("\n")
    runs.tidy()
    assert not (tmp_path / "run").exists()


def test_a_lock_file_that_goes_while_it_is_opened_is_made_anew(tmp_path, monkeypatch):
    """Who waits for one that is being removed does not lock a file without a name."""
    runs = RunDirectory(tmp_path / "run")
    real = fcntl.lockf
    removed = []

    def remove_first(file, *rest):
        if not removed:
            removed.append(file)
            shutil.rmtree(tmp_path / "run")
        real(file, *rest)

    monkeypatch.setattr(fcntl, "lockf", remove_first)
    assert [] == runs.lock([4242])
    held = os.fstat(runs._lock_file())
    assert os.path.samestat(held, (tmp_path / "run/targets.lock").stat())
    runs.close()


def test_a_directory_that_goes_meanwhile_is_no_error(tmp_path, monkeypatch):
    """Between the look and the list another isotherm, the last one, has ended."""
    monkeypatch.setattr("isotherm.daemon.rundir.check_private", lambda path: True)
    assert [] == RunDirectory(tmp_path / "gone").recover()
