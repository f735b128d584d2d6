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
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.options import read_options
from isotherm.policy.paths import TierPaths
from isotherm.policy.plan import Epoch, Plan, Setup
from isotherm.policy.spaces import refuse_renewal

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
        unit: Stall of one count over the latency of an access; None: counts are
            accesses.
    """

    counts: Counts
    unit: float | None = None


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
    dtype: type[np.uint16 | np.uint32] = np.uint16,
) -> KnownFuture:
    """Return the future of a stream of accesses.

    Args:
        epochs: Flat pages accessed, one array per epoch.
        pages: Length of the flat page index.
        dtype: np.uint16 (a page's count stops at 65,535 an epoch) or np.uint32.
    """
    limit = int(np.iinfo(dtype).max)
    rows = []
    for page in epochs:
        row: Counts = np.zeros(pages, dtype)
        count_epoch(page, row, limit)
        rows.append(row)
    none: Counts = np.zeros((0, pages), dtype)
    return KnownFuture(np.stack(rows) if rows else none)


#: Units of the access that stalls most, in a count of stall.
STALL_UNITS = 1024


def count_stall_twin(
    page: NDArray[np.uint32],
    stream: NDArray[np.uint8],
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
    stream: NDArray[np.uint8],
    units: NDArray[np.int64],
    out: NDArray[np.uint32],
    limit: int,
) -> None:
    """Count stall per page; a count stops at ``limit``.

    Args:
        page: Flat pages accessed, uint32[n].
        stream: Stream of each access, uint8[n].
        units: Stall of an access of each stream, int64[streams], >= 0.
        out: uint32[pages], added to.
        limit: Largest count.
    """
    for i in range(page.size):
        p = page[i]
        out[p] = min(np.int64(out[p]) + units[stream[i]], np.int64(limit))


def count_stall_future(
    epochs: Iterable[tuple[NDArray[np.uint32], NDArray[np.uint8]]],
    pages: int,
    weight: NDArray[np.float64],
) -> KnownFuture:
    """Return the future of a stream of accesses that do not all stall alike.

    Args:
        epochs: Flat pages accessed and the stream of each, per epoch.
        pages: Length of the flat page index.
        weight: Stall of an access of each stream over its latency, float64[streams],
            the largest > 0.
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
    """Everything in the fastest tier, whether it fits or not."""

    name = "all-fast"
    wants: frozenset[Mechanism] = frozenset()
    uses_tracker = False

    def __init__(self, setup: Setup) -> None:
        read_options(self.name, setup, {})
        self._nodes = np.array(TierPaths(setup.topology).fast_nodes, np.uint8)

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the fastest tier's nodes, page by page in turn."""
        return np.resize(self._nodes, len(node))

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
    """The best placement that never changes: most accessed pages, fastest tier."""

    name = "static-oracle"
    wants: frozenset[Mechanism] = frozenset()
    uses_tracker = False

    def __init__(self, setup: Setup, future: Future) -> None:
        read_options(self.name, setup, {})
        check_future(self.name, setup, future)
        self._paths = TierPaths(setup.topology)
        self._capacity = setup.capacity_pages
        self._total = future.counts.sum(0, dtype=np.int64)

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the pages by falling count, tiers filled fastest first.

        Pages that no tier has room for stay in the slowest; ties go by page.
        """
        order = np.argsort(-self._total, kind="stable")
        placed = np.full_like(node, self._paths.tiers[-1][-1])
        room = self._capacity.astype(np.int64).copy()
        to = self._paths.below(-1, len(order), room)
        placed[order[: len(to)]] = to
        return placed

    def renew(self, change: SpacesChanged) -> None:
        """Refuse: its state is for one footprint."""
        refuse_renewal(self.name)

    def decide(self, epoch: Epoch) -> Plan:
        """Return an empty plan."""
        return Plan()


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
