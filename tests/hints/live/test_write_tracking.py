"""Write tracking on real processes: exact, and only where it may be."""

import ctypes
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.clock import MonotonicClock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import AccessedBits, LiveMechanism, Look
from isotherm.hints.live.inject import StoppedProcess
from isotherm.hints.live.pagemap_scan import Category, open_pagemap, pages_in, scan_runs
from isotherm.hints.live.userfaultfd import inject, why_refused
from isotherm.hints.live.write_tracking import WriteTrackingSource
from isotherm.machine.linux.process import Process

PAGES = 4096
OFFER = """
    libc = ctypes.CDLL(None, use_errno=True)
    offer = libc.syscall(323, 0o2004001)  # userfaultfd
"""
SECCOMP = """
    libc = ctypes.CDLL(None, use_errno=True)
    import struct
    allow = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000))
    program = struct.pack("<H6xQ", 1, ctypes.addressof(allow))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    assert libc.prctl(22, 2, ctypes.create_string_buffer(program), 0, 0) == 0
"""


@pytest.fixture(autouse=True)
def _possible() -> None:
    """Skip where the kernel or the user cannot."""
    found = WriteTrackingSource.probe()
    if not found.present:
        pytest.skip(found.why)
    if platform.machine() != "x86_64":
        pytest.skip(f"injection needs x86-64, this is {platform.machine()}")
    if os.geteuid() != 0:
        pytest.skip("ptrace of any child needs root")


def source_of(target, **options) -> WriteTrackingSource:
    """Return a source that may intrude on the target."""
    options.setdefault("intrusive", frozenset({target.pid}))
    return WriteTrackingSource(target.spaces(), MonotonicClock(), **options)


def written_in(seen: AccessedBits) -> tuple[set[int], set[int]]:
    """Return the pages that were watched, and those that were written."""
    page = seen.block.astype(np.int64)[:, None] * 8 + np.arange(8)
    bits = np.unpackbits(seen.bits, bitorder="little").reshape(-1, 8) == 1
    return set(page.ravel().tolist()), set(page[bits].tolist())


def test_written_pages_are_found_exactly(new_target) -> None:
    """Of the armed pages, those written and no others; reads leave no trace."""
    target = new_target(PAGES)
    target.fill()
    with source_of(target) as source:
        source.look(())
        target.read(0, PAGES)
        target.write(0, PAGES, 7)
        target.write(3, PAGES, 97, thread=True)
        (batch,) = source.drain()
    assert isinstance(batch.seen, AccessedBits)
    watched, written = written_in(batch.seen)
    assert 1024 == len(watched)
    assert {p for p in watched if p % 7 == 0 or p % 97 == 3} == written
    assert batch.seen.writes_only
    assert (batch.seen.interval_s > 0).all()
    assert 0 == batch.lost
    assert batch.application_ns >= 800 * len(written)
    assert batch.background_ns > 0


def test_an_unset_bit_of_writes_says_nothing_of_reads(new_target) -> None:
    """The tracker takes no block of it, unless unwritten was declared to be idle."""
    target = new_target(PAGES)
    target.fill()
    for unwritten, blocks in (("unknown", 0), ("idle", 128)):
        with source_of(target, unwritten=unwritten) as source:
            source.look(())
            (batch,) = source.drain()
        assert isinstance(batch.seen, AccessedBits)
        assert blocks == len(batch.seen.whole_blocks(PAGES).block)


def test_looks_say_where_and_how_long(new_target) -> None:
    """Pieces of the range only; nothing is said before the window is over."""
    target = new_target(PAGES)
    target.fill()
    with source_of(target, sample_pages=256) as source:
        source.look((Look(LiveMechanism.WRITE, 1024, 2048, window_s=3600.0),))
        (batch,) = source.drain()
        assert isinstance(batch.seen, AccessedBits)
        assert 0 == len(batch.seen.block)
        fd = open_pagemap(target.pid)
        whole = (target.vpage, target.vpage + PAGES)
        armed = scan_runs(fd, *whole, all_of=Category.WPALLOWED) - target.vpage
        os.close(fd)
        assert 256 == pages_in(armed)
        assert armed.min() >= 1024
        assert armed.max() <= 2048


def test_huge_pages_are_left_whole(new_target) -> None:
    """A piece of a huge page is never armed: that would split it."""
    target = new_target(PAGES, advice=14)
    target.write(0, PAGES)
    fd = open_pagemap(target.pid)
    whole = (target.vpage, target.vpage + PAGES)
    huge = pages_in(scan_runs(fd, *whole, all_of=Category.HUGE))
    if not huge:
        pytest.skip("no huge page could be had")
    with source_of(target, sample_pages=PAGES) as source:
        source.look(())
        (batch,) = source.drain()
        target.write(0, PAGES)
    assert isinstance(batch.seen, AccessedBits)
    assert PAGES - huge >= 8 * len(batch.seen.block)
    assert huge == pages_in(scan_runs(fd, *whole, all_of=Category.HUGE))
    os.close(fd)


def test_no_trace_is_left(new_target) -> None:
    """Mappings, descriptors and write protection of the target are as before."""
    target = new_target(PAGES)
    target.fill()
    before = target.mappings(), target.fds(), len(list(Path("/proc/self/fd").iterdir()))
    source = source_of(target)
    source.open()
    source.look(())
    assert target.mappings() > before[0]
    assert target.fds() == before[1]
    source.close()
    source.close()
    after = target.mappings(), target.fds(), len(list(Path("/proc/self/fd").iterdir()))
    assert before == after
    assert "TracerPid:\t0" in Path(f"/proc/{target.pid}/status").read_text()
    fd = open_pagemap(target.pid)
    whole = (target.vpage, target.vpage + PAGES)
    assert 0 == pages_in(scan_runs(fd, *whole, all_of=Category.WPALLOWED))
    os.close(fd)
    target.write(0, PAGES)


def test_nobody_is_intruded_on_without_being_named(new_target) -> None:
    """Without --intrusive for this very process it is not touched; it is said why."""
    target = new_target(PAGES)
    before = target.mappings(), target.fds()
    source = source_of(target, intrusive=frozenset({target.pid + 1}))
    with pytest.raises(UnsupportedError) as refused:
        source.open()
    assert "intrusive" in str(refused.value)
    assert before == (target.mappings(), target.fds())


def test_a_process_may_offer_a_userfaultfd(new_target) -> None:
    """Then nothing is injected, and writes are found just the same."""
    target = new_target(PAGES, prelude=OFFER)
    target.fill()
    offered = {target.pid: target.offer}
    with source_of(target, intrusive=frozenset(), offered=offered) as source:
        source.look(())
        target.write(0, PAGES, 5)
        (batch,) = source.drain()
    assert isinstance(batch.seen, AccessedBits)
    watched, written = written_in(batch.seen)
    assert {p for p in watched if p % 5 == 0} == written
    assert len(written) > 100


def test_what_is_offered_must_be_a_userfaultfd(new_target) -> None:
    """A pipe is refused by name; the copy of it is closed."""
    target = new_target(64)
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = source_of(target, intrusive=frozenset(), offered={target.pid: 0})
    with pytest.raises(UnsupportedError) as refused:
        source.open()
    assert "not a userfaultfd" in str(refused.value)
    assert before == len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("prelude", "word"), [(SECCOMP, "seccomp"), (OFFER, "userfaultfd of its own")]
)
def test_filtered_and_faulting_processes_are_refused(
    new_target, prelude: str, word: str
) -> None:
    """A seccomp filter or a userfaultfd in use: refused, with the reason."""
    target = new_target(PAGES, prelude=prelude)
    source = source_of(target)
    with pytest.raises(UnsupportedError) as refused:
        source.open()
    assert word in str(refused.value)


def test_a_debugged_process_is_refused(new_target) -> None:
    """Somebody traces it: refused by the tracer's pid, and left to the tracer."""
    target = new_target(64)
    libc = ctypes.CDLL(None, use_errno=True)
    seize = (ctypes.c_long(0x4206), ctypes.c_long(target.pid), None, None)
    assert 0 == libc.ptrace(*seize)
    with Process(target.pid) as process:
        why = why_refused(process)
    assert f"TracerPid: {os.getpid()}" in (why or "")


def test_a_registered_range_betrays_a_userfaultfd(new_target) -> None:
    """Its owner need not be the process itself: the mapping's flags tell."""
    target = new_target(PAGES)
    target.fill()
    with source_of(target) as source, Process(target.pid) as process:
        source.look(())
        assert "registered" in (why_refused(process) or "")


@pytest.mark.slow
def test_a_sleeper_and_a_runner_go_on_as_before() -> None:
    """Stopped within a sleep and within a loop, both end with what they were at."""
    code = textwrap.dedent(
        """
        import time
        print("ready", flush=True)
        began = time.monotonic()
        time.sleep(0.3)
        slept = time.monotonic() - began
        print("slept", flush=True)
        total = 0
        for i in range(3_000_000):
            total += i * i
        print(slept >= 0.3, total == sum(i * i for i in range(3_000_000)), flush=True)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    number = {"getpid": 39}
    with child, Process(child.pid) as process:
        for expected in ("ready\n", "slept\n"):
            assert expected == child.stdout.readline()
            for _ in range(20):
                with StoppedProcess(process) as stopped:
                    assert child.pid == stopped.call(number["getpid"])
                assert 0 < stopped.stopped_ns < 10**9
        assert "True True\n" == child.stdout.readline()
    assert 0 == child.returncode


def test_an_exec_loses_the_armed_memory(new_target) -> None:
    """The memory that was armed is gone: its pages are lost, not unwritten."""
    target = new_target(PAGES)
    target.fill()
    with source_of(target) as source:
        source.look(())
        target.close()
        (batch,) = source.drain()
        assert isinstance(batch.seen, AccessedBits)
        assert 0 == len(batch.seen.block)
        assert 1024 == batch.lost
        source.look(())
        (batch,) = source.drain()
        assert 0 == len(batch.seen.block)


def test_injection_gives_the_descriptor_to_us_alone(new_target) -> None:
    """Its process keeps no copy, so that it ends with ours."""
    target = new_target(64)
    before = target.fds()
    with Process(target.pid) as process:
        uffd = inject(process)
    assert before == target.fds()
    assert uffd.stopped_ns > 0
    uffd.close()
