"""Who is admitted, and who is not: strangers, recycled numbers, threads, ourselves."""

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isotherm.mover.scope import Rules, Scope

_CLONE3 = 435  # on every processor


def refusal(act: Callable[[], object]) -> int:
    """Return the errno with which something is refused; 0 if it is not."""
    try:
        act()
    except OSError as error:
        return error.errno or -1
    return 0


def admit(scope: Scope, pid: int) -> int:
    """Admit a process; return its handle."""
    handle, pidfd, _ = scope.admit(pid)
    os.close(pidfd)
    return handle


def clone_as(pid: int) -> None:
    """Start a process that sleeps, with a number that is free: clone3(2), set_tid.

    Raises:
        OSError: The number is taken, or we may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = (ctypes.c_int32 * 1)(pid)
    arguments = (ctypes.c_uint64 * 10)()
    arguments[4] = signal.SIGCHLD  # exit_signal
    arguments[8], arguments[9] = ctypes.addressof(numbers), 1  # set_tid
    words = [sys.executable, "-S", "-E", "-c", "import time; time.sleep(600)"]
    got = libc.syscall(_CLONE3, arguments, ctypes.sizeof(arguments))
    if got == 0:
        os.execv(words[0], words)  # noqa: S606  # what was cloned begins anew
    if got < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    assert pid == got


def test_named_processes_and_their_children(managed: Any, bystander: Any) -> None:
    """Who is named is admitted and so is what it forks, and what that forks."""
    child = int(managed.ask("fork"))
    stranger = int(bystander.ask("fork"))
    try:
        scope = Scope(Rules(pids=(managed.pid,)))
        assert errno.EPERM == refusal(lambda: scope.admit(bystander.pid))
        assert errno.EPERM == refusal(lambda: scope.admit(stranger))
        handles = [admit(scope, pid) for pid in (child, managed.pid)]
        for handle, pid in zip(handles, (child, managed.pid), strict=True):
            with scope.using(handle) as process:
                assert pid == process.pid
        scope.close()
    finally:
        for pid in (child, stranger):
            os.kill(pid, signal.SIGKILL)


def test_a_thread_is_no_process(managed: Any) -> None:
    """Its number is refused, though its process is managed."""
    scope = Scope(Rules(pids=(managed.pid,)))
    assert refusal(lambda: scope.admit(managed.tid)) in (errno.EINVAL, errno.ENOENT)
    scope.close()


@pytest.mark.parametrize("pid", [0, -1, 1 << 22 | 1, 1 << 40, -(1 << 62)])
def test_numbers_that_are_nobodys(pid: int) -> None:
    """They are refused before any system call."""
    scope = Scope(Rules())
    assert errno.EINVAL == refusal(lambda: scope.admit(pid))
    scope.close()


def test_isotherm_is_never_managed(tmp_path: Path) -> None:
    """Not even where it is a member of the cgroup that is."""
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    rules = Rules(pids=(os.getpid(),), cgroups=(tmp_path,))
    scope = Scope(rules, frozenset({os.getpid()}))
    assert errno.EPERM == refusal(lambda: scope.admit(os.getpid()))
    scope.close()


def test_a_number_that_is_given_out_again_names_nobody(managed: Any) -> None:
    """Another process gets the number of one that was managed: it is a stranger.

    Neither the handle of before nor a new request reaches it.
    """
    pid = managed.pid
    scope = Scope(Rules(pids=(pid,)))
    handle = admit(scope, pid)
    managed.end()
    try:
        clone_as(pid)
    except OSError as error:
        pytest.skip(f"clone3 with a number: {errno.errorcode[error.errno or 0]}")
    try:
        assert Path(f"/proc/{pid}").exists()
        assert errno.EPERM == refusal(lambda: scope.admit(pid))
        with pytest.raises(OSError, match="has ended"), scope.using(handle):
            pass
        assert errno.ESRCH == refusal(lambda: scope.handle_of(pid))
        assert not scope.may_lock(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        scope.close()


def test_who_leaves_the_cgroup_is_a_stranger(managed: Any, tmp_path: Path) -> None:
    """A member is looked for again once a second, and is none when it has left."""
    members = tmp_path / "cgroup.procs"
    members.write_text(f"{managed.pid}\n")
    now = [0.0]
    scope = Scope(Rules(cgroups=(tmp_path,)), clock=lambda: now[0])
    handle = admit(scope, managed.pid)
    members.write_text("")
    with scope.using(handle) as process:
        assert managed.pid == process.pid
    now[0] = 1.0
    with pytest.raises(OSError, match="no member"), scope.using(handle):
        pass
    assert errno.EPERM == refusal(lambda: scope.admit(managed.pid))
    scope.close()


def test_a_members_child_elsewhere_is_a_stranger(managed: Any, tmp_path: Path) -> None:
    """What a member forks into another cgroup is not managed."""
    (tmp_path / "cgroup.procs").write_text(f"{managed.pid}\n")
    child = int(managed.ask("fork"))
    try:
        scope = Scope(Rules(cgroups=(tmp_path,)))
        admit(scope, managed.pid)
        assert errno.EPERM == refusal(lambda: scope.admit(child))
        scope.close()
    finally:
        os.kill(child, signal.SIGKILL)


def test_what_is_not_locked_is_somebody_elses(managed: Any) -> None:
    """Without its lock a process is not admitted, and a handle is worth nothing."""
    locked = {managed.pid}
    rules = Rules(pids=(managed.pid,), locks=True)
    scope = Scope(rules, is_locked=lambda pid: pid in locked)
    handle = admit(scope, managed.pid)
    locked.clear()
    with pytest.raises(OSError, match="not locked"), scope.using(handle):
        pass
    assert errno.EPERM == refusal(lambda: scope.admit(managed.pid))
    assert scope.may_lock(managed.pid)
    scope.close()


def test_descriptors_stay_while_they_are_used(managed: Any) -> None:
    """A handle that is given back meanwhile closes nothing under a request."""
    scope = Scope(Rules(pids=(managed.pid,)))
    handle = admit(scope, managed.pid)
    with scope.using(handle) as process:
        scope.release(handle)
        assert process.alive()
        assert process.stat().threads >= 2
        assert errno.EBADF == refusal(lambda: scope.release(handle))
    assert not process.alive()  # closed now
    scope.close()
