"""isotherm run --user on a real kernel: as a run in one process, with no rights."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isotherm.core.errors import IsothermError
from isotherm.daemon.asking import list_managed
from tests.vm.runs import LIMIT_S, RUN, Isotherm, pages_on

KDAMONDS = Path("/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds")
HOT_PAGES = 1024
NOBODY = 65534

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("quiet_kernel", "readable"),
]
Await = Callable[..., None]


@pytest.fixture(scope="module")
def readable() -> Iterator[None]:
    """Let everybody pass through the folders that Python and isotherm are in."""
    if not os.environ.get("VMTEST_LAYOUT"):
        yield
        return
    for file in (os.__file__, msgspec.__file__, __file__):
        for folder in Path(file).resolve().parents:
            mode = folder.stat().st_mode & 0o7777
            if mode & 0o5 != 0o5:
                folder.chmod(mode | 0o5)
    yield  # the guest's changes go with it


def session_of(run: Isotherm, await_true: Await) -> int:
    """Return the process that a run's mover has started."""
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children")

    def is_split() -> bool:
        assert run.process.poll() is None, run.said
        pids = children.read_text().split()
        return len(pids) == 1 and status(int(pids[0]))["Uid"].split()[0] != "0"

    await_true(is_split, "the run is split", LIMIT_S)
    return int(children.read_text())


def status(pid: int) -> dict[str, str]:
    """Return what ``/proc/PID/status`` says."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name: value.strip() for name, _, value in pairs}


def is_alive(pid: int) -> bool:
    """Return whether a process runs."""
    try:
        return status(pid)["State"][0] not in "ZX"
    except OSError:
        return False


def test_hot_memory_is_moved_up_by_a_session_without_rights(
    target: Any, isotherm: Callable[..., Isotherm], await_true: Await
) -> None:
    """The hot set ends in the fast node; who decides is nobody and may do nothing.

    Root and the session's user see it and can stop it; nothing is left.
    """
    assert 0 == pages_on(target.pid, target.hot, 0)
    run = isotherm("run", "--user", "nobody", "--pid", str(target.pid), "--json")
    session = session_of(run, await_true)
    await_true(
        lambda: (
            pages_on(target.pid, target.hot, 0) >= 0.95 * HOT_PAGES
            or run.process.poll() is not None
        ),
        "the hot pages are on node 0",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    said = status(session)
    assert [str(NOBODY)] * 4 == said["Uid"].split()
    assert [str(NOBODY)] * 4 == said["Gid"].split()
    assert "" == said["Groups"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"):
        assert 0 == int(said[name], 16), name
    assert "1" == said["NoNewPrivs"]
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    asked = isotherm("explain", "--pid", str(target.pid), "--json")
    assert 0 == asked.end()[0], asked.said
    asked = isotherm("explain", "--pid", str(target.pid), "--json", prefix=nobody)
    assert 0 == asked.end()[0], asked.said
    stopped = isotherm("stop", "--wait", str(LIMIT_S), prefix=nobody)
    assert 0 == stopped.end()[0], stopped.said
    code, out = run.end()
    assert 0 == code, run.said
    result = json.loads(out)
    assert result["promoted_pages"] >= 0.95 * HOT_PAGES
    assert "asked" == result["reason"]
    assert not is_alive(session)
    assert not RUN.exists(), list(RUN.rglob("*"))


@pytest.mark.parametrize(
    "victim", [pytest.param("session", marks=pytest.mark.slow_vm), "mover"]
)
def test_a_kill_leaves_no_orphan_and_the_host_as_it_was(
    victim: str,
    target: Any,
    isotherm: Callable[..., Isotherm],
    await_true: Await,
) -> None:
    """The mover restores when its session is killed; the next stop when it is."""
    run = isotherm(
        "run", "--user", "nobody", "--pid", str(target.pid), "--hints", "damon"
    )
    session = session_of(run, await_true)

    def looks() -> bool:
        assert run.process.poll() is None, run.said
        with suppress(IsothermError):
            return KDAMONDS.read_text().strip() == "1" and bool(list_managed(RUN))
        return False

    await_true(looks, "DAMON looks", LIMIT_S)
    os.kill(session if victim == "session" else run.process.pid, signal.SIGKILL)
    run.process.wait(LIMIT_S)
    await_true(lambda: not is_alive(session), "the session has ended", LIMIT_S)
    if victim == "session":
        assert 128 + signal.SIGKILL == run.process.returncode, run.said
    else:
        assert "1" == KDAMONDS.read_text().strip()
        stopped = isotherm("stop", "--all")
        assert 0 == stopped.end()[0], stopped.said
        assert "kdamonds stopped and removed" in stopped.said
    assert "0" == KDAMONDS.read_text().strip()
    assert not RUN.exists(), list(RUN.rglob("*"))
    assert target.poll() is None


@pytest.mark.slow_vm
def test_a_signal_is_passed_on(
    target: subprocess.Popen[str], isotherm: Callable[..., Isotherm], await_true: Await
) -> None:
    """SIGINT to the mover ends both, with the exit code of an interrupt."""
    run = isotherm("run", "--user", "nobody", "--pid", str(target.pid), "--dry-run")
    session = session_of(run, await_true)
    await_true(lambda: "hints=" in run.said or run.process.poll(), "it runs", LIMIT_S)
    run.process.send_signal(signal.SIGINT)
    assert 130 == run.end()[0], run.said
    assert not is_alive(session)
    assert not RUN.exists(), list(RUN.rglob("*"))


@pytest.mark.slow_vm
@pytest.mark.parametrize("source", ["hint-fault", "accessed-range", "damon"])
def test_a_cgroup_is_looked_at_with_each_source(
    source: str,
    target: Any,
    cgroup: Path,
    isotherm: Callable[..., Isotherm],
    await_true: Await,
) -> None:
    """A member's hot pages move up with what the mover opens for each source."""
    (cgroup / "cgroup.procs").write_text(str(target.pid))
    other = ("--with-other-movers",) if source == "hint-fault" else ()
    if other:
        Path("/proc/sys/kernel/numa_balancing").write_text("1")
    run = isotherm(
        "run", "--user", "nobody", "--cgroup", cgroup.name, "--hints", source, *other,
        "--json",
    )  # fmt: skip
    await_true(
        lambda: (
            pages_on(target.pid, target.hot, 0) > 0 or run.process.poll() is not None
        ),
        "hot pages are on node 0",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    stopped = isotherm("stop", "--all")
    assert 0 == stopped.end()[0], stopped.said
    code, out = run.end()
    assert 0 == code, run.said
    result = json.loads(out)
    assert [source] == [one["name"] for one in result["sources"]]
    assert [target.pid] == result["pids"]
    assert result["promoted_pages"] > 0
    assert not RUN.exists(), list(RUN.rglob("*"))
