"""Targets: named processes, their children, and cgroups."""

import os
import subprocess
import sys
import time

import pytest

from isotherm.core.errors import TargetGoneError, UsageError
from isotherm.daemon.targets import Targets

FAMILY = """
import os, signal, sys
if os.fork() == 0:
    if os.fork() == 0:
        os.write(1, f"{os.getpid()}\\n".encode())
        signal.pause()
    os.waitpid(-1, 0)
    os._exit(0)
os.write(1, f"{os.getpid()}\\n".encode())
signal.pause()
"""


@pytest.fixture
def family():
    """Start a process with a child and a grandchild; yield it and the last."""
    child = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    pids = {int(child.stdout.readline()) for _ in range(2)}
    (grandchild,) = pids - {child.pid}
    yield child, grandchild
    child.kill()
    child.wait()
    child.stdout.close()
    for pid in (grandchild,):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue


def test_children_are_followed(family):
    """A named process brings its children and theirs."""
    child, grandchild = family
    found = Targets([child.pid]).pids()
    assert 3 == len(found)
    assert {child.pid, grandchild} < set(found)


def test_orphans_are_followed(family):
    """A grandchild that has lost its parents is still ours."""
    child, grandchild = family
    targets = Targets([child.pid])
    assert grandchild in targets.pids()
    middle = next(pid for pid in targets.pids() if pid not in (child.pid, grandchild))
    os.kill(middle, 9)
    child.kill()
    child.wait()
    assert grandchild in targets.pids()


def test_gone_is_empty(family):
    """When all have ended there is nobody left."""
    child, _grandchild = family
    targets = Targets([child.pid])
    for pid in targets.pids():
        os.kill(pid, 9)
    child.wait()
    deadline = time.monotonic() + 10
    while targets.pids() and time.monotonic() < deadline:
        os.sched_yield()
    assert () == targets.pids()


def test_a_process_that_is_not_there():
    """A pid that nobody has ends with exit code 5."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(TargetGoneError) as error:
        Targets([child.pid])
    assert f"pid {child.pid}: no such process" == error.value.message
    assert 5 == error.value.exit_code


def test_kernel_threads_are_refused():
    """A kernel thread has no memory to manage."""
    if not os.path.exists("/proc/2/comm"):  # noqa: PTH110
        pytest.skip("pid 2 is no kernel thread in this container")
    with pytest.raises((UsageError, TargetGoneError), match="pid 2"):
        Targets([2])


def test_neither_or_both_is_a_usage_error():
    """Exactly one kind of target is named."""
    with pytest.raises(UsageError):
        Targets()
    with pytest.raises(UsageError):
        Targets([1], "x")


def test_a_cgroup_is_all_that_is_below(tmp_path):
    """Processes of a cgroup and of those below it, ourselves left out."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (tmp_path / "group/below").mkdir(parents=True)
    (tmp_path / "group/cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / "group/below/cgroup.procs").write_text(f"{child.pid}\n0\n")
    targets = Targets(cgroup=str(tmp_path / "group"))
    assert (child.pid,) == targets.pids()
    assert f"cgroup {tmp_path}/group" == str(targets)
    child.communicate(b"\n")
    assert () == targets.pids()


def test_a_cgroup_that_is_not_there(tmp_path):
    """The message says where it was looked for."""
    with pytest.raises(UsageError, match="looked in"):
        Targets(cgroup="missing")
    (tmp_path / "cgroup.procs").write_text("")
    with pytest.raises(TargetGoneError, match="no process is in this cgroup"):
        Targets(cgroup=str(tmp_path))
