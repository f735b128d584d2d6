"""Back-pressure: a tier whose capacity depends on the data is kept from filling up.

A compressing device shows more memory than it has. When its data come to compress
worse it fills up although no page has come, and at the end it fails writes. Nobody
can take that back, so the policy acts before:

* the fuller the device, the fewer pages go to it: all that the market wants up to
  ``SLOW``, none from ``RELIEF`` on;
* beyond ``RELIEF`` pages leave it, hottest first, for the nearest tier with room,
  also those whose move does not pay by itself, until ``TARGET``;
* what counts is not the fill now but where it will be ``LEAD`` epochs on if it goes
  on growing as it does;
* the tier above keeps ``RESERVE`` of its pages free, so that there is somewhere to
  go at once; two full tiers could not exchange a page either.

The figures are shares of the media. Only nodes with a ``Usage.fill`` are touched: on
any other machine nothing here does anything.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.policy.terms import Terms
from isotherm.topology.model import Topology

SLOW = 0.80
RELIEF = 0.90
TARGET = 0.87
LEAD = 8.0  # epochs: the quota lets a tenth of the pages move in each
FOLLOW = 0.3  # how fast the growth that counts follows the last epoch's
RESERVE = 0.01

Floats = NDArray[np.float64]


class Heat(NamedTuple):
    """What pages are worth, by kind: only those asked for are looked up."""

    worth: Floats  #: rate of every kind
    kind: NDArray[np.uint16]  #: of every page

    def extreme(
        self, page: NDArray[np.int64], count: int, *, hottest: bool
    ) -> NDArray[np.int64]:
        """Return the hottest, or coldest, of some pages, that first; ties by page."""
        key = self.worth[self.kind[page]] * (-1.0 if hottest else 1.0)
        if count < len(page):
            few = np.sort(np.argpartition(key, count)[:count])
            page, key = page[few], key[few]
        chosen: NDArray[np.int64] = page[np.argsort(key, kind="stable")]
        return chosen


class BackPressure:
    """Follows the fill of the nodes that have one, and bends plans to it.

    Args:
        topology: Nodes and tiers.
    """

    def __init__(self, topology: Topology) -> None:
        self._tiers = [list(tier.nodes) for tier in topology.tiers]
        self._fill: Floats | None = None
        self._growth: Floats | None = None
        self._kept = np.zeros(0, np.int64)  # pages per node that stay free

    def reserve(self, epoch: Epoch) -> Epoch:
        """Return the epoch with what the tiers above may not be filled with.

        Call once an epoch, before `press`: it follows the fill.
        """
        fill = epoch.usage.fill
        if fill is None:
            return epoch
        if self._fill is None or self._growth is None:
            self._growth = np.zeros_like(fill)
        else:
            step = np.nan_to_num(fill - self._fill)
            self._growth = self._growth + FOLLOW * (step - self._growth)
        self._fill = fill.copy()
        kept = np.zeros_like(epoch.usage.capacity_pages)
        for node in np.flatnonzero(~np.isnan(fill)).tolist():
            for above in self._above(node):
                share = int(RESERVE * epoch.usage.capacity_pages[above])
                kept[above] = max(1, share)
        self._kept = kept
        capacity = epoch.usage.capacity_pages - kept
        return replace(epoch, usage=replace(epoch.usage, capacity_pages=capacity))

    def press(
        self,
        moves: Moves,
        epoch: Epoch,
        worth: Floats,
        kind: NDArray[np.uint16],
        terms: Terms | None = None,
    ) -> tuple[Moves, dict[str, float]]:
        """Return the plan as the fill allows it, and notes.

        Args:
            moves: What the market wants.
            epoch: As `reserve` returned it.
            worth: Rate of every kind of page.
            kind: Kind of every page, uint16[pages].
            terms: What tenants are owed; None: there are none. Of theirs only what
                may go elsewhere leaves the device, and ``relief_short_pages`` says
                what is missing.
        """
        notes: dict[str, float] = {}
        fill = epoch.usage.fill
        if fill is None or self._growth is None:
            return moves, notes
        heat = Heat(worth, kind)
        for node in np.flatnonzero(~np.isnan(fill)).tolist():
            growth = max(0.0, float(self._growth[node]))
            ahead = float(fill[node]) + LEAD * growth
            open_share = float(np.clip((RELIEF - ahead) / (RELIEF - SLOW), 0.0, 1.0))
            wanted = len(moves)
            moves = _slowed(moves, node, open_share)
            notes["media_fill"] = float(fill[node])
            notes["demotions_refused"] = float(wanted - len(moves))
            if ahead > RELIEF:
                used = int(epoch.usage.used_pages[node])
                want = int(np.ceil((ahead - TARGET) * used / float(fill[node])))
                want -= int(np.count_nonzero(epoch.node[moves.page] == node))
                out = self._relief(moves, epoch, node, want, heat, terms)
                notes["relief_pages"] = float(len(out))
                notes["relief_short_pages"] = float(max(0, want - len(out)))
                # First: what is urgent goes before what pays.
                moves = Moves.concat(out, moves)
            elif open_share > 0:
                moves = self._make_reserve(moves, epoch, node, heat, terms)
        return moves, notes

    # ---- the tiers above

    def _above(self, node: int) -> list[int]:
        """Return the nodes of the tier just above a node's."""
        for rank, nodes in enumerate(self._tiers):
            if node in nodes:
                return self._tiers[rank - 1] if rank else []
        return []

    def _relief(
        self,
        moves: Moves,
        epoch: Epoch,
        node: int,
        want: int,
        heat: "Heat",
        terms: Terms | None,
    ) -> Moves:
        """Return moves of the hottest pages of a node up, as far as there is room."""
        room = epoch.usage.free_pages + self._kept  # what is kept is kept for this
        room -= np.bincount(moves.node, minlength=len(room))[: len(room)]
        room = np.maximum(room, 0)
        page = _others(epoch, node, moves)
        out = Moves.none()
        left = min(max(0, want), len(page))
        found = next((r for r, nodes in enumerate(self._tiers) if node in nodes), 0)
        for nodes in reversed(self._tiers[:found]):
            for above in sorted(nodes, key=lambda n: -int(room[n])):
                count = min(left, int(room[above]))
                best = _allowed(
                    heat, page, count, Moves.concat(out, moves), above, terms
                )
                up = Moves.to(best, above, Reason.WATERMARK)
                out, left = Moves.concat(out, up), left - len(up)
                if left > 0 and len(up):
                    page = page[~np.isin(page, best)]
        return out

    def _make_reserve(
        self,
        moves: Moves,
        epoch: Epoch,
        node: int,
        heat: "Heat",
        terms: Terms | None,
    ) -> Moves:
        """Return the moves, and before them the coldest pages out of the reserve."""
        parts: list[Moves] = []
        for above in self._above(node):
            short = -int(epoch.usage.free_pages[above])
            if short > 0:
                page = _others(epoch, above, moves)
                if terms is not None:
                    page = page[terms.fits(page, node)]
                    page = heat.extreme(page, len(page), hottest=False)
                    if terms.fast[above]:
                        give = terms.may_give(Moves.concat(*parts, moves), node)
                        page = page[terms.first(page, give)]
                page = heat.extreme(page, short, hottest=False)
                parts.append(Moves.to(page, node, Reason.MAKES_ROOM, 0.0))
        return Moves.concat(*parts, moves) if parts else moves


def _allowed(
    heat: Heat,
    page: NDArray[np.int64],
    count: int,
    planned: Moves,
    node: int,
    terms: Terms | None,
) -> NDArray[np.int64]:
    """Return the hottest of some pages that may go to a node, so many, that first."""
    if terms is None or count <= 0:
        return heat.extreme(page, max(0, count), hottest=True)
    page = page[terms.fits(page, node)]
    page = heat.extreme(page, len(page), hottest=True)
    return page[terms.first(page, terms.may_get(planned, node))][:count]


def _slowed(moves: Moves, node: int, share: float) -> Moves:
    """Return the moves with a share of those into a node, the best of them."""
    if share >= 1.0 or len(moves) == 0:
        return moves
    into = np.flatnonzero(moves.node == node)
    keep = np.ones(len(moves), np.bool_)
    keep[into[int(share * len(into)) :]] = False
    return moves.take(np.flatnonzero(keep))


def _others(epoch: Epoch, node: int, moves: Moves) -> NDArray[np.int64]:
    """Return the pages of a node that are in no move, ascending."""
    here = epoch.node == node
    here[moves.page] = False
    return np.flatnonzero(here)
