"""Accessed bits: set iff the page was accessed since it was cleared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.hints.accessed_bit import AccessedBitSource
from isotherm.hints.batch import AccessedBits, HintBatch, Look, Mechanism
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.mechanisms import SimPageTable
from isotherm.machine.sim.spec import load_machine
from isotherm.trace.stream import AccessChunk

DT_NS = 500_000_000
BITS = Mechanism.ACCESSED_BIT


class Bench:
    """A machine with a page-table scanner."""

    def __init__(self, pages: int, start_ns: int = 0) -> None:
        self.machine = SimMachine(load_machine("dram-cxl"), pages, 0.5)
        self.machine.clock.advance(start_ns)
        node = np.ones(pages, np.uint8)
        node[: pages // 2] = 0
        self.machine.place(node)
        table = SimPageTable(self.machine, faults=False, bits=True)
        self.source = AccessedBitSource(table, 30.0, DT_NS)
        self.pages = pages

    def epoch(self, pages: list[int], *looks: Look) -> tuple[HintBatch, ...]:
        """Arm looks, let an epoch pass, and return what was seen."""
        self.source.look(looks)
        self.machine.advance(AccessChunk(np.array(pages, np.uint32)), DT_NS)
        return self.source.drain()

    def all(self, **rest: object) -> Look:
        """Return a look at every page."""
        return Look(BITS, 0, self.pages, **rest)


def seen_in(batch: HintBatch) -> AccessedBits:
    """Return the columns of a batch of accessed bits."""
    assert isinstance(batch.seen, AccessedBits)
    return batch.seen


def pages_of(batch: HintBatch) -> list[int]:
    """Return the pages whose bit was set."""
    seen = seen_in(batch)
    page = seen.block.astype(np.int64)[:, None] * 8 + np.arange(8)
    bits = np.unpackbits(seen.bits, bitorder="little").astype(np.bool_)
    return page.ravel()[bits].tolist()


@pytest.mark.parametrize("touched", [23, 4099])
def test_as_many_bits_as_pages_touched(touched: int) -> None:
    """Touch a prime number of pages, often or once, and that number comes out."""
    bench = Bench(5000)
    page = np.random.default_rng(1).permutation(5000)[:touched]
    (batch,) = bench.epoch([*page, *page[::2]], bench.all())
    assert sorted(page.tolist()) == pages_of(batch)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 42), max_size=20), min_size=1, max_size=6))
def test_a_bit_is_set_iff_touched_since_cleared(epochs: list[list[int]]) -> None:
    """Looking clears; an epoch without a look adds to the next one."""
    bench = Bench(43)
    since: set[int] = set()
    bench.epoch([], bench.all())
    for i, touched in enumerate(epochs):
        since |= set(touched)
        batches = bench.epoch(touched, *([bench.all()] if i % 2 else []))
        if i % 2:
            assert sorted(since) == pages_of(batches[0])
            since = set()
        else:
            assert () == batches


def test_history_before_the_first_look_is_of_unknown_length() -> None:
    """The first look says what was touched ever, over nobody knows how long."""
    bench = Bench(64)
    bench.epoch([1, 2, 3])
    (batch,) = bench.epoch([4], bench.all())
    assert [1, 2, 3, 4] == pages_of(batch)
    assert [0.0] * 8 == seen_in(batch).interval_s.tolist()
    assert 0 == len(seen_in(batch).whole_blocks(64).block)
    assert 64 * 30.0 == batch.background_ns
    (batch,) = bench.epoch([5], bench.all())
    assert [5] == pages_of(batch)
    assert [0.5] * 8 == seen_in(batch).interval_s.tolist()
    assert 64 * 30.0 == batch.background_ns
    assert 0.0 == batch.application_ns


def test_a_window_gives_two_batches() -> None:
    """The opening walk reports what gathered before it, the second one the window."""
    bench = Bench(64)
    bench.epoch([], bench.all())
    early, late = [8, 9], [9, 60]
    opening, window = bench.epoch([*early, *late], bench.all(window_s=0.25))
    assert (early, late) == (pages_of(opening), pages_of(window))
    assert (True, False) == (seen_in(opening).opening, seen_in(window).opening)
    assert [0.25] * 8 == seen_in(opening).interval_s.tolist()
    assert [0.25] * 8 == seen_in(window).interval_s.tolist()
    assert (DT_NS + DT_NS // 2, 2 * DT_NS) == (opening.end_ns, window.end_ns)


def test_an_opening_reaches_back_over_epochs_without_a_look() -> None:
    """Its interval is the time since these bits were cleared, not an epoch."""
    bench = Bench(64)
    bench.epoch([], bench.all())
    bench.epoch([5])
    opening, window = bench.epoch([], bench.all(window_s=0.1))
    assert [5] == pages_of(opening)
    assert [] == pages_of(window)
    assert 0.9 == pytest.approx(float(seen_in(opening).interval_s[0]))
    assert 0.1 == pytest.approx(float(seen_in(window).interval_s[0]))


def test_a_window_longer_than_the_epoch_is_the_epoch() -> None:
    """It opens at the start: nothing gathers before it."""
    bench = Bench(8)
    bench.epoch([], bench.all())
    opening, window = bench.epoch([3], bench.all(window_s=7.0))
    assert (0.0, 0.5) == (
        seen_in(opening).interval_s[0],
        seen_in(window).interval_s[0],
    )
    assert [3] == pages_of(window)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 9), st.integers(0, 49), st.integers(0, 60))
def test_stripes_cover_every_block_once_a_round(
    pages: int, stripes: int, start: int, length: int
) -> None:
    """Over all stripes of a range each of its blocks comes exactly once."""
    bench = Bench(pages)
    first = min(start, pages // 8) * 8
    last = min(pages, first + 8 * length)
    blocks = []
    for stripe in range(stripes):
        look = Look(BITS, first, last, stripes=stripes, stripe=stripe)
        for batch in bench.epoch([], look):
            block = seen_in(batch).block
            assert (np.diff(block.astype(np.int64)) > 0).all()
            assert (block % stripes == stripe).all()
            blocks += block.tolist()
    assert list(range(first // 8, -(-last // 8))) == sorted(blocks)


def test_stripes_have_their_own_intervals() -> None:
    """A block that waits its turn for three epochs is seen with that exposure."""
    bench = Bench(64)
    for stripe in range(3):
        bench.epoch([], Look(BITS, 0, 64, stripes=3, stripe=stripe))
    (batch,) = bench.epoch([0, 8, 16], Look(BITS, 0, 64, stripes=3, stripe=0))
    assert [0] == pages_of(batch)
    assert [0, 3, 6] == seen_in(batch).block.tolist()
    assert [1.5] * 3 == seen_in(batch).interval_s.tolist()


def test_only_pages_of_a_node() -> None:
    """A look at one node reads, clears and pays for its pages only."""
    bench = Bench(64)
    bench.epoch([], bench.all())
    (batch,) = bench.epoch([1, 33], bench.all(node=1))
    seen = seen_in(batch)
    assert [33] == pages_of(batch)
    assert seen.observed is not None
    assert [0, 0, 0, 0, 255, 255, 255, 255] == seen.observed.tolist()
    assert 32 * 30.0 == batch.background_ns
    (batch,) = bench.epoch([], bench.all())
    assert [1] == pages_of(batch)


def test_looks_of_other_mechanisms_are_ignored() -> None:
    """A look with another mechanism reads nothing."""
    bench = Bench(64)
    assert () == bench.epoch([1], Look(Mechanism.SAMPLING, 0, 64))


@pytest.mark.parametrize("days", [0, 100])
def test_long_uptimes_keep_their_precision(days: int) -> None:
    """A window of 5 ms is 5 ms, whatever the clock stood at when it all began."""
    bench = Bench(64, start_ns=days * 86_400 * 1_000_000_000)
    bench.epoch([], bench.all())
    opening, window = bench.epoch([3], bench.all(window_s=0.005))
    assert [np.float32(0.495)] * 8 == seen_in(opening).interval_s.tolist()
    assert [np.float32(0.005)] * 8 == seen_in(window).interval_s.tolist()


def test_intervals_outlive_the_wrap() -> None:
    """Ticks of 32 bits wrap after 119 hours; differences do not notice."""
    bench = Bench(64)
    bench.epoch([], bench.all())
    for _ in range(3):
        bench.machine.clock.advance(118 * 3600 * 1_000_000_000)
        (batch,) = bench.epoch([3], bench.all())
        assert [np.float32(118 * 3600 + 0.5)] * 8 == seen_in(batch).interval_s.tolist()
