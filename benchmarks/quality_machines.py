r"""Regret on every machine, from sweeps of `isotherm compare`.

    isotherm compare --policies all --workloads all --machines M --fast-ratios R \
        --pages 8192 --accesses 9830400 --out SWEEP.parquet
    .venv/bin/python benchmarks/quality_machines.py SWEEP.parquet ... [--publish]

Writes docs/results/machines.md and machines.parquet. A cell is a workload, a machine
and a share of fast memory; cells without isotherm, first-touch and both bounds are
left out. Of runs that stand in several sweeps the last counts, so that one policy is
played anew by naming the published cells first:

    isotherm compare --policies isotherm ... --out ISOTHERM.parquet
    .venv/bin/python benchmarks/quality_machines.py docs/results/machines.parquet \
        ISOTHERM.parquet --publish

The three-tier table is of machines with three tiers. Exit code 1 where a bar is missed.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isotherm.lab.regret import cell_of, is_flat, judge
from isotherm.policy.registry import BOUNDS
from publish import markdown

ROOT: Final = Path(__file__).resolve().parents[1]
OUT: Final = ROOT / "docs" / "results"
OURS: Final = "isotherm"
THREE_TIERS: Final = ("hbm-dram-cxl", "dram-cxl-zram")
NEEDED: Final = frozenset({OURS, "first-touch", "static-oracle", "clairvoyant"})
MEAN_BAR: Final = 0.25
KEPT: Final = (
    *("workload", "machine", "fast_ratio", "policy", "slowdown", "regret"),
    *("vs_first_touch", "best_bound", "moves_per_page", "fast_share", "seed"),
    *("rate", "pages", "accesses", "sampling_period"),
)
#: Of a run: what tells cells apart here, and what is judged.
ASKED: Final = (*KEPT, "workload_kind", "promoted_pages", "demoted_pages")
INTRODUCTION: Final = """# Regret on every machine

Made by `isotherm compare` and `benchmarks/quality_machines.py`, which says how; the \
cells are in [machines.parquet](machines.parquet). Generators, 8,192 pages, 120 s at \
10 accesses a page and second, placed at random, one sample in 2000, seed 1: smaller \
than the [main grid](quality.md), so that all of it takes half an hour of CPU. Peers \
are at their published defaults.

Regret is (slowdown - best bound) over (first-touch - best bound), the latter at least \
0.05. The best bound is the lower of static-oracle, which shares accesses out where \
nodes queue, and clairvoyant, which knows of no load. `uniform` and `stream` have no \
regret.
"""

POLICY_HEAD: Final = (
    *("policy", "mean regret", "worst", "isotherm's mean", "its worst"),
    *("time vs first-touch", "worst time", "cells"),
)

Row = dict[str, Any]


def read(paths: Iterable[Path]) -> list[Row]:
    """Return the judged runs of all complete cells."""
    import json  # noqa: PLC0415  # beside pyarrow, below

    import pyarrow.parquet as pq  # noqa: PLC0415  # only here

    last: dict[object, Row] = {}
    for path in paths:
        if path.suffix == ".journal":
            lines = path.read_text().splitlines()
            found = [json.loads(line)["result"] for line in lines]
        elif "result" in pq.read_schema(path).names:
            texts = pq.read_table(path, columns=["result"])["result"].to_pylist()
            found = [json.loads(text) for text in texts]
        else:
            found = [_as_run(row) for row in pq.read_table(path).to_pylist()]
        for run in found:
            row = {key: run[key] for key in ASKED if key in run}
            last[cell_of(row), row["policy"]] = row
    cells: dict[object, set[str]] = defaultdict(set)
    for row in last.values():
        cells[cell_of(row)].add(row["policy"])
    whole = [row for row in last.values() if cells[cell_of(row)] >= NEEDED]
    return judge(whole)


def _as_run(kept: Row) -> Row:
    """Return a published row as a run."""
    moves = round(kept["moves_per_page"] * kept["pages"])
    return kept | {"promoted_pages": moves, "demoted_pages": 0}


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f}" if values else ""


def _regrets(rows: Iterable[Row], policy: str, machine: str | None = None) -> list[Any]:
    return [
        row["regret"]
        for row in rows
        if row["policy"] == policy
        and row["regret"] is not None
        and machine in (None, row["machine"])
    ]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A policy over its cells, and isotherm over the same."""

    policy: str
    mean: float
    worst: float
    ours: float
    ours_worst: float
    line: list[str]


def by_policy(rows: list[Row]) -> list[Ranked]:
    """Return the policies, the best first."""
    ours = {cell_of(r): r["regret"] for r in rows if r["policy"] == OURS}
    ranked = []
    for policy in sorted({row["policy"] for row in rows} - BOUNDS):
        mine = [row for row in rows if row["policy"] == policy]
        judged = [row for row in mine if row["regret"] is not None]
        regrets = [row["regret"] for row in judged]
        same = [ours[cell_of(row)] for row in judged]
        slower = [row["vs_first_touch"] for row in mine]
        line = [
            *(policy, _mean(regrets), f"{max(regrets):.2f}", _mean(same)),
            *(f"{max(same):.2f}", f"{statistics.geometric_mean(slower):.3f}"),
            *(f"{max(slower):.2f}", str(len(regrets))),
        ]
        mean = statistics.fmean(regrets)
        ranked.append(
            Ranked(policy, mean, max(regrets), statistics.fmean(same), max(same), line)
        )
    return sorted(ranked, key=lambda r: r.mean)


def by_machine(rows: list[Row]) -> str:
    """Return mean regret by policy and machine; the lowest of a machine in bold."""
    machines = sorted({row["machine"] for row in rows})
    policies = sorted({row["policy"] for row in rows} - BOUNDS)
    found = {(p, m): _regrets(rows, p, m) for p in policies for m in machines}
    least = {
        m: min(statistics.fmean(found[p, m]) for p in policies if found[p, m])
        for m in machines
    }
    policies.sort(key=lambda p: statistics.fmean(_regrets(rows, p)))
    lines = []
    for policy in policies:
        line = [policy]
        for machine in machines:
            text = _mean(found[policy, machine])
            best = text and statistics.fmean(found[policy, machine]) == least[machine]
            line.append(f"**{text}**" if best else text)
        lines.append(line)
    return markdown(["mean regret", *machines], lines)


def losses(rows: list[Row]) -> str:
    """Return the cells in which a peer is faster by 2 % or more, the worst first."""
    near: dict[object, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        near[cell_of(row)][row["policy"]] = row
    lost = []
    for runs in near.values():
        ours = runs[OURS]
        others = [r for p, r in runs.items() if p != OURS and p not in BOUNDS]
        best = min(others, key=lambda r: float(r["slowdown"]))
        lead = ours["slowdown"] / best["slowdown"] - 1
        if lead >= 0.02:
            lost.append((lead, ours, best))
    lost.sort(key=lambda found: -found[0])
    lines = [
        [
            ours["workload"],
            ours["machine"],
            f"1/{1 / ours['fast_ratio']:.0f}",
            f"{ours['slowdown']:.2f}",
            f"{best['slowdown']:.2f}",
            best["policy"],
            f"{lead:.0%}",
            "" if ours["regret"] is None else f"{ours['regret']:.2f}",
        ]
        for lead, ours, best in lost
    ]
    head = ["workload", "machine", "fast", OURS, "best peer", "which", "by", "regret"]
    share = f"{len(lost)} of {len(near)} cells."
    return f"{share}\n\n{markdown(head, lines)}" if lines else share


def every_cell(rows: list[Row]) -> str:
    """Return isotherm's regret by workload and ratio, and machine."""
    machines = sorted({row["machine"] for row in rows})
    ours = {
        (r["workload"], r["fast_ratio"], r["machine"]): r
        for r in rows
        if r["policy"] == OURS and not is_flat(r)
    }
    lines = []
    for workload, ratio in sorted({k[:2] for k in ours}, key=lambda k: (k[0], -k[1])):
        line = [workload, f"1/{1 / ratio:.0f}"]
        for machine in machines:
            row = ours.get((workload, ratio, machine))
            line.append("" if row is None else f"{row['regret']:.2f}")
        lines.append(line)
    return markdown(["isotherm's regret", "fast", *machines], lines)


def main() -> int:
    """Print the bars; write page and cells when asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweeps", type=Path, nargs="+")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--ratio", type=float, help="shares of fast memory: this alone")
    args = parser.parse_args()
    rows = read(args.sweeps)
    if args.ratio is not None:
        rows = [row for row in rows if abs(row["fast_ratio"] - args.ratio) < 1e-3]
    built_in = [row for row in rows if row["machine"] != THREE_TIERS[-1]]
    ranked = by_policy(built_in)
    whole = _regrets(built_in, OURS)
    three = {m: _regrets(rows, OURS, m) for m in THREE_TIERS}
    others = [r for r in ranked if r.policy not in (OURS, "first-touch")]
    behind = [r.policy for r in others if r.ours >= r.mean]
    behind_worst = [r.policy for r in others if r.ours_worst >= r.worst]
    least = "less than every peer on its cells"
    verdicts = [
        (
            f"mean regret, {len(whole)} cells of built-in machines",
            _mean(whole),
            f"at most {MEAN_BAR}",
            statistics.fmean(whole) <= MEAN_BAR,
        ),
        ("mean regret beside peers", ", ".join(behind) or "none", least, not behind),
        (
            "worst cell beside peers",
            ", ".join(behind_worst) or "none",
            least,
            not behind_worst,
        ),
        *(
            (
                f"three tiers, {machine}, {len(regrets)} cells",
                _mean(regrets),
                f"at most {MEAN_BAR}",
                statistics.fmean(regrets) <= MEAN_BAR,
            )
            for machine, regrets in three.items()
            if regrets
        ),
    ]
    bars = markdown(
        ["bar", "found, or who is ahead", "asked", ""],
        [[n, f, a, "pass" if ok else "**fail**"] for n, f, a, ok in verdicts],
    )
    print(bars, "\n")
    print(by_machine(rows), "\n")
    if args.publish:
        page = "\n\n".join(
            [
                INTRODUCTION.strip(),
                "## Bars",
                bars,
                "## Policies",
                "Over the built-in machines' cells that each ran, isotherm's beside.",
                markdown(list(POLICY_HEAD), [r.line for r in ranked]),
                "## Machines",
                by_machine(rows),
                "## Where a peer is 2 % faster or more",
                losses(built_in),
                "## Every cell",
                every_cell(rows),
            ]
        )
        (OUT / "machines.md").write_text(page + "\n")
        _keep(rows, OUT / "machines.parquet")
    return 0 if all(ok for *_, ok in verdicts) else 1


def _keep(rows: list[Row], path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415  # only here
    import pyarrow.parquet as pq  # noqa: PLC0415  # likewise

    rows = sorted(rows, key=lambda r: str([r[k] for k in KEPT[:4]]))
    table = pa.Table.from_pylist([{k: row.get(k) for k in KEPT} for row in rows])
    pq.write_table(table, path, compression="zstd")


if __name__ == "__main__":
    sys.exit(main())
