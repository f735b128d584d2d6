"""Price, advantage and trades."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.policy.cells import CELLS
from isotherm.policy.switching import (
    DECAY,
    HANDFUL,
    SELF_TRANSITIONS,
    Boundary,
    Transitions,
    trades,
)

COST = 2500.0


def columns(pairs, dtype=np.int64):
    """Return a column over cells, ``{cell: value}``."""
    out = np.zeros(CELLS, dtype)
    for cell, value in pairs.items():
        out[cell] = value
    return out


def net_worth(chosen_up, chosen_down):
    """Return what moves bring: D of what comes, less D of what goes, less M each."""
    return (
        sum(chosen_up) - sum(chosen_down) - COST * (len(chosen_up) + len(chosen_down))
    )


def best_by_force(buyers, sellers, free, limit):
    """Return the best worth over all choices of pages, one by one."""
    best = 0.0
    for n_up in range(len(buyers) + 1):
        for n_down in range(len(sellers) + 1):
            if n_up + n_down > limit or n_up - n_down > free:
                continue
            worth = net_worth(
                sorted(buyers, reverse=True)[:n_up], sorted(sellers)[:n_down]
            )
            best = max(best, worth)
    return best


ADVANTAGE = st.integers(-6, 6).map(lambda n: n * 0.8 * COST)


@settings(deadline=None)
@given(
    st.lists(st.tuples(ADVANTAGE, st.integers(0, 3), st.integers(0, 3)), max_size=4),
    st.integers(0, 4),
    st.integers(0, 12),
)
def test_trades_are_allowed_and_pay(rows, free, limit):
    """No more than there is, than fits, than may move; every one gains."""
    worth = np.zeros(CELLS)
    upper, lower = np.zeros((2, CELLS), np.int64)
    for cell, (d, u, w) in enumerate(rows):
        worth[cell], upper[cell], lower[cell] = d, u, w
    up, down = trades(worth, upper, lower, free, COST, limit)
    assert (up >= 0).all()
    assert (down >= 0).all()
    assert (up <= lower).all()
    assert (down <= upper).all()
    assert up.sum() - down.sum() <= free
    assert up.sum() + down.sum() <= limit
    coming = np.sort(np.repeat(worth, up))
    going = np.sort(np.repeat(worth, down))[::-1]
    into_free, swapped = coming, coming
    if len(going):
        into_free, swapped = coming[len(going) :], coming[: len(going)]
    assert (into_free > COST).all()
    # the least of what comes against the best of what goes
    assert len(going) <= len(coming)
    if len(going):
        assert coming[-1] - going[-1] > 2 * COST
    assert (swapped.sum() - going.sum() > 2 * COST * len(going)) or not len(going)


@settings(deadline=None)
@given(
    st.lists(st.tuples(ADVANTAGE, st.integers(0, 3), st.integers(0, 3)), max_size=4),
    st.integers(0, 4),
)
def test_trades_are_the_best_there_are(rows, free):
    """Without a limit nobody can choose better, page by page."""
    worth = np.zeros(CELLS)
    upper, lower = np.zeros((2, CELLS), np.int64)
    for cell, (d, u, w) in enumerate(rows):
        worth[cell], upper[cell], lower[cell] = d, u, w
    # swaps only: pages that merely cost in the upper tier are not evicted alone
    worth -= worth.min()
    up, down = trades(worth, upper, lower, free, COST, 1 << 31)
    found = net_worth(np.repeat(worth, up), np.repeat(worth, down))
    expected = best_by_force(
        np.repeat(worth, lower).tolist(), np.repeat(worth, upper).tolist(), free, 99
    )
    assert expected == pytest.approx(found)


def test_an_empty_upper_tier_fills_with_every_cell_that_pays():
    """With nobody to swap with, free slots go to all cells above the cost."""
    worth = columns({1: 3 * COST, 2: 2 * COST, 3: 0.5 * COST}, np.float64)
    lower = columns({1: 5, 2: 7, 3: 9})
    up, down = trades(worth, columns({}), lower, 100, COST, 1 << 31)
    assert {1: 5, 2: 7} == {int(c): int(up[c]) for c in np.flatnonzero(up)}
    assert 0 == down.sum()


def test_the_best_go_first():
    """Under a limit the hottest cell is exchanged with the coldest."""
    worth = columns({1: 9 * COST, 2: 8 * COST, 3: -COST, 4: -2 * COST}, np.float64)
    lower, upper = columns({1: 2, 2: 2}), columns({3: 2, 4: 2})
    up, down = trades(worth, upper, lower, 0, COST, 4)
    assert [2, 0] == up[[1, 2]].tolist()
    assert [0, 2] == down[[3, 4]].tolist()


def test_a_gain_of_exactly_the_cost_moves_nothing():
    """A move must gain more than it costs."""
    worth = columns({1: 2 * COST, 2: 0.0}, np.float64)
    up, _ = trades(worth, columns({2: 5}), columns({1: 5}), 0, COST, 99)
    assert 0 == up.sum()
    worth[1] *= 1.001
    up, down = trades(worth, columns({2: 5}), columns({1: 5}), 0, COST, 99)
    assert (5, 5) == (up.sum(), down.sum())


# ---- transitions


def test_transitions_decay_like_a_matrix_that_is_decayed():
    """Growing weights of new counts equal shrinking weights of old ones."""
    rng = np.random.default_rng(1)
    grown, direct = Transitions(), np.zeros((4, 4))
    cells = np.arange(4)
    for _ in range(2000):  # past the point where the weights are scaled back
        grown.forget()
        direct *= DECAY
        new = rng.integers(0, 9, (4, 4))
        grown.count[:4, :4] += (new * grown.weight).astype(np.float32)
        direct += new
    expected = direct + SELF_TRANSITIONS * np.eye(4)
    expected /= expected.sum(1, keepdims=True)
    assert grown.weight < 1e7
    assert expected == pytest.approx(grown.among(cells), rel=1e-3)


def test_a_cell_never_left_stays():
    """Without counts every page stays in its cell."""
    assert (
        np.eye(3).tolist() == Transitions().among(np.array([5, 9, CELLS - 1])).tolist()
    )


def test_chances_add_up_to_one():
    """Each row is a distribution over the cells that matter."""
    moves = Transitions()
    rng = np.random.default_rng(2)
    moves.count[:50, :50] = rng.integers(0, 1000, (50, 50))
    chance = moves.among(np.arange(0, 50, 3))
    assert (chance >= 0).all()
    assert np.ones(17) == pytest.approx(chance.sum(1), rel=1e-5)


def test_what_was_watched_for_a_moment_is_not_believed_to_last():
    """After n epochs it ends in each with a chance of 1/n; after a handful, in none."""
    moves = Transitions()
    got = [moves.watch() for _ in range(HANDFUL + 3)]
    assert [1 - 1 / n for n in range(1, HANDFUL + 1)] == got[:HANDFUL]
    assert [1.0] * 3 == got[HANDFUL:]


# ---- the price


def settle_often(gain, upper, lower, chance, *, cost=COST, times=300, first=0.0):
    """Return the boundary after many epochs of the same."""
    boundary = Boundary()
    cells = np.arange(len(gain))
    wide = np.zeros(CELLS)
    wide[cells] = gain
    up, down = np.zeros((2, CELLS), np.int64)
    up[cells], down[cells] = upper, lower
    for _ in range(times):
        boundary.settle(
            wide, cost, up, down, cells, np.asarray(chance, np.float32), first
        )
    return boundary


def test_the_advantage_is_the_fixed_point_of_its_equation():
    """D = gain - price + clip(P D, -M, M), against a direct solve on a chain."""
    gain = np.array([100.0, 900.0, 4000.0])
    chance = np.array([[0.8, 0.2, 0.0], [0.1, 0.8, 0.1], [0.0, 0.3, 0.7]])
    found = settle_often(gain, [10, 10, 10], [10, 10, 10], chance)
    net = gain - found.price
    # which continuation values are clipped, and which way: try all, keep the one
    # that is consistent
    solutions = []
    for clip in itertools.product((-1, 0, 1), repeat=3):
        free = np.array([c == 0 for c in clip])
        bound = np.array(clip) * COST
        system = np.eye(3) - np.where(free[:, None], chance, 0.0)
        if abs(np.linalg.det(system)) < 1e-12:
            continue
        d = np.linalg.solve(system, net + bound)
        if np.allclose(net + np.clip(chance @ d, -COST, COST), d, atol=1e-6):
            solutions.append(d)
    assert solutions
    nearest = min(solutions, key=lambda d: np.abs(d - found.advantage[:3]).max())
    assert nearest == pytest.approx(found.advantage[:3], rel=2e-3, abs=5.0)


def test_a_page_that_stays_is_worth_its_gain_and_the_cost_of_a_move():
    """Far above the price: gain - price + M; far below: gain - price - M."""
    found = settle_often(
        np.array([0.0, 50_000.0]), [50, 50], [50, 50], np.eye(2), times=400
    )
    expected = [-found.price - COST, 50_000.0 - found.price + COST]
    assert expected == pytest.approx(found.advantage[:2].tolist(), rel=1e-3)


@pytest.mark.parametrize("lasting", [0.0, 0.5, 0.75])
def test_what_may_end_soon_has_to_pay_soon(lasting):
    """What is worth a swap in the long run is not while little of it is believed."""
    gain = np.array([4 * COST, 4.5 * COST])
    found = settle_often(gain, [50, 50], [50, 50], lasting * np.eye(2), times=400)
    apart = found.advantage[1] - found.advantage[0]
    assert 0.5 * COST / (1 - lasting) == pytest.approx(apart, rel=1e-3)
    believed = settle_often(gain, [50, 50], [50, 50], np.eye(2), times=400)
    assert 2.5 * COST == pytest.approx(np.diff(believed.advantage[:2])[0], rel=1e-3)


@pytest.mark.parametrize("first", [0.0, 60_000.0])
def test_the_price_clears_trades(first):
    """From below and from above: between the two gains, so that neither side trades."""
    upper, lower = [0, 100], [400, 0]  # all hot pages are in: nothing to trade
    found = settle_often(
        np.array([1000.0, 20_000.0]), upper, lower, np.eye(2), first=first
    )
    assert 1000.0 < found.price < 20_000.0
    up, down = trades(
        found.advantage, columns({1: 100}), columns({0: 400}), 0, COST, 99
    )
    assert 0 == up.sum() + down.sum()


def test_the_price_rises_with_what_is_bid():
    """Hotter pages outside make a slot dearer, colder ones cheaper."""
    prices = [
        settle_often(
            np.array([1000.0, gain]), [100, 0], [0, 400], np.eye(2), times=100
        ).price
        for gain in (2_000.0, 8_000.0, 32_000.0)
    ]
    assert sorted(prices) == prices
    assert prices[0] < prices[-1]


def test_the_price_is_never_negative():
    """A slot that nobody wants is free."""
    found = settle_often(np.zeros(2), [100, 0], [0, 400], np.eye(2), first=5000.0)
    assert 0.0 == pytest.approx(found.price, abs=1e-6)


def test_cells_without_pages_have_a_plain_advantage():
    """Gain less price, within the cost of a move."""
    found = settle_often(np.array([0.0, 50_000.0]), [50, 50], [50, 50], np.eye(2))
    rest = found.advantage[2:]
    assert np.clip(-found.price, -COST, COST) == pytest.approx(rest[0])
    assert 1 == len(set(rest.tolist()))


def test_a_slot_of_a_tier_with_room_is_worth_nothing():
    """While many slots are free the price falls to zero, whoever bids."""
    boundary = Boundary()
    gain = columns({1: 20_000.0}, np.float64)
    price = []
    for _ in range(40):
        boundary.settle(
            gain,
            COST,
            columns({0: 100}),
            columns({1: 400}),
            np.arange(2),
            np.eye(2, dtype=np.float32),
            30_000.0,
            free=200,
        )
        price.append(boundary.price)
    assert sorted(price, reverse=True) == price
    assert 0.0 == pytest.approx(price[-1], abs=1e-6)
