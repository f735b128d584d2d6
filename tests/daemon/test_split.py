"""The life of a run in two processes: codes, signals, kills, and what is left."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from isotherm.core.errors import NotPermittedError, UsageError
from isotherm.daemon.config import Config
from isotherm.daemon.preflight import Request
from isotherm.daemon.rundir import RunDirectory
from isotherm.daemon.session_home import clear_homes, find_home, make_home
from isotherm.daemon.split import split
from isotherm.daemon.waiting import STOP_SIGNAL

SCRIPT = Path(__file__).parent / "split_session.py"
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives rights up")


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that everybody may pass through; its run directory in it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        (Path(name) / "setting").write_text("before\n")
        yield Path(name)


class Run:
    """A run of two processes under way."""

    def __init__(self, place: Path, pid: int, word: str) -> None:
        self.directory, self.setting = place / "run", place / "setting"
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, self.directory, str(pid), self.setting, word],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"ISOTHERM_KERNELS": "numpy"},
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline().split()
        assert said, self.process.communicate()[1]
        self.session, self.uid = int(said[0]), int(said[1])
        self.home = Path(said[2])

    def end(self) -> tuple[int, str]:
        """Wait for the mover; return exit code and what it said."""
        out, errors = self.process.communicate(timeout=60)
        return self.process.returncode, out + errors

    def is_over(self) -> bool:
        """Return whether the session has ended."""
        try:
            text = Path(f"/proc/{self.session}/stat").read_text()
        except OSError:
            return True
        return text.rpartition(")")[2].split()[0] in "ZX"


@pytest.fixture
def begin(place: Path) -> Iterator[Callable[[str], Run]]:
    """Return a function that begins a run of some process; killed with the test."""
    target = subprocess.Popen(["sleep", "600"])
    runs: list[Run] = []

    def start(word: str) -> Run:
        runs.append(Run(place, target.pid, word))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.communicate()
    target.kill()
    target.wait()


def await_end(run: Run) -> None:
    """Wait for the session's end."""
    until = time.monotonic() + 60
    while not run.is_over():
        assert time.monotonic() < until, "the session lives on"
        time.sleep(0.01)


@needs_root
@pytest.mark.slow
def test_the_code_is_passed_on_and_nothing_is_left(begin: Callable[[str], Run]) -> None:
    """The mover ends as its session does; settings and folders are as before."""
    run = begin("7")
    assert NOBODY == run.uid
    assert run.directory / str(NOBODY) == run.home
    code, said = run.end()
    assert (7, "before\n") == (code, run.setting.read_text()), said
    assert not run.directory.exists(), list(run.directory.rglob("*"))


@needs_root
@pytest.mark.slow
def test_root_sees_the_mover_and_signals_reach_the_session(
    begin: Callable[[str], Run],
) -> None:
    """Root's record is the mover's and names the session's socket."""
    run = begin("wait")
    assert "changed\n" == run.setting.read_text()
    (record,) = RunDirectory(run.directory).runs()
    assert run.process.pid == record.pid
    assert str(run.home / f"run-{run.session}.sock") == record.socket
    assert (run.home / f"run-{run.session}.json").exists()
    run.process.send_signal(signal.SIGTERM)
    code, said = run.end()
    assert (0, "before\n") == (code, run.setting.read_text()), said
    assert not run.directory.exists(), list(run.directory.rglob("*"))


@needs_root
@pytest.mark.slow
def test_a_session_that_does_not_listen_is_ended_all_the_same(
    begin: Callable[[str], Run],
) -> None:
    """Who asks for the end gets it, and all is put back, whatever the session does."""
    run = begin("deaf")
    run.process.send_signal(STOP_SIGNAL)
    code, said = run.end()
    assert (0, "before\n") == (code, run.setting.read_text()), said
    assert "does not end when asked to" in said
    assert not run.directory.exists(), list(run.directory.rglob("*"))


@needs_root
@pytest.mark.slow
def test_a_session_that_is_killed_is_put_back_at_once(
    begin: Callable[[str], Run],
) -> None:
    """The mover restores, says who ended it, and leaves nothing of the session."""
    run = begin("wait")
    os.kill(run.session, signal.SIGKILL)
    code, said = run.end()
    assert (137, "before\n") == (code, run.setting.read_text())
    assert "SIGKILL" in said
    assert not run.directory.exists(), list(run.directory.rglob("*"))


@needs_root
@pytest.mark.slow
def test_a_mover_that_is_killed_takes_its_session_along(
    begin: Callable[[str], Run],
) -> None:
    """No orphan lives; who looks next puts back what the journal says."""
    run = begin("wait")
    run.process.kill()
    run.end()
    await_end(run)
    assert "changed\n" == run.setting.read_text()
    runs = RunDirectory(run.directory)
    assert ["'changed' -> 'before'" in line for line in runs.recover()] == [True]
    runs.tidy()
    assert "before\n" == run.setting.read_text()
    assert not run.directory.exists(), list(run.directory.rglob("*"))


@needs_root
def test_homes_of_the_dead_are_cleared_and_others_left(place: Path) -> None:
    """One with files of a process that lives stays; what is not ours is not touched."""
    runs = place / "run"
    dead, live = make_home(runs, 4000001, 4000001), make_home(runs, 4000002, 4000002)
    assert 0o711 == runs.stat().st_mode & 0o777
    assert 0o700 == dead.stat().st_mode & 0o777
    assert (dead, None) == (find_home(4000001, runs), find_home(4000003, runs))
    (dead / "run-4194304.json").write_text("{}")
    (dead / "targets.lock").touch()
    (live / f"run-{os.getpid()}.json").write_text("{}")
    outside = place / "precious"
    outside.mkdir()
    (outside / "targets.lock").touch()
    (runs / "4000003").symlink_to(outside)
    clear_homes(runs, ())
    assert not dead.exists()
    assert live.exists()
    assert (outside / "targets.lock").exists()


@needs_root
def test_a_home_of_somebody_else_is_refused(place: Path) -> None:
    """What another user, or a link, has put there is not handed over."""
    runs = place / "run"
    home = make_home(runs, 4000001, 4000001)
    home.rename(runs / "4000002")
    with pytest.raises(NotPermittedError, match="belongs to user 4000001"):
        make_home(runs, 4000002, 4000002)
    (runs / "4000003").symlink_to("/etc")
    with pytest.raises(NotPermittedError, match="4000003"):
        make_home(runs, 4000003, 4000003)


def _request(**fields: object) -> Request:
    config = msgspec.convert({"privileges": {"user": "nobody"}}, Config)
    return Request(config=config, **fields)  # type: ignore[arg-type]  # of any kind


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"command": ("true",)}, "a command"),
        ({"mover": "kernel"}, "--mover kernel"),
        ({"intrusive": True}, "--intrusive"),
    ],
)
def test_what_cannot_be_split(
    fields: dict[str, object], what: str, tmp_path: Path
) -> None:
    """It is refused by name, and the way without a split is told."""
    with pytest.raises(UsageError, match=what) as caught:
        split(_request(**fields), (RunDirectory(tmp_path / "run"), []))
    assert '--user ""' in str(caught.value.hint)
    assert not (tmp_path / "run").exists()


def test_without_a_user_nothing_is_split(tmp_path: Path) -> None:
    """What was checked comes back as it is."""
    checked = (RunDirectory(tmp_path / "run"), [])
    with suppress(ChildProcessError):
        assert checked is split(Request(pids=(os.getpid(),)), checked)
