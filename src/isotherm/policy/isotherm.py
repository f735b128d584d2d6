"""Isotherm: the price of fast memory. One online policy, all hints fused.

Per epoch: put pages into cells, learn the cells' rates out of sample and where
pages go next, settle the price of every boundary between tiers, trade where a
swap gains more than its two moves cost, and choose where to look next.
"""

from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from isotherm.core.columns import grown
from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import (
    BLOCK_PAGES,
    AccessedBits,
    FaultDelays,
    HintBatch,
    LiveMechanism,
    Look,
    Mechanism,
    RangeCounts,
    RegionCounts,
    Samples,
)
from isotherm.hotness.latency import sample_weights
from isotherm.hotness.protocol import EvidenceView
from isotherm.hotness.stall import StallView
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy import cells as cell_module
from isotherm.policy.backpressure import BackPressure
from isotherm.policy.births import Births
from isotherm.policy.cells import CELLS, Cells
from isotherm.policy.counted import of_cells
from isotherm.policy.homes import Homes
from isotherm.policy.hope import LEAST_GAIN, Hope, Spread
from isotherm.policy.loads import TierLoads
from isotherm.policy.options import read_options
from isotherm.policy.plan import Birth, Epoch, Moves, Plan, Setup
from isotherm.policy.rates import CellRates
from isotherm.policy.sensing import (
    PAYBACK_GAIN,
    EntryCost,
    PoisonPlanner,
    SamplePlanner,
    ScanPlanner,
)
from isotherm.policy.switching import Transitions
from isotherm.policy.tenant_market import TenantMarket, make_market
from isotherm.policy.tenants import Tenancy, places
from isotherm.policy.terms import Terms
from isotherm.policy.whose import Whose
from isotherm.topology.model import Topology

FOLLOWED_PAGES = 1 << 16  # transitions are counted on about so many
MEAN_PAGES = 1 << 16  # a mean over the present pages is taken of about so many
DRAWN = frozenset(LiveMechanism)  # looks at pages drawn at random, not at memory
#: What gives numbers of accesses: rates are learnt from these where there are any.
COUNTING = frozenset({Mechanism.SAMPLING, Mechanism.HINT_FAULT, Mechanism.CHMU})
LEARNT_BLOCKS = 1 << 13  # bits of about so many blocks a look are learnt from
NO_SHIFT = np.zeros(0, np.int8)  # where accesses are taken to stall alike
FEW_MOVES = 1e-3  # of the pages, in an epoch: as good as none

DEFAULTS = {"stall": 1.0, "balance": 1.0, "neighbours": 1.0, "birth": 1.0}

Floats = NDArray[np.float64]


class Isotherm:
    """The policy; see the module. Options: none that need tuning.

    ``stall`` 1 (default) values a page by what its accesses stall, where a source
    tells; 0 by their number alone. ``balance`` 1 (default) reckons with the latency
    of tiers under load; 0 with the unloaded one. ``neighbours`` 0 judges a page by
    itself alone, in finer steps: for pages that lie beside each other by chance,
    such as the rows of a table. ``birth`` 0 keeps no room for what is born.

    Args:
        setup: Pages, topology, capacities, hints.

    Raises:
        UsageError: The setup names another option.
    """

    name = "isotherm"
    wants = frozenset({Mechanism.SAMPLING, Mechanism.ACCESSED_BIT})
    accepts = frozenset(Mechanism)  # beyond what it wants, when it is asked for
    uses_tracker = True

    def __init__(self, setup: Setup) -> None:
        options = read_options(self.name, setup, DEFAULTS)
        self.weighs_stall = options["stall"] != 0
        self._bears = options["birth"] != 0
        self._balances = options["balance"] != 0
        self._alone = options["neighbours"] == 0
        self._stall: StallView | None = None  # of the last decision
        self._whose = Whose(setup.topology)
        self._setup = setup
        self._epoch_s = setup.epoch_ns / NS_PER_S
        self._cell: Cells = np.zeros(setup.pages, np.uint16)
        self._take_tiers(setup.topology)
        self._stride = max(1, setup.pages // FOLLOWED_PAGES)
        self._by_history = cell_module.history_table()
        self._rates = CellRates(
            has_samples=bool(setup.hints & COUNTING), alone=self._alone
        )
        self._transitions = Transitions()
        self._scan = ScanPlanner(
            setup.pages,
            self._epoch_s,
            has_samples=bool(setup.hints & {Mechanism.SAMPLING, Mechanism.CHMU}),
        )
        self._sampling = SamplePlanner(setup.sampling_period)
        self._poison = PoisonPlanner(setup.pages, self._epoch_s)
        self._entry = EntryCost()
        self._rate: Floats = np.zeros(CELLS)

    def _take_tiers(self, topology: Topology) -> None:
        """Begin with these tiers: nobody is counted in them, no price is settled."""
        tiers = topology.tiers
        self._tiers = len(tiers)
        self._tier = np.full(256, self._tiers, np.uint8)  # last: in no tier
        for rank, tier in enumerate(tiers):
            self._tier[list(tier.nodes)] = rank
        self._counted = np.full(len(self._cell), cell_module.NOT_COUNTED, np.uint8)
        self._count = np.zeros((CELLS, self._tiers + 1), np.int32)
        self._population: NDArray[np.int64] | None = None
        self._market = make_market(self._setup, topology, self._tier, self._epoch_s)
        self._pressure = BackPressure(topology)
        self._homes = Homes(topology)
        self._births = Births(topology)
        self._loads = TierLoads(topology, self._tier, balances=self._balances)
        self._hope = Hope()

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Start from where the pages are."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Take renewed pages out of the counts; make room for new ones.

        Where nodes or tiers have changed, pages are counted anew and prices settle
        anew; what was learnt of pages and of cells stays.
        """
        pages = max(self._setup.pages, change.pages)
        self._setup = replace(self._setup, pages=pages)
        self._stride = max(1, pages // FOLLOWED_PAGES)
        self._cell = grown(self._cell, pages)
        self._counted = grown(self._counted, pages, cell_module.NOT_COUNTED)
        if change.topology is not None:
            self._setup = replace(self._setup, topology=change.topology)
            self._take_tiers(change.topology)
        for start, end in change.renewed.tolist():
            counted = self._counted[start:end]
            known = counted != cell_module.NOT_COUNTED
            gone = (self._cell[start:end][known], counted[known])
            np.subtract.at(self._count, gone, 1)
            counted[:] = cell_module.NOT_COUNTED
        self._scan.renew(pages)
        self._poison.renew(pages)
        self._whose.renew(change)
        if self._whose.told:
            self._stall = None  # of other pages

    def repace(self, epoch_ns: int) -> None:
        """Go on with epochs of another length; what has been learnt stays."""
        self._epoch_s = epoch_ns / NS_PER_S
        self._setup = replace(self._setup, epoch_ns=epoch_ns)
        self._market.repace(self._epoch_s)
        self._scan.repace(self._epoch_s)
        self._poison.repace(self._epoch_s)

    def decide(self, epoch: Epoch) -> Plan:
        """Return the moves that pay, and where to look next."""
        view = cast("EvidenceView", epoch.hotness)
        mean_rate = max(view.mean_rate, 1e-9)
        seen = self._learn(epoch.hints, view.counted_share)
        if len(epoch.node) < view.pages:  # before the first space has come
            return Plan()
        population = self._assign(view, epoch, view.reference / mean_rate)
        total = population.sum(1)
        present = int(total.sum())
        if present == 0:  # a target that has not touched its memory yet
            return Plan()
        if epoch.access_rate is None and present < self._setup.pages:
            mean_rate = self._mean_of_present(view, mean_rate)
        rate = self._rate = self._rates.fit(
            mean_rate, total.astype(np.float64), view.bits_trust
        )
        whole = self._pressure.reserve(epoch)
        if self.tenants is not None:
            fast = list(whole.topology.tiers[0].nodes)
            size = int(whole.usage.capacity_pages[fast].sum())
            self.tenants.keep(size, self._births.by_tenant)
        epoch = self._births.reserve(self._homes.reserve(whole))
        reach = self._reach(epoch, population.sum(0))
        self._loads.follow(epoch, self._whose.tier_ns(epoch), rate @ population)
        tier_ns = self._loads.quiet_ns
        spread = Spread(rate, population, reach, tier_ns)
        self._follow_gain(epoch, spread, tier_ns, present)
        limit = self._loads.pace(epoch.move_limit_pages)
        worth_it = self._promises(view)
        moves, notes = self._market.trade(
            self._loads.price(epoch),
            self._cell,
            rate,
            population,
            self._transitions,
            self._loads.marginal_ns,
            spread.threshold,
            limit if worth_it or len(view.ahead) else 0,
        )
        if self.tenants is None:  # theirs may be owed
            moves = self._loads.worth_it(moves)
        terms = None if self.tenants is None else self.tenants.terms(whole)
        moves = self._whose.amend(moves, epoch, view, limit, terms)
        moves, pressed = self._pressure.press(moves, epoch, rate, self._cell, terms)
        paced = replace(self._loads.price(whole), move_limit_pages=limit)
        moves, crossed = self._homes.settle(moves, paced, rate, self._cell, terms)
        notes |= crossed
        moves, birth, born = self._bear(moves, whole, notes, terms)
        if terms is not None and self.tenants is not None:
            moves = terms.hold(moves)
            self.tenants.charge(terms)
        notes |= born
        looks: tuple[Look, ...] = ()
        if Mechanism.SAMPLING in self._setup.hints:
            hope = PAYBACK_GAIN if view.sweep_worth_watching else self._hope.recoverable
            looks = self._sampling.plan(
                self._setup.pages, max(hope, self._hope.recoverable)
            )
        if Mechanism.HINT_FAULT in self._setup.hints:
            looks += self._poison.plan(
                mean_rate, float(tier_ns[0]), self._hope.recoverable
            )
        if Mechanism.ACCESSED_BIT in self._setup.hints:
            if seen is not None:
                self._scan.learn(spread.threshold, *seen)
            looks += self._scan.plan(
                mean_rate,
                float(tier_ns[0]),
                self._entry.ns,
                self._hope.recoverable,
            )
        notes |= pressed | {
            "threshold_rate": spread.threshold,
            "mean_rate": mean_rate,
            "recoverable": self._hope.recoverable,
            "belief": self._rates.belief,
            "initiators_named": float(self._whose.named),
        }
        notes |= {f"load_{t}": float(x) for t, x in enumerate(self._loads.load)}
        return Plan(moves, looks, birth, notes)

    def _bear(
        self,
        moves: Moves,
        whole: Epoch,
        notes: dict[str, float],
        terms: Terms | None,
    ) -> tuple[Moves, Birth | None, dict[str, float]]:
        """Return the plan with room for what is born, by the price of a slot."""
        if not self._bears or self._tiers < 2:
            return moves, None, {}
        step_ns = np.diff(self._loads.marginal_ns)
        price_ns: float | Floats = notes.get("price_ns_0", 0.0)
        if terms is not None and self.tenants is not None:
            price_ns = self.tenants.own_price_ns
        return self._births.settle(
            moves,
            whole,
            self._rate,
            self._cell,
            max(0.0, float(step_ns[0])) * self._epoch_s,
            price_ns,
            notes.get("cost_ns_0", 0.0),
            terms,
        )

    def _promises(self, view: EvidenceView) -> bool:
        """Return whether moves may pay at all; tenants are judged each by itself."""
        promised = self._hope.promised * (1.0 - view.futile_share)
        return self.tenants is not None or (promised > LEAST_GAIN and self._hope.pays)

    @property
    def tenants(self) -> TenantMarket | None:
        """The market of tenants; None where there are none."""
        return self._market if isinstance(self._market, TenantMarket) else None

    def take_tenancy(self, tenancy: Tenancy) -> None:
        """Go on with other tenants; prices of who stays, and all learnt, stay too."""
        before, self._setup = self._setup.tenancy, replace(self._setup, tenancy=tenancy)
        if isinstance(self._market, TenantMarket):
            names = () if before is None else before.names
            self._births.regroup(places(tenancy.names, names))
            self._market = self._market.renewed(tenancy)

    def expected_rate(self, start_page: int, end_page: int) -> float:
        """Return the mean rate of pages ``[start, end)`` that decides, for explain.

        The tracker's estimate of a page is one part of it; the page's region and
        its last looks are others.
        """
        return float(self._rate[self._cell[start_page:end_page]].mean())

    def _mean_of_present(self, view: EvidenceView, mean_rate: float) -> float:
        """Return the mean rate of pages that have memory, of about 65,536 of them.

        Where nobody counts accesses, the tracker's mean is one over all pages.
        """
        stride = max(1, self._setup.pages // MEAN_PAGES)
        here = self._counted[::stride] < self._tiers
        page = np.flatnonzero(here).astype(np.uint32) * np.uint32(stride)
        return max(float(view.rate(page).mean()), 1e-9) if len(page) else mean_rate

    # ---- learning

    def _learn(
        self, batches: tuple[HintBatch, ...], counted_share: float
    ) -> tuple[float, float] | None:
        """Compare what cells promised with what came; return the bits' share."""
        if self._population is None:
            return None
        rates = self._rates
        rates.forget()
        before = self._population.sum(1).astype(np.float64)
        found: tuple[float, float] | None = None
        for batch in batches:
            if isinstance(batch.seen, Samples):
                self._learn_samples(batch.seen, before)
            elif isinstance(batch.seen, FaultDelays):
                late = batch.seen
                since_s = late.delay_s if late.exposure_s is None else late.exposure_s
                fault = self._counted[late.page] < self._tiers
                silent = self._counted[late.silent] < self._tiers
                rates.add_faults(
                    self._cell[late.page[fault]],
                    since_s[fault],
                    self._cell[late.silent[silent]],
                    late.silent_s[silent],
                    self._counts_for(late.page[fault]),
                )
            elif isinstance(batch.seen, RangeCounts):
                known = self._counted < self._tiers
                count, exposure = of_cells(
                    batch,
                    batch.seen,
                    self._cell,
                    known,
                    rates.regressed,
                    counted_share,
                )
                if self._stall is not None:
                    each = self._stall.relative(np.flatnonzero(known))
                    each = np.bincount(self._cell[known], each, CELLS).astype(float)
                    count = count * each / np.maximum(before, 1.0)
                rates.add_counts(count, exposure)
            elif isinstance(batch.seen, RegionCounts):
                self._learn_regions(batch.seen)
            elif isinstance(batch.seen, AccessedBits) and not batch.seen.opening:
                found = self._learn_bits(batch, batch.seen) or found
        return found

    def _learn_samples(self, seen: Samples, before: Floats) -> None:
        """Learn from samples of pages that were in a tier when last counted."""
        page, exposure_s = seen.page, self._epoch_s / seen.period
        count: Floats | None = None
        if self._stall is not None:
            weight = sample_weights(seen)
            if weight is None:
                weight = np.full(len(page), np.nan)
            untold = np.isnan(weight)
            if self._whose.told:
                weight *= self._whose.relative(page)
            weight[untold] = self._stall.relative(page[untold]) * self._stall.mean
            count, exposure_s = self._stall.evidence(weight, exposure_s)
        known = self._counted[page] < self._tiers
        if not known.all():
            page, count = page[known], None if count is None else count[known]
        self._rates.add_samples(self._cell[page], before, exposure_s, count)

    def _counts_for(self, page: NDArray[np.integer]) -> Floats | None:
        """Return what an access of each page counts for; None: 1."""
        return None if self._stall is None else self._stall.relative(page)

    def _learn_regions(self, seen: RegionCounts) -> None:
        """Spread a region's checks over its blocks, a page of each standing for it."""
        first = seen.start.astype(np.int64) // BLOCK_PAGES
        size = np.maximum(1, seen.end.astype(np.int64) // BLOCK_PAGES - first)
        begin = np.repeat(first - np.cumsum(size) + size, size)
        page = BLOCK_PAGES * (begin + np.arange(int(size.sum())))
        inside = page < self._setup.pages
        inside[inside] = self._counted[page[inside]] < self._tiers
        share = 1.0 / np.repeat(size, size)[inside]
        found = np.repeat(seen.nr_accesses, size)[inside] * share
        self._rates.add_regions(
            self._cell[page[inside]],
            seen.checks * share,
            found,
            seen.interval_s,
            self._counts_for(page[inside]),
        )

    def _learn_bits(
        self, batch: HintBatch, seen: AccessedBits
    ) -> tuple[float, float] | None:
        entries = BLOCK_PAGES * len(seen.block)
        seen = seen.whole_blocks(self._setup.pages)
        few = slice(None, None, max(1, len(seen.block) // LEARNT_BLOCKS))
        page = seen.block[few].astype(np.int64)[:, None] * BLOCK_PAGES + np.arange(8)
        page = page.ravel()
        bit = np.unpackbits(seen.bits[few], bitorder="little").astype(np.bool_)
        interval_s = float(seen.interval_s[few].mean()) if len(page) else 0.0
        drawn = batch.source in DRAWN
        if not drawn:
            self._entry.learn(batch.background_ns / max(1, entries))
        inside = page < self._setup.pages
        inside[inside] = self._counted[page[inside]] < self._tiers
        page, bit = page[inside], bit[inside]
        if interval_s <= 0 or not len(page):
            return None
        self._rates.add_bits(self._cell[page], bit, interval_s, self._counts_for(page))
        return None if drawn else (float(bit.mean()), interval_s)

    def _assign(
        self, view: EvidenceView, epoch: Epoch, relative: float
    ) -> NDArray[np.int64]:
        self._transitions.forget()
        first, last = view.fresh_blocks
        weight = self._transitions.weight
        if self._population is None:
            first, last, weight = 0, len(view.region), 0.0
        tenancy = None if self.tenants is None else self._setup.tenancy
        self._births.see(
            self._counted,
            epoch.node,
            self._tier,
            None if tenancy is None else epoch.tenant,
            1 if tenancy is None or epoch.tenant is None else len(tenancy.all),
        )
        self._follow_moves(epoch)
        self._whose.see(view, epoch)
        self._stall = self._whose.weigh(view.stall if self.weighs_stall else None)
        by_own = cell_module.own_table(relative)
        by_region = cell_module.region_table(relative)
        if self._alone:
            by_own, by_region = cell_module.alone_table(relative), by_region * 0
        cell_module.assign(
            view.code,
            view.history,
            view.region,
            epoch.node,
            self._tier,
            self._by_history,
            by_own,
            by_region,
            first,
            last,
            self._cell,
            self._counted,
            self._count,
            self._transitions.count,
            weight,
            self._stride,
            view.ahead,
            NO_SHIFT if self._stall is None else self._stall.shift,
        )
        self._population = self._count[:, : self._tiers].astype(np.int64)
        return self._population

    def _follow_moves(self, epoch: Epoch) -> None:
        """Count the pages that moved in the tier where they are now."""
        page = epoch.outcome.page[epoch.outcome.errno == 0]
        page = page[self._counted[page] != cell_module.NOT_COUNTED]
        if len(page):
            cell_module.recount(
                page, epoch.node, self._tier, self._cell, self._counted, self._count
            )

    # ---- what is worth what

    def _reach(self, epoch: Epoch, ours: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many pages each tier and all above it hold, or may hold.

        What others use of a tier is not to be had.

        Args:
            epoch: Capacity and use.
            ours: Managed pages per tier now.
        """
        capacity = np.zeros(self._tiers + 1, np.int64)
        used = np.zeros(self._tiers + 1, np.int64)
        rank = self._tier[: len(epoch.usage.capacity_pages)]
        np.add.at(capacity, rank, epoch.usage.capacity_pages)
        np.add.at(used, rank, epoch.usage.used_pages)
        others = np.maximum(0, used[: self._tiers] - ours)
        return np.cumsum(np.maximum(0, capacity[: self._tiers] - others))

    def _follow_gain(
        self, epoch: Epoch, spread: Spread, tier_ns: Floats, present: int
    ) -> None:
        """Follow what knowledge is worth, and how much is happening.

        Args:
            epoch: The outcome of the last plan.
            spread: Accesses over tiers.
            tier_ns: Latency of each tier.
            present: Pages that have memory.
        """
        moved_share = np.count_nonzero(epoch.outcome.errno == 0) / max(1, present)
        self._scan.follow_moves(moved_share, self._rates.informed)
        trust = 1.0 - cast("EvidenceView", epoch.hotness).futile_share
        if self._setup.hints == {Mechanism.HINT_FAULT}:
            trust /= self._poison.covered  # the rest may hold as much
        self._hope.follow(
            spread,
            tier_ns,
            moves=bool(moved_share > FEW_MOVES),
            trust=trust,
            told=self._rates.informed,
            apart_ns=self._whose.apart_ns(epoch),
        )
