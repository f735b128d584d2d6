"""Units of several pages: what is seen, said and moved in them."""

from dataclasses import replace

import numpy as np
import pytest

from isotherm.core.units import NS_PER_S
from isotherm.daemon.coarse import CoarseMachine, CoarseSource, coarsened
from isotherm.daemon.config import BrakeConfig, Config
from isotherm.daemon.service import Grain, Service
from isotherm.hints.batch import (
    AccessedBits,
    FaultDelays,
    Look,
    Mechanism,
    RangeCounts,
    RegionCounts,
    Samples,
)
from isotherm.machine.protocol import Space, SpacesChanged
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import load_machine
from isotherm.migration.engine import MigrationEngine

PAGES_OF_PLAYED = 4096
PAGES = 64


def u32(*values):
    """Return a column of page numbers."""
    return np.array(values, np.uint32)


@pytest.fixture
def machine():
    """Return a machine of 64 pages, the first half in slow memory."""
    sim = SimMachine(load_machine("dram-cxl"), PAGES, 0.75)
    sim.place((np.arange(PAGES) < PAGES // 2).astype(np.uint8))
    return sim


def bits_of(pages, observed, unit):
    """Return accessed and observed units of a page-level observation."""
    flags = np.zeros((2, PAGES), np.uint8)
    flags[0, pages], flags[1, observed] = 1, 1
    packed = np.packbits(flags, axis=1, bitorder="little")
    block = np.flatnonzero(packed[1]).astype(np.uint32)
    seen = AccessedBits(
        block,
        packed[0][block],
        np.full(len(block), 2.0, np.float32),
        packed[1][block],
    )
    found = coarsened(seen, unit)
    shown = [
        np.flatnonzero(np.unpackbits(column, bitorder="little"))
        for column in (found.bits, found.observed)
    ]
    return [
        (found.block[at // 8].astype(int) * 8 + at % 8).tolist() for at in shown
    ] + [found]


@pytest.mark.parametrize("unit", [1, 2, 4, 8, 16, 32])
def test_bits_of_units(unit):
    """A unit is accessed if a page of it was, observed if a page of it was."""
    rng = np.random.default_rng(unit)
    for _ in range(20):
        observed = np.flatnonzero(rng.random(PAGES) < 0.5)
        pages = observed[rng.random(len(observed)) < 0.3]
        set_, saw, found = bits_of(pages, observed, unit)
        assert sorted(set(pages // unit)) == set_
        assert sorted(set(observed // unit)) == saw
        assert np.all(found.interval_s == 2.0)
        assert np.all(np.diff(found.block.astype(int)) > 0)


def test_no_bits_are_no_bits():
    """An empty batch stays one."""
    none = np.empty(0, np.uint8)
    empty = AccessedBits(u32(), none, np.empty(0, np.float32))
    assert 0 == len(coarsened(empty, 8).block)


def test_samples_and_regions_of_units():
    """A sample names its unit; a unit is touched as often as its pages together."""
    samples = coarsened(Samples(u32(0, 7, 8, 63), None, None, 10.0), 8)
    assert [0, 0, 1, 7] == samples.page.tolist()
    regions = RegionCounts(u32(0, 12), u32(12, 64), u32(3, 4), u32(0, 0), 20, 0.005)
    found = coarsened(regions, 8)
    assert ([0, 1], [2, 8]) == (found.start.tolist(), found.end.tolist())
    assert 0.005 / 8 == found.interval_s


def test_counts_of_ranges_are_counts_of_the_units_they_touch():
    """A range keeps its count; what was watched is every unit that it reaches."""
    counts = RangeCounts(
        u32(0, 7, 16),
        u32(8, 9, 40),
        np.array([5, 6, 7], np.float32),
        np.ones(3, np.float32),
        np.array([[0, 9], [10, 40], [56, 57]]),
        threshold=4.0,
    )
    found = coarsened(counts, 8)
    assert [0, 0, 2] == found.start.tolist()
    assert [1, 2, 5] == found.end.tolist()
    assert [5, 6, 7] == found.count.tolist()
    assert [[0, 5], [7, 8]] == found.watched.tolist()


def test_the_first_fault_of_a_unit_counts():
    """Later faults of the same unit say nothing; silence is of whole units."""
    faults = FaultDelays(
        u32(9, 3, 8),
        np.array([0.1, 0.2, 0.3], np.float32),
        np.zeros(3, np.uint8),
        np.full(3, 255, np.uint8),
        u32(1, 16, 17),
        np.array([5.0, 6.0, 7.0], np.float32),
    )
    found = coarsened(faults, 8)
    assert [1, 0] == found.page.tolist()
    assert [0.1, 0.2] == pytest.approx(found.delay_s.tolist())
    assert ([2], [6.0]) == (found.silent.tolist(), found.silent_s.tolist())


def test_looks_are_passed_on_in_pages():
    """A look at units is one at their pages."""

    class Source:
        mechanism = Mechanism.ACCESSED_BIT

        def look(self, looks):
            self.looks = looks

    source = Source()
    CoarseSource(source, 8).look((Look(Mechanism.ACCESSED_BIT, 8, 16, 2, 1),))
    assert (Look(Mechanism.ACCESSED_BIT, 64, 128, 2, 1),) == source.looks


def test_placement_and_use_in_units(machine):
    """A unit is where its first page is; free units are whole ones."""
    coarse = CoarseMachine(machine, 8)
    assert 8 == coarse.pages
    assert [1] * 4 + [0] * 4 == coarse.placement().tolist()
    free = machine.usage().free_pages // 8
    assert free.tolist() == coarse.usage().free_pages.tolist()
    assert machine.usage().capacity_pages.sum() // 8 >= (
        coarse.usage().capacity_pages.sum()
    )


def test_a_unit_moves_as_a_whole(machine):
    """All pages of a unit go; the errno is one a unit."""
    coarse = CoarseMachine(machine, 8)
    result = coarse.move(u32(0), np.zeros(1, np.uint8))
    assert [0] == result.errno.tolist()
    assert [0] * 8 == machine.placement()[:8].tolist()
    assert [0, 1] == coarse.placement()[:2].tolist()
    # 48 pages are fast memory, 40 are used: the second unit fits, no third does.
    result = coarse.move(u32(1, 2), np.zeros(2, np.uint8))
    assert [0, 12] == result.errno.tolist()


def test_spaces_in_units_do_not_overlap(machine):
    """Two mappings in one unit: it belongs to the first."""
    coarse = CoarseMachine(machine, 8)
    machine._spaces = (Space(0, 12, "a", 1024), Space(13, 30, "b", 1037))
    assert (
        Space(0, 2, "a", 128),
        Space(2, 4, "b", 130),
    ) == coarse.spaces
    assert all(space.base % 64 == space.start_page % 64 for space in coarse.spaces)


def test_renewed_ranges_in_units(machine):
    """A unit of which a part is renewed is renewed; ranges stay apart."""
    coarse = CoarseMachine(machine, 8)
    renewed = np.array([[1, 3], [5, 9], [20, 22], [40, 48]])
    machine.refresh = lambda: SpacesChanged(PAGES, renewed)
    change = coarse.refresh()
    assert [[0, 3], [5, 6]] == change.renewed.tolist()
    assert 8 == change.pages


@pytest.mark.slow
def test_the_loop_runs_in_units(playing):
    """In units of eight pages hot memory still ends in the fast tier."""
    played = playing()
    source = played.service.loop.sources[0]
    source.open = source.close = lambda: None
    service = Service(
        CoarseMachine(played.machine, 8),
        (CoarseSource(source, 8),),
        Config(brake=BrakeConfig(hold_back_percent=0)),
        lambda m: MigrationEngine(m, quota_pages_per_s=6400.0),
        lambda: True,
        unit_pages=8,
        cpu_ns=lambda: 0,
    )
    played.service = service
    service.run(played.wait, 60.0)
    result = service.result()
    bill = replace(played.machine.bill)
    assert 4096 == result["managed_pages"]
    assert result["promoted_pages"] >= 8
    assert bill.fast_accesses / bill.accesses > 0.5
    assert 60 * NS_PER_S == played.machine.clock.now_ns()


@pytest.mark.slow
def test_memory_that_grows_is_managed_in_larger_units(playing):
    """The loop goes on in units of eight pages; accounts and the brake stay."""
    grains = []
    played = playing(
        Config(brake=BrakeConfig(hold_back_percent=0)),
        coarser=lambda: grains.pop() if grains else None,
    )
    service, machine = played.service, played.machine
    source = service.loop.sources[0]
    source.open = source.close = lambda: None
    service.run(played.wait, 20.0)
    before = service.tally
    assert before.promoted_pages > 100
    first = service.engine
    grains.append(Grain(CoarseMachine(machine, 8), (CoarseSource(source, 8),), 8))
    grown = SpacesChanged(PAGES_OF_PLAYED, np.empty((0, 2), np.int64))
    machine.refresh = lambda: grown
    played.wait(1.0)
    service.epoch()
    assert 8 == service.unit_pages
    assert first is not service.engine
    switched = service.tally
    assert before.promoted_pages <= switched.promoted_pages
    machine.refresh = lambda: None
    service.run(played.wait, 60.0)
    result = service.result()
    assert [{"epoch": 21, "unit_pages": 8}] == result["units"]
    assert PAGES_OF_PLAYED == result["managed_pages"]
    moved = result["promoted_pages"] - switched.promoted_pages
    assert moved >= 8
    assert 0 == moved % 8
    assert result["fast_share"] > 0.4


def test_a_recorded_run_keeps_its_units(playing):
    """Pages of a recording mean the same from its start to its end."""
    played = playing(coarser=lambda: pytest.fail("asked for larger units"))
    played.service.recorder = Ignoring()
    grown = SpacesChanged(PAGES_OF_PLAYED, np.empty((0, 2), np.int64))
    played.machine.refresh = lambda: grown
    played.wait(1.0)
    played.service.epoch()
    assert 1 == played.service.unit_pages


class Ignoring:
    """A recorder that keeps nothing."""

    def epoch(self, *_: object) -> None:
        """Do nothing."""
