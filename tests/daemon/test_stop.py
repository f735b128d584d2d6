"""isotherm stop: who is meant, and waiting until all is back."""

import os
import signal
import subprocess
import sys

import pytest

from isotherm.cli.main import main
from isotherm.core.errors import IsothermError, UsageError
from isotherm.daemon.rundir import RunDirectory, RunRecord
from isotherm.daemon.stop import choose, stop

DAEMON = """
import os, sys
from pathlib import Path
from isotherm.core.changes import HostChanges
from isotherm.daemon.rundir import RunDirectory, RunRecord, start_ticks
from isotherm.daemon.waiting import Waiter
runs = RunDirectory(Path(sys.argv[1]))
with Waiter() as waiter:
    changes = HostChanges(runs.journal)
    changes.write(Path(sys.argv[2]), 1)
    runs.announce(RunRecord(pid=os.getpid(), start_ticks=start_ticks(os.getpid()),
        since_s=0.0, mover="isotherm", targets="pid 4242", pids=(4242,), command=()))
    print("ready", flush=True)
    while not waiter.wait(3600):
        pass
    if sys.argv[3:]:
        os.kill(os.getpid(), 19)
    changes.restore()
    changes.close()
    runs.close()
"""


def record(pid, *pids):
    """Return what a daemon says of itself."""
    return RunRecord(
        pid=pid,
        start_ticks=1,
        since_s=0.0,
        mover="isotherm",
        targets=f"pid {pids}",
        pids=pids,
        command=(),
    )


@pytest.fixture
def daemon(tmp_path):
    """Return a function that starts a process that behaves as a daemon does."""
    (tmp_path / "knob").write_text("0\n")
    begun = []

    def start(*words):
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                DAEMON,
                str(tmp_path / "run"),
                str(tmp_path / "knob"),
                *words,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        begun.append(child)
        assert child.stdout is not None
        assert "ready\n" == child.stdout.readline()
        return child

    yield start
    for child in begun:
        child.kill()
        child.wait()
        child.stdout.close()


def test_one_run_needs_no_name():
    """The only run is meant; of several none is by default."""
    one, two = record(10, 4242), record(11, 4243, 4244)
    assert [one] == choose([one], (), every=False)
    assert [] == choose([], (), every=False)
    with pytest.raises(UsageError) as error:
        choose([one, two], (), every=False)
    assert "2 runs: expected --all or the pid of one" == error.value.message
    assert "isotherm stop 11" in str(error.value.hint)
    assert [one, two] == choose([one, two], (), every=True)


def test_a_run_is_named_by_itself_or_by_what_it_manages():
    """Both pids find it, once."""
    one, two = record(10, 4242), record(11, 4243, 4244)
    assert [two] == choose([one, two], (11, 4244), every=False)
    assert [one] == choose([one, two], (4242,), every=False)
    with pytest.raises(UsageError, match="pid 9: no isotherm"):
        choose([one, two], (9,), every=False)


def test_it_waits_until_all_is_put_back(daemon, tmp_path):
    """After stop the knob is back and the run directory gone."""
    child = daemon()
    assert "1\n" == (tmp_path / "knob").read_text()
    done = stop(RunDirectory(tmp_path / "run"))
    assert [child.pid] == [run.pid for run in done.stopped]
    assert "0\n" == (tmp_path / "knob").read_text()
    child.wait()
    assert 0 == child.returncode
    assert not (tmp_path / "run").exists()


def test_what_a_killed_one_has_left_is_undone(daemon, tmp_path):
    """With nobody alive stop still recovers."""
    child = daemon()
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = stop(RunDirectory(tmp_path / "run"), every=True)
    assert [] == done.stopped
    assert [f"{tmp_path}/knob: '1' -> '0'"] == done.recovered
    assert not (tmp_path / "run").exists()


def test_recovering_stops_nobody(daemon, tmp_path, monkeypatch, capsys):
    """A run goes on; what it leaves when it is killed is put back."""
    monkeypatch.setenv("ISOTHERM_RUN_DIRECTORY", str(tmp_path / "run"))
    child = daemon()
    assert 0 == main(["stop", "--recover"])
    assert child.poll() is None
    assert "1\n" == (tmp_path / "knob").read_text()
    assert 2 == main(["stop", "--recover", "--all"])
    child.send_signal(signal.SIGKILL)
    child.wait()
    capsys.readouterr()
    assert 0 == main(["stop", "--recover"])
    assert "0\n" == (tmp_path / "knob").read_text()
    assert f"recovered: {tmp_path}/knob: '1' -> '0'\n" == capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_nobody(daemon, tmp_path, monkeypatch, capsys):
    """Who would be stopped and what put back; the run and its files stay."""
    monkeypatch.setenv("ISOTHERM_RUN_DIRECTORY", str(tmp_path / "run"))
    assert 0 == main(["stop", "--all", "--dry-run"])
    assert "no isotherm runs, nothing to put back\n" == capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    child = daemon()

    def files():
        return {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}

    before = files()
    assert 0 == main(["stop", "--all", "--dry-run"])
    back = f"{tmp_path}/knob: '1' -> '0'\n"
    said = f"would stop {child.pid}: pid 4242\nwould put back: {back}"
    assert said == capsys.readouterr().out
    assert 0 == main(["stop", "--recover", "--dry-run"])
    assert "no isotherm runs, nothing to put back\n" == capsys.readouterr().out
    assert 2 == main(["stop", "9", "--dry-run"])
    capsys.readouterr()
    assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 0 == main(["stop", "--dry-run"])
    assert f"would recover: {back}" == capsys.readouterr().out
    assert ("1\n", before) == ((tmp_path / "knob").read_text(), files())


def test_one_that_does_not_answer_is_told(daemon, tmp_path):
    """A daemon that hangs is named after the time is over, with a way out."""
    child = daemon("hang")
    with pytest.raises(IsothermError) as error:
        stop(RunDirectory(tmp_path / "run"), wait_s=0.1)
    assert f"pid {child.pid}: has not stopped within 0.1 s" == error.value.message
    os.kill(child.pid, signal.SIGCONT)


def test_one_that_does_not_answer_holds_up_nobody_else(daemon, tmp_path):
    """All are told before anybody is waited for, and the others stop."""
    deaf, other = daemon("hang"), daemon()  # told by number, the older one first
    with pytest.raises(IsothermError, match=f"pid {deaf.pid}: has not stopped"):
        stop(RunDirectory(tmp_path / "run"), every=True, wait_s=0.1)
    other.wait(60)
    assert 0 == other.returncode
