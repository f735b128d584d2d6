"""Small machines and hand-built epochs for policies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from isotherm.hints.batch import (
    AccessedBits,
    FaultDelays,
    HintBatch,
    Mechanism,
    RegionCounts,
    Samples,
)
from isotherm.machine.protocol import Usage
from isotherm.policy.plan import Epoch, Moves, Outcome, Plan, Policy, Setup
from isotherm.topology.model import (
    Initiator,
    InitiatorKind,
    MemoryKind,
    Node,
    Source,
    Tier,
    Topology,
)

EPOCH_NS = 500_000_000
LATENCY_NS = (80.0, 250.0, 400.0)


def topology(tiers: tuple[tuple[int, ...], ...]) -> Topology:
    """Return a machine with these nodes in these tiers and one CPU initiator."""
    nodes = sorted(n for tier in tiers for n in tier)
    return Topology(
        tuple(Node(n, MemoryKind.DRAM, Source.CONFIGURED, None) for n in nodes),
        tuple(
            Tier(rank, None, tier, Source.CONFIGURED) for rank, tier in enumerate(tiers)
        ),
        (Initiator(0, InitiatorKind.CPU, 0, "cpu0"),),
        (),
        {},
    )


def samples(pages: list[int], write: list[int] | None = None) -> HintBatch:
    """Return samples of pages, in order."""
    stores = None if write is None else np.array(write, np.uint8)
    seen = Samples(np.array(pages, np.uint32), stores, None, 2000.0)
    return HintBatch("sampling", 0, EPOCH_NS, seen)


def faults(delay_s: Mapping[int, float]) -> HintBatch:
    """Return hint faults, ``{page: seconds from poisoning to the touch}``."""
    n = len(delay_s)
    seen = FaultDelays(
        np.array(list(delay_s), np.uint32),
        np.array(list(delay_s.values()), np.float32),
        np.zeros(n, np.uint8),
        np.full(n, 255, np.uint8),
        np.empty(0, np.uint32),
        np.empty(0, np.float32),
    )
    return HintBatch("hint-fault", 0, EPOCH_NS, seen)


def touched(pages: list[int]) -> HintBatch:
    """Return accessed bits: these pages were touched."""
    block = sorted({p // 8 for p in pages})
    bits = [sum(1 << (p % 8) for p in set(pages) if p // 8 == b) for b in block]
    seen = AccessedBits(
        np.array(block, np.uint32),
        np.array(bits, np.uint8),
        np.full(len(block), 0.5, np.float32),
    )
    return HintBatch("accessed-bit", 0, EPOCH_NS, seen)


def regions(rows: list[tuple[int, int, int, int]]) -> HintBatch:
    """Return DAMON's regions: (start, end, nr_accesses of 20, age in 0.1 s)."""
    columns = [np.array(column, np.uint32) for column in zip(*rows, strict=True)]
    seen = RegionCounts(*columns, checks=20, interval_s=0.005)
    return HintBatch("region", 0, EPOCH_NS, seen)


@dataclass
class Bench:
    """A machine on the table: hands a policy its epochs and carries out its plans."""

    node: np.ndarray
    capacity: list[int]
    tiers: tuple[tuple[int, ...], ...] = ((0,), (1,))
    high: int = 0
    low: int = 0
    promo: int = 0
    limit: int = 1 << 31
    hints: frozenset[Mechanism] = frozenset(Mechanism)
    latency_ns: tuple[float, ...] = LATENCY_NS
    index: int = 0
    outcome: Outcome = field(default_factory=Outcome.none)

    def setup(self, **options: float) -> Setup:
        """Return what the policy is told once."""
        return Setup(
            len(self.node),
            topology(self.tiers),
            np.array(self.capacity, np.int64),
            EPOCH_NS,
            1,
            self.hints,
            options=options,
        )

    def usage(self) -> Usage:
        """Return capacity, use and watermarks of now."""
        capacity = np.array(self.capacity, np.int64)
        used = np.bincount(self.node, minlength=len(capacity)).astype(np.int64)

        def each(pages: int) -> np.ndarray:
            return np.full(len(capacity), pages, np.int64)

        return Usage(
            capacity,
            used,
            each(0),
            each(self.low),
            each(self.high),
            each(self.promo),
        )

    def epoch(self, *hints: HintBatch) -> Epoch:
        """Return the epoch that ends now."""
        nodes = len(self.capacity)
        return Epoch(
            self.index,
            (self.index + 1) * EPOCH_NS,
            EPOCH_NS,
            topology(self.tiers),
            self.usage(),
            self.node.copy(),
            np.array([self.latency_ns[:nodes]]),
            np.full((nodes, nodes), 2500.0),
            hints=hints,
            outcome=self.outcome,
            move_limit_pages=self.limit,
        )

    def step(self, policy: Policy, *hints: HintBatch, apply: bool = True) -> Plan:
        """Let the policy decide, carry the plan out, and pass on to the next epoch."""
        plan = policy.decide(self.epoch(*hints))
        moves = plan.moves if apply else Moves.none()
        self.node[moves.page] = moves.node
        self.outcome = Outcome(
            moves.page, moves.node, np.zeros(len(moves), np.int16), 0.0
        )
        self.index += 1
        return plan


def moves_of(plan: Plan) -> list[tuple[int, int]]:
    """Return the moves of a plan as (page, node), in order."""
    return list(zip(plan.moves.page.tolist(), plan.moves.node.tolist(), strict=True))


@pytest.fixture
def bench() -> Callable[..., Bench]:
    """Return a maker of benches: ``bench([0, 0, 1, 1], [2, 4])``."""

    def make(node: list[int], capacity: list[int], **rest: Any) -> Bench:
        return Bench(np.array(node, np.uint8), capacity, **rest)

    return make


@pytest.fixture
def hint() -> Any:
    """Return the makers of hints and the reader of plans."""

    class Makers:
        samples = staticmethod(samples)
        faults = staticmethod(faults)
        touched = staticmethod(touched)
        regions = staticmethod(regions)
        moves = staticmethod(moves_of)

    return Makers
