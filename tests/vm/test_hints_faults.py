"""NUMA hint faults in a guest with two tiers: a target's slow pages, read by perf."""

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.changes import HostChanges
from isotherm.core.clock import MonotonicClock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import FaultDelays
from isotherm.hints.live.page_fault import BALANCING, PageFaultSource
from isotherm.machine.linux.spaces import SpaceMap

pytestmark = pytest.mark.slow
SYSCTL = Path("/") / BALANCING
PAGES, HOT = 2048, 512
#: Memory is put on node 1 while it is filled; the policy is plain afterwards, since
#: the kernel's scanner passes over mappings with a policy of their own.
CHILD = textwrap.dedent(
    f"""
    import ctypes, mmap, threading, time

    libc = ctypes.CDLL(None, use_errno=True)
    mask = ctypes.c_ulong(2)
    assert libc.syscall(238, 2, ctypes.byref(mask), 8) == 0  # set_mempolicy, bind
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, ({PAGES} + 512) * 4096, flags)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    skip = -start % (512 * 4096)
    memory.madvise(15)  # no huge pages
    for page in range({PAGES}):
        memory[skip + page * 4096] = 1
    assert libc.syscall(238, 0, None, 0) == 0
    print((start + skip) >> 12, flush=True)

    def work():
        while True:
            for page in range({HOT}):
                memory[skip + page * 4096]

    threading.Thread(target=work).start()
    work()
    """
)


@pytest.fixture
def target() -> Iterator[tuple[int, int]]:
    """Give pid and first page of a process whose memory is on the slow node."""
    child = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", CHILD], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    first = int(child.stdout.readline())
    yield child.pid, first
    child.stdout.close()
    child.kill()
    child.wait()


def spaces_of(pid: int, first: int) -> SpaceMap:
    """Return a map of the target's memory, from flat page 0 on."""
    spaces = SpaceMap()
    spaces.update(pid, np.array([[first, first + PAGES]]))
    return spaces


def counter(name: str) -> int:
    """Return a counter of /proc/vmstat."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        key, value = line.split()
        if key == name:
            return int(value)
    raise AssertionError(name)


def test_without_balancing_nothing_is_poisoned(target) -> None:
    """The probe says so, and how to enable it; open refuses, and enables nothing."""
    before = SYSCTL.read_text()
    SYSCTL.write_text("0")
    try:
        found = PageFaultSource.probe()
        assert not found.present
        assert "kernel.numa_balancing=2" in (found.command or "")
        source = PageFaultSource(spaces_of(*target), MonotonicClock())
        with pytest.raises(UnsupportedError):
            source.open()
        assert "0" == SYSCTL.read_text().strip()
    finally:
        SYSCTL.write_text(before)


def test_hot_pages_on_the_slow_node_fault_again_and_again(target) -> None:
    """Enabled for the run, exact in its pages, moves nothing, restored at the end."""
    before = SYSCTL.read_text()
    SYSCTL.write_text("0")
    node = np.ones(PAGES, np.uint8)
    events, last_delay = np.zeros(PAGES, np.int64), np.zeros(PAGES)
    promoted, hinted = counter("pgpromote_success"), counter("numa_hint_faults")
    try:
        with HostChanges(None) as changes:
            source = PageFaultSource(
                spaces_of(*target),
                MonotonicClock(),
                placement=lambda: node,
                fast_nodes=(0,),
                changes=changes,
                enable=True,
            )
            with source:
                assert "2" == SYSCTL.read_text().strip()
                deadline = time.monotonic() + 240
                while (
                    np.count_nonzero(events) < HOT // 2
                    or events.max() < 2
                    # They are touched all the time, unless the target has to wait.
                    or np.median(last_delay[events > 0]) >= 1.0
                ):
                    said = np.count_nonzero(events), events.max(), last_delay
                    assert time.monotonic() < deadline, said
                    time.sleep(0.2)
                    for batch in source.drain():
                        assert isinstance(batch.seen, FaultDelays)
                        np.add.at(events, batch.seen.page, 1)
                        last_delay[batch.seen.page] = batch.seen.delay_s
                        assert (batch.seen.delay_s >= 0).all()
                        assert (batch.seen.page < PAGES).all()
        assert "0" == SYSCTL.read_text().strip()
    finally:
        SYSCTL.write_text(before)
    assert 0 == events[HOT:].sum()  # nobody touches these
    assert events.sum() <= counter("numa_hint_faults") - hinted
    assert 0 == source.first_touches
    assert 0 == counter("pgpromote_success") - promoted
