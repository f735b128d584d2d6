"""A run from start to end on this very host, whatever it offers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isotherm.core.errors import (
    NotPermittedError,
    TargetGoneError,
    UnsupportedError,
    UsageError,
)
from isotherm.daemon.config import Config, SourcesConfig
from isotherm.daemon.permitted import check_permitted
from isotherm.daemon.preflight import Request
from isotherm.daemon.rundir import RunDirectory
from isotherm.daemon.session import _wait_out, run_session
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


def test_a_recording_takes_a_package(tmp_path, monkeypatch):
    """Without it the run ends before anything is looked at, and names the extra."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnsupportedError, match="pyarrow is not installed") as error:
        run_session(request(tmp_path, tmp_path, record=tmp_path / "kept"))
    assert "pip install 'isotherm[trace]'" == error.value.hint
    assert [] == list(tmp_path.iterdir())


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
    assert "ISOTHERM_RUN_DIRECTORY names another place" in str(error.value.hint)


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


@pytest.fixture
def two_tiers(monkeypatch):
    """Have the check of tiers pass on any host."""
    monkeypatch.setattr("isotherm.daemon.session.check_tiers", lambda _: None)


@needs_root
def test_a_command_that_is_not_there(tree, tmp_path, two_tiers):
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
        assert "swap on zram" in str(error.value.hint)
    else:
        ended = run_session(asked)
        assert 0 == ended.code
        assert "duration" == ended.result["reason"]
        assert f"pid {sleeper.pid}" == ended.result["target"]
        assert ended.result["managed_pages"] > 0
        assert 0 == ended.result["costs"]["migration_s"]
    assert sleeper.poll() is None
    assert not (tmp_path / "run").exists()


def _marking(tmp_path):
    """Return a command that leaves a file behind, and the file."""
    mark = tmp_path / "mark"
    return ("sh", "-c", f"touch {mark}"), mark


def test_a_command_is_not_started_where_there_is_one_tier(tree, tmp_path, monkeypatch):
    """What would be refused a moment later is refused before anything runs."""

    def one_tier(_):
        raise UnsupportedError("this host has one memory tier")

    monkeypatch.setattr("isotherm.daemon.session.check_tiers", one_tier)
    command, mark = _marking(tmp_path)
    with pytest.raises(UnsupportedError, match="one memory tier"):
        run_session(request(tmp_path, tree, command=command))
    assert not mark.exists()
    assert not (tmp_path / "run").exists()


def test_a_command_is_not_started_with_sources_that_are_none(tree, tmp_path, two_tiers):
    """A misspelt source ends with 2 before the command runs."""
    command, mark = _marking(tmp_path)
    config = Config(sources=SourcesConfig(use=("damn",)))
    with pytest.raises(UsageError, match="got 'damn'; did you mean 'damon'"):
        run_session(request(tmp_path, tree, command=command, config=config))
    assert not mark.exists()


def test_a_command_is_not_started_without_a_place_to_record(tree, tmp_path, two_tiers):
    """A directory with other things in it is refused before the command runs."""
    command, mark = _marking(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds other files \(thesis.tex\)"):
        run_session(request(tmp_path, tree, command=command, record=other))
    assert not mark.exists()
    assert "years of work" == (other / "thesis.tex").read_text()


def test_a_command_that_does_not_end_is_killed(tmp_path, tree, two_tiers, monkeypatch):
    """Where the run fails, a command that ignores SIGTERM holds nothing up."""
    pids = []

    def fail(found, *_, **__):
        pids.extend(found)
        # It has got so far that it ignores the signal.
        while not (tmp_path / "deaf").exists():
            os.sched_yield()
        raise UnsupportedError("not here")

    monkeypatch.setattr("isotherm.daemon.session.open_host", fail)
    monkeypatch.setattr("isotherm.daemon.session.PATIENCE_S", 0.2)
    deaf = f"trap '' TERM; touch {tmp_path}/deaf; while :; do sleep 1; done"
    with pytest.raises(UnsupportedError, match="not here"):
        run_session(request(tmp_path, tree, command=("sh", "-c", deaf)))
    assert not Path(f"/proc/{pids[0]}").exists()


def test_the_kernel_mover_looks_before_it_says_that_all_are_gone():
    """A fork that outlives its parent is found by the look, and goes on."""
    found = []
    reason = _wait_out(
        lambda _: len(found) == 3, None, lambda: bool(found), lambda: found.append(1)
    )
    assert ("asked", 3) == (reason, len(found))


def test_a_command_that_ends_at_once_has_its_status_passed_on(
    tmp_path, tree, two_tiers, monkeypatch
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


def test_a_run_can_be_stopped_while_its_sources_open(
    tree, sleeper, tmp_path, two_tiers, monkeypatch
):
    """It is there for isotherm stop before anything is opened, and gone after."""
    seen = []

    def open_slowly(*_, **__):
        runs = RunDirectory(tmp_path / "run").runs()
        seen.extend((record.pid, record.pids) for record in runs)
        raise UnsupportedError("nothing to look with")

    monkeypatch.setattr("isotherm.daemon.session.open_host", open_slowly)
    with pytest.raises(UnsupportedError, match="nothing to look with"):
        run_session(request(tmp_path, tree, pids=(sleeper.pid,)))
    assert [(os.getpid(), (sleeper.pid,))] == seen
    assert not (tmp_path / "run").exists()
