"""Recording processes: what is put back, before it begins and when it ends."""

import signal
import subprocess
import sys

import pytest

from isotherm.core.changes import HostChanges
from isotherm.core.errors import IsothermError, UsageError
from isotherm.daemon import trace_record
from isotherm.daemon.trace_record import Wanted, record_processes

CHANGER = """
import os, sys
from pathlib import Path
from isotherm.core.changes import HostChanges
from isotherm.daemon.rundir import RunDirectory
HostChanges(RunDirectory(Path(sys.argv[1])).journal).write(Path(sys.argv[2]), 1)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def wanted(tmp_path, monkeypatch):
    """Return a wish that fails when its sources are chosen."""
    monkeypatch.setenv("ISOTHERM_RUN_DIRECTORY", str(tmp_path / "run"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as child:
        yield Wanted((child.pid,), tmp_path / "trace", hints=("no such source",))
        child.kill()


def test_what_a_killed_run_has_left_is_undone_first(tmp_path, wanted):
    """A recording undoes it as a run does: it would be looked at otherwise."""
    knob = tmp_path / "knob"
    knob.write_text("0\n")
    done = subprocess.run(
        [sys.executable, "-c", CHANGER, str(tmp_path / "run"), str(knob)], check=False
    )
    assert (-signal.SIGKILL, "1\n") == (done.returncode, knob.read_text())
    with pytest.raises(IsothermError):
        record_processes(wanted)
    assert "0\n" == knob.read_text()
    assert not (tmp_path / "run").exists()


def test_a_second_signal_does_not_end_the_restoring(tmp_path, wanted, monkeypatch):
    """SIGINT while changes are undone is taken, and they are undone to the end."""
    knobs = [tmp_path / name for name in ("a", "b")]

    class Interrupted(HostChanges):
        def restore(self, kind=None):
            signal.raise_signal(signal.SIGINT)
            return super().restore(kind)

    def change(runs):
        changes = Interrupted(runs.journal)
        for knob in knobs:
            knob.write_text("0\n")
            changes.write(knob, 1)
        return changes

    monkeypatch.setattr(trace_record, "_changes", change)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(UsageError, match="no such source"):
        record_processes(wanted)
    assert ["0\n", "0\n"] == [knob.read_text() for knob in knobs]
    assert before is signal.getsignal(signal.SIGINT)
    assert not (tmp_path / "run").exists()
