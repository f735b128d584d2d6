"""Speed and memory of a whole simulation, beside the machine's own limit.

    taskset -c 1 .venv/bin/python benchmarks/bench_core.py [--runs N] [--publish]

``simulate`` with the isotherm policy, its default hints and the tracker, Zipf 0.99:
accesses per wall second of the simulation (generation, start and compilation are
set-up and not in it; the first epochs are). In the same run, turn about, the speed
of random 8-byte read-modify-writes over as many words as there are pages: at
uniformly random places, and in the order of the same Zipf stream.

Memory is that of a fresh process: peak resident set of one simulation, less what
was resident after a small one had imported and compiled everything, less one chunk
of the trace. A second process that only generates the stream shows its share.

Exit code 1 when a bar is missed.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.workloads.registry import make_workload
from publish import markdown, processor, publish

#: (pages, rate, simulated seconds, bar in accesses per second)
SIZES: Final = ((1 << 20, 10.0, 20.0, 60e6), (1 << 24, 1.0, 10.0, 30e6))
RATIO_BAR: Final = 0.2  # of the speed of random read-modify-write
BYTES_PER_PAGE_BAR: Final = 24
FIXED_BYTES_BAR: Final = 16 << 20
RMW_ACCESSES: Final = 1 << 24
MEMORY_SECONDS: Final = 3.0
MIB: Final = 1 << 20


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator, misc, unused-ignore]  # numba has no types
def add_one(words: NDArray[np.uint64], place: NDArray[np.uint32]) -> None:
    """Add one to a word per access: a read and a write of eight bytes."""
    for i in range(place.size):
        words[place[i]] += np.uint64(1)


def make_spec(pages: int, rate: float, seconds: float) -> SimulationSpec:
    """Return the simulation that is timed."""
    return SimulationSpec(
        policy="isotherm",
        workload="zipf",
        pages=pages,
        rate=rate,
        accesses=int(pages * rate * seconds),
    )


def rmw_speed(words: NDArray[np.uint64], place: NDArray[np.uint32]) -> float:
    """Return read-modify-writes per second."""
    began = time.perf_counter()
    add_one(words, place)
    return len(place) / (time.perf_counter() - began)


def zipf_places(spec: SimulationSpec) -> NDArray[np.uint32]:
    """Return the first accesses of the stream, at most ``RMW_ACCESSES``."""
    workload = make_workload(spec.workload, spec.pages or 0, spec.seed)
    page = next(workload.epochs(spec.pace)).page
    return page[:RMW_ACCESSES].copy()


def measure_speed(spec: SimulationSpec, runs: int) -> dict[str, Any]:
    """Return medians and ranges of simulation and read-modify-write."""
    pages = spec.pages or 0
    words = np.ones(pages, np.uint64)
    uniform = np.random.default_rng(1).integers(0, pages, RMW_ACCESSES, np.uint32)
    zipf = zipf_places(spec)
    add_one(words, zipf[:1])  # compile
    ours, limit, same = [], [], []
    result: dict[str, Any] = {}
    for _ in range(runs):
        limit.append(rmw_speed(words, uniform))
        same.append(rmw_speed(words, zipf))
        result = simulate(spec)
        ours.append(result["accesses_per_wall_s"])
    return {
        "pages": pages,
        "rate": spec.rate,
        "simulated_s": result["simulated_s"],
        "runs": runs,
        "accesses_per_wall_s": statistics.median(ours),
        "accesses_per_wall_s_range": [min(ours), max(ours)],
        "rmw_per_s": statistics.median(limit),
        "rmw_per_s_range": [min(limit), max(limit)],
        "rmw_zipf_per_s": statistics.median(same),
        "setup_s": result["setup_s"],
        "tracker_bytes_per_page": result["tracker_bytes_per_page"],
    }


# ---- memory, in a process of its own


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status: expected {field}")


def child(what: str, pages: int, rate: float) -> None:
    """Print growth of the peak resident set over that of a small run, and the chunk."""
    spec = make_spec(pages, rate, MEMORY_SECONDS)
    simulate(make_spec(4096, 100.0, MEMORY_SECONDS))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    base = _status_bytes("VmRSS")
    chunk = 0
    if what == "simulate":
        simulate(spec)
        chunk = 4 * int(pages * rate * spec.epoch_s)
    else:
        for epoch in make_workload("zipf", pages, 1).epochs(spec.pace):
            chunk = max(chunk, epoch.page.nbytes)
    growth = _status_bytes("VmHWM") - base
    print(json.dumps({"growth_bytes": growth, "chunk_bytes": chunk}))


def measure_memory(pages: int, rate: float) -> dict[str, Any]:
    """Return bytes a page beyond the trace chunk, with and without simulation."""
    found = {}
    for what in ("simulate", "generate"):
        command = [sys.executable, __file__, "--child", what, str(pages), str(rate)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[what] = json.loads(done.stdout)
    both = {what: f["growth_bytes"] - f["chunk_bytes"] for what, f in found.items()}
    return {
        "memory_bytes": both["simulate"],
        "memory_bytes_per_page": both["simulate"] / pages,
        "generator_bytes_per_page": both["generate"] / pages,
        "memory_bar_bytes": BYTES_PER_PAGE_BAR * pages + FIXED_BYTES_BAR,
        "chunk_bytes": found["simulate"]["chunk_bytes"],
    }


# ---- results


def judge(row: dict[str, Any], bar: float) -> dict[str, Any]:
    """Return a result with its bars and whether it passes each."""
    ratio = row["accesses_per_wall_s"] / row["rmw_per_s"]
    return row | {
        "bar_per_wall_s": bar,
        "rmw_ratio": ratio,
        "rmw_zipf_ratio": row["accesses_per_wall_s"] / row["rmw_zipf_per_s"],
        "fast_enough": row["accesses_per_wall_s"] >= bar,
        "near_limit": ratio >= RATIO_BAR,
        "small_enough": row["memory_bytes"] <= row["memory_bar_bytes"],
    }


def render(results: list[dict[str, Any]]) -> str:
    """Return the results as a table, figures in rows."""

    def mega(value: float) -> str:
        return f"{value / 1e6:.0f} M/s"

    def span(pair: list[float]) -> str:
        return f"{pair[0] / 1e6:.0f} to {pair[1] / 1e6:.0f} M/s"

    def verdict(row: dict[str, Any], name: str) -> str:
        return "pass" if row[name] else "**fail**"

    columns = [
        [
            f"{r['pages'] / MIB:.0f} Mi pages, rate {r['rate']:g}",
            mega(r["accesses_per_wall_s"]),
            span(r["accesses_per_wall_s_range"]),
            f"{mega(r['bar_per_wall_s'])}: {verdict(r, 'fast_enough')}",
            mega(r["rmw_per_s"]),
            span(r["rmw_per_s_range"]),
            f"{r['rmw_ratio']:.2f}",
            f"{RATIO_BAR}: {verdict(r, 'near_limit')}",
            mega(r["rmw_zipf_per_s"]),
            f"{r['rmw_zipf_ratio']:.2f}",
            f"{r['memory_bytes_per_page']:.1f} bytes a page",
            f"{r['memory_bar_bytes'] / r['pages']:.1f}: {verdict(r, 'small_enough')}",
            f"{r['generator_bytes_per_page']:.1f} bytes a page",
            f"{r['tracker_bytes_per_page']:.2f} bytes a page",
            f"{r['simulated_s']:g} s, {r['runs']} runs",
        ]
        for r in results
    ]
    names = [
        "accesses per wall second",
        "range",
        "bar, at least",
        "random read-modify-write",
        "range",
        "share of it",
        "bar, at least",
        "read-modify-write, same Zipf stream",
        "share of it",
        "memory beyond the trace chunk",
        "bar, at most",
        "of it, generating alone",
        "tracker",
        "simulated, repeated",
    ]
    header = ["", *(column[0] for column in columns)]
    rows = [
        [name, *(column[i + 1] for column in columns)] for i, name in enumerate(names)
    ]
    return markdown(header, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--publish", action="store_true", help="put the table into docs/measurements.md"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        child(args.child[0], int(args.child[1]), float(args.child[2]))
        return 0
    simulate(make_spec(4096, 100.0, 2.0))  # compile
    results = []
    for pages, rate, seconds, bar in SIZES:
        row = measure_speed(make_spec(pages, rate, seconds), args.runs)
        results.append(judge(row | measure_memory(pages, rate), bar))
    text = render(results)
    if args.json:
        print(json.dumps({"processor": processor(), "results": results}))
    else:
        print(text)
    if args.publish:
        publish("core", f"{processor()}.\n\n{text}")
    names = ("fast_enough", "near_limit", "small_enough")
    return 0 if all(r[name] for r in results for name in names) else 1


if __name__ == "__main__":
    sys.exit(main())
