"""A recorded run, or a part of its pages, as columns: for ``explain`` and reports."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.core.files import file_error
from isotherm.core.units import NS_PER_S
from isotherm.observability.recording import read_run
from isotherm.observability.why import Figures, Tried, derive_groups, explain_group

#: Stretches of time that the heat is shown in.
STRETCHES: Final = 12

_MOVE_COLUMNS: Final = ("epoch", "page", "src", "dst", "reason", "gain_ns", "errno")


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """Pages ``first`` to ``last`` of a recording.

    Attributes:
        run: What ``run.json`` says.
        first: First flat page.
        last: Last flat page, included.
        index: Epochs, int64[epochs].
        end_s: Their ends, float64[epochs].
        dt_s: Their lengths, float64[epochs].
        notes: The policy's figures behind its last decision.
        width: Pages of every region, float64[regions].
        accesses: True ones of every region, float32[epochs, regions].
        belief: Rate that the tracker believed, NaN without one, likewise.
        share: Share of a region's pages in the fastest tier, likewise.
        start: Node of every page at the start, uint8[pages].
        end: Likewise at the end.
        moves: What was tried, in order of time, by the columns of
            ``moves.parquet``; ``position``: the epochs that had ended, int64;
            ``earned_ns``: see :func:`_earned_ns`, float64.
    """

    run: dict[str, Any]
    first: int
    last: int
    index: NDArray[np.int64]
    end_s: NDArray[np.float64]
    dt_s: NDArray[np.float64]
    notes: dict[str, float]
    width: NDArray[np.float64]
    accesses: NDArray[np.float32]
    belief: NDArray[np.float32]
    share: NDArray[np.float32]
    start: NDArray[np.uint8]
    end: NDArray[np.uint8]
    moves: dict[str, NDArray[Any]]

    @property
    def size(self) -> int:
        """Pages of a region; the run's last one may have fewer."""
        return int(self.run["region_pages"])

    @property
    def rate(self) -> NDArray[np.float64]:
        """True accesses per page per second, [epochs, regions]."""
        rate: NDArray[np.float64] = self.accesses / self.width / self.dt_s[:, None]
        return rate

    @property
    def weight(self) -> NDArray[np.float64]:
        """Share of the range that lies in each region."""
        region = self.first // self.size + np.arange(len(self.width))
        start = np.maximum(region * self.size, self.first)
        stop = np.minimum((region + 1) * self.size, self.last + 1)
        weight: NDArray[np.float64] = (stop - start) / (self.last + 1 - self.first)
        return weight

    def part(self, first: int, last: int) -> "RecordedRun":
        """Return pages ``first`` to ``last`` (included) of these."""
        own = self.first // self.size
        region = slice(first // self.size - own, last // self.size + 1 - own)
        page = slice(first - self.first, last + 1 - self.first)
        inside = (self.moves["page"] >= first) & (self.moves["page"] <= last)
        return replace(
            self,
            first=first,
            last=last,
            width=self.width[region],
            accesses=self.accesses[:, region],
            belief=self.belief[:, region],
            share=self.share[:, region],
            start=self.start[page],
            end=self.end[page],
            moves={name: column[inside] for name, column in self.moves.items()},
        )

    def rank(self, node: int) -> int:
        """Return the tier of a node, 0 is the fastest."""
        return rank_of(self.run, node)

    def node_names(self) -> dict[str, str]:
        """Return names of nodes for people, by id."""
        names = {}
        for node in self.run["topology"]["nodes"]:
            label = node["label"] or node["kind"]
            names[str(node["id"])] = f"{label}, tier {self.rank(node['id'])}"
        return names

    def latency(self, node: int) -> float | None:
        """Return what an access stalls on a node, unloaded; None where nobody said."""
        table = self.run["latency_ns"]
        return None if table is None else float(table[0][node]) / _in_flight(self.run)

    def heat_over_time(self) -> list[dict[str, float | None]]:
        """Return rate and placement of the range in some stretches of time."""
        total = len(self.end_s)
        edges = np.unique(np.linspace(0, total, min(STRETCHES, total) + 1).astype(int))
        rows: list[dict[str, float | None]] = []
        weight, all_rates = self.weight, self.rate
        for a, b in pairwise(edges):
            rate = float((all_rates[a:b] @ weight).mean())
            belief = float((self.belief[a:b] @ weight).mean())
            rows.append(
                {
                    "from_s": float(self.end_s[a] - self.dt_s[a]),
                    "to_s": float(self.end_s[b - 1]),
                    "rate": rate,
                    "belief": None if np.isnan(belief) else belief,
                    "fast_share": float((self.share[a:b] @ weight).mean()),
                }
            )
        return rows

    @property
    def tried(self) -> Tried:
        """Moves of the range's pages that were tried."""
        return Tried(self.moves["page"].astype(np.int64), self.moves["errno"])

    def groups(self) -> list[tuple[str, NDArray[np.int64]]]:
        """Return the range's pages by what became of them."""
        rank = np.array([self.rank(node) for node in range(256)])
        page = np.arange(self.first, self.last + 1, dtype=np.int64)
        return derive_groups(page, rank[self.start], rank[self.end], self.tried)

    def why(
        self, groups: Sequence[tuple[str, NDArray[np.int64]]]
    ) -> list[dict[str, Any]]:
        """Return words for every group of pages."""
        recent = max(1, len(self.end_s) // STRETCHES)
        tiers = self.run["topology"]["tiers"]
        two = len(tiers) > 1
        figures = Figures(
            self.latency(tiers[0]["nodes"][0]) if two else None,
            self.latency(tiers[1]["nodes"][0]) if two else None,
            self.run["epoch_ns"],
            self.notes,
        )
        rate = self.accesses[-recent:] / self.width / self.dt_s[-recent:, None]
        said = []
        for what, page in groups:
            region = np.unique(page // self.size - self.first // self.size)
            belief = float(self.belief[-recent:, region].mean())
            fast = np.isin(self.end[page - self.first], tiers[0]["nodes"])
            said.append(
                explain_group(
                    what,
                    page,
                    self.tried,
                    figures,
                    rate=float(rate[:, region].mean()),
                    belief=None if np.isnan(belief) else belief,
                    fast_share=float(fast.mean()),
                )
            )
        return said


def rank_of(run: dict[str, Any], node: int) -> int:
    """Return the tier of a node of a run, 0 is the fastest."""
    for rank, tier in enumerate(run["topology"]["tiers"]):
        if node in tier["nodes"]:
            return rank
    return len(run["topology"]["tiers"])


def read_recorded(
    directory: Path, first: int = 0, last: int | None = None
) -> RecordedRun:
    """Return pages of a recording; only what holds them is read.

    Args:
        directory: A recording.
        first: First flat page.
        last: Last flat page, included; None: the run's last.

    Raises:
        UsageError: No recording, or a damaged one.
        NotPermittedError: It may not be read.
    """
    import pyarrow as pa  # noqa: PLC0415  # 0.1 s that --help must not pay

    try:
        return _read(directory, first, last)
    except OSError as error:
        raise file_error(directory, error, "a recording that cannot be read") from error
    except (pa.ArrowException, KeyError, ValueError, IndexError) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(
            f"{directory}: a damaged recording: {why}",
            hint="isotherm simulate --record DIR makes a new one",
        ) from error


def _read(directory: Path, first: int, last: int | None) -> RecordedRun:
    """Return pages of a recording, as `read_recorded` does; fails in its own words."""
    import pyarrow.parquet as pq  # noqa: PLC0415  # 0.1 s that --help must not pay

    run = read_run(directory)
    pages, size = run["pages"], run["region_pages"]
    last = pages - 1 if last is None else last
    within = [("page", ">=", first), ("page", "<=", last)]
    placed = pq.read_table(directory / "placement.parquet", filters=within)
    start = placed["node"].to_numpy().astype(np.uint8)
    table = pq.read_table(
        directory / "moves.parquet", columns=list(_MOVE_COLUMNS), filters=within
    )
    moves = {name: table[name].to_numpy() for name in _MOVE_COLUMNS}
    regions = [("region", ">=", first // size), ("region", "<=", last // size)]
    nr_regions = last // size - first // size + 1
    heat = pq.read_table(directory / "heat.parquet", filters=regions)
    epochs = pq.read_table(directory / "epochs.parquet")
    shape = (len(epochs), nr_regions)
    index = epochs["epoch"].to_numpy()
    ends = (first // size + np.arange(1, nr_regions + 1)) * size
    width = size - np.maximum(0, ends - pages).astype(np.float64)
    accesses = heat["accesses"].to_numpy().reshape(shape)
    moves["position"] = np.searchsorted(index, moves["epoch"]) + 1
    moves["earned_ns"] = _earned_ns(run, moves, accesses / width, first // size)
    end = start.copy()
    done = moves["errno"] == 0
    end[moves["page"][done] - first] = moves["dst"][done]
    notes = epochs["notes"].to_pylist()
    return RecordedRun(
        run=run,
        first=first,
        last=last,
        index=index,
        end_s=epochs["now_ns"].to_numpy() / NS_PER_S,
        dt_s=epochs["dt_ns"].to_numpy() / NS_PER_S,
        notes=dict(notes[-1]) if notes else {},
        width=width,
        accesses=accesses,
        belief=heat["belief"].to_numpy().reshape(shape),
        share=heat["fast_share"].to_numpy().reshape(shape),
        start=start,
        end=end,
        moves=moves,
    )


def _in_flight(run: dict[str, Any]) -> float:
    """Return the misses that share a latency; 1 in recordings that do not say."""
    there = run["topology"]["initiators"]
    return float((there[0].get("parallelism") if there else None) or 1.0)


def _earned_ns(
    run: dict[str, Any],
    moves: dict[str, NDArray[Any]],
    accesses: NDArray[np.float64],
    first_region: int,
) -> NDArray[np.float64]:
    """Return what each move earned until the page's next one; NaN: nobody can say.

    An estimate: the true accesses of the page's region, times the latency saved
    (lost, going down), less the cost of the move.

    Args:
        run: What ``run.json`` says.
        moves: Columns, in order of time.
        accesses: Per page of each region, float64[epochs, regions].
        first_region: The region of column 0.
    """
    earned = np.full(len(moves["page"]), np.nan)
    table, costs = run["latency_ns"], run["move_cost_ns"]
    done = np.flatnonzero(moves["errno"] == 0)
    if table is None or costs is None or not len(done):
        return earned
    order = done[np.lexsort((done, moves["page"][done]))]
    page, position = moves["page"][order].astype(np.int64), moves["position"][order]
    until = np.full(len(order), len(accesses))
    again = np.flatnonzero(page[1:] == page[:-1])
    until[again] = position[again + 1]
    seen = np.vstack([np.zeros(accesses.shape[1]), accesses.cumsum(0)])
    region = page // run["region_pages"] - first_region
    nr = seen[until, region] - seen[position, region]
    latency, cost = np.asarray(table[0], np.float64), np.asarray(costs, np.float64)
    latency = latency / _in_flight(run)
    src, dst = moves["src"][order], moves["dst"][order]
    earned[order] = nr * (latency[src] - latency[dst]) - cost[src, dst]
    return earned
