"""Read latency of every node from every initiator, with who said each figure."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.topology.model import InitiatorKind, MemoryKind, Node, Source, Topology

#: Nanoseconds where nobody says: published idle latencies (DRAM 80 to 110, the
#: other socket 140 to 180, CXL 170 to 400, PMEM 300 and more); compressed: a fault
#: on a page in zram with lz4, measured at 4.6 µs.
ASSUMED_NS: Final = {
    MemoryKind.DRAM: 100.0,
    MemoryKind.HBM: 120.0,
    MemoryKind.REMOTE: 160.0,
    MemoryKind.CXL: 250.0,
    MemoryKind.UNKNOWN: 250.0,
    MemoryKind.PMEM: 350.0,
    MemoryKind.GPU: 500.0,
    MemoryKind.COMPRESSED: 5000.0,
}
#: What a GPU is taken to see: of its own memory, and beyond that of any other what
#: the link adds to its kind's (the machines gpu-coherent and gpu-host).
GPU_OWN_NS: Final = 400.0
GPU_LINK_NS: Final = 800.0
#: Distance of a node from itself (ACPI 5.2.17), which others are relative to.
_LOCAL: Final = 10
_PLAIN: Final = (MemoryKind.DRAM, MemoryKind.REMOTE, MemoryKind.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Latencies:
    """What ``Machine.latency_ns`` gives, and where it comes from.

    Attributes:
        ns: float64[initiators, nodes]; what is no node has the slowest node's.
        source: ``{(initiator, node): who said so}``.
    """

    ns: NDArray[np.float64]
    source: dict[tuple[int, int], Source]


def derive_latencies(topology: Topology, width: int) -> Latencies:
    """Return the latencies of a machine, none of them unknown.

    Firmware's read latency goes first, else its write latency. Else, between CPU
    nodes and where there are distances, the figure that another initiator has for
    the node, in proportion; else, for plain or unknown memory, the local figure
    times distance over 10, which is what a distance says (ACPI 6.5, 5.2.17). Else
    what memory of its kind has, and for a GPU what its link adds: drivers give CXL
    and PMEM nodes the distance of a port, if any.

    Args:
        topology: Nodes and what is known of them.
        width: Columns of the result.
    """
    ns = np.zeros((len(topology.initiators), width), np.float64)
    source: dict[tuple[int, int], Source] = {}
    for seen in topology.performance:
        figure = seen.read_latency_ns or seen.write_latency_ns
        if figure is not None and seen.node < width and seen.initiator < len(ns):
            ns[seen.initiator, seen.node] = figure.value
            source[seen.initiator, seen.node] = figure.source
    said = ns.copy()
    for row, initiator in enumerate(topology.initiators):
        for node in topology.nodes:
            if node.id >= width or ns[row, node.id]:
                continue
            assumed = ASSUMED_NS[node.kind]
            if initiator.kind is InitiatorKind.GPU:
                own = node.id == initiator.node
                assumed = GPU_OWN_NS if own else GPU_LINK_NS + assumed
            else:
                assumed = _by_distance(topology, said, row, node) or assumed
            ns[row, node.id] = assumed
            source[row, node.id] = Source.ASSUMED
    slowest = ns.max(axis=1, initial=ASSUMED_NS[MemoryKind.DRAM], keepdims=True)
    return Latencies(np.where(ns > 0, ns, slowest), source)


def _by_distance(
    topology: Topology, said: NDArray[np.float64], row: int, node: Node
) -> float | None:
    """Return a latency in proportion to distances, None where there is no measure."""
    at = topology.initiators[row].node
    mine = _distance(topology, at, node.id)
    if at is None or mine is None:
        return None
    for other, initiator in enumerate(topology.initiators):
        theirs = _distance(topology, initiator.node, node.id)
        if initiator.kind is InitiatorKind.CPU and said[other, node.id] and theirs:
            return float(said[other, node.id]) * mine / theirs
    if node.kind not in _PLAIN:
        return None
    return (float(said[row, at]) or ASSUMED_NS[MemoryKind.DRAM]) * mine / _LOCAL


def _distance(topology: Topology, start: int | None, node: int) -> int | None:
    return None if start is None else topology.distances.get(start, {}).get(node)
