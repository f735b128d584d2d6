"""IBS from recorded rings: settings, filters, nodes, latencies, periods."""

import numpy as np
import pytest

from isotherm.core.clock import VirtualClock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import Look, Mechanism
from isotherm.hints.live.ibs import IbsSource, event_of
from isotherm.hints.live.perf_event_pmu import read_pmu
from isotherm.machine.linux.spaces import SpaceMap
from isotherm.records.data_source import NOTHING_KNOWN
from isotherm.records.perf_fields import Field, Kind
from tests.hints.live.fake_pmus import (
    BLOCK,
    CXL,
    GHZ,
    L2,
    LOAD,
    MEMORY,
    NA,
    NO_OP,
    PAGES,
    PID,
    RAM,
    STORE,
    Replayed,
    one_process,
    zen4,
)
from tests.hints.live.fake_pmus import (
    memory_sample as ibs,
)
from tests.records.samples import record, sample

SECOND = 1_000_000_000


@pytest.fixture
def spaces() -> SpaceMap:
    """Return one process with 1024 pages."""
    return one_process()


def source_of(root, spaces, *rings: list[bytes], **more):
    """Return a source on recorded rings, open, its clock and its events."""
    events, clock = Replayed([list(r) for r in rings]), VirtualClock()
    source = IbsSource(spaces, clock, root=root, make=events.made, **more)
    source.open()
    clock.advance(SECOND)
    return source, clock, events


def test_settings_are_what_sysfs_offers(tmp_path) -> None:
    """Operations, L3 misses where possible, nothing excluded, whole sixteens."""
    event = event_of(read_pmu("ibs_op", zen4(tmp_path)), 100_000)
    assert (11, 1 << 19 | 1 << 16) == (event.type, event.config)
    assert (0, False) == (event.precise_ip, event.exclude_hv)
    flags = int.from_bytes(event.attr()[40:48], "little")
    assert 0 == flags & (1 << 4 | 1 << 5 | 1 << 6)  # exclude_user, _kernel, _hv
    old = event_of(read_pmu("ibs_op", zen4(tmp_path / "old", misses_only=False)))
    assert 1 << 19 == old.config


def test_only_accesses_to_memory_are_kept(tmp_path, spaces) -> None:
    """What is no load or store, has no address, or hit a cache is no sample."""
    zero = sample(MEMORY, {Field.TID: PID, Field.DATA_SRC: LOAD | RAM << 33})
    stale = ibs(3, op=NO_OP, level=NA)
    unknown = sample(MEMORY, {Field.TID: PID, Field.DATA_SRC: NOTHING_KNOWN})
    ring = ibs(1) + zero + stale + unknown + ibs(2, level=L2) + ibs(4, frame=0)
    ring += ibs(5, op=STORE, level=NA)
    source, _, _ = source_of(zen4(tmp_path), spaces, [ring])
    (batch,) = source.drain()
    assert [1, 5] == batch.seen.page.tolist()
    assert [0, 1] == batch.seen.write.tolist()
    assert (5, 0) == (source.filtered, batch.lost)
    assert source.capability == batch.capability
    assert batch.capability.post_cache
    assert batch.capability.sees_writes


def test_before_zen_4_stores_say_nothing(tmp_path, spaces) -> None:
    """A store that may have hit a cache is left out, and that is declared."""
    root = zen4(tmp_path, misses_only=False)
    source, _, _ = source_of(root, spaces, [ibs(1) + ibs(5, op=STORE, level=NA)])
    (batch,) = source.drain()
    assert [1] == batch.seen.page.tolist()
    assert not batch.capability.sees_writes


def test_latency_and_initiator(tmp_path, spaces) -> None:
    """Cycles become nanoseconds; the CPU names who accessed."""
    who = np.array([0, 1], np.uint8)
    ring = ibs(1, cycles=250, cpu=1) + ibs(2, cycles=0, cpu=7)
    source, _, _ = source_of(zen4(tmp_path), spaces, [ring], initiator_of_cpu=who)
    (batch,) = source.drain()
    assert [250 / GHZ, 0] == batch.seen.latency_ns.tolist()
    assert [1, 255] == batch.seen.initiator.tolist()


def test_what_is_on_no_node_is_a_device(tmp_path, spaces) -> None:
    """What is on no node is a device's and no sample, whatever the PMU calls it."""
    blocks = BLOCK >> 12
    ring = ibs(1, frame=5) + ibs(2, frame=2 * blocks, level=RAM)
    ring += ibs(3, frame=2 * blocks + 9, level=CXL) + ibs(4, frame=4 * blocks)
    source, _, _ = source_of(zen4(tmp_path), spaces, [ring])
    (batch,) = source.drain()
    translate = source.translate
    assert [1, 2, 3] == batch.seen.page.tolist()
    assert (1, 0) == (translate.devices, batch.lost)


def test_other_processes_are_not_ours_to_lose(tmp_path, spaces) -> None:
    """Foreign samples are counted apart; ours outside all spaces are lost."""
    ring = ibs(1) + ibs(1, pid=78) + ibs(PAGES + 5)
    source, _, _ = source_of(zen4(tmp_path), spaces, [ring])
    (batch,) = source.drain()
    translate = source.translate
    assert [1] == batch.seen.page.tolist()
    assert (1, 1, 1) == (translate.foreign, translate.unknown, batch.lost)


def test_losses_raise_the_period_that_a_sample_stands_for(tmp_path, spaces) -> None:
    """Three of four were dropped: each that is left stands for four times as many."""
    dropped = record(Kind.LOST_SAMPLES, (6).to_bytes(8, "little"))
    source, _, _ = source_of(zen4(tmp_path), spaces, [ibs(1) + dropped, ibs(2)])
    (batch,) = source.drain()
    assert (6, 4 * 262144.0) == (batch.lost, batch.seen.period)


def test_several_cpus_come_in_order_of_time(tmp_path, spaces) -> None:
    """Rings are joined by time."""
    first = ibs(1, time=10) + ibs(2, time=30)
    source, _, _ = source_of(zen4(tmp_path), spaces, [first, ibs(3, time=20)])
    assert [1, 3, 2] == source.drain()[0].seen.page.tolist()


def test_throttling_and_cost_make_it_rarer(tmp_path, spaces) -> None:
    """The kernel's throttling doubles the period; a look's wish holds; sixteens."""
    slow = record(Kind.THROTTLE, bytes(24))
    source, clock, events = source_of(
        zen4(tmp_path), spaces, [slow + ibs(1)], [ibs(1) * 100_000], budget=0.01
    )
    source.drain()
    assert [524288] == events.periods
    clock.advance(SECOND)
    (batch,) = source.drain()
    assert 100_000 * 2000.0 == batch.application_ns
    assert events.periods[-1] > 10 * 524288
    assert 0 == events.periods[-1] % 16
    source.look((Look(Mechanism.SAMPLING, 0, 8, period=events.periods[-1] * 2),))
    assert events.periods[-1] == 2 * events.periods[-2]


def test_closed_it_says_nothing(tmp_path, spaces) -> None:
    """No batch before open and after close; twice closed is closed."""
    source, _, events = source_of(zen4(tmp_path), spaces, [ibs(1)])
    source.close()
    source.close()
    assert () == source.drain()
    assert not events.is_open


def test_without_ibs(tmp_path, spaces) -> None:
    """The probe names the folder; the source is refused."""
    found = IbsSource.probe(tmp_path)
    assert (False, "ibs") == (found.present, found.name)
    assert "ibs_op" in found.why
    with pytest.raises(UnsupportedError):
        IbsSource(spaces, VirtualClock(), root=tmp_path)


def test_probe_tells_why_the_kernel_refuses(tmp_path) -> None:
    """The PMU of another machine is not one that this kernel opens."""
    found = IbsSource.probe(zen4(tmp_path))
    assert not found.present
    assert found.why.startswith("ibs_op; ibs: perf_event_open: E")
