"""Latency under load: the curve that docs/reference/machines.md documents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.machine.sim.queueing import latency_factor

LOADS = st.floats(0, 5, allow_subnormal=False)


def factor(read: float, write: float = 0.0) -> float:
    """Return the factor of a node that could read and write 1 byte an epoch."""
    one = np.ones(1)
    return float(latency_factor(one * read, one * write, one, one)[0])


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (0.0, 1.0),
        (0.5, 1.125),
        (0.9, 3.025),
        (0.95, 5.5125),
        (0.9785, 12.13),
        (2.0, 12.13),
    ],
)
def test_documented_points(load: float, expected: float) -> None:
    """The points of the table, and the cap for an open loop that asks for more."""
    assert expected == pytest.approx(factor(load), rel=2e-3)


@given(LOADS, LOADS)
def test_more_load_is_never_faster(one: float, other: float) -> None:
    """The factor rises with load and is at least 1."""
    assert 1 <= factor(min(one, other)) <= factor(max(one, other))


@given(LOADS, LOADS)
def test_reads_and_writes_share_the_node(read: float, write: float) -> None:
    """Load is the sum of both shares."""
    assert factor(read + write) == pytest.approx(factor(read, write))


def test_without_a_limit_nothing_queues() -> None:
    """A node without a bandwidth has its unloaded latency at any traffic."""
    many, none = np.array([1e18]), np.array([np.inf])
    assert [1.0] == latency_factor(many, many, none, none).tolist()
