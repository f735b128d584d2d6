"""Who runs where, and whose memory bits are of, on a host that is made up."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from isotherm.core.clock import VirtualClock
from isotherm.daemon import cpu_live
from isotherm.daemon.cpu_live import UNKNOWN, OwnersNamed, Sockets
from isotherm.hints.batch import AccessedBits, HintBatch, Look, Mechanism
from isotherm.hints.capability import PLAIN
from isotherm.machine.linux.affinity import Running
from isotherm.machine.linux.spaces import SpaceMap
from isotherm.topology.model import (
    Initiator,
    InitiatorKind,
    MemoryKind,
    Node,
    Source,
    Tier,
    Topology,
)

TWO = Topology(
    (
        Node(0, MemoryKind.DRAM, Source.FIRMWARE, None, (0, 1)),
        Node(1, MemoryKind.DRAM, Source.FIRMWARE, None, (2, 3)),
        Node(2, MemoryKind.CXL, Source.FIRMWARE, None),
    ),
    (Tier(4, None, (0, 1), Source.FIRMWARE), Tier(22, None, (2,), Source.FIRMWARE)),
    (
        Initiator(0, InitiatorKind.CPU, 0, "cpu0"),
        Initiator(1, InitiatorKind.CPU, 1, "cpu1"),
    ),
    (),
    {},
)


@dataclass
class Target:
    """A followed process."""

    pid: int

    @property
    def process(self) -> "Target":
        """Itself."""
        return self


@dataclass
class Host:
    """What is asked of a machine."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    topology: Topology = TWO
    targets: dict[int, Target] = field(default_factory=dict)
    space_map: SpaceMap = field(default_factory=SpaceMap)

    @property
    def follower(self) -> "Host":
        """Itself."""
        return self


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a host of two processes, whose threads tests place."""
    made = Host(targets={7: Target(7), 9: Target(9)})
    made.space_map.update(7, np.array([[512, 544]]))
    made.space_map.update(9, np.array([[1024, 1056]]))
    ran = {7: [(7, 0, 0), (8, 1, 0)], 9: [(9, 2, 0), (10, 0, 0)]}

    def read(target: Target) -> Running:
        return Running(*np.array(ran[target.pid], np.int64).T)

    monkeypatch.setattr(cpu_live, "read_running", read)
    made.ran = ran  # type: ignore[attr-defined]
    return made


def test_a_process_runs_where_its_time_goes(host: Any) -> None:
    """CPU seconds a second by socket; in several places it is nowhere in particular."""
    sockets = Sockets(host)
    assert sockets.several
    assert sockets.matter
    assert frozenset({2, 3}) == sockets.cpus(1)
    sockets.refresh()
    assert 0 == sockets.initiator_of(7)
    host.ran[7] = [(7, 0, 10_000), (8, 3, 10_000)]
    host.ran[9] = [(9, 2, 15_000), (10, 0, 200)]
    host.clock.advance(10**9)
    sockets.refresh()
    assert 0 == sockets.initiator_of(7)  # not read again so soon
    host.clock.advance(10**11)
    sockets.refresh()
    assert UNKNOWN == sockets.initiator_of(7)
    assert 1 == sockets.initiator_of(9)
    assert sockets.of_process[9][1] > 0.5
    assert 9 == sockets.owner[10]
    assert UNKNOWN == sockets.initiator_of(4242)


def test_one_node_with_cpus_is_no_choice(host: Any) -> None:
    """Neither are two sockets whose memory is in different tiers."""
    host.topology = Topology(
        TWO.nodes[:1],
        (Tier(4, None, (0,), Source.FIRMWARE),),
        TWO.initiators[:1],
        (),
        {},
    )
    sockets = Sockets(host)
    assert not sockets.several
    assert not sockets.matter


class Bits:
    """A source that saw some bits."""

    mechanism = Mechanism.ACCESSED_BIT
    capability = PLAIN

    def __init__(self, *batches: HintBatch) -> None:
        self.batches = batches
        self.looked: tuple[Look, ...] = ()

    def look(self, looks: tuple[Look, ...]) -> None:
        """Keep what was asked."""
        self.looked = looks

    def drain(self) -> tuple[HintBatch, ...]:
        """Return the batches."""
        return self.batches


def test_bits_are_said_to_be_of_who_owns_the_memory(host: Any) -> None:
    """By block, from a page of it that was accessed; other batches pass as they are."""
    bits = AccessedBits(
        np.array([0, 64, 70], np.uint32),
        np.array([0b100, 0b1, 0b1], np.uint8),
        np.ones(3, np.float32),
    )
    assert 512 == host.space_map.flat_pages(9, np.array([1024], np.uint64))[0]
    inner = Bits(HintBatch("page-table", 0, 1, bits))
    host.ran[9] = [(9, 2, 0), (10, 3, 0)]
    source = OwnersNamed(inner, host, Sockets(host), 1)
    (batch,) = source.drain()
    assert isinstance(batch.seen, AccessedBits)
    assert batch.seen.initiator is not None
    assert [0, 1, UNKNOWN] == batch.seen.initiator.tolist()
    assert batch.capability.knows_initiator
    assert source.capability.knows_initiator
    assert Mechanism.ACCESSED_BIT is source.mechanism
    look = Look(Mechanism.ACCESSED_BIT, 0, 8)
    source.look((look,))
    assert (look,) == inner.looked


def test_idle_cpus_are_those_of_the_time_between() -> None:
    """Idle and waiting ticks over all, CPU by CPU."""
    before, now = {0: (100, 200), 1: (0, 100)}, {0: (150, 300), 1: (0, 200), 2: (1, 2)}
    assert {0: 0.5, 1: 0.0} == cpu_live._idle_share(before, now)
    assert 0 in cpu_live._idle_cpus()
