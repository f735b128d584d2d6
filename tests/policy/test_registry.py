"""The registry: every name makes a policy, wrong names are helped."""

import subprocess
import sys

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.policy.bounds import KnownFuture
from isotherm.policy.registry import (
    BOUNDS,
    NEEDS_FUTURE,
    POLICIES,
    TUNING_GRID,
    make_policy,
)

PEERS = sorted(set(POLICIES) - BOUNDS - {"isotherm"})
FUTURE = KnownFuture(np.ones((2, 16), np.uint16))


@pytest.fixture
def table(bench):
    """Return four fast pages, full, and twelve slow ones."""
    return bench([0] * 4 + [1] * 12, [4, 16])


@pytest.mark.parametrize("name", [*PEERS, *sorted(BOUNDS)])
def test_every_name_makes_a_policy(table, name):
    """Name and policy agree; a first epoch without hints gives a plan."""
    policy = make_policy(name, table.setup(), FUTURE)
    assert name == policy.name
    node = policy.start(table.node.copy())
    assert (16,) == node.shape
    pages = policy.decide(table.epoch()).moves.page.tolist()
    assert sorted(set(pages)) == sorted(pages)


@pytest.mark.parametrize("name", PEERS)
def test_same_state_same_epochs_same_plans(table, hint, name):
    """Two policies that see the same decide the same."""
    plans = []
    for _ in range(2):
        policy = make_policy(name, table.setup())
        node, index = table.node.copy(), table.index
        found = []
        for _ in range(3):
            hints = (
                hint.samples([9] * 20 + [3] * 4),
                hint.faults({7: 0.1, 12: 0.4}),
                hint.touched([0, 1]),
            )
            plan = table.step(policy, *hints)
            found.append((hint.moves(plan), plan.look, dict(plan.notes)))
        plans.append(found)
        table.node[:], table.index = node, index
    assert plans[0] == plans[1]


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("tiers", [((0,), (1,)), ((0,), (1,), (2,)), ((0, 1), (2,))])
def test_plans_name_a_page_once_and_fit(bench, hint, name, tiers):
    """On any machine: no page twice, no node beyond its capacity."""
    nodes = sum(len(t) for t in tiers)
    rng = np.random.default_rng(5)
    node = [0] * 4 + [1] * 4 + [nodes - 1] * 24
    capacity = [4, 4, 40] if nodes == 3 else [4, 40]
    table = bench(node, capacity, tiers=tiers)
    policy = make_policy(name, table.setup())
    for _ in range(12):
        plan = table.step(
            policy,
            hint.samples(rng.integers(0, 32, 60).tolist()),
            hint.faults({int(p): 0.1 for p in rng.permutation(32)[:6]}),
            hint.touched(rng.permutation(32)[:4].tolist()),
        )
        pages = plan.moves.page.tolist()
        assert len(set(pages)) == len(pages)
        used = np.bincount(table.node, minlength=nodes)
        assert (used <= np.array(capacity)).all()


def test_unknown_name_gets_a_suggestion(table):
    """A typing error is a usage error that names what was meant."""
    with pytest.raises(UsageError, match="did you mean 'memtis'"):
        make_policy("memtiss", table.setup())


@pytest.mark.parametrize("name", sorted(NEEDS_FUTURE))
def test_no_future(table, name):
    """A bound without a future is refused."""
    with pytest.raises(UsageError, match="needs a future"):
        make_policy(name, table.setup())


def test_unknown_option_gets_a_suggestion(table):
    """An option that the policy lacks is a usage error."""
    with pytest.raises(UsageError, match="did you mean 'hot_read'"):
        make_policy("hemem", table.setup(hot_reed=3))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_option_out_of_range(table, value):
    """Options are finite and not negative."""
    with pytest.raises(UsageError, match="expected a number >= 0"):
        make_policy("hemem", table.setup(hot_read=value))


@pytest.mark.parametrize("name", sorted(TUNING_GRID))
def test_tuning_grid(table, name):
    """The published defaults come first, and every point is accepted."""
    grid = TUNING_GRID[name]
    assert {} == grid[0]
    assert [name] * len(grid) == [
        make_policy(name, table.setup(**point)).name for point in grid
    ]


def test_peers_have_a_grid():
    """Every online peer is tried with more than its defaults, or has no options."""
    assert PEERS == sorted(TUNING_GRID)


def test_importable_without_numba():
    """Names and lines cost no numba."""
    code = "import sys, isotherm.policy.registry; print('numba' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert "False" == done.stdout.strip()
