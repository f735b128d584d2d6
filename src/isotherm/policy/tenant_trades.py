"""Trades among tenants: who buys a slot from whom, and who pays for the moves."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(slots=True)
class Deals:
    """What is to move, by tenant and cell.

    Attributes:
        up: Pages that go up, int64[T, cells].
        down: Pages that make room, int64[T, cells].
        out: Pages that leave because their tenant holds more than it may, likewise.
        payer: ``(seller, cell) -> [(who pays, pages), ...]`` of ``down``, in order.
    """

    up: Ints
    down: Ints
    out: Ints
    payer: dict[tuple[int, int], list[tuple[int, int]]] = field(default_factory=dict)


@dataclass(slots=True)
class Book:
    """What a boundary's trades start from.

    Attributes:
        worth: Weighted advantage of a page in the upper tier, float64[T, cells].
        cost: Weighted cost of a move of each tenant's, float64[T].
        upper: Pages in the upper tier, int64[T, cells].
        lower: Pages in the lower tier.
        owed: Slots that nobody may buy from a tenant, int64[T].
        entitled: Slots guaranteed: what others hold of them is borrowed.
        grow: Slots up to which it may buy from others at its price.
        cap: Slots at most.
        buys: Who may buy at all, bool[T].
        free: Free slots.
        limit: Moves at most.
        share: Of the moves, what each may make before it has to wait, float64[T].
        most: Of the moves, what each may make at all.
    """

    worth: Floats
    cost: Floats
    upper: Ints
    lower: Ints
    owed: Ints
    entitled: Ints
    grow: Ints
    cap: Ints
    buys: NDArray[np.bool_]
    free: int
    limit: int
    share: Floats
    most: Floats


def deal(book: Book) -> Deals:
    """Return the trades that pay, best first.

    * A free slot is filled while the worth of the page exceeds the cost of a move.
    * A swap is made while the worths differ by more than the costs of both moves.
    * Nobody sells to another what it is owed, or buys above its maximum.
    * The moves of an epoch are shared by weight; what one leaves others take.

    The moves of a swap are the buyer's; but who has borrowed of a guarantee pays for
    giving it back.
    """
    return _Round(book).run()


class _Round:
    """One round of trading."""

    def __init__(self, book: Book) -> None:
        self.book = book
        shape = book.upper.shape
        none = np.zeros(shape, np.int64)
        self.deals = Deals(none, none.copy(), none.copy())
        self.used = book.upper.sum(1).tolist()
        self.owed, self.cap = book.owed.tolist(), book.cap.tolist()
        self.entitled = book.entitled.tolist()
        self.grow = np.minimum(book.grow, book.cap).tolist()
        self.cost = book.cost.tolist()
        self.free, self.limit = book.free, book.limit
        self.budget = [int(share * book.limit) for share in book.share.tolist()]
        self.spent = [0] * shape[0]
        self.sellers: list[list[int]] = []
        for t in range(shape[0]):
            cells = np.flatnonzero(book.upper[t])
            order = np.argsort(book.worth[t, cells], kind="stable")
            self.sellers.append(cells[order][::-1].tolist())  # the worst last
        self.head = [self._head(t) for t in range(shape[0])]

    def run(self) -> Deals:
        """Return the trades."""
        book = self.book
        self._leave()
        waiting = self._buy(self._buyers())
        if waiting and self.limit > 0:
            self.budget = [
                int(most * book.limit) - spent
                for most, spent in zip(book.most.tolist(), self.spent, strict=True)
            ]
            self._buy(waiting)
        return self.deals

    def _buyers(self) -> list[tuple[int, int, int]]:
        """Return (tenant, cell, pages) of who would buy, the best first."""
        book = self.book
        tenant, cell = np.nonzero(book.lower * book.buys[:, None])
        order = np.argsort(-book.worth[tenant, cell], kind="stable")
        tenant, cell = tenant[order], cell[order]
        wish = book.lower[tenant, cell]
        return list(zip(tenant.tolist(), cell.tolist(), wish.tolist(), strict=True))

    def _head(self, t: int) -> float:
        """Return the worth of a tenant's worst page in the upper tier."""
        left = self.sellers[t]
        return float(self.book.worth[t, left[-1]]) if left else np.inf

    def _buy(self, buyers: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        """Let them buy; return who had no moves left."""
        waiting = []
        cheapest = min(self.cost)
        for t, c, pages in buyers:
            if self.limit <= 0:
                break
            worth = float(self.book.worth[t, c])
            if self.free <= 0 and worth - min(self.head) <= self.cost[t] + cheapest:
                continue
            wish, has_moves = self._buy_for(t, c, pages, worth)
            if wish and not has_moves:
                waiting.append((t, c, wish))
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
                j = self._seller(t, may_grow=room > 0)
                if j < 0 or worth - self.head[j] <= self.cost[t] + self.cost[j]:
                    return wish, True
                n = min(wish, moves // 2)
                if n <= 0:
                    return wish, False
                n = self._swap(t, j, n if j == t else min(n, room))
            self.deals.up[t, c] += n
            wish -= n
        return 0, True

    def _seller(self, t: int, *, may_grow: bool) -> int:
        """Return who sells most cheaply to a tenant; -1: nobody."""
        best, at = self.head[t] + 2 * self.cost[t], t if self.sellers[t] else -1
        if may_grow:
            for j, head in enumerate(self.head):
                if j == t or self.used[j] <= self.owed[j]:
                    continue
                asked = head + self.cost[t] + self.cost[j]
                if asked < best:
                    best, at = asked, j
        return at

    def _swap(self, t: int, j: int, n: int) -> int:
        """Sell a tenant's worst pages, all of one cell, to another; return how many."""
        v = self.sellers[j][-1]
        down = self.deals.down
        n = min(n, int(self.book.upper[j, v] - down[j, v] - self.deals.out[j, v]))
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
        down[j, v] += n
        self.deals.payer.setdefault((j, v), []).append((payer, n))
        self._sold(j, v)
        self._spend(t, 2 * n)
        return n

    def _spend(self, t: int, moves: int) -> None:
        self.limit -= moves
        self.budget[t] -= moves
        self.spent[t] += moves

    def _leave(self) -> None:
        """Send out what tenants hold beyond their maximum, the worst first."""
        for t, used in enumerate(self.used):
            over = min(used - self.cap[t], self.limit)
            while over > 0 and self.sellers[t]:
                v = self.sellers[t][-1]
                n = min(over, int(self.book.upper[t, v]))
                self.deals.out[t, v] += n
                self.used[t] -= n
                self.free += n
                over -= n
                self._spend(t, n)
                self._sold(t, v)

    def _sold(self, j: int, v: int) -> None:
        """Go on to a seller's next cell where this one has no page left."""
        gone = self.deals.down[j, v] + self.deals.out[j, v]
        if gone == self.book.upper[j, v]:
            self.sellers[j].pop()
            self.head[j] = self._head(j)
