"""Pages that stay: shared, pinned, broken, locked, of a pool; each is told."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.mappings import MappingPolicy
from isotherm.machine.linux.spaces import NO_PAGE
from isotherm.machine.protocol import NOT_PRESENT
from tests.vm.puppet import FAST, SLOW, Puppet, flat, move, on_node

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet_kernel")]


def test_shared_pages_are_left_alone(
    puppet: Puppet, follow: Callable[..., LinuxMachine]
) -> None:
    """What a fork shares is EACCES and set aside; with move_all it moves."""
    page = puppet.do("take(64, node=1)")
    child = puppet.do("os.fork() or time.sleep(1000)")
    machine = follow(puppet.pid)
    ours = flat(machine, puppet.pid, page, 64)
    assert [errno.EACCES] * 64 == move(machine, ours, FAST)
    assert 64 == machine.unmovable_pages()["shared"]
    assert {SLOW} == set(machine.placement()[ours].tolist())
    forced = follow(puppet.pid, move_all=True)
    there = flat(forced, puppet.pid, page, 64)
    assert [0] * 64 == move(forced, there, FAST)
    assert 64 == on_node(puppet.pid, page, FAST)
    owners = {event.pid for event in machine.take_events()}
    assert {puppet.pid, child} <= owners
    os.kill(child, 9)


PIN = """
params = (ctypes.c_char * 120)(); ring = call(425, 4, ctypes.addressof(params)); \
vector = (ctypes.c_ulong * 2)({page} << 12, {pages} << 12); \
kept.append(call(427, ring, 0, ctypes.addressof(vector), 1))
""".strip()


def test_pinned_pages_are_found_out(
    puppet: Puppet, follow: Callable[..., LinuxMachine]
) -> None:
    """Pages that a ring holds stay each time: then they are not tried any more."""
    page = puppet.do("take(256, node=1)")
    # The pin itself moves pages out of movable zones only: they stay on node 1.
    puppet.do(PIN.format(page=page + 16, pages=32))
    assert 0 == puppet.do("kept[-1]"), "io_uring_register"
    machine = follow(puppet.pid)
    ours = flat(machine, puppet.pid, page, 256)
    held = slice(16, 48)
    code = move(machine, ours, FAST)
    assert [errno.EBUSY] * 32 == code[held]
    assert [0] * 224 == code[:16] + code[48:]
    end = time.monotonic() + 240
    while machine.unmovable_pages()["pinned"] < 32 and time.monotonic() < end:
        move(machine, ours, FAST)
    assert 32 == machine.unmovable_pages()["pinned"]
    assert [errno.EOPNOTSUPP] * 32 == move(machine, ours[held], FAST)
    assert 32 == on_node(puppet.pid, page, SLOW)


def test_a_broken_frame_is_no_memory(
    puppet: Puppet, follow: Callable[..., LinuxMachine]
) -> None:
    """A poisoned page is nowhere, is not moved and does not stop the others."""
    page = puppet.do("take(64, node=1)")
    puppet.do("kept.append(signal.signal(signal.SIGBUS, lambda *_: None))")
    code = f"libc.madvise(ctypes.c_long({page + 9} << 12), ctypes.c_long(4096), 100)"
    assert 0 == puppet.do(code), "MADV_HWPOISON"
    machine = follow(puppet.pid)
    ours = flat(machine, puppet.pid, page, 64)
    assert NOT_PRESENT == machine.placement()[ours[9]]
    moved = move(machine, ours, FAST)
    assert moved[9] in (errno.ENOENT, errno.EFAULT, 133)
    assert [0] * 63 == moved[:9] + moved[10:]
    assert NOT_PRESENT == machine.placement()[ours[9]]


def test_locked_memory_and_huge_page_pools_are_left_out(
    request: pytest.FixtureRequest,
    room: None,
    puppet: Puppet,
    follow: Callable[..., LinuxMachine],
) -> None:
    """They are counted, and hold no pages; locked memory is managed if so told."""
    pool_size = Path("/proc/sys/vm/nr_hugepages")
    pool_size.write_text("2")
    request.addfinalizer(lambda: pool_size.write_text("0"))
    page = puppet.do("take(64)")
    assert 0 == puppet.do(f"libc.mlock(ctypes.c_long({page} << 12), 64 << 12)")
    pool = puppet.do("kept.append(mmap.mmap(-1, 2 << 20, 0x40022)) or len(kept)")
    assert 2 == pool
    machine = follow(puppet.pid)
    found = machine.space_map.flat_pages(puppet.pid, np.array([page], np.uint64))
    assert [NO_PAGE] == found.tolist()
    assert 64 == machine.unmovable_pages()["mlocked"]
    assert 512 == machine.unmovable_pages()["hugetlb"]
    willing = follow(puppet.pid, policy=MappingPolicy(mlocked=True))
    assert [0] * 64 == move(willing, flat(willing, puppet.pid, page, 64), SLOW)
