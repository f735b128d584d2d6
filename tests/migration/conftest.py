"""A machine in a few lines that counts what it is told and fails on request."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from isotherm.core.clock import VirtualClock
from isotherm.machine.protocol import (
    NOT_PRESENT,
    MoveResult,
    Space,
    SpacesChanged,
    Usage,
)
from isotherm.topology.model import (
    Initiator,
    InitiatorKind,
    MemoryKind,
    Node,
    Source,
    Tier,
    Topology,
)


def usage_of(capacity: list[int], placement: NDArray[np.uint8]) -> Usage:
    """Return usage without watermarks."""
    zero = np.zeros(len(capacity), np.int64)
    used = np.bincount(
        placement[placement != NOT_PRESENT], minlength=len(capacity)
    ).astype(np.int64)
    return Usage(np.array(capacity, np.int64), used, zero, zero, zero, zero)


def topology_of(nodes: int) -> Topology:
    """Return a topology whose node n is alone in tier n."""
    return Topology(
        nodes=tuple(
            Node(n, MemoryKind.DRAM, Source.CONFIGURED, None) for n in range(nodes)
        ),
        tiers=tuple(Tier(n, None, (n,), Source.CONFIGURED) for n in range(nodes)),
        initiators=(Initiator(0, InitiatorKind.CPU, 0, "cpu0"),),
        performance=(),
        distances={},
    )


@dataclass
class FakeMachine:
    """Implements ``Machine``; ``faults`` gives the errno of a page that fails.

    A page is charged ``page_ns``, a batch ``fixed_ns``. ``moved`` lists the
    calls as (pages, node).
    """

    capacity: list[int]
    node: NDArray[np.uint8]
    page_ns: float = 2500.0
    fixed_ns: float = 0.0
    faults: dict[int, int] = field(default_factory=dict)
    latency: tuple[float, ...] = (80.0, 250.0, 500.0)
    moved: list[tuple[list[int], int]] = field(default_factory=list)
    clock: VirtualClock = field(default_factory=VirtualClock)

    def __post_init__(self) -> None:
        self.topology = topology_of(len(self.capacity))
        self.spaces = (Space(0, len(self.node), "test"),)
        self.pages = len(self.node)

    def refresh(self) -> SpacesChanged | None:
        """Return None: the space stays."""
        return None

    def usage(self) -> Usage:
        """Return usage by counting."""
        return usage_of(self.capacity, self.node)

    def placement(self) -> NDArray[np.uint8]:
        """Return the live column."""
        return self.node

    parallelism = 1.0

    def latency_ns(self) -> NDArray[np.float64]:
        """Return one initiator's latencies."""
        return np.array([self.latency[: len(self.capacity)]])

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Move page by page; assert that no node overflows."""
        self.moved.append((page.tolist(), int(node[0])))
        codes = np.zeros(len(page), np.int16)
        for row, (one, to) in enumerate(zip(page.tolist(), node.tolist(), strict=True)):
            if one in self.faults:
                codes[row] = self.faults[one]
                if codes[row] == errno.ENOENT:
                    self.node[one] = NOT_PRESENT
            else:
                self.node[one] = to
        used = self.usage().used_pages
        assert (used <= self.capacity).all(), f"over capacity: {used}"
        return MoveResult(codes, self.fixed_ns + self.page_ns * len(page))


@pytest.fixture
def fake_machine() -> Callable[..., FakeMachine]:
    """Return the machine's class."""
    return FakeMachine


@pytest.fixture
def make_usage() -> Callable[..., Usage]:
    """Return ``usage_of(capacity, placement)``."""
    return usage_of
