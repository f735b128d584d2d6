"""Why a page range is where it is, from the recording of a run."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.core.units import NS_PER_S
from isotherm.observability.recording import read_run
from isotherm.observability.why import (
    Figures,
    Tried,
    derive_groups,
    explain_group,
    page_ranges,
    pages_per_node,
    reason_name,
)

__all__ = ["explain", "page_ranges"]

#: Stretches of time that the heat is shown in.
STRETCHES: Final = 12


def explain(directory: Path, first: int, last: int) -> dict[str, Any]:
    """Return why pages ``first`` to ``last`` (both included) are where they are.

    Args:
        directory: A recording.
        first: First flat page.
        last: Last flat page.

    Raises:
        UsageError: No recording, or pages that the run does not have.
    """
    run = read_run(directory)
    pages = run["pages"]
    if not 0 <= first <= last < pages:
        raise UsageError(
            f"pages {first}-{last}: expected a range within 0-{pages - 1}",
            hint=f"isotherm explain {directory} --pages 0-{min(63, pages - 1)}",
        )
    recording = _Recording(directory, run, first, last)
    moves = recording.moves_with_earnings()
    groups = recording.groups()
    return {
        "recording": str(directory),
        "policy": run["result"]["policy"],
        "workload": run["result"]["workload"],
        "machine": run["result"]["machine"],
        "fast_ratio": run["result"]["fast_ratio"],
        "pages": [first, last],
        "region_pages": run["region_pages"],
        "nodes": recording.node_names(),
        "start_pages_per_node": pages_per_node(recording.start),
        "end_pages_per_node": pages_per_node(recording.end),
        "heat": recording.heat_over_time(),
        "moves": moves,
        "decision": recording.decision(),
        "why": recording.why(groups),
    }


class _Recording:
    """The part of a recording that a page range needs."""

    def __init__(
        self, directory: Path, run: dict[str, Any], first: int, last: int
    ) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415  # 0.1 s that --help must not pay

        self.run, self.first, self.last = run, first, last
        self.size = run["region_pages"]
        within = [("page", ">=", first), ("page", "<=", last)]
        placed = pq.read_table(directory / "placement.parquet", filters=within)
        self.start = placed["node"].to_numpy().astype(np.uint8)
        columns = ["epoch", "page", "src", "dst", "reason", "gain_ns", "errno"]
        moved = pq.read_table(
            directory / "moves.parquet", columns=columns, filters=within
        )
        self.moves = {name: moved[name].to_numpy() for name in columns}
        regions = [("region", ">=", first // self.size)]
        regions.append(("region", "<=", last // self.size))
        self.nr_regions = last // self.size - first // self.size + 1
        heat = pq.read_table(directory / "heat.parquet", filters=regions)
        self.epochs = pq.read_table(directory / "epochs.parquet")
        shape = (len(self.epochs), self.nr_regions)
        self.accesses = heat["accesses"].to_numpy().reshape(shape)
        self.belief = heat["belief"].to_numpy().reshape(shape)
        self.share = heat["fast_share"].to_numpy().reshape(shape)
        self.index = self.epochs["epoch"].to_numpy()
        self.end_s = self.epochs["now_ns"].to_numpy() / NS_PER_S
        self.dt_s = self.epochs["dt_ns"].to_numpy() / NS_PER_S
        width = np.full(self.nr_regions, self.size, np.float64)
        ends = (first // self.size + np.arange(1, self.nr_regions + 1)) * self.size
        width -= np.maximum(0, ends - run["pages"])
        self.width = width
        self.end = self.start.copy()
        done = self.moves["errno"] == 0
        self.end[self.moves["page"][done] - first] = self.moves["dst"][done]

    @property
    def rate(self) -> NDArray[np.float64]:
        """True accesses per page per second, [epochs, regions]."""
        rate: NDArray[np.float64] = self.accesses / self.width / self.dt_s[:, None]
        return rate

    def rank(self, node: int) -> int:
        """Return the tier of a node, 0 is the fastest."""
        for rank, tier in enumerate(self.run["topology"]["tiers"]):
            if node in tier["nodes"]:
                return rank
        return len(self.run["topology"]["tiers"])

    def node_names(self) -> dict[str, str]:
        """Return names of nodes for people, by id."""
        names = {}
        for node in self.run["topology"]["nodes"]:
            label = node["label"] or node["kind"]
            names[str(node["id"])] = f"{label}, tier {self.rank(node['id'])}"
        return names

    def latency(self, node: int) -> float | None:
        """Return the unloaded latency of a node; None where nobody said."""
        table = self.run["latency_ns"]
        return None if table is None else float(table[0][node])

    def heat_over_time(self) -> list[dict[str, float | None]]:
        """Return rate and placement of the range in some stretches of time."""
        total = len(self.end_s)
        edges = np.unique(np.linspace(0, total, min(STRETCHES, total) + 1).astype(int))
        rows: list[dict[str, float | None]] = []
        weight = self._weight()
        for a, b in pairwise(edges):
            rate = float((self.rate[a:b] @ weight).mean())
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

    def _weight(self) -> NDArray[np.float64]:
        """Return the share of the range that lies in each region."""
        regions = self.first // self.size + np.arange(self.nr_regions)
        start = np.maximum(regions * self.size, self.first)
        stop = np.minimum((regions + 1) * self.size, self.last + 1)
        weight: NDArray[np.float64] = (stop - start) / (self.last + 1 - self.first)
        return weight

    def moves_with_earnings(self) -> list[dict[str, Any]]:
        """Return what was tried, with what each move earned until the next one.

        Earned is an estimate: the true rate of the page's region, times the
        latency saved (lost, going down), less the cost of the move.
        """
        seen = (
            np.vstack([np.zeros(self.nr_regions), self.accesses.cumsum(0)]) / self.width
        )
        rows: list[dict[str, Any]] = []
        later: dict[int, int] = {}
        for at in range(len(self.moves["page"]) - 1, -1, -1):
            row = {name: column[at] for name, column in self.moves.items()}
            page, epoch = int(row["page"]), int(row["epoch"])
            position = int(np.searchsorted(self.index, epoch)) + 1
            earned = None
            if row["errno"] == 0:
                until = later.get(page, len(seen) - 1)
                region = page // self.size - self.first // self.size
                accesses = float(seen[until, region] - seen[position, region])
                earned = self._earned(int(row["src"]), int(row["dst"]), accesses)
                later[page] = position
            rows.append(
                {
                    "time_s": float(self.end_s[position - 1]),
                    "epoch": epoch,
                    "page": page,
                    "src": int(row["src"]),
                    "dst": int(row["dst"]),
                    "reason": reason_name(int(row["reason"])),
                    "gain_ns": None
                    if np.isnan(row["gain_ns"])
                    else float(row["gain_ns"]),
                    "earned_ns": earned,
                    "errno": int(row["errno"]),
                }
            )
        rows.reverse()
        return rows

    def _earned(self, src: int, dst: int, accesses: float) -> float | None:
        before, after = self.latency(src), self.latency(dst)
        costs = self.run["move_cost_ns"]
        if before is None or after is None or costs is None:
            return None
        return accesses * (before - after) - float(costs[src][dst])

    def decision(self) -> dict[str, float]:
        """Return the figures behind the last decision (the policy's notes)."""
        notes = self.epochs["notes"].to_pylist()
        return dict(notes[-1]) if notes else {}

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
            self.decision(),
        )
        said = []
        for what, page in groups:
            region = np.unique(page // self.size - self.first // self.size)
            belief = float(self.belief[-recent:, region].mean())
            ranks = [self.rank(int(node)) for node in self.end[page - self.first]]
            said.append(
                explain_group(
                    what,
                    page,
                    self.tried,
                    figures,
                    rate=float(self.rate[-recent:, region].mean()),
                    belief=None if np.isnan(belief) else belief,
                    fast_share=float(np.mean(np.array(ranks) == 0)),
                )
            )
        return said
