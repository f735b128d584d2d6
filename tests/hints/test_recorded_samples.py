"""Recordings of perf as a source: times, pages, periods, what is of no page."""

import io

import numpy as np
import pytest

from isotherm.core.clock import VirtualClock
from isotherm.hints.batch import Look, Mechanism
from isotherm.hints.recorded_samples import RecordedProcesses, RecordedSamples
from isotherm.machine.linux.spaces import NO_PAGE
from isotherm.records.perf_data import PerfData
from isotherm.records.perf_fields import Kind
from tests.records.perf_files import (
    attr,
    aux_info,
    auxtrace,
    comm,
    fork,
    perf_data,
    time_conv,
)
from tests.records.perf_files_many import L1, LOADS, RAM, many_samples, recording
from tests.records.samples import record
from tests.records.spe_packets import access, aligned

SECOND = 1_000_000_000
#: Pages of a trace: of the first process 5, 9, 6; of the second 5.
RAW = np.array([5, 9, 6, 5 | 1 << 52], np.uint64)


def source_of(records: bytes, *, period: int = 1, events: int = 1, **more):
    """Return a source of these records, and its clock."""
    data = PerfData(
        io.BytesIO(recording(records, period=period, events=events)), "perf.data"
    )
    clock = VirtualClock()
    source = RecordedSamples(data, RecordedProcesses(RAW), clock.now_ns, **more)
    return source, clock


def at(*seconds: float) -> np.ndarray:
    """Return times of a recording that began after a week."""
    return (np.array(seconds) * SECOND).astype(np.int64) + 604_800 * SECOND


def pages(*numbers: int) -> np.ndarray:
    """Return virtual pages."""
    return np.array(numbers, np.int64)


def test_an_epoch_gets_what_fell_into_it() -> None:
    """The first sample is at 0; a sample at the end of an epoch is the next one's."""
    source, clock = source_of(
        many_samples(at(0, 0.2, 0.5, 0.7, 2.2), pages(5, 9, 5, 6, 9))
    )
    seen = []
    for _ in range(6):
        clock.advance(SECOND // 2)
        (batch,) = source.drain()
        assert SECOND // 2 == batch.end_ns - batch.start_ns
        seen.append(batch.seen.page.tolist())
    assert [[0, 1], [0, 2], [], [], [1], []] == seen
    assert 5 == source.read


def test_it_may_begin_later() -> None:
    """Of a part of a trace the samples before it are passed over."""
    records = many_samples(at(0, 1.1, 1.4, 1.6), pages(5, 6, 9, 5))
    source, clock = source_of(records, begin_ns=SECOND)
    clock.advance(SECOND // 2)
    assert [2, 1] == source.drain()[0].seen.page.tolist()
    assert 2 == source.read


def test_who_accessed_which_page() -> None:
    """CPUs name initiators; processes are numbered as they appear; others count."""
    records = many_samples(
        at(0, 0.1, 0.2, 0.3, 0.4),
        pages(5, 5, 77, 0, 6),
        pid=pages(40, 41, 40, 40, 41),
        cpu=pages(0, 3, 1, 1, 2),
    )
    source, clock = source_of(records)
    clock.advance(SECOND)
    (batch,) = source.drain()
    assert [0, 3] == batch.seen.page.tolist()
    assert [0, 1] == batch.seen.initiator.tolist()
    # Page 77, and 6 of the second process, are not in the trace; 0 is an address.
    assert (3, 3) == (batch.lost, source.translate.unknown)
    assert batch.capability.knows_initiator


@pytest.mark.parametrize(("whole", "period"), [(False, 4000.0), (True, 1.0)])
def test_a_sample_stands_for_its_period(whole: bool, period: float) -> None:
    """Unless the workload is made of the samples: then each is one access."""
    records = many_samples(at(0, 0.1), pages(5, 6), period=4000)
    source, clock = source_of(records, each_is_access=whole, sample_ns=200.0)
    clock.advance(SECOND)
    (batch,) = source.drain()
    assert period == batch.seen.period
    # What a sample cost is shared by the accesses it stands for.
    assert 2 * 200.0 * period / 4000 == pytest.approx(batch.application_ns)


def test_events_are_batches_of_their_own() -> None:
    """Two events have two periods."""
    records = many_samples(at(0), pages(5), period=100)
    records += many_samples(at(0.1, 0.2), pages(6, 6), period=7, event=2)
    source, clock = source_of(records, events=2)
    clock.advance(SECOND)
    first, second = source.drain()
    assert ([0], 100.0) == (first.seen.page.tolist(), first.seen.period)
    assert ([2, 2], 7.0) == (second.seen.page.tolist(), second.seen.period)


def test_cache_hits_are_no_memory_accesses() -> None:
    """They are left out, unless the workload holds them, too."""
    records = many_samples(at(0, 0.1), pages(5, 6), level=pages(L1, RAM))
    source, clock = source_of(records)
    clock.advance(SECOND)
    assert [2] == source.drain()[0].seen.page.tolist()
    assert 1 == source.filtered
    source, clock = source_of(records, each_is_access=True)
    clock.advance(SECOND)
    assert [0, 2] == source.drain()[0].seen.page.tolist()


def test_losses_are_told_once() -> None:
    """What perf lost is in the batch of the epoch in which it was read."""
    lost = record(Kind.LOST, np.array([5, 17], np.uint64).tobytes())
    source, clock = source_of(many_samples(at(0), pages(5)) + lost)
    clock.advance(SECOND)
    assert 17 == source.drain()[0].lost
    clock.advance(SECOND)
    assert 0 == source.drain()[0].lost


@pytest.mark.parametrize("known", [True, False])
def test_arm_records_are_samples(known: bool) -> None:
    """AUX data of SPE: context, CPU, stores; ticks where their length is not told."""
    area = aligned(access(5, time=10)) + aligned(access(6, time=60, store=True))
    records = aux_info(4) + (time_conv(0, 40_000_000, 7) if known else b"")
    records += auxtrace(area, cpu=3)
    file = perf_data([(attr(LOADS, kind=8, period=1024), [1])], records)
    clock, raw = VirtualClock(), RAW[:3]
    source = RecordedSamples(
        PerfData(io.BytesIO(file), "x"), RecordedProcesses(raw), clock.now_ns
    )
    clock.advance(SECOND)
    first = source.drain()[0].seen
    assert ([0] if known else [0, 2]) == first.page.tolist()
    assert 1024.0 == first.period
    clock.advance(2 * SECOND)
    second = source.drain()[0].seen
    assert ([2] if known else []) == second.page.tolist()
    assert ([1] if known else []) == second.write.tolist()


def test_threads_of_an_arm_recording_are_their_process() -> None:
    """One page that two threads access is one page; another process has its own."""
    area = b"".join(aligned(access(5, time=10 + tid, tid=tid)) for tid in (70, 71, 90))
    records = aux_info(4) + time_conv(0, 40, 7) + comm(70, 70) + fork(70, 71)
    file = perf_data([(attr(LOADS, kind=8), [1])], records + auxtrace(area))
    clock = VirtualClock()
    source = RecordedSamples(
        PerfData(io.BytesIO(file), "x"), RecordedProcesses(RAW), clock.now_ns
    )
    clock.advance(SECOND)
    assert [0, 0, 3] == source.drain()[0].seen.page.tolist()


def test_looks_change_nothing() -> None:
    """A recording is as it is."""
    source, clock = source_of(many_samples(at(0), pages(5)))
    source.look((Look(Mechanism.SAMPLING, 0, 8, period=1),))
    clock.advance(SECOND)
    assert [0] == source.drain()[0].seen.page.tolist()


def test_pages_of_a_trace_may_be_larger() -> None:
    """A virtual page of 4 KiB is found in a trace of pages of 16 KiB."""
    processes = RecordedProcesses(np.array([3, 1], np.uint64), 16384)
    processes.meet(np.array([9], np.int32))
    found = processes.flat_pages(9, np.array([4, 7, 12, 8], np.uint64))
    assert [1, 1, 0, NO_PAGE] == found.tolist()
    assert (9,) == processes.pids()
