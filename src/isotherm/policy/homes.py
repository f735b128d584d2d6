"""Which node of a tier a page should be on: the one nearest to who accesses it.

Nodes of one tier differ only in whom they are near to. Evidence says who accesses
what, by region of 64 pages; where threads run is no part of it.

* A move into a tier goes to the tier's nearest node for its region, while that has
  room.
* A page that is on another node of its tier crosses over where what that saves while
  it stays exceeds the move; both ways, so that full nodes exchange pages.

Tenants' pages stay on the nodes that they may be on; who makes room below for pages
that cross gives what nobody is owed, and who crosses pays for it.

Where nobody names initiators, or all accesses are of one that is as near to all
nodes, nothing changes.
"""

from dataclasses import replace
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.hotness.initiators import REGION_PAGES
from isotherm.hotness.protocol import EvidenceView
from isotherm.policy.coldest import SEARCHED, coldest
from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.policy.terms import Terms
from isotherm.topology.model import Topology

#: Seconds in which it is gathered who accesses what, before pages cross: in each
#: such window either pages cross or threads are moved, never both.
WINDOW_S: Final = 10.0
#: Standard errors by which a region's samples have to speak for another node.
SURE: Final = 2.0
#: A page that crosses is taken to stay for so long: as long as a move is followed to
#: see what it earns (DEFAULT_HOLD_NS of migration/holdback.py).
STAY_NS: Final = 30 * NS_PER_S
#: Of a tier's pages, kept free where full nodes exchange pages.
EXCHANGE: Final = 1 / 256
#: Regions whose pages are looked at for crossing in an epoch, where most is to be had.
MOST_REGIONS: Final = SEARCHED // REGION_PAGES

Floats = NDArray[np.float64]


class Homes:
    """Nodes of tiers, and who is near to them.

    Args:
        topology: Nodes and tiers.
    """

    def __init__(self, topology: Topology) -> None:
        self._tiers = [np.array(t.nodes) for t in topology.tiers if len(t.nodes) > 1]

    def reserve(self, epoch: Epoch) -> Epoch:
        """Return the epoch with the room that pages cross through left out."""
        if not self._tells(epoch):
            return epoch
        capacity = epoch.usage.capacity_pages.copy()
        for nodes in self._tiers:
            capacity[nodes] -= self._kept(capacity, nodes)
        return replace(epoch, usage=replace(epoch.usage, capacity_pages=capacity))

    def settle(
        self,
        moves: Moves,
        epoch: Epoch,
        rate: Floats,
        kind: NDArray[np.uint16],
        terms: Terms | None = None,
    ) -> tuple[Moves, dict[str, float]]:
        """Return the moves with their nodes, and those that cross, with notes.

        Args:
            moves: What pays between tiers.
            epoch: As the machine tells it, before `reserve`.
            rate: Of every kind of page, accesses per second.
            kind: Kind of every page, uint16[pages].
            terms: What tenants are owed; None: there are none.
        """
        if not self._tells(epoch):
            return moves, {}
        view, limit = cast("EvidenceView", epoch.hotness), epoch.move_limit_pages
        counts = cast("NDArray[np.float32]", view.initiator_counts)
        initiators = len(epoch.latency_ns)
        known = counts[:, :initiators].astype(np.float64)
        total = known.sum(1)
        share = known / np.maximum(total, 1e-9)[:, None]
        nodes = [node.tolist() for node in self._tiers]
        moves = _nearest(moves, epoch, share, total, nodes, terms)
        if view.initiators_age_s <= WINDOW_S or limit <= len(moves):
            return moves, {}
        parts, crossing = [moves], 0
        for of_tier in self._tiers:
            room = limit - sum(map(len, parts))
            crossed = self._cross(
                epoch, moves, of_tier, share, total, rate, kind, room, terms
            )
            parts += crossed
            crossing += len(crossed[-1]) if crossed else 0
        return Moves.concat(*parts), {"crossing_pages": float(crossing)}

    # ---- pages that cross

    def _cross(
        self,
        epoch: Epoch,
        moves: Moves,
        nodes: NDArray[np.int64],
        share: Floats,
        total: Floats,
        rate: Floats,
        kind: NDArray[np.uint16],
        limit: int,
        terms: Terms | None,
    ) -> list[Moves]:
        latency_ns = share @ epoch.latency_ns[:, nodes]
        best = latency_ns.argmin(1)
        cost_ns = epoch.move_cost_ns[np.ix_(nodes, nodes)].max()
        parts = []
        for at, here in enumerate(nodes.tolist()):
            # Of the regions that are nearer to another node, the pages on this one.
            saved_ns = latency_ns[:, at] - latency_ns[np.arange(len(best)), best]
            # Of n samples, each of one initiator or another, the mean's error.
            widest_ns = float(np.ptp(epoch.latency_ns[:, nodes], axis=1).max())
            saved_ns -= SURE * widest_ns / np.sqrt(np.maximum(total, 1.0))
            region = np.flatnonzero((total > 0) & (saved_ns > 0))
            if len(region) == 0:
                continue
            if len(region) > MOST_REGIONS:
                worth = saved_ns[region] * total[region]
                best_first = np.argpartition(-worth, MOST_REGIONS)[:MOST_REGIONS]
                region = np.sort(region[best_first])
            page = (region[:, None] * REGION_PAGES + np.arange(REGION_PAGES)).ravel()
            page = page[page < len(epoch.node)]
            page = page[epoch.node[page] == here]
            of = page // REGION_PAGES
            to, saved = best[of], saved_ns[of]
            if terms is not None and len(page):
                own_ns = latency_ns[of].copy()
                barred = ~terms.allowed[terms.label[page]][:, nodes]
                barred[:, at] = False  # where it is it may stay
                own_ns[barred] = np.inf
                to = own_ns.argmin(1)
                saved = saved + latency_ns[of, best[of]] - own_ns.min(1)
            gain = saved * rate[kind[page]] * (STAY_NS / NS_PER_S)
            gain = gain / epoch.parallelism - cost_ns
            pays = gain > 0
            page, to, gain = page[pays], to[pays], gain[pays]
            parts.append(
                Moves(
                    page.astype(np.uint32),
                    nodes[to].astype(np.uint8),
                    gain.astype(np.float32),
                    np.full(len(page), int(Reason.PAYS), np.uint8),
                )
            )
        if not parts:
            return []
        every = Moves.concat(*parts)
        every = every.take(np.flatnonzero(~np.isin(every.page, moves.page)))
        every = every.take(np.argsort(-every.gain_ns, kind="stable"))
        if terms is not None and len(every):
            fits = terms.first(every.page, terms.moves_left)
            every = every.take(np.flatnonzero(fits))
        every = every.take(np.arange(min(max(0, limit), len(every))))
        if len(every) == 0:
            return []
        return [*self._make_room(epoch, moves, every, nodes, rate, kind, terms), every]

    def _make_room(
        self,
        epoch: Epoch,
        moves: Moves,
        crossing: Moves,
        nodes: NDArray[np.int64],
        rate: Floats,
        kind: NDArray[np.uint16],
        terms: Terms | None,
    ) -> list[Moves]:
        """Return moves of the coldest pages out of full nodes that stand in the way.

        To a node of the tier that has room; below only where the tier as a whole
        keeps less free than pages cross through: what is given up below comes back
        only where that pays, and room that is made again and again drains the tier.
        """
        tiers = epoch.topology.tiers
        rank = epoch.topology.tier_of(int(nodes[0]))
        keep = self._kept(epoch.usage.capacity_pages, nodes)
        free = epoch.usage.free_pages[nodes].astype(np.int64)
        for at, node in enumerate(nodes.tolist()):
            free[at] += int(np.count_nonzero(epoch.node[moves.page] == node))
            free[at] -= int(np.count_nonzero(moves.node == node))
        lacking = max(0, int(keep.sum() - np.maximum(free, 0).sum()))
        parts: list[Moves] = []
        for at, node in enumerate(nodes.tolist()):
            short = min(int(keep[at]), int(np.count_nonzero(crossing.node == node)))
            short -= int(free[at])
            other = int(np.argmax(free))
            beside = min(short, int(free[other])) if other != at else 0
            beneath = 0
            if rank + 1 < len(tiers):
                beneath = min(short - max(beside, 0), lacking)
            if max(beside, beneath) <= 0:
                continue

            def cold(count: int, into: int, node: int = node) -> Moves:
                planned = Moves.concat(moves, crossing, *parts)
                give = None
                if terms is not None:
                    give = np.where(terms.allowed[:, into], len(epoch.node), 0)
                    if into not in nodes:
                        give = terms.may_give(planned, into)
                page = coldest(
                    epoch.node,
                    kind,
                    rate,
                    node,
                    count,
                    (planned.page,),
                    epoch.index,
                    None if terms is None else terms.label,
                    give,
                    None if terms is None else terms.weight,
                )
                if terms is not None and len(page):  # who comes pays
                    comes = crossing.page[crossing.node == node]
                    payer = terms.label[np.resize(comes, len(page))]
                    terms.charge(page, payer)
                return Moves.to(page, into, Reason.MAKES_ROOM, 0.0)

            for into in self._below(epoch, rank, terms) if beneath > 0 else []:
                parts.append(cold(beneath, into))
                beneath -= len(parts[-1])
                lacking -= len(parts[-1])
            if beside > 0:
                parts.append(cold(beside, int(nodes[other])))
                free[other] -= len(parts[-1])
                free[at] += len(parts[-1])
        return [part for part in parts if len(part)]

    def _below(self, epoch: Epoch, rank: int, terms: Terms | None) -> list[int]:
        """Return the nodes below a tier to try, the roomiest first.

        All of them only where some pages may not go to some.
        """
        nodes = epoch.topology.tiers[rank + 1].nodes
        order = sorted(nodes, key=lambda n: -int(epoch.usage.free_pages[n]))
        return order if terms is not None else order[:1]

    def _kept(
        self, capacity: NDArray[np.int64], nodes: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        kept: NDArray[np.int64] = np.ceil(capacity[nodes] * EXCHANGE).astype(np.int64)
        return np.minimum(kept, np.maximum(capacity[nodes] - 1, 0))

    def _tells(self, epoch: Epoch) -> bool:
        """Return whether there is a choice of nodes, and evidence to choose by."""
        if not self._tiers or len(epoch.latency_ns) < 2:
            return False
        return cast("EvidenceView", epoch.hotness).initiator_counts is not None


def _nearest(
    moves: Moves,
    epoch: Epoch,
    share: Floats,
    total: Floats,
    tiers: list[list[int]],
    terms: Terms | None,
) -> Moves:
    """Return moves with each tier's nearest node, as far as there is room there."""
    if len(moves) == 0:
        return moves
    node = moves.node.copy()
    free = epoch.usage.free_pages.copy()
    free += np.bincount(epoch.node[moves.page], minlength=len(free))[: len(free)]
    region = moves.page // REGION_PAGES
    for nodes in tiers:
        row = np.flatnonzero(np.isin(node, nodes) & (total[region] > 0))
        others = np.flatnonzero(np.isin(node, nodes) & (total[region] <= 0))
        taken = np.bincount(node[others], minlength=len(free))
        room = {n: max(0, int(free[n] - taken[n])) for n in nodes}
        latency_ns = share[region[row]] @ epoch.latency_ns[:, nodes]
        left = row
        for turn in np.argsort(latency_ns, axis=1, kind="stable").T:
            # All to their next choice, in the plan's order, while it has room.
            wanted = np.array(nodes)[turn][np.searchsorted(row, left)]
            still = []
            for n in nodes:
                mine = left[wanted == n]
                if terms is not None:
                    fits = terms.fits(moves.page[mine], n)
                    still.append(mine[~fits])
                    mine = mine[fits]
                node[mine[: room[n]]] = n
                still.append(mine[room[n] :])
                room[n] -= min(room[n], len(mine))
            left = np.sort(np.concatenate(still))
            if len(left) == 0:
                break
    return replace(moves, node=node)
