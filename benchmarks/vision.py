"""The numbers of docs/vision.md: every use case on the machines that it would run on.

    python benchmarks/vision.py            # run all, and write the tables
    python benchmarks/vision.py web llm    # these only

Each use case is one or more grids of ``isotherm compare``, printed above its table,
and where it asks for capacity ``isotherm plan``. Nothing is kept between starts: kept
runs would be those of other code.
"""

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command import run
from publish import markdown, publish

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/vision.md"
#: What Linux ships, and isotherm.
POLICIES = ("isotherm", "numab2", "damon")
BOUNDS = ("static-oracle", "clairvoyant")


@dataclass(frozen=True)
class Case:
    """A use case.

    Attributes:
        grids: Arguments of ``isotherm compare`` beyond the policies.
        plans: Arguments of ``isotherm plan``.
        policies: More policies than those of all cases.
    """

    grids: tuple[str, ...]
    plans: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()


SLOWDOWN = "--max-slowdown 5% --memory-bound 30%"
CASES = {
    "web": Case(
        ("--workloads redis,latest,zipf --fast-ratios 1/2,1/5 --seeds 1,2,3",),
        (f"--workload zipf {SLOWDOWN}", f"--workload latest {SLOWDOWN}"),
    ),
    "kvm": Case(
        (
            "--workloads zipf --fast-ratios 1/2,1/5 --seeds 1,2,3",
            "--workloads zipf --fast-ratios 1/2,1/5 --seeds 1,2,3 --fault pinned=0.5",
        ),
    ),
    "databases": Case(
        (
            (
                "--workloads sqlite-oltp,sqlite-analytic,btree,hash-join"
                " --fast-ratios 1/2,1/5"
            ),
        ),
        (f"--workload btree {SLOWDOWN}",),
    ),
    "graphs": Case(
        ("--workloads pagerank,graph --fast-ratios 1/2,1/5",),
        (f"--workload graph {SLOWDOWN}",),
    ),
    "llm": Case(
        ("--workloads kv-cache --machines dram-cxl,gpu-host --fast-ratios 1/2,1/5",),
        (f"--workload kv-cache {SLOWDOWN}",),
    ),
    "recommendation": Case(
        ("--workloads embedding --machines dram-cxl,gpu-host --fast-ratios 1/5,1/9",),
        (f"--workload embedding {SLOWDOWN}",),
    ),
    "hpc": Case(
        (
            (
                "--workloads stream,phases --machines dram-cxl-fast,hbm-dram-cxl"
                " --fast-ratios 1/2,1/5"
            ),
        ),
        policies=("interleave", "weighted-interleave"),
    ),
    "far": Case(
        (
            (
                "--workloads zipf,drift --machines dram-zram,ocp-expander"
                " --fast-ratios 1/2,1/5"
            ),
        ),
        (f"--workload zipf --machine dram-zram {SLOWDOWN}",),
    ),
}


def tables(case: Case) -> str:
    """Return the commands of a case and what they gave."""
    parts = []
    policies = [*POLICIES, *case.policies]
    for grid in case.grids:
        words = ["compare", "--policies", ",".join(policies), *grid.split()]
        rows = run(words)["results"]
        parts.append(f"`isotherm {shlex.join(words)}`")
        parts.append(_grid(rows, policies))
    if case.plans:
        rows = []
        for plan in case.plans:
            words = ["plan", *plan.split(), "--policies", "isotherm,numab2,first-touch"]
            found = run(words)
            need = {row["policy"]: row["ratio"] for row in found["policies"]}
            rows.append(
                [
                    f"`isotherm {shlex.join(words)}`",
                    *(f"{need[p]:.0%}" for p in ("isotherm", "numab2", "first-touch")),
                    found["advice"],
                ]
            )
        head = ["fast memory needed", "isotherm", "numab2", "first-touch", "advice"]
        parts.append(markdown(head, rows))
    return "\n\n".join(parts)


def _grid(rows: list[dict[str, Any]], policies: list[str]) -> str:
    """Return slowdowns, mean over seeds, a line a cell."""
    columns = [*policies, "first-touch", *BOUNDS]
    cells: dict[tuple[str, str, float], dict[str, list[float]]] = {}
    for row in rows:
        key = row["workload"], row["machine"], row["fast_ratio"]
        cells.setdefault(key, {}).setdefault(row["policy"], []).append(row["slowdown"])
    lines = []
    for (workload, machine, ratio), found in sorted(cells.items()):
        means = {p: sum(found[p]) / len(found[p]) for p in columns if p in found}
        best = min(means[p] for p in columns if p in means and p not in BOUNDS)
        lines.append(
            [
                f"{workload}, {machine}",
                f"{ratio:.0%}",
                *(_cell(means.get(p), best, p) for p in columns),
            ]
        )
    return markdown(["slowdown", "fast", *columns], lines)


def _cell(value: float | None, best: float, policy: str) -> str:
    if value is None:
        return "-"
    text = f"{value:.2f}"
    return f"**{text}**" if policy not in BOUNDS and value <= 1.005 * best else text


def main() -> None:
    """Run the cases asked for and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", choices=[[], *CASES])
    given = parser.parse_args()
    for name in given.cases or CASES:
        print(name, file=sys.stderr)
        publish(name, tables(CASES[name]), PAGE)


if __name__ == "__main__":
    main()
