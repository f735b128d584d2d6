"""What every hint driver keeps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from isotherm.gpu import numpy_backend
from isotherm.gpu.backend import Geometry
from isotherm.gpu.machine import TensorMachine
from isotherm.gpu.mover import Mover
from isotherm.gpu.protocol import SlotProtocol
from isotherm.gpu.source import KernelCounters
from isotherm.hints.accessed_bit import AccessedBitSource
from isotherm.hints.batch import (
    AccessedBits,
    FaultDelays,
    HintBatch,
    HintSource,
    Look,
    Mechanism,
    RangeCounts,
    RegionCounts,
    Samples,
)
from isotherm.hints.hint_fault import HintFaultSource
from isotherm.hints.region import RegionSource
from isotherm.hints.sampling import SamplingSource
from isotherm.lab.hotness_unit import simulated_chmu
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.mechanisms import SimPageTable, SimRegions, SimSampling
from isotherm.machine.sim.spec import load_machine
from isotherm.trace.stream import AccessChunk

PAGES = 4099  # the last block of eight holds three
EPOCH_NS = 500_000_000


@dataclass
class SourceUnderTest:
    """A driver, and how to make something happen that it can see.

    Attributes:
        source: The driver.
        pages: Length of the flat page index.
        touch: Accesses pages in order, in one epoch of ``EPOCH_NS``.
        now_ns: The machine's time.
    """

    source: HintSource
    pages: int
    touch: Callable[[np.ndarray], None]
    now_ns: Callable[[], int]

    def epoch(self, page: np.ndarray) -> tuple[HintBatch, ...]:
        """Look everywhere, touch pages, drain."""
        self.source.look((Look(self.source.mechanism, 0, self.pages),))
        self.touch(page)
        return self.source.drain()


def on_simulator(
    make: Callable[[SimMachine], HintSource],
) -> Callable[[], SourceUnderTest]:
    """Return a maker of a driver on a simulated machine."""

    def made() -> SourceUnderTest:
        machine = SimMachine(load_machine("dram-cxl"), PAGES, 0.5)
        machine.place((np.arange(PAGES) % 3 > 0).astype(np.uint8))
        source = make(machine)

        def touch(page: np.ndarray) -> None:
            machine.advance(AccessChunk(page.astype(np.uint32)), EPOCH_NS)

        return SourceUnderTest(source, PAGES, touch, machine.clock.now_ns)

    return made


def on_a_tensor() -> SourceUnderTest:
    """Return the counters of a tensor's kernels."""
    shape = Geometry(PAGES, 32, "float32", 1, 500)
    device = numpy_backend.create(shape, np.zeros((PAGES, shape.page_bytes), np.uint8))
    mover = Mover(device, SlotProtocol(PAGES, 500))
    machine = TensorMachine(mover, "table")
    machine.move(np.arange(500, dtype=np.uint32), np.zeros(500, np.uint8))

    def touch(page: np.ndarray) -> None:
        out = device.empty((len(page), 32))
        mover.launch(lambda launch: device.gather(page, out, launch))
        mover.pump()
        machine.advance(len(page))

    source = KernelCounters(mover, machine.clock)
    return SourceUnderTest(source, PAGES, touch, machine.clock.now_ns)


#: ``{name: maker}``. A host's driver goes here, with a maker that skips where the
#: host cannot.
SOURCES: dict[str, Callable[[], SourceUnderTest]] = {
    "sim:sampling": on_simulator(
        lambda m: SamplingSource(SimSampling(m, 7, 1, 0.0), 200.0)
    ),
    "sim:accessed-bit": on_simulator(
        lambda m: AccessedBitSource(
            SimPageTable(m, faults=False, bits=True), 30.0, EPOCH_NS
        )
    ),
    "sim:hint-fault": on_simulator(
        lambda m: HintFaultSource(
            SimPageTable(m, faults=True, bits=False), 1000.0, 30.0
        )
    ),
    "sim:region": on_simulator(
        lambda m: RegionSource(SimRegions(m, 1, EPOCH_NS), 30.0)
    ),
    "sim:chmu": on_simulator(lambda m: simulated_chmu(m, EPOCH_NS)),
    "tensor:sampling": on_a_tensor,
}


@pytest.fixture(params=SOURCES)
def name(request: pytest.FixtureRequest) -> str:
    """Return each driver's name in turn."""
    return str(request.param)


@pytest.fixture
def bench(name: str) -> SourceUnderTest:
    """Return each driver in turn."""
    return SOURCES[name]()


HOT = np.tile(np.arange(0, PAGES, 5), 40)


def columns(batch: HintBatch) -> list[np.ndarray]:
    """Return the columns of a batch."""
    seen = batch.seen
    found = (getattr(seen, field) for field in seen.__dataclass_fields__)
    return [column for column in found if isinstance(column, np.ndarray)]


def touched(batch: HintBatch) -> set[int]:
    """Return the pages of which a batch says that they were touched."""
    seen = batch.seen
    if isinstance(seen, AccessedBits):
        page = seen.block.astype(np.int64)[:, None] * 8 + np.arange(8)
        bits = np.unpackbits(seen.bits, bitorder="little").astype(np.bool_)
        return set(page.ravel()[bits].tolist())
    if isinstance(seen, RegionCounts):
        hot = seen.nr_accesses > 0
        spans = zip(seen.start[hot], seen.end[hot], strict=True)
        return {page for start, end in spans for page in range(start, end)}
    if isinstance(seen, RangeCounts):
        spans = zip(seen.start, seen.end, strict=True)
        return {page for start, end in spans for page in range(start, end)}
    return set(seen.page.tolist())


def test_mechanism_is_known(bench: SourceUnderTest, name: str) -> None:
    """The names that --hints takes."""
    assert bench.source.mechanism in set(Mechanism)
    assert name.endswith(f":{bench.source.mechanism}")


def test_what_it_can_see_is_declared(bench: SourceUnderTest) -> None:
    """A capability of its own, the same in every batch, and true of its columns."""
    declared = bench.source.capability
    assert declared.sees_reads or declared.sees_writes
    assert declared.unit_pages >= 0
    bench.epoch(HOT)
    for batch in bench.epoch(HOT):
        seen = batch.seen
        assert declared == batch.capability
        named = getattr(seen, "initiator", None)
        assert declared.knows_initiator or named is None or (named == 255).all()
        assert declared.knows_latency or getattr(seen, "latency_ns", None) is None
        if isinstance(seen, RegionCounts | RangeCounts):
            assert declared.unit_pages != 1 or (seen.end - seen.start == 1).all()
        if isinstance(seen, RangeCounts):
            assert declared.thresholded or seen.threshold <= 1
            assert not declared.thresholded or seen.threshold >= 1


def test_batches_say_when_and_what_it_cost(bench: SourceUnderTest) -> None:
    """Stretches of time join up to now; costs and losses are figures >= 0."""
    end = 0
    bench.source.look(())
    for _ in range(4):
        start = bench.now_ns()
        batches = bench.epoch(HOT)
        assert len(batches) > 0
        for batch in batches:
            assert bench.source.mechanism.value == batch.source
            assert batch.start_ns <= batch.end_ns <= bench.now_ns()
            assert start >= batch.start_ns >= end
            for cost in (batch.application_ns, batch.background_ns, batch.lost):
                assert 0 <= cost < np.inf
        assert bench.now_ns() == batches[-1].end_ns
        assert sum(b.application_ns + b.background_ns for b in batches) > 0
        end = start


def test_columns_fit_the_mechanism(bench: SourceUnderTest) -> None:
    """Types, lengths and ranges are those of its table."""
    bench.epoch(HOT)
    bench.epoch(HOT)
    for batch in bench.epoch(HOT):
        seen = batch.seen
        if isinstance(seen, Samples):
            assert np.uint32 == seen.page.dtype
            assert seen.period >= 1
            for column in (seen.write, seen.initiator):
                assert column is None or (
                    np.uint8 == column.dtype and len(seen.page) == len(column)
                )
            assert len(seen.page) == 0 or seen.page.max() < bench.pages
        elif isinstance(seen, AccessedBits):
            assert np.uint32 == seen.block.dtype
            assert (np.diff(seen.block.astype(np.int64)) > 0).all()
            assert len(seen.block) == len(seen.bits) == len(seen.interval_s)
            assert (seen.interval_s >= 0).all()
        elif isinstance(seen, FaultDelays):
            assert len(seen.page) == len(seen.delay_s) == len(seen.write)
            assert len(set(seen.page.tolist())) == len(seen.page)
            assert (seen.delay_s >= 0).all()
            assert len(seen.silent) == len(seen.silent_s)
            assert (seen.silent_s >= 0).all()
        elif isinstance(seen, RangeCounts):
            assert (np.uint32, np.uint32) == (seen.start.dtype, seen.end.dtype)
            assert (np.float32, np.float32) == (seen.count.dtype, seen.exposure_s.dtype)
            assert len(seen.start) == len(seen.end) == len(seen.count)
            assert len(seen.start) == len(seen.exposure_s) > 0
            assert (seen.start < seen.end).all()
            assert (np.diff(seen.start.astype(np.int64)) >= 0).all()
            assert (seen.count >= seen.threshold * 0.999).all()
            assert (seen.exposure_s > 0).all()
            watched = seen.watched
            assert (np.int64, 2) == (watched.dtype, watched.shape[1])
            assert (watched[:, 0] < watched[:, 1]).all()
            assert (watched[1:, 0] > watched[:-1, 1]).all()
            assert seen.end.max() <= watched.max() <= bench.pages
            assert 0 < seen.share <= 1
        else:
            assert (seen.start < seen.end).all()
            assert (seen.start[1:] >= seen.end[:-1]).all()
            assert seen.end.max() <= bench.pages
            assert (seen.nr_accesses <= seen.checks).all()
            assert seen.checks > 0
            assert seen.interval_s > 0


def test_what_is_said_to_be_touched_was(bench: SourceUnderTest) -> None:
    """No page that nobody accessed is reported, region borders aside."""
    bench.epoch(np.empty(0, np.uint32))
    hot = np.arange(1024, 2048)
    found: set[int] = set()
    for _ in range(4):
        for batch in bench.epoch(np.tile(hot, 20)):
            found |= touched(batch)
    assert found & set(hot.tolist())
    if bench.source.mechanism is not Mechanism.REGION:
        assert found <= set(hot.tolist())


def test_an_idle_epoch_has_no_touches(bench: SourceUnderTest) -> None:
    """What was seen once is not seen again."""
    nothing = np.empty(0, np.uint32)
    bench.epoch(HOT)
    for batch in bench.epoch(nothing):
        if bench.source.mechanism is not Mechanism.REGION:
            assert set() == touched(batch)
    # A region's aggregation may begin in the epoch before.
    assert set() == touched(bench.epoch(nothing)[-1])


def test_looks_for_others_are_ignored(bench: SourceUnderTest) -> None:
    """A driver is told every look of a plan, and picks its own."""
    others = [m for m in Mechanism if m is not bench.source.mechanism]
    bench.source.look(tuple(Look(m, 0, bench.pages, period=3) for m in others))
    bench.touch(HOT)
    kinds = {type(batch.seen) for batch in bench.source.drain()}
    assert len(kinds) <= 1
    if bench.source.mechanism in (Mechanism.ACCESSED_BIT, Mechanism.HINT_FAULT):
        bench.touch(HOT)
        assert not any(touched(batch) for batch in bench.source.drain())


def test_a_second_drain_is_empty(bench: SourceUnderTest) -> None:
    """Nothing is reported, or paid for, twice."""
    bench.epoch(HOT)
    for batch in bench.source.drain():
        assert set() == touched(batch)
        assert (0.0, 0.0) == (batch.application_ns, batch.background_ns)


def test_batches_outlive_the_next_epoch(bench: SourceUnderTest) -> None:
    """Columns that were handed out do not change under the reader."""
    bench.epoch(HOT)
    batches = bench.epoch(HOT)
    before = [column.tobytes() for b in batches for column in columns(b)]
    bench.epoch(HOT[::-1] % 1000)
    assert before == [column.tobytes() for b in batches for column in columns(b)]


def test_the_same_seed_sees_the_same(name: str) -> None:
    """Two drivers of one seed on two machines alike give the same columns."""
    runs = []
    for _ in range(2):
        bench = SOURCES[name]()
        batches = [b for _ in range(3) for b in bench.epoch(HOT)]
        runs.append([c.tobytes() for b in batches for c in columns(b)])
    assert runs[0] == runs[1]
