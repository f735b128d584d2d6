"""ARMS, step by step."""

import numpy as np
import pytest

from isotherm.policy.arms import DEFAULTS, Arms, ChangeDetector

PERIOD = 2000.0


def table_of(bench, **rest):
    """Return two fast pages, full, and four slow ones."""
    return bench([0, 0, 1, 1, 1, 1], [2, 8], **rest)


def test_two_averages_of_one_and_ten_seconds(bench, hint):
    """In intervals of half a second 2/3 and 2/21 of what is new."""
    table = table_of(bench)
    policy = Arms(table.setup())
    table.step(policy, hint.samples([4] * 21))
    expected = 21 * PERIOD * np.array([2 / 3, 2 / 21])
    assert policy._average[4] == pytest.approx(expected)
    assert policy._score[4] == pytest.approx(0.4 * expected[0] + 0.6 * expected[1])


def test_promotes_what_stays_in_the_top(bench, hint):
    """Once in the top is not enough; twice, and not falling, is."""
    table = table_of(bench)
    policy = Arms(table.setup())
    assert [] == hint.moves(table.step(policy, hint.samples([4] * 9)))
    plan = table.step(policy, hint.samples([4] * 9))
    assert [(1, 1), (4, 0)] == hint.moves(plan)


def test_what_cools_is_not_promoted(bench, hint):
    """A falling score keeps a page where it is, though it ranks first."""
    table = table_of(bench)
    policy = Arms(table.setup())
    table.step(policy, hint.samples([4] * 9))
    assert [] == hint.moves(table.step(policy, hint.samples([4])))


def test_the_coldest_fast_page_makes_room(bench, hint):
    """Page 0 is accessed a little, page 1 never."""
    table = table_of(bench)
    policy = Arms(table.setup())
    for _ in range(2):
        plan = table.step(policy, hint.samples([4] * 9 + [0]))
    assert [(1, 1), (4, 0)] == hint.moves(plan)


def test_free_pages_come_first(bench, hint):
    """With free fast memory nothing is demoted."""
    table = bench([0, 1, 1], [2, 8])
    policy = Arms(table.setup())
    for _ in range(2):
        plan = table.step(policy, hint.samples([2] * 9))
    assert [(2, 0)] == hint.moves(plan)


def test_a_move_must_pay_one_and_a_half_times(bench, hint):
    """Gain: score times age times 170 ns; cost: 1.5 times 5000 ns."""
    table = table_of(bench)
    policy = Arms(table.setup(cost_multiplier=1e9))
    for _ in range(3):
        plan = table.step(policy, hint.samples([4] * 9))
    assert [] == hint.moves(plan)


def test_hot_must_beat_cold_on_both_averages(bench, hint):
    """A page that was hot for long and is quiet now holds its place."""
    table = table_of(bench)
    policy = Arms(table.setup())
    for _ in range(30):
        table.step(policy, hint.samples([0] * 9 + [1] * 9))
    for _ in range(2):
        plan = table.step(policy, hint.samples([4] * 3))
    assert policy._average[4, 1] < policy._average[1, 1]
    assert [] == hint.moves(plan)


def test_a_jump_of_the_slow_traffic_is_a_change():
    """Steady noise is none; three deviations of excess are, for twenty periods."""
    change = ChangeDetector(DEFAULTS)
    rng = np.random.default_rng(1)
    for rate in 100 + rng.standard_normal(50):
        change.see(float(rate))
    steady = change.recent
    change.see(200.0)
    assert (False, True) == (steady, change.recent)
    for _ in range(40):
        change.see(100.0)
    assert not change.recent


def test_after_a_change_it_samples_twice_as_often(bench, hint):
    """The period is halved while recency counts."""
    table = table_of(bench)
    policy = Arms(table.setup())
    before = table.step(policy).look[0].period
    policy._change.recent = True
    assert (2000, 1000) == (before, table.step(policy).look[0].period)
