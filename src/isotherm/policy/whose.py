"""Whose accesses: what a page saves, summed over the initiators that access it.

A CPU and a GPU see the same node at different distances, so a page has no one
saving: it is the sum over initiators i of its accesses by i times what each of
them saves,

    saving(page, b) = sum over i of n_i(page) (t_i(b + 1) - t_i(b)) / p_i

t_i the loaded latency of a tier to i, p_i the misses i has in flight, b the
boundary between a tier and the one below. Where the sum is negative the page
belongs below the line whatever room there is above.

Who accesses is told by samples, by region of 64 pages. Where a scheduler puts
threads is not asked: evidence alone decides. Accesses that nobody names are
taken to be those of initiators of the first one's kind (`unnamed`).
"""

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from isotherm.core.columns import grown
from isotherm.core.units import NS_PER_S
from isotherm.hotness.initiators import MAX_INITIATORS, REGION_PAGES
from isotherm.hotness.protocol import EvidenceView, HotnessView
from isotherm.hotness.stall import MOST_SHIFT, StallView, shift_of
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.policy.terms import Terms
from isotherm.topology.model import Topology, unnamed

#: Samples that the mix of all memory weighs as much as, in a region's own.
DOUBT = 2.0
#: Regions of which means are taken.
SAMPLED = 4096
#: Least that a page may be worth, over the mean: the coldest code there is.
LEAST = 2.0**-12
REGION_BLOCKS = REGION_PAGES // 8

if TYPE_CHECKING:
    from isotherm.hotness.view import TrackerView

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

    Worked out for the regions that are fresh in an epoch; means are of a sample of
    all. So the cost of an epoch is that of its part of the memory.

    Args:
        topology: Nodes, tiers, initiators.

    Attributes:
        told: Whether at least two initiators were told apart, or one from accesses
            that nobody names.
        named: Initiators that samples have named.
    """

    def __init__(self, topology: Topology) -> None:
        self._take_tiers(topology)

    def _take_tiers(self, topology: Topology) -> None:
        self._topology = topology
        self._tiers = [list(tier.nodes) for tier in topology.tiers]
        self._rank = np.full(256, len(self._tiers), np.uint8)
        for rank, nodes in enumerate(self._tiers):
            self._rank[nodes] = rank
        self._unnamed = unnamed(topology)
        self._rows = self._unnamed
        self._tier_ns: Floats = np.zeros(len(self._tiers))
        self._apart_ns = self._tier_ns
        self._forget()

    def _forget(self) -> None:
        """Begin anew: nobody is told apart."""
        self.told = False
        self.named = 0
        self._seen = np.zeros(MAX_INITIATORS + 1, np.bool_)
        self._fresh = slice(0, 0)  # regions
        self._saved: Floats = np.zeros((0, len(self._tiers) - 1))  # per access
        self._ratio: Floats = np.zeros(0)
        self._waited: Floats = np.zeros(0)
        self._shift = np.zeros(0, np.int8)  # by block, with stall
        #: When a region was first seen to be on the wrong side; 0: it is not.
        self._since = np.zeros(self._saved.shape, np.int64)

    def renew(self, change: SpacesChanged) -> None:
        """Forget how long renewed pages were on the wrong side."""
        if change.topology is not None:
            self._take_tiers(change.topology)
        for start, end in change.renewed.tolist():
            self._since[start // REGION_PAGES : -(-end // REGION_PAGES)] = 0

    # ---- what an access saves

    def see(self, view: HotnessView, epoch: Epoch) -> None:
        """Take an epoch's shares, by region where there is anything to tell apart."""
        full = cast("EvidenceView", view)
        shares = cast("TrackerView", view).initiators
        regions = -(-len(epoch.node) // REGION_PAGES)
        sample = shares.rows(0, regions, max(1, regions // SAMPLED))
        if sample is None:
            alone = shares.alone
            if self.told:
                self._forget()
            known = alone is not None and alone < len(epoch.latency_ns)
            self._rows = (alone,) if known and alone is not None else self._unnamed
            self.named = int(known)
            return
        self._seen |= sample.any(0)
        known_ones = min(len(epoch.latency_ns), MAX_INITIATORS)
        self.named = int(np.count_nonzero(self._seen[:known_ones]))
        self.told = int(self._seen.sum()) > 1 and len(epoch.latency_ns) > 1
        if not self.told:
            self._rows = tuple(np.flatnonzero(self._seen[:known_ones]).tolist())
            self._rows = self._rows or self._unnamed
            return
        first, last = full.fresh_blocks
        self._fresh = slice(first // REGION_BLOCKS, -(-last // REGION_BLOCKS))
        if len(self._ratio) != regions:  # for the first time, or there are others
            self._since = grown(self._since, regions)
            self._ratio, self._waited = np.ones(regions), np.ones(regions)
            self._saved = np.zeros((regions, len(self._tiers) - 1))
            self._shift = np.zeros(regions * REGION_BLOCKS, np.int8)
            self._fresh = slice(0, regions)
        fresh = shares.rows(self._fresh.start, min(self._fresh.stop, regions))
        assert fresh is not None  # noqa: S101  # there is a table: see above
        self._work_out(sample, fresh, epoch)

    def tier_ns(self, epoch: Epoch) -> Floats:
        """Return what an access costs in each tier, over its parallelism.

        The steps are what the mean access saves that saves anything by a move up: what
        loses by one is taken to stay below, as it will.
        """
        if self.told:
            return self._tier_ns
        by_tier = self._by_tier(epoch.latency_ns)
        rows = [i for i in self._rows if i < len(by_tier)]
        cost: Floats = (by_tier[rows] if rows else by_tier).mean(0) / epoch.parallelism
        return cost

    def apart_ns(self, epoch: Epoch) -> Floats:
        """Return the same if no page were accessed by two initiators.

        No placement saves more, whoever accesses what: before that is known, too.
        """
        return self._apart_ns if self.told else self.tier_ns(epoch)

    def _by_tier(self, latency_ns: Floats) -> Floats:
        """Return the mean latency of each tier's nodes, [initiators, tiers]."""
        return np.stack([latency_ns[:, n].mean(1) for n in self._tiers], axis=1)

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
        return self._by_tier(latency_ns)

    def _work_out(
        self, sample: NDArray[np.float32], fresh: NDArray[np.float32], epoch: Epoch
    ) -> None:
        """Work out what accesses of fresh regions save, over the mean of the gainers.

        Args:
            sample: Samples of regions out of all of them, [n, initiators + 1].
            fresh: Of the fresh ones.
            epoch: Latencies and parallelism.
        """
        known = min(len(epoch.latency_ns), MAX_INITIATORS)
        by_tier = self._by_tier(epoch.latency_ns)[:known]
        far = self._unloaded(epoch)[:known]
        own = [i.parallelism for i in self._topology.initiators[:known]]
        waits = np.array([epoch.parallelism / p if p else 1.0 for p in own])
        count = self._named_counts(sample, known)
        accesses = count.sum(1)
        mix = count.sum(0) / max(float(accesses.sum()), 1e-12)
        by_wait = _shares(count, mix) * waits
        step = by_tier[:, 1:] - by_tier[:, :-1]
        waited = by_wait.sum(1)
        saved = np.maximum(by_wait @ step, 0.0) / waited[:, None]
        weight = accesses * waited
        mean = (weight / max(float(weight.sum()), 1e-12)) @ saved
        base = mix * waits
        base_share = base / max(float(base.sum()), 1e-12)
        last_ns = float(base_share @ by_tier[:, -1])
        self._tier_ns = _upwards(last_ns, mean) / epoch.parallelism
        apart = base_share @ np.maximum(step, 0.0)
        self._apart_ns = _upwards(last_ns, apart) / epoch.parallelism
        # The same for the fresh regions.
        at = self._fresh
        count = self._named_counts(fresh, known)
        by_wait = _shares(count, mix) * waits
        waited = by_wait.sum(1)
        saved = np.maximum(by_wait @ step, 0.0) / waited[:, None]
        self._ratio[at] = saved.sum(1) / max(float(mean.sum()), 1e-9)
        self._waited[at] = waited / max(float(base.sum()), 1e-12)
        self._saved[at] = by_wait @ (far[:, 1:] - far[:, :-1]) / epoch.parallelism
        wrong = (self._saved[at] < 0) & (count.sum(1) >= DOUBT)[:, None]
        since = self._since[at]
        since[wrong & (since == 0)] = max(1, epoch.now_ns - epoch.dt_ns)
        since[~wrong] = 0

    def _named_counts(self, table: NDArray[np.float32], known: int) -> Floats:
        """Return samples by initiator, those of nobody dealt to who stands for them."""
        count = table[:, :known].astype(np.float64)
        nobody = [i for i in self._unnamed if i < known]
        count[:, nobody] += table[:, MAX_INITIATORS:] / max(1, len(nobody))
        return count

    # ---- what the policy does with it

    def weigh(self, stall: StallView | None) -> StallView | None:
        """Return what accesses of each page are worth, for the policy to rank by.

        Args:
            stall: What they stall, where a source tells; else initiators'
                parallelism says.
        """
        if not self.told:
            return stall
        at = self._fresh
        ratio = self._ratio[at]
        if stall is None:
            ratio = ratio * self._waited[at]
        own = np.repeat(shift_of(np.maximum(ratio, LEAST)), REGION_BLOCKS)
        low = at.start * REGION_BLOCKS
        if stall is None:
            self._shift[low : low + len(own)] = own
            square = float((ratio**2).mean() / max(float(ratio.mean()), 1e-9))
            return StallView(self._shift, 1.0, max(square, 1e-6))
        theirs = stall.shift[low : low + len(own)].astype(np.int16)
        both = np.clip(theirs + own[: len(theirs)], -MOST_SHIFT, MOST_SHIFT)
        self._shift[low : low + len(theirs)] = both.astype(np.int8)
        return replace(stall, shift=self._shift)

    def relative(self, page: NDArray[np.integer]) -> Floats:
        """Return what accesses of pages save over the mean one's, float64[n]."""
        region = page.astype(np.int64) // REGION_PAGES
        known = region < len(self._ratio)  # others have come since
        found = np.ones(len(page))
        found[known] = self._ratio[region[known]]
        return found

    def amend(
        self,
        moves: Moves,
        epoch: Epoch,
        view: HotnessView,
        limit: int,
        terms: Terms | None = None,
    ) -> Moves:
        """Return moves without those to where they lose, with pages put right.

        A page is put right where its region's own samples show that accesses lose by
        its being above a boundary: it goes below, as soon as what that saves over as
        long a time as it has been seen so exceeds the cost of the move (what was
        watched for so long is taken to last as long again). The promise is not
        followed: who accesses a single page that was moved is not counted.

        Args:
            moves: What trades brought.
            epoch: Placement, room and costs.
            view: Rates.
            limit: Moves at most, of pages that are put right.
            terms: What tenants are owed; None: there are none.
        """
        if not self.told:
            return moves
        region = moves.page.astype(np.int64) // REGION_PAGES
        to, now = self._rank[moves.node], self._rank[epoch.node[moves.page]]
        up = (to < now) & (to < len(self._tiers) - 1)
        loses = np.zeros(len(moves), np.bool_)
        loses[up] = self._saved[region[up], to[up]] < 0
        if loses.any():
            moves = moves.take(np.flatnonzero(~loses))
        room = np.maximum(epoch.usage.free_pages, 0)
        parts = [Moves.none()]
        for b in range(len(self._tiers) - 1):
            planned = Moves.concat(*parts, moves)
            for node in self._below(b, room, terms):
                part = self._put_below(
                    b, node, epoch, view, room, limit, planned, terms
                )
                room[node] -= len(part)
                limit -= len(part)
                parts.append(part)
                planned = Moves.concat(part, planned)
        right = Moves.concat(*parts)
        if not len(right):
            return moves
        again = np.isin(moves.page, right.page)
        if again.any():
            moves = moves.take(np.flatnonzero(~again))
        return Moves.concat(right, moves)

    def _below(self, b: int, room: NDArray[np.int64], terms: Terms | None) -> list[int]:
        """Return the nodes below a boundary to try, the roomiest first.

        All of them only where some pages may not go to some.
        """
        nodes = sorted(self._tiers[b + 1], key=lambda n: -int(room[n]))
        return nodes if terms is not None else nodes[:1]

    def _put_below(
        self,
        b: int,
        node: int,
        epoch: Epoch,
        view: HotnessView,
        room: NDArray[np.int64],
        limit: int,
        planned: Moves,
        terms: Terms | None,
    ) -> Moves:
        """Return the pages of tier ``b`` that pay on a node below it, best first."""
        limit = min(limit, int(room[node]))
        wrong = self._fresh.start + np.flatnonzero(self._since[self._fresh, b])
        if not len(wrong) or limit <= 0:
            return Moves.none()
        page = (wrong[:, None] * REGION_PAGES + np.arange(REGION_PAGES)).ravel()
        page = page[page < len(epoch.node)]
        page = page[self._rank[epoch.node[page]] == b]
        if not len(page):
            return Moves.none()
        region = page // REGION_PAGES
        seen_s = (epoch.now_ns - self._since[region, b]) / NS_PER_S
        rate = view.rate(page.astype(np.uint32)).astype(np.float64)
        gain_ns = -self._saved[region, b] * rate * seen_s
        gain_ns -= epoch.move_cost_ns[epoch.node[page], node]
        best = np.argsort(-gain_ns, kind="stable")
        best = best[gain_ns[best] > 0]
        if terms is not None:
            best = best[~np.isin(page[best], planned.page)]
            best = best[terms.fits(page[best], node)]
            if b == 0:
                best = best[terms.first(page[best], terms.may_give(planned, node))]
        return Moves.to(page[best[:limit]], node, Reason.PAYS)


def _shares(count: Floats, mix: Floats) -> Floats:
    """Return shares by initiator, [n, initiators], drawn to the mix where few."""
    share: Floats = (count + DOUBT * mix) / (count.sum(1) + DOUBT)[:, None]
    return share


def _upwards(last_ns: float, step_ns: Floats) -> Floats:
    """Return what an access takes in each tier, from what it does in the last.

    Args:
        last_ns: In the last.
        step_ns: What each tier but the last saves over the one below, [tiers - 1].
    """
    saved = np.append(np.cumsum(step_ns[::-1])[::-1], 0.0)
    return np.maximum(last_ns - saved, 0.0)
