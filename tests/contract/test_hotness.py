"""What every hotness tracker and its view keep, with any mechanisms."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from isotherm.hints.batch import (
    AccessedBits,
    FaultDelays,
    HintBatch,
    Mechanism,
    RangeCounts,
    RegionCounts,
    Samples,
)
from isotherm.hotness.protocol import HotnessTracker, HotnessView
from isotherm.hotness.tracker import GammaTracker
from isotherm.machine.protocol import SpacesChanged

PAGES = 4099  # the last block of eight holds three
HOT = 512  # pages; every observation says that the first ones are hot
EPOCH_NS = 500_000_000
SUBSETS = [
    frozenset(subset)
    for n in range(len(Mechanism) + 1)
    for subset in itertools.combinations(Mechanism, n)
]

#: Makers of trackers; another implementation goes here.
TRACKERS: dict[str, Callable[[frozenset[Mechanism]], HotnessTracker]] = {
    "gamma": lambda hints: GammaTracker(PAGES, EPOCH_NS, hints),
}


def observe(mechanism: Mechanism, rng: np.random.Generator) -> HintBatch:
    """Return what a mechanism says of one epoch in which only HOT pages were used."""
    hot = np.arange(HOT, dtype=np.uint32)
    if mechanism is Mechanism.SAMPLING:
        page = rng.integers(0, HOT, 300).astype(np.uint32)
        seen = Samples(page, None, None, 50.0)
    elif mechanism is Mechanism.ACCESSED_BIT:
        blocks = -(-PAGES // 8)
        block = np.arange(blocks, dtype=np.uint32)
        bits = np.where(block < HOT // 8, 0xFF, 0).astype(np.uint8)
        seen = AccessedBits(block, bits, np.full(blocks, 0.5, np.float32))
    elif mechanism is Mechanism.HINT_FAULT:
        silent = np.arange(HOT, PAGES, dtype=np.uint32)
        zero = np.zeros(HOT, np.uint8)
        delay_s = np.full(HOT, 0.02, np.float32)
        silent_s = np.full(len(silent), 0.5, np.float32)
        seen = FaultDelays(hot, delay_s, zero, zero, silent, silent_s)
    elif mechanism is Mechanism.CHMU:
        one = np.ones(HOT, np.float32)
        watched = np.array([[0, PAGES]], np.int64)
        seen = RangeCounts(hot, hot + 1, 9 * one, one / 2, watched, 4.0)
    else:
        edges = np.array([0, HOT, PAGES], np.uint32)
        nr = np.array([19, 0], np.uint32)
        seen = RegionCounts(edges[:-1], edges[1:], nr, nr, 20, 0.005)
    return HintBatch(mechanism.value, 0, EPOCH_NS, seen)


def view_of(
    make: Callable[[frozenset[Mechanism]], HotnessTracker],
    hints: frozenset[Mechanism],
    rate: float | None = 4.0,
) -> HotnessView:
    """Return the view after a dozen epochs."""
    tracker = make(hints)
    rng = np.random.default_rng(1)
    for epoch in range(1, 13):
        batches = tuple(observe(m, rng) for m in sorted(hints))
        view = tracker.update(batches, epoch * EPOCH_NS, rate)
    return view


@pytest.fixture(params=TRACKERS)
def make(request: pytest.FixtureRequest) -> Callable[..., HotnessTracker]:
    """Return each tracker's maker in turn."""
    return TRACKERS[request.param]


@pytest.fixture(params=SUBSETS, ids=lambda s: "+".join(sorted(s)) or "none")
def hints(request: pytest.FixtureRequest) -> frozenset[Mechanism]:
    """Return every subset of the mechanisms in turn."""
    return frozenset(request.param)


ALL = np.arange(PAGES, dtype=np.uint32)


def test_a_new_owner_starts_from_nothing(make, hints: frozenset[Mechanism]) -> None:
    """Renewed and new pages are alike, at the mean; the others stay as they were."""
    tracker = make(hints)
    rng = np.random.default_rng(1)
    for epoch in range(1, 13):
        batches = tuple(observe(m, rng) for m in sorted(hints))
        before = tracker.update(batches, epoch * EPOCH_NS, 4.0).rate(ALL)
    more = PAGES + 1000
    tracker.renew(SpacesChanged(more, np.array([[0, 256], [1000, 1003]], np.int64)))
    view = tracker.update((), 13 * EPOCH_NS, 4.0)
    rate = view.rate(np.arange(more, dtype=np.uint32))
    assert more == view.pages == len(rate)
    assert len(view.region_rate()) == -(-more // 8)
    new = np.concatenate(
        [np.arange(256), np.arange(1000, 1003), np.arange(PAGES, more)]
    )
    assert rate[new] == pytest.approx(view.mean_rate, rel=0.2)
    kept = np.setdiff1d(ALL, new)
    for part in (kept[kept < HOT], kept[kept >= HOT]):
        assert rate[part].mean() == pytest.approx(before[part].mean(), rel=0.25)
    # What comes next is evidence like any other, for old pages and new ones.
    for epoch in range(14, 20):
        batches = tuple(observe(m, rng) for m in sorted(hints))
        view = tracker.update(batches, epoch * EPOCH_NS, 4.0)
    assert np.isfinite(view.rate(np.arange(more, dtype=np.uint32))).all()
    assert more == view.histogram()[1].sum()


def test_no_change_changes_nothing(make, hints: frozenset[Mechanism]) -> None:
    """A change of nothing, as where only nodes have come, leaves every rate."""
    nothing = SpacesChanged(PAGES, np.empty((0, 2), np.int64))
    found = []
    for changes in (0, 3):
        tracker = make(hints)
        rng = np.random.default_rng(1)
        for epoch in range(1, 8):
            for _ in range(changes):
                tracker.renew(nothing)
            batches = tuple(observe(m, rng) for m in sorted(hints))
            view = tracker.update(batches, epoch * EPOCH_NS, 4.0)
        found.append(view.rate(ALL).tobytes())
    assert found[0] == found[1]


def test_rates_are_rates(make, hints: frozenset[Mechanism]) -> None:
    """Finite, not below 0, single precision; with a deviation each."""
    view = view_of(make, hints)
    assert PAGES == view.pages
    for column in (view.rate(ALL), view.deviation(ALL)):
        assert (np.float32, (PAGES,)) == (column.dtype, column.shape)
        assert np.isfinite(column).all()
        assert (column >= 0).all()
    assert 0 < view.mean_rate < np.inf


def test_hot_pages_are_found(make, hints: frozenset[Mechanism]) -> None:
    """Any mechanism but none tells the hot pages from the others."""
    view = view_of(make, hints)
    hot, cold = view.range_rate(0, HOT)[0], view.range_rate(HOT, PAGES)[0]
    if hints == frozenset():
        assert hot == pytest.approx(cold, rel=1e-3)
    elif hints != {Mechanism.REGION}:  # it feeds regions, not pages
        assert hot > cold
    if hints - {Mechanism.HINT_FAULT}:  # faults feed pages, not regions
        regions = view.region_rate()
        middle = len(regions) * HOT // PAGES
        assert regions[: middle // 2].mean() > regions[2 * middle :].mean()


def test_ranges_agree_with_pages(make, hints: frozenset[Mechanism]) -> None:
    """A range's rate is the mean over its pages; its deviation is finite."""
    view = view_of(make, hints)
    rate = view.rate(ALL).astype(np.float64)
    for start, end in ((0, PAGES), (0, 1), (PAGES - 3, PAGES), (500, 540)):
        mean, deviation = view.range_rate(start, end)
        assert mean == pytest.approx(rate[start:end].mean(), rel=1e-3)
        assert 0 <= deviation < np.inf


def test_huge_pages_cover_the_index(make, hints: frozenset[Mechanism]) -> None:
    """One figure for each run of 512 pages, the last one shorter."""
    view = view_of(make, hints)
    huge = view.huge_page_rate()
    assert -(-PAGES // 512) == len(huge)
    for i, figure in enumerate(huge):
        start, end = 512 * i, min(PAGES, 512 * (i + 1))
        assert figure == pytest.approx(view.range_rate(start, end)[0], rel=1e-3)


@pytest.mark.parametrize("count", [0, 1, 23, PAGES, PAGES + 5])
def test_hottest_and_coldest(make, count: int) -> None:
    """As many pages as asked for, each once, in order of rate, ties by number."""
    view = view_of(make, frozenset(Mechanism))
    rate = view.rate(ALL)
    for found, sign in ((view.hottest(count), -1), (view.coldest(count), 1)):
        assert min(count, PAGES) == len(found) == len(set(found.tolist()))
        key = np.lexsort((found, sign * rate[found]))
        assert list(range(len(found))) == key.tolist()
        left = np.setdiff1d(ALL, found)
        if len(found) and len(left):
            assert (sign * rate[left]).min() >= (sign * rate[found]).max()


def test_the_histogram_counts_every_page(make, hints: frozenset[Mechanism]) -> None:
    """Edges rise, one more than bins, and the bins hold all pages."""
    edges, count = view_of(make, hints).histogram()
    assert len(count) + 1 == len(edges)
    assert (np.diff(edges) > 0).all()
    assert PAGES == count.sum()


def test_shares_of_initiators_add_up(make, hints: frozenset[Mechanism]) -> None:
    """To one, the unknown included."""
    share = view_of(make, hints).initiator_share(0, PAGES)
    assert 1.0 == pytest.approx(sum(share.values()))
    assert all(0 <= who <= 255 for who in share)


def test_without_a_counting_pmu(make, hints: frozenset[Mechanism]) -> None:
    """A tracker works where nobody counts accesses."""
    view = view_of(make, hints, rate=None)
    assert np.isfinite(view.rate(ALL)).all()
    assert 0 < view.mean_rate < np.inf


def test_the_same_evidence_gives_the_same_view(
    make, hints: frozenset[Mechanism]
) -> None:
    """Two trackers made alike agree to the bit."""
    one, other = (view_of(make, hints).rate(ALL) for _ in range(2))
    assert one.tobytes() == other.tobytes()


def test_state_is_a_few_bytes_a_page(make) -> None:
    """And is told."""
    assert 0 < make(frozenset(Mechanism)).bytes_per_page < 16
