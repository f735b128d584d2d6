"""A tensor as a machine: what the loop sees of it, and what moves do."""

import errno

import numpy as np
import pytest

from isotherm.gpu import numpy_backend
from isotherm.gpu.backend import Geometry
from isotherm.gpu.machine import EPOCH_NS, TensorMachine, measure
from isotherm.gpu.mover import MOST_LAUNCHES, Mover
from isotherm.gpu.protocol import HBM, HOST, SlotProtocol
from isotherm.gpu.source import KernelCounters
from isotherm.gpu.tiering import Tiering
from isotherm.hints.batch import Samples
from isotherm.topology.model import InitiatorKind, MemoryKind
from tests.gpu.devices import host_arena

SHAPE = Geometry(64, 32, "float32", 1, 16)
HBM_BYTES_S, HOST_BYTES_S = 2e12, 4e10


def make(*, writable: bool = False, hit_shift: int = 0) -> tuple[Mover, TensorMachine]:
    """Return a tensor of 64 pages and 16 slots."""
    device = numpy_backend.create(SHAPE, host_arena(SHAPE))
    protocol = SlotProtocol(64, 16, writable=writable)
    mover = Mover(device, protocol, hit_shift=hit_shift, deterministic=True)
    return mover, TensorMachine(mover, "table", HBM_BYTES_S, HOST_BYTES_S)


def read(mover: Mover, row: np.ndarray) -> None:
    """Read rows."""
    out = mover.backend.empty((len(row), 32))
    mover.launch(lambda launch: mover.backend.gather(row, out, launch))
    mover.pump()


def test_two_nodes_and_a_gpu() -> None:
    """HBM is the faster tier, host memory the other; the GPU is their initiator."""
    _, machine = make()
    topology = machine.topology
    assert [MemoryKind.GPU, MemoryKind.DRAM] == [node.kind for node in topology.nodes]
    assert [16 * 128, 64 * 128] == [node.capacity_bytes for node in topology.nodes]
    assert [(HBM,), (HOST,)] == [tier.nodes for tier in topology.tiers]
    assert [InitiatorKind.GPU] == [who.kind for who in topology.initiators]
    row = topology.performance_of(0, HOST)
    assert row is not None
    assert row.read_latency_ns is not None
    assert 128 / HOST_BYTES_S * 1e9 == row.read_latency_ns.value
    assert [[128 / HBM_BYTES_S * 1e9, 128 / HOST_BYTES_S * 1e9]] == (
        machine.latency_ns().tolist()
    )


def test_what_is_promised_counts_as_there() -> None:
    """A page is on HBM when its move is accepted; a deposit makes it so."""
    mover, machine = make()
    page = np.array([3, 9, 40], np.uint32)
    result = machine.move(page, np.zeros(3, np.uint8))
    assert [0, 0, 0] == result.errno.tolist()
    assert 3 * 128 / HOST_BYTES_S * 1e9 == pytest.approx(result.cost_ns)
    assert [3, 61] == machine.usage().used_pages.tolist()
    assert [HBM] * 3 == machine.placement()[page].tolist()
    assert (mover.backend.peek("loc") == -1).all()
    mover.pump()
    read(mover, np.array([3, 40]))
    read(mover, np.array([1]))
    loc = mover.backend.peek("loc")
    assert (loc[[3, 40]] >= 0).all()
    assert loc[9] <= -2
    back = machine.move(page, np.ones(3, np.uint8))
    assert [0, 0, 0] == back.errno.tolist()
    assert 0.0 == back.cost_ns
    assert [0, 64] == machine.usage().used_pages.tolist()
    mover.settle()
    assert (mover.backend.peek("loc") == -1).all()


def test_moves_beyond_the_slots_are_data() -> None:
    """What does not fit is ENOMEM, page by page."""
    _, machine = make()
    result = machine.move(np.arange(20, dtype=np.uint32), np.zeros(20, np.uint8))
    assert [0] * 16 + [errno.ENOMEM] * 4 == result.errno.tolist()


def test_leaving_costs_only_where_pages_may_be_dirty() -> None:
    """Of a writable tensor a page that leaves may have to be copied."""
    expected = 128 / HOST_BYTES_S * 1e9
    assert [[0, 0], [expected, 0]] == make()[1].move_cost_ns().tolist()
    writable = make(writable=True)[1].move_cost_ns()
    assert [[0, expected], [expected, 0]] == writable.tolist()


def test_the_clock_counts_work() -> None:
    """An epoch is half a second of the tensor's clock, however long it took."""
    _, machine = make()
    assert machine.access_rate() is None
    machine.advance(320)
    assert EPOCH_NS == machine.clock.now_ns()
    assert 320 / 64 / 0.5 == machine.access_rate()
    assert machine.refresh() is None


@pytest.mark.parametrize("hit_shift", [0, 2])
def test_counters_are_samples(hit_shift: int) -> None:
    """Every miss is one, and every counted hit stands for those not counted."""
    mover, machine = make(hit_shift=hit_shift)
    counters = KernelCounters(mover, machine.clock)
    machine.move(np.array([5], np.uint32), np.zeros(1, np.uint8))
    mover.pump()
    read(mover, np.array([5]))
    mover.pump()
    counters.fetch()
    counters.drain()
    row = np.repeat([5, 7, 60], [256, 3, 1])
    read(mover, row)
    counters.fetch()
    machine.advance(len(row))
    (batch,) = counters.drain()
    assert isinstance(batch.seen, Samples)
    page, count = np.unique(batch.seen.page, return_counts=True)
    assert [5, 7, 60] == page.tolist()
    assert [3, 1] == count[1:].tolist()
    assert 256 == count[0] or hit_shift
    assert 128 <= count[0] <= 384
    assert (256, 5) == (counters.hits, counters.misses)
    assert () == counters.drain()


def test_a_slot_that_was_given_away_counts_for_nobody() -> None:
    """Hits of a page that has left are not told of the page that has its slot now."""
    mover, machine = make()
    counters = KernelCounters(mover, machine.clock)
    page = np.arange(16, dtype=np.uint32)
    mover.promote(page, copy=True)
    mover.settle()
    read(mover, np.repeat([2], 9))
    mover.demote(np.array([2], np.uint32))
    mover.settle()
    mover.promote(np.array([50], np.uint32))
    mover.pump()
    counters.fetch()
    machine.advance(9)
    (batch,) = counters.drain()
    assert isinstance(batch.seen, Samples)
    assert 50 not in batch.seen.page.tolist()


def test_nothing_read_is_no_epoch() -> None:
    """A tensor that nobody reads forgets nothing."""
    mover, machine = make()
    tiering = Tiering(mover, machine)
    assert tiering.step() is None
    assert 0 == machine.clock.now_ns()
    read(mover, np.arange(64))
    assert tiering.step() is not None
    assert EPOCH_NS == machine.clock.now_ns()


def test_the_hottest_pages_are_promoted() -> None:
    """The loop of ordinary memory finds a tensor's hot rows."""
    mover, machine = make()
    tiering = Tiering(mover, machine)
    random = np.random.default_rng(1)
    hot = np.arange(3, 64, 4)[:12]
    for _ in range(40):
        cold = random.integers(0, 64, 60)
        read(mover, np.concatenate([np.repeat(hot, 12), cold]))
        tiering.step()
        mover.pump()
    assert [HBM] * 12 == machine.placement()[hot].tolist()


def test_bandwidths_are_measured() -> None:
    """A measurement gives two figures and leaves the device as it was."""
    device = numpy_backend.create(SHAPE, host_arena(SHAPE))
    ticks = iter(range(0, 10_000_000, 1000))
    hbm, host = measure(device, lambda: next(ticks))
    assert (64 * 128 / 1000 * 1e9,) * 2 == (hbm, host)
    assert (device.peek("loc") == -1).all()
    drained = device.drain().result()
    assert 0 == drained.hits + drained.misses


def test_launches_that_nobody_looks_after_are_forgotten() -> None:
    """Without any step, ended launches do not pile up."""
    mover, _ = make()
    out = mover.backend.empty((1, 32))
    for _ in range(3 * MOST_LAUNCHES):
        mover.launch(lambda launch: mover.backend.gather(np.array([3]), out, launch))
    assert len(mover.protocol.readers.running) <= MOST_LAUNCHES


def test_a_long_epoch_is_told_by_every_fourth_access() -> None:
    """No more samples than the tracker is to have, each for so many accesses."""
    mover, machine = make()
    counters = KernelCounters(mover, machine.clock, most_samples=100)
    read(mover, np.repeat([3, 20, 21, 60], [200, 130, 2, 40]))
    machine.advance(372)
    (batch,) = counters.drain()
    assert isinstance(batch.seen, Samples)
    assert 4.0 == batch.seen.period
    page, count = np.unique(batch.seen.page, return_counts=True)
    assert {3: 50, 20: 32, 21: 1, 60: 10} == dict(
        zip(page.tolist(), count.tolist(), strict=True)
    )
