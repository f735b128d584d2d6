"""MEMTIS, step by step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.kernels import TWINS
from isotherm.policy.memtis import (
    DEFAULTS,
    HOT,
    JUST_COOLED,
    NR_HOT,
    WARM,
    Memtis,
    adapt_threshold,
    bin_of_twin,
    take_samples,
    take_samples_twin,
)

NO_HEADROOM = {"headroom": 0, "headroom_min_mb": 0, "reference_gib": 0}


def words(hot=1, *, just_cooled=0):
    """Return the state words with a threshold."""
    state = np.zeros(7, np.int64)
    state[HOT] = state[WARM] = hot
    state[JUST_COOLED] = just_cooled
    return state


def hist_of(bins):
    """Return a histogram, ``{bin: pages}``."""
    hist = np.zeros(16, np.int64)
    for k, pages in bins.items():
        hist[k] = pages
    return hist


def test_bins_are_octaves():
    """floor(log2(n + 1)), at most 15; a sample is 512."""
    count = np.array(
        [0, 1, 2, 3, 510, 511, 512, 1024, 32766, 32767, 1 << 30], np.uint32
    )
    assert [0, 1, 1, 2, 8, 9, 9, 10, 14, 15, 15] == bin_of_twin(count).tolist()


@pytest.mark.parametrize(
    ("bins", "limit", "threshold", "nr_hot"),
    [
        ({9: 50, 10: 30, 11: 20}, 97, 10, 50),
        ({9: 50, 10: 30, 11: 20}, 100, 1, 100),
        ({9: 50, 10: 30, 11: 20}, 50, 10, 50),
        ({9: 50, 10: 30, 11: 20}, 49, 11, 20),
        ({0: 1000, 12: 3}, 97, 1, 3),
        ({15: 200}, 97, 15, 0),
    ],
)
def test_threshold_is_the_first_bin_that_fits(bins, limit, threshold, nr_hot):
    """Bins are added from the top while their pages fit."""
    state = words()
    adapt_threshold(hist_of(bins), limit, 0, state)
    assert (threshold, nr_hot) == (state[HOT], state[NR_HOT])


def test_threshold_only_rises():
    """Everything fits, but the threshold stays where it is."""
    state = words(hot=11)
    adapt_threshold(hist_of({9: 5}), 100, 0, state)
    assert 11 == state[HOT]


def test_threshold_falls_by_one_after_cooling():
    """Right after a cooling it may fall, once, by one."""
    state = words(hot=11, just_cooled=1)
    found = []
    for _ in range(2):
        adapt_threshold(hist_of({9: 5}), 100, 0, state)
        found.append(int(state[HOT]))
    assert [10, 10] == found


@pytest.mark.parametrize(("nr_hot", "warm"), [(74, 9), (75, 10)])
def test_warm_band_while_the_hot_set_is_small(nr_hot, warm):
    """Below 75 % of the fast tier the bin below the threshold is left alone."""
    state = words()
    adapt_threshold(hist_of({9: 50, 10: nr_hot}), 97, 75, state)
    assert (10, warm) == (state[HOT], state[WARM])


def test_headroom_of_three_percent(bench):
    """Of 10000 fast pages of 20000, 300 stay free; the histogram may fill 9700."""
    table = bench([0] * 10000 + [1] * 10000, [10000, 20000])
    policy = Memtis(table.setup())
    assert 300 == policy._headroom
    plan = table.step(policy)
    assert list(range(300)) == plan.moves.page.tolist()
    assert 0 == len(table.step(policy).moves)


@pytest.mark.parametrize(("fast", "headroom"), [(1000, 50), (20000, 600), (30000, 750)])
def test_headroom_is_clamped(bench, fast, headroom):
    """3 %, but at least 100 MB and at most 1500 MB of 64 GiB: 50 and 750 pages."""
    table = bench([0] * 1000 + [1] * 31768, [fast, 40000])
    assert headroom == Memtis(table.setup())._headroom


def test_periods_are_scaled(bench):
    """2,000,000 and 100,000 samples of 64 GiB are 3906 and 195 of 128 MiB."""
    table = bench([1] * 32768, [0, 40000])
    policy = Memtis(table.setup())
    assert (3906, 195) == (policy._cooling, policy._adaptation)


def test_hot_pages_up_cold_pages_down(bench, hint):
    """A page over the threshold takes the place of one below it, oldest first."""
    table = bench([0, 0, 1, 1], [2, 4])
    policy = Memtis(table.setup(**NO_HEADROOM))
    plan = table.step(policy, hint.samples([3]))
    assert [(0, 1), (3, 0)] == hint.moves(plan)
    assert [] == hint.moves(table.step(policy))


def test_threshold_rises_with_the_histogram(bench, hint):
    """Four pages sampled, two fit: only those sampled twice are hot."""
    table = bench([0, 0, 1, 1], [2, 4])
    policy = Memtis(table.setup(adaptation_period=1, **NO_HEADROOM))
    plan = table.step(policy, hint.samples([2, 3, 0, 1, 2, 3, 2, 3]))
    assert 10 == plan.notes["hot_threshold"]
    assert [(0, 1), (1, 1), (2, 0), (3, 0)] == hint.moves(plan)


def test_warm_pages_are_not_demoted(bench, hint):
    """One hot page of four: bin 9 is warm, so its pages stay; bin 0 leaves."""
    table = bench([0, 0, 0, 0, 1, 1], [4, 8])
    policy = Memtis(table.setup(adaptation_period=1e9, **NO_HEADROOM))
    policy._state[HOT], policy._state[WARM] = 10, 9
    plan = table.step(policy, hint.samples([0, 1, 2, 5, 5]))
    assert [(3, 1), (5, 0)] == hint.moves(plan)


def test_too_few_cold_pages_make_warm_ones_cold(bench, hint):
    """Nobody to demote: warm becomes the hot threshold, next time they leave."""
    table = bench([0, 0, 1, 1], [2, 4])
    policy = Memtis(table.setup(adaptation_period=1e9, **NO_HEADROOM))
    policy._state[HOT], policy._state[WARM] = 10, 9
    plan = table.step(policy, hint.samples([0, 1, 3, 3]))
    assert [] == hint.moves(plan)
    assert 10 == plan.notes["warm_threshold"]
    assert [(0, 1), (3, 0)] == hint.moves(table.step(policy))


def test_cooling_halves_every_page_once(bench, hint):
    """After the cooling period all counts are half, seen again or not."""
    table = bench([1] * 4, [0, 8])
    policy = Memtis(table.setup(cooling_period=4, reference_gib=0))
    table.step(policy, hint.samples([0, 0, 1, 2, 1]))
    # Four samples, clock + 1, then page 1 again: 512 / 2 + 512.
    assert [512, 768, 256, 0] == policy._count.tolist()
    assert 1 == policy._rebuilt
    assert [1, 2, 1] == policy._hist[[0, 9, 8]].tolist()


def test_migrates_every_period(bench, hint):
    """With a period of 1000 ms kmigraterd runs in every second epoch."""
    table = bench([0, 0, 1, 1], [2, 4])
    policy = Memtis(table.setup(migration_period_ms=1000, **NO_HEADROOM))
    assert [] == hint.moves(table.step(policy, hint.samples([3])))
    assert [(0, 1), (3, 0)] == hint.moves(table.step(policy))


def test_published_defaults():
    """Periods, threshold and shares are the authors'."""
    assert (1, 2_000_000, 100_000, 500, 0.03, 0.75) == (
        DEFAULTS["thres_hot"],
        DEFAULTS["cooling_period"],
        DEFAULTS["adaptation_period"],
        DEFAULTS["migration_period_ms"],
        DEFAULTS["headroom"],
        DEFAULTS["warm_share"],
    )


@given(
    page=st.lists(st.integers(0, 4), max_size=60),
    cooling=st.integers(1, 9),
    adaptation=st.integers(1, 5),
    limit=st.integers(0, 6),
)
def test_kernel_equals_twin(page, cooling, adaptation, limit):
    """Kernel and twin leave the same counts, histogram and thresholds behind."""
    pair = TWINS.get(
        "isotherm.policy.memtis.take_samples", (take_samples, take_samples_twin)
    )
    found = []
    for function in pair:
        state = [
            np.zeros(5, np.uint32),
            np.zeros(5, np.int32),
            hist_of({0: 5}),
            words(),
        ]
        function(np.array(page, np.uint32), *state, cooling, adaptation, limit, 3)
        found.append([column.tolist() for column in state])
    assert found[1] == found[0]
