"""Interleaving: pages are dealt to the nodes at birth, and never move.

``mm/mempolicy.c``: MPOL_INTERLEAVE deals one page to each node in turn,
MPOL_WEIGHTED_INTERLEAVE (6.9) so many to each as its weight says. Since 6.16 the
kernel sets the weights itself, from the bandwidth that firmware claims.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import Mechanism
from isotherm.machine.protocol import NOT_PRESENT, SpacesChanged
from isotherm.policy.options import read_options
from isotherm.policy.plan import Epoch, Plan, Setup
from isotherm.policy.spaces import refuse_renewal
from isotherm.topology.interleave import bandwidth_weights, weighted_nodes
from isotherm.topology.model import Topology


class Interleave:
    """One page to each node in turn."""

    name = "interleave"
    wants: frozenset[Mechanism] = frozenset()
    uses_tracker = False

    def __init__(self, setup: Setup) -> None:
        read_options(self.name, setup, {})
        self._nodes = weighted_nodes(setup.topology)
        self._capacity = setup.capacity_pages
        self._weights = self._weigh(setup.topology)

    def _weigh(self, topology: Topology) -> list[int]:
        """Return how many pages each node gets in a round."""
        return [1] * len(self._nodes)

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the placement: pages that have memory dealt out in page order.

        A full node is passed over, as the allocator falls back to another.
        """
        there = np.flatnonzero(node != NOT_PRESENT)
        room = self._capacity[self._nodes].astype(np.int64)
        turn = np.repeat(self._nodes, self._weights)
        dealt = np.empty(0, np.uint8)
        while len(dealt) < len(there) and (room > 0).any():
            open_nodes = turn[room[np.searchsorted(self._nodes, turn)] > 0]
            share = np.array([np.count_nonzero(open_nodes == n) for n in self._nodes])
            # Rounds until the first of them is full.
            rounds = int((room[share > 0] // share[share > 0]).min())
            left = len(there) - len(dealt)
            some = np.tile(open_nodes, max(1, min(rounds, -(-left // len(open_nodes)))))
            if rounds == 0:  # one of them is full within this round
                some = _within(some, self._nodes, room)
            some = some[:left].astype(np.uint8)
            dealt = np.concatenate([dealt, some])
            room = room - np.array([np.count_nonzero(some == n) for n in self._nodes])
        placed = node.copy()
        placed[there[: len(dealt)]] = dealt
        return placed

    def renew(self, change: SpacesChanged) -> None:
        """Refuse: what is born later is not dealt."""
        refuse_renewal(self.name)

    def decide(self, epoch: Epoch) -> Plan:
        """Return an empty plan."""
        return Plan()


class WeightedInterleave(Interleave):
    """As many pages to each node in a round as its share of the bandwidth says."""

    name = "weighted-interleave"

    def _weigh(self, topology: Topology) -> list[int]:
        return bandwidth_weights(topology, self._nodes)


def _within(
    turn: NDArray[np.integer], nodes: list[int], room: NDArray[np.int64]
) -> NDArray[np.integer]:
    """Return a round without what finds its node full."""
    keep = np.ones(len(turn), np.bool_)
    for node, pages in zip(nodes, room.tolist(), strict=True):
        of_node = np.flatnonzero(turn == node)
        keep[of_node[pages:]] = False
    return turn[keep]
