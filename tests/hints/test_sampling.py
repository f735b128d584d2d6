"""The sampling driver: batches, costs, periods."""

import numpy as np
import pytest

from isotherm.hints.batch import Look, Mechanism, Samples
from isotherm.hints.sampling import SamplingSource
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.mechanisms import SimSampling
from isotherm.machine.sim.spec import load_machine
from isotherm.trace.stream import AccessChunk

DT_NS = 500_000_000


def bench(
    period: int, accesses: int = 100_000, loss: float = 0.0
) -> tuple[SimMachine, SamplingSource, AccessChunk]:
    """Return a machine, its sampler and a stream over 997 pages."""
    machine = SimMachine(load_machine("dram-cxl"), 997, 0.5)
    machine.place((np.arange(997) % 2).astype(np.uint8))
    source = SamplingSource(SimSampling(machine, period, 1, loss), 200.0)
    page = (np.arange(accesses) % 997).astype(np.uint32)
    return machine, source, AccessChunk(page)


def test_one_batch_an_epoch() -> None:
    """Samples are those of the epoch, and the application pays for each."""
    machine, source, chunk = bench(100)
    for epoch in range(3):
        machine.advance(chunk, DT_NS)
        (batch,) = source.drain()
        assert isinstance(batch.seen, Samples)
        assert (epoch * DT_NS, (epoch + 1) * DT_NS) == (batch.start_ns, batch.end_ns)
        assert 1000 == pytest.approx(len(batch.seen.page), abs=40)
        assert 200.0 * len(batch.seen.page) == batch.application_ns
        assert (0.0, 0, 100.0) == (batch.background_ns, batch.lost, batch.seen.period)


def test_a_lost_sample_costs_as_much_as_a_kept_one() -> None:
    """The interrupt was taken before the record was dropped."""
    machine, source, chunk = bench(100, loss=0.5)
    machine.advance(chunk, DT_NS)
    (batch,) = source.drain()
    assert isinstance(batch.seen, Samples)
    assert batch.lost > 300
    assert 200.0 * (batch.lost + len(batch.seen.page)) == batch.application_ns
    assert 100_000 == pytest.approx(batch.seen.period * len(batch.seen.page), rel=0.1)


def test_a_look_changes_the_period() -> None:
    """From the next epoch on; looks without one leave it alone."""
    machine, source, chunk = bench(100)
    source.look((Look(Mechanism.SAMPLING, 0, 997, period=1000),))
    source.look((Look(Mechanism.SAMPLING, 0, 997),))
    source.look((Look(Mechanism.ACCESSED_BIT, 0, 997, period=7),))
    machine.advance(chunk, DT_NS)
    (batch,) = source.drain()
    assert isinstance(batch.seen, Samples)
    assert 1000.0 == batch.seen.period
    assert 100 == pytest.approx(len(batch.seen.page), abs=12)


def test_an_idle_epoch_gives_an_empty_batch() -> None:
    """No access, no sample, no cost; the period stands."""
    machine, source, _ = bench(100)
    machine.advance(AccessChunk(np.empty(0, np.uint32)), DT_NS)
    (batch,) = source.drain()
    assert isinstance(batch.seen, Samples)
    assert (0, 0.0, 100.0) == (
        len(batch.seen.page),
        batch.application_ns,
        batch.seen.period,
    )
