"""The prices at one boundary between tiers: one common, and one of each tenant.

A tenant whose slots heat alone would decide pays the common price over its weight.
One that is owed slots, or may have no more, has a market of its own with so many
slots, and the price that clears it: below the common one where it is owed more than
it would hold, above it where it may hold no more. Within a market the price is
found as without tenants (`isotherm.policy.switching`).
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.cells import CELLS
from isotherm.policy.switching import MARKET_SHARE, PRICE_STEP, ROUNDS, SWEEPS
from isotherm.policy.tenant_shares import COMMON, Shares

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class TenantPrices:
    """Prices and advantages at the line between two tiers.

    Args:
        weight: Of each tenant, float64[T].

    Attributes:
        common: Price of a slot for an epoch, weighted ns; None before the first.
        own: The same of each tenant in its own ns, float64[T].
        advantage: Of a page of each cell, own ns, float64[T, CELLS].
    """

    def __init__(self, weight: Floats) -> None:
        self._weight = weight
        self.common: float | None = None
        self.own = np.zeros(len(weight))
        self.advantage = np.zeros((len(weight), CELLS))

    def repace(self, factor: float) -> None:
        """Take epochs to be longer by a factor: a slot costs so much more in one."""
        if self.common is not None:
            self.common *= factor
            self.own *= factor

    def take(self, before: "TenantPrices", place: Ints) -> None:
        """Go on with the prices of others before them.

        Args:
            before: Prices of who was there.
            place: Place of each tenant among those, int64[T]; -1: it has come, and
                begins as the rest, the last of them, is.
        """
        if before.common is None:
            return
        self.common = before.common
        came = place < 0
        self.own = np.where(came, before.common / self._weight, before.own[place])
        self.advantage = before.advantage[place]

    def settle(
        self,
        gain_ns: Floats,
        cost_ns: float,
        upper: Ints,
        lower: Ints,
        shares: Shares,
        cells: NDArray[np.int64],
        chance: NDArray[np.float32],
        first_price: float,
    ) -> Floats:
        """Return the advantage after a few sweeps and steps of the prices.

        Args:
            gain_ns: Latency saved per epoch by a page of each cell, [CELLS].
            cost_ns: Cost of one move.
            upper: Pages in the upper tier, int64[T, CELLS].
            lower: Pages in the lower tier, likewise.
            shares: Who is owed what.
            cells: Cells that matter, int64[k].
            chance: Where their pages go next, float32[k, k].
            first_price: Common price to begin with.
        """
        if self.common is None:
            self.common = first_price
            self.own = first_price / self._weight
        bound = np.float32(cost_ns)
        gain = gain_ns[cells].astype(np.float32)[:, None]
        value = self.advantage[:, cells].T.astype(np.float32)
        up, down = upper[:, cells], lower[:, cells]
        together = np.flatnonzero(shares.pool == COMMON)
        alone = np.flatnonzero(shares.pool != COMMON)
        for _ in range(ROUNDS):
            self.own[together] = self.common / self._weight[together]
            net = gain - self.own.astype(np.float32)
            for _ in range(SWEEPS):
                value = net + np.clip(chance @ value, -bound, bound)
            if len(together):
                room = float(shares.slots[together].sum()) - float(up[together].sum())
                worth = (value[:, together] * self._weight[together]).T.ravel()
                mine = up[together].ravel()
                weight = float(self._weight[together].mean())
                self.common = _step(
                    self.common, worth, mine, down[together].ravel(), int(room),
                    weight * cost_ns,
                )  # fmt: skip
            for t in alone:
                spare = int(shares.slots[t]) - int(up[t].sum())
                self.own[t] = _step(
                    float(self.own[t]), value[:, t], up[t], down[t], spare, cost_ns
                )
        rest = np.full(CELLS, fill_value=True)
        rest[cells] = False
        others = gain_ns[rest] - self.own[:, None]
        self.advantage[:, rest] = np.clip(others, -cost_ns, cost_ns)
        self.advantage[:, cells] = value.T
        return self.advantage


def _step(
    price: float,
    worth: NDArray[np.floating],
    upper: Ints,
    lower: Ints,
    free: int,
    cost: float,
) -> float:
    """Return a price a step nearer to where trades just stop.

    Args:
        price: Now.
        worth: Of the pages of each row.
        upper: Pages of each row in the upper tier.
        lower: In the lower tier.
        free: Slots that are free; below 0: pages that are to leave.
        cost: Of a move.
    """
    pages = float(upper.sum() + lower.sum())
    if pages == 0:
        return price
    depth = max(1.0, MARKET_SHARE * pages)
    order = np.argsort(-worth, kind="stable")
    last = len(order) - 1
    bid = min(int(np.searchsorted(np.cumsum(lower[order]), depth)), last)
    ask = min(int(np.searchsorted(np.cumsum(upper[order[::-1]]), depth)), last)
    middle = (float(worth[order[bid]]) + float(worth[order[last - ask]])) / 2.0
    if free >= depth:
        middle = min(middle, -price)
    elif free <= -depth:
        slots = max(0.0, float(upper.sum()) + free)
        at = int(np.searchsorted(np.cumsum((upper + lower)[order]), slots))
        # Those beyond have to pay to leave, not merely to be worth no more.
        middle = max(middle, float(worth[order[min(at, last)]]) + cost)
    step = PRICE_STEP * middle
    if abs(middle) >= cost:
        step = middle - np.sign(middle) * cost * (1 - PRICE_STEP)
    return max(0.0, price + float(step))
