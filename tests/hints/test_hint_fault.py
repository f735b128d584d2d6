"""Hint faults: the first access after poisoning, and how long it took."""

import numpy as np
import pytest

from isotherm.hints.batch import FaultDelays, Look, Mechanism
from isotherm.hints.hint_fault import HintFaultSource
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.mechanisms import SimPageTable
from isotherm.machine.sim.spec import load_machine
from isotherm.trace.stream import AccessChunk

DT_NS = 500_000_000
FAULT = Mechanism.HINT_FAULT


class Bench:
    """A machine whose first half is fast, with a driver of hint faults."""

    def __init__(self, pages: int = 64, start_ns: int = 0) -> None:
        self.machine = SimMachine(load_machine("dram-cxl"), pages, 0.5)
        self.machine.clock.advance(start_ns)
        node = np.ones(pages, np.uint8)
        node[: pages // 2] = 0
        self.machine.place(node)
        table = SimPageTable(self.machine, faults=True, bits=False)
        self.source = HintFaultSource(table, 1000.0, 30.0)
        self.cost_ns = 0.0

    def epoch(self, *pages: int, **columns: np.ndarray) -> FaultDelays:
        """Let an epoch pass and return what was seen."""
        chunk = AccessChunk(np.array(pages, np.uint32), **columns)
        self.machine.advance(chunk, DT_NS)
        (batch,) = self.source.drain()
        assert isinstance(batch.seen, FaultDelays)
        assert 0.0 == batch.background_ns
        self.cost_ns = batch.application_ns
        return batch.seen

    def poison(self, start: int, end: int, node: int | None = None) -> None:
        """Poison a range."""
        self.source.look((Look(FAULT, start, end, node=node),))


@pytest.mark.parametrize("touched", [23, 4099])
def test_each_page_faults_once(touched: int) -> None:
    """Of many accesses to a poisoned page only the first is a fault."""
    bench = Bench(8192)
    bench.poison(0, 8192)
    pages = np.random.default_rng(1).permutation(8192)[:touched].tolist()
    seen = bench.epoch(*pages, *pages)
    assert pages == seen.page.tolist()
    assert touched * 1000.0 + 8192 * 30.0 == bench.cost_ns
    assert 0 == len(bench.epoch(*pages).page)
    assert 0.0 == bench.cost_ns


def test_delays_are_the_time_of_the_access() -> None:
    """Four accesses spread over half a second fault at 1/8, 3/8, 5/8, 7/8 of it."""
    bench = Bench()
    bench.poison(0, 64)
    seen = bench.epoch(9, 9, 7, 9)
    assert ([9, 7], [0.0625, 0.3125]) == (seen.page.tolist(), seen.delay_s.tolist())


def test_delays_of_a_timed_stream_are_its_own() -> None:
    """Where accesses carry times, those rule."""
    bench = Bench()
    bench.epoch()
    bench.poison(0, 64)
    time_ns = np.array([DT_NS + 100_000_000, DT_NS + 400_000_000])
    seen = bench.epoch(1, 2, time_ns=time_ns)
    assert [0.1, 0.4] == pytest.approx(seen.delay_s.tolist())


def test_delays_reach_over_epochs() -> None:
    """A page that nobody touches for two epochs faults with that delay."""
    bench = Bench()
    bench.poison(0, 8)
    bench.epoch()
    bench.epoch()
    assert [1.25] == bench.epoch(3).delay_s.tolist()


def test_silent_pages_are_reported() -> None:
    """Poisoning again reports who stayed silent since the last report."""
    bench = Bench()
    bench.poison(0, 3)
    assert [] == bench.epoch(1).silent.tolist()
    bench.poison(0, 3)
    seen = bench.epoch()
    assert ([0, 2], [0.5, 0.5]) == (seen.silent.tolist(), seen.silent_s.tolist())
    bench.poison(0, 3)
    seen = bench.epoch()
    assert [0, 1, 2] == seen.silent.tolist()
    assert [0.5, 0.5, 0.5] == seen.silent_s.tolist()


def test_a_silent_report_does_not_make_a_page_look_hotter() -> None:
    """The delay runs from poisoning; what a report told is not exposure again."""
    bench = Bench()
    bench.poison(0, 8)
    bench.epoch()
    bench.poison(0, 8)
    seen = bench.epoch(3)
    assert [0.75] == seen.delay_s.tolist()
    assert seen.exposure_s is not None
    assert [0.25] == seen.exposure_s.tolist()
    bench.poison(0, 8)
    seen = bench.epoch(3)
    assert [0.25] == seen.delay_s.tolist() == seen.exposure_s.tolist()


def test_only_pages_of_a_node_are_poisoned() -> None:
    """And only they are paid for."""
    bench = Bench()
    bench.poison(0, 64, node=1)
    seen = bench.epoch(1, 40, 2, 41)
    assert [40, 41] == seen.page.tolist()
    assert 2 * 1000.0 + 32 * 30.0 == bench.cost_ns


def test_a_poisoned_page_that_moves_stays_poisoned() -> None:
    """Migration carries the entry over."""
    bench = Bench()
    bench.poison(40, 48)
    bench.machine.move(np.array([1, 40], np.uint32), np.array([1, 0], np.uint8))
    assert [40] == bench.epoch(40).page.tolist()


def test_a_fault_knows_what_the_access_was() -> None:
    """The handler sees whether it was a write, and on which CPU."""
    bench = Bench()
    bench.poison(0, 8)
    seen = bench.epoch(
        1, 2, write=np.array([0, 1], np.uint8), initiator=np.array([0, 255], np.uint8)
    )
    assert [0, 1] == seen.write.tolist()
    assert [0, 255] == seen.initiator.tolist()


def test_the_end_of_a_range_may_lie_beyond_the_last_page() -> None:
    """Nothing is poisoned there."""
    bench = Bench(13)
    bench.poison(8, 16)
    assert [12] == bench.epoch(12).page.tolist()
    assert 1000.0 + 5 * 30.0 == bench.cost_ns


def test_looks_of_other_mechanisms_are_ignored() -> None:
    """A look with another mechanism poisons nothing."""
    bench = Bench()
    bench.source.look((Look(Mechanism.ACCESSED_BIT, 0, 64),))
    assert 0 == len(bench.epoch(1, 2, 3).page)


@pytest.mark.parametrize("days", [0, 100])
def test_long_uptimes_keep_their_precision(days: int) -> None:
    """Delays and silences are those of a clock that starts at 0."""
    bench = Bench(start_ns=days * 86_400 * 1_000_000_000)
    bench.poison(0, 8)
    bench.epoch()
    bench.poison(0, 8)
    seen = bench.epoch(*[1] + [40] * 499)
    assert [np.float32(0.5)] * 8 == seen.silent_s.tolist()
    assert [0.5005] == pytest.approx(seen.delay_s.tolist(), abs=1e-6)
    assert seen.exposure_s is not None
    assert [0.0005] == pytest.approx(seen.exposure_s.tolist(), abs=1e-7)
