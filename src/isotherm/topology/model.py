"""Nodes, tiers, initiators and performance: facts, each with who said so."""

from dataclasses import dataclass
from enum import StrEnum


class Source(StrEnum):
    """Who said a figure, strongest last: what a person configured wins."""

    ASSUMED = "assumed"
    FIRMWARE = "firmware"
    MEASURED = "measured"
    CONFIGURED = "configured"


class MemoryKind(StrEnum):
    """What a node is made of."""

    DRAM = "dram"
    HBM = "hbm"
    CXL = "cxl"
    PMEM = "pmem"
    GPU = "gpu"
    COMPRESSED = "compressed"
    REMOTE = "remote"
    UNKNOWN = "unknown"


class InitiatorKind(StrEnum):
    """What issues accesses."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number and who said it."""

    value: float
    source: Source


@dataclass(frozen=True, slots=True)
class Node:
    """A memory target.

    Attributes:
        id: The kernel's node number.
        kind: What it is made of.
        kind_source: Who said so.
        capacity_bytes: Managed bytes; None where unknown.
        cpus: Logical CPUs on this node; empty on a memory-only node.
        side_cache_bytes: Memory-side cache in front of the node, 0 for none.
        label: A name for people, such as ``dax0.0``.
        kind_evidence: What the kind rests on, for people.
        capacity_source: Who said the capacity.
    """

    id: int
    kind: MemoryKind
    kind_source: Source
    capacity_bytes: int | None
    cpus: tuple[int, ...] = ()
    side_cache_bytes: int = 0
    label: str = ""
    kind_evidence: str = ""
    capacity_source: Source = Source.FIRMWARE

    @property
    def has_memory(self) -> bool:
        """Return whether the node has memory, or may have: unknown is not none."""
        return self.capacity_bytes != 0


@dataclass(frozen=True, slots=True)
class Initiator:
    """A CPU node or an accelerator: something that accesses memory.

    Attributes:
        id: Index used in traces and hints, dense from 0.
        kind: CPU or GPU.
        node: The node whose CPUs (or whose accelerator) it is, None if no node.
        name: A name for people, such as ``cpu0`` or ``gpu0``.
        parallelism: Misses that it keeps in flight; None where nobody says.
    """

    id: int
    kind: InitiatorKind
    node: int | None
    name: str
    parallelism: float | None = None


@dataclass(frozen=True, slots=True)
class AccessPerformance:
    """What one initiator sees of one node, unloaded; None where nobody says.

    Latencies in nanoseconds, bandwidths in MiB/s (the kernel's unit).
    """

    initiator: int
    node: int
    read_latency_ns: Figure | None = None
    write_latency_ns: Figure | None = None
    read_bandwidth_mib_s: Figure | None = None
    write_bandwidth_mib_s: Figure | None = None


@dataclass(frozen=True, slots=True)
class Tier:
    """Nodes of like abstract distance.

    Attributes:
        id: The kernel's ``memory_tierN`` number: adistance // 128.
        adistance: Abstract distance of the tier's nearest node; None if unknown.
        nodes: Node ids, ascending.
        source: Who grouped them; the kernel's own tiers count as firmware.
        evidence: What the grouping rests on, for people.
    """

    id: int
    adistance: int | None
    nodes: tuple[int, ...]
    source: Source
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class MemoryDevice:
    """A DAX device: memory that may become a node, or already is one.

    Attributes:
        name: The kernel's name, such as ``dax0.0``.
        kind: What it is made of, as far as its bus says.
        node: The node its memory is, or would be, on; None if unknown.
        size_bytes: None where unknown.
        driver: ``kmem`` where it serves as a node, ``device_dax`` where a program
            maps it, empty where unbound or unknown.
    """

    name: str
    kind: MemoryKind
    node: int | None
    size_bytes: int | None
    driver: str


@dataclass(frozen=True, slots=True)
class Topology:
    """A machine's memory as tiers, fastest first.

    Attributes:
        nodes: Ascending by id.
        tiers: Fastest first; every node with memory is in exactly one.
        initiators: Ascending by id.
        performance: At most one row per (initiator, node).
        distances: SLIT rows by node id, ``{from: {to: distance}}``; may be empty.
        notes: What was odd about the tree that was read, for people.
        devices: DAX devices, by name.
    """

    nodes: tuple[Node, ...]
    tiers: tuple[Tier, ...]
    initiators: tuple[Initiator, ...]
    performance: tuple[AccessPerformance, ...]
    distances: dict[int, dict[int, int]]
    notes: tuple[str, ...] = ()
    devices: tuple[MemoryDevice, ...] = ()

    def tier_of(self, node: int) -> int:
        """Return the rank of a node's tier, 0 for the fastest.

        Raises:
            KeyError: The node has no tier.
        """
        for rank, tier in enumerate(self.tiers):
            if node in tier.nodes:
                return rank
        raise KeyError(node)

    def performance_of(self, initiator: int, node: int) -> AccessPerformance | None:
        """Return what an initiator sees of a node, None where nobody says."""
        for row in self.performance:
            if row.initiator == initiator and row.node == node:
                return row
        return None


def unnamed(topology: Topology) -> tuple[int, ...]:
    """Return the initiators that stand for accesses whose initiator nobody names.

    Most sources cannot name one. Then accesses are taken to be those of initiators
    of the first one's kind: of the CPUs on a host, of the GPU on a machine that is
    one.
    """
    if not topology.initiators:
        return ()
    kind = topology.initiators[0].kind
    return tuple(i.id for i in topology.initiators if i.kind is kind)
