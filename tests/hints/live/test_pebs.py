"""PEBS from recorded rings: discovery, events, leaders, which loads count."""

import numpy as np
import pytest

from isotherm.core.clock import VirtualClock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.live import pebs
from isotherm.hints.live.pebs import PebsSource
from tests.hints.live.fake_pmus import (
    GHZ,
    L2,
    NA,
    RAM,
    STORE,
    Replayed,
    one_process,
    pmu,
    sapphire_rapids,
    zen4,
)
from tests.hints.live.fake_pmus import (
    memory_sample as ibs,
)

LFB = 12


@pytest.fixture
def spaces():
    """Return one process with 1024 pages."""
    return one_process()


def source_of(root, spaces, *rings, mode="l3-miss", **more):
    """Return a source on recorded rings, open, and its events."""
    events, clock = Replayed([list(r) for r in rings]), VirtualClock()
    source = PebsSource(spaces, clock, mode=mode, root=root, make=events.made, **more)
    source.open()
    clock.advance(10**9)
    return source, events


def test_the_events_of_both_modes(tmp_path, spaces) -> None:
    """Event codes of the manual; latency wants a threshold, and a leader on some."""
    root = sapphire_rapids(tmp_path)
    _, events = source_of(root, spaces)
    assert (4, 0x20D1, 0, 2) == (
        events.spec.type,
        events.spec.config,
        events.spec.config1,
        events.spec.precise_ip,
    )
    assert events.leader is None
    _, events = source_of(root, spaces, mode="latency")
    assert (0x01CD, 128) == (events.spec.config, events.spec.config1)
    assert (0x8203, 0) == (events.leader.config, events.leader.period)
    plain = sapphire_rapids(tmp_path / "skylake", leader=False)
    assert source_of(plain, spaces, mode="latency")[1].leader is None


def test_the_big_cores_of_a_hybrid_processor(tmp_path) -> None:
    """cpu_core comes first, and is not taken where only cpu has the event."""
    sapphire_rapids(tmp_path)
    assert "cpu" == pebs.find_pmu(tmp_path).name
    form = {"event": "config:0-7", "umask": "config:8-15", "ldlat": "config1:0-15"}
    events = {"mem-loads": "event=0xcd,umask=0x1,ldlat=3"}
    pmu(tmp_path, "cpu_core", 9, format=form, events=events, plain={"cpus": "0-7"})
    found = pebs.find_pmu(tmp_path)
    assert ("cpu_core", tuple(range(8))) == (found.name, found.cpus)


def test_loads_that_a_cache_answered_are_left_out(tmp_path, spaces) -> None:
    """A line that was on its way, an L2 hit, a store: none is a load from memory."""
    ring = ibs(1) + ibs(2, level=LFB) + ibs(3, level=L2) + ibs(4, level=NA)
    ring += ibs(5, op=STORE) + ibs(6, level=RAM, frame=0)
    source, _ = source_of(sapphire_rapids(tmp_path), spaces, [ring])
    (batch,) = source.drain()
    assert [1, 4, 6] == batch.seen.page.tolist()
    assert not batch.seen.write.any()
    assert not batch.capability.sees_writes
    assert batch.seen.latency_ns is None


def test_latency_is_stall_time(tmp_path, spaces) -> None:
    """In latency mode a sample tells how long the load took."""
    root = sapphire_rapids(tmp_path)
    source, _ = source_of(root, spaces, [ibs(1, cycles=1000)], mode="latency")
    (batch,) = source.drain()
    assert np.float32(1000 / GHZ) == batch.seen.latency_ns[0]
    assert batch.capability.knows_latency


def test_another_makers_cpu_is_none(tmp_path, spaces) -> None:
    """AMD's PMU is called cpu, too; it has no mem-loads."""
    zen4(tmp_path)
    assert pebs.find_pmu(tmp_path) is None
    assert "mem-loads" in PebsSource.probe(tmp_path).why
    with pytest.raises(UnsupportedError):
        PebsSource(spaces, VirtualClock(), root=tmp_path)
