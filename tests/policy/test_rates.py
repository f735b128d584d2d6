"""Rates of cells: learnt out of sample, and shrunk where nothing is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.policy.cells import (
    AHEAD,
    CELLS,
    HISTORY_LEVELS,
    OWN_LEVELS,
    features,
)
from isotherm.policy.rates import CellRates

MEAN = 10.0
EXPOSURE_S = 0.5 / 200  # an epoch over the sampling period
FLAT = np.zeros(HISTORY_LEVELS + 3)
#: ln rate over the mean: by history, per ln of own and of region rate, constant.
STEEP = np.array([-0.2, 0.0, 0.1, 0.3, 0.6, 0.3, 0.0])


def population(seed=1, pages=20_000):
    """Return pages per cell, most of them in the middle of the steps."""
    rng = np.random.default_rng(seed)
    z = features()
    near = np.exp(-(z[:, HISTORY_LEVELS] ** 2 + z[:, HISTORY_LEVELS + 1] ** 2))
    plain = rng.multinomial(pages, near / near.sum()).astype(float)
    return np.append(plain, np.zeros(CELLS - AHEAD))


def true_rates(weights, pages):
    """Return log-linear rates of cells whose mean over the pages is MEAN."""
    rate = np.ones(CELLS)
    rate[:AHEAD] = np.exp(features() @ weights)
    return rate * MEAN * pages.sum() / (pages @ rate)


def learn(weights, *, epochs=80, samples=True, exposure_s=EXPOSURE_S, seed=2, t=0.05):
    """Return (regression, fitted rates, true rates, pages) after so many epochs."""
    rng = np.random.default_rng(seed)
    pages = population()
    truth = true_rates(weights, pages)
    rates = CellRates(has_samples=samples)
    fitted = rates.fit(MEAN, pages)
    share = -np.expm1(-truth * t)
    cell_of_page = np.repeat(np.arange(CELLS), pages.astype(int)).astype(np.uint16)
    for _ in range(epochs):
        rates.forget()
        if samples:
            n = rng.poisson(pages * truth * exposure_s)
            cell = np.repeat(np.arange(CELLS), n).astype(np.uint16)
            rates.add_samples(cell, pages, exposure_s)
        else:
            bit = rng.random(len(cell_of_page)) < share[cell_of_page]
            rates.add_bits(cell_of_page, bit, t)
        fitted = rates.fit(MEAN, pages)
    return rates, fitted, truth, pages


def spread(rate, pages):
    """Return the deviation of ln rate over pages."""
    share = pages / pages.sum()
    x = np.log(rate)
    return float(np.sqrt(share @ (x - share @ x) ** 2))


def off(fitted, truth, pages):
    """Return the root mean square error of ln rate over pages."""
    return float(np.sqrt((pages / pages.sum()) @ np.log(fitted / truth) ** 2))


def test_rates_are_recovered_from_samples():
    """Counts of log-linear rates give those rates to a few per cent."""
    rates, fitted, truth, pages = learn(STEEP)
    assert off(fitted, truth, pages) < 0.1 * spread(truth, pages)
    assert 1.0 == pytest.approx(rates.belief, abs=0.1)


def test_order_is_recovered_from_bits():
    """Without samples bits have to do: cells that are hotter are found hotter."""
    _, fitted, truth, pages = learn(STEEP, samples=False)
    busy = pages > 20
    order = np.corrcoef(np.log(fitted[busy]), np.log(truth[busy]))[0, 1]
    assert float(order) > 0.97
    assert spread(fitted, pages) > 0.5 * spread(truth, pages)


def test_without_evidence_all_cells_are_alike():
    """Nothing is promised before anything came, whatever the prior says."""
    rates, fitted, _, _ = learn(FLAT, epochs=0)
    assert 0.0 == rates.belief
    assert np.full(CELLS, MEAN) == pytest.approx(fitted)
    assert 1.0 == rates.fit(1.0, population(), trust=0.0).mean()


@pytest.mark.parametrize("samples", [True, False])
def test_flat_memory_gives_flat_rates(samples):
    """Where all cells have one rate, differences are not made up."""
    _, fitted, _, pages = learn(FLAT, samples=samples)
    assert spread(fitted, pages) < 0.05


def test_few_samples_of_flat_memory_promise_little():
    """Noise moves no page: a handful of samples is shrunk away."""
    _, fitted, _, pages = learn(FLAT, epochs=40, exposure_s=0.5 / 20_000)
    assert spread(fitted, pages) < 0.3 * spread(true_rates(STEEP, pages), pages)


def test_evidence_against_its_promises_is_heeded():
    """What was learnt is unlearnt when heat is gone."""
    rates, fitted, _, pages = learn(STEEP)
    rng = np.random.default_rng(3)
    before = spread(fitted, pages)
    for _ in range(300):
        rates.forget()
        n = rng.poisson(pages * MEAN * EXPOSURE_S)
        cell = np.repeat(np.arange(CELLS), n).astype(np.uint16)
        rates.add_samples(cell, pages, EXPOSURE_S)
        fitted = rates.fit(MEAN, pages)
    assert spread(fitted, pages) < 0.2 * before


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e4), st.booleans())
def test_rates_add_up_to_the_mean(seed, mean_rate, samples):
    """Whatever came, rates are positive and their mean over pages is the mean."""
    rng = np.random.default_rng(seed)
    rates = CellRates(has_samples=samples)
    pages = rng.integers(0, 50, CELLS).astype(float)
    for _ in range(3):
        rates.forget()
        cell = rng.integers(0, CELLS, 40).astype(np.uint16)
        rates.add_samples(cell, pages, float(rng.uniform(1e-5, 1e-2)))
        rates.add_bits(cell, rng.random(40) < rng.random(), 0.5)
        fitted = rates.fit(mean_rate, pages)
        assert np.isfinite(fitted).all()
        assert (fitted > 0).all()
        assert mean_rate == pytest.approx(float(pages @ fitted) / pages.sum())
        assert 0.0 <= rates.belief <= 1.0


def test_an_empty_machine_has_rates():
    """No pages in any cell is no reason to fail."""
    fitted = CellRates(has_samples=True).fit(MEAN, np.zeros(CELLS))
    assert np.isfinite(fitted).all()


def test_sparse_evidence_is_kept():
    """While nothing comes, nothing is forgotten."""
    rates, before, _, pages = learn(STEEP, epochs=30)
    for _ in range(100):
        rates.forget()
    assert rates.fit(MEAN, pages) == pytest.approx(before, rel=0.05)


def test_history_levels_are_free():
    """A rate that depends on history alone is learnt as such."""
    weights = FLAT.copy()
    weights[:HISTORY_LEVELS] = -0.6, -0.1, 0.2, 0.5
    _, fitted, truth, _ = learn(weights)
    level = AHEAD // HISTORY_LEVELS
    middle = level // 2
    each = np.arange(HISTORY_LEVELS) * level + middle
    assert OWN_LEVELS < middle
    assert np.log(truth[each] / MEAN) == pytest.approx(
        np.log(fitted[each] / MEAN), abs=0.12
    )


def test_bits_that_are_not_trusted_promise_nothing():
    """Without samples, what bits show is believed as far as bits are."""
    rates, fitted, _, pages = learn(STEEP, samples=False)
    doubted = rates.fit(MEAN, pages, trust=0.0)
    assert 0.0 == rates.belief
    assert spread(doubted, pages) == pytest.approx(0.0, abs=1e-9)
    assert spread(fitted, pages) > 0.1


def test_what_comes_ahead_of_sweeps_is_learnt_by_itself():
    """The rate there is that of its own samples, and says nothing of other cells."""
    pages = population()
    pages[AHEAD + 3], pages[AHEAD + 9] = 400.0, 400.0
    rates, rng = CellRates(has_samples=True), np.random.default_rng(5)
    truth = np.full(CELLS, MEAN)
    truth[AHEAD + 3], truth[AHEAD + 9] = 12 * MEAN, 0.5 * MEAN
    for _ in range(60):
        rates.forget()
        n = rng.poisson(pages * truth * EXPOSURE_S)
        cell = np.repeat(np.arange(CELLS), n).astype(np.uint16)
        rates.add_samples(cell, pages, EXPOSURE_S)
        fitted = rates.fit(MEAN, pages)
    assert 12 * MEAN == pytest.approx(fitted[AHEAD + 3], rel=0.1)
    assert 0.5 * MEAN == pytest.approx(fitted[AHEAD + 9], rel=0.3)
    assert spread(fitted[:AHEAD], pages[:AHEAD]) < 0.05
    assert MEAN == pytest.approx(pages @ fitted / pages.sum())
