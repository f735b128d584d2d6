"""A running daemon as a view: what ``isotherm top`` and ``serve`` draw."""

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.daemon.history import REGION_PAGES, History
from isotherm.daemon.metrics import observations
from isotherm.daemon.why_live import pid_of
from isotherm.loop.epoch import Step
from isotherm.machine.protocol import Usage
from isotherm.observability.view import (
    HEAT_ROWS,
    MOVES,
    RANGES,
    FlowView,
    HeatView,
    Moment,
    Moments,
    MoveView,
    OwnerView,
    RangeOrder,
    RangeView,
    TierView,
    View,
    alike_runs,
    choose_ranges,
    rows_of,
    runs_of_pages,
    tenant_views,
)
from isotherm.observability.why import reason_name

if TYPE_CHECKING:
    from isotherm.daemon.service import Service

#: Pages that are looked at to say where a process's memory is.
ASKED_PAGES: Final = 1 << 16
#: Moves of so late are recent.
RECENT_S: Final = 60.0


class LiveView:
    """Watches a service and makes views of it.

    Args:
        service: The daemon's.
        history: What it remembers; it observes before this does.
        title: What the daemon was told to manage, in words.

    It observes in the thread of the loop; views are made in another.
    """

    def __init__(self, service: "Service", history: History, title: str) -> None:
        self._service, self.history, self._title = service, history, title
        self._moments = Moments()
        self._hints: dict[str, int] = {}
        self._flows: dict[tuple[int, int], int] = {}
        self._usage: Usage = service.machine.usage()

    def observe(self, service: "Service", step: Step) -> None:
        """Take in one epoch."""
        with self.history.lock:
            self._usage = service.machine.usage()
            for batch in step.hints:
                seen = self._hints.get(batch.source, 0)
                self._hints[batch.source] = seen + observations(batch)
            self._follow_flows()
            up, down = self._moved()
            price = step.plan.notes.get("price_ns_0")
            self._moments.add(
                Moment(
                    time_s=(service.last_ns - service.began_ns) / NS_PER_S,
                    fast_share=service.fast_share,
                    promoted_pages=up,
                    demoted_pages=down,
                    brake_share=service.brake.share,
                    price_ns=None if price is None else float(price),
                )
            )

    def _moved(self) -> tuple[int, int]:
        service = self._service
        if service.dry_run:  # as in its result: what would have moved
            return service.wished_pages[0], service.wished_pages[1]
        tally = service.tally
        return tally.promoted_pages, tally.demoted_pages

    def _follow_flows(self) -> None:
        latest, rank = self.history.latest, self._service.rank
        done = latest.errno == 0
        pair = 256 * rank[latest.src[done]] + rank[latest.dst[done]]
        for both, nr in zip(*np.unique(pair, return_counts=True), strict=True):
            key = (int(both) >> 8, int(both) & 255)
            pages = int(nr) * self._service.unit_pages
            self._flows[key] = self._flows.get(key, 0) + pages

    def make(
        self,
        most_ranges: int = RANGES,
        *,
        heat: bool = False,
        order: RangeOrder = "heat",
        first: int = 0,
    ) -> View:
        """Return the run as it is now.

        Args:
            most_ranges: Ranges in it.
            heat: With the heat map.
            order: Of the ranges.
            first: Of the ranges, in that order.
        """
        service = self._service
        shared = service.tenants
        tenants = () if shared is None else tenant_views(shared.report(nodes=False))
        with self.history.lock:
            owners, index = self._owners()
            regions = _Regions(self.history, index)
            nr_ranges, ranges = regions.ranges(most_ranges, order, first)
            up, down = self._moved()
            tally, costs = service.tally, service.costs
            seconds = max((service.last_ns - service.began_ns) / NS_PER_S, 1e-9)
            notes = self.history.notes
            prices = [
                notes[f"price_ns_{at}"]
                for at in range(len(service.machine.topology.tiers))
                if f"price_ns_{at}" in notes
            ]
            return View(
                live=True,
                title=self._title,
                policy=service.config.loop.policy,
                dry_run=service.dry_run,
                time_s=seconds,
                end_s=None,
                epochs=service.epochs,
                epoch_s=service.pacer.epoch_s,
                fast_share=service.fast_share,
                prices_ns=tuple(float(price) for price in prices),
                brake_share=service.brake.share,
                cpu_share=costs.cpu_ns / NS_PER_S / seconds,
                cpu_budget=service.config.budget.cpu_percent / 100,
                promised_ns=tally.promised_ns,
                realised_ns=tally.realised_ns,
                promoted_pages=up,
                demoted_pages=down,
                failed_pages=sum(tally.errno.values()),
                hints=dict(self._hints),
                tiers=self._tiers(owners),
                owners=owners,
                ranges=ranges,
                nr_ranges=nr_ranges,
                tenants=tenants,
                moves=self._moves(index),
                flows=self._all_flows(),
                moments=self._moments.all(),
                heat=regions.heat() if heat else None,
            )

    def _tiers(self, owners: tuple[OwnerView, ...]) -> tuple[TierView, ...]:
        machine, usage = self._service.machine, self._usage
        topology, latency = machine.topology, machine.latency_ns()[0]
        label = {node.id: node.label or node.kind for node in topology.nodes}
        unit = self.history.unit_pages * PAGE_BYTES
        found = []
        for at, tier in enumerate(topology.tiers):
            nodes = list(tier.nodes)
            names = dict.fromkeys(str(label[node]) for node in nodes)
            known = float(latency[nodes[0]])
            found.append(
                TierView(
                    name=", ".join(names),
                    nodes=tuple(nodes),
                    latency_ns=known if np.isfinite(known) else None,
                    capacity_bytes=int(usage.capacity_pages[nodes].sum()) * unit,
                    used_bytes=int(usage.used_pages[nodes].sum()) * unit,
                    managed_bytes=sum(owner.tier_bytes[at] for owner in owners),
                )
            )
        return tuple(found)

    def _owners(self) -> tuple[tuple[OwnerView, ...], dict[int, int]]:
        """Return who owns managed memory, and the index of every space's owner."""
        history = self.history
        spaces = history.spaces
        tiers = len(self._service.machine.topology.tiers)
        stride = max(1, sum(space.pages for space in spaces) // ASKED_PAGES)
        rate = history.stretches[-1].rate if history.stretches else None
        unit = history.unit_pages * PAGE_BYTES
        names: dict[tuple[int | None, str], int] = {}
        tables: list[NDArray[np.float64]] = []
        heats: list[float] = []
        index: dict[int, int] = {}
        for space in spaces:
            pid = pid_of(space)
            key = (pid, f"pid {pid}" if pid is not None else space.owner)
            if key not in names:
                names[key] = len(names)
                tables.append(np.zeros(tiers))
                heats.append(0.0)
            at = index[space.base] = names[key]
            rank = self._service.rank[
                history.node[space.base : space.base + space.pages : stride]
            ]
            there = rank[rank < tiers]
            pages = np.bincount(there, minlength=tiers) * float(stride)
            tables[at] += np.minimum(pages, space.pages)
            if rate is not None and len(there):
                first = space.base // REGION_PAGES
                last = -(-(space.base + space.pages) // REGION_PAGES)
                heat = rate[first:last]
                if not np.isnan(heat).all():
                    heats[at] += float(np.nanmean(heat)) * float(pages.sum())
        return tuple(
            OwnerView(
                pid=pid,
                name=name,
                tier_bytes=tuple(int(nr) * unit for nr in table),
                rate=heat if rate is not None else None,
            )
            for (pid, name), table, heat in zip(names, tables, heats, strict=True)
        ), index

    def _moves(self, owner_of: dict[int, int]) -> tuple[MoveView, ...]:
        history = self.history
        kept = history.moves.take(slice(-(1 << 14), None))
        if not len(kept.page):
            return ()
        alike = (kept.time_ns, kept.src, kept.dst, kept.reason, kept.errno)
        unit = history.unit_pages * PAGE_BYTES
        bases = np.array([space.base for space in history.spaces], np.int64)
        found = []
        for a, b in runs_of_pages(kept.page, *alike)[-MOVES:]:
            page = int(kept.page[a])
            at = int(np.searchsorted(bases, page, side="right")) - 1
            space = history.spaces[at] if at >= 0 else None
            if space is not None and page >= space.base + space.pages:
                space = None
            gain = float(kept.gain_ns[a:b].astype(np.float64).sum())
            start = 0 if space is None else space.start_page + page - space.base
            found.append(
                MoveView(
                    time_s=(int(kept.time_ns[a]) - history.began_ns) / NS_PER_S,
                    owner=None if space is None else owner_of[space.base],
                    start=start * unit,
                    nr_pages=(b - a) * history.unit_pages,
                    src=int(kept.src[a]),
                    dst=int(kept.dst[a]),
                    reason=reason_name(int(kept.reason[a])),
                    gain_ns=None if np.isnan(gain) else gain,
                    errno=int(kept.errno[a]),
                )
            )
        return tuple(found)

    def _all_flows(self) -> tuple[FlowView, ...]:
        history, rank = self.history, self._service.rank
        kept = history.moves
        since = self._service.last_ns - round(RECENT_S * NS_PER_S)
        late = (kept.time_ns >= since) & (kept.errno == 0)
        pair = 256 * rank[kept.src[late]] + rank[kept.dst[late]]
        found = np.bincount(pair, minlength=1 << 16)
        return tuple(
            FlowView(
                src=src,
                dst=dst,
                pages=pages,
                recent_pages=int(found[256 * src + dst]) * history.unit_pages,
            )
            for (src, dst), pages in sorted(self._flows.items())
        )


class _Regions:
    """Regions of memory in order of address, by owner."""

    def __init__(self, history: History, owner_of: dict[int, int]) -> None:
        self._history = history
        self._unit = history.unit_pages * PAGE_BYTES
        region, owner, start, end, new = [], [], [], [], []
        spaces = sorted(history.spaces, key=lambda s: (owner_of[s.base], s.start_page))
        for space in spaces:
            first = space.base // REGION_PAGES
            last = -(-(space.base + space.pages) // REGION_PAGES)
            rows = np.arange(first, last)
            edge = np.clip(
                np.arange(first, last + 1) * REGION_PAGES,
                space.base,
                space.base + space.pages,
            )
            address = (edge - space.base + space.start_page) * self._unit
            region.append(rows)
            owner.append(np.full(len(rows), owner_of[space.base]))
            start.append(address[:-1])
            end.append(address[1:])
            begins = np.zeros(len(rows), np.bool_)
            begins[:1] = True
            new.append(begins)
        empty = np.empty(0, np.int64)
        self._region = np.concatenate([empty, *region])
        self._owner = np.concatenate([empty, *owner])
        self._start = np.concatenate([empty, *start])
        self._end = np.concatenate([empty, *end])
        self._new = np.concatenate([np.empty(0, np.bool_), *new])

    def _column(self, column: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return a stretch's column for our regions, NaN where it has none."""
        found = np.full(len(self._region), np.nan)
        inside = self._region < len(column)
        found[inside] = column[self._region[inside]]
        return found

    def ranges(
        self, most: int, order: RangeOrder, first: int
    ) -> tuple[int, tuple[RangeView, ...]]:
        """Return how many runs of regions that are about as hot, and some of them."""
        if not self._history.stretches:
            return 0, ()
        last = self._history.stretches[-1]
        rate, share = self._column(last.rate), self._column(last.fast_share)
        there = np.flatnonzero(~np.isnan(rate) & ~np.isnan(share))
        if not len(there):
            return 0, ()
        rate, share = rate[there], share[there]
        start, end = self._start[there], self._end[there]
        new = self._new[there]
        new[1:] |= start[1:] != end[:-1]
        begins = alike_runs(new, rate, share)
        size = (end - start).astype(np.float64)
        whole = np.add.reduceat(size, begins)
        mean_rate = np.add.reduceat(size * rate, begins) / whole
        mean_share = np.add.reduceat(size * share, begins) / whole
        stop = np.append(begins[1:], len(there)) - 1
        chosen = choose_ranges(order, mean_rate, whole)[first : first + most]
        return len(begins), tuple(
            RangeView(
                owner=int(self._owner[there[begins[at]]]),
                start=int(start[begins[at]]),
                end=int(end[stop[at]]),
                rate=float(mean_rate[at]),
                fast_share=float(mean_share[at]),
                nr_pages=int(whole[at]) // PAGE_BYTES,
            )
            for at in chosen
        )

    def heat(self) -> HeatView | None:
        """Return the heat map, neighbouring regions of an owner joined."""
        stretches = self._history.stretches
        rows = len(self._region)
        if not stretches or not rows:
            return None
        rate = np.stack([self._column(s.rate) for s in stretches], axis=1)
        share = np.stack([self._column(s.fast_share) for s in stretches], axis=1)
        parts = min(rows, HEAT_ROWS)
        changes = np.flatnonzero(np.diff(self._owner)) + 1
        begins = np.arange(parts, dtype=np.int64) * rows // parts
        if len(changes) < HEAT_ROWS:  # of more owners a row holds several
            begins = np.union1d(begins, changes)
        stop = np.append(begins[1:], rows) - 1
        began = self._history.began_ns
        return HeatView(
            owner=tuple(self._owner[begins].tolist()),
            start=tuple(self._start[begins].tolist()),
            end=tuple(self._end[stop].tolist()),
            time_s=tuple((s.to_ns - began) / NS_PER_S for s in stretches),
            rate=rows_of(_means(rate, begins)),
            fast_share=rows_of(_means(share, begins)),
        )


def _means(
    table: NDArray[np.float64], begins: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return means of groups of rows, NaN left out; NaN where all are."""
    there = ~np.isnan(table)
    total = np.add.reduceat(np.where(there, table, 0.0), begins, axis=0)
    count = np.add.reduceat(there, begins, axis=0, dtype=np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: NDArray[np.float64] = total / count
    return mean
