"""Trades between tiers for tenants: `isotherm.policy.market` with several of them.

The cells, their rates and where pages go next are those of all memory; what a slot
costs, who may buy and who has to sell is each tenant's own.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.cells import CELLS, Cells
from isotherm.policy.market import Market
from isotherm.policy.plan import Epoch, Moves, Setup
from isotherm.policy.switching import Transitions
from isotherm.policy.tenant_census import census
from isotherm.policy.tenant_picks import MUST, Picks
from isotherm.policy.tenant_prices import TenantPrices
from isotherm.policy.tenant_shares import (
    OWED,
    Bounds,
    Shares,
    derive_shares,
    partition,
)
from isotherm.policy.tenant_state import TenantState, describe
from isotherm.policy.tenant_trades import Book, deal, most_moves
from isotherm.policy.tenants import (
    NONE,
    PARTITION,
    Labels,
    Tenancy,
    first_tier,
    kept_out,
    last_tier,
    node_mask,
    places,
)
from isotherm.policy.terms import Terms
from isotherm.topology.model import Topology

LEAST_GAIN = 0.02  # of the memory time, its own or all: for less nobody buys
NO_LIMIT = 1 << 62

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def make_market(
    setup: Setup, topology: Topology, tier: NDArray[np.uint8], epoch_s: float
) -> "Market | TenantMarket":
    """Return the market that a setup asks for: with tenants where there are some."""
    tenancy = setup.tenancy
    if tenancy is None or tenancy.sharing == NONE:
        return Market(topology, tier, epoch_s)
    return TenantMarket(topology, tier, epoch_s, tenancy)


class TenantMarket:
    """The boundaries between tiers, where tenants share them.

    Args:
        topology: Nodes and tiers.
        tier: Tier rank of every node, uint8[256]; the number of tiers: in none.
        epoch_s: Length of an epoch.
        tenancy: Who the tenants are.

    Raises:
        UsageError: A tenant may be in no tier.

    Attributes:
        states: What is thought of each tenant and the rest, after a decision.
    """

    def __init__(
        self,
        topology: Topology,
        tier: NDArray[np.uint8],
        epoch_s: float,
        tenancy: Tenancy,
    ) -> None:
        self._topology, self._tier, self._epoch_s = topology, tier, epoch_s
        self._tiers = len(topology.tiers)
        self._tenancy = tenancy
        every = tenancy.all
        self._weight = np.array([t.weight for t in every])
        if tenancy.sharing == PARTITION:
            self._price_weight = np.ones(len(every))
        else:
            self._price_weight = self._weight
        self._lend = np.array([t.lend for t in every])
        self._most = np.array([t.move_share for t in every])
        self._first = np.array([first_tier(t, topology) for t in every])
        self._last = np.array([last_tier(t, topology) for t in every])
        self._may = node_mask(every)
        self._allowed = self._may & ~kept_out(every, topology)
        self._picks = Picks(topology, tier, self._may)
        # Of the last trades: pages in the fastest tier, those owed, the most.
        self._held = np.zeros(len(every), np.int64)
        self._owed, self._most_held = self._held, np.full(len(every), NO_LIMIT)
        self._headroom = self._held
        self._tier_pages: int | None = None
        self._prices = [
            TenantPrices(self._price_weight) for _ in range(self._tiers - 1)
        ]
        self._paid: tuple[NDArray[np.uint32], Labels] = _nobody()
        self._paid_before = _nobody()
        self.states: tuple[TenantState, ...] = ()

    @property
    def price_ns(self) -> list[float]:
        """Common price of an upper slot for an epoch, per boundary."""
        return [prices.common or 0.0 for prices in self._prices]

    @property
    def own_price_ns(self) -> Floats:
        """Price of a slot of the fastest tier for an epoch, to each, in its own ns."""
        return self._prices[0].own

    @property
    def advantage_ns(self) -> list[Floats]:
        """Advantage of the upper tier for a page of each cell, at the rest's price."""
        return [prices.advantage[-1] for prices in self._prices]

    def repace(self, epoch_s: float) -> None:
        """Go on with epochs of another length."""
        for prices in self._prices:
            prices.repace(epoch_s / self._epoch_s)
        self._epoch_s = epoch_s

    def renewed(self, tenancy: Tenancy) -> "TenantMarket":
        """Return a market of others; who stays, by name, keeps its price.

        Moves under way stay charged to who pays for them; those of who has gone to
        the rest.
        """
        market = TenantMarket(self._topology, self._tier, self._epoch_s, tenancy)
        place = places(tenancy.names, self._tenancy.names)
        for prices, before in zip(market._prices, self._prices, strict=True):
            prices.take(before, place)
        now = np.full(256, len(tenancy.tenants), np.uint8)
        now[place[place >= 0]] = np.flatnonzero(place >= 0)
        market._paid = self._paid[0], now[self._paid[1]]
        market._paid_before = self._paid_before[0], now[self._paid_before[1]]
        return market

    def keep(self, tier_pages: int, headroom: Ints) -> None:
        """Say what the tier has and what of it is kept free; call before `trade`.

        Args:
            tier_pages: Of the fastest tier, all of it: shares are shares of that.
            headroom: Slots kept free for what each allocates, int64[T].
        """
        self._tier_pages = tier_pages
        same = len(headroom) == len(self._held)
        self._headroom = headroom if same else np.zeros_like(self._held)

    def terms(self, epoch: Epoch) -> Terms | None:
        """Return the terms for what comes after the trades; None: nobody's pages."""
        if epoch.tenant is None:
            return None
        fast = np.zeros(256, np.bool_)
        fast[list(self._topology.tiers[0].nodes)] = True
        limit = min(epoch.move_limit_pages, NO_LIMIT)
        paid = np.bincount(self._paid[1], minlength=len(self._held))
        return Terms(
            epoch.tenant,
            epoch.node,
            self._allowed,
            fast,
            self._held,
            self._owed,
            self._most_held,
            self._price_weight,
            np.maximum(0, most_moves(self._most, limit) - paid),
            self._paid[0],
        )

    def charge(self, terms: Terms) -> None:
        """Take down who pays for moves that came after the trades."""
        page, who = self._paid
        for pages, payer in terms.charges:
            page = np.concatenate([pages.astype(np.uint32), page])
            who = np.concatenate([payer, who])
        if terms.charges:
            page, first = np.unique(page, return_index=True)
            self._paid = page, who[first]

    def payers(self, page: NDArray[np.uint32], label: Labels) -> Labels:
        """Return who pays for the move of each page, as the last two plans had it.

        Args:
            page: Pages that were moved.
            label: Whose every page is; they pay where no plan says otherwise.
        """
        who = label[page].copy()
        for pages, payer in (self._paid_before, self._paid):
            if len(pages):
                at = np.minimum(np.searchsorted(pages, page), len(pages) - 1)
                known = pages[at] == page
                who[known] = payer[at[known]]
        return who

    def trade(
        self,
        epoch: Epoch,
        cell: Cells,
        rate: Floats,
        population: Ints,
        transitions: Transitions,
        tier_ns: Floats,
        threshold: float,
        limit: int,
    ) -> tuple[Moves, dict[str, float]]:
        """Settle all prices and return the trades that pay, with notes.

        As `Market.trade`; whose a page is, is in the epoch.
        """
        label = epoch.tenant
        if label is None:
            label = np.full(len(cell), len(self._tenancy.tenants), np.uint8)
        count = self._census(label, cell, epoch)
        moved = transitions.count.sum(1) + transitions.count.sum(0)
        busy = (moved > 0.5 * transitions.weight) | (population.sum(1) > 0)
        cells = np.flatnonzero(busy)
        chance = transitions.among(cells)
        lasting = transitions.watch()
        if lasting < 1.0:
            chance *= np.float32(lasting)
        free = np.zeros(self._tiers + 1, np.int64)
        room = np.maximum(0, epoch.usage.free_pages)
        np.add.at(free, self._tier[: len(room)], room)
        parts: list[Moves] = []
        payers: list[Labels] = []
        notes: dict[str, float] = {}
        for b, prices in enumerate(self._prices):
            barred = (self._first > b) | (self._last < b)
            at_b = count[:, :, b : b + 2].copy()
            at_b[barred] = 0
            cost_ns = self._move_cost(epoch, b)
            gap_ns = max(0.0, float(tier_ns[b + 1] - tier_ns[b]))
            shares = self._shares(at_b, rate, epoch, b, int(free[b]), tier_ns)
            saved_ns = gap_ns * self._epoch_s
            prices.settle(
                saved_ns * rate,
                cost_ns,
                at_b[:, :, 0],
                at_b[:, :, 1],
                shares,
                cells,
                chance,
                saved_ns * threshold,
            )
            notes[f"price_ns_{b}"] = prices.common or 0.0
            notes[f"cost_ns_{b}"] = cost_ns
            must = self._last == b
            advantage = prices.advantage + MUST * must[:, None]
            # A cpuset cannot be helped; a kind that they are kept out of can.
            yields = MUST * (must & self._may[:, self._tier == b + 1].any(1))
            book = self._book(
                advantage, yields, at_b, shares, cost_ns, int(free[b]), limit
            )
            deals = deal(book)
            if b == 0:
                self._held, self._owed = at_b[:, :, 0].sum(1), shares.owed
                self.states = describe(
                    self._tenancy.names,
                    count[:, :, : self._tiers],
                    rate,
                    shares,
                    prices,
                    tier_ns,
                    self._headroom,
                )
            if deals.up.any() or deals.down.any() or deals.out.any():
                part, payer = self._picks.pick(
                    epoch, cell, label, b, deals, advantage, cost_ns
                )
                limit -= len(part)
                parts.append(part)
                payers.append(payer)
        return self._planned(parts, payers), notes

    # ---- before the trades

    def _census(self, label: Labels, cell: Cells, epoch: Epoch) -> Ints:
        """Return pages per tenant, cell and tier, int64[T, CELLS, tiers + 1]."""
        pages = min(len(label), len(cell), len(epoch.node))
        out = np.zeros((len(self._tenancy.all), CELLS, self._tiers + 1), np.int32)
        census(label[:pages], cell[:pages], epoch.node[:pages], self._tier, out)
        return out.astype(np.int64)

    def _shares(
        self,
        at_b: Ints,
        rate: Floats,
        epoch: Epoch,
        b: int,
        free: int,
        tier_ns: Floats,
    ) -> Shares:
        tenancy = self._tenancy
        every = tenancy.all
        pages = at_b.sum((1, 2))
        capacity = int(at_b[:, :, 0].sum()) + free
        entitled = np.zeros(len(every), np.int64)
        firm = entitled.copy()
        cap = pages.copy()
        if b == 0:
            fast = list(self._topology.tiers[0].nodes)
            whole = int(epoch.usage.capacity_pages[fast].sum())
            if self._tier_pages is not None:
                whole = self._tier_pages
            size = tenancy.page_bytes
            for t, tenant in enumerate(every):
                own = int(pages[t])
                entitled[t] = tenant.guarantee.pages(whole, own, size)
                # All of a footprint may be more than the tier: it comes after these.
                firm[t] = tenant.guarantee.pages(whole, 0, size)
                cap[t] = tenant.maximum.pages(whole, own, size)
            # What is born is to fit below the maximum as well.
            cap = np.where(cap < pages + self._headroom, cap - self._headroom, cap)
            cap = np.maximum(cap, 0)
            if tenancy.sharing == PARTITION:
                part = partition(entitled, cap, self._weight, pages, capacity)
                entitled = cap = part
        keeps = self._last == b  # all of it, whatever is guaranteed of other tiers
        entitled = np.where(keeps, pages, entitled)
        cap = np.where(keeps, pages, cap)
        if b == 0:
            self._most_held = np.where(keeps, NO_LIMIT, cap)
        lend = np.where(keeps | (tenancy.sharing == PARTITION), 0.0, self._lend)
        if b > 0:
            firm = entitled
        bounds = Bounds(entitled, cap, self._price_weight, lend, firm)
        saved = 1.0 - float(tier_ns[b]) / max(float(tier_ns[b + 1]), 1e-9)
        shares = derive_shares(
            rate, at_b.sum(2), capacity, bounds, min(max(saved, 0.0), 0.999)
        )
        # Who has less than it is owed has a price of its own until it has it, hot as
        # it may be: others as hot sit in its slots, and at one price nobody moves.
        hungry = at_b[:, :, 0].sum(1) < shares.owed
        shares.pool[hungry] = OWED
        shares.slots[hungry] = shares.owed[hungry]
        return shares

    def _move_cost(self, epoch: Epoch, b: int) -> float:
        """Return M of a boundary: the mean of its paths, both ways."""
        tiers = self._topology.tiers
        upper, lower = list(tiers[b].nodes), list(tiers[b + 1].nodes)
        up = epoch.move_cost_ns[np.ix_(lower, upper)].mean()
        down = epoch.move_cost_ns[np.ix_(upper, lower)].mean()
        return float(up + down) / 2.0

    def _book(
        self,
        advantage: Floats,
        yields: Floats,
        at_b: Ints,
        shares: Shares,
        cost_ns: float,
        free: int,
        limit: int,
    ) -> Book:
        used = at_b[:, :, 0].sum(1)
        present = at_b.sum((1, 2)) > 0
        share = np.where(present, self._weight, 0.0)
        share = np.minimum(share / max(float(share.sum()), 1e-12), self._most)
        weight = self._price_weight
        return Book(
            worth=advantage * weight[:, None],
            cost=cost_ns * weight,
            upper=at_b[:, :, 0],
            lower=at_b[:, :, 1],
            owed=shares.owed,
            entitled=shares.entitled,
            # At a price of its own it may have so many slots and no more.
            grow=np.where(shares.pool == OWED, shares.owed, shares.cap),
            cap=shares.cap,
            buys=(np.maximum(shares.promised, shares.promised_all) > LEAST_GAIN)
            | (used < shares.owed),
            free=free,
            limit=min(limit, NO_LIMIT),
            share=share,
            most=self._most,
            beyond=yields * weight,
        )

    # ---- after them

    def _planned(self, parts: list[Moves], payers: list[Labels]) -> Moves:
        """Join the boundaries' moves; remember who pays for them."""
        self._paid_before = self._paid
        if not parts:
            self._paid = _nobody()
            return Moves.none()
        moves, who = parts[0], payers[0]
        if len(parts) > 1:  # a page may pay at two boundaries: the upper wins
            moves, who = Moves.concat(*parts), np.concatenate(payers)
            first = np.sort(np.unique(moves.page, return_index=True)[1])
            moves, who = moves.take(first), who[first]
        order = np.argsort(moves.page, kind="stable")
        self._paid = moves.page[order], who[order]
        return moves


def _nobody() -> tuple[NDArray[np.uint32], Labels]:
    return np.empty(0, np.uint32), np.empty(0, np.uint8)
