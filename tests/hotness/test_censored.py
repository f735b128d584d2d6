"""Counts and thresholds: the kernels against the mathematics, and their twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from isotherm.core.kernels import BACKEND, TWINS
from isotherm.hotness import arithmetic as ar
from isotherm.hotness import censored as ce
from isotherm.hotness import evidence as ev

numba_only = pytest.mark.skipif(
    BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: there is only the twin"
)
SHAPE = st.floats(0.05, 50.0)
EXPOSURE = st.floats(1.0, 100.0)
SECONDS = st.floats(0.05, 5.0)
MOST = 4000  # of a count: more have no weight


def both(name):
    """Return the compiled kernel and its twin."""
    return TWINS[f"{ce.__name__}.{name}"]


def filters(rng, pages):
    """Return random filters and histories."""
    code = rng.integers(0, 1 << 16, pages).astype(np.uint16)
    return code, rng.integers(0, 256, pages).astype(np.uint8)


def moments(a, b, t, event):
    """Return mean and variance of the rate, by summing over all counts."""
    n = np.arange(MOST)
    weight = stats.nbinom.pmf(n, a, b / (b + t)) * event(n)
    weight /= weight.sum()
    mean = float(weight @ (a + n)) / (b + t)
    second = float(weight @ ((a + n) * (a + n + 1))) / (b + t) ** 2
    return mean, second - mean**2


@settings(deadline=None, max_examples=50)
@given(SHAPE, EXPOSURE, SECONDS, st.integers(1, 60))
def test_fewer_than_a_threshold_has_the_exact_moments(a, b, t, high):
    """Mean and variance are those of the mixture over all counts below."""
    shape, exposure, news = ce.below(a, b, t, float(high))
    before = a / b
    mean, variance = moments(a, b, t, lambda n: n < high)
    if news:
        assert mean == pytest.approx(shape / exposure, rel=1e-4)
        assert variance == pytest.approx(shape / exposure**2, rel=1e-2)
        assert shape / exposure <= before * (1 + 1e-9)
    else:
        assert (a, b) == (shape, exposure)
        # What was left out is less than is told of a count.
        assert mean == pytest.approx(before, rel=0.01)


@settings(deadline=None, max_examples=50)
@given(SHAPE, EXPOSURE, SECONDS, st.integers(1, 60))
def test_at_least_a_threshold_has_the_exact_moments(a, b, t, low):
    """The same from below: a listed page had so many, or more."""
    shape, exposure = ce.at_least(a, b, t, float(low))
    if stats.nbinom.sf(low - 1, a, b / (b + t)) < 1e-6:
        return  # nothing to compare with: the sum has no weight
    mean, variance = moments(a, b, t, lambda n: n >= low)
    assert mean == pytest.approx(shape / exposure, rel=0.01)
    assert variance == pytest.approx(shape / exposure**2, rel=0.05)


def test_no_access_at_all_is_exposure():
    """Fewer than one is none: the exposure grows, the shape stays."""
    shape, exposure, news = ce.below(2.0, 4.0, 3.0, 1.0)
    assert (2.0, 7.0, True) == (pytest.approx(shape), pytest.approx(exposure), news)


def test_what_is_known_to_be_cold_is_no_news():
    """A page of a tenth of an access is expected below a threshold of 50."""
    assert (2.0, 40.0, False) == ce.below(2.0, 40.0, 0.5, 50.0)


def test_a_threshold_far_off_takes_few_terms_and_says_nothing():
    """Thresholds of a hundred thousand are no reason for long sums."""
    assert (0.5, 0.05, False) == ce.below(0.5, 0.05, 0.5, 1e5)


def one_count(a, b, count, seconds, named_from=0.0, pages=4096):
    """Return mean and exposure after a count, averaged over roundings."""
    noise = ar.mix_array(np.arange(pages, dtype=np.uint64), 1)
    code = ev.pack_array(np.full(pages, a / b), np.full(pages, b), noise)
    past = np.zeros(pages, np.uint8)
    ce.add_counts(
        code,
        past,
        np.arange(pages, dtype=np.uint32),
        np.full(pages, float(count)),
        np.full(pages, float(seconds)),
        float(named_from),
        7,
    )
    mean, exposure = ev.unpack_array(code)
    return float(mean.mean()), float(exposure.mean()), past


def test_a_count_over_an_exposure_is_added():
    """Shape and exposure grow; the page counts as seen."""
    mean, exposure, past = one_count(6.0, 4.0, 9, 2.0)
    assert 15.0 / 6.0 == pytest.approx(mean, rel=0.01)
    assert 6.0 == pytest.approx(exposure, rel=0.03)
    assert {ev.SAMPLED} == set(past.tolist())
    assert {0} == set(one_count(6.0, 4.0, 0, 2.0)[2].tolist())


@pytest.mark.parametrize(("rate", "threshold"), [(2.0, 8), (6.0, 8), (40.0, 8)])
def test_being_named_says_nothing_where_absence_does_not(rate, threshold):
    """Listed counts alone, all others lost: still the rate, not the threshold's."""
    rng = np.random.default_rng(3)
    pages, prior = 256, 5.0
    noise = ar.mix_array(np.arange(pages, dtype=np.uint64), 1)
    code = ev.pack_array(np.full(pages, prior), np.full(pages, 0.3), noise)
    past = np.zeros(pages, np.uint8)
    naive = code.copy()
    for epoch in range(200):
        count = rng.poisson(rate, pages)
        page = np.flatnonzero(count >= threshold).astype(np.uint32)
        if not len(page):
            continue
        seen, second = count[page].astype(float), np.ones(len(page))
        ce.add_counts(code, past, page, seen, second, float(threshold), epoch)
        ce.add_counts(naive, past, page, seen, second, 0.0, epoch)
    listed = past > 0
    found = float(ev.unpack_array(code[listed])[0].mean())
    wrong = float(ev.unpack_array(naive[listed])[0].mean())
    if rate > threshold:
        assert rate == pytest.approx(found, rel=0.05)
    else:
        assert wrong > threshold * 0.9  # what the threshold would make of it
        assert rate * 0.9 < found < max(rate, prior) * 1.1


def filters_of(mean, exposure):
    """Return the codes nearest to means and exposures."""
    half = np.full(len(mean), (1 << 17) | (1 << 52), np.uint64)
    return ev.pack_array(np.asarray(mean, float), np.asarray(exposure, float), half)


def split(code, ranges, count, seconds):
    """Return page, count and exposure of every row."""
    start = np.array([r[0] for r in ranges], np.int64)
    width = np.array([r[1] for r in ranges], np.int64) - start
    first = np.cumsum(width) - width
    rows = int(width.sum())
    out = np.empty(rows, np.uint32), np.empty(rows), np.empty(rows)
    count, seconds = np.asarray(count, float), np.asarray(seconds, float)
    ce.split_ranges(code, start, width, count, seconds, first, *out)
    return out


def test_a_range_of_one_page_gets_all():
    """As a count of its own: a += c, b += t."""
    code = filters_of([3.0], [2.0])
    page, rate, exposure = split(code, [(0, 1)], [7.0], [4.0])
    assert [0] == page.tolist()
    assert [13.0 / 6.0] == pytest.approx(rate)
    assert [6.0] == pytest.approx(exposure)


def test_pages_alike_share_evenly_and_stay_unsure():
    """Each gets its part of the surprise; the shape is what it was."""
    code = filters_of([2.0] * 4, [8.0] * 4)
    _, rate, exposure = split(code, [(0, 4)], [60.0], [4.0])
    gain = (2.0 / 8.0) / (8.0 / 4.0 + 4 * 2.0 / 8.0)
    assert [2.0 + gain * (60.0 / 4.0 - 8.0)] * 4 == pytest.approx(rate)
    assert [16.0] * 4 == pytest.approx(rate * exposure)


def test_surprise_goes_where_the_doubt_is():
    """Of a page that is well known and one that is not, the latter learns."""
    code = filters_of([4.0, 4.0], [56.0, 0.5])
    _, rate, exposure = split(code, [(0, 2)], [120.0], [5.0])
    assert rate[0] < 4.6
    assert rate[1] > 15.0
    assert exposure[1] > 4.0 * 0.5  # and is surer then: the other was known
    assert 4.0 * 56.0 == pytest.approx(rate[0] * exposure[0], rel=0.01)


def test_means_of_a_split_are_those_of_chance():
    """Against draws from the prior that gave such a count."""
    rng = np.random.default_rng(5)
    a, b, t = np.array([6.0, 3.0, 12.0]), np.array([3.0, 3.0, 3.0]), 2.0
    lam = rng.gamma(a, 1.0 / b, (200_000, 3))
    total = rng.poisson(lam.sum(1) * t)
    chosen = lam[total == 20]
    _, rate, _ = split(filters_of(a / b, b), [(0, 3)], [20.0], [t])
    assert chosen.mean(0) == pytest.approx(rate, rel=0.03)


@given(st.integers(0, 2**32), st.floats(0.0, 300.0), st.floats(0.01, 50.0))
def test_no_page_gets_less_than_nothing(seed, count, seconds):
    """Whatever was thought before: at least none of the accesses, at most all."""
    rng = np.random.default_rng(seed)
    code, _ = filters(rng, 12)
    mean, b = ev.unpack_array(code)
    page, rate, exposure = split(code, [(0, 3), (1, 12)], [count] * 2, [seconds] * 2)
    a, b = (mean * b)[page], b[page]
    slack = 1 + 1e-9
    assert (rate * slack >= a / (b + seconds)).all()
    assert (rate <= slack * (a + count) / (b + seconds)).all()
    assert (exposure > 0).all()


@numba_only
@given(
    st.integers(0, 2**32), st.sampled_from([0.0, 1.0, 5.0, 200.0]), st.integers(0, 99)
)
def test_counts_equal_their_twin(seed, named_from, salt):
    """Numba and numpy agree to the bit."""
    rng = np.random.default_rng(seed)
    code, past = filters(rng, 256)
    page = rng.permutation(256)[:100].astype(np.uint32)
    count = rng.integers(-2, 300, 100).astype(float)
    seconds = rng.uniform(0.01, 30.0, 100)
    found = []
    for run in both("add_counts"):
        c, h = code.copy(), past.copy()
        run(c, h, page, count, seconds, named_from, salt)
        found.append((c.tolist(), h.tolist()))
    assert found[0] == found[1]


@numba_only
@given(
    st.integers(0, 2**32), st.sampled_from([1.0, 3.0, 40.0, 5000.0]), st.integers(0, 99)
)
def test_bounds_equal_their_twin(seed, high, salt):
    """Numba and numpy agree to the bit, and in how much was told."""
    rng = np.random.default_rng(seed)
    code, _ = filters(rng, 256)
    page = rng.permutation(256)[:100].astype(np.uint32)
    seconds = rng.uniform(0.01, 30.0, 100)
    found = []
    for run in both("add_bounds"):
        c, told = code.copy(), np.zeros(100)
        run(c, page, high, seconds, told, salt)
        found.append((c.tolist(), told.tolist()))
    assert found[0] == found[1]


@numba_only
@given(st.integers(0, 2**32))
def test_splits_equal_their_twin(seed):
    """Ranges of any width, overlapping too, are split alike."""
    rng = np.random.default_rng(seed)
    code, _ = filters(rng, 256)
    start = np.sort(rng.integers(0, 240, 30)).astype(np.int64)
    width = rng.integers(1, 17, 30).astype(np.int64)
    count, seconds = rng.uniform(0, 500, 30), rng.uniform(0.01, 30.0, 30)
    first = np.cumsum(width) - width
    rows = int(width.sum())
    found = []
    for run in both("split_ranges"):
        out = np.empty(rows, np.uint32), np.empty(rows), np.empty(rows)
        run(code, start, width, count, seconds, first, *out)
        found.append([column.tolist() for column in out])
    assert found[0] == found[1]
