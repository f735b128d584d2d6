"""Bounds that never move, and the count of a future."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isotherm.core.errors import UsageError
from isotherm.core.kernels import TWINS
from isotherm.policy.bounds import (
    AllFast,
    AllSlow,
    KnownFuture,
    StaticOracle,
    count_epoch,
    count_epoch_twin,
    count_future,
)


def future(*rows):
    """Return a future of these counts."""
    return KnownFuture(np.array(rows, np.uint16))


def test_all_fast_ignores_capacity(bench):
    """All pages are fast although two fit; nothing moves."""
    table = bench([0, 0, 1, 1], [2, 4])
    policy = AllFast(table.setup())
    assert [0, 0, 0, 0] == policy.start(table.node).tolist()
    assert 0 == len(table.step(policy).moves)


def test_all_fast_uses_every_node_of_its_tier(bench):
    """Two sockets: page by page in turn, so that neither is the busy one."""
    table = bench([2, 2, 2, 2, 2], [2, 2, 9], tiers=((0, 1), (2,)))
    policy = AllFast(table.setup())
    placed = policy.start(table.node)
    assert [0, 1, 0, 1, 0] == placed.tolist()
    assert np.uint8 == placed.dtype


def test_all_fast_puts_pages_on_their_nearest_node(bench):
    """Where a future says what a page stalls on each node, the least one of the tier.

    Node 2, though cheapest for page 2, is of another tier.
    """
    table = bench([2, 2, 2], [3, 3, 9], tiers=((0, 1), (2,)))
    cost_ns = np.array([[80.0, 140, 250], [140, 80, 310], [7, 6, 5]])
    known = KnownFuture(np.ones((1, 3), np.uint16), cost_ns=cost_ns)
    assert [0, 1, 1] == AllFast(table.setup(), known).start(table.node).tolist()


def test_static_oracle_takes_what_saves_most(bench):
    """Not what is accessed most: page 1's few accesses save more than page 0's."""
    table = bench([1, 1], [1, 2])
    cost_ns = np.array([[800.0, 900], [100, 700]])
    known = KnownFuture(np.array([[10, 1]], np.uint16), cost_ns=cost_ns)
    placed = StaticOracle(table.setup(), known).start(table.node)
    assert [1, 0] == placed.tolist()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    costs=st.lists(
        st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=12
    ),
    room=st.lists(st.integers(0, 5), min_size=2, max_size=2),
)
def test_static_oracle_near_and_within_room(bench, costs, room):
    """Two fast nodes fill up with what saves most; what loses there stays out."""
    pages = len(costs)
    table = bench([2] * pages, [*room, pages], tiers=((0, 1), (2,)))
    cost_ns = np.array(costs, np.float64)
    known = KnownFuture(np.ones((1, pages), np.uint16), cost_ns=cost_ns)
    placed = StaticOracle(table.setup(), known).start(table.node)
    used = np.bincount(placed, minlength=3)
    saved = cost_ns[:, 2] - cost_ns[:, :2].min(1)
    assert min(np.count_nonzero(saved >= 0), sum(room)) == used[:2].sum()
    assert (used[:2] <= room).all()
    if used[2] and used[:2].sum():
        assert saved[placed < 2].min() >= saved[placed == 2].max()
    if used[0] < room[0] and used[1] < room[1]:  # nobody was refused
        fast = placed < 2
        assert (cost_ns[fast, placed[fast]] == cost_ns[fast, :2].min(1)).all()


def test_all_slow_is_the_last_tier(bench):
    """With three tiers everything is in the third."""
    table = bench([0, 1, 2], [1, 1, 3], tiers=((0,), (1,), (2,)))
    policy = AllSlow(table.setup())
    assert [2, 2, 2] == policy.start(table.node).tolist()
    assert 0 == len(table.step(policy).moves)


def test_static_oracle_takes_the_most_accessed(bench):
    """Totals 3, 7, 7, 1 and two fast slots: pages 1 and 2; it never moves."""
    table = bench([0, 0, 1, 1], [2, 4])
    policy = StaticOracle(table.setup(), future([3, 0, 7, 0], [0, 7, 0, 1]))
    assert [1, 0, 0, 1] == policy.start(table.node).tolist()
    assert 0 == len(table.step(policy).moves)


def test_static_oracle_fills_tiers_in_turn(bench):
    """One fast slot, one in the middle, ties by page."""
    table = bench([0, 1, 2, 2], [1, 1, 4], tiers=((0,), (1,), (2,)))
    policy = StaticOracle(table.setup(), future([5, 5, 9, 5]))
    assert [1, 2, 0, 2] == policy.start(table.node).tolist()


def test_static_oracle_does_not_touch_the_machines_placement(bench):
    """``start`` answers with a new column."""
    table = bench([0, 0, 1, 1], [2, 4])
    StaticOracle(table.setup(), future([0, 0, 1, 1])).start(table.node)
    assert [0, 0, 1, 1] == table.node.tolist()


def test_future_of_another_footprint(bench):
    """A future of three pages for a machine of four is refused."""
    with pytest.raises(UsageError, match=r"expected \(epochs, 4\)"):
        StaticOracle(bench([0, 0, 1, 1], [2, 4]).setup(), future([1, 2, 3]))


def test_counts_per_epoch():
    """One row an epoch, one column a page."""
    epochs = [np.array([0, 2, 2], np.uint32), np.array([1], np.uint32)]
    counted = count_future(epochs, 3)
    assert [[1, 0, 2], [0, 1, 0]] == counted.counts.tolist()
    assert np.uint16 == counted.counts.dtype


def test_counts_beyond_sixteen_bits():
    """Pages with more than 65,535 accesses an epoch are told apart."""
    many = np.repeat(np.arange(2, dtype=np.uint32), [70_000, 70_001])
    counted = count_future([many, many[:5]], 2)
    assert [[70_000, 70_001], [5, 0]] == counted.counts.tolist()
    assert np.uint32 == counted.counts.dtype


def test_no_epochs():
    """An empty stream has an empty future."""
    assert (0, 3) == count_future([], 3).counts.shape


@given(
    page=st.lists(st.integers(0, 3), max_size=40),
    before=st.lists(st.integers(0, 12), min_size=4, max_size=4),
)
def test_counts_stop_at_the_limit(page, before):
    """Kernel and twin count alike, and stop at 12."""
    pair = TWINS.get(
        "isotherm.policy.bounds.count_epoch", (count_epoch, count_epoch_twin)
    )
    expected = [min(12, n + page.count(p)) for p, n in enumerate(before)]
    for function in pair:
        out = np.array(before, np.uint16)
        function(np.array(page, np.uint32), out, 12)
        assert expected == out.tolist()


def test_pinned_pages_stay_where_they_are(bench):
    """Page 0 holds a fast page although it is the coldest; page 2 cannot come."""
    table = bench([0, 1, 1, 1], [2, 4])
    known = KnownFuture(
        np.array([[1, 5, 9, 7]], np.uint16), pinned=np.array([True, False, True, False])
    )
    assert [0, 1, 1, 0] == StaticOracle(table.setup(), known).start(table.node).tolist()
