"""Every node has a latency, and it is known who said it."""

import dataclasses

import numpy as np

from isotherm.machine.linux.latency import (
    ASSUMED_NS,
    GPU_LINK_NS,
    GPU_OWN_NS,
    derive_latencies,
)
from isotherm.topology.model import (
    AccessPerformance,
    Figure,
    Initiator,
    InitiatorKind,
    MemoryKind,
    Node,
    Source,
    Topology,
)


def node(number: int, kind: MemoryKind) -> Node:
    """Return a node."""
    return Node(number, kind, Source.ASSUMED, 1 << 30)


def figure(initiator: int, at: int, value: float) -> AccessPerformance:
    """Return a read latency by firmware."""
    return AccessPerformance(initiator, at, Figure(value, Source.FIRMWARE))


TWO_SOCKETS = Topology(
    nodes=(
        node(0, MemoryKind.DRAM), node(1, MemoryKind.DRAM),
        node(2, MemoryKind.CXL), node(3, MemoryKind.UNKNOWN),
    ),
    tiers=(),
    initiators=(
        Initiator(0, InitiatorKind.CPU, 0, "cpu0"),
        Initiator(1, InitiatorKind.CPU, 1, "cpu1"),
        Initiator(2, InitiatorKind.GPU, None, "gpu0"),
    ),
    performance=(figure(0, 0, 80.0), figure(1, 1, 90.0), figure(0, 2, 300.0)),
    distances={0: {0: 10, 1: 21, 2: 20, 3: 40}, 1: {0: 21, 1: 10, 2: 30, 3: 60}},
)  # fmt: skip


def test_firmware_distance_kind_in_that_order() -> None:
    """What is said is taken, what can be told by distance is, the rest is assumed."""
    found = derive_latencies(TWO_SOCKETS, 4)
    gpu = [GPU_LINK_NS + ASSUMED_NS[n.kind] for n in TWO_SOCKETS.nodes]
    expected = [
        [80.0, 90.0 * 21 / 10, 300.0, 80.0 * 4],
        [80.0 * 21 / 10, 90.0, 300.0 * 30 / 20, 90.0 * 6],
        gpu,
    ]
    assert expected == found.ns.tolist()
    assert Source.FIRMWARE is found.source[0, 2]
    assert Source.ASSUMED is found.source[1, 2]


def test_a_gpu_is_near_to_its_own_memory() -> None:
    """And far from all else, whatever the CPUs see."""
    nodes = (*TWO_SOCKETS.nodes, node(4, MemoryKind.GPU))
    gpu = Initiator(2, InitiatorKind.GPU, 4, "gpu0")
    initiators = (*TWO_SOCKETS.initiators[:2], gpu)
    machine = dataclasses.replace(TWO_SOCKETS, nodes=nodes, initiators=initiators)
    found = derive_latencies(machine, 5).ns
    assert 4 == found[2].argmin()
    assert GPU_OWN_NS == found[2, 4]
    assert found[2, 4] < found[0, 4]


def test_a_machine_that_says_nothing_has_latencies() -> None:
    """By kind; columns that are no node have the slowest node's."""
    silent = dataclasses.replace(TWO_SOCKETS, performance=(), distances={})
    found = derive_latencies(silent, 6)
    kinds = [ASSUMED_NS[n.kind] for n in silent.nodes]
    assert [*kinds, 250.0, 250.0] == found.ns[0].tolist()
    assert np.isfinite(found.ns).all()
    assert (found.ns > 0).all()


def test_compressed_memory_is_the_slowest() -> None:
    """Whatever distances say."""
    nodes = (*TWO_SOCKETS.nodes, node(4, MemoryKind.COMPRESSED))
    found = derive_latencies(dataclasses.replace(TWO_SOCKETS, nodes=nodes), 5)
    assert [4, 4, 4] == found.ns.argmax(axis=1).tolist()
