"""Whose memory isotherm run manages: a cgroup, forks, a command; nobody else's."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isotherm.daemon.rundir import RunDirectory
from tests.vm.runs import HOT_AND_COLD, LIMIT_S, RUN, Isotherm, finish, pages_on

HOT_PAGES = 1024
KDAMONDS = Path("/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("quiet_kernel"),
]

#: A process with a child that puts memory on the slow node and touches it.
FORKING = """
import ctypes, mmap, os, sys, time
parent = os.getpid()
if os.fork():
    sys.stdin.readline()
    os._exit(0)
libc = ctypes.CDLL(None)
libc.syscall(238, 2, ctypes.byref(ctypes.c_ulong(2)), 64)  # set_mempolicy, bind
memory = mmap.mmap(-1, 1024 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(1024):
    memory[page * 4096] = 1
libc.syscall(238, 0, None, 0)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print(os.getpid(), start, flush=True)
while os.getppid() == parent:
    memory[::4096]
    time.sleep(0.02)
"""


def managers(pid: int) -> list[str]:
    """Return who has a process locked, as another isotherm is told."""
    runs = RunDirectory(RUN)
    taken = [mover.why for mover in runs.lock((pid,))]
    runs.close()
    return taken


def mappings(target: Any) -> list[str]:
    """Return the mappings between a target's cold and hot memory, with flags."""
    found = []
    for line in Path(f"/proc/{target.pid}/smaps").read_text().splitlines():
        span, _, _ = line.partition(" ")
        first, dash, last = span.partition("-")
        if dash:
            inside = int(first, 16) >= target.cold and int(last, 16) <= target.end
        if inside and (dash or line.startswith("VmFlags")):
            found.append(line)
    return found


def test_a_cgroup_is_managed_and_nobody_else(
    target: Any,
    isotherm: Callable[..., Isotherm],
    start: Callable[..., Any],
    cgroup: Path,
    await_true: Callable[..., None],
) -> None:
    """A member's hot pages move up, a stranger's none; both for one isotherm only."""
    words = [sys.executable, "-S", "-E", str(HOT_AND_COLD), "1", "4", "8"]
    stranger = start(words)
    hot = int(stranger.stdout.readline().split()[1])
    (cgroup / "cgroup.procs").write_text(str(target.pid))
    run = isotherm("run", "--cgroup", cgroup.name, "--json")
    await_true(
        lambda: (
            pages_on(target.pid, target.hot, 0) >= 0.95 * HOT_PAGES
            or run.process.poll() is not None
        ),
        "the member's hot pages are on node 0",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    held = [f"isotherm, pid {run.process.pid}, manages pid {target.pid}"]
    assert (held, []) == (managers(target.pid), managers(stranger.pid))
    other = isotherm("run", "--pid", str(target.pid))
    assert 3 == other.end()[0], other.said
    assert held[0] in other.said
    run.process.terminate()
    code, out = run.end()
    assert 0 == code, run.said
    result = json.loads(out)
    assert [target.pid] == result["pids"]
    assert 0 == pages_on(stranger.pid, hot, 0)
    assert "intact\n" == finish(stranger)
    assert "intact\n" == finish(target)
    assert 0 == target.wait()  # before its cgroup is emptied
    assert not RUN.exists()


def test_forks_are_managed_and_locked(
    isotherm: Callable[..., Isotherm],
    start: Callable[..., Any],
    await_true: Callable[..., None],
) -> None:
    """A child is followed; another isotherm that is asked for it is told by whom."""
    parent = start(FORKING)
    child, hot = map(int, parent.stdout.readline().split())
    run = isotherm("run", "--pid", str(parent.pid))
    await_true(
        lambda: (
            pages_on(child, hot, 0) >= 0.9 * HOT_PAGES or run.process.poll() is not None
        ),
        "the child's pages are on node 0",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    other = isotherm("run", "--pid", str(child))
    assert 3 == other.end()[0], other.said
    assert f"isotherm, pid {run.process.pid}, manages pid {child}" in other.said
    assert f"isotherm stop {run.process.pid}" in other.said
    parent.stdin.write("\n")
    parent.stdin.flush()
    assert 5 == run.end()[0], run.said
    assert not RUN.exists()


def test_a_command_goes_on_when_the_time_is_over(
    isotherm: Callable[..., Isotherm], await_true: Callable[..., None]
) -> None:
    """Its memory is managed for --duration; it runs on, and its status is passed."""
    words = (sys.executable, "-S", "-E", str(HOT_AND_COLD), "1", "4", "8")
    run = isotherm("run", "--duration", "8", "--", *words)
    assert run.process.stdout is not None
    ready, hot, _ = run.process.stdout.readline().split()
    assert "ready" == ready
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children")
    child = int(children.read_text())
    record = RUN / f"run-{run.process.pid}.json"
    await_true(
        lambda: "hints=" in run.said and not record.exists(),
        "the time is over",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    assert pages_on(child, int(hot), 0) > 0
    assert run.process.stdin is not None
    run.process.stdin.write("\n")
    run.process.stdin.flush()
    code, out = run.end()
    assert (0, "intact") == (code, out.splitlines()[0]), run.said
    assert not RUN.exists()


def test_intrusive_sources_leave_nothing_in_the_target(
    target: Any, isotherm: Callable[..., Isotherm]
) -> None:
    """Writes are tracked too; then mappings are as before and data is whole."""
    before = mappings(target)
    files = sorted(Path(f"/proc/{target.pid}/fd").iterdir())
    run = isotherm(
        "run", "--pid", str(target.pid), "--intrusive", "--duration", "8", "--json"
    )
    code, out = run.end()
    assert 0 == code, run.said
    result = json.loads(out)
    assert "duration" == result["reason"]
    assert "write-tracking" in {source["name"] for source in result["sources"]}
    assert before == mappings(target)
    assert files == sorted(Path(f"/proc/{target.pid}/fd").iterdir())
    assert "intact\n" == finish(target)
    assert 0 == target.wait()


def test_after_a_kill_kdamonds_are_removed(
    target: Any, isotherm: Callable[..., Isotherm], await_true: Callable[..., None]
) -> None:
    """SIGKILL leaves DAMON at work for nobody; stop takes it away."""
    run = isotherm("run", "--pid", str(target.pid), "--hints", "damon")
    await_true(
        lambda: KDAMONDS.read_text().strip() == "1" and "hints=" in run.said,
        "DAMON looks",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    run.process.kill()
    run.process.wait()
    assert "1" == KDAMONDS.read_text().strip()
    stopped = isotherm("stop", "--all")
    assert 0 == stopped.end()[0], stopped.said
    assert "kdamonds stopped and removed" in stopped.said
    assert "0" == KDAMONDS.read_text().strip()
    assert not RUN.exists()
