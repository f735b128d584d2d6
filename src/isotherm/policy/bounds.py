"""Bounds: what a policy could at best, and at worst, have done.

A bound knows the future, as accesses per page and epoch, and gets it through its
constructor, never through the ``Epoch``. ``all-fast`` and ``all-slow`` need not
even that. None of them is charged for looking; only ``clairvoyant`` moves pages,
and it pays for them like everybody.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.core.kernels import kernel
from isotherm.hints.batch import Mechanism
from isotherm.machine.protocol import NOT_PRESENT, SpacesChanged
from isotherm.policy.options import read_options
from isotherm.policy.paths import TierPaths
from isotherm.policy.plan import Epoch, Plan, Setup
from isotherm.policy.spaces import refuse_renewal
from isotherm.policy.static_split import RunCost, best_split

Counts = NDArray[np.uint16 | np.uint32]


class Future(Protocol):
    """What is going to be accessed."""

    @property
    def counts(self) -> Counts:
        """Accesses per epoch and page, [epochs, pages]."""
        ...


@dataclass(frozen=True, slots=True)
class KnownFuture:
    """A future that was counted beforehand.

    Attributes:
        counts: Accesses per epoch and page; or stall, in units.
        unit: Stall of one count over the latency of a read; None: counts are
            accesses.
        cost_ns: Unloaded stall of all accesses of a page were it on a node,
            float64[pages, nodes]; None where every access saves alike.
        run: What a fixed placement would cost; None where no node queues.
        pinned: Pages that cannot move, bool[pages]; None: there are none.
    """

    counts: Counts
    unit: float | None = None
    cost_ns: NDArray[np.float64] | None = None
    run: RunCost | None = None
    pinned: NDArray[np.bool_] | None = None


def count_epoch_twin(page: NDArray[np.uint32], out: Counts, limit: int) -> None:
    """Twin of `count_epoch`."""
    total = out.astype(np.int64) + np.bincount(page, minlength=len(out))
    out[:] = np.minimum(total, limit)


@kernel(twin=count_epoch_twin)
def count_epoch(page: NDArray[np.uint32], out: Counts, limit: int) -> None:
    """Count accesses per page; a count stops at ``limit``.

    Args:
        page: Flat pages accessed, uint32[n].
        out: uint16[pages] or uint32[pages], added to.
        limit: Largest count, at most what ``out`` holds.
    """
    for i in range(page.size):
        p = page[i]
        if out[p] < limit:
            out[p] += 1


def count_future(
    epochs: Iterable[NDArray[np.uint32]],
    pages: int,
) -> KnownFuture:
    """Return the future of a stream of accesses.

    Counts are uint16 while no page has more than 65,535 an epoch, else uint32.

    Args:
        epochs: Flat pages accessed, one array per epoch.
        pages: Length of the flat page index.
    """
    limit, narrow = int(np.iinfo(np.uint32).max), int(np.iinfo(np.uint16).max)
    rows: list[Counts] = []
    for page in epochs:
        row = np.zeros(pages, np.uint32)
        count_epoch(page, row, limit)
        rows.append(row.astype(np.uint16) if row.max(initial=0) <= narrow else row)
    none: Counts = np.zeros((0, pages), np.uint16)
    return KnownFuture(np.stack(rows) if rows else none)


#: Units of the access that stalls most, in a count of stall.
STALL_UNITS = 1024


def count_stall_twin(
    page: NDArray[np.uint32],
    stream: NDArray[np.integer],
    units: NDArray[np.int64],
    out: NDArray[np.uint32],
    limit: int,
) -> None:
    """Twin of `count_stall`."""
    total = out.astype(np.int64)
    np.add.at(total, page, units[stream])
    out[:] = np.minimum(total, limit)


@kernel(twin=count_stall_twin)
def count_stall(
    page: NDArray[np.uint32],
    stream: NDArray[np.integer],
    units: NDArray[np.int64],
    out: NDArray[np.uint32],
    limit: int,
) -> None:
    """Count stall per page; a count stops at ``limit``.

    Args:
        page: Flat pages accessed, uint32[n].
        stream: Stream of each access, uint8[n] or uint16[n].
        units: Stall of an access of each stream, int64[streams], >= 0.
        out: uint32[pages], added to.
        limit: Largest count.
    """
    for i in range(page.size):
        p = page[i]
        out[p] = min(np.int64(out[p]) + units[stream[i]], np.int64(limit))


def count_stall_future(
    epochs: Iterable[tuple[NDArray[np.uint32], NDArray[np.integer]]],
    pages: int,
    weight: NDArray[np.float64],
) -> KnownFuture:
    """Return the future of a stream of accesses that do not all stall alike.

    Args:
        epochs: Flat pages accessed and the stream of each, per epoch.
        pages: Length of the flat page index.
        weight: Stall of an access of each stream over the latency of a read,
            float64[streams], the largest > 0.
    """
    unit = float(weight.max()) / STALL_UNITS
    units = np.rint(weight / unit).astype(np.int64)
    limit = int(np.iinfo(np.uint32).max)
    rows = []
    for page, stream in epochs:
        row = np.zeros(pages, np.uint32)
        count_stall(page, stream, units, row, limit)
        rows.append(row)
    none = np.zeros((0, pages), np.uint32)
    return KnownFuture(np.stack(rows) if rows else none, unit)


class AllFast:
    """Everything in the fastest tier, whether it fits or not.

    Args:
        setup: Pages and topology.
        future: All accesses; without one nobody knows which node is nearest.
    """

    name = "all-fast"
    wants: frozenset[Mechanism] = frozenset()
    uses_tracker = False

    def __init__(self, setup: Setup, future: Future | None = None) -> None:
        read_options(self.name, setup, {})
        self._nodes = np.array(TierPaths(setup.topology).fast_nodes, np.uint8)
        self._cost_ns = node_costs(future)

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return each page's nearest node of the fastest tier.

        That is the one where its own accesses stall least; pages take the nodes
        in turn where nobody knows.
        """
        if self._cost_ns is None:
            return np.resize(self._nodes, len(node))
        nearest: NDArray[np.uint8]
        nearest = self._nodes[self._cost_ns[:, self._nodes].argmin(1)]
        return nearest

    def renew(self, change: SpacesChanged) -> None:
        """Refuse: its state is for one footprint."""
        refuse_renewal(self.name)

    def decide(self, epoch: Epoch) -> Plan:
        """Return an empty plan."""
        return Plan()


class AllSlow:
    """Everything in the slowest tier, whether it fits or not."""

    name = "all-slow"
    wants: frozenset[Mechanism] = frozenset()
    uses_tracker = False

    def __init__(self, setup: Setup) -> None:
        read_options(self.name, setup, {})
        nodes = TierPaths(setup.topology).tiers[-1]
        self._node = int(nodes[np.argmax(setup.capacity_pages[nodes])])

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the slowest tier's largest node for every page."""
        return np.full_like(node, self._node)

    def renew(self, change: SpacesChanged) -> None:
        """Refuse: its state is for one footprint."""
        refuse_renewal(self.name)

    def decide(self, epoch: Epoch) -> Plan:
        """Return an empty plan."""
        return Plan()


class StaticOracle:
    """The best placement that never changes: pages that save most, fastest tier.

    What a page saves is its accesses. Where they do not save alike (a write waits
    longer than a read, an initiator is farther away) it is the unloaded stall of
    all its accesses in the slowest tier less that in the fastest. Where nodes queue
    (`KnownFuture.run`) accesses are shared out among them (`static_split`).
    """

    name = "static-oracle"
    wants: frozenset[Mechanism] = frozenset()
    uses_tracker = False

    def __init__(self, setup: Setup, future: Future) -> None:
        read_options(self.name, setup, {})
        check_future(self.name, setup, future)
        self._paths = TierPaths(setup.topology)
        self._capacity = setup.capacity_pages
        self._total = future.counts.sum(0, dtype=np.int64)
        self._cost_ns = node_costs(future)
        self._run: RunCost | None = getattr(future, "run", None)
        self._pinned = pinned_pages(future)

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the pages by falling saving, tiers filled fastest first.

        Pages that no tier has room for stay in the slowest; ties go by page. Where
        nodes queue, the best sharing that is found from there or from the machine's
        own placement, which is a fixed one as well. Pinned pages stay.
        """
        loose = np.ones(len(node), np.bool_)
        room = self._capacity.astype(np.int64).copy()
        if self._pinned is not None:  # these are where they are
            loose = ~self._pinned
            stuck = node[self._pinned & (node != NOT_PRESENT)]
            room -= np.bincount(stuck, minlength=len(room))[: len(room)]
        placed = self._unloaded(node, np.flatnonzero(loose), room.copy())
        if self._run is None:
            return placed
        starts = [placed] if (node == NOT_PRESENT).any() else [placed, node]
        return best_split(
            starts,
            self._total.astype(np.float64),
            room,
            self._run,
            self._cost_ns,
            loose,
        )

    def _unloaded(
        self,
        node: NDArray[np.uint8],
        loose: NDArray[np.int64],
        room: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        """Return the best placement where nothing queues.

        Args:
            node: Where pages are.
            loose: Those that can be placed.
            room: Pages that each node holds of them; used up.
        """
        placed = node.copy()
        placed[loose] = self._paths.tiers[-1][-1]
        if self._cost_ns is not None:
            self._place_nearest(placed, loose, room, self._cost_ns)
            return placed
        order = loose[np.argsort(-self._total[loose], kind="stable")]
        to = self._paths.below(-1, len(order), room)
        placed[order[: len(to)]] = to
        return placed

    def _place_nearest(
        self,
        placed: NDArray[np.uint8],
        loose: NDArray[np.int64],
        room: NDArray[np.int64],
        cost_ns: NDArray[np.float64],
    ) -> None:
        """Fill tiers fastest first, each page on its nearest node that has room."""
        tiers = self._paths.tiers
        saved = cost_ns[:, tiers[-1]].min(1) - cost_ns[:, tiers[0]].min(1)
        left = loose[np.argsort(-saved[loose], kind="stable")]
        for nodes in tiers:
            taken = int(np.maximum(room[nodes], 0).sum())
            if nodes is not tiers[-1]:  # what would lose here stays below
                here_ns = cost_ns[left][:, nodes].min(1)
                loses = here_ns > cost_ns[left][:, tiers[-1]].min(1)
                taken = min(taken, int(np.count_nonzero(~loses)))
                left = left[np.argsort(loses, kind="stable")]
            here, left = left[:taken], left[taken:]
            ranked = cost_ns[np.ix_(here, nodes)].argsort(1, kind="stable")
            for turn in range(len(nodes)):  # whom the nearest refuses asks the next
                kept = np.zeros(len(here), np.bool_)
                for at, node in enumerate(nodes):
                    fits = np.flatnonzero(ranked[:, turn] == at)
                    fits = fits[: max(0, int(room[node]))]
                    placed[here[fits]] = node
                    room[node] -= len(fits)
                    kept[fits] = True
                here, ranked = here[~kept], ranked[~kept]

    def renew(self, change: SpacesChanged) -> None:
        """Refuse: its state is for one footprint."""
        refuse_renewal(self.name)

    def decide(self, epoch: Epoch) -> Plan:
        """Return an empty plan."""
        return Plan()


def pinned_pages(future: Future | None) -> NDArray[np.bool_] | None:
    """Return the pages that cannot move, if a future says so of any."""
    pinned: NDArray[np.bool_] | None = getattr(future, "pinned", None)
    return pinned


def node_costs(future: Future | None) -> NDArray[np.float64] | None:
    """Return what a future says of each page on each node, if it does."""
    cost_ns: NDArray[np.float64] | None = getattr(future, "cost_ns", None)
    return cost_ns


def check_future(policy: str, setup: Setup, future: Future) -> None:
    """Check that a future speaks of the setup's pages.

    Raises:
        UsageError: It does not.
    """
    shape = future.counts.shape
    if len(shape) != 2 or shape[1] != setup.pages:
        raise UsageError(
            f"policy {policy!r}: future of shape {shape}, "
            f"expected (epochs, {setup.pages})"
        )
