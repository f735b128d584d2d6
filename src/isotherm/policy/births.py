"""Birth placement: how much of the fastest tier is kept free for memory that is new.

New memory is born in the fastest tier while that has free pages, else below; and what
is new is often the hottest. A slot kept free costs its price for an epoch. It is worth
keeping while the chance that a birth needs it times what a newborn gains there exceeds
the price (the newsvendor's rule):

    headroom = the largest h with  P(births in an epoch >= h) V >= price
    V = (saving of a young page per epoch - price) x AGES, and the move that it spares

Where there are tenants each has its own births, at its own price of a slot: what they
are kept is taken off its maximum, the moves that make room are at its charge, and the
pages that go are the coldest of those that nobody is owed. Together they keep no more
than what of the tier is owed to nobody. A free slot has no name on it: whoever
allocates first has it, and the next trades put right what does not keep to the terms.

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
from isotherm.policy.coldest import coldest
from isotherm.policy.plan import Birth, Epoch, Moves, Reason
from isotherm.policy.terms import Terms
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

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Births:
    """What is born, how hot it is, and the room kept for it.

    Args:
        topology: Nodes and tiers.
    """

    def __init__(self, topology: Topology) -> None:
        self._fast = np.array(topology.tiers[0].nodes)
        self._below = list(topology.tiers[1].nodes) if len(topology.tiers) > 1 else []
        self._mean, self._square = np.zeros(1), np.zeros(1)  # by tenant
        self._young: deque[NDArray[np.int64]] = deque(maxlen=AGES)
        self._epochs = 0
        #: Pages of the fastest tier that stay free, and of them for each tenant.
        self.headroom = 0
        self.by_tenant: Ints = np.zeros(1, np.int64)

    def regroup(self, place: Ints) -> None:
        """Go on with other tenants; who has come has had no births.

        Args:
            place: Place that each had before, int64[tenants]; -1: it has come.
        """
        if len(self._mean) == 1:
            return
        came = place < 0
        self._mean = np.where(came, 0.0, self._mean[place])
        self._square = np.where(came, 0.0, self._square[place])
        self.by_tenant = np.where(came, 0, self.by_tenant[place])

    def see(
        self,
        counted: NDArray[np.uint8],
        node: NDArray[np.uint8],
        tier: NDArray[np.uint8],
        label: NDArray[np.uint8] | None = None,
        tenants: int = 1,
    ) -> None:
        """Find pages that have come to have memory; call before they are counted.

        Args:
            counted: Tier that each page is counted in, NOT_COUNTED: new.
            node: Placement.
            tier: Tier rank of every node; the number of tiers: in none.
            label: Whose every page is; None: nobody asks.
            tenants: How many there are, the rest included.
        """
        if len(self._mean) != tenants:
            self._mean, self._square = np.zeros(tenants), np.zeros(tenants)
        stride = 1 + len(node) // ASKED
        start = self._epochs % stride
        self._epochs += 1
        upto = min(len(node), len(counted))
        of = tier[node[start:upto:stride]]
        fresh = (counted[start:upto:stride] == NOT_COUNTED) & (of < tier[255])
        page = np.flatnonzero(fresh) * stride + start
        if self._epochs <= SETTLED:
            return
        whose = np.zeros(len(page), np.uint8) if label is None else label[page]
        born = np.bincount(whose, minlength=tenants)[:tenants] * float(stride)
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
        price_ns: float | Floats,
        cost_ns: float,
        terms: Terms | None = None,
    ) -> tuple[Moves, Birth | None, dict[str, float]]:
        """Decide on the headroom; return moves that make it, where birth is, notes.

        Args:
            moves: What else is to move.
            epoch: As the machine tells it, before `reserve`.
            rate: Of every kind of page, accesses per second.
            kind: Kind of every page, uint16[pages].
            saved_ns: What an access per second saves in an epoch in the fastest tier.
            price_ns: Of a slot there for an epoch; with tenants each one's own.
            cost_ns: Of a move.
            terms: What tenants are owed; None: there are none.
        """
        young = self._heat(rate, kind, terms)
        self.headroom = 0
        self.by_tenant = np.zeros(len(self._mean), np.int64)
        if np.isnan(young).all() or not self._below:
            return moves, None, {}
        price = np.broadcast_to(np.asarray(price_ns, np.float64), young.shape)
        for t in np.flatnonzero(~np.isnan(young)).tolist():
            stay = saved_ns * float(young[t]) - float(price[t])
            value = max(0.0, stay) * AGES + (cost_ns if stay > 0 else 0.0)
            self.by_tenant[t] = self._wanted(t, float(price[t]), value)
        size = int(epoch.usage.capacity_pages[self._fast].sum())
        most = int(size * MOST)
        if terms is not None:
            self.by_tenant = np.minimum(self.by_tenant, terms.cap)
            most = min(most, max(0, size - int(terms.floor.sum())))
        if int(self.by_tenant.sum()) > most:
            self.by_tenant = in_parts(self.by_tenant, most, self._mean)
        self.headroom = int(self.by_tenant.sum())
        weight = np.where(np.isnan(young), 0.0, self._mean)
        notes = {
            "births": float(self._mean.sum()),
            "young_rate": float(np.nan_to_num(young) @ weight / weight.sum()),
            "headroom_pages": float(self.headroom),
        }
        node = int(self._fast[int(np.argmax(epoch.usage.free_pages[self._fast]))])
        birth = Birth(node, self.headroom)
        if self.headroom == 0:
            return moves, birth, notes
        room = self._make_room(moves, epoch, rate, kind, terms)
        return Moves.concat(room, moves) if len(room) else moves, birth, notes

    def _heat(
        self, rate: Floats, kind: NDArray[np.uint16], terms: Terms | None
    ) -> Floats:
        """Return the mean rate of each tenant's young pages; NaN while none come."""
        tenants = len(self._mean)
        seen = list(self._young)[:-UNSEEN]
        page = np.concatenate(seen) if seen else np.empty(0, np.int64)
        page = page[page < len(kind)]
        whose = np.zeros(len(page), np.uint8) if terms is None else terms.label[page]
        count = np.bincount(whose, minlength=tenants)[:tenants]
        total = np.bincount(whose, rate[kind[page]], tenants)[:tenants]
        told = (self._mean >= 0.5) & (count > 0)
        found: Floats = np.where(told, total / np.maximum(count, 1), np.nan)
        return found

    def _wanted(self, t: int, price_ns: float, value_ns: float) -> int:
        """Return a tenant's largest headroom whose last slot is worth its price."""
        if value_ns <= price_ns:
            return 0
        mean, square = float(self._mean[t]), float(self._square[t])
        chance = min(max(price_ns / value_ns, 1e-3), 1 - 1e-9)
        variance = max(square - mean**2, mean, 1e-9)
        births = NormalDist(mean, variance**0.5)
        return max(0, round(births.inv_cdf(1 - chance)))

    def _shares(self, capacity: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the headroom of each node of the fastest tier, by its size."""
        size = capacity[self._fast]
        share = self.headroom * size // max(1, int(size.sum()))
        share[0] += self.headroom - int(share.sum())
        found: NDArray[np.int64] = np.minimum(share, size)
        return found

    def _make_room(
        self,
        moves: Moves,
        epoch: Epoch,
        rate: Floats,
        kind: NDArray[np.uint16],
        terms: Terms | None,
    ) -> Moves:
        """Return demotions of the coldest pages, as far as free pages are missing."""
        usage, made = epoch.usage, Moves.none()
        below = sorted(self._below, key=lambda n: -int(usage.free_pages[n]))
        limit = epoch.move_limit_pages - len(moves)
        shares = self._shares(usage.capacity_pages)
        for node, share in zip(self._fast.tolist(), shares.tolist(), strict=True):
            leaving = int(np.count_nonzero(epoch.node[moves.page] == node))
            coming = int(np.count_nonzero(moves.node == node))
            short = share - int(usage.free_pages[node]) - leaving + coming
            # Beyond the roomiest only for who may not go there.
            for into in below if terms is not None else below[:1]:
                count = min(short, limit)
                planned = Moves.concat(made, moves)
                cold = coldest(
                    epoch.node,
                    kind,
                    rate,
                    node,
                    count,
                    (planned.page,),
                    self._epochs,
                    None if terms is None else terms.label,
                    None if terms is None else terms.may_give(planned, into),
                    None if terms is None else terms.weight,
                )
                made = Moves.concat(made, Moves.to(cold, into, Reason.WATERMARK, 0.0))
                short, limit = short - len(cold), limit - len(cold)
        if terms is not None and len(made):
            upto = np.cumsum(self.by_tenant) * len(made) / self.headroom
            at = np.searchsorted(upto, np.arange(len(made)), side="right")
            terms.charge(made.page, at.astype(np.uint8))
        return made


def in_parts(wanted: Ints, most: int, births: Floats) -> Ints:
    """Return what each gets where all want more than there is: nobody more than that.

    What rounding leaves goes a page at a time to those it has cut, most births first;
    there are more of those than pages left.

    Args:
        wanted: Of each, together more than ``most``, int64[T].
        most: Pages there are.
        births: Of each in an epoch.
    """
    parts = wanted * most // int(wanted.sum())
    cut = np.flatnonzero(parts < wanted)
    cut = cut[np.argsort(-births[cut], kind="stable")]
    parts[cut[: most - int(parts.sum())]] += 1
    return parts
