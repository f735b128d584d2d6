"""The simulated kdamond: its regions partition the range and find what is hot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.machine.sim.play import ACCESSED, REGION_ACCESSED
from isotherm.machine.sim.regions import CHECKS, MIN_REGIONS, RegionSampler


def touch(flags: np.ndarray, start: int, end: int) -> None:
    """Access every page of a range."""
    flags[start:end] |= np.uint8(ACCESSED | REGION_ACCESSED)


@settings(max_examples=25, deadline=None)
@given(
    pages=st.integers(1, 5000),
    seed=st.integers(0, 2**16),
    most=st.integers(MIN_REGIONS, 60),
    rounds=st.integers(1, 8),
    hot=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
)
def test_regions_partition_the_range(
    pages: int, seed: int, most: int, rounds: int, hot: tuple[int, int]
) -> None:
    """After any merges and splits every page is in exactly one region, never too many.

    No region counts more hits than there were checks, and a merged region is at
    most a tenth of the range, so that there are ten again.
    """
    flags = np.zeros(pages, np.uint8)
    sampler = RegionSampler(flags, pages, seed, most)
    for _ in range(rounds * CHECKS + 1):
        touch(flags, min(hot), max(hot))
        sampler.check()
    assert rounds == len(sampler.snapshots)
    for shot in sampler.snapshots:
        assert 0 == shot.start[0]
        assert pages == shot.end[-1]
        assert shot.start[1:].tolist() == shot.end[:-1].tolist()
        assert (shot.start < shot.end).all()
        assert len(shot.start) <= max(most, MIN_REGIONS)
        assert shot.nr_accesses.max() <= CHECKS
    assert len(sampler.start) <= max(most, MIN_REGIONS)
    assert len(sampler.start) == len(sampler.nr) == len(sampler.age)


def test_neighbours_that_look_alike_merge() -> None:
    """An idle range falls back to regions of at most a tenth of it."""
    flags = np.zeros(1000, np.uint8)
    sampler = RegionSampler(flags, 1000, 1)
    for _ in range(10 * CHECKS + 1):
        sampler.check()
    for shot in sampler.snapshots:
        assert MIN_REGIONS <= len(shot.start) <= 2 * MIN_REGIONS
        assert (shot.end - shot.start).max() <= 1000 // MIN_REGIONS
        assert 0 == shot.nr_accesses.sum()


def test_unlike_neighbours_do_not_merge() -> None:
    """Between an idle and a busy half a boundary remains at every aggregation."""
    flags = np.zeros(1000, np.uint8)
    sampler = RegionSampler(flags, 1000, 1)
    for _ in range(10 * CHECKS + 1):
        touch(flags, 500, 1000)
        sampler.check()
    for shot in sampler.snapshots:
        assert 500 in shot.start.tolist()
        busy = shot.start >= 500
        assert 0 == shot.nr_accesses[~busy].sum()
        assert CHECKS == shot.nr_accesses[busy].min()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_finds_a_hot_range(seed: int) -> None:
    """A range that begins and ends anywhere is found to a few percent."""
    pages, hot = 20_000, slice(7001, 10_001)
    flags = np.zeros(pages, np.uint8)
    sampler = RegionSampler(flags, pages, seed)
    for _ in range(60 * CHECKS + 1):
        touch(flags, hot.start, hot.stop)
        sampler.check()
    shot = sampler.snapshots[-1]
    called = np.repeat(shot.nr_accesses > CHECKS // 2, shot.end - shot.start)
    truth = np.zeros(pages, np.bool_)
    truth[hot] = True
    assert np.count_nonzero(called != truth) < 0.05 * np.count_nonzero(truth)


def test_age_counts_stable_aggregations() -> None:
    """A region that keeps its count grows older by one each time."""
    flags = np.zeros(1000, np.uint8)
    sampler = RegionSampler(flags, 1000, 1)
    for _ in range(5 * CHECKS + 1):
        sampler.check()
    assert [1, 2, 3, 4, 5] == [int(s.age.max()) for s in sampler.snapshots]
    for _ in range(CHECKS):
        touch(flags, 0, 1000)
        sampler.check()
    assert 0 == sampler.snapshots[-1].age.max()


def test_entries_are_two_a_region_and_check() -> None:
    """A check reads the old picks and clears the new ones."""
    sampler = RegionSampler(np.zeros(800, np.uint8), 800, 1)
    for _ in range(CHECKS):
        sampler.check()
    assert 2 * MIN_REGIONS * CHECKS == sampler.entries


def test_it_does_not_clear_the_bits_of_scans() -> None:
    """Region sampling takes its own view of the bit; a scan still sees its own."""
    flags = np.zeros(100, np.uint8)
    sampler = RegionSampler(flags, 100, 1)
    touch(flags, 0, 100)
    for _ in range(50):
        sampler.check()
    assert 100 == np.count_nonzero(flags & ACCESSED)
