"""Cross-socket accesses with and without the adviser of CPU placement.

    .venv/bin/python benchmarks/cpu_adviser.py [--publish] [--pages N] [--seeds 1,2]

Programs with threads on two-socket-cxl, ten simulated minutes at 10 accesses per page
and second, random placement, fast memory 40 % of the footprint; policy isotherm. Bars:
cross-socket accesses at least halved on every partitioned workload, no thread sent
back to a socket that it was moved from, none moved where there is nothing to gain.
Exit code 1 where one is missed.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isotherm.lab.simulate import SimulationSpec, _Run
from isotherm.workloads.build import build
from isotherm.workloads.mix import MixPart, build_mix
from isotherm.workloads.spec import Zipf
from isotherm.workloads.stream import Generated
from publish import conclude, markdown, of_seeds

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "results" / "cpus.md"
SECONDS: Final = 600
RATE: Final = 10.0
PERIOD: Final = 500
#: Of cross-socket accesses, left with the adviser at most.
BAR: Final = 0.5
#: When the scheduler turns the threads of ``turned`` round.
TURN_S: Final = 120.0

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """Programs, and what their threads do.

    Attributes:
        programs: How many, each with pages of its own.
        threads: Sockets on which each program's threads start.
        stray: Share of accesses that any thread makes.
        partitioned: There is something to gain.
        turned: The scheduler swaps the sockets once.
    """

    programs: int
    threads: tuple[int, ...]
    stray: float = 0.02
    partitioned: bool = True
    turned: bool = False


CASES: Final = {
    "4 programs of 2 threads": Case(4, (0, 1)),
    "8 programs of 4 threads": Case(8, (0, 1, 0, 1)),
    "4 of 2, a tenth shared": Case(4, (0, 1), stray=0.1),
    "4 of 2, grouped, turned round": Case(4, (), turned=True),
    "1 program of 8 threads": Case(1, (0, 1) * 4, stray=0.0, partitioned=False),
    "4 of 2, grouped already": Case(4, (), partitioned=False),
}


def workload_of(case: Case, pages: int, seed: int) -> Generated:
    """Return a case's programs: Zipf 0.99 over the pages of each."""
    parts = []
    for k in range(case.programs):
        own = build(Zipf(), f"p{k}", pages // case.programs, seed + 1000 * k)
        threads = case.threads or (k % 2, k % 2)
        parts.append(MixPart(own, 1.0, f"p{k}", threads))
    return build_mix("programs", parts, seed, case.stray)


def play(case: Case, mode: str, pages: int, seed: int) -> Row:
    """Return a run's result."""
    spec = SimulationSpec(
        "isotherm",
        "programs",
        "two-socket-cxl",
        0.4,
        accesses=round(pages * RATE * SECONDS),
        seed=seed,
        rate=RATE,
        sampling_period=PERIOD,
        epoch_s=1.0,
        advise_cpus=mode,
    )
    run = _Run(spec, workload_of(case, pages, seed), None, None, None)
    turned = not case.turned

    def turn(done_s: float) -> None:
        nonlocal turned
        if not turned and done_s >= TURN_S:
            turned, load = True, run.machine.load
            for row, where in enumerate(load.initiator.tolist()):
                load.run_on(row, 1 - where)

    run.play(turn)
    return run.result(0.0)


def run_all(pages: int, seeds: Sequence[int]) -> list[Row]:
    """Return a row a case and seed, with the adviser and without."""
    rows = []
    for name, case in CASES.items():
        for seed in seeds:
            off, on = (play(case, mode, pages, seed) for mode in ("off", "apply"))
            found = on["cpu_advice"]
            rows.append(
                {
                    "case": name,
                    "seed": seed,
                    "off": off["remote_share"],
                    "on": on["remote_share"],
                    "last": statistics.fmean(found["remote_shares"][-6:]),
                    "moves": found["thread_moves"],
                    "reversals": found["reversals"],
                    "crossed_off": off["lateral_pages"],
                    "crossed_on": on["lateral_pages"],
                    "slowdown_off": off["slowdown"],
                    "slowdown_on": on["slowdown"],
                }
            )
            print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
    return rows


def failures(rows: list[Row]) -> list[str]:
    """Return what misses a bar, in words."""
    found = []
    for row in rows:
        where = f"{row['case']}, seed {row['seed']}"
        case = CASES[row["case"]]
        back = row["reversals"]
        if back:
            found.append(f"{where}: {back} threads went back")
        if case.partitioned and not case.turned and row["on"] > BAR * row["off"]:
            found.append(f"{where}: {row['off']:.1%} -> {row['on']:.1%} far")
        if case.turned and row["crossed_on"] >= row["crossed_off"]:
            found.append(f"{where}: memory crossed no less")
        if not case.partitioned and row["moves"]:
            found.append(f"{where}: {row['moves']} threads moved in vain")
    return found


def table(rows: list[Row]) -> str:
    """Return the means over seeds, a line a case."""
    lines = []
    for name in CASES:
        mine = [row for row in rows if row["case"] == name]

        def mean(key: str, mine: list[Row] = mine) -> float:
            return statistics.fmean(row[key] for row in mine)

        lines.append(
            [
                name,
                *[f"{mean(key):.1%}" for key in ("off", "on", "last")],
                *[f"{mean(key):.0f}" for key in ("crossed_off", "crossed_on")],
                *[f"{mean(key):.3f}" for key in ("slowdown_off", "slowdown_on")],
                f"{mean('moves'):.1f}",
                f"{max((row['reversals'] for row in mine), default=0)}",
            ]
        )
    head = ["programs", "far: off", "on", "on, last minute", "pages crossed: off"]
    return markdown(
        [*head, "on", "slowdown: off", "on", "threads moved", "moved back"], lines
    )


def main() -> int:
    """Run, print the table, and say whether the bars hold."""
    args = of_seeds(__doc__, 2048, "1,2")
    rows = run_all(args.pages, args.seeds)
    name = "cpus" if args.publish else None
    return conclude(table(rows), failures(rows), name, PAGE)


if __name__ == "__main__":
    sys.exit(main())
