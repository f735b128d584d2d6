"""Where pages go up and down: the tiers as arrays by node."""

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.plan import Moves, Reason
from isotherm.topology.model import Topology

#: Rank of a node that is in no tier, and of a page without memory.
NO_TIER = 255


def moves_to(
    page: NDArray[np.integer], node: NDArray[np.uint8], reason: Reason
) -> Moves:
    """Return moves of pages, each to its node, that promise no gain."""
    return Moves(
        page.astype(np.uint32),
        node,
        np.full(len(page), np.nan, np.float32),
        np.full(len(page), int(reason), np.uint8),
    )


class TierPaths:
    """Ranks of nodes, and the node that a page goes to.

    Args:
        topology: Nodes and tiers; at least one tier.

    Attributes:
        rank: Rank of every node's tier, 0 for the fastest, uint8[256].
        tiers: Node ids per tier, fastest first.
    """

    def __init__(self, topology: Topology) -> None:
        self.rank = np.full(256, NO_TIER, np.uint8)
        self.tiers = [np.array(tier.nodes, np.intp) for tier in topology.tiers]
        for rank, nodes in enumerate(self.tiers):
            self.rank[nodes] = rank

    @property
    def fast_nodes(self) -> list[int]:
        """Nodes of the fastest tier."""
        return [int(node) for node in self.tiers[0]]

    @property
    def lower_nodes(self) -> list[int]:
        """Nodes of all other tiers, faster tiers first."""
        return [int(node) for tier in self.tiers[1:] for node in tier]

    @property
    def upper_nodes(self) -> list[int]:
        """Nodes of all tiers but the slowest: those that can demote."""
        return [int(node) for tier in self.tiers[:-1] for node in tier]

    def is_fast(self, node: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which nodes are in the fastest tier."""
        rank: NDArray[np.uint8] = self.rank[node]
        fast: NDArray[np.bool_] = rank < 1
        return fast

    def is_lower(self, node: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which nodes are in a tier below the fastest."""
        rank: NDArray[np.uint8] = self.rank[node]
        lower: NDArray[np.bool_] = (rank > 0) & (rank != NO_TIER)
        return lower

    def freest_fast_node(self, free: NDArray[np.int64]) -> int:
        """Return the node of the fastest tier with most free pages."""
        nodes = self.tiers[0]
        return int(nodes[np.argmax(free[nodes])])

    def spread(
        self, count: int, nodes: NDArray[np.intp], room: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Return a node for each of at most ``count`` pages, roomiest node first.

        Args:
            count: Pages, >= 0.
            nodes: Nodes to choose among.
            room: Free pages per node, int64; what is given out is taken off.

        Returns:
            uint8[min(count, room there is)].
        """
        parts = [np.empty(0, np.uint8)]
        for node in nodes[np.argsort(-room[nodes], kind="stable")]:
            taken = min(count, max(int(room[node]), 0))
            room[node] -= taken
            count -= taken
            parts.append(np.full(taken, node, np.uint8))
        return np.concatenate(parts)

    def below(
        self, rank: int, count: int, room: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Return a node for each of at most ``count`` pages that leave a tier.

        The next tier takes what it has room for, then the one after it
        (demote_folio_list() in mm/vmscan.c: nearest tier first, any lower one as
        fallback).

        Args:
            rank: Tier that the pages leave.
            count: Pages, >= 0.
            room: Free pages per node, int64; what is given out is taken off.
        """
        parts = [np.empty(0, np.uint8)]
        for nodes in self.tiers[rank + 1 :]:
            parts.append(self.spread(count, nodes, room))
            count -= len(parts[-1])
        return np.concatenate(parts)
