"""The view: every answer is what going through all pages would give."""

from itertools import pairwise

import numpy as np
import pytest

from isotherm.core.units import PAGES_PER_HUGE_PAGE
from isotherm.hints.batch import Mechanism
from isotherm.hotness import arithmetic as ar
from isotherm.hotness import evidence, regions
from isotherm.hotness.initiators import MAX_INITIATORS, REGION_PAGES, InitiatorShares
from isotherm.hotness.tracker import GammaTracker
from isotherm.hotness.view import TrackerView
from isotherm.trace.stream import UNKNOWN_INITIATOR

PAGES = 1500
EPOCH_NS = 500_000_000


@pytest.fixture
def tracker():
    """Return a tracker whose filters are random, with many ties."""
    rng = np.random.default_rng(3)
    made = GammaTracker(PAGES, EPOCH_NS, frozenset({Mechanism.SAMPLING}))
    made.update((), EPOCH_NS, 10.0)
    mean = rng.integers(200, 300, PAGES)
    exposure = rng.integers(0, ar.EXPOSURE_CODES, PAGES)
    made.code[:] = (mean << ar.EXPOSURE_BITS) | exposure
    made.region[:] = rng.integers(0, regions.REGION_CODES, made.blocks)
    return made


@pytest.fixture
def view(tracker):
    """Return a view of it."""
    return TrackerView(tracker)


@pytest.fixture
def rate(tracker):
    """Return the rate of every page, decoded one by one."""
    return np.array(
        [
            10.0 * ar.decode(int(c) >> ar.EXPOSURE_BITS, ar.RATE_SHIFT, ar.RATE_OFFSET)
            for c in tracker.code
        ]
    )


@pytest.fixture
def deviation(tracker, rate):
    """Return sqrt(a) / b of every page: the deviation of Gamma(a, b)."""
    code = tracker.code & (ar.EXPOSURE_CODES - 1)
    b = ar.decode_array(code, ar.EXPOSURE_SHIFT, ar.EXPOSURE_OFFSET) / 10.0
    return np.sqrt(rate * b) / b


def test_rate_and_deviation_of_pages(view, rate, deviation):
    """In accesses per second, for pages in any order."""
    page = np.array([7, 0, 1499, 7], np.uint32)
    assert rate[page] == pytest.approx(view.rate(page), rel=1e-6)
    assert deviation[page] == pytest.approx(view.deviation(page), rel=1e-6)


@pytest.mark.parametrize("count", [0, 1, 37, 700, PAGES, PAGES + 9])
def test_hottest_pages(view, rate, count):
    """By falling rate, ties by page number."""
    order = sorted(range(PAGES), key=lambda p: (-rate[p], p))
    assert order[:count] == view.hottest(count).tolist()


@pytest.mark.parametrize("count", [0, 1, 37, 700, PAGES, PAGES + 9])
def test_coldest_pages(view, rate, count):
    """By rising rate, ties by page number."""
    order = sorted(range(PAGES), key=lambda p: (rate[p], p))
    assert order[:count] == view.coldest(count).tolist()


def test_histogram_counts_every_page_in_its_octave(view, rate):
    """Edges are octaves; a page lies in [edge, next edge)."""
    edges, counts = view.histogram()
    assert len(counts) + 1 == len(edges)
    assert edges[:-1] * 2 == pytest.approx(edges[1:])
    inside = [
        int(((rate >= low) & (rate < high)).sum()) for low, high in pairwise(edges)
    ]
    assert inside == counts.tolist()
    assert PAGES == counts.sum()


@pytest.mark.parametrize(("start", "end"), [(0, PAGES), (13, 14), (100, 900)])
def test_rate_of_a_range(view, rate, deviation, start, end):
    """The mean of its pages, and the deviation of a mean of independent pages."""
    mean, spread = view.range_rate(start, end)
    assert rate[start:end].mean() == pytest.approx(mean)
    assert np.sqrt((deviation[start:end] ** 2).sum()) / (end - start) == pytest.approx(
        spread
    )


@pytest.mark.parametrize(("start", "end"), [(5, 5), (-1, 4), (0, PAGES + 1), (9, 3)])
def test_a_range_outside_is_refused(view, start, end):
    """An empty range or one beyond the index has no rate."""
    with pytest.raises(ValueError, match=f"<= {PAGES}, got"):
        view.range_rate(start, end)


def test_rate_of_huge_pages(view, rate):
    """Means of runs of 512 pages; the last run may be shorter."""
    size = PAGES_PER_HUGE_PAGE
    expected = [rate[i : i + size].mean() for i in range(0, PAGES, size)]
    assert expected == pytest.approx(view.huge_page_rate(), rel=1e-6)


def test_rate_of_regions(view, tracker):
    """One value a block, in accesses per second."""
    expected = regions.region_rate_array(tracker.region) * 10.0
    assert expected == pytest.approx(view.region_rate(), rel=1e-6)


def test_columns_are_the_trackers_own(view, tracker):
    """Bulk consumers get no copies."""
    for name in ("code", "history", "region"):
        assert np.shares_memory(getattr(view, name), getattr(tracker, name))
    mean, _ = evidence.unpack_array(view.code)
    assert PAGES == len(mean) == view.pages


# ---- initiators


def add(shares, rows):
    """Add samples, ``[(page, initiator)]``."""
    page, who = zip(*rows, strict=True)
    shares.add(np.array(page, np.uint32), np.array(who, np.uint8))


def test_nobody_named_is_unknown():
    """Without samples all accesses are of an unknown initiator."""
    assert {UNKNOWN_INITIATOR: 1.0} == InitiatorShares(16).share(0, 128)


def test_one_initiator_takes_no_memory():
    """While everybody names the same there is nothing to tell apart."""
    shares = InitiatorShares(16)
    add(shares, [(1, 3), (90, 3)])
    assert {3: 1.0} == shares.share(0, 128)
    assert 0 == shares.nbytes


def test_shares_are_those_of_the_samples():
    """By region of 64 pages; more than eight initiators and unknown are one."""
    rng = np.random.default_rng(5)
    pages = 4 * REGION_PAGES
    shares = InitiatorShares(pages // 8)
    page = rng.integers(0, pages, 4000)
    who = rng.choice([0, 1, 5, MAX_INITIATORS + 2, UNKNOWN_INITIATOR], 4000)
    add(shares, list(zip(page.tolist(), who.tolist(), strict=True)))
    inside = who[(page >= REGION_PAGES) & (page < 3 * REGION_PAGES)]
    folded = np.where(inside < MAX_INITIATORS, inside, UNKNOWN_INITIATOR)
    names, counts = np.unique(folded, return_counts=True)
    expected = dict(zip(names.tolist(), (counts / counts.sum()).tolist(), strict=True))
    found = shares.share(REGION_PAGES, 3 * REGION_PAGES)
    assert sorted(expected) == sorted(found)
    assert [expected[k] for k in sorted(expected)] == pytest.approx(
        [found[k] for k in sorted(found)]
    )


def test_a_region_without_samples_is_unknown():
    """Where nobody was sampled nobody is named."""
    shares = InitiatorShares(32)
    add(shares, [(1, 0), (2, 1)])
    assert {UNKNOWN_INITIATOR: 1.0} == shares.share(128, 192)
