"""Counts and thresholds in the regression over cells: exact moments, no bias."""

import numpy as np
import pytest
from scipy import stats

from isotherm.hints.batch import HintBatch, RangeCounts
from isotherm.policy.cells import CELLS
from isotherm.policy.counted import below, of_cells

EPOCH_NS = 500_000_000
PAGES = 4000


@pytest.mark.parametrize("mu", [0.01, 0.7, 5.0, 40.0, 300.0])
@pytest.mark.parametrize("threshold", [1, 2, 9, 60, 400])
def test_moments_are_those_of_cut_off_geometric_counts(mu, threshold):
    """Against sums of probabilities."""
    n = np.arange(threshold)
    p = stats.geom.pmf(n + 1, 1.0 / (1.0 + mu))
    p = p / p.sum()
    mean, variance = below(np.array([mu]), float(threshold))
    expected = float(p @ n)
    assert expected == pytest.approx(float(mean[0]), rel=1e-3, abs=1e-5)
    spread = float(p @ (n - expected) ** 2)
    assert spread == pytest.approx(float(variance[0]), rel=0.01, abs=1e-3)


def counts(rate, rng, threshold, *, complete=True, share=1.0, magnitude=True):
    """Return a batch of half a second of pages with such rates."""
    count = rng.poisson(rate * 0.5 * share)
    least = int(np.ceil(threshold * share))
    if magnitude:
        page = np.flatnonzero(count >= max(1, least)).astype(np.uint32)
        number = count[page]
    else:
        page = np.repeat(np.arange(len(rate)), count // least).astype(np.uint32)
        number = np.full(len(page), least)
    if not complete:
        keep = rng.random(len(page)) < 0.5
        page, number = page[keep], number[keep]
    seen = RangeCounts(
        page,
        page + np.uint32(1),
        (number / share).astype(np.float32),
        np.full(len(page), 0.5, np.float32),
        np.array([[0, len(rate)]]),
        float(threshold),
        complete,
        share,
        magnitude,
    )
    return HintBatch("chmu", 0, EPOCH_NS, seen)


def learnt(batches, cell, guess, *, rounds=1):
    """Return the rate that accesses over exposure give, the guess improved."""
    rate = np.full(CELLS, guess)
    for _ in range(rounds):
        total = np.zeros(2)
        for batch in batches:
            found = of_cells(
                batch, batch.seen, cell, np.ones(len(cell), np.bool_), rate, 1.0
            )
            total += [found[0][7], found[1][7]]
        rate[:] = total[0] / total[1]
    return float(rate[7])


@pytest.mark.parametrize("rate", [4.0, 20.0, 60.0])
@pytest.mark.parametrize(
    ("threshold", "share"), [(0, 1.0), (1, 1.0), (8, 1.0), (8, 0.25)]
)
def test_a_complete_list_gives_the_rate_back(rate, threshold, share):
    """Counts and absences together, from a guess that is off by half."""
    rng = np.random.default_rng(1)
    cell = np.full(PAGES, 7, np.uint16)
    true = rng.exponential(rate, PAGES)
    batches = [counts(true, rng, threshold, share=share) for _ in range(4)]
    found = learnt(batches, cell, rate * 1.5, rounds=30)
    assert rate == pytest.approx(found, rel=0.1)


def test_of_a_list_with_losses_being_named_is_no_evidence():
    """Half of the entries lost: what is listed gives the rate, not the threshold."""
    rng = np.random.default_rng(2)
    cell = np.full(PAGES, 7, np.uint16)
    true = rng.exponential(14.0, PAGES)
    batches = [counts(true, rng, 8, complete=False) for _ in range(8)]
    assert 14.0 == pytest.approx(learnt(batches, cell, 18.0, rounds=30), rel=0.1)


def test_crossings_add_up():
    """Always-on lists: so many thresholds in the time, each page's time once."""
    rng = np.random.default_rng(3)
    cell = np.full(PAGES, 7, np.uint16)
    batches = [counts(np.full(PAGES, 200.0), rng, 4, magnitude=False)]
    found = learnt(batches, cell, 150.0, rounds=20)
    assert 200.0 == pytest.approx(found, rel=0.05)
