"""Bars and tables of the quality benchmark, from its Parquet file.

    .venv/bin/python benchmarks/quality_report.py [CELLS] [--out docs/results]

Writes quality.md, the whole table with the losses first, and quality.parquet, the
cells behind it; puts the bars into docs/measurements.md, the short of it into README.
"""

import argparse
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isotherm.lab.regret import REGRET_FLOOR
from publish import README, markdown, publish
from quality_grid import BOUNDS, OURS, REGIMES, TUNING_WORKLOADS
from quality_short import FLAT_MOVES, MEAN, WORST, render_short

ROOT: Final = Path(__file__).resolve().parents[1]
CELLS: Final = ROOT / "out" / "quality" / "quality.parquet"

FIRST_TOUCH_BAR: Final = 0.01  # at most so much slower than first-touch
FLAT_COST_BAR: Final = 0.005  # the same where nothing is to be gained
FLAT_MOVES_BAR: Final = 0.2  # moves over pages there
NEAR: Final = 0.02  # within this of the best peer
NEAR_BAR: Final = 0.95  # share of cells
BEST_BAR: Final = 0.80  # share of cells

#: One row a cell: ours, bounds, and the best run of any peer, tuned or not.
CELLS_SQL: Final = f"""
CREATE TEMP VIEW cells AS
SELECT *,
    least(static_oracle, clairvoyant) AS best_bound,
    CASE WHEN NOT flat THEN (isotherm - least(static_oracle, clairvoyant))
        / greatest(first_touch - least(static_oracle, clairvoyant), {REGRET_FLOOR})
    END AS regret,
    isotherm / first_touch - 1 AS vs_first_touch,
    isotherm / peer_slowdown - 1 AS vs_peer,
    isotherm / placed_slowdown - 1 AS vs_placed
FROM (
    SELECT regime, workload, fast_ratio, period, seed,
        any_value(flat) AS flat, any_value(tuning) AS tuning,
        max(slowdown) FILTER (policy = '{OURS}') AS isotherm,
        max(moves_per_page) FILTER (policy = '{OURS}') AS moves,
        max(slowdown) FILTER (policy = 'first-touch') AS first_touch,
        max(slowdown) FILTER (policy = 'static-oracle') AS static_oracle,
        max(slowdown) FILTER (policy = 'clairvoyant') AS clairvoyant,
        min(slowdown) FILTER (policy NOT IN {(OURS, *BOUNDS)}) AS peer_slowdown,
        min(slowdown) FILTER (policy NOT IN {(OURS, "lru", *BOUNDS)})
            AS placed_slowdown,
        arg_min(policy, slowdown) FILTER (policy NOT IN {(OURS, *BOUNDS)}) AS peer
    FROM runs
    GROUP BY regime, workload, fast_ratio, period, seed
)
"""  # noqa: S608  # names of our own

BARS_SQL: Final = """
SELECT regime, count(*) AS cells,
    avg(regret) AS mean_regret, max(regret) AS max_regret,
    avg(regret) FILTER (tuning) AS regret_tuning,
    avg(regret) FILTER (NOT tuning) AS regret_others,
    max(vs_first_touch) AS vs_first_touch,
    avg((vs_peer <= $near)::INT) FILTER (NOT flat) AS near_best,
    avg((vs_peer < 0)::INT) FILTER (NOT flat) AS best,
    avg((vs_placed <= $near)::INT) FILTER (NOT flat) AS near_placed,
    avg((vs_placed < 0)::INT) FILTER (NOT flat) AS best_placed,
    avg((vs_peer <= $near)::INT) AS near_best_all,
    avg((vs_peer < 0)::INT) AS best_all,
    max(moves) FILTER (flat) AS flat_moves,
    max(vs_first_touch) FILTER (flat) AS flat_cost
FROM cells GROUP BY regime
"""

#: The same cells, seeds averaged.
ROWS_SQL: Final = """
SELECT workload, fast_ratio, period, any_value(flat) AS flat,
    avg(isotherm) AS isotherm, avg(peer_slowdown) AS peer_slowdown,
    string_agg(DISTINCT peer, ', ' ORDER BY peer) AS peer,
    avg(first_touch) AS first_touch, avg(static_oracle) AS static_oracle,
    avg(clairvoyant) AS clairvoyant, avg(regret) AS regret,
    max(regret) - min(regret) AS spread, avg(moves) AS moves,
    avg(isotherm) / avg(peer_slowdown) - 1 AS lead
FROM cells WHERE regime = $regime
GROUP BY workload, fast_ratio, period
ORDER BY workload, fast_ratio DESC, period
"""

POLICIES_SQL: Final = """
SELECT policy, variant, any_value(options) AS options,
    avg(CASE WHEN NOT flat THEN (slowdown - best_bound)
        / greatest(first_touch - best_bound, $floor) END) AS regret,
    exp(avg(ln(slowdown / first_touch))) AS vs_first_touch,
    max(slowdown / first_touch) AS worst, avg(moves_per_page) AS moves
FROM runs JOIN cells USING (regime, workload, fast_ratio, period, seed, flat)
WHERE regime = $regime
GROUP BY policy, variant ORDER BY regret
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure of one regime, and whether it is good enough.

    Attributes:
        regime: Name of the regime.
        name: What the figure is.
        value: The figure; None where no cell has it.
        bar: What is asked for; None: told, not judged.
        at_least: Whether more is better.
        percent: Whether to show it in percent.
    """

    regime: str
    name: str
    value: float | None
    bar: float | None = None
    at_least: bool = False
    percent: bool = False

    @property
    def passed(self) -> bool | None:
        """Whether it is good enough; None where nothing is judged."""
        if self.bar is None or self.value is None:
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def show(self, figure: float | None) -> str:
        """Return a figure as text."""
        if figure is None:
            return ""
        return f"{figure:.1%}" if self.percent else f"{figure:.3f}"

    @property
    def verdict(self) -> str:
        """What the bar says, in words."""
        sign = "at least" if self.at_least else "at most"
        word = {True: "pass", False: "FAIL", None: ""}[self.passed]
        return f"{sign} {self.show(self.bar)}: {word}" if word else ""


def connect(path: Path) -> Any:  # a DuckDB connection, which has no types
    """Return a database with ``runs`` (the file) and ``cells`` (one row each)."""
    import duckdb  # noqa: PLC0415  # 0.1 s

    database = duckdb.connect()
    database.execute(
        f"CREATE TEMP TABLE runs AS FROM read_parquet({str(path)!r})"  # our own path
    )
    database.execute(CELLS_SQL)
    return database


def query(
    database: Any, sql: str, values: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    cursor = database.execute(sql, values or {})
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def read_bars(path: Path) -> list[Bar]:
    """Return all figures of all regimes in a file of cells."""
    return bars_of(query(connect(path), BARS_SQL, {"near": NEAR}))


def bars_of(rows: Iterable[dict[str, Any]]) -> list[Bar]:
    """Return the figures of the rows of ``BARS_SQL``, regimes in our order."""
    by_name = {row["regime"]: row for row in rows}
    bars = []
    for regime in REGIMES.values():
        row = by_name.get(regime.name)
        if row is None:
            continue
        name = regime.name
        bars += [
            Bar(name, MEAN, row["mean_regret"], regime.mean_bar),
            Bar(name, "mean regret, workloads for tuning", row["regret_tuning"]),
            Bar(name, "mean regret, other workloads", row["regret_others"]),
            Bar(name, WORST, row["max_regret"], regime.max_bar),
            Bar(
                name,
                "slower than first-touch, worst cell",
                row["vs_first_touch"],
                FIRST_TOUCH_BAR,
                percent=True,
            ),
            Bar(
                name,
                "within 2 % of the best peer",
                row["near_best"],
                NEAR_BAR,
                True,
                True,
            ),
            Bar(name, "faster than every peer", row["best"], BEST_BAR, True, True),
            Bar(name, "within 2 %, lru left out", row["near_placed"], percent=True),
            Bar(name, "faster, lru left out", row["best_placed"], percent=True),
            Bar(
                name,
                "within 2 %, uniform and stream too",
                row["near_best_all"],
                percent=True,
            ),
            Bar(
                name,
                "faster, uniform and stream too",
                row["best_all"],
                percent=True,
            ),
            Bar(
                name,
                FLAT_MOVES,
                row["flat_moves"],
                FLAT_MOVES_BAR,
            ),
            Bar(
                name,
                "slower than first-touch on uniform and stream",
                row["flat_cost"],
                FLAT_COST_BAR,
                percent=True,
            ),
        ]
        bars.append(Bar(name, "cells", float(row["cells"])))
    return [bar for bar in bars if bar.value is not None]


def print_bars(bars: Sequence[Bar], regimes: Collection[str]) -> None:
    """Print the figures of some regimes."""
    last = ""
    for bar in bars:
        if bar.regime not in regimes:
            continue
        if bar.regime != last:
            last = bar.regime
            print(f"\n{last}: {REGIMES[last].title}, {_cells_of(bars, last)} cells")
        if bar.name != "cells":
            print(f"  {bar.name:<46}{bar.show(bar.value):>9}  {bar.verdict}".rstrip())


def _cells_of(bars: Sequence[Bar], regime: str) -> int:
    return next(
        int(b.value or 0) for b in bars if (b.regime, b.name) == (regime, "cells")
    )


# ---- the page


def render_summary(bars: Sequence[Bar]) -> str:
    """Return a table of all bars, a column per regime."""
    regimes = list(dict.fromkeys(bar.regime for bar in bars))
    names = list(dict.fromkeys(bar.name for bar in bars))
    at = {(bar.regime, bar.name): bar for bar in bars}
    rows = []
    for name in names:
        row = [name]
        for regime in regimes:
            bar = at.get((regime, name))
            text = "" if bar is None else bar.show(bar.value)
            if bar is not None and name == "cells":
                text = f"{bar.value:.0f}"
            if bar is not None and bar.passed is not None:
                text += " pass" if bar.passed else " **fail**"
            row.append(text)
        rows.append(row)
    asked = {b.name: b for b in bars if b.bar is not None and b.regime == regimes[0]}
    for row in rows:
        bar = asked.get(row[0])
        row.insert(1, bar.verdict.rpartition(":")[0] if bar else "")
    return markdown(["figure", f"bar ({regimes[0]})", *regimes], rows)


def _ratio(value: float) -> str:
    return (
        f"1/{1 / value:.0f}"
        if abs(1 / value - round(1 / value)) < 1e-6
        else f"{value:g}"
    )


def render_losses(rows: Sequence[dict[str, Any]]) -> str:
    """Return the cells in which a peer is faster, the worst first."""
    lost = sorted((r for r in rows if r["lead"] > 0), key=lambda r: -r["lead"])
    if not lost:
        return "No peer is faster in any cell."
    header = ["workload", "fast", "period", "isotherm", "best peer", "which", "by"]
    return markdown(
        header,
        [
            [
                r["workload"],
                _ratio(r["fast_ratio"]),
                str(r["period"]),
                f"{r['isotherm']:.3f}",
                f"{r['peer_slowdown']:.3f}",
                r["peer"],
                f"{r['lead']:.1%}",
            ]
            for r in lost
        ],
    )


def render_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Return the whole table of a regime."""
    header = [
        *("workload", "fast", "period", "isotherm", "best peer", "which"),
        *("first-touch", "static-oracle", "clairvoyant", "regret", "spread", "moves"),
    ]
    table = []
    for r in rows:
        regret = ["", ""]
        if r["regret"] is not None:
            regret = [f"{r['regret']:.3f}", f"{r['spread']:.3f}"]
        best = min(r["isotherm"], r["peer_slowdown"])
        ours, theirs = (
            f"**{value:.3f}**" if value == best else f"{value:.3f}"
            for value in (r["isotherm"], r["peer_slowdown"])
        )
        table.append(
            [
                r["workload"],
                _ratio(r["fast_ratio"]),
                str(r["period"]),
                ours,
                theirs,
                r["peer"],
                *(f"{r[n]:.3f}" for n in ("first_touch", "static_oracle")),
                f"{r['clairvoyant']:.3f}",
                *regret,
                f"{r['moves']:.2f}",
            ]
        )
    return markdown(header, table)


def render_policies(rows: Sequence[dict[str, Any]]) -> str:
    """Return how every policy did over all cells of a regime."""
    header = [
        "policy",
        "options",
        "mean regret",
        "time vs first-touch",
        "worst",
        "moves",
    ]
    table = []
    for r in rows:
        name = r["policy"] + ("" if r["variant"] == "only" else f" ({r['variant']})")
        options = r["options"] or ("as published" if r["variant"] != "only" else "")
        regret = "" if r["regret"] is None else f"{r['regret']:.3f}"
        table.append(
            [
                name,
                options,
                regret,
                f"{r['vs_first_touch']:.3f}",
                f"{r['worst']:.3f}",
                f"{r['moves']:.2f}",
            ]
        )
    return markdown(header, table)


INTRODUCTION: Final = f"""# Quality of placement

Made by `make bench-quality` and `benchmarks/quality_report.py`; the cells behind \
this page, every seed of them, are in [quality.parquet](quality.parquet). What is \
measured, and how, stands in [measurements](../measurements.md#quality).

Slowdown is against all memory fast. *Best peer* is the fastest run of any peer in \
the cell, at published defaults or at the best entry of its tuning grid, chosen with \
hindsight; *which* names more than one where seeds disagree. The grids were judged on \
{", ".join(TUNING_WORKLOADS)} alone. Rows are means over seeds, *spread* is the regret \
of the worst seed less that of the best, *moves* are isotherm's moves over pages. \
`uniform` and `stream` offer nothing to gain, so they have no regret.
"""


def render_page(database: Any) -> str:
    """Return the whole page."""
    bars = bars_of(query(database, BARS_SQL, {"near": NEAR}))
    parts = [INTRODUCTION, "## Summary", render_summary(bars)]
    for name in dict.fromkeys(bar.regime for bar in bars):
        rows = query(database, ROWS_SQL, {"regime": name})
        policies = query(
            database, POLICIES_SQL, {"regime": name, "floor": REGRET_FLOOR}
        )
        parts += [
            f"## {name}: {REGIMES[name].title}",
            "### Where a peer is faster",
            render_losses(rows),
            "### Policies over all cells",
            render_policies(policies),
            "### Every cell",
            render_rows(rows),
        ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; print the bars."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("cells", type=Path, nargs="?", default=CELLS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument(
        "--no-publish",
        action="store_true",
        help="leave docs/measurements.md and README alone",
    )
    args = parser.parse_args(arguments)
    if not args.cells.is_file():
        print(f"{args.cells}: no such file; run make bench-quality", file=sys.stderr)
        return 1
    database = connect(args.cells)
    bars = bars_of(query(database, BARS_SQL, {"near": NEAR}))
    if not bars:
        print(f"{args.cells}: no cell is complete", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "quality.md").write_text(render_page(database))
    kept = args.out / "quality.parquet"
    if kept.resolve() != args.cells.resolve():
        shutil.copyfile(args.cells, kept)
    if not args.no_publish:
        link = "The whole table: [results/quality.md](results/quality.md)."
        publish("quality", f"{render_summary(bars)}\n\n{link}")
        publish("quality-short", render_short(bars), README)
    print_bars(bars, {bar.regime for bar in bars})
    return 0


if __name__ == "__main__":
    sys.exit(main())
