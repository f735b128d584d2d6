"""Where to look next: within a budget, everywhere in turn, at the right depth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.hints.batch import Mechanism
from isotherm.policy.sensing import (
    BEST_DEPTH,
    BUDGET,
    IDLE,
    LEAST_BUDGET,
    PAYBACK_GAIN,
    PoisonPlanner,
    SamplePlanner,
    ScanPlanner,
)

PAGES = 4096
EPOCH_S = 0.5
ENTRY_NS = 30.0
FAST_NS = 80.0


def planner(*, has_samples=True):
    """Return a planner of 4096 pages."""
    return ScanPlanner(PAGES, EPOCH_S, has_samples=has_samples)


def plan(scan, *, rate=10.0, recoverable=1.0):
    """Return the one look that is planned."""
    (look,) = scan.plan(rate, FAST_NS, ENTRY_NS, recoverable)
    return look


def share_of(recoverable):
    """Return the share of the budget for so much to be recovered."""
    return min(1.0, max(LEAST_BUDGET, recoverable / PAYBACK_GAIN))


@given(
    st.floats(0.01, 1e4),
    st.floats(0.0, 1.0),
    st.floats(1e-3, 1e3),
    st.booleans(),
)
def test_looks_cost_at_most_the_budget(rate, recoverable, threshold, has_samples):
    """Per page and second, by the walks that a look makes.

    Stripes are whole, rounded to the nearest: at 1.5 of them half again as much.
    """
    scan = planner(has_samples=has_samples)
    scan.learn(threshold, 0.5, EPOCH_S)
    look = plan(scan, rate=rate, recoverable=recoverable)
    walks = 1 if look.window_s is None else 2
    cost_ns = walks * ENTRY_NS / (look.stripes * EPOCH_S)
    budget_ns = BUDGET * share_of(recoverable) * rate * FAST_NS
    assert (
        cost_ns <= 1.5 * max(budget_ns, 0.0)
        or look.stripes == walks == 1
        or (look.stripes == 2 and walks == 2)
    )
    if look.stripes > 8:
        assert cost_ns <= 1.07 * budget_ns


def test_stripes_cover_everything_in_turn():
    """As many looks as stripes see every block once."""
    scan = planner()
    first = plan(scan, rate=2.0)
    looks = [first] + [plan(scan, rate=2.0) for _ in range(first.stripes - 1)]
    assert first.stripes > 1
    assert {first.stripes} == {k.stripes for k in looks}
    assert list(range(first.stripes)) == sorted(k.stripe for k in looks)
    assert {(0, PAGES)} == {(k.start_page, k.end_page) for k in looks}
    assert {Mechanism.ACCESSED_BIT} == {k.mechanism for k in looks}


def test_a_hot_threshold_needs_a_window():
    """Where bits would saturate between walks, a window of the right depth opens."""
    scan = planner()
    scan.learn(100.0, 0.9, EPOCH_S)
    assert BEST_DEPTH / 100.0 == pytest.approx(plan(scan).window_s)


def test_a_cold_threshold_needs_none():
    """Where pages are touched more rarely than looked at, one walk does."""
    scan = planner()
    scan.learn(0.1, 0.1, EPOCH_S)
    assert plan(scan).window_s is None


def test_a_window_is_never_longer_than_the_epoch():
    """It ends with the epoch and cannot begin before it."""
    scan = planner()
    scan.learn(0.05, 0.1, EPOCH_S)
    look = plan(scan, rate=0.1, recoverable=0.0)
    assert look.window_s is None or look.window_s <= EPOCH_S


def test_a_window_costs_twice_and_comes_half_as_often():
    """Two walks each: the same budget, twice the stripes."""
    scan = planner()
    scan.learn(0.1, 0.1, EPOCH_S)
    single = plan(scan, rate=1.0)
    scan.learn(1000.0, 0.9, EPOCH_S)
    double = plan(scan, rate=1.0)
    assert (None, 2 * single.stripes) != (single.window_s, single.stripes)
    assert double.stripes == pytest.approx(2 * single.stripes, abs=1)


def test_little_to_gain_makes_looking_rare():
    """The budget falls with what is recoverable, but never to nothing."""
    stripes = [
        plan(planner(), rate=2.0, recoverable=g * PAYBACK_GAIN).stripes
        for g in (2.0, 1.0, 0.5, 0.1, 1e-9, 0.0)
    ]
    assert sorted(stripes) == stripes
    assert stripes[0] == stripes[1]
    assert stripes[-2] == pytest.approx(stripes[0] / LEAST_BUDGET, rel=0.2)
    # Where no move could pay, it is as rare from the first look on as in calm.
    assert stripes[-1] == pytest.approx(stripes[-2] / IDLE, rel=0.2)


def test_without_samples_saturated_bits_make_the_window_shorter():
    """Bits that are nearly all set tell nothing: look more briefly, again and again."""
    scan = planner(has_samples=False)
    depth = []
    for _ in range(4):
        scan.learn(1.0, 0.99, depth[-1] if depth else EPOCH_S)
        depth.append(plan(scan).window_s or EPOCH_S)
    assert sorted(depth, reverse=True) == depth
    assert depth[-1] < depth[0]


def test_without_samples_every_second_round_looks_at_the_hot_end():
    """Two depths in turn, a round of stripes each."""
    scan = planner(has_samples=False)
    scan.learn(50.0, 0.5, EPOCH_S)
    found = {round(plan(scan).window_s, 6) for _ in range(20)}
    assert 2 == len(found)


# ---- samples


def sampled(samples, recoverable):
    """Return the period that is planned, None for no change."""
    looks = samples.plan(PAGES, recoverable)
    return looks[0].period if looks else None


def test_a_period_that_fits_is_left_alone():
    """While there is something to gain, samples come as they were asked for."""
    assert sampled(SamplePlanner(2000), 1.0) is None


def test_samples_become_rare_and_come_back():
    """The period grows in powers of two while nothing is to be gained."""
    samples = SamplePlanner(2000)
    rare = sampled(samples, 0.0)
    assert rare > 2000
    assert 0 == (rare // 2000) & (rare // 2000 - 1)
    assert sampled(samples, 0.0) is None
    assert 2000 == sampled(samples, PAYBACK_GAIN)


@given(st.lists(st.floats(0.0, 1.0), max_size=20))
def test_samples_are_never_more_frequent_than_asked(gains):
    """The operator's period is the least."""
    samples = SamplePlanner(500)
    for gain in gains:
        period = sampled(samples, gain)
        assert period is None or 500 <= period <= 500 * 2 / LEAST_BUDGET


def test_looking_is_rarer_while_nothing_changes():
    """After enough looks, calm memory is looked at four times more rarely."""
    scan = ScanPlanner(1 << 15, 0.5, has_samples=True)

    def stripes():
        (look,) = scan.plan(10.0, 80.0, 30.0, 1.0)
        return look.stripes

    busy = stripes()
    for _ in range(400):
        scan.follow_moves(0.0, 1.0)
        stripes()
    calm = stripes()
    assert 3 * busy <= calm <= 5 * busy
    for _ in range(5):
        scan.follow_moves(0.01, 1.0)
    assert stripes() < 1.5 * busy


def test_looking_is_not_rarer_before_every_page_was_looked_at_often():
    """No moves at first means that nothing is known yet."""
    scan = ScanPlanner(1 << 15, 0.5, has_samples=True)
    before = scan.plan(1.0, 80.0, 30.0, 1.0)
    for _ in range(100):
        scan.follow_moves(0.0, 1.0)
        after = scan.plan(1.0, 80.0, 30.0, 1.0)
    assert before[0].stripes == after[0].stripes


def test_poisoning_covers_memory_in_turn():
    """The share that has been poisoned once grows to 1 and stays there."""
    poison = PoisonPlanner(PAGES, EPOCH_S)
    assert 0 < poison.covered < 0.01
    seen = []
    while poison.covered < 1.0:
        (look,) = poison.plan(10.0, FAST_NS, 1.0)
        seen.append(poison.covered)
        assert look.end_page / PAGES == poison.covered
    assert seen == sorted(seen)
    poison.plan(10.0, FAST_NS, 1.0)
    assert 1.0 == poison.covered
