"""Memory that is born and dies: where it is born, and what that gains.

    .venv/bin/python benchmarks/births.py [--publish] [--pages N] [--seeds 1,2]

``latest`` with births: the newest pages are the hottest, and what the head comes to is
new memory. On dram-cxl, a fifth of the footprint fast, 120 s at 10 accesses per page
and second. Bar: isotherm with room for births is no slower than without it, and has at
least half of them in fast memory, at every pace. Exit code 1 where it is missed.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from isotherm.lab.simulate import SimulationSpec, simulate
from publish import conclude, markdown, of_seeds

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "results" / "births.md"
WITHOUT, WITH = "isotherm, no room", "isotherm"
RUNS: Final[dict[str, tuple[str, dict[str, float]]]] = {
    "first-touch": ("first-touch", {}),
    "tpp": ("tpp", {}),
    "numab2": ("numab2", {}),
    "pghot": ("pghot", {}),
    "damon": ("damon", {}),
    "hemem": ("hemem", {}),
    "memtis": ("memtis", {}),
    "arms": ("arms", {}),
    "colloid": ("colloid", {}),
    WITHOUT: ("isotherm", {"birth": 0.0}),
    WITH: ("isotherm", {}),
}
#: Footprints that are born within 120 s.
PACES: Final = (0.25, 1.0)
LEAST: Final = 0.5

Row = dict[str, Any]


def run(pages: int, seeds: Sequence[int]) -> list[Row]:
    """Return a row a policy, pace and seed."""
    rows = []
    for pace in PACES:
        for name, (policy, options) in RUNS.items():
            for seed in seeds:
                result = simulate(
                    SimulationSpec(
                        policy,
                        "latest",
                        pages=pages,
                        seed=seed,
                        options=options,
                        placement="first-access",
                        workload_options={"births": "true", "advance": str(pace)},
                    )
                )
                rows.append(
                    {
                        "pace": pace,
                        "run": name,
                        "slowdown": result["slowdown"],
                        "fast": result["fast_share"],
                        "born": result["fast_births"] / result["births"],
                        "moved": result["migrated_bytes"] / (pages << 12),
                    }
                )
            print(f"{pace:g}, {name}", file=sys.stderr, flush=True)
    return rows


def mean(rows: list[Row], pace: float, name: str, key: str) -> float:
    """Return the mean over seeds."""
    return statistics.fmean(
        row[key] for row in rows if (row["pace"], row["run"]) == (pace, name)
    )


def table(rows: list[Row]) -> str:
    """Return a line a policy, columns a pace."""
    keys = (
        ("slowdown", "{:.3f}"),
        ("fast", "{:.1%}"),
        ("born", "{:.1%}"),
        ("moved", "{:.2f}"),
    )
    lines = [
        [
            name,
            *[
                form.format(mean(rows, p, name, key))
                for p in PACES
                for key, form in keys
            ],
        ]
        for name in RUNS
    ]
    titles = ("slowdown", "served fast", "born fast", "moved")
    head = ["policy", *[f"{p:g}: {title}" for p in PACES for title in titles]]
    return markdown(head, lines)


def failures(rows: list[Row]) -> list[str]:
    """Return what misses the bar, in words."""
    found = []
    for pace in PACES:
        with_room = mean(rows, pace, WITH, "slowdown")
        without = mean(rows, pace, WITHOUT, "slowdown")
        born = mean(rows, pace, WITH, "born")
        if with_room > without:
            found.append(f"{pace:g}: {with_room:.3f} with room, {without:.3f} without")
        if born < LEAST:
            found.append(f"{pace:g}: {born:.1%} born fast")
    return found


def main() -> int:
    """Run, print the table, and say whether the bar holds."""
    args = of_seeds(__doc__, 4096, "1,2")
    rows = run(args.pages, args.seeds)
    name = "births" if args.publish else None
    return conclude(table(rows), failures(rows), name, PAGE)


if __name__ == "__main__":
    sys.exit(main())
