"""Processes that unmap, fork, exec and end under a live machine."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import TargetGoneError
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.targets.follow import EventKind
from isotherm.machine.protocol import NOT_PRESENT
from tests.vm.puppet import CHILD, FAST, SLOW, Puppet, flat, move, on_node

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet_kernel")]


def test_what_was_unmapped_or_has_ended_is_data(
    puppet: Puppet, follow: Callable[..., LinuxMachine]
) -> None:
    """ENOENT for pages that went, ESRCH for a process; then the spaces are void."""
    page = puppet.do("take(1024, node=1)")
    machine = follow(puppet.pid)
    ours = flat(machine, puppet.pid, page, 1024)
    puppet.do(f"libc.munmap(ctypes.c_long({page} << 12), 512 << 12)")
    code = move(machine, ours, FAST)
    assert {errno.ENOENT, errno.EFAULT} >= set(code[:512])
    assert [0] * 512 == code[512:]
    change = machine.refresh()
    assert change is not None
    assert change.holds(ours[:512]).all()
    assert not change.holds(ours[512:]).any()
    assert {NOT_PRESENT} == set(machine.placement()[ours[:512]].tolist())
    puppet.end()
    assert {errno.ESRCH} == set(move(machine, ours[512:], SLOW))
    change = machine.refresh()
    assert change is not None
    assert change.holds(ours[512:]).all()
    assert () == machine.spaces
    assert {errno.ENOENT} == set(move(machine, ours, SLOW))
    assert EventKind.EXITED == machine.take_events()[-1].kind


def test_a_recycled_pid_is_never_touched(
    puppet: Puppet,
    start: Callable[..., subprocess.Popen[str]],
    follow: Callable[..., LinuxMachine],
) -> None:
    """A stranger with the same number is not moved, not read and not followed."""
    page = puppet.do("take(64, node=1)")
    machine = follow(puppet.pid)
    ours = flat(machine, puppet.pid, page, 64)
    held = Process(puppet.pid)
    puppet.end()
    stranger = None
    for _ in range(50):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(puppet.pid - 1))
        stranger = Puppet(start(CHILD))
        if stranger.pid == puppet.pid:
            break
    assert stranger is not None
    assert puppet.pid == stranger.pid, "the number was not given out again"
    there = stranger.do("take(64, node=1)")
    assert {errno.ESRCH} == set(move(machine, ours, FAST))
    assert 64 == on_node(stranger.pid, there, SLOW)
    with pytest.raises(TargetGoneError):
        held.mappings()
    with pytest.raises(TargetGoneError):
        held.pagemap(there, there + 1)
    machine.refresh()
    machine.refresh()
    assert () == machine.spaces
    held.close()


def test_forks_and_execs_are_followed(
    puppet: Puppet,
    follow: Callable[..., LinuxMachine],
    await_true: Callable[..., None],
) -> None:
    """A child gets spaces of its own; a new program voids the old one's."""
    puppet.do("take(1024)")
    machine = follow(puppet.pid)
    child = puppet.do("os.fork() or time.sleep(1000)")

    def both() -> bool:
        machine.refresh()  # a process a time, where reading takes long
        return {puppet.pid, child} == set(machine.space_map.pids())

    await_true(both, "the child's spaces")
    owners = {space.owner.rpartition(" ")[0] for space in machine.spaces}
    assert {f"pid {puppet.pid}", f"pid {child}"} == owners
    before = machine.space_map.ranges(puppet.pid)
    puppet.process.stdin.write("os.execv('/bin/sleep', ['sleep', '1000'])\n")  # type: ignore[union-attr]
    puppet.process.stdin.flush()  # type: ignore[union-attr]
    name = Path(f"/proc/{puppet.pid}/comm")
    await_true(lambda: name.read_text() == "sleep\n", "an exec")
    change = machine.refresh()
    assert change is not None
    old = before[:, 2].astype(np.uint32)
    assert change.holds(old).all()
    kinds = [event.kind for event in machine.take_events()]
    assert EventKind.EXEC in kinds
    os.kill(child, 9)

    def alone() -> bool:
        machine.refresh()
        return (puppet.pid,) == machine.space_map.pids()

    await_true(alone, "the end of the child")
