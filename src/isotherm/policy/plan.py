"""Epoch and Plan: what a policy reads and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import HintBatch, Look, Mechanism
from isotherm.hotness.protocol import HotnessView
from isotherm.machine.protocol import HugePages, Space, SpacesChanged, Usage
from isotherm.policy.sizes import SizeChanges
from isotherm.policy.tenants import Tenancy
from isotherm.topology.model import Topology


class Reason(IntEnum):
    """Why a page is to move."""

    PAYS = 0  #: its advantage exceeds the cost of the move
    MAKES_ROOM = 1  #: worth less than the page that wants its slot
    HOT = 2  #: over the policy's threshold
    COLD = 3  #: under the policy's threshold, or at the tail of its list
    WATERMARK = 4  #: free memory of the node is below its watermark
    FUTURE = 5  #: a bound knows what comes
    PROMISED = 6  #: its tenant is to have no page in the tier below


@dataclass(frozen=True, slots=True)
class Moves:
    """Moves wished for, best first within each direction, as columns.

    Attributes:
        page: Flat page, uint32[n]; no page twice.
        node: Where to, uint8[n].
        gain_ns: Gain promised over the page's stay, net of the move's own
            cost, float32[n]; NaN where the policy promises nothing.
        reason: A ``Reason``, uint8[n].
    """

    page: NDArray[np.uint32]
    node: NDArray[np.uint8]
    gain_ns: NDArray[np.float32]
    reason: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.page)

    def take(self, row: NDArray[np.integer]) -> "Moves":
        """Return some rows."""
        return Moves(
            self.page[row], self.node[row], self.gain_ns[row], self.reason[row]
        )

    @staticmethod
    def none() -> "Moves":
        """Return an empty table."""
        return Moves(
            np.empty(0, np.uint32),
            np.empty(0, np.uint8),
            np.empty(0, np.float32),
            np.empty(0, np.uint8),
        )

    @staticmethod
    def to(
        page: NDArray[np.integer], node: int, reason: Reason, gain_ns: float = np.nan
    ) -> "Moves":
        """Return moves of pages to one node for one reason."""
        n = len(page)
        return Moves(
            page.astype(np.uint32),
            np.full(n, node, np.uint8),
            np.full(n, gain_ns, np.float32),
            np.full(n, int(reason), np.uint8),
        )

    @staticmethod
    def concat(*parts: "Moves") -> "Moves":
        """Return the parts one after the other."""
        return Moves(
            np.concatenate([p.page for p in parts]),
            np.concatenate([p.node for p in parts]),
            np.concatenate([p.gain_ns for p in parts]),
            np.concatenate([p.reason for p in parts]),
        )


@dataclass(frozen=True, slots=True)
class Birth:
    """Where new memory should be born.

    Attributes:
        node: Preferred node of a new page.
        headroom_pages: Free pages to keep there.
    """

    node: int
    headroom_pages: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of moves, as columns of one table.

    Attributes:
        page: Flat page, uint32[n].
        node: Where it was to go, uint8[n].
        errno: 0 if it went, int16[n].
        cost_ns: Time of all moves together.
        src: Where it was, uint8[n]; None: not known.
        time_ns: When its batch was done, the machine's time, int64[n]; moves that
            run beside the loop end at any time of an epoch. None: not known.
    """

    page: NDArray[np.uint32]
    node: NDArray[np.uint8]
    errno: NDArray[np.int16]
    cost_ns: float
    src: NDArray[np.uint8] | None = None
    time_ns: NDArray[np.int64] | None = None

    @staticmethod
    def none() -> "Outcome":
        """Return an outcome without moves."""
        return Outcome(
            np.empty(0, np.uint32),
            np.empty(0, np.uint8),
            np.empty(0, np.int16),
            0.0,
            np.empty(0, np.uint8),
            np.empty(0, np.int64),
        )

    def take(self, row: NDArray[np.integer] | NDArray[np.bool_]) -> "Outcome":
        """Return some rows; the cost stays that of all."""
        return Outcome(
            self.page[row],
            self.node[row],
            self.errno[row],
            self.cost_ns,
            None if self.src is None else self.src[row],
            None if self.time_ns is None else self.time_ns[row],
        )

    def without(self, change: SpacesChanged) -> "Outcome":
        """Return the outcome without renewed pages; the cost stays."""
        keep = ~change.holds(self.page)
        if keep.all():
            return self
        return self.take(keep)

    def then(self, later: "Outcome") -> "Outcome":
        """Return this outcome followed by a later one."""
        if len(later.page) == 0 and later.cost_ns == 0:
            return self
        if len(self.page) == 0 and self.cost_ns == 0:
            return later
        return Outcome(
            np.concatenate([self.page, later.page]),
            np.concatenate([self.node, later.node]),
            np.concatenate([self.errno, later.errno]),
            self.cost_ns + later.cost_ns,
            None
            if self.src is None or later.src is None
            else np.concatenate([self.src, later.src]),
            None
            if self.time_ns is None or later.time_ns is None
            else np.concatenate([self.time_ns, later.time_ns]),
        )


@dataclass(frozen=True, slots=True)
class Epoch:
    """All that a policy may know when it decides.

    Attributes:
        index: Epochs since the start.
        now_ns: The machine's time, at the end of the epoch.
        dt_ns: Length of the epoch.
        topology: Nodes and tiers.
        usage: Capacity, use, watermarks per node; of the capacity what plans may
            count on.
        node: Placement, uint8[pages] (a view).
        latency_ns: Loaded latency, float64[initiators, nodes].
        move_cost_ns: Expected cost of moving one page in a batch,
            float64[nodes, nodes], [from, to]; measured where it was.
        hotness: The tracker's view; None for a policy that does not use it.
        hints: The raw batches, for policies that are defined on them.
        access_rate: Accesses per page per second by counting PMU; None if none.
        parallelism: Accesses in flight that share a latency.
        outcome: The moves that ended since the last decision.
        move_limit_pages: At most so many moves will be carried out.
        spaces: Who owns which flat pages, ascending by base.
        tenant: Whose every flat page is, numbered as in ``Setup.tenancy``,
            uint8[pages]; None: there are no tenants.
        huge: Which memory is huge, and what that saves and costs, as measured; None:
            huge pages are nobody's business here.
        resized: Changes of page size that the last plan asked for and that were
            made.
    """

    index: int
    now_ns: int
    dt_ns: int
    topology: Topology
    usage: Usage
    node: NDArray[np.uint8]
    latency_ns: NDArray[np.float64]
    move_cost_ns: NDArray[np.float64]
    hotness: HotnessView | None = None
    hints: tuple[HintBatch, ...] = ()
    access_rate: float | None = None
    parallelism: float = 1.0
    outcome: Outcome = field(default_factory=Outcome.none)
    move_limit_pages: int = 1 << 31
    spaces: tuple[Space, ...] = ()
    tenant: NDArray[np.uint8] | None = None
    huge: HugePages | None = None
    resized: SizeChanges = field(default_factory=SizeChanges.none)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy wants done.

    Attributes:
        moves: Pages to move.
        look: Where and how to look in the next epoch.
        birth: Where new memory should be born; None: leave as it is.
        notes: Figures behind the decision, for ``explain``: price, threshold.
        sizes: Ranges to collapse or to split, before the moves.
    """

    moves: Moves = field(default_factory=Moves.none)
    look: tuple[Look, ...] = ()
    birth: Birth | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    sizes: SizeChanges = field(default_factory=SizeChanges.none)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a policy is told once, before the first epoch.

    Attributes:
        pages: Length of the flat page index.
        topology: Nodes and tiers.
        capacity_pages: Per node, int64.
        epoch_ns: Length of an epoch.
        seed: For every random choice.
        hints: Mechanisms that are on; a policy must work with any subset.
        sampling_period: Accesses per sample, where sampling is on.
        parallelism: Accesses in flight that share a latency.
        options: The policy's own parameters, by name.
        spaces: Who owns which flat pages at the start, ascending by base.
        tenancy: Who shares the fast tier, and on which terms; None: nobody.
    """

    pages: int
    topology: Topology
    capacity_pages: NDArray[np.int64]
    epoch_ns: int
    seed: int
    hints: frozenset[Mechanism]
    sampling_period: int = 2000
    parallelism: float = 1.0
    options: Mapping[str, float] = field(default_factory=dict)
    spaces: tuple[Space, ...] = ()
    tenancy: Tenancy | None = None


class Policy(Protocol):
    """Decides. Holds its own state, reads no clock, touches nothing.

    A policy with an attribute ``demand_fill`` ("lru") has the machine run the
    fastest tier as a demand-filled cache; a machine that cannot refuses it.
    """

    @property
    def name(self) -> str:
        """Name for ``--policy``."""
        ...

    @property
    def wants(self) -> frozenset[Mechanism]:
        """Mechanisms that it can use."""
        ...

    @property
    def uses_tracker(self) -> bool:
        """Whether ``Epoch.hotness`` must be there."""
        ...

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the placement to start from, given the machine's.

        Only bounds and policies of birth (``registry.AT_BIRTH``) answer with another
        one: it costs nothing.
        """
        ...

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that have a new owner or none; make room for new ones.

        Called before ``decide`` where spaces have changed.

        Raises:
            UnsupportedError: The policy is for a footprint that stays as it is.
        """
        ...

    def decide(self, epoch: Epoch) -> Plan:
        """Return what to do. Same state and epoch, same plan."""
        ...
