"""The market where some memory is huge: a huge page is traded whole.

A huge page counts as 512 pages of the cell whose rate is nearest to its mean, so
that price, transitions and trades are those of `Market`; what it costs to move
counts by the page as well. Moves are then rounded to whole huge pages. After the
trades, with the price that they left, every range is weighed: its pages together, and
each in a tier of its own.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGES_PER_HUGE_PAGE
from isotherm.machine.protocol import HugePages
from isotherm.policy.cells import AHEAD, CELLS, Cells
from isotherm.policy.huge_moves import whole_moves
from isotherm.policy.huge_pages import PageSizes, Weighed
from isotherm.policy.huge_ranges import weigh
from isotherm.policy.huge_tlb import characteristic_s, misses_per_s
from isotherm.policy.market import Market
from isotherm.policy.plan import Epoch, Moves
from isotherm.policy.sizes import SizeChanges
from isotherm.policy.switching import Transitions

Floats = NDArray[np.float64]


class HugeMarket:
    """A `Market` that trades huge pages whole, and decides about page sizes.

    Args:
        inner: Who trades.
        tier: Tier rank of every node, uint8[256]; the number of tiers: in none.
        tiers: Tiers there are.
        sizes: Who decides about page sizes.
        epoch_s: Length of an epoch.
    """

    def __init__(
        self,
        inner: Market,
        tier: NDArray[np.uint8],
        tiers: int,
        sizes: PageSizes,
        epoch_s: float,
    ) -> None:
        self._inner, self._tier, self._tiers = inner, tier, tiers
        self._sizes = sizes
        self._epoch_s = epoch_s
        self._before = np.empty(0, np.int64)  # cells of huge pages; -1: none
        #: What the last epoch decided about page sizes.
        self.changes = SizeChanges.none()

    @property
    def price_ns(self) -> list[float]:
        """Price of an upper slot for an epoch, per boundary, from the fastest."""
        return self._inner.price_ns

    def repace(self, epoch_s: float) -> None:
        """Go on with epochs of another length."""
        self._inner.repace(epoch_s)
        self._epoch_s = epoch_s

    def trade(
        self,
        epoch: Epoch,
        cell: Cells,
        rate: Floats,
        population: NDArray[np.int64],
        transitions: Transitions,
        tier_ns: Floats,
        threshold: float,
        limit: int,
    ) -> tuple[Moves, dict[str, float]]:
        """Trade as `Market` does, huge pages whole; decide about page sizes."""
        self.changes = SizeChanges.none()
        found = epoch.huge
        if found is None or len(found.huge) == 0:
            return self._inner.trade(
                epoch,
                cell,
                rate,
                population,
                transitions,
                tier_ns,
                threshold,
                limit,
            )
        joint, together = self._join(epoch, cell, rate, population, found.huge)
        self._follow(joint, found.huge, transitions)
        moves, notes = self._inner.trade(
            replace(epoch, move_cost_ns=self._cost(epoch, found)),
            joint,
            rate,
            together,
            transitions,
            tier_ns,
            threshold,
            limit,
        )
        moves = whole_moves(moves, epoch, found.huge, self._tier, self._tiers)
        weighed = self._weigh(epoch, cell, rate, population, tier_ns, found, moves)
        self.changes, figures = self._sizes.decide(found, weighed, epoch.now_ns)
        return moves, notes | figures

    def _join(
        self,
        epoch: Epoch,
        cell: Cells,
        rate: Floats,
        population: NDArray[np.int64],
        huge: NDArray[np.bool_],
    ) -> tuple[Cells, NDArray[np.int64]]:
        """Return cells and population with each huge page as pages of one cell."""
        row = np.flatnonzero(huge)
        if len(row) == 0:
            return cell, population
        n = len(huge)
        joint, together = cell.copy(), population.copy()
        ranges = joint[: n * PAGES_PER_HUGE_PAGE].reshape(n, PAGES_PER_HUGE_PAGE)
        own = ranges[row]
        mean = rate[own].mean(1)
        order = np.argsort(rate[:AHEAD], kind="stable")
        at = np.searchsorted(rate[order], mean)
        high, low = order[np.minimum(at, AHEAD - 1)], order[np.maximum(at - 1, 0)]
        near = np.where(rate[high] - mean < mean - rate[low], high, low)
        node = epoch.node[: n * PAGES_PER_HUGE_PAGE : PAGES_PER_HUGE_PAGE][row]
        rank = self._tier[node].astype(np.int64)
        known = rank < self._tiers
        of = own[known].astype(np.int64) * self._tiers + rank[known, None]
        gone = np.bincount(of.ravel(), minlength=CELLS * self._tiers)
        together -= gone.reshape(CELLS, self._tiers)
        np.add.at(together, (near[known], rank[known]), PAGES_PER_HUGE_PAGE)
        ranges[row] = near[:, None].astype(joint.dtype)
        return joint, np.maximum(together, 0)

    def _follow(
        self, joint: Cells, huge: NDArray[np.bool_], transitions: Transitions
    ) -> None:
        """Count where huge pages go from one epoch to the next, as pages."""
        n = len(huge)
        now = joint[: n * PAGES_PER_HUGE_PAGE : PAGES_PER_HUGE_PAGE].astype(np.int64)
        now[~huge] = -1
        before = self._before
        if len(before) == n:
            known = (before >= 0) & (now >= 0)
            weight = np.float32(transitions.weight * PAGES_PER_HUGE_PAGE)
            at = (before[known], now[known])
            np.add.at(transitions.count, at, weight)
        self._before = now

    def _cost(self, epoch: Epoch, found: HugePages) -> Floats:
        """Return what moving a page costs, those of huge pages taking their share."""
        page_ns = _off_diagonal(epoch.move_cost_ns)
        share = float(found.huge.mean())
        one = found.move_ns / PAGES_PER_HUGE_PAGE / max(page_ns, 1e-9)
        return epoch.move_cost_ns * (1.0 - share + share * min(one, 1.0))

    def _weigh(
        self,
        epoch: Epoch,
        cell: Cells,
        rate: Floats,
        population: NDArray[np.int64],
        tier_ns: Floats,
        found: HugePages,
        moves: Moves,
    ) -> Weighed:
        """Weigh every range with the price of now."""
        n, tiers = len(found.huge), self._tiers
        own = cell[: n * PAGES_PER_HUGE_PAGE].reshape(n, PAGES_PER_HUGE_PAGE)
        # Ranges are split many at a time: those on their way to it count as small.
        own = own[found.huge & ~self._sizes.leaning(n)]
        total = population.sum(1).astype(np.float64)
        small = np.maximum(0.0, total - np.bincount(own.ravel(), minlength=CELLS))
        huge_rate = rate[own].sum(1)
        stays_s = characteristic_s(
            np.concatenate([rate, huge_rate]),
            np.concatenate([small, np.ones(len(huge_rate))]),
            found.entries,
        )
        slot_ns = np.zeros(tiers)
        slot_ns[:-1] = np.cumsum(np.array(self.price_ns)[::-1])[::-1]
        value = -rate[:, None] * (tier_ns * self._epoch_s) - slot_ns
        page_ns = _off_diagonal(epoch.move_cost_ns)
        column = np.empty((n, 4))
        best = np.empty(n, np.uint8)
        have = np.empty((n, tiers + 1), np.int32)
        weigh(
            cell,
            epoch.node,
            self._tier,
            rate,
            misses_per_s(rate, stays_s),
            value,
            self._goes(page_ns),
            column,
            best,
            have,
        )
        return Weighed(
            column,
            best,
            have,
            stays_s,
            page_ns,
            self._room(epoch, moves),
            epoch.parallelism,
            self._epoch_s,
        )

    def _goes(self, page_ns: float) -> NDArray[np.bool_]:
        """Return whether a page of each cell would leave each tier for another.

        It goes by the rule of trades: its advantage across a boundary is more than
        the move costs.
        """
        goes = np.zeros((CELLS, self._tiers), np.bool_)
        for b, advantage in enumerate(self._inner.advantage_ns):
            goes[:, b] |= advantage < -page_ns
            goes[:, b + 1] |= advantage > page_ns
        return goes

    def _room(self, epoch: Epoch, moves: Moves) -> NDArray[np.int64]:
        """Return free pages of each tier once the moves are made."""
        room = np.zeros(self._tiers + 1, np.int64)
        free = np.maximum(0, epoch.usage.free_pages)
        np.add.at(room, self._tier[: len(free)], free)
        np.subtract.at(room, self._tier[moves.node], 1)
        return room


def _off_diagonal(cost_ns: Floats) -> float:
    """Return the mean cost of a move between two nodes."""
    nodes = len(cost_ns)
    return float(cost_ns.sum()) / max(1, nodes * (nodes - 1))
