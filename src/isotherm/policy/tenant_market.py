"""Trades between tiers for tenants: `isotherm.policy.market` with several of them.

The cells, their rates and where pages go next are those of all memory; what a slot
costs, who may buy and who has to sell is each tenant's own.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.hints.batch import BLOCK_PAGES
from isotherm.hotness.protocol import EvidenceView
from isotherm.policy.cells import CELLS, Cells, take
from isotherm.policy.market import Market
from isotherm.policy.plan import Epoch, Moves, Reason, Setup
from isotherm.policy.switching import Transitions
from isotherm.policy.tenant_prices import TenantPrices
from isotherm.policy.tenant_shares import (
    OWED,
    Bounds,
    Shares,
    derive_shares,
    partition,
)
from isotherm.policy.tenant_trades import Book, Deals, deal
from isotherm.policy.tenants import (
    NONE,
    PARTITION,
    Labels,
    Tenancy,
    first_tier,
    last_tier,
    node_mask,
)
from isotherm.topology.model import Topology

LEAST_GAIN = 0.02  # of the memory time, its own or all: for less nobody buys
NO_LIMIT = 1 << 62
#: Worth of a page that must not stay below, beyond all that heat can be worth.
MUST = 1e15

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


@dataclass(frozen=True, slots=True)
class TenantState:
    """What the policy thinks of a tenant, as of the last decision.

    Attributes:
        name: Its name.
        pages: Pages in a tier.
        fast_pages: Of them in the fastest.
        guarantee_pages: Slots guaranteed, as far as it has pages for them.
        owed_pages: Of them used: nobody may buy them.
        cap_pages: Slots at most.
        price_ns: What a fast slot costs it for an epoch.
        pool: "common", "owed" or "capped": whom that price is settled with.
        fast_share: Share of its accesses that its fast pages get.
        slowdown: Its memory time over that with all of its memory fast.
    """

    name: str
    pages: int
    fast_pages: int
    guarantee_pages: int
    owed_pages: int
    cap_pages: int
    price_ns: float
    pool: str
    fast_share: float
    slowdown: float

    @property
    def borrowed_pages(self) -> int:
        """Fast pages beyond the guarantee."""
        return max(0, self.fast_pages - self.guarantee_pages)

    @property
    def lent_pages(self) -> int:
        """Guaranteed slots that others may use now, as it has pages for them."""
        return max(0, self.guarantee_pages - self.fast_pages)


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
    def advantage_ns(self) -> list[Floats]:
        """Advantage of the upper tier for a page of each cell, at the rest's price."""
        return [prices.advantage[-1] for prices in self._prices]

    def repace(self, epoch_s: float) -> None:
        """Go on with epochs of another length."""
        for prices in self._prices:
            prices.repace(epoch_s / self._epoch_s)
        self._epoch_s = epoch_s

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
            advantage = prices.advantage + MUST * (self._last == b)[:, None]
            book = self._book(advantage, at_b, shares, cost_ns, int(free[b]), limit)
            deals = deal(book)
            if b == 0:
                self._describe(count, rate, shares, prices, tier_ns)
            if deals.up.any() or deals.down.any() or deals.out.any():
                part, payer = self._pick(
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
        cap = pages.copy()
        if b == 0:
            whole = int(epoch.usage.capacity_pages[list(self._fast_nodes)].sum())
            size = tenancy.page_bytes
            for t, tenant in enumerate(every):
                own = int(pages[t])
                entitled[t] = tenant.guarantee.pages(whole, own, size)
                cap[t] = tenant.maximum.pages(whole, own, size)
            if tenancy.sharing == PARTITION:
                part = partition(entitled, cap, self._weight, pages, capacity)
                entitled = cap = part
        keeps = self._last == b  # all of it, whatever is guaranteed of other tiers
        entitled = np.where(keeps, pages, entitled)
        cap = np.where(keeps, pages, cap)
        lend = np.where(keeps | (tenancy.sharing == PARTITION), 0.0, self._lend)
        bounds = Bounds(entitled, cap, self._price_weight, lend)
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

    @property
    def _fast_nodes(self) -> tuple[int, ...]:
        return self._topology.tiers[0].nodes

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
        )

    # ---- after them

    def _pick(
        self,
        epoch: Epoch,
        cell: Cells,
        label: Labels,
        b: int,
        deals: Deals,
        advantage: Floats,
        cost_ns: float,
    ) -> tuple[Moves, Labels]:
        """Choose pages of the cells that trade; return moves, and who pays each."""
        # Pages are picked where cells are fresh; the rest has its turn later.
        fresh = cast("EvidenceView", epoch.hotness).fresh_blocks
        low = BLOCK_PAGES * fresh[0]
        high = min(len(cell), len(label), BLOCK_PAGES * fresh[1])
        key = label[low:high].astype(np.uint16)
        key *= np.uint16(CELLS)
        key += cell[low:high]
        up, out = deals.up.ravel(), int(deals.out.sum())
        down = (deals.down + deals.out).ravel()
        up_page = np.empty(int(up.sum()), np.uint32)
        down_page = np.empty(int(down.sum()), np.uint32)
        filled = max(0, len(up_page) - len(down_page))
        n_up, n_down = take(
            key,
            epoch.node[low:high],
            self._tier,
            b,
            (epoch.index * 2654435761) % max(1, high - low),
            up.copy(),
            down.copy(),
            up_page,
            down_page,
        )
        flat = advantage.ravel()
        up_page, of = _ordered(up_page[:n_up], key, flat, best_first=True)
        down_page, from_ = _ordered(down_page[:n_down], key, flat, best_first=False)
        n_up, n_down = min(n_up, n_down + filled), min(n_down, n_up + out)
        up_page, of = up_page[:n_up] + np.uint32(low), of[:n_up]
        down_page, from_ = down_page[:n_down] + np.uint32(low), from_[:n_down]
        swapped = max(0, min(n_up - filled, n_down))
        here = np.full(n_up, self._roomiest(epoch, b), np.uint8)
        here[n_up - swapped :] = epoch.node[down_page[:swapped]]
        below = np.full(n_down, self._roomiest(epoch, b + 1), np.uint8)
        must = flat[of] >= MUST / 2
        gain = flat[of] - cost_ns
        gain[n_up - swapped :] -= flat[from_[:swapped]] + cost_ns
        payer = _payers(deals, from_)
        moves = Moves.concat(
            Moves(
                down_page,
                self._allowed(epoch, label[down_page], below, b + 1),
                np.zeros(n_down, np.float32),
                np.full(n_down, int(Reason.MAKES_ROOM), np.uint8),
            ),
            Moves(
                up_page,
                self._allowed(epoch, label[up_page], here, b),
                np.where(must, np.nan, gain).astype(np.float32),
                np.where(must, int(Reason.PROMISED), int(Reason.PAYS)).astype(np.uint8),
            ),
        )
        who = np.concatenate([payer, (of // CELLS).astype(np.uint8)])
        fits = self._may[label[moves.page], moves.node]
        return moves.take(np.flatnonzero(fits)), who[fits]

    def _roomiest(self, epoch: Epoch, rank: int) -> int:
        nodes = self._topology.tiers[rank].nodes
        return nodes[int(np.argmax(epoch.usage.free_pages[list(nodes)]))]

    def _allowed(
        self, epoch: Epoch, whose: Labels, node: NDArray[np.uint8], rank: int
    ) -> NDArray[np.uint8]:
        """Return the nodes, others of the tier where a cpuset forbids them."""
        for t in np.unique(whose[~self._may[whose, node]]).tolist():
            nodes = [n for n in self._topology.tiers[rank].nodes if self._may[t, n]]
            if nodes:
                free = epoch.usage.free_pages[nodes]
                bad = (whose == t) & ~self._may[whose, node]
                node[bad] = nodes[int(np.argmax(free))]
        return node

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

    def _describe(
        self,
        count: Ints,
        rate: Floats,
        shares: Shares,
        prices: TenantPrices,
        tier_ns: Floats,
    ) -> None:
        """Keep what is thought of the tenants, for those who ask."""
        by_tier = count[:, :, : self._tiers]
        work = (by_tier * rate[:, None]).sum(1)
        pages = by_tier.sum(1)
        total = np.maximum(work.sum(1), 1e-12)
        self.states = tuple(
            TenantState(
                name=name,
                pages=int(pages[t].sum()),
                fast_pages=int(pages[t, 0]),
                guarantee_pages=int(shares.entitled[t]),
                owed_pages=int(shares.owed[t]),
                cap_pages=int(shares.cap[t]),
                price_ns=float(prices.own[t]),
                pool=("common", "owed", "capped")[int(shares.pool[t])],
                fast_share=float(work[t, 0] / total[t]),
                slowdown=float(
                    work[t] @ tier_ns / max(float(total[t] * tier_ns[0]), 1e-12)
                ),
            )
            for t, name in enumerate(self._tenancy.names)
        )


def _nobody() -> tuple[NDArray[np.uint32], Labels]:
    return np.empty(0, np.uint32), np.empty(0, np.uint8)


def _ordered(
    page: NDArray[np.uint32], key: Cells, worth: Floats, *, best_first: bool
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return pages by worth, and the tenant's cell of each."""
    of = key[page].astype(np.int64)
    order = np.argsort(-worth[of] if best_first else worth[of], kind="stable")
    return page[order], of[order]


def _payers(deals: Deals, from_: NDArray[np.int64]) -> Labels:
    """Return who pays for each page that leaves, by its tenant's cell."""
    who = (from_ // CELLS).astype(np.uint8)
    for (t, v), parts in deals.payer.items():
        at = np.flatnonzero(from_ == t * CELLS + v)
        done = 0
        for payer, pages in parts:
            who[at[done : done + pages]] = payer
            done += pages
    return who


def census_twin(
    label: Labels,
    cell: Cells,
    node: NDArray[np.uint8],
    tier: NDArray[np.uint8],
    out: NDArray[np.int32],
) -> None:
    """Numpy twin of `census`."""
    row = label.astype(np.int64) * CELLS + cell
    flat = row * out.shape[2] + tier[node]
    out += np.bincount(flat, minlength=out.size).reshape(out.shape).astype(np.int32)


@kernel(twin=census_twin)
def census(
    label: Labels,
    cell: Cells,
    node: NDArray[np.uint8],
    tier: NDArray[np.uint8],
    out: NDArray[np.int32],
) -> None:
    """Count pages by tenant, cell and tier.

    Args:
        label: Whose every page is, uint8[pages].
        cell: uint16[pages].
        node: Placement, uint8[pages].
        tier: Tier rank of every node, uint8[256].
        out: int32[tenants, CELLS, tiers + 1], added to.
    """
    for p in range(cell.size):
        out[label[p], cell[p], tier[node[p]]] += 1
