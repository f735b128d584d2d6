"""What knowledge is worth: how much looking may cost, and whether moves are made."""

import numpy as np
import pytest

from isotherm.policy.cells import CELLS
from isotherm.policy.hope import FIRST_HOPE, LEAST_GAIN, Hope, Spread

RATE = np.zeros(CELLS)
RATE[:2] = 9.0, 1.0
TWO_NS = np.array([100.0, 200.0])


def spread(upper: list[int], lower: list[int], room: int, ns: np.ndarray) -> Spread:
    """Return accesses over two tiers: a hot cell, a cold one."""
    population = np.zeros((CELLS, 2), np.int64)
    population[:2, 0], population[:2, 1] = upper, lower
    return Spread(RATE, population, np.array([room, 200]), ns)


def after(seen: Spread, ns: np.ndarray, epochs: int = 100) -> Hope:
    """Return what is hoped for after a while of the same, without moves."""
    hope = Hope()
    for _ in range(epochs):
        hope.follow(seen, ns, moves=False, trust=1.0, told=1.0)
    return hope


def test_what_could_be_won_bounds_what_is_hoped_for_at_first() -> None:
    """Half of the accesses 100 ns sooner, of 150: a third; of 101: not a percent."""
    even = [5, 45], [5, 45]
    hope = Hope()
    hope.follow(spread(*even, 50, TWO_NS), TWO_NS, moves=False, trust=1.0, told=0.0)
    assert FIRST_HOPE == hope.promised
    assert pytest.approx(1 / 3) == hope.most
    near = np.array([100.0, 101.0])
    hope = Hope()
    assert hope.pays
    hope.follow(spread(*even, 50, near), near, moves=False, trust=1.0, told=0.0)
    assert pytest.approx(0.5 / 100.5) == hope.promised


def test_where_all_heat_is_worth_little_nothing_is_looked_for() -> None:
    """Perfect placement would save less than a move takes; so would all knowledge."""
    near = np.array([100.0, 101.0])
    hope = after(spread([5, 45], [5, 45], 50, near), near)
    assert hope.most < LEAST_GAIN
    assert not hope.pays
    assert 0.0 == hope.recoverable
    assert 0.0 < hope.promised < LEAST_GAIN


def test_tiers_that_part_under_load_make_it_worth_looking_again() -> None:
    """Nothing is final: it is followed at the pace of all other hopes."""
    near = np.array([100.0, 101.0])
    even = [5, 45], [5, 45]
    hope = after(spread(*even, 50, near), near)
    for _ in range(10):
        hope.follow(spread(*even, 50, TWO_NS), TWO_NS, moves=False, trust=1, told=1)
    assert hope.pays
    assert hope.promised > LEAST_GAIN
    assert hope.recoverable > 0.0


def test_free_slots_promise_what_chance_would_give() -> None:
    """Pages that are all below a free tier gain as much as the way up is long."""
    flat = [0, 50], [0, 150]
    hope = after(spread(*flat, 200, TWO_NS), TWO_NS)
    assert pytest.approx(0.75, rel=1e-6) == hope.promised
    assert pytest.approx(0.0, abs=1e-6) == hope.recoverable
    full = after(spread(*flat, 50, TWO_NS), TWO_NS)
    assert pytest.approx(0.0, abs=1e-6) == full.promised


def test_initiators_that_are_not_told_apart_yet_bound_nothing() -> None:
    """What they could save apart keeps the hope up, until it is known who is where."""
    near = np.array([100.0, 101.0])
    seen = spread([5, 45], [5, 45], 50, near)
    hope = Hope()
    for _ in range(3):
        hope.follow(seen, near, moves=False, trust=1.0, told=0.0, apart_ns=TWO_NS)
        assert hope.pays
        assert FIRST_HOPE == hope.promised
