"""Interleaving: dealt at birth, never moved."""

import numpy as np
import pytest

from isotherm.policy.interleave import Interleave, WeightedInterleave
from isotherm.topology.interleave import bandwidth_weights
from isotherm.topology.model import AccessPerformance, Figure, Source, Topology


def with_bandwidth(topology, mib_s):
    """Return the topology with a read bandwidth for each node."""
    rows = tuple(
        AccessPerformance(
            0,
            node,
            read_bandwidth_mib_s=Figure(value, Source.CONFIGURED),
        )
        for node, value in mib_s.items()
    )
    return Topology(
        topology.nodes, topology.tiers, topology.initiators, rows, topology.distances
    )


def test_one_page_to_each_node_in_turn(bench):
    """Page order, round and round."""
    table = bench([0] * 4 + [1] * 4, [4, 8])
    placed = Interleave(table.setup()).start(table.node)
    assert [0, 1, 0, 1, 0, 1, 0, 1] == placed.tolist()


def test_a_full_node_is_passed_over(bench):
    """What no longer fits goes to the nodes that have room."""
    table = bench([1] * 7, [2, 8])
    placed = Interleave(table.setup()).start(table.node)
    assert [0, 1, 0, 1, 1, 1, 1] == placed.tolist()


def test_pages_without_memory_stay_without(bench):
    """Only present pages are dealt."""
    table = bench([1, 255, 1, 1], [4, 4])
    placed = Interleave(table.setup()).start(table.node)
    assert [0, 255, 1, 0] == placed.tolist()


def test_never_moves(bench):
    """A plan is empty."""
    table = bench([0, 1], [1, 4])
    assert 0 == len(table.step(Interleave(table.setup())).moves)


@pytest.mark.parametrize(
    ("mib_s", "weights"),
    [
        ({0: 218_000, 1: 26_000}, [28, 3]),
        ({0: 100, 1: 100}, [1, 1]),
        ({0: 100_000, 1: 100}, [31, 1]),
        ({0: 100}, [1, 1]),
    ],
)
def test_weights_follow_bandwidth(bench, mib_s, weights):
    """32 shares of the total, at least 1 each; 1 each where one is not known."""
    table = bench([0, 1], [1, 4])
    topology = with_bandwidth(table.setup().topology, mib_s)
    assert weights == bandwidth_weights(topology, [0, 1])


def test_weighted_deals_by_weight(bench, monkeypatch):
    """Three to the first, one to the second; a full node is passed over."""
    table = bench([1] * 10, [5, 8])
    monkeypatch.setattr(
        "isotherm.policy.interleave.bandwidth_weights", lambda *_: [3, 1]
    )
    placed = WeightedInterleave(table.setup()).start(table.node)
    assert [0, 0, 0, 1, 0, 0, 1, 1, 1, 1] == placed.tolist()
    assert (5, 5) == (np.count_nonzero(placed == 0), np.count_nonzero(placed == 1))
