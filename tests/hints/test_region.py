"""The region driver: one batch an aggregation, paid for by a background CPU."""

import numpy as np

from isotherm.hints.batch import Look, Mechanism, RegionCounts
from isotherm.hints.region import RegionSource
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.mechanisms import SimRegions
from isotherm.machine.sim.spec import load_machine
from isotherm.trace.stream import AccessChunk

DT_NS = 500_000_000


def test_aggregations_of_an_epoch() -> None:
    """Half a second holds five aggregations of 100 ms, each 20 checks of 5 ms."""
    machine = SimMachine(load_machine("dram-cxl"), 4099, 0.5)
    source = RegionSource(SimRegions(machine, 1, DT_NS), 30.0)
    hot = (np.arange(200_000) % 1000).astype(np.uint32)
    found = []
    for _ in range(9):
        source.look((Look(Mechanism.SAMPLING, 0, 8),))
        machine.advance(AccessChunk(hot), DT_NS)
        batches = source.drain()
        paid = [b.background_ns for b in batches]
        # 100 checks, two entries each, of 10 to 1000 regions.
        assert 2 * 100 * 10 * 30.0 <= paid[0] <= 2 * 100 * 1000 * 30.0
        assert [0.0] * (len(paid) - 1) == paid[1:]
        assert 0.0 == sum(b.application_ns for b in batches)
        found.append(len(batches))
        last = batches[-1].seen
    # The check at the very end of an epoch is the first of the next.
    assert [4, *[5] * 8] == found
    assert isinstance(last, RegionCounts)
    assert (20, 0.005) == (last.checks, last.interval_s)
    inside = last.end <= 1000
    outside = last.start >= 1000
    assert (last.nr_accesses[inside] == 20).all()
    assert 0 == last.nr_accesses[outside].sum()
    assert 1000 >= int(inside.sum()) > 0


def test_nothing_armed_nothing_seen() -> None:
    """Without a look kdamond sleeps."""
    machine = SimMachine(load_machine("dram-cxl"), 100, 0.5)
    source = RegionSource(SimRegions(machine, 1, DT_NS), 30.0)
    machine.advance(AccessChunk(np.arange(100, dtype=np.uint32)), DT_NS)
    assert () == source.drain()


def test_looks_are_paid_for_by_the_aggregation_that_comes_of_them() -> None:
    """Epochs of 30 ms end without an aggregation: the next batch pays for them."""
    dt_ns = 30_000_000
    machine = SimMachine(load_machine("dram-cxl"), 4099, 0.5)
    source = RegionSource(SimRegions(machine, 1, dt_ns), 30.0)
    batches = []
    for _ in range(4):
        source.look(())
        machine.advance(AccessChunk(np.arange(4099, dtype=np.uint32)), dt_ns)
        batches.append(source.drain())
    assert [0, 0, 0, 1] == [len(b) for b in batches]
    ((batch,),) = batches[3:]
    # 24 checks of at least ten regions, two entries each, in 120 ms.
    assert batch.background_ns >= 24 * 10 * 2 * 30.0
    assert (0, 4 * dt_ns) == (batch.start_ns, batch.end_ns)
