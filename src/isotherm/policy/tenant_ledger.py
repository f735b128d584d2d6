"""What each tenant has caused: moves, the time they took, and that of looking."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.hints.batch import (
    BLOCK_PAGES,
    AccessedBits,
    FaultDelays,
    HintBatch,
    Samples,
)
from isotherm.policy.plan import Outcome
from isotherm.policy.tenants import Labels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Payers(Protocol):
    """Says who pays for moves: a market of tenants."""

    def payers(self, page: NDArray[np.uint32], label: Labels) -> Labels:
        """Return who pays for the move of each page."""
        ...


@dataclass(frozen=True, slots=True)
class Bill:
    """What one tenant has caused so far.

    Attributes:
        promoted_pages: Of its pages, moved up.
        demoted_pages: Of its pages, moved down, whoever wanted their slots.
        paid_moves: Moves that it pays for, its own pages' or those of others that
            had to make room for them; tries that failed are among them.
        migration_ns: What those took.
        application_ns: What looking at its memory took from programs.
        background_ns: What it took on other CPUs.
        cpu_ns: CPU time of the daemon.
    """

    promoted_pages: int = 0
    demoted_pages: int = 0
    paid_moves: int = 0
    migration_ns: float = 0.0
    application_ns: float = 0.0
    background_ns: float = 0.0
    cpu_ns: float = 0.0

    @property
    def looking_ns(self) -> float:
        """What looking at its memory took, wherever."""
        return self.application_ns + self.background_ns


class TenantLedger:
    """Adds up what tenants cause, the rest among them.

    Args:
        tenants: How many there are, the rest included.
        rank: Tier rank of every node, int[256].
        unit_pages: Pages in what the machine calls a page.
    """

    def __init__(
        self, tenants: int, rank: NDArray[np.integer], unit_pages: int = 1
    ) -> None:
        self._rank, self._unit = rank.astype(np.int64), unit_pages
        self._pages = np.zeros((tenants, 3), np.int64)  # up, down, paid
        self._ns = np.zeros((tenants, 4))  # migration, application, background, CPU
        self._epoch_looked = np.zeros(tenants)
        self._moving_before = np.zeros(tenants)  # of the migration column

    def regrade(self, rank: NDArray[np.integer], unit_pages: int) -> None:
        """Go on with other tiers, or in other units."""
        self._rank, self._unit = rank.astype(np.int64), unit_pages

    def regroup(self, place: Ints) -> None:
        """Go on with other tenants; what who has gone has caused is forgotten.

        Args:
            place: Place that each had before, int64[tenants]; -1: it has come.
        """

        def kept(table: NDArray[Any]) -> NDArray[Any]:
            out = np.zeros((len(place), *table.shape[1:]), table.dtype)
            out[place >= 0] = table[place[place >= 0]]
            return out

        self._pages, self._ns = kept(self._pages), kept(self._ns)
        self._epoch_looked = kept(self._epoch_looked)
        self._moving_before = kept(self._moving_before)

    def bills(self) -> tuple[Bill, ...]:
        """Return what each has caused so far, the rest last."""
        return tuple(
            Bill(*pages, *ns)
            for pages, ns in zip(self._pages.tolist(), self._ns.tolist(), strict=True)
        )

    def moved(self, outcome: Outcome, label: Labels, payers: Payers | None) -> None:
        """Charge moves that ended; without payers each to whose page it was."""
        page = outcome.page
        if len(page) == 0:
            return
        size = len(self._pages)
        who = label[page] if payers is None else payers.payers(page, label)
        paid = np.bincount(who, minlength=size)[:size]
        self._pages[:, 2] += paid * self._unit
        self._ns[:, 0] += outcome.cost_ns * paid / len(page)
        if outcome.src is None:
            return
        went = outcome.errno == 0
        change = self._rank[outcome.node] - self._rank[outcome.src]
        for column, there in ((0, change < 0), (1, change > 0)):
            found = np.bincount(label[page[went & there]], minlength=size)[:size]
            self._pages[:, column] += found * self._unit

    def looked(
        self,
        batches: tuple[HintBatch, ...],
        label: Labels,
        work: Floats | None = None,
    ) -> None:
        """Charge looking to those who cause it.

        Samples and hint faults are somebody's accesses. How often bits are read
        follows from what accesses take, by a budget: who accesses more has more
        looking done.

        Args:
            batches: What was seen.
            label: Whose every page is.
            work: Accesses of each, any scale; None: nobody knows, pages count.
        """
        self._epoch_looked[:] = 0.0
        for batch in batches:
            share = looked_at(batch, label, len(self._pages))
            counted = isinstance(batch.seen, Samples | FaultDelays)
            if work is not None and not counted and (share * work).sum() > 0:
                share = work / work.sum()
            self._ns[:, 1] += batch.application_ns * share
            self._ns[:, 2] += batch.background_ns * share
            self._epoch_looked += (batch.application_ns + batch.background_ns) * share

    def spent(self, cpu_ns: float, label: Labels) -> None:
        """Charge an epoch's CPU time of the daemon: call after the other two.

        Moving takes what the moves took, and is their payers'; the rest follows
        what was looked at, or memory where nothing was.
        """
        moving = self._ns[:, 0] - self._moving_before
        self._moving_before = self._ns[:, 0].copy()
        total = float(moving.sum())
        scale = min(1.0, cpu_ns / total) if total > 0 else 0.0
        self._ns[:, 3] += moving * scale
        rest = cpu_ns - total * scale
        by = self._epoch_looked
        if not by.sum() > 0:
            by = _sizes(label, len(self._pages))
        self._ns[:, 3] += rest * by / max(float(by.sum()), 1e-12)


def looked_at(batch: HintBatch, label: Labels, tenants: int) -> Floats:
    """Return whose memory a batch is of, shares, float64[tenants]."""
    seen = batch.seen
    weight: Floats | None = None
    if isinstance(seen, Samples):
        page = seen.page
    elif isinstance(seen, AccessedBits):
        page = np.minimum(seen.block.astype(np.int64) * BLOCK_PAGES, len(label) - 1)
    elif isinstance(seen, FaultDelays):
        page = seen.page
    else:
        page = np.minimum(seen.start.astype(np.int64), len(label) - 1)
        weight = (seen.end.astype(np.int64) - seen.start).astype(np.float64)
    if len(label) == 0:
        nobody: Floats = np.eye(tenants)[-1]
        return nobody
    if len(page) == 0:
        found = _sizes(label, tenants)
    else:
        found = np.bincount(label[page], weight, tenants).astype(np.float64)
    share: Floats = found[:tenants] / max(float(found.sum()), 1e-12)
    return share


def _sizes(label: Labels, tenants: int) -> Floats:
    """Return the pages of each tenant, float64[tenants]; bincount makes int64 first."""
    out = np.zeros((tenants, 256), np.int64)
    count_held(label, label, out)
    sizes: Floats = out.sum(1).astype(np.float64)
    return sizes


def count_held_twin(
    label: Labels, node: NDArray[np.uint8], out: NDArray[np.int64]
) -> None:
    """Numpy twin of `count_held`."""
    flat = label.astype(np.int32) * out.shape[1] + node
    out += np.bincount(flat, minlength=out.size).reshape(out.shape)


@kernel(twin=count_held_twin)
def count_held(label: Labels, node: NDArray[np.uint8], out: NDArray[np.int64]) -> None:
    """Count pages by tenant and node.

    Args:
        label: Whose every page is, uint8[pages].
        node: Placement, uint8[pages].
        out: int64[tenants, 256], added to.
    """
    for p in range(node.size):
        out[label[p], node[p]] += 1
