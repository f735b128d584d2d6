"""What tenants are owed of a tier, and how trades among them keep to it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.policy.tenant_round import trade, trade_twin
from isotherm.policy.tenant_shares import (
    CAPPED,
    COMMON,
    OWED,
    Bounds,
    derive_shares,
    partition,
)
from isotherm.policy.tenant_trades import Book, Deals, deal, most_moves

#: Cells with these rates; two tenants, one hot here, one there.
RATE = np.array([100.0, 10.0, 1.0, 0.0])


def bounds(entitled, cap=(10**6,) * 2, weight=(1.0, 1.0), lend=(0.0, 0.0)):
    """Return bounds of two tenants."""
    return Bounds(
        np.array(entitled), np.array(cap), np.array(weight), np.array(lend)
    )  # fmt: skip


def test_without_guarantees_heat_decides() -> None:
    """Slots go to the hottest pages, whoever has them."""
    pages = np.array([[10, 0, 100, 0], [0, 50, 100, 0]])
    shares = derive_shares(RATE, pages, 60, bounds((0, 0)), 0.5)
    assert [10.0, 50.0] == shares.slots.tolist()
    assert [COMMON, COMMON] == shares.pool.tolist()
    assert [0, 0] == shares.owed.tolist()


def test_a_guarantee_is_owed_before_heat() -> None:
    """Who is guaranteed more than it would get has it, at a price of its own."""
    pages = np.array([[10, 0, 100, 0], [0, 50, 100, 0]])
    shares = derive_shares(RATE, pages, 60, bounds((40, 0)), 0.5)
    assert [40.0, 20.0] == shares.slots.tolist()
    assert [OWED, COMMON] == shares.pool.tolist()


def test_what_a_guarantee_does_not_earn_is_lent() -> None:
    """Slots within the last few per cent of a tenant's time are not owed."""
    pages = np.array([[10, 0, 100, 0], [0, 50, 100, 0]])
    shares = derive_shares(RATE, pages, 60, bounds((40, 0), lend=(0.03, 0.0)), 0.5)
    # 40 slots serve 1030 of 1100 accesses, 585 units of time; 3 % of it are what
    # 35.1 accesses save: all of the third kind, and of the first a third of a page.
    assert (40, 10) == (shares.entitled[0], shares.owed[0])


def test_a_maximum_has_a_price_of_its_own() -> None:
    """Who may not hold what it would gets its maximum, others the rest."""
    pages = np.array([[10, 0, 100, 0], [0, 50, 100, 0]])
    shares = derive_shares(RATE, pages, 60, bounds((0, 0), cap=(10**6, 20)), 0.5)
    assert 20.0 == shares.slots[1]
    assert CAPPED == shares.pool[1]
    assert 40.0 == shares.slots[0]


def test_weights_count() -> None:
    """A tenant whose time counts twentyfold gets slots for colder pages."""
    pages = np.array([[0, 0, 50, 0], [0, 50, 0, 0]])
    assert [0.0, 50.0] == derive_shares(
        RATE, pages, 50, bounds((0, 0)), 0.5
    ).slots.tolist()
    weighed = derive_shares(RATE, pages, 50, bounds((0, 0), weight=(20.0, 1.0)), 0.5)
    assert [50.0, 0.0] == weighed.slots.tolist()


counts = st.lists(st.integers(0, 500), min_size=4, max_size=4)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(counts, min_size=2, max_size=2),
    st.integers(0, 1500),
    st.tuples(st.integers(0, 400), st.integers(0, 400)),
    st.tuples(st.integers(0, 900), st.integers(0, 900)),
    st.floats(0, 0.3),
)
def test_shares_keep_to_their_bounds(pages, capacity, entitled, cap, lend) -> None:
    """No slot is given twice, none above a maximum, none owed beyond a guarantee."""
    own = np.array(pages)
    limits = bounds(entitled, cap, lend=(lend, lend))
    shares = derive_shares(RATE, own, capacity, limits, 0.6)
    assert shares.slots.sum() <= capacity + 1e-6
    assert (shares.slots <= np.minimum(cap, own.sum(1)) + 1e-6).all()
    assert (shares.owed <= np.minimum(entitled, own.sum(1))).all()
    assert (shares.slots >= shares.owed - 1e-6).all()


def test_fixed_parts() -> None:
    """Guarantees first, the rest by weight, nobody more than its pages or maximum."""
    part = partition(
        np.array([30, 0, 0]),
        np.array([1000, 10, 1000]),
        np.array([1.0, 1.0, 3.0]),
        np.array([500, 500, 500]),
        100,
    )
    assert 100 == part.sum() or 99 == part.sum()
    assert 10 == part[1]
    assert part[2] > 2 * (part[0] - 30)


def book(**changes):
    """Return a book of two tenants and two cells, a cost of 1 each."""
    base = {
        "worth": np.array([[10.0, -5.0], [8.0, -6.0]]),
        "cost": np.ones(2),
        "upper": np.array([[0, 20], [0, 20]]),
        "lower": np.array([[20, 0], [20, 0]]),
        "owed": np.zeros(2, np.int64),
        "entitled": np.zeros(2, np.int64),
        "grow": np.array([100, 100]),
        "cap": np.array([100, 100]),
        "buys": np.ones(2, np.bool_),
        "free": 0,
        "limit": 1000,
        "share": np.ones(2),
        "most": np.ones(2),
    }
    return Book(**{**base, **changes})


def payments(deals: Deals) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return who pays for how many pages of each seller's cells, in order."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for seller, cell, payer, pages in deals.paid.tolist():
        found.setdefault((seller, cell), []).append((payer, pages))
    return found


def test_the_best_buys_from_the_worst() -> None:
    """The most worth page takes the slot of the least worth one, whoever has it."""
    deals = deal(book(lower=np.array([[10, 0], [0, 0]])))
    assert 10 == deals.up[0, 0]
    assert [0, 10] == deals.down[:, 1].tolist()
    assert {(1, 1): [(0, 10)]} == payments(deals)


def test_what_is_owed_is_not_sold_to_others() -> None:
    """A tenant down to what it is owed trades with itself alone."""
    deals = deal(book(owed=np.array([0, 20])))
    assert 20 == deals.up[0].sum() == deals.down[0].sum()
    assert 20 == deals.up[1].sum() == deals.down[1].sum()


def test_who_borrowed_pays_for_leaving() -> None:
    """A guaranteed slot comes back at the borrower's expense, others at the buyer's."""
    few = np.array([[20, 0], [0, 0]])
    upper = np.array([[0, 5], [0, 30]])
    deals = deal(book(upper=upper, lower=few, entitled=np.array([15, 0])))
    assert [(1, 10), (0, 10)] == payments(deals)[(1, 1)]
    assert [1] * 10 + [0] * 10 == deals.payers(np.full(20, 3)).tolist()


def test_a_maximum_is_not_exceeded_and_enforced() -> None:
    """Who holds too much sends its worst away; it grows no further."""
    deals = deal(book(cap=np.array([20, 12])))
    assert 8 == deals.out[1].sum()
    assert deals.up[1].sum() == deals.down[1].sum()
    assert deals.up[0].sum() <= deals.down[0].sum() + 8


def test_moves_are_shared_by_weight() -> None:
    """Where moves are short, each gets its share; what one leaves the other has."""
    share = np.array([0.25, 0.75])
    deals = deal(book(owed=np.array([20, 20]), limit=40, share=share))
    assert [5, 15] == deals.up.sum(1).tolist()
    lone = deal(
        book(
            owed=np.array([20, 20]),
            limit=40,
            share=share,
            lower=np.array([[20, 0], [0, 0]]),
        )
    )
    assert [20, 0] == lone.up.sum(1).tolist()


def test_a_share_of_moves_is_a_bound() -> None:
    """A tenant that may make a tenth of the moves makes no more, idle or not."""
    some = np.array([[20, 0], [0, 0]])
    share, most = np.array([0.1, 0.9]), np.array([0.1, 1.0])
    deals = deal(book(limit=40, lower=some, most=most, share=share))
    assert 2 == deals.up[0].sum()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 40), min_size=8, max_size=8),
    st.lists(st.floats(-9, 9), min_size=4, max_size=4),
    st.tuples(st.integers(0, 60), st.integers(0, 60)),
    st.integers(0, 30),
    st.integers(0, 120),
)
def test_trades_keep_to_the_book(pages, worth, owed, free, limit) -> None:
    """No slot is made, nobody below what it is owed sells, moves stay in the limit."""
    count = np.array(pages).reshape(2, 2, 2)
    made = book(
        upper=count[0],
        lower=count[1],
        worth=np.array(worth).reshape(2, 2),
        owed=np.array(owed),
        free=free,
        limit=limit,
    )
    deals = deal(made)
    assert (deals.up <= made.lower).all()
    assert (deals.down + deals.out <= made.upper).all()
    assert deals.up.sum() <= (deals.down + deals.out).sum() + free
    assert (deals.up + deals.down + deals.out).sum() <= limit
    before = made.upper.sum(1)
    after = before + (deals.up - deals.down - deals.out).sum(1)
    assert (after >= np.minimum(before, made.owed)).all()
    assert deals.paid[:, 3].sum() == deals.down.sum()
    leaving = np.repeat(np.arange(4), (deals.down + deals.out).ravel())
    key = np.random.default_rng(limit).permutation(leaving)[: 3 * limit // 4]
    assert payers_one_by_one(deals, key) == deals.payers(key).tolist()


def payers_one_by_one(deals: Deals, key: np.ndarray) -> list[int]:
    """Return who pays for each page: the first of a cell are the first paid for."""
    asked = payments(deals)
    left = {cell: [who for who, n in asked[cell] for _ in range(n)] for cell in asked}
    paid = []
    for tenant, cell in zip(*np.divmod(key, 2), strict=True):
        queue = left.get((tenant, cell), [])
        paid.append(queue.pop(0) if queue else int(tenant))
    return paid


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32 - 1))
def test_the_compiled_round_equals_the_plain_one(seed: int) -> None:
    """Whatever the book: the same moves, and the same payers in the same order."""
    rng = np.random.default_rng(seed)
    tenants, cells = int(rng.integers(1, 6)), int(rng.integers(1, 7))
    shape = tenants, cells
    upper, lower = rng.integers(0, 30, shape), rng.integers(0, 30, shape)
    worth = rng.integers(-8, 9, shape).astype(float)  # many are alike
    # The worst first, and those that hold no page behind all others.
    sold = np.argsort(np.where(upper > 0, worth, 99.0), 1, kind="stable")
    tenant, cell = np.nonzero(lower)
    order = np.argsort(-worth[tenant, cell], kind="stable")
    buyers = np.stack([tenant, cell, lower[tenant, cell]], 1)[order]
    used, limit = upper.sum(1), int(rng.integers(0, 200))
    most = most_moves(rng.random(tenants), limit)
    columns = (
        worth,
        rng.choice([0.5, 1.0], tenants),
        upper,
        rng.integers(0, used + 9),
        rng.integers(0, used + 40),
        rng.integers(0, used + 40),
        rng.integers(0, used + 40),
        rng.choice([0.0, 6.0], tenants),
        sold,
        np.count_nonzero(upper, 1),
        buyers,
        int(rng.integers(0, 20)),
        limit,
        rng.integers(0, most + 1),
        most,
    )
    made = []
    for way in (trade, trade_twin):
        moved = np.zeros((3, *shape), np.int64)
        made.append((way(*columns, *moved), moved))
    (paid, moved), (paid_twin, moved_twin) = made
    assert np.array_equal(moved, moved_twin)
    assert np.array_equal(paid, paid_twin)


def test_a_share_below_a_swap_is_a_swap() -> None:
    """A quarter of six moves is one, half a swap: the tenant swaps all the same."""
    some = np.array([[20, 0], [0, 0]])
    share, most = np.array([0.1, 0.9]), np.array([0.25, 1.0])
    deals = deal(book(limit=6, lower=some, most=most, share=share))
    assert (1, 1) == (deals.up[0].sum(), deals.down.sum())
    assert 0 == deal(book(limit=0, lower=some, most=most, share=share)).up.sum()


def test_leaving_is_within_a_share_of_the_moves() -> None:
    """Who holds twenty too many leaves a quarter of the limit at a time."""
    share, most = np.array([0.5, 0.25]), np.array([1.0, 0.25])
    lower = np.array([[0, 0], [20, 0]])
    deals = deal(
        book(cap=np.array([100, 0]), limit=40, lower=lower, most=most, share=share)
    )
    assert 10 == deals.out[1].sum()
    assert 0 == deals.up[1].sum()
