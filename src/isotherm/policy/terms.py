"""What a plan owes tenants, for all who add to it after the trades.

Trades keep to the terms by themselves (`isotherm.policy.tenant_trades`). What comes
after them, pages that cross between nodes of a tier, go where their accessors are,
leave a device that fills up or make room for births, asks here: where a page may go,
how many a tenant may give of the fastest tier, and how many it may get there.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.plan import Moves
from isotherm.policy.tenants import Labels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one epoch, after the trades; columns are by tenant, the rest last.

    Attributes:
        label: Whose every page is, uint8[pages].
        node: Placement, uint8[pages].
        allowed: Nodes that its pages may go to, bool[T, 256].
        fast: Nodes of the fastest tier, bool[256].
        held: Pages there now, int64[T].
        floor: Pages there that nobody else may send away, int64[T].
        cap: Pages there at most.
        weight: What its gain counts, float64[T].
        moves_left: Moves that it may still make in the epoch, int64[T].
        traded: Pages of the trades: where those may go has been asked already, and a
            page that is kept out below makes room for a hotter one of its own, or
            for what is owed to others. None: there were none.
        charges: Pages, and who pays for their moves where it is not whose they are;
            added to.
    """

    label: Labels
    node: NDArray[np.uint8]
    allowed: NDArray[np.bool_]
    fast: NDArray[np.bool_]
    held: Ints
    floor: Ints
    cap: Ints
    weight: Floats
    moves_left: Ints
    traded: NDArray[np.uint32] | None = None
    charges: list[tuple[NDArray[np.integer], Labels]] = field(default_factory=list)

    def fits(
        self, page: NDArray[np.integer], node: NDArray[np.integer] | int
    ) -> NDArray[np.bool_]:
        """Return whether each page may go to its node, bool[n]."""
        found: NDArray[np.bool_] = self.allowed[self.label[page], node]
        return found

    def may_give(self, moves: Moves, into: int) -> Ints:
        """Return how many pages each may give to a node below, beside the moves.

        Args:
            moves: What is planned already.
            into: Where they would go.
        """
        spare = np.maximum(0, self.held + self._net(moves) - self.floor)
        return np.where(self.allowed[:, into], spare, 0)

    def may_get(self, moves: Moves, node: int) -> Ints:
        """Return how many more pages of each may go up to a node.

        Args:
            moves: What is planned already.
            node: Where they would go.
        """
        room = np.full(len(self.cap), len(self.label), np.int64)
        if self.fast[node]:
            room = np.maximum(0, self.cap - self.held - self._net(moves))
        return np.where(self.allowed[:, node], room, 0)

    def first(self, page: NDArray[np.integer], most: Ints) -> NDArray[np.bool_]:
        """Return which pages are among the first so many of their tenant's, bool[n].

        Args:
            page: Pages, best first.
            most: Of each tenant, int64[T].
        """
        whose = self.label[page]
        fits = np.ones(len(page), np.bool_)
        for t in np.unique(whose).tolist():
            fits[np.flatnonzero(whose == t)[max(0, int(most[t])) :]] = False
        return fits

    def charge(self, page: NDArray[np.integer], payer: Labels) -> None:
        """Note who pays for moves that are made for another's sake."""
        self.charges.append((page, payer))

    def hold(self, moves: Moves) -> Moves:
        """Return the moves that keep to the terms, all of them together.

        Where something has been taken out of a plan its other half may be one move
        too many: a page that made room for one that does not come.
        """
        keep = self.fits(moves.page, moves.node)
        if self.traded is not None and not keep.all():
            keep |= np.isin(moves.page, self.traded)
        was, to = self.fast[self.node[moves.page]], self.fast[moves.node]
        whose, tenants = self.label[moves.page], len(self.held)
        up, down = keep & to & ~was, keep & was & ~to
        ups = np.bincount(whose[up], minlength=tenants)
        downs = np.bincount(whose[down], minlength=tenants)
        most = np.maximum(self.cap, self.held) - self.held + downs
        at = np.flatnonzero(up)
        keep[at[~self.first(moves.page[at], most)]] = False
        ups = np.minimum(ups, most)
        most = np.maximum(0, self.held + ups - np.minimum(self.held, self.floor))
        at = np.flatnonzero(down)
        keep[at[~self.first(moves.page[at], most)]] = False
        return moves if keep.all() else moves.take(np.flatnonzero(keep))

    def _net(self, moves: Moves) -> Ints:
        """Return the pages that moves bring into the fastest tier, less those out."""
        was, to = self.fast[self.node[moves.page]], self.fast[moves.node]
        whose, tenants = self.label[moves.page], len(self.held)
        ups = np.bincount(whose[to & ~was], minlength=tenants)
        downs = np.bincount(whose[was & ~to], minlength=tenants)
        net: Ints = (ups - downs).astype(np.int64)
        return net
