"""The round of trades among tenants: one loop over who would buy, the best first.

What the rules are is in `isotherm.policy.tenant_trades`. A tenant has at most as many
cells as there are, and a host at most 65 tenants: for each of 40,000 buyers all heads
of the sellers' queues may have to be compared, so the loop is compiled.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: (seller, cell, who pays, pages) of pages that make room, in order, int64[n, 4].
Paid = NDArray[np.int64]

#: Moves of a swap: nobody's part of an epoch's moves is less.
LEAST_MOVES: Final = 2


class _Round:
    """One round of trading, in plain Python."""

    def __init__(
        self,
        worth: Floats,
        cost: Floats,
        upper: Ints,
        owed: Ints,
        entitled: Ints,
        grow: Ints,
        cap: Ints,
        beyond: Floats,
        cells: Ints,
        count: Ints,
        up: Ints,
        down: Ints,
        out: Ints,
    ) -> None:
        self.worth, self.upper = worth, upper
        self.up, self.down, self.out = up, down, out
        self.used = upper.sum(1).tolist()
        self.owed, self.cap = owed.tolist(), cap.tolist()
        self.entitled, self.grow = entitled.tolist(), grow.tolist()
        self.cost, self.beyond = cost.tolist(), beyond.tolist()
        self.sellers = [  # the worst last
            row[:n][::-1].tolist() for row, n in zip(cells, count, strict=True)
        ]
        self.head = [self._head(t) for t in range(len(cost))]
        self.paid: list[tuple[int, int, int, int]] = []
        self.free = self.limit = 0
        self.budget: list[int] = []
        self.spent = [0] * len(cost)

    def run(self, buyers: Ints, free: int, limit: int, first: Ints, most: Ints) -> Paid:
        """Return who pays for what makes room."""
        self.free, self.limit = free, limit
        self._leave(most.tolist())
        self.budget = [b - s for b, s in zip(first.tolist(), self.spent, strict=True)]
        waiting = self._buy(buyers.tolist())
        if waiting and self.limit > 0:
            self.budget = [
                b - s for b, s in zip(most.tolist(), self.spent, strict=True)
            ]
            self._buy(waiting)
        return np.array(self.paid, np.int64).reshape(-1, 4)

    def _head(self, t: int) -> float:
        """Return the worth of a tenant's worst page in the upper tier."""
        left = self.sellers[t]
        return float(self.worth[t, left[-1]]) if left else np.inf

    def _buy(self, buyers: list[list[int]]) -> list[list[int]]:
        """Let them buy; return who had no moves left."""
        waiting = []
        cheapest = min(self.cost)
        for t, c, pages in buyers:
            if self.limit <= 0:
                break
            worth = float(self.worth[t, c])
            cheap = worth - min(self.head) <= self.cost[t] + cheapest
            if self.free <= 0 and cheap and self.used[t] >= self.owed[t]:
                continue
            wish, has_moves = self._buy_for(t, c, pages, worth)
            if wish and not has_moves:
                waiting.append([t, c, wish])
        return waiting

    def _buy_for(self, t: int, c: int, wish: int, worth: float) -> tuple[int, bool]:
        """Buy for a cell; return what it still wishes, and whether it has moves."""
        while wish > 0:
            moves = min(self.budget[t], self.limit)
            room = self.cap[t] - self.used[t]
            if self.free > 0 and room > 0 and worth > self.cost[t]:
                n = min(wish, self.free, room, moves)
                if n <= 0:
                    return wish, False
                self.free -= n
                self.used[t] += n
                self._spend(t, n)
            else:
                room = self.grow[t] - self.used[t]
                j, asked = self._seller(t, may_grow=room > 0)
                if j < 0 or worth <= asked:
                    return wish, True
                n = min(wish, moves // 2)
                if n <= 0:
                    return wish, False
                n = self._swap(t, j, n if j == t else min(n, room))
            self.up[t, c] += n
            wish -= n
        return 0, True

    def _seller(self, t: int, *, may_grow: bool) -> tuple[int, float]:
        """Return who sells most cheaply to a tenant, and for what; -1: nobody."""
        best, at = self.head[t] + 2 * self.cost[t], t if self.sellers[t] else -1
        owed = self.used[t] < self.owed[t]
        if may_grow:
            for j, head in enumerate(self.head):
                if j == t or self.used[j] <= self.owed[j]:
                    continue
                asked = head + self.cost[t] + self.cost[j]
                if owed:
                    asked -= self.beyond[j]
                if asked < best:
                    best, at = asked, j
        return at, best

    def _swap(self, t: int, j: int, n: int) -> int:
        """Sell a tenant's worst pages, all of one cell, to another; return how many."""
        v = self.sellers[j][-1]
        n = min(n, int(self.upper[j, v] - self.down[j, v] - self.out[j, v]))
        payer = t
        if j != t:
            for line in (self.owed[j], self.entitled[j]):  # terms change there
                if self.used[j] > line:
                    n = min(n, self.used[j] - line)
            if self.used[t] < self.entitled[t] and self.used[j] > self.entitled[j]:
                n = min(n, self.entitled[t] - self.used[t])
                payer = j
            self.used[j] -= n
            self.used[t] += n
        self.down[j, v] += n
        self.paid.append((j, v, payer, n))
        self._sold(j, v)
        self._spend(t, 2 * n)
        return n

    def _spend(self, t: int, moves: int) -> None:
        self.limit -= moves
        self.budget[t] -= moves
        self.spent[t] += moves

    def _leave(self, most: list[int]) -> None:
        """Send out what tenants hold beyond their maximum, the worst first."""
        self.budget = most.copy()
        for t, used in enumerate(self.used):
            over = min(used - self.cap[t], self.limit, self.budget[t])
            while over > 0 and self.sellers[t]:
                v = self.sellers[t][-1]
                n = min(over, int(self.upper[t, v]))
                self.out[t, v] += n
                self.used[t] -= n
                self.free += n
                over -= n
                self._spend(t, n)
                self._sold(t, v)

    def _sold(self, j: int, v: int) -> None:
        """Go on to a seller's next cell where this one has no page left."""
        if self.down[j, v] + self.out[j, v] == self.upper[j, v]:
            self.sellers[j].pop()
            self.head[j] = self._head(j)


def trade_twin(
    worth: Floats,
    cost: Floats,
    upper: Ints,
    owed: Ints,
    entitled: Ints,
    grow: Ints,
    cap: Ints,
    beyond: Floats,
    cells: Ints,
    count: Ints,
    buyers: Ints,
    free: int,
    limit: int,
    first: Ints,
    most: Ints,
    up: Ints,
    down: Ints,
    out: Ints,
) -> Paid:
    """Plain twin of `trade`."""
    one = _Round(
        worth, cost, upper, owed, entitled, grow, cap, beyond, cells, count,
        up, down, out,
    )  # fmt: skip
    return one.run(buyers, free, limit, first, most)


@compiled
def _seller(
    t: int,
    head: Floats,
    cost: Floats,
    used: Ints,
    owed: Ints,
    beyond: Floats,
    may_grow: bool,
) -> tuple[int, float]:
    """Return who sells most cheaply to a tenant, and for what; -1: nobody."""
    best = head[t] + 2 * cost[t]
    at = t if head[t] < np.inf else -1
    if may_grow:
        wants = used[t] < owed[t]
        for j in range(head.size):
            if j == t or used[j] <= owed[j]:
                continue
            asked = head[j] + cost[t] + cost[j]
            if wants:
                asked -= beyond[j]
            if asked < best:
                best = asked
                at = j
    return at, best


@kernel(twin=trade_twin)
def trade(
    worth: Floats,
    cost: Floats,
    upper: Ints,
    owed: Ints,
    entitled: Ints,
    grow: Ints,
    cap: Ints,
    beyond: Floats,
    cells: Ints,
    count: Ints,
    buyers: Ints,
    free: int,
    limit: int,
    first: Ints,
    most: Ints,
    up: Ints,
    down: Ints,
    out: Ints,
) -> Paid:
    """Make the trades of a round; return who pays for what makes room.

    Args:
        worth: As in a `Book`, and so are those below unless said otherwise.
        cost: Of a move.
        upper: Pages in the upper tier.
        owed: Slots that nobody may buy.
        entitled: Slots guaranteed.
        grow: Slots up to which each may buy from others, at most ``cap``.
        cap: Slots at most.
        beyond: What ``worth`` is above heat's.
        cells: Of each tenant in the upper tier, the worst first, int64[T, cells].
        count: How many those are, int64[T].
        buyers: (tenant, cell, pages) of who would buy, the best first, int64[n, 3].
        free: Free slots.
        limit: Moves at most.
        first: Moves that each may make before it has to wait, int64[T].
        most: Moves that each may make at all, int64[T].
        up: Pages that go up, filled, int64[T, cells].
        down: Pages that make room, likewise.
        out: Pages that are beyond a maximum, likewise.
    """
    tenants = cost.size
    used = upper.sum(1)
    spent = np.zeros(tenants, np.int64)
    at = np.zeros(tenants, np.int64)  # of each seller's queue
    head = np.full(tenants, np.inf)
    for t in range(tenants):
        if count[t] > 0:
            head[t] = worth[t, cells[t, 0]]
    for t in range(tenants):  # what is held beyond a maximum leaves
        over = min(used[t] - cap[t], limit, most[t])
        while over > 0 and at[t] < count[t]:
            v = cells[t, at[t]]
            n = min(over, upper[t, v])
            out[t, v] += n
            used[t] -= n
            free += n
            over -= n
            limit -= n
            spent[t] += n
            if out[t, v] == upper[t, v]:
                at[t] += 1
                head[t] = worth[t, cells[t, at[t]]] if at[t] < count[t] else np.inf
    paid = np.empty((1024, 4), np.int64)
    lines = 0
    cheapest = cost.min()
    queue, waiting = buyers, np.empty_like(buyers)
    waits = len(buyers)
    for turn in range(2):
        budget = (first if turn == 0 else most) - spent
        waited, waits = waits, 0
        for i in range(waited):
            if limit <= 0:
                break
            t, c, wish = queue[i, 0], queue[i, 1], queue[i, 2]
            price = worth[t, c]
            cheap = price - head.min() <= cost[t] + cheapest
            if free <= 0 and cheap and used[t] >= owed[t]:
                continue
            late = False
            while wish > 0:
                moves = min(budget[t], limit)
                room = cap[t] - used[t]
                if free > 0 and room > 0 and price > cost[t]:
                    n = min(wish, free, room, moves)
                    if n <= 0:
                        late = True
                        break
                    free -= n
                    used[t] += n
                    spends = n
                else:
                    room = grow[t] - used[t]
                    j, asked = _seller(t, head, cost, used, owed, beyond, room > 0)
                    if j < 0 or price <= asked:
                        break
                    n = min(wish, moves // 2)
                    if n <= 0:
                        late = True
                        break
                    v = cells[j, at[j]]
                    n = min(n, upper[j, v] - down[j, v] - out[j, v])
                    payer = t
                    if j != t:
                        n = min(n, room)
                        if used[j] > owed[j]:  # terms change there
                            n = min(n, used[j] - owed[j])
                        if used[j] > entitled[j]:
                            n = min(n, used[j] - entitled[j])
                            if used[t] < entitled[t]:
                                n = min(n, entitled[t] - used[t])
                                payer = j
                        used[j] -= n
                        used[t] += n
                    down[j, v] += n
                    if lines == len(paid):
                        more = np.empty((2 * lines, 4), np.int64)
                        more[:lines] = paid
                        paid = more
                    paid[lines, 0], paid[lines, 1] = j, v
                    paid[lines, 2], paid[lines, 3] = payer, n
                    lines += 1
                    if down[j, v] + out[j, v] == upper[j, v]:
                        at[j] += 1
                        head[j] = np.inf
                        if at[j] < count[j]:
                            head[j] = worth[j, cells[j, at[j]]]
                    spends = 2 * n
                up[t, c] += n
                wish -= n
                limit -= spends
                budget[t] -= spends
                spent[t] += spends
            if late:
                waiting[waits, 0], waiting[waits, 1], waiting[waits, 2] = t, c, wish
                waits += 1
        queue = waiting
    return paid[:lines]
