"""Which latencies isotherm believes: those that its own moves did not make."""

import numpy as np
import pytest

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.policy.isotherm import LOUD_EPOCHS, Isotherm
from isotherm.policy.plan import Outcome

PAGES = 1000


def policy_of(bench):
    """Return the policy on a table of two tiers."""
    table = bench([0] * 200 + [1] * 800, [200, 1000])
    return Isotherm(table.setup()), table


def follow(policy, table, slow_ns: float, moved: int) -> float:
    """Return the slow latency that counts after an epoch that met ``slow_ns``."""
    table.latency_ns = (80.0, slow_ns)
    page = np.arange(moved, dtype=np.uint32)
    table.outcome = Outcome(
        page, np.zeros(moved, np.uint8), np.zeros(moved, np.int16), 0.0
    )
    return float(policy._follow_latency(table.epoch())[1])


def test_without_moves_latencies_are_followed(bench) -> None:
    """A tenth of the way an epoch, up and down."""
    policy, table = policy_of(bench)
    assert 250.0 == follow(policy, table, 250.0, 0)
    assert 275.0 == pytest.approx(follow(policy, table, 500.0, 0))
    assert 272.5 == pytest.approx(follow(policy, table, 250.0, 0))


def test_what_moves_make_slow_is_not_believed(bench) -> None:
    """A rise in an epoch with moves is theirs; a fall is true all the same."""
    policy, table = policy_of(bench)
    follow(policy, table, 250.0, 0)
    assert 250.0 == follow(policy, table, 3000.0, 100)
    assert 245.0 == pytest.approx(follow(policy, table, 200.0, 100))


def test_a_few_moves_hide_nothing(bench) -> None:
    """One page in a thousand loads no tier."""
    policy, table = policy_of(bench)
    follow(policy, table, 250.0, 0)
    assert 275.0 == pytest.approx(follow(policy, table, 500.0, 1))


def test_after_a_while_it_listens(bench) -> None:
    """Eight loud epochs, then one without moves, whose latency counts for half."""
    policy, table = policy_of(bench)
    follow(policy, table, 250.0, 0)
    for epoch in range(LOUD_EPOCHS):
        assert not policy._listens, epoch
        follow(policy, table, 1250.0, 100)
    assert policy._listens
    assert 750.0 == pytest.approx(follow(policy, table, 1250.0, 0))
    assert not policy._listens


def test_latencies_that_stay_need_no_pause(bench) -> None:
    """Where moves load nothing, every epoch may move."""
    policy, table = policy_of(bench)
    for _ in range(4 * LOUD_EPOCHS):
        follow(policy, table, 250.0, 100)
        assert not policy._listens


@pytest.mark.slow
def test_moves_do_not_feed_themselves() -> None:
    """Chasing a sweep through a narrow link must not look worth its own congestion."""
    result = simulate(
        SimulationSpec(
            "isotherm", "cold-on-dram", "dram-cxl-fast", fast_ratio=1 / 9, pages=4096,
            accesses=4096 * 600, options={"stall": 0.0},
        )
    )  # fmt: skip
    assert result["slowdown"] < 1.15 * 271 / 114
