"""Regret by hint source: hot lists of a CXL device, samples, bits, faults, fused.

    .venv/bin/python benchmarks/hint_sources.py [--publish] [--jobs N] [--pages N]

Isotherm on machine dram-cxl, fast memory for a fifth of the pages, the built-in
workloads. Finished runs are kept in OUT/runs.parquet: what was stopped goes on.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from isotherm.lab.catalogue import FLAT_WORKLOADS
from isotherm.lab.compare import compare, usable_cores
from isotherm.lab.grid import spec_key
from isotherm.lab.simulate import SimulationSpec
from isotherm.lab.store import ResultStore
from isotherm.workloads.registry import WORKLOADS
from publish import markdown, publish

OUT: Final = Path(__file__).resolve().parents[1] / "out" / "hint-sources"
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "reference" / "hints.md"
SOURCES: Final[dict[str, tuple[str, ...]]] = {
    "CHMU": ("chmu",),
    "sampling": ("sampling",),
    "bits": ("accessed-bit",),
    "faults": ("hint-fault",),
    "CHMU + sampling": ("chmu", "sampling"),
    "CHMU + bits": ("chmu", "accessed-bit"),
    "fused": ("chmu", "sampling", "accessed-bit"),
}
BOUNDS: Final = ("static-oracle", "clairvoyant")
LEAST_GAP: Final = 0.05  # of the slowdown: what regret is over, at least


def specs(args: argparse.Namespace) -> dict[tuple[str, str], SimulationSpec]:
    """Return the runs by workload and column."""
    found = {}
    for workload in args.workloads:
        common = {"workload": workload, "pages": args.pages, "seed": args.seed}
        for name in ("first-touch", *BOUNDS):
            found[workload, name] = SimulationSpec(name, **common)
        for name, hints in SOURCES.items():
            found[workload, name] = SimulationSpec("isotherm", hints=hints, **common)
    return found


def regret(slowdown: dict[str, float], name: str) -> float:
    """Return the share of what could be gained that was not."""
    best = min(slowdown[bound] for bound in BOUNDS)
    gap = max(slowdown["first-touch"] - best, LEAST_GAP)
    return (slowdown[name] - best) / gap


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return regrets per workload, and their mean without the flat ones."""
    lines = [
        [w, *[f"{regret(row, name):.2f}" for name in SOURCES]]
        for w, row in rows.items()
        if w not in FLAT_WORKLOADS
    ]
    judged = [row for w, row in rows.items() if w not in FLAT_WORKLOADS]
    if judged:
        means = [sum(regret(r, n) for r in judged) / len(judged) for n in SOURCES]
        lines.append(["**mean**", *[f"**{mean:.2f}**" for mean in means]])
    return markdown(["workload", *SOURCES], lines)


def main() -> int:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pages", type=int, default=32768)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=usable_cores())
    parser.add_argument("--workloads", type=lambda s: s.split(","), default=WORKLOADS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--publish", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wanted = specs(args)
    with ResultStore(args.out / "runs.parquet") as store:
        compare(
            list(wanted.values()),
            jobs=args.jobs,
            store=store,
            progress=lambda done, total: print(f"{done} of {total}", file=sys.stderr),
        )
        done: dict[str, dict[str, Any]] = dict(store.done)
    rows: dict[str, dict[str, float]] = {}
    for (workload, name), spec in wanted.items():
        slowdown = float(done[spec_key(spec)]["slowdown"])
        rows.setdefault(workload, {})[name] = slowdown
    text = table(rows)
    print(text)
    if args.publish:
        publish("hint-sources", text, PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
