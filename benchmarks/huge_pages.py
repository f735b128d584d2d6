"""Huge pages: collapse and split where it pays, against never, always, and always huge.

    .venv/bin/python benchmarks/huge_pages.py [--publish] [--pages N] [--seeds 1]
        [--jobs N] [--all-entries]

Policy isotherm with page sizes in four modes, on two workloads whose huge pages are
skewed inside and one whose are alike inside, at the shares of fast memory of MEMTIS's
experiments, with its sampling period. Machine dram-cxl with its TLB to scale;
--all-entries adds it as a host of the simulated size, with all 1536 entries. 120 s at
10 accesses per page and second; all memory huge at first. Exit code 1 where a bar is
missed with the TLB to scale.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from isotherm.core.units import PAGE_BYTES
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.machine.sim.spec import MachineSpec, load_machine
from publish import markdown, publish

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "results" / "huge-pages.md"
SKEWED: Final = ("silo", "btree")
ALIKE: Final = ("liblinear",)
#: MEMTIS's 1:2, 1:8 and 1:16 of fast to slow memory.
RATIOS: Final = {"1:2": 1 / 3, "1:8": 1 / 9, "1:16": 1 / 17}
MODES: Final = ("priced", "never-split", "always-split", "always-huge")
MACHINES: Final = ("to scale", "1536 entries")
SAMPLING_PERIOD: Final = 199
#: Priced over always-huge, where huge pages are alike inside.
BAR: Final = 0.01

Row = dict[str, Any]
Cell = tuple[str, str, str, str, int, int]


def machine_of(name: str, pages: int) -> MachineSpec:
    """Return the machine of a name in the table."""
    spec = load_machine("dram-cxl")
    if name == "to scale":
        return spec
    gib = pages * PAGE_BYTES / (1 << 30)
    return msgspec.structs.replace(spec, reference_gib=gib)


def play(cell: Cell) -> Row:
    """Return what came out of one cell."""
    machine, workload, ratio, mode, seed, pages = cell
    result = simulate(
        SimulationSpec(
            "isotherm",
            workload,
            fast_ratio=RATIOS[ratio],
            pages=pages,
            seed=seed,
            sampling_period=SAMPLING_PERIOD,
            huge_pages=mode,
        ),
        machine=machine_of(machine, pages),
    )
    fast_ns = result["accesses"] * 80.0
    return {
        "key": (machine, workload, ratio, mode),
        "slowdown": result["slowdown"],
        "fast": result["fast_share"],
        "walks": result["huge_pages"]["walk_ns"] / fast_ns,
        "huge": result["huge_pages"]["huge_share"],
        "splits": result["huge_pages"]["splits"],
        "collapses": result["huge_pages"]["collapses"],
    }


def run(
    machines: Sequence[str], pages: int, seeds: Sequence[int], jobs: int
) -> dict[Any, list[Row]]:
    """Return the rows of every key, one a seed."""
    cells = [
        (machine, workload, ratio, mode, seed, pages)
        for machine in machines
        for workload in (*SKEWED, *ALIKE)
        for ratio in RATIOS
        for mode in MODES
        for seed in seeds
    ]
    found: dict[Any, list[Row]] = {}
    with ProcessPoolExecutor(jobs) as pool:
        for row in pool.map(play, cells):
            found.setdefault(row["key"], []).append(row)
            print(*row["key"], f"{row['slowdown']:.3f}", file=sys.stderr, flush=True)
    return found


def mean(found: dict[Any, list[Row]], key: Any, column: str) -> float:
    """Return the mean over seeds."""
    return statistics.fmean(row[column] for row in found[key])


def table(found: dict[Any, list[Row]]) -> tuple[str, list[str]]:
    """Return the table, and the bars that are missed."""
    lines, missed = [], []
    machines = [name for name in MACHINES if any(key[0] == name for key in found)]
    for machine in machines:
        for workload in (*SKEWED, *ALIKE):
            for ratio in RATIOS:
                at = (machine, workload, ratio)
                slow = {m: mean(found, (*at, m), "slowdown") for m in MODES}
                priced = slow["priced"]
                rivals: tuple[str, ...] = ("never-split", "always-split")
                least = 0.0
                if workload in ALIKE:
                    rivals, least = ("always-huge",), -BAR
                ahead = min(slow[m] for m in rivals) / priced - 1
                if ahead <= least and machine == MACHINES[0]:
                    missed.append(f"{', '.join(at)}: {ahead:+.1%}")
                own = (*at, "priced")
                lines.append(
                    [
                        *at,
                        *[f"{slow[m]:.3f}" for m in MODES],
                        f"{ahead:+.1%}",
                        f"{mean(found, own, 'huge'):.0%}",
                        *[f"{mean(found, (*at, m), 'fast'):.2f}" for m in MODES[:3]],
                        *[f"{mean(found, (*at, m), 'walks'):.2f}" for m in MODES[:3]],
                    ]
                )
    head = ["TLB", "workload", "fast:slow", *MODES, "ahead", "huge at the end"]
    head += [f"fast share: {m}" for m in MODES[:3]]
    head += [f"walks: {m}" for m in MODES[:3]]
    return markdown(head, lines), missed


def main() -> int:
    """Run, print the table, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--pages", type=int, default=65536)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--all-entries", action="store_true")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    machines = MACHINES if args.all_entries else MACHINES[:1]
    text, missed = table(run(machines, args.pages, seeds, args.jobs))
    print(text)
    print(
        f"\nahead of never-split and always-split on {', '.join(SKEWED)}; within"
        f" {BAR:.0%} of always-huge on {', '.join(ALIKE)}:"
        f" {'pass' if not missed else 'FAIL'}"
    )
    for line in missed:
        print(line)
    if args.publish:
        publish("huge-pages", text, PAGE)
    return 0 if not missed else 1


if __name__ == "__main__":
    sys.exit(main())
