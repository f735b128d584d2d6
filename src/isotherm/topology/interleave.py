"""Weights of MPOL_WEIGHTED_INTERLEAVE, from the bandwidth that nodes have.

Pages that nobody has seen an access of yet are best dealt to nodes by bandwidth: so
many to each in a round as its weight says. ``mm/mempolicy.c`` (6.9) has one table for
the host, ``/sys/kernel/mm/mempolicy/weighted_interleave/nodeN``; since 6.16 the
kernel fills it itself from what firmware claims, while ``auto`` is true.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isotherm.topology.model import AccessPerformance, Figure, Source, Topology
from isotherm.topology.parse import parse_number

#: Below the root of a machine.
FOLDER: Final = "sys/kernel/mm/mempolicy/weighted_interleave"
#: The sum that bandwidths are reduced to (weightiness, mm/mempolicy.c of 6.16).
WEIGHTINESS: Final = 32


@dataclass(frozen=True, slots=True)
class NodeWeight:
    """One node's weight, and what it is made of.

    Attributes:
        node: Which node.
        weight: Pages in a round.
        bandwidth_mib_s: Of the best initiator, the lesser of reads and writes; None
            where nobody says.
        source: Who said so.
        now: What the kernel has; None where it has no such table.
    """

    node: int
    weight: int
    bandwidth_mib_s: float | None
    source: Source | None
    now: int | None = None


def derive_weights(topology: Topology, nodes: Sequence[int]) -> list[NodeWeight]:
    """Return the weight of each node, as reduce_interleave_weights() has it.

    ``max(1, 32 * bandwidth / total)`` in integers, over their greatest common
    divisor; a bandwidth is the lesser of reads and writes, as
    mempolicy_set_node_perf() has it. All 1 where a node's bandwidth is not known:
    the kernel would take it for 0, and give the others up to 32.
    """
    best: dict[int, Figure] = {}
    for row in topology.performance:
        figure = _bandwidth(row)
        if figure is not None and (
            row.node not in best or figure.value > best[row.node].value
        ):
            best[row.node] = figure
    known = [best.get(node) for node in nodes]
    total = sum(int(figure.value) for figure in known if figure is not None)
    if total == 0 or any(figure is None or figure.value < 1 for figure in known):
        weights = [1] * len(nodes)
    else:
        weights = [
            max(1, WEIGHTINESS * int(figure.value) // total)
            for figure in known
            if figure is not None
        ]
        divisor = math.gcd(*weights)
        weights = [weight // divisor for weight in weights]
    return [
        NodeWeight(
            node,
            weight,
            None if figure is None else figure.value,
            None if figure is None else figure.source,
        )
        for node, weight, figure in zip(nodes, weights, known, strict=True)
    ]


def bandwidth_weights(topology: Topology, nodes: Sequence[int]) -> list[int]:
    """Return the weight of each node; see `derive_weights`."""
    return [found.weight for found in derive_weights(topology, nodes)]


def weighted_nodes(topology: Topology) -> list[int]:
    """Return the nodes that pages are dealt to: those of all tiers, ascending."""
    return sorted(node for tier in topology.tiers for node in tier.nodes)


def read_weights(root: Path) -> dict[int, int]:
    """Return the kernel's weights by node; empty where it has no such table.

    A node that says 0 has the kernel's default, 1 (before 6.16).
    """
    found = {}
    for file in sorted((root / FOLDER).glob("node[0-9]*")):
        try:
            node = parse_number(file.name.removeprefix("node"))
            weight = parse_number(file.read_text().strip())
        except (OSError, ValueError):
            continue  # a node that is just leaving
        found[node] = max(1, weight)
    return found


def read_auto(root: Path) -> bool | None:
    """Return whether the kernel sets weights itself; None before 6.16."""
    try:
        text = (root / FOLDER / "auto").read_text().strip()
    except OSError:
        return None
    return text in ("true", "1", "Y")


def commands(weights: Sequence[NodeWeight]) -> list[str]:
    """Return shell lines that set weights, as root."""
    return [f"echo {found.weight} > /{FOLDER}/node{found.node}" for found in weights]


def _bandwidth(row: AccessPerformance) -> Figure | None:
    read, write = row.read_bandwidth_mib_s, row.write_bandwidth_mib_s
    if read is None or write is None:
        return read
    return read if read.value <= write.value else write
