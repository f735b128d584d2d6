"""The rank of every node's tier, as a column by node."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.topology.model import Topology

#: Rank of a node that is in no tier: slower than all.
NO_TIER: Final = 255


def derive_tier_rank(topology: Topology) -> list[int]:
    """Return the tier rank of every node, 0 the fastest, indexed by node id.

    A node that is in no tier gets 255: slower than all.
    """
    rank = [NO_TIER] * (max(node.id for node in topology.nodes) + 1)
    for at, tier in enumerate(topology.tiers):
        for node in tier.nodes:
            rank[node] = at
    return rank


def rank_column(topology: Topology, least_nodes: int = 0) -> NDArray[np.uint8]:
    """Return ranks as a column of at least so many nodes, uint8[nodes].

    What was indexed by node stays so when the last node leaves.
    """
    rank = derive_tier_rank(topology)
    rank += [NO_TIER] * (least_nodes - len(rank))
    return np.array(rank, np.uint8)
