"""The price of fast memory: optimal switching between two tiers.

The advantage of holding a page of cell c in the upper tier rather than the lower:

    D(c) = dL dt r(c) - mu + clip(g sum over c' of P(c'|c) D(c'), -M, +M)

dL latency saved per access, dt the epoch, r the cell's rate, mu the price of an
upper slot for an epoch, P where its pages go next, M the cost of one move, g the
chance that what was seen holds for another epoch, 1 but in the first few. The
clip is the option to move later, which makes it an optimal-switching problem
without a horizon to tune (a restless bandit in the sense of Whittle 1988, with
switching costs as in Glazebrook, Ruiz-Hernandez and Kirkbride 2006).

The price clears trades: it moves until the best bid for a slot and the lowest
ask agree. That line through the pages is the isotherm.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.cells import CELLS

SELF_TRANSITIONS = 4.0  # smoothing: so many pages that stayed
SWEEPS = 4
ROUNDS = 3  # of sweeps and a step of the price, per epoch
PRICE_STEP = 0.3
MARKET_SHARE = 0.02  # bid and ask are those of the best 2 % of pages
DECAY = 0.985
HANDFUL = 10  # epochs watched: from then on P alone says what lasts

Floats = NDArray[np.float64]


class Transitions:
    """Where pages of a cell go next, with exponential forgetting.

    New counts get a growing weight instead of all old ones a shrinking one.

    Attributes:
        count: Pages that went from a cell to a cell, by weight.
        weight: That of a page that goes now.
        watched: Epochs in which there were pages, ``HANDFUL`` + 1 at most.
    """

    def __init__(self) -> None:
        self.count = np.zeros((CELLS, CELLS), np.float32)
        self.weight = 1.0
        self.watched = 0

    def watch(self) -> float:
        """Take note of an epoch; return the chance that what is seen lasts another.

        What was watched for n epochs is taken to last n more: it ends in each with
        a chance of 1/n (of a pattern of unknown age, seen so long, the chance to
        last as long again is a half; Gott 1993). P cannot say so before there are
        counts in it; from a handful of epochs on it does.
        """
        self.watched = min(self.watched + 1, HANDFUL + 1)
        return 1.0 - 1.0 / self.watched if self.watched <= HANDFUL else 1.0

    def forget(self) -> None:
        """Decay by one epoch."""
        self.weight /= DECAY
        if self.weight > 1e6:
            self.count /= np.float32(self.weight)
            self.weight = 1.0

    def among(self, cells: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return P(c'|c) among some cells; what left them is not counted."""
        part = self.count.take(cells, 0).take(cells, 1)
        part *= np.float32(1.0 / self.weight)
        part[np.diag_indices(len(cells))] += np.float32(SELF_TRANSITIONS)
        chance: NDArray[np.float32] = part / part.sum(
            1, keepdims=True, dtype=np.float32
        )
        return chance


class Boundary:
    """Price and advantage at the line between two tiers."""

    def __init__(self) -> None:
        self.price: float | None = None
        self.advantage = np.zeros(CELLS)

    def repace(self, factor: float) -> None:
        """Take epochs to be longer by a factor: a slot costs so much more in one."""
        if self.price is not None:
            self.price *= factor

    def settle(
        self,
        gain_ns: Floats,
        cost_ns: float,
        upper: NDArray[np.int64],
        lower: NDArray[np.int64],
        cells: NDArray[np.int64],
        chance: NDArray[np.float32],
        first_price: float,
        free: int = 0,
    ) -> Floats:
        """Return D of every cell after a few sweeps and steps of the price.

        Args:
            gain_ns: Latency saved per epoch by a page of each cell, [CELLS].
            cost_ns: Cost of one move.
            upper: Pages of each cell in the upper tier.
            lower: Pages of each cell in the lower tier.
            cells: Cells that matter, int64[k].
            chance: P among them, float32[k, k].
            first_price: Price to begin with.
            free: Free slots of the upper tier: while there are many, a slot is
                worth nothing.
        """
        if self.price is None:
            self.price = first_price
        if gain_ns.min() < 0:  # the upper tier is the busy one: a slot is for nothing
            self.price = 0.0
        depth = max(1.0, MARKET_SHARE * float(upper.sum() + lower.sum()))
        bound = np.float32(cost_ns)
        advantage = self.advantage[cells].astype(np.float32)
        gain = gain_ns[cells].astype(np.float32)
        up, down = upper[cells], lower[cells]
        for _ in range(ROUNDS):
            net = gain - np.float32(self.price)
            for _ in range(SWEEPS):
                advantage = net + np.clip(chance @ advantage, -bound, bound)
            middle = _middle(advantage, up, down, depth)
            if free >= depth:
                middle = min(middle, -self.price)
            step = PRICE_STEP * middle
            if abs(middle) >= cost_ns:
                step = middle - np.sign(middle) * cost_ns * (1 - PRICE_STEP)
            self.price = max(0.0, self.price + step)
        rest = np.full(CELLS, True)
        rest[cells] = False
        self.advantage[rest] = np.clip(gain_ns[rest] - self.price, -cost_ns, cost_ns)
        self.advantage[cells] = advantage
        return self.advantage


def _middle(
    advantage: NDArray[np.float32],
    upper: NDArray[np.int64],
    lower: NDArray[np.int64],
    depth: float,
) -> float:
    """Return the middle of bid (lower tier's best) and ask (upper tier's worst)."""
    order = np.argsort(-advantage, kind="stable")
    last = len(order) - 1
    bid = np.searchsorted(np.cumsum(lower[order]), depth)
    ask = np.searchsorted(np.cumsum(upper[order[::-1]]), depth)
    best = advantage[order[min(int(bid), last)]]
    worst = advantage[order[::-1][min(int(ask), last)]]
    return (float(best) + float(worst)) / 2.0


def trades(
    advantage: Floats,
    upper: NDArray[np.int64],
    lower: NDArray[np.int64],
    free: int,
    cost_ns: float,
    limit: int,
    room: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many pages of each cell go up and down.

    A free slot is filled while D > M; a swap is made while the D of the one
    exceeds that of the other by 2 M; best first, at most ``limit`` moves. Where
    pages may leave without another's coming, they do while D < -M.

    Args:
        advantage: D per cell.
        upper: Pages per cell in the upper tier.
        lower: Pages per cell in the lower tier.
        free: Free slots of the upper tier.
        cost_ns: M.
        limit: Moves at most.
        room: Pages that may leave for free slots of the lower tier: where an access
            loses in the upper one.
    """
    up = np.zeros(CELLS, np.int64)
    down = np.zeros(CELLS, np.int64)
    sellers = np.flatnonzero(upper > 0)
    sellers = sellers[np.argsort(advantage[sellers], kind="stable")]
    buyers = np.flatnonzero(lower > 0)
    buyers = buyers[np.argsort(-advantage[buyers], kind="stable")]
    for v in sellers:
        if room <= 0 or limit <= 0 or advantage[v] >= -cost_ns:
            break
        leave = min(int(upper[v]), room, limit)
        down[v] += leave
        room -= leave
        limit -= leave
    i = 0
    while i < len(sellers) and down[sellers[i]] == upper[sellers[i]]:
        i += 1
    for c in buyers:
        wish = int(lower[c])
        take = min(wish, free, limit) if advantage[c] > cost_ns else 0
        up[c] += take
        free -= take
        limit -= take
        wish -= take
        while wish > 0 and i < len(sellers) and limit >= 2:
            v = sellers[i]
            if advantage[c] - advantage[v] <= 2 * cost_ns:
                return up, down
            pairs = min(wish, int(upper[v]) - int(down[v]), limit // 2)
            up[c] += pairs
            down[v] += pairs
            wish -= pairs
            limit -= 2 * pairs
            if down[v] == upper[v]:
                i += 1
        if limit == 0 or (free == 0 and i >= len(sellers)):
            break
    return up, down
