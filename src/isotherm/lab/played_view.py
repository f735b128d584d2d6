"""A recorded run as a view, at any moment of its time."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.lab.recorded import RecordedRun, rank_of, read_recorded
from isotherm.observability.view import (
    HEAT_COLUMNS,
    HEAT_ROWS,
    MOMENTS,
    MOVES,
    RANGES,
    FlowView,
    HeatView,
    Moment,
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

#: Moves of so late are recent.
RECENT_S: Final = 60.0
_COLUMNS: Final = (
    "accesses",
    "fast_accesses",
    "promoted_pages",
    "demoted_pages",
    "failed_pages",
)


class PlayedView:
    """A recording that can be shown as it was at any time.

    Args:
        directory: What ``--record`` wrote.

    Raises:
        UsageError: No recording, or a damaged one.
        NotPermittedError: It may not be read.
    """

    def __init__(self, directory: Path) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415  # 0.1 s that --help must not pay

        self._recorded: RecordedRun = read_recorded(directory)
        table = pq.read_table(
            directory / "epochs.parquet", columns=[*_COLUMNS, "notes"]
        )
        self._sums = {
            name: np.cumsum(np.nan_to_num(table[name].to_numpy())) for name in _COLUMNS
        }
        accesses, fast = (table[name].to_numpy() for name in _COLUMNS[:2])
        with np.errstate(invalid="ignore", divide="ignore"):
            self._fast_share: NDArray[np.float64] = fast / accesses
        self._notes: list[dict[str, float]] = [
            dict(notes) for notes in table["notes"].to_pylist()
        ]
        run = self._recorded.run
        self._tiers = len(run["topology"]["tiers"])
        self._rank = np.array([rank_of(run, node) for node in range(256)])
        self._begins_s = float(
            self._recorded.end_s[0] - self._recorded.dt_s[0]
            if len(self._recorded.end_s)
            else 0.0
        )
        moves = self._recorded.moves
        done = moves["errno"] == 0
        self._pair = 256 * self._rank[moves["src"]] + self._rank[moves["dst"]]
        self._pair[~done] = -1

    @property
    def end_s(self) -> float:
        """Length of the run, seconds."""
        ends = self._recorded.end_s
        return float(ends[-1]) - self._begins_s if len(ends) else 0.0

    @property
    def epoch_s(self) -> float:
        """Length of an epoch at the start, seconds."""
        return float(self._recorded.run["epoch_ns"]) / NS_PER_S

    def at(
        self,
        time_s: float,
        most_ranges: int = RANGES,
        *,
        heat: bool = False,
        order: RangeOrder = "heat",
        first: int = 0,
    ) -> View:
        """Return the run as it was after so many seconds.

        Args:
            time_s: Clipped to the run.
            most_ranges: Ranges in it.
            heat: With the heat map.
            order: Of the ranges.
            first: Of the ranges, in that order.
        """
        recorded, run = self._recorded, self._recorded.run
        ends = recorded.end_s - self._begins_s
        nr = int(np.searchsorted(ends, time_s + 1e-9, side="right"))
        nr = max(min(nr, len(ends)), min(1, len(ends)))
        last = nr - 1
        tried = int(np.searchsorted(recorded.moves["position"], nr, side="right"))
        notes = self._notes[last] if nr else {}
        result, now_s = run["result"], float(ends[last]) if nr else 0.0
        up, down, failed = (
            int(self._sums[name][last]) if nr else 0 for name in _COLUMNS[2:]
        )
        owner = self._owner(tried, last)
        nr_ranges, ranges = self._ranges(last, most_ranges, order, first)
        return View(
            live=False,
            title=_title(run),
            policy=str(result["policy"]),
            dry_run=bool(result.get("dry_run", False)),
            time_s=now_s,
            end_s=self.end_s,
            epochs=nr,
            epoch_s=float(recorded.dt_s[last]) if nr else self.epoch_s,
            fast_share=_number(self._fast_share[last]) if nr else None,
            prices_ns=tuple(
                float(notes[f"price_ns_{at}"])
                for at in range(self._tiers)
                if f"price_ns_{at}" in notes
            ),
            brake_share=1.0,
            cpu_share=None,
            cpu_budget=None,
            promised_ns=None,  # a region's mean says too little of a hot page in it
            realised_ns=None,
            promoted_pages=up,
            demoted_pages=down,
            failed_pages=failed,
            hints={},
            tiers=self._tier_views(owner),
            owners=(owner,),
            ranges=ranges,
            nr_ranges=nr_ranges,
            tenants=tenant_views(result.get("tenants") or ()),
            moves=self._moves(tried),
            flows=self._flows(tried, now_s),
            moments=self._moments(nr),
            heat=self._heat(nr) if heat else None,
        )

    def _owner(self, tried: int, last: int) -> OwnerView:
        """Return the whole run as one owner."""
        recorded = self._recorded
        pages = np.bincount(self._rank[recorded.start], minlength=self._tiers + 1)
        pair = self._pair[:tried]
        pair = pair[pair >= 0]
        np.add.at(pages, pair & 255, 1)
        np.subtract.at(pages, pair >> 8, 1)
        rate = None
        if last >= 0:
            rate = float(recorded.accesses[last].sum() / recorded.dt_s[last])
        name = recorded.run["result"].get("workload") or recorded.run["result"].get(
            "target", "recorded"
        )
        return OwnerView(
            pid=None,
            name=str(name),
            tier_bytes=tuple(int(nr) * PAGE_BYTES for nr in pages[: self._tiers]),
            rate=rate,
        )

    def _tier_views(self, owner: OwnerView) -> tuple[TierView, ...]:
        topology = self._recorded.run["topology"]
        label = {n["id"]: n["label"] or n["kind"] for n in topology["nodes"]}
        memory = {n["id"]: n.get("memory_bytes") or 0 for n in topology["nodes"]}
        found = []
        for at, tier in enumerate(topology["tiers"]):
            used = owner.tier_bytes[at]
            names = dict.fromkeys(str(label[node]) for node in tier["nodes"])
            found.append(
                TierView(
                    name=", ".join(names),
                    nodes=tuple(tier["nodes"]),
                    latency_ns=self._recorded.latency(tier["nodes"][0]),
                    capacity_bytes=max(sum(memory[n] for n in tier["nodes"]), used),
                    used_bytes=used,
                    managed_bytes=used,
                )
            )
        return tuple(found)

    def _edges(self) -> NDArray[np.int64]:
        recorded = self._recorded
        edge = recorded.size * np.arange(len(recorded.width) + 1, dtype=np.int64)
        edge[-1] = len(recorded.start)
        return edge * PAGE_BYTES

    def _ranges(
        self, last: int, most: int, order: RangeOrder, first: int
    ) -> tuple[int, tuple[RangeView, ...]]:
        """Return how many there are, and some of them."""
        recorded = self._recorded
        if last < 0:
            return 0, ()
        rate = recorded.accesses[last] / recorded.width / recorded.dt_s[last]
        share, edge = recorded.share[last].astype(np.float64), self._edges()
        begins = alike_runs(np.zeros(len(rate), np.bool_), rate, share)
        whole = np.add.reduceat(recorded.width, begins)
        heat = np.add.reduceat(recorded.width * rate, begins) / whole
        fast = np.add.reduceat(recorded.width * share, begins) / whole
        stop = np.append(begins[1:], len(rate))
        chosen = choose_ranges(order, heat, whole)[first : first + most]
        return len(begins), tuple(
            RangeView(
                owner=0,
                start=int(edge[begins[at]]),
                end=int(edge[stop[at]]),
                rate=float(heat[at]),
                fast_share=float(fast[at]),
                nr_pages=int(whole[at]),
            )
            for at in chosen
        )

    def _moves(self, tried: int) -> tuple[MoveView, ...]:
        recorded = self._recorded
        late = slice(max(0, tried - (1 << 14)), tried)
        columns = {name: column[late] for name, column in recorded.moves.items()}
        page = columns["page"].astype(np.int64)
        if not len(page):
            return ()
        alike = [columns[n] for n in ("position", "src", "dst", "reason", "errno")]
        ends = recorded.end_s - self._begins_s
        return tuple(
            MoveView(
                time_s=float(ends[columns["position"][a] - 1]),
                owner=0,
                start=int(page[a]) * PAGE_BYTES,
                nr_pages=b - a,
                src=int(columns["src"][a]),
                dst=int(columns["dst"][a]),
                reason=reason_name(int(columns["reason"][a])),
                gain_ns=_number(columns["gain_ns"][a:b].astype(np.float64).sum()),
                errno=int(columns["errno"][a]),
            )
            for a, b in runs_of_pages(page, *alike)[-MOVES:]
        )

    def _flows(self, tried: int, now_s: float) -> tuple[FlowView, ...]:
        pair = self._pair[:tried]
        ends = self._recorded.end_s - self._begins_s
        when = ends[self._recorded.moves["position"][:tried] - 1]
        late = dict(
            zip(
                *np.unique(pair[when > now_s - RECENT_S], return_counts=True),
                strict=True,
            )
        )
        return tuple(
            FlowView(
                src=int(both) >> 8,
                dst=int(both) & 255,
                pages=int(pages),
                recent_pages=int(late.get(both, 0)),
            )
            for both, pages in zip(*np.unique(pair, return_counts=True), strict=True)
            if both >= 0
        )

    def _moments(self, nr: int) -> tuple[Moment, ...]:
        step = max(1, -(-nr // MOMENTS))
        ends = self._recorded.end_s - self._begins_s
        found = []
        for at in range((nr - 1) % step, nr, step):
            price = self._notes[at].get("price_ns_0")
            found.append(
                Moment(
                    time_s=float(ends[at]),
                    fast_share=_number(self._fast_share[at]),
                    promoted_pages=int(self._sums["promoted_pages"][at]),
                    demoted_pages=int(self._sums["demoted_pages"][at]),
                    brake_share=1.0,
                    price_ns=None if price is None else float(price),
                )
            )
        return tuple(found)

    def _heat(self, nr: int) -> HeatView | None:
        recorded, rows = self._recorded, len(self._recorded.width)
        if not nr or not rows:
            return None
        parts, columns = min(rows, HEAT_ROWS), min(nr, HEAT_COLUMNS)
        begins = np.arange(parts, dtype=np.int64) * rows // parts
        first = np.arange(columns, dtype=np.int64) * nr // columns
        width = np.add.reduceat(recorded.width, begins)
        length = np.add.reduceat(recorded.dt_s[:nr], first)
        heat = np.add.reduceat(recorded.accesses[:nr].astype(np.float64), first, axis=0)
        heat = np.add.reduceat(heat, begins, axis=1) / width / length[:, None]
        share = recorded.share[:nr] * recorded.width
        share = np.add.reduceat(share, begins, axis=1) / width
        many = np.diff(np.append(first, nr))[:, None]
        share = np.add.reduceat(share, first, axis=0) / many
        edge, ends = self._edges(), recorded.end_s - self._begins_s
        return HeatView(
            owner=(0,) * parts,
            start=tuple(edge[begins].tolist()),
            end=tuple(edge[np.append(begins[1:], rows)].tolist()),
            time_s=tuple(ends[np.append(first[1:], nr) - 1].tolist()),
            rate=rows_of(heat.T),
            fast_share=rows_of(share.T),
        )


def _title(run: dict[str, Any]) -> str:
    result = run["result"]
    if "workload" in result:
        return f"{result['workload']} on {result['machine']}"
    return str(run["spec"].get("target", "a recorded run"))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
