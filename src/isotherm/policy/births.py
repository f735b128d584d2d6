"""Birth placement: how much of the fastest tier is kept free for memory that is new.

New memory is born in the fastest tier while that has free pages, else below; and what
is new is often the hottest. A slot kept free costs its price for an epoch. It is worth
keeping while the chance that a birth needs it times what a newborn gains there exceeds
the price (the newsvendor's rule):

    headroom = the largest h with  P(births in an epoch >= h) V >= price
    V = (saving of a young page per epoch - price) x AGES, and the move that it spares

Where there are tenants no room is kept: who would give it up, and where to, is for
their terms to say (`isotherm.policy.tenant_market`).

TPP keeps a share of the node, whatever is born and however hot it is; the kernel's own
watermarks hardly anything.
"""

from collections import deque
from dataclasses import replace
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.cells import NOT_COUNTED
from isotherm.policy.plan import Birth, Epoch, Moves, Reason
from isotherm.topology.model import Topology

#: Epochs for which a page is young, and is taken to stay as it is.
AGES: Final = 8
#: Of these, the first are not asked: nothing has been seen of the page yet.
UNSEEN: Final = 2
#: How fast the births that are expected follow those that are seen, per epoch.
FOLLOW: Final = 0.1
#: Of the fastest tier, kept free at most.
MOST: Final = 1 / 16
#: Births are counted on about so many pages.
ASKED: Final = 1 << 16
#: Epochs that pass before births count: at first every page is new to us.
SETTLED: Final = 4
#: Of a large memory, so many pages are looked at in an epoch for the coldest.
SEARCHED: Final = 1 << 20

Floats = NDArray[np.float64]


class Births:
    """What is born, how hot it is, and the room kept for it.

    Args:
        topology: Nodes and tiers.
    """

    def __init__(self, topology: Topology) -> None:
        self._fast = np.array(topology.tiers[0].nodes)
        self._below = list(topology.tiers[1].nodes) if len(topology.tiers) > 1 else []
        self._mean = self._square = 0.0
        self._young: deque[NDArray[np.int64]] = deque(maxlen=AGES)
        self._epochs = 0
        #: Pages of the fastest tier that stay free.
        self.headroom = 0

    def see(
        self,
        counted: NDArray[np.uint8],
        node: NDArray[np.uint8],
        tier: NDArray[np.uint8],
    ) -> None:
        """Find pages that have come to have memory; call before they are counted.

        Args:
            counted: Tier that each page is counted in, NOT_COUNTED: new.
            node: Placement.
            tier: Tier rank of every node; the number of tiers: in none.
        """
        stride = 1 + len(node) // ASKED
        start = self._epochs % stride
        self._epochs += 1
        upto = min(len(node), len(counted))
        of = tier[node[start:upto:stride]]
        fresh = (counted[start:upto:stride] == NOT_COUNTED) & (of < tier[255])
        page = np.flatnonzero(fresh) * stride + start
        if self._epochs <= SETTLED:
            return
        born = float(len(page) * stride)
        self._mean += FOLLOW * (born - self._mean)
        self._square += FOLLOW * (born * born - self._square)
        self._young.append(page)

    def reserve(self, epoch: Epoch) -> Epoch:
        """Return the epoch with the room for births left out."""
        if self.headroom == 0:
            return epoch
        capacity = epoch.usage.capacity_pages.copy()
        capacity[self._fast] -= self._shares(capacity)
        return replace(epoch, usage=replace(epoch.usage, capacity_pages=capacity))

    def settle(
        self,
        moves: Moves,
        epoch: Epoch,
        rate: Floats,
        kind: NDArray[np.uint16],
        saved_ns: float,
        price_ns: float,
        cost_ns: float,
    ) -> tuple[Moves, Birth | None, dict[str, float]]:
        """Decide on the headroom; return moves that make it, where birth is, notes.

        Args:
            moves: What else is to move.
            epoch: As the machine tells it, before `reserve`.
            rate: Of every kind of page, accesses per second.
            kind: Kind of every page, uint16[pages].
            saved_ns: What an access per second saves in an epoch in the fastest tier.
            price_ns: Of a slot there for an epoch.
            cost_ns: Of a move.
        """
        young = self._heat(rate, kind)
        if young is None or not self._below or epoch.tenant is not None:
            self.headroom = 0
            return moves, None, {}
        stay = saved_ns * young - price_ns
        value = max(0.0, stay) * AGES + (cost_ns if stay > 0 else 0.0)
        most = int(epoch.usage.capacity_pages[self._fast].sum() * MOST)
        self.headroom = min(most, self._wanted(price_ns, value))
        notes = {
            "births": self._mean,
            "young_rate": young,
            "headroom_pages": float(self.headroom),
        }
        node = int(self._fast[int(np.argmax(epoch.usage.free_pages[self._fast]))])
        birth = Birth(node, self.headroom)
        if self.headroom == 0:
            return moves, birth, notes
        room = self._make_room(moves, epoch, rate, kind)
        return Moves.concat(room, moves) if len(room) else moves, birth, notes

    def _heat(self, rate: Floats, kind: NDArray[np.uint16]) -> float | None:
        """Return the mean rate of young pages; None while none have come."""
        seen = list(self._young)[:-UNSEEN]
        page = np.concatenate(seen) if seen else np.empty(0, np.int64)
        page = page[page < len(kind)]
        if self._mean < 0.5 or len(page) == 0:
            return None
        return float(rate[kind[page]].mean())

    def _wanted(self, price_ns: float, value_ns: float) -> int:
        """Return the largest headroom whose last slot is worth its price."""
        if value_ns <= price_ns:
            return 0
        chance = min(max(price_ns / value_ns, 1e-3), 1 - 1e-9)
        variance = max(self._square - self._mean**2, self._mean, 1e-9)
        births = NormalDist(self._mean, variance**0.5)
        return max(0, round(births.inv_cdf(1 - chance)))

    def _shares(self, capacity: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the headroom of each node of the fastest tier, by its size."""
        size = capacity[self._fast]
        share = self.headroom * size // max(1, int(size.sum()))
        share[0] += self.headroom - int(share.sum())
        found: NDArray[np.int64] = np.minimum(share, size)
        return found

    def _make_room(
        self, moves: Moves, epoch: Epoch, rate: Floats, kind: NDArray[np.uint16]
    ) -> Moves:
        """Return demotions of the coldest pages, as far as free pages are missing."""
        usage, parts = epoch.usage, [Moves.none()]
        into = int(self._below[int(np.argmax(usage.free_pages[self._below]))])
        limit = epoch.move_limit_pages - len(moves)
        shares = self._shares(usage.capacity_pages)
        windows = -(-len(epoch.node) // SEARCHED)
        first = self._epochs % windows * SEARCHED
        for node, share in zip(self._fast.tolist(), shares.tolist(), strict=True):
            leaving = int(np.count_nonzero(epoch.node[moves.page] == node))
            coming = int(np.count_nonzero(moves.node == node))
            short = share - int(usage.free_pages[node]) - leaving + coming
            short = min(short, limit)
            if short <= 0:
                continue
            here = first + np.flatnonzero(epoch.node[first : first + SEARCHED] == node)
            here = here[~np.isin(here, moves.page)]
            short = min(short, len(here))
            if short == 0:
                continue
            heat = rate[kind[here]]
            cold = here[np.argpartition(heat, short - 1)[:short]]
            parts.append(Moves.to(np.sort(cold), into, Reason.WATERMARK, 0.0))
            limit -= short
        return Moves.concat(*parts)
