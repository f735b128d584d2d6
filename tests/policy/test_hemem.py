"""HeMem, step by step."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.kernels import TWINS
from isotherm.policy.hemem import HeMem, count_samples, count_samples_twin

UNITS = 5


def table_of(bench, **rest):
    """Return two fast pages, full, and four slow ones."""
    return bench([0, 0, 1, 1, 1, 1], [2, 8], **rest)


def test_eight_loads_are_hot(bench, hint):
    """Seven samples: cold. The eighth promotes, and the oldest cold page leaves."""
    table = table_of(bench)
    policy = HeMem(table.setup())
    assert [] == hint.moves(table.step(policy, hint.samples([4] * 7)))
    assert [(0, 1), (4, 0)] == hint.moves(table.step(policy, hint.samples([4])))


def test_four_stores_are_hot(bench, hint):
    """Stores have a threshold of their own."""
    table = table_of(bench)
    policy = HeMem(table.setup())
    three = hint.samples([4] * 3, [1] * 3)
    assert [] == hint.moves(table.step(policy, three))
    one = hint.samples([4], [1])
    assert [(0, 1), (4, 0)] == hint.moves(table.step(policy, one))


def test_hot_pages_go_in_the_order_in_which_they_became_hot(bench, hint):
    """First in, first out; cold victims in order of their list, too."""
    table = table_of(bench)
    plan = table.step(HeMem(table.setup()), hint.samples([5] * 8 + [3] * 8))
    assert [(0, 1), (1, 1), (5, 0), (3, 0)] == hint.moves(plan)


def test_free_pages_come_first(bench, hint):
    """With free fast memory nothing is demoted."""
    table = bench([0, 1, 1], [2, 8])
    plan = table.step(HeMem(table.setup()), hint.samples([2] * 8))
    assert [(2, 0)] == hint.moves(plan)


def test_stops_when_all_fast_pages_are_hot(bench, hint):
    """Nobody cold in the fast tier: the hot slow page waits."""
    table = table_of(bench)
    hot = hint.samples([0] * 8 + [1] * 8 + [4] * 8)
    assert [] == hint.moves(table.step(HeMem(table.setup()), hot))


def test_a_count_over_eighteen_cools_everybody_lazily(bench, hint):
    """The 19th sample advances the clock; counts halve when next visited."""
    table = table_of(bench)
    policy = HeMem(table.setup())
    table.step(policy, hint.samples([4] * 10 + [5] * 3 + [4] * 9))
    # The walk has halved the hot page; the cold one is as it was.
    assert [9, 3] == policy._counts[[4, 5], 0].tolist()
    table.step(policy, hint.samples([5]))
    assert 2 == policy._counts[5, 0], "(3 + 1) >> 1"


def test_cooled_below_the_threshold_is_cold(bench, hint):
    """A hot fast page that cooling brings to 4 of 8 is the next victim."""
    table = table_of(bench)
    policy = HeMem(table.setup())
    table.step(policy, hint.samples([0] * 8 + [1] * 8))
    plan = table.step(policy, hint.samples([4] * 19))
    assert [(0, 1), (4, 0)] == hint.moves(plan)
    assert [4, 4] == policy._counts[[0, 1], 0].tolist()


def test_the_cooling_walk_is_bounded(bench, hint):
    """With one unit a round and a round an epoch, hot pages cool one by one."""
    table = bench([0] * 4 + [1] * 4, [4, 8])
    policy = HeMem(table.setup(cooling_pages=0, round_ms=500))
    table.step(policy, hint.samples([0] * 9 + [1] * 9 + [4] * 19))
    assert [4, 9] == policy._counts[:2, 0].tolist()
    table.step(policy)
    assert [4, 4] == policy._counts[:2, 0].tolist()


def test_moves_a_round_are_bounded(bench, hint):
    """Two pages a round and a round an epoch: the third waits."""
    table = bench([1] * 4, [4, 8])
    two = 2 * 4096 / (1 << 30)
    options = {"round_gib": two, "round_ms": 500, "reference_gib": 0}
    policy = HeMem(table.setup(**options))
    plan = table.step(policy, hint.samples([1] * 8 + [2] * 8 + [3] * 8))
    assert [(1, 0), (2, 0)] == hint.moves(plan)


def test_units_move_whole(bench, hint):
    """Units of two pages: samples of either count, both move."""
    table = table_of(bench)
    policy = HeMem(table.setup(unit_pages=2))
    plan = table.step(policy, hint.samples([4, 5] * 4))
    assert [(0, 1), (1, 1), (4, 0), (5, 0)] == hint.moves(plan)


COUNTS = st.lists(st.integers(0, 20), min_size=2 * UNITS, max_size=2 * UNITS)


@given(
    unit=st.lists(st.integers(0, UNITS - 1), max_size=60),
    counts=COUNTS,
    stores=st.booleans(),
    late=st.integers(0, 40),
)
def test_kernel_equals_twin(unit, counts, stores, late):
    """Kernel and twin leave the same columns behind."""
    pair = TWINS.get(
        "isotherm.policy.hemem.count_samples", (count_samples, count_samples_twin)
    )
    found = []
    for function in pair:
        state = [
            np.array(counts, np.int32).reshape(UNITS, 2),
            np.zeros(UNITS, np.int32),
            np.zeros(UNITS, np.uint8),
            np.zeros(UNITS, np.int64),
            np.array([late, 1], np.int64),
        ]
        write = np.arange(len(unit) if stores else 0).astype(np.uint8) & 1
        function(np.array(unit, np.int64), write, *state, 8, 4, 18)
        found.append([column.tolist() for column in state])
    assert found[1] == found[0]
