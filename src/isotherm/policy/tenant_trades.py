"""Trades among tenants: who buys a slot from whom, and who pays for the moves."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.tenant_round import LEAST_MOVES, Paid, trade
from isotherm.policy.tenants import Labels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(slots=True)
class Deals:
    """What is to move, by tenant and cell.

    Attributes:
        up: Pages that go up, int64[T, cells].
        down: Pages that make room, int64[T, cells].
        out: Pages that leave because their tenant holds more than it may, likewise.
        paid: (seller, cell, who pays, pages) of ``down``, in order, int64[n, 4].
    """

    up: Ints
    down: Ints
    out: Ints
    paid: Paid

    def payers(self, key: Ints) -> Labels:
        """Return who pays for each page that leaves, uint8[n].

        Args:
            key: Its tenant's cell, ``tenant * cells + cell``, int64[n].
        """
        tenants, cells = self.up.shape
        who: Labels = (key // cells).astype(np.uint8)
        order = np.argsort(key, kind="stable")
        ends = np.searchsorted(key[order], np.arange(tenants * cells + 1))
        of = self.paid[:, 0] * cells + self.paid[:, 1]
        by_key = np.argsort(of, kind="stable")
        of, payer, pages = of[by_key], *self.paid[by_key, 2:].T
        before = np.cumsum(pages) - pages
        # Of each cell the first so many, counted from where its payments begin.
        first = np.searchsorted(of, of)
        begin = ends[of] + before - before[first]
        number = np.arange(int(pages.sum())) - np.repeat(before, pages)
        at = np.repeat(begin, pages) + number
        there = at < np.repeat(ends[of + 1], pages)
        who[order[at[there]]] = np.repeat(payer, pages)[there]
        return who


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
        most: Of the moves, what each may make at all; one swap in any case.
        beyond: What ``worth`` is above heat's because the pages must not lie below,
            float64[T]: it does not count against who is owed more. None: nothing.
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
    beyond: Floats | None = None


def most_moves(most: Floats, limit: int) -> Ints:
    """Return the moves that each may make of an epoch's, int64[T].

    A share that is less than a swap is a swap: else a tenant whose share of a small
    limit is below two moves would never move anything.

    Args:
        most: Share of each.
        limit: Moves of the epoch.

    >>> most_moves(np.array([0.25, 0.25, 1.0]), 40).tolist()
    [10, 10, 40]
    >>> most_moves(np.array([0.25, 0.25, 1.0]), 3).tolist()
    [2, 2, 3]
    """
    found: Ints = np.maximum((most * limit).astype(np.int64), min(limit, LEAST_MOVES))
    return found


def deal(book: Book) -> Deals:
    """Return the trades that pay, best first.

    * A free slot is filled while the worth of the page exceeds the cost of a move.
    * A swap is made while the worths differ by more than the costs of both moves.
    * Nobody sells to another what it is owed, or buys above its maximum.
    * Who is owed more than it has buys by heat alone, also from those whose pages
      must not lie below.
    * What is held beyond a maximum leaves first.
    * The moves of an epoch are shared by weight; what one leaves others take.

    The moves of a swap are the buyer's; but who has borrowed of a guarantee pays for
    giving it back.
    """
    none = np.zeros(book.upper.shape, np.int64)
    up, down, out = none, none.copy(), none.copy()
    paid = trade(
        book.worth,
        book.cost,
        book.upper,
        book.owed,
        book.entitled,
        np.minimum(book.grow, book.cap),
        book.cap,
        np.zeros(len(none)) if book.beyond is None else book.beyond,
        *_sellers(book),
        _buyers(book),
        book.free,
        book.limit,
        (book.share * book.limit).astype(np.int64),
        most_moves(book.most, book.limit),
        up,
        down,
        out,
    )
    return Deals(up, down, out, paid)


def _sellers(book: Book) -> tuple[Ints, Ints]:
    """Return each tenant's cells in the upper tier, the worst first, and how many."""
    cells = np.zeros(book.upper.shape, np.int64)
    count = np.zeros(len(cells), np.int64)
    for t, upper in enumerate(book.upper):
        there = np.flatnonzero(upper)
        count[t] = len(there)
        order = np.argsort(book.worth[t, there], kind="stable")
        cells[t, : len(there)] = there[order]
    return cells, count


def _buyers(book: Book) -> Ints:
    """Return (tenant, cell, pages) of who would buy, the best first, int64[n, 3]."""
    tenant, cell = np.nonzero(book.lower * book.buys[:, None])
    order = np.argsort(-book.worth[tenant, cell], kind="stable")
    tenant, cell = tenant[order], cell[order]
    return np.stack([tenant, cell, book.lower[tenant, cell]], 1)
