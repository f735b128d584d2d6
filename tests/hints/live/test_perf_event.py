"""perf events on real processes: every thread, every fault, nothing left behind."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from isotherm.hints.live.perf_event import (
    SW_PAGE_FAULTS_MIN,
    TYPE_SOFTWARE,
    EventSpec,
    ThreadEvents,
    open_event,
)
from isotherm.records.perf_ring import Field

SPEC = EventSpec(
    TYPE_SOFTWARE,
    SW_PAGE_FAULTS_MIN,
    Field.TID | Field.TIME | Field.ADDR | Field.CPU,
)
PAGES = 2048


@pytest.fixture(autouse=True)
def _permitted() -> None:
    """Skip where this user may not open such events."""
    try:
        os.close(open_event(SPEC, 0, -1))
    except OSError as error:
        pytest.skip(f"perf_event_open: {errno.errorcode.get(error.errno or 0)}")


def faults(events: ThreadEvents, target) -> tuple[list[int], set[int], int]:
    """Return pages of the target that faulted, the threads, and losses."""
    page, tid, lost = [], set(), 0
    for got in events.drain():
        at = (got.column(Field.ADDR) >> np.uint64(12)).astype(np.int64) - target.vpage
        inside = (at >= 0) & (at < target.pages)
        page += at[inside].tolist()
        tid |= set(got.tid[inside].tolist())
        lost += got.lost
    return sorted(page), tid, lost


def test_as_many_faults_as_pages_touched_first(new_target) -> None:
    """Touch a prime number of pages once: that many samples, with their addresses."""
    target = new_target(PAGES)
    with ThreadEvents(SPEC) as events:
        events.watch(target.pid)
        target.write(0, 1009)
        assert (list(range(1009)), {target.pid}, 0) == faults(events, target)
        target.write(0, 1009)
        assert [] == faults(events, target)[0]


def test_a_thread_started_later_is_watched(new_target) -> None:
    """New threads inherit the event; their samples carry their own number."""
    target = new_target(PAGES)
    with ThreadEvents(SPEC) as events:
        events.watch(target.pid)
        target.write(0, 23, thread=True)
        page, tid, lost = faults(events, target)
    assert (list(range(23)), 1, 0) == (page, len(tid), lost)
    assert target.pid not in tid


def test_threads_without_descriptors_are_left_out(new_target) -> None:
    """Where there is room for some of the threads those are watched."""
    target = new_target(PAGES)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ThreadEvents(SPEC) as events:
        lowest = os.open("/", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * lowest, before[1]))
        try:
            events.follow([target.pid])
            assert 1 == events.unwatched
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        opened = os.open("/", os.O_RDONLY)
        os.close(opened)
        assert lowest == opened
        events.follow([])
        assert 0 == events.unwatched
        events.follow([target.pid])
        assert 0 == events.unwatched
        target.write(0, 7)
        assert list(range(7)) == faults(events, target)[0]


def test_times_are_of_the_monotonic_clock(new_target) -> None:
    """A fault's time lies between two readings of the clock around it."""
    from isotherm.core.clock import MonotonicClock

    target, clock = new_target(PAGES), MonotonicClock()
    with ThreadEvents(SPEC) as events:
        events.watch(target.pid)
        before = clock.now_ns()
        target.write(0, 5)
        after = clock.now_ns()
        time_ns = np.concatenate([r.column(Field.TIME) for r in events.drain()])
    assert len(time_ns) >= 5
    assert before < int(time_ns.min()) <= int(time_ns.max()) < after


def test_a_ring_that_overflows_says_so(new_target) -> None:
    """Kept and lost together are all faults; nothing vanishes without a number."""
    target = new_target(PAGES)
    # Each CPU has a ring: only the one that overflowed tells of it.
    os.sched_setaffinity(target.pid, {min(os.sched_getaffinity(target.pid))})
    with ThreadEvents(SPEC, data_pages=1) as events:
        events.watch(target.pid)
        target.write(0, 2039)
        kept, _, lost = faults(events, target)
        target.write(2039, 2040)  # the next sample brings the count of the lost
        later, _, lost_later = faults(events, target)
    assert lost + lost_later > 0
    assert len(kept) + len(later) < 2040
    assert 2040 <= len(kept) + len(later) + lost + lost_later < 2040 + 200


def test_nothing_is_left_open(new_target) -> None:
    """After close there is not a descriptor more than before; twice is once."""
    target = new_target(PAGES)
    before = len(list(Path("/proc/self/fd").iterdir()))
    events = ThreadEvents(SPEC)
    events.open()
    events.watch(target.pid)
    assert len(list(Path("/proc/self/fd").iterdir())) > before
    events.close()
    events.close()
    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_processes_come_and_go(new_target) -> None:
    """Only those asked for are watched; one that is gone is passed over."""
    first, second = new_target(64), new_target(64)
    with ThreadEvents(SPEC) as events:
        events.follow([first.pid])
        events.follow([second.pid, 2**22 - 1])
        assert {second.pid} == events.pids
        first.write(0, 64)
        second.write(0, 61)
        assert [] == faults(events, first)[0]


def test_threads_without_room_are_counted(new_target) -> None:
    """Beyond the limit of events no thread is watched, and it is said."""
    target = new_target(64)
    with ThreadEvents(SPEC, most_events=1) as events:
        events.watch(target.pid)
        assert 1 == events.unwatched
