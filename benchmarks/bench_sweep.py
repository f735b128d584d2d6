"""Sweeps: parallel efficiency of small runs, and traces decoded once.

    .venv/bin/python benchmarks/bench_sweep.py [--cells N] [--jobs N] [--publish]
    .venv/bin/python benchmarks/bench_sweep.py --cells 10000

``efficiency``: the same N small runs (512 pages, 20,480 accesses, seven policies and
the bounds, results kept in a file) through ``compare`` in one process and on
several, in turn. By the clock it is time of one / (processes x time of all); by CPU
time it is CPU of one / CPU of all, workers' start and the parent's own work
included: what several processes cost more, which a machine that others load changes
little. Both are given; the clock's counts only where the sweep got the cores.

``decoding``: first-touch and the bounds on a trace, with its decoded columns shared
and without, and how often it was decoded.

Bar: 90 % efficiency. Exit code 1 when it is missed by the clock and by CPU time.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isotherm.lab.catalogue import BOUNDS
from isotherm.lab.compare import compare, usable_cores
from isotherm.lab.grid import Grid
from isotherm.lab.simulate import SimulationSpec
from isotherm.lab.store import ResultStore
from isotherm.trace.format import TraceWriter
from isotherm.trace.info import Provenance
from isotherm.trace.stream import Pace
from isotherm.workloads.registry import make_workload
from publish import markdown, processor, publish

BAR: Final = 0.9
POLICIES: Final = ("isotherm", "tpp", "memtis", "hemem", "numab2", "pghot", "lru")
SMALL: Final = SimulationSpec("isotherm", "gups", pages=512, accesses=20480)
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "reference" / "sweeps.md"
TIMED: Final = ("wall_s", "setup_s", "accesses_per_wall_s")


PR_SET_CHILD_SUBREAPER: Final = 36  # include/uapi/linux/prctl.h


@dataclass(frozen=True, slots=True)
class Spent:
    """What a sweep took.

    Attributes:
        wall_s: Seconds from its first run to its last, workers' start included.
        cpu_s: CPU seconds of all its processes, start of Python included.
        decoded: Traces decoded to be shared.
        results: Without what is timed.
    """

    wall_s: float
    cpu_s: float
    decoded: int
    results: list[dict[str, Any]]

    def cores(self) -> float:
        """Return how many cores it had, in the mean."""
        return self.cpu_s / self.wall_s


def small_specs(cells: int) -> list[SimulationSpec]:
    """Return so many small runs: policies and bounds over workloads and seeds."""
    seeds = range(1, cells + 1)
    workloads = ("gups", "zipf", "scan-zipf", "drift")
    each = len({*POLICIES, "first-touch", *BOUNDS}) * len(workloads)
    grid = Grid(POLICIES, workloads, seeds=seeds[: -(-cells // each)], common=SMALL)
    return grid.specs()[:cells]


def child(what: str, jobs: int, trace_bytes: int) -> None:
    """Run one sweep in this process, results kept in a file; print what it took."""
    specs = trace_specs(what) if what.endswith(".parquet") else small_specs(int(what))
    compare(specs[: 2 * len(POLICIES)], jobs=1)  # kernels are in numba's cache now
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as folder:
        began = time.perf_counter()
        with ResultStore(Path(folder) / "sweep.parquet") as store:
            found = compare(specs, jobs=jobs, store=store, trace_bytes=trace_bytes)
        wall_s = time.perf_counter() - began
    rows = [{k: v for k, v in r.items() if k not in TIMED} for r in found.results]
    print(json.dumps([wall_s, found.decoded, rows]))


def sweep(what: str, jobs: int, trace_bytes: int = 1 << 33) -> Spent:
    """Run a sweep in a process of its own, and return what it and its workers took."""
    before = children_s()
    words = [what, str(jobs), str(trace_bytes)]
    run = subprocess.run(
        [sys.executable, __file__, "--child", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    while True:  # the fork server, an orphan now, and with it its workers
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    wall_s, decoded, rows = json.loads(run.stdout)
    return Spent(wall_s, children_s() - before, decoded, rows)


def children_s() -> float:
    """Return the CPU time of children, and theirs, that have been waited for."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def efficiency(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the same sweep in one process and on several, in turn."""
    clock, cpu, cores, rates = [], [], [], []
    start_s = sweep("1", 1).cpu_s  # Python, imports, kernels from the cache
    for _ in range(args.runs):
        one = sweep(str(args.cells), 1)
        many = sweep(str(args.cells), args.jobs)
        if one.results != many.results:
            raise SystemExit("results differ between one process and several")
        clock.append(one.wall_s / (args.jobs * many.wall_s))
        cpu.append((one.cpu_s - start_s) / (many.cpu_s - start_s))
        cores.append((one.cores(), many.cores()))
        rates.append(args.cells / many.wall_s)
    return {
        "cells": args.cells,
        "jobs": args.jobs,
        "runs": args.runs,
        "efficiency_clock": statistics.median(clock),
        "efficiency_cpu": statistics.median(cpu),
        "cores_one": statistics.median(one for one, _ in cores),
        "cores_all": statistics.median(many for _, many in cores),
        "cells_per_s": statistics.median(rates),
        "cpu_ms_a_cell": 1e3 * (one.cpu_s - start_s) / args.cells,
    }


def trace_specs(path: str) -> list[SimulationSpec]:
    """Return runs of one trace: first-touch and the bounds, ratios, seeds."""
    ratios, seeds = (0.5, 0.2, 0.1), (1, 2)
    common = SimulationSpec("first-touch", path)
    grid = Grid(
        [], [path], rates=(10.0,), fast_ratios=ratios, seeds=seeds, common=common
    )
    return grid.specs()


def decoding(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure a sweep over one trace, with its columns shared and without."""
    path = folder / "zipf.parquet"
    pages, accesses = 1 << 18, args.trace_accesses
    with TraceWriter(path, Provenance(tool="bench_sweep")) as writer:
        for chunk in make_workload("zipf", pages).epochs(Pace(accesses=accesses)):
            writer.append(chunk.page)
    shared = sweep(str(path), args.jobs)
    alone = sweep(str(path), args.jobs, 0)
    if shared.results != alone.results:
        raise SystemExit("results differ with shared columns")
    return {
        "cells": len(shared.results),
        "accesses": accesses,
        "decoded": shared.decoded,
        "cpu_s": shared.cpu_s,
        "cpu_s_alone": alone.cpu_s,
        "wall_s": shared.wall_s,
        "wall_s_alone": alone.wall_s,
    }


def report(small: dict[str, Any], trace: dict[str, Any]) -> str:
    """Return both measurements as tables."""
    first = markdown(
        [
            "cells",
            "processes",
            "by CPU time",
            "by the clock",
            "cores got, one / all",
            "cells/s",
            "CPU ms a cell",
        ],
        [
            [
                f"{small['cells']}",
                f"{small['jobs']}",
                f"{small['efficiency_cpu']:.1%}",
                f"{small['efficiency_clock']:.1%}",
                f"{small['cores_one']:.2f} / {small['cores_all']:.2f}",
                f"{small['cells_per_s']:.0f}",
                f"{small['cpu_ms_a_cell']:.1f}",
            ]
        ],
    )
    second = markdown(
        [
            "cells",
            "accesses",
            "decoded",
            "CPU s",
            "CPU s, each for itself",
            "s",
            "s, each for itself",
        ],
        [
            [
                f"{trace['cells']}",
                f"{trace['accesses'] / 1e6:.0f} M",
                f"{trace['decoded']} x",
                f"{trace['cpu_s']:.1f}",
                f"{trace['cpu_s_alone']:.1f}",
                f"{trace['wall_s']:.1f}",
                f"{trace['wall_s_alone']:.1f}",
            ]
        ],
    )
    return f"{first}\n\n{second}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--cells", type=int, default=2000, help="small runs")
    add("--jobs", type=int, default=min(2, usable_cores()), help="processes")
    add("--runs", type=int, default=1, help="repetitions of both sweeps")
    add("--trace-accesses", type=int, default=20_000_000)
    add("--publish", action="store_true", help="write docs/reference/sweeps.md")
    add("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        child(args.child[0], int(args.child[1]), int(args.child[2]))
        return 0
    # Orphans come to this process, which can then ask what they took.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as folder:
        small = efficiency(args)
        trace = decoding(args, Path(folder))
    text = report(small, trace)
    print(f"{processor()}\n\n{text}")
    if args.publish:
        publish("bench-sweep", f"{processor()}.\n\n{text}", PAGE)
    best = max(small["efficiency_cpu"], small["efficiency_clock"])
    return 0 if best >= BAR and trace["decoded"] == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
