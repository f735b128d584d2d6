"""Live proof: another process's page faults through the way that IBS and PEBS go.

Where no PMU samples addresses, the software event for minor faults does: the same
fields, rings, decoder, filter, translation and batches, from a real kernel.
"""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.clock import MonotonicClock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.capability import Capability
from isotherm.hints.live.perf_event import (
    SW_PAGE_FAULTS_MIN,
    TYPE_SOFTWARE,
    EventSpec,
    open_event,
)
from isotherm.hints.live.perf_event_cpu import CpuEvents, try_event
from isotherm.hints.live.perf_event_nodes import read_physical_nodes
from isotherm.hints.live.perf_event_period import PeriodControl
from isotherm.hints.live.perf_event_samples import Translator
from isotherm.hints.live.perf_event_sampling import FIELDS, MemorySampling
from isotherm.machine.linux.spaces import SpaceMap
from isotherm.records.data_source import NOTHING_KNOWN
from isotherm.records.perf_fields import Field

FAULTS = EventSpec(TYPE_SOFTWARE, SW_PAGE_FAULTS_MIN, FIELDS, inherit=False)
PAGES = 2048


@pytest.fixture(autouse=True)
def _permitted() -> None:
    """Skip where this user may not watch every process on a CPU."""
    try:
        os.close(open_event(FAULTS, -1, 0))
    except OSError as error:
        pytest.skip(f"perf_event_open: {errno.errorcode.get(error.errno or 0)}")


def test_a_second_process_through_the_whole_way(new_target) -> None:
    """A prime number of pages touched: so many samples, of those pages, on nodes."""
    target = new_target(PAGES)
    nodes = read_physical_nodes()
    translate = Translator(target.spaces(), nodes, cycles_per_ns=1.0)
    source = MemorySampling(
        "page-faults",
        CpuEvents(FAULTS, data_pages=2048),
        lambda accesses, _: accesses.address != 0,
        translate,
        PeriodControl(1, 1, 1 << 20, budget=1e9),
        MonotonicClock(),
        Capability(),
    )
    source.open()
    try:
        source.drain()
        target.write(0, 1009)
        (batch,) = source.drain()
        target.write(0, 1009)
        (again,) = source.drain()
    finally:
        source.close()
    page = batch.seen.page.tolist()
    assert sorted(set(page)) == page, "each page once, in order of time"
    assert set(page) <= set(range(1009))
    # Faults of the whole host share the rings: what found no room was counted.
    assert 1009 <= len(page) + batch.lost
    assert batch.lost or 1009 == len(page)
    assert 0 == len(again.seen.page)
    assert batch.seen.period >= 1.0
    if len(nodes.start):
        assert 0 == translate.devices


def test_every_field_comes_from_the_kernel(new_target) -> None:
    """Eighty bytes a sample: process, time, address, CPU, frame as pagemap says."""
    target = new_target(PAGES)
    with CpuEvents(FAULTS, data_pages=2048) as events:
        events.drain()
        before = MonotonicClock().now_ns()
        target.write(0, 23)
        after = MonotonicClock().now_ns()
        found = events.drain()
        cpus = events.cpus
    assert 80 == 8 * found[0].layout.words
    seen = 0
    with Path(f"/proc/{target.pid}/pagemap").open("rb") as pagemap:
        for cpu, records in zip(cpus, found, strict=True):
            for row in np.flatnonzero(records.pid == target.pid).tolist():
                address = int(records.column(Field.ADDR)[row])
                if not 0 <= (address >> 12) - target.vpage < 23:
                    continue
                seen += 1
                assert cpu == records.cpu[row]
                assert before < int(records.column(Field.TIME)[row]) < after
                assert 1 == int(records.column(Field.PERIOD)[row])
                assert NOTHING_KNOWN == int(records.column(Field.DATA_SRC)[row])
                pagemap.seek((address >> 12) * 8)
                entry = int.from_bytes(pagemap.read(8), "little")
                frame = int(records.column(Field.PHYS_ADDR)[row]) >> 12
                assert entry & ((1 << 55) - 1) == frame
    assert 23 == seen or sum(r.lost for r in found)


def test_a_period_that_changes(new_target) -> None:
    """About every seventh fault, once the period is changed while it runs."""
    target = new_target(PAGES)
    # With PERIOD among the fields the kernel samples each software event.
    rare = replace(FAULTS, fields=FIELDS & ~Field.PERIOD)
    with CpuEvents(rare, data_pages=2048) as events:
        assert events.set_period(7)
        events.drain()
        target.write(0, 1400)
        found = events.drain()
    inside = 0
    for records in found:
        mine = records.pid == target.pid
        page = (records.column(Field.ADDR)[mine] >> np.uint64(12)).astype(np.int64)
        inside += int(((page >= target.vpage) & (page < target.vpage + PAGES)).sum())
    assert inside <= 400
    assert 100 <= inside or sum(r.lost for r in found)
    assert 7 == events.spec.period


def test_what_was_written_outlives_the_stop(new_target) -> None:
    """A stopped event counts no more; what it wrote before is still read."""
    target = new_target(PAGES)

    def mine(events: CpuEvents) -> int:
        return sum(int((r.pid == target.pid).sum() + r.lost) for r in events.drain())

    with CpuEvents(FAULTS, data_pages=2048) as events:
        events.drain()
        target.write(0, 23)
        events.disable()
        target.write(23, 23)
        assert 23 <= mine(events)
        target.write(46, 23)
        assert 0 == mine(events)


def test_a_leader_opens_with_its_member() -> None:
    """A group of two on every CPU; nothing is left open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    leader = EventSpec(TYPE_SOFTWARE, 9, FIELDS, period=0, inherit=False)
    with CpuEvents(FAULTS, leader=leader) as events:
        assert events.cpus
    events.close()
    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_an_event_that_there_is_not() -> None:
    """A probe says which errno; opening it is refused in words."""
    odd = EventSpec(4095, 0, FIELDS, inherit=False)
    found = try_event("odd", odd, "odd")
    assert not found.present
    assert "ENOENT" in found.why
    source = MemorySampling(
        "odd",
        CpuEvents(odd),
        lambda accesses, _: accesses.address != 0,
        Translator(SpaceMap(), read_physical_nodes()),
        PeriodControl(1, 1, 10),
        MonotonicClock(),
        Capability(),
    )
    with pytest.raises(UnsupportedError, match="ENOENT"):
        source.open()
