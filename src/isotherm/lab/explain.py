"""Why a page range is where it is, from the recording of a run."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.core.units import NS_PER_S, render_ns
from isotherm.observability.recording import read_run
from isotherm.policy.plan import Reason

#: Stretches of time that the heat is shown in.
STRETCHES: Final = 12

#: Reasons in words; 255 is a move without a plan of its own.
REASONS: Final = {
    int(Reason.PAYS): "pays: its advantage exceeds the cost of the move",
    int(Reason.MAKES_ROOM): "makes room for a page that is worth more",
    int(Reason.HOT): "hot: over the policy's threshold",
    int(Reason.COLD): "cold: under the policy's threshold or at its list's end",
    int(Reason.WATERMARK): "watermark: free memory of its node ran low",
    int(Reason.FUTURE): "future: a bound knows what comes",
}


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
        "start_pages_per_node": _count(recording.start),
        "end_pages_per_node": _count(recording.end),
        "heat": recording.heat_over_time(),
        "moves": moves,
        "decision": recording.decision(),
        "why": recording.why(groups),
    }


def _count(node: NDArray[np.uint8]) -> dict[str, int]:
    ids, counts = np.unique(node, return_counts=True)
    return {str(one): int(count) for one, count in zip(ids, counts, strict=True)}


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
                    "reason": _reason(int(row["reason"])),
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

    def groups(self) -> list[tuple[str, NDArray[np.int64]]]:
        """Return the range's pages by what became of them."""
        nr = np.zeros(len(self.start), np.int64)
        np.add.at(nr, self.moves["page"][self.moves["errno"] == 0] - self.first, 1)
        tried = np.zeros(len(self.start), bool)
        tried[self.moves["page"] - self.first] = True
        before = np.array([self.rank(node) for node in range(256)])[self.start]
        after = np.array([self.rank(node) for node in range(256)])[self.end]
        kinds = {
            "stayed fast": (nr == 0) & (after == 0) & ~tried,
            "stayed slow": (nr == 0) & (after > 0) & ~tried,
            "could not move": (nr == 0) & tried,
            "promoted": (nr > 0) & (after < before),
            "demoted": (nr > 0) & (after > before),
            "moved and came back": (nr > 0) & (after == before),
        }
        return [
            (name, self.first + np.flatnonzero(mask))
            for name, mask in kinds.items()
            if mask.any()
        ]

    def why(
        self, groups: Sequence[tuple[str, NDArray[np.int64]]]
    ) -> list[dict[str, Any]]:
        """Return words for every group of pages."""
        return [
            {
                "what": what,
                "nr_pages": len(page),
                "pages": page_ranges(page),
                "words": self._words(what, page),
            }
            for what, page in groups
        ]

    def _words(self, what: str, page: NDArray[np.int64]) -> str:
        region = np.unique(page // self.size - self.first // self.size)
        recent = max(1, len(self.end_s) // STRETCHES)
        rate = float(self.rate[-recent:, region].mean())
        belief = float(self.belief[-recent:, region].mean())
        heat = f"{rate:.3g} accesses a page and second of late"
        if not np.isnan(belief):
            heat += f" (believed: {belief:.3g})"
            rate = belief
        if what == "could not move":
            return f"{heat}; every try failed: {self._errors(page)}"
        if what.startswith("moved"):
            moved = int(np.isin(self.moves["page"], page).sum())
            heat += f"; {moved} moves in all, back in the tier where they began"
            ranks = [self.rank(int(node)) for node in self.end[page - self.first]]
            fast = np.mean(np.array(ranks) == 0) > 0.5
        else:
            fast = what in ("stayed fast", "promoted")
        return f"{heat}; {self._price_words(rate, fast=fast)}"

    def _errors(self, page: NDArray[np.int64]) -> str:
        import errno  # noqa: PLC0415  # names only

        failed = self.moves["errno"][np.isin(self.moves["page"], page)]
        names = [
            errno.errorcode.get(int(code), str(code)) for code in np.unique(failed)
        ]
        return ", ".join(names)

    def _price_words(self, rate: float, *, fast: bool | np.bool_) -> str:
        """Compare what a fast slot saves these pages with its price and cost.

        The rule is that of the isotherm policy: per epoch a slot saves
        ``(slow - fast latency) x rate x epoch``, costs its price, and a swap
        must bring more than its two moves cost.
        """
        notes = self.decision()
        tiers = self.run["topology"]["tiers"]
        price, cost = notes.get("price_ns_0"), notes.get("cost_ns_0")
        quick, slow = None, None
        if len(tiers) > 1:
            quick = self.latency(tiers[0]["nodes"][0])
            slow = self.latency(tiers[1]["nodes"][0])
        if quick is None or slow is None:
            return "the machine says no latencies, so no gain can be told"
        saves = (slow - quick) * rate * self.run["epoch_ns"] / NS_PER_S
        said = f"a fast slot saves each {render_ns(saves)} an epoch"
        if price is None or cost is None:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in notes.items())
            rule = f"the policy's last figures: {shown}" if shown else "no figures kept"
            return f"{said}; {rule}"
        net = saves - price
        said += f", the price of one is {render_ns(price)}"
        if fast:
            if net >= 0:
                return f"{said}: worth its slot by {render_ns(net)} an epoch"
            if net > -cost:
                return (
                    f"{said}: {render_ns(-net)} too little, but making room for another"
                    f" page costs two moves, {render_ns(2 * cost)}"
                )
            return f"{said}: it is on its way out, or has cooled only now"
        if net <= 0:
            return f"{said}: not worth a slot"
        if net < cost:
            return (
                f"{said}: advantage {render_ns(net + cost)} at most, below the cost of"
                f" two moves {render_ns(2 * cost)}"
            )
        return (
            f"{said}: it would pay by now; single pages differ from their region, or"
            " the policy has not seen it yet"
        )


def _reason(code: int) -> str:
    return Reason(code).name.lower() if code in REASONS else "unplanned"


def page_ranges(page: NDArray[np.int64]) -> list[list[int]]:
    """Return ascending pages as [first, last] ranges.

    >>> page_ranges(np.array([3, 4, 5, 9]))
    [[3, 5], [9, 9]]
    """
    breaks = np.flatnonzero(np.diff(page) != 1) + 1
    return [[int(run[0]), int(run[-1])] for run in np.split(page, breaks) if len(run)]
