"""Whose accesses: what a page saves, summed over the initiators that access it.

A CPU and a GPU see the same node at different distances, so a page has no one
saving: it is the sum over initiators i of its accesses by i times what each of
them saves,

    saving(page, b) = sum over i of n_i(page) (t_i(b + 1) - t_i(b)) / p_i

t_i the loaded latency of a tier to i, p_i the misses i has in flight, b the
boundary between a tier and the one below. Where the sum is negative the page
belongs below the line whatever room there is above.

Who accesses is told by samples, by region of 64 pages. Where a threads' scheduler
puts them is not asked: evidence alone decides. Accesses that nobody names are
taken to be those of initiators of the first one's kind (`unnamed`).
"""

from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from isotherm.core.columns import grown
from isotherm.core.units import NS_PER_S
from isotherm.hotness.initiators import MAX_INITIATORS, REGION_PAGES
from isotherm.hotness.protocol import EvidenceView, HotnessView
from isotherm.hotness.stall import StallView, shift_of
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.topology.model import Topology, unnamed

#: Samples that the mix of all memory weighs as much as, in a region's own.
DOUBT = 2.0
#: Least that a page may be worth, over the mean: the coldest code there is.
LEAST = 2.0**-12
REGION_BLOCKS = REGION_PAGES // 8
NOBODY = np.zeros(0, np.intp)

Floats = NDArray[np.float64]


def unnamed_latency(topology: Topology, latency_ns: Floats) -> Floats:
    """Return the latency of every node to accesses that nobody names.

    Args:
        topology: Its first initiator says of which kind they are.
        latency_ns: float64[initiators, nodes].
    """
    found: Floats = unnamed_rows(topology, latency_ns).mean(0)
    return found


def unnamed_rows(topology: Topology, latency_ns: Floats) -> Floats:
    """Return the rows of the initiators that stand for accesses nobody names.

    Args:
        topology: Who there is; nobody: all rows are returned.
        latency_ns: float64[initiators, nodes].
    """
    rows = [i for i in unnamed(topology) if i < len(latency_ns)]
    return latency_ns[rows] if rows else latency_ns


class Whose:
    """What accesses save at each boundary, by region.

    Args:
        topology: Nodes, tiers, initiators.

    Attributes:
        told: Whether at least two initiators were told apart, or one from accesses
            that nobody names.
        named: Initiators that samples have named.
    """

    def __init__(self, topology: Topology) -> None:
        self._take_tiers(topology)
        self._streak = np.zeros((0, 0), np.int32)  # epochs below 0, [regions, b]

    def _take_tiers(self, topology: Topology) -> None:
        self._topology = topology
        self._tiers = [list(tier.nodes) for tier in topology.tiers]
        self._rank = np.full(256, len(self._tiers), np.uint8)
        for rank, nodes in enumerate(self._tiers):
            self._rank[nodes] = rank
        self._unnamed = unnamed(topology)
        self.told = False
        self.named = 0
        self._rows = self._unnamed
        self._tier_ns: Floats = np.zeros(len(self._tiers))
        self._saved: Floats = np.zeros((0, 0))  # per access, [regions, b]
        self._ratio: Floats = np.zeros(0)
        self._waited: Floats = np.zeros(0)
        self._sampled = np.zeros(0, np.bool_)  # regions with samples of their own

    def renew(self, change: SpacesChanged) -> None:
        """Forget how long renewed pages were on the wrong side."""
        if change.topology is not None:
            self._take_tiers(change.topology)
            self._streak = np.zeros((0, 0), np.int32)
        for start, end in change.renewed.tolist():
            self._streak[start // REGION_PAGES : -(-end // REGION_PAGES)] = 0

    # ---- what an access saves

    def see(self, view: HotnessView, epoch: Epoch) -> None:
        """Take an epoch's shares, by region where there is anything to tell apart."""
        counts = cast("EvidenceView", view).initiator_counts
        named = np.flatnonzero(counts.any(0)) if counts is not None else NOBODY
        known = min(len(epoch.latency_ns), MAX_INITIATORS)
        self.named = int((named < known).sum())
        self.told = len(named) > 1 and len(epoch.latency_ns) > 1
        if counts is not None and self.told:
            self._tier_ns = self._of_regions(counts, self._by_tier(epoch), epoch)
        else:
            self._rows = tuple(named[named < known].tolist()) or self._unnamed

    def tier_ns(self, epoch: Epoch) -> Floats:
        """Return what an access costs in each tier, over its parallelism.

        The steps are what the mean access saves that saves anything by a move up.
        """
        if self.told:
            return self._tier_ns
        by_tier = self._by_tier(epoch)
        rows = [i for i in self._rows if i < len(by_tier)]
        cost: Floats = (by_tier[rows] if rows else by_tier).mean(0) / epoch.parallelism
        return cost

    def _by_tier(self, epoch: Epoch) -> Floats:
        """Return the mean latency of each tier's nodes, [initiators, tiers]."""
        rows = [epoch.latency_ns[:, nodes].mean(1) for nodes in self._tiers]
        return np.stack(rows, axis=1)

    def _unloaded(self, epoch: Epoch) -> Floats:
        """Return the same without load, as far as the topology says it.

        A tier that is slow because it is busy is no wrong place: what to do about
        load is said elsewhere, by price.
        """
        latency_ns = epoch.latency_ns.copy()
        for row in self._topology.performance:
            inside = row.initiator < len(latency_ns) and row.node < len(latency_ns[0])
            if inside and row.read_latency_ns is not None:
                latency_ns[row.initiator, row.node] = row.read_latency_ns.value
        rows = [latency_ns[:, nodes].mean(1) for nodes in self._tiers]
        return np.stack(rows, axis=1)

    def _of_regions(
        self, table: NDArray[np.float32], by_tier: Floats, epoch: Epoch
    ) -> Floats:
        """Work out what accesses of each region save, and the mean of the gainers."""
        known = min(len(by_tier), MAX_INITIATORS)
        count = table[:, :known].astype(np.float64)
        nobody = [i for i in self._unnamed if i < known]
        count[:, nobody] += table[:, MAX_INITIATORS:] / max(1, len(nobody))
        accesses = count.sum(1)
        self._sampled = accesses >= DOUBT
        mix = count.sum(0) / max(float(accesses.sum()), 1e-12)
        share = (count + DOUBT * mix) / (accesses[:, None] + DOUBT)
        by_wait = share * self._waits(epoch.parallelism, known)
        by_tier = by_tier[:known]
        step = by_tier[:, 1:] - by_tier[:, :-1]
        far = self._unloaded(epoch)[:known]
        self._saved = by_wait @ (far[:, 1:] - far[:, :-1]) / epoch.parallelism
        self._waited = by_wait.sum(1)
        saved = np.maximum(by_wait @ step, 0.0) / self._waited[:, None]
        weight = accesses * self._waited
        weight = weight / max(float(weight.sum()), 1e-12)
        mean = weight @ saved
        self._ratio = saved.sum(1) / max(float(mean.sum()), 1e-9)
        self._waited = self._waited / max(float(mix @ self._waits_of), 1e-12)
        base = mix * self._waits_of
        first = float(base @ by_tier[:, 0]) / max(float(base.sum()), 1e-12)
        cost: Floats = first + np.concatenate([[0.0], np.cumsum(mean)])
        return cost / epoch.parallelism

    def _waits(self, parallelism: float, known: int) -> Floats:
        """Return what an initiator's access waits for of its latency, over the mean."""
        own = [i.parallelism for i in self._topology.initiators[:known]]
        self._waits_of: Floats = np.array(
            [parallelism / p if p is not None else 1.0 for p in own]
        )
        return self._waits_of

    # ---- what the policy does with it

    def weigh(self, stall: StallView | None) -> StallView | None:
        """Return what accesses of each page are worth, for the policy to rank by.

        Args:
            stall: What they stall, where a source tells; else initiators'
                parallelism says.
        """
        if not self.told:
            return stall
        ratio = self._ratio if stall is not None else self._ratio * self._waited
        own = np.repeat(shift_of(np.maximum(ratio, LEAST)), REGION_BLOCKS)
        if stall is None:
            square = float((ratio**2).mean() / max(float(ratio.mean()), 1e-9))
            return StallView(own, 1.0, max(square, 1e-6))
        both = np.clip(
            stall.shift.astype(np.int16) + own[: len(stall.shift)], -96, 96
        ).astype(np.int8)
        return replace(stall, shift=both)

    def relative(self, page: NDArray[np.integer]) -> Floats:
        """Return what accesses of pages save over the mean one's, float64[n]."""
        region = page.astype(np.int64) // REGION_PAGES
        known = region < len(self._ratio)  # others have come since
        found = np.ones(len(page))
        found[known] = self._ratio[region[known]]
        return found

    def amend(self, moves: Moves, epoch: Epoch, view: HotnessView, limit: int) -> Moves:
        """Return moves without those to where they lose, with pages put right.

        A page is put right where its region's own samples show that accesses lose by
        its being above a boundary: it
        goes below, as soon as what that saves over as long a time as it has been
        seen so exceeds the cost of the move (what was watched for n epochs is taken
        to last n more). The promise is not followed: who accesses a single page
        that was moved is not counted.

        Args:
            moves: What trades brought.
            epoch: Placement, room and costs.
            view: Rates.
            limit: Moves at most, of pages that are put right.
        """
        if not self.told:
            return moves
        region = moves.page.astype(np.int64) // REGION_PAGES
        to, now = self._rank[moves.node], self._rank[epoch.node[moves.page]]
        up = (to < now) & (to < len(self._tiers) - 1)
        loses = np.zeros(len(moves), np.bool_)
        loses[up] = self._saved[region[up], to[up]] <= 0
        if loses.any():
            moves = moves.take(np.flatnonzero(~loses))
        right = self._put_right(epoch, view, limit)
        if not len(right):
            return moves
        again = np.isin(moves.page, right.page)
        if again.any():
            moves = moves.take(np.flatnonzero(~again))
        return Moves.concat(right, moves)

    def _put_right(self, epoch: Epoch, view: HotnessView, limit: int) -> Moves:
        boundaries = len(self._tiers) - 1
        if len(self._streak) != len(self._saved):
            if self._streak.shape[1:] != (boundaries,):
                self._streak = np.zeros((len(self._saved), boundaries), np.int32)
            self._streak = grown(self._streak, len(self._saved))
        self._streak += 1
        self._streak[(self._saved >= 0) | ~self._sampled[:, None]] = 0
        room = np.maximum(epoch.usage.free_pages, 0)
        parts = [Moves.none()]
        for b in range(boundaries):
            part = self._put_below(b, epoch, view, room, limit)
            limit -= len(part)
            parts.append(part)
        return Moves.concat(*parts)

    def _put_below(
        self,
        b: int,
        epoch: Epoch,
        view: HotnessView,
        room: NDArray[np.int64],
        limit: int,
    ) -> Moves:
        """Return the pages of tier ``b`` that pay below it, best first."""
        lower = self._tiers[b + 1]
        node = lower[int(np.argmax(room[lower]))]
        limit = min(limit, int(room[node]))
        wrong = np.flatnonzero(self._streak[:, b])
        if not len(wrong) or limit <= 0:
            return Moves.none()
        page = (wrong[:, None] * REGION_PAGES + np.arange(REGION_PAGES)).ravel()
        page = page[page < len(epoch.node)]
        page = page[self._rank[epoch.node[page]] == b]
        if not len(page):
            return Moves.none()
        region = page // REGION_PAGES
        seen_s = self._streak[region, b] * (epoch.dt_ns / NS_PER_S)
        rate = view.rate(page.astype(np.uint32)).astype(np.float64)
        gain_ns = -self._saved[region, b] * rate * seen_s
        gain_ns -= epoch.move_cost_ns[epoch.node[page], node]
        best = np.argsort(-gain_ns, kind="stable")[:limit]
        best = best[gain_ns[best] > 0]
        room[node] -= len(best)
        return Moves.to(page[best], node, Reason.PAYS)
