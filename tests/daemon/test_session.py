"""A run from start to end on this very host, whatever it offers."""

import os
import signal
import subprocess
import sys

import pytest

from isotherm.core.errors import (
    NotPermittedError,
    TargetGoneError,
    UnsupportedError,
    UsageError,
)
from isotherm.daemon.permitted import check_permitted
from isotherm.daemon.preflight import Request
from isotherm.daemon.session import run_session
from isotherm.daemon.summary import describe
from isotherm.machine.linux.nodes import HostNodes

ALL = "CapEff:\t000001ffffffffff\n"
CHANGER = """
import os, sys
from pathlib import Path
from isotherm.core.changes import HostChanges
from isotherm.daemon.rundir import RunDirectory
HostChanges(RunDirectory(Path(sys.argv[1])).journal).write(Path(sys.argv[2]), 1)
os.kill(os.getpid(), 9)
"""

HOLDER = """
import sys
from pathlib import Path
from isotherm.daemon.rundir import RunDirectory
RunDirectory(Path(sys.argv[1])).lock([int(sys.argv[2])])
print("held", flush=True)
input()
"""

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: memory of another process is looked at"
)


@pytest.fixture
def sleeper():
    """Start a process that does nothing."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.communicate()


@pytest.fixture
def tree(tmp_path):
    """Return a tree in which we may do everything and nobody else moves."""
    (tmp_path / "tree/proc/self").mkdir(parents=True)
    (tmp_path / "tree/proc/self/status").write_text(f"Name:\tx\n{ALL}")
    return tmp_path / "tree"


def request(tmp_path, tree, **fields):
    """Return a request for a dry run of a second that leaves nothing on the host."""
    return Request(
        root=tree,
        run_directory=tmp_path / "run",
        dry_run=fields.pop("dry_run", True),
        duration_s=1.0,
        **fields,
    )


def test_missing_capabilities_are_named(tree):
    """Exit code 4, with the names as capabilities(7) has them."""
    check_permitted(tree)
    (tree / "proc/self/status").write_text("CapEff:\t0000000000800000\n")
    with pytest.raises(NotPermittedError) as error:
        check_permitted(tree)
    assert error.value.exit_code == 4
    assert error.value.message.endswith("lacks CAP_SYS_ADMIN, CAP_SYS_PTRACE")


@needs_root
@pytest.mark.slow
def test_nobody_is_told_once_and_changes_nothing(sleeper, tmp_path):
    """The command line, as the user nobody: one message, exit code 4."""
    done = subprocess.run(
        [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            sys.executable,
            "-m",
            "isotherm",
            "run",
            "--pid",
            str(sleeper.pid),
        ],
        env=os.environ | {"ISOTHERM_RUN_DIRECTORY": str(tmp_path / "run")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 4 == done.returncode
    assert "" == done.stdout
    errors = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    missing = "CAP_SYS_NICE, CAP_SYS_ADMIN, CAP_SYS_PTRACE"
    assert [f"error: isotherm run: user 65534 lacks {missing}"] == errors
    assert not (tmp_path / "run").exists()


def test_a_target_that_is_gone(tree, tmp_path):
    """Exit code 5, before anything else is looked at."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(TargetGoneError) as error:
        run_session(request(tmp_path, tree, pids=(child.pid,)))
    assert f"pid {child.pid}: no such process" == error.value.message
    assert not (tmp_path / "run").exists()


def test_another_mover_is_refused_unless_told(tree, sleeper, tmp_path):
    """The kernel's own tiering is named; nothing has been written."""
    (tree / "proc/sys/kernel").mkdir(parents=True)
    (tree / "proc/sys/kernel/numa_balancing").write_text("2\n")
    with pytest.raises(UnsupportedError, match="numa-balancing-tiering"):
        run_session(request(tmp_path, tree, pids=(sleeper.pid,), dry_run=False))
    assert not (tmp_path / "run").exists()


def test_what_a_killed_run_has_left_is_undone_first(tree, sleeper, tmp_path, capfd):
    """The next start restores and says so, even where it then cannot run."""
    knob = tmp_path / "knob"
    knob.write_text("0\n")
    done = subprocess.run(
        [sys.executable, "-c", CHANGER, str(tmp_path / "run"), str(knob)], check=False
    )
    assert -signal.SIGKILL == done.returncode
    assert "1\n" == knob.read_text()
    (tree / "proc/sys/kernel").mkdir(parents=True)
    (tree / "proc/sys/kernel/numa_balancing").write_text("2\n")
    with pytest.raises(UnsupportedError):
        run_session(request(tmp_path, tree, pids=(sleeper.pid,), dry_run=False))
    assert "0\n" == knob.read_text()
    said = "".join(capfd.readouterr())
    assert "recovered" in said
    assert f"{knob}: '1' -> '0'" in said


def test_without_a_journal_nothing_is_done(tree, sleeper, tmp_path):
    """Where the journal cannot be made the run ends with 4."""
    (tmp_path / "run").write_text("a file is in the way")
    with pytest.raises(NotPermittedError) as error:
        run_session(request(tmp_path, tree, pids=(sleeper.pid,)))
    assert "ISOTHERM_RUN_DIRECTORY names another place" == error.value.hint


def test_another_isotherm_is_refused_by_name(tree, sleeper, tmp_path):
    """A process that somebody manages is refused, with the command that helps."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run"), str(sleeper.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert b"held\n" == holder.stdout.readline()
    with pytest.raises(UnsupportedError) as error:
        run_session(request(tmp_path, tree, pids=(sleeper.pid,), dry_run=False))
    assert (
        "another mover manages this memory: isotherm: isotherm, pid"
        f" {holder.pid}, manages pid {sleeper.pid}" == error.value.message
    )
    assert f"isotherm stop {holder.pid}, or --with-other-movers" == error.value.hint
    holder.communicate(b"\n")


@needs_root
def test_a_command_that_is_not_there(tree, tmp_path):
    """Exit code 2, and nothing is left."""
    with pytest.raises(UsageError, match="cannot be started: No such file"):
        run_session(request(tmp_path, tree, command=("/no/such/program",)))
    assert not (tmp_path / "run").exists()


@needs_root
@pytest.mark.slow
def test_a_dry_run_on_this_host(tree, sleeper, tmp_path):
    """With one tier it says so; with more it looks and moves nothing."""
    asked = request(tmp_path, tree, pids=(sleeper.pid,))
    if len(HostNodes().topology.tiers) < 2:
        with pytest.raises(UnsupportedError) as error:
            run_session(asked)
        assert "this host has one memory tier (node 0)" in error.value.message
        assert "vmtest" in str(error.value.hint)
    else:
        ended = run_session(asked)
        assert 0 == ended.code
        assert "duration" == ended.result["reason"]
        assert f"pid {sleeper.pid}" == ended.result["target"]
        assert ended.result["managed_pages"] > 0
        assert 0 == ended.result["costs"]["migration_s"]
    assert sleeper.poll() is None
    assert not (tmp_path / "run").exists()


def test_a_command_that_ends_at_once_has_its_status_passed_on(
    tmp_path, tree, monkeypatch
):
    """It is not there any more when its memory is looked at: that is no error."""

    def look(pids, *_, **__):
        os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOWAIT)
        raise TargetGoneError(f"pid {pids[0]}: no such process")

    monkeypatch.setattr("isotherm.daemon.session.open_host", look)
    ended = run_session(request(tmp_path, tree, command=("sh", "-c", "exit 7")))
    assert (7, "gone") == (ended.code, ended.result["reason"])
    assert ["the command had ended before its memory was looked at"] == describe(
        ended.result
    )
    assert not (tmp_path / "run").exists()
