"""DAMON's tiering schemes, step by step."""

import numpy as np
import pytest

from isotherm.hints.batch import Mechanism, RegionCounts
from isotherm.policy.damon import (
    GEN_MIGPOL,
    MEM_TIER,
    MOST_QUOTA,
    Damon,
    Hmsdk,
    Quota,
    hot_scores,
    next_quota,
)

REGIONS = frozenset({Mechanism.REGION})
OPEN = {"used_goal": 0, "free_goal": 0, "young_filter": 0, "reference_gib": 0}


def table_of(bench, hints=REGIONS, **rest):
    """Return eight fast pages, with two free, and sixteen slow ones."""
    return bench([0] * 6 + [1] * 16, [8, 32], hints=hints, **rest)


def test_published_presets():
    """Damo's script and HMSDK's generator."""
    assert (200, 200, 1, 0.997, 0.005, 0.05, 0) == tuple(
        MEM_TIER[name]
        for name in (
            "promote_mb",
            "demote_mb",
            "quota_interval_s",
            "used_goal",
            "free_goal",
            "promote_min_access",
            "demote_min_age_s",
        )
    )
    assert (51_200, 20, 30, 0) == tuple(
        GEN_MIGPOL[name]
        for name in ("promote_mb", "quota_interval_s", "demote_min_age_s", "used_goal")
    )


def test_hot_regions_go_up_and_cold_ones_down(bench, hint):
    """Pages of the slow node in a hot region, of the fast node in a cold one."""
    table = table_of(bench)
    seen = hint.regions([(0, 2, 0, 5), (2, 10, 20, 5), (10, 22, 0, 5)])
    plan = table.step(Damon(table.setup(**OPEN)), seen)
    assert [(0, 1), (1, 1), (6, 0), (7, 0)] == hint.moves(plan)


def test_without_room_what_is_left_waits(bench, hint):
    """Promotions do not wait for demotions: two free pages, two promotions."""
    table = table_of(bench)
    seen = hint.regions([(0, 6, 20, 5), (6, 22, 20, 5)])
    plan = table.step(Damon(table.setup(**OPEN)), seen)
    assert [(6, 0), (7, 0)] == hint.moves(plan)


def test_the_hotter_region_goes_first(bench, hint):
    """Twenty of twenty checks before ten of twenty."""
    table = table_of(bench)
    seen = hint.regions([(0, 6, 20, 5), (6, 8, 10, 5), (8, 22, 20, 5)])
    plan = table.step(Damon(table.setup(**OPEN)), seen)
    assert [(8, 0), (9, 0)] == hint.moves(plan)


def test_the_quota_is_of_pages_tried(bench, hint):
    """Three pages in an interval of a second, then three more."""
    table = bench([0] * 2 + [1] * 16, [18, 32], hints=REGIONS)
    policy = Damon(table.setup(**{**OPEN, "promote_mb": 3 * 4096 / (1 << 20)}))
    seen = hint.regions([(0, 18, 20, 5)])
    sizes = [len(table.step(policy, seen).moves) for _ in range(5)]
    assert [3, 0, 3, 0, 3] == sizes


def test_a_goal_starts_at_a_byte_and_doubles(bench, hint):
    """Far from its goal a quota reaches the first page of 4096 bytes after 12 s."""
    table = bench([1] * 16, [8, 32], hints=REGIONS)
    policy = Damon(table.setup(**{**OPEN, "used_goal": 0.997}))
    seen = hint.regions([(0, 16, 20, 5)])
    moved = [len(table.step(policy, seen).moves) for _ in range(26)]
    assert [0] * 22 + [1, 0, 1, 0] == moved, moved


@pytest.mark.parametrize(
    ("last", "score", "expected"),
    [
        (100, 0, 200),
        (100, 5_000, 150),
        (100, 10_000, 100),
        (100, 15_000, 50),
        (100, 90_000, 1),
    ],
)
def test_the_feedback_loop(last, score, expected):
    """Up by what is missing, down by what is too much, never below a byte."""
    assert expected == next_quota(last, score)


def test_a_goal_that_is_far_for_long_is_followed_again():
    """Doubled for an hour a quota is finite, and falls when the goal is passed."""
    quota = 1.0
    for _ in range(3600):
        quota = next_quota(quota, 0)
    assert MOST_QUOTA == quota
    assert MOST_QUOTA / 2 == next_quota(quota, 15_000)


def test_a_quota_without_goal_is_whole_at_once():
    """HMSDK has fixed quotas."""
    quota = Quota(4096.0, 20.0, goal=False)
    quota.renew(0, 0.0)
    assert 4096.0 == quota.left_bytes
    quota.left_bytes = 0.0
    quota.renew(19_000_000_000, 0.0)
    assert 0.0 == quota.left_bytes
    quota.renew(20_000_000_000, 0.0)
    assert 4096.0 == quota.left_bytes


def test_scores_rise_with_frequency_and_with_age():
    """Old heat is hotter, old cold is colder; the worked examples of the formula."""
    seen = RegionCounts(
        np.arange(4, dtype=np.uint32),
        np.arange(1, 5, dtype=np.uint32),
        np.array([20, 20, 0, 0], np.uint32),
        np.array([0, 640, 0, 640], np.uint32),
        20,
        0.005,
    )
    # 64 s: log2 + 1 = 7. (100 + (0 + 32) * 100 // 64) / 2 = 75 of 100 is 74 of 99.
    assert [74, 79, 24, 19] == hot_scores(seen, 1, 1, 0.1).tolist()


def test_young_pages_only_are_promoted(bench, hint):
    """The filter looks at the chosen pages in one epoch and moves in the next."""
    table = table_of(bench, REGIONS | {Mechanism.ACCESSED_BIT})
    policy = Damon(table.setup(**{**OPEN, "young_filter": 1}))
    seen = hint.regions([(0, 2, 0, 5), (2, 22, 20, 5)])
    plan = table.step(policy, seen)
    assert [] == hint.moves(plan)
    assert {Mechanism.ACCESSED_BIT} == {look.mechanism for look in plan.look}
    plan = table.step(policy, hint.touched([0, 9, 16]))
    assert [(1, 1), (9, 0), (16, 0)] == hint.moves(plan)


def test_hmsdk_demotes_only_what_is_cold_for_long(bench, hint):
    """Thirty seconds: an age of 300 aggregations of 0.1 s."""
    table = table_of(bench)
    policy = Hmsdk(table.setup(reference_gib=0))
    plan = table.step(policy, hint.regions([(0, 3, 0, 300), (3, 22, 0, 299)]))
    assert [(0, 1), (1, 1), (2, 1)] == hint.moves(plan)


def test_looks_cover_the_chosen_blocks_and_no_more(bench):
    """Neighbouring blocks are one look; the last ends with the pages."""
    table = bench([0] * 2 + [1] * 40, [8, 64])
    policy = Damon(table.setup())
    looks = policy._look_at(np.array([1, 9, 33, 41], np.uint32))
    assert [(0, 16), (32, 42)] == [(x.start_page, x.end_page) for x in looks]
