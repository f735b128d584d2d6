"""Balancing two tiers: how far to go in one epoch."""

import numpy as np

from isotherm.policy.balance import FIRST_STEP, LEAST_STEP, SHORTER, Balance
from isotherm.policy.cells import CELLS


def test_a_tier_that_saves_is_not_balanced() -> None:
    """As long as the upper tier has been the faster one, plans stay as they are."""
    balance = Balance()
    for _ in range(5):
        balance.follow(100.0)
    up = np.ones(CELLS, np.int64)
    assert balance.step is None
    assert balance.within(up, up, np.ones(CELLS), 1.0)[0] is up


def test_the_step_is_halved_at_every_turn() -> None:
    """Over and back: the step shrinks, down to the least."""
    balance = Balance()
    balance.follow(-1.0)
    assert FIRST_STEP == balance.step
    balance.follow(1.0)
    assert SHORTER * FIRST_STEP == balance.step
    for turn in range(20):
        balance.follow(-1.0 if turn % 2 == 0 else 1.0)
    assert LEAST_STEP == balance.step


def test_when_the_load_has_gone_nothing_is_held_back() -> None:
    """The upper tier saves for long: back to trades without a step."""
    balance = Balance()
    balance.follow(-1.0)
    for _ in range(40):
        balance.follow(5.0)
    assert balance.step is None


def test_as_many_pages_as_get_that_share_of_accesses() -> None:
    """A tenth of 1000 accesses a second: one page of 80, and of those of 10 two."""
    balance = Balance()
    balance.follow(-1.0)
    rate, down = np.zeros(CELLS), np.zeros(CELLS, np.int64)
    rate[:2] = 10.0, 80.0
    down[:2] = 50, 1
    _, kept = balance.within(np.zeros(CELLS, np.int64), down, rate, 1000.0)
    assert [2, 1] == kept[:2].tolist()
