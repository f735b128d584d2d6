"""Balancing two tiers: how far to go in one epoch."""

import numpy as np
import pytest

from isotherm.lab.fidelity.colloid import FAST_RATIO, HOT_SHARE, machine_of
from isotherm.lab.fidelity.play import Watch
from isotherm.lab.fidelity.published import read_published
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.policy.balance import FIRST_STEP, LEAST_STEP, SHORTER, Balance
from isotherm.policy.cells import CELLS
from isotherm.workloads.registry import make_workload


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


@pytest.mark.slow
def test_a_busy_fast_tier_is_left() -> None:
    """Colloid's antagonist on 15 cores: all but a few accesses go to the slow tier."""
    machine = machine_of(read_published("colloid"), 135, 15)
    watch = Watch()
    spec = SimulationSpec(
        "isotherm", "gups", machine.name, FAST_RATIO, accesses=2304 * 32 * 60, rate=32.0
    )
    workload = make_workload("gups", 2304, 1, {"hot_pages": HOT_SHARE, "contiguity": 1})
    simulate(spec, workload=workload, machine=machine, recorder=watch)
    assert watch.tail(1 / 4).local_share < 0.1
    assert watch.tail(1 / 4).access_ns < 25.0  # 22.3 is all in the slow tier
