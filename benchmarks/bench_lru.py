"""Speed of the demand-filled LRU beside libCacheSim's, same trace, same run.

    .venv/bin/python benchmarks/bench_lru.py [--pages N] [--accesses N] [--runs N]

Zipf 0.99 over scattered pages, fast tier 10 % and 25 % of them. libCacheSim reads
its own binary format from the page cache and hashes object ids; ours takes dense
page numbers from memory. Runs alternate; medians and their ratio are printed, and
the bar is a ratio of 15. Exit code 1 when it is missed or the hits differ.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.sim.demand_fill import DemandFillLru

BAR = 15.0
SHARES = (0.10, 0.25)
ROW = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])


def zipf(pages: int, accesses: int, seed: int) -> NDArray[np.uint32]:
    """Return accesses whose k-th most popular page has weight k^-0.99."""
    rng = np.random.default_rng(seed)
    edges = np.cumsum(np.arange(1, pages + 1) ** -0.99)
    rank = np.searchsorted(edges, rng.random(accesses) * edges[-1])
    page: NDArray[np.uint32] = rng.permutation(pages).astype(np.uint32)[rank]
    return page


def time_ours(page: NDArray[np.uint32], pages: int, capacity: int) -> tuple[float, int]:
    """Return seconds and misses of the demand-filled LRU."""
    cache = DemandFillLru(pages, capacity)
    start = time.perf_counter()
    _, misses, _ = cache.access(page)
    return time.perf_counter() - start, misses


def time_libcachesim(trace: Path, accesses: int, capacity: int) -> tuple[float, int]:
    """Return seconds and misses of libCacheSim's LRU."""
    import libcachesim  # noqa: PLC0415  # only the benchmark needs it

    reader = libcachesim.TraceReader(
        str(trace),
        libcachesim.TraceType.ORACLE_GENERAL_TRACE,
        libcachesim.ReaderInitParam(ignore_obj_size=True),
    )
    cache = libcachesim.LRU(capacity)
    start = time.perf_counter()
    miss_ratio, _ = cache.process_trace(reader)
    return time.perf_counter() - start, round(miss_ratio * accesses)


def measure(
    trace: Path, page: NDArray[np.uint32], pages: int, share: float, runs: int
) -> dict[str, Any]:
    """Return medians and ranges of both at one size, in accesses per second."""
    capacity = int(pages * share)
    ours, theirs, misses = [], [], set()
    for _ in range(runs):
        seconds, missed = time_libcachesim(trace, len(page), capacity)
        theirs.append(len(page) / seconds)
        misses.add(missed)
        seconds, missed = time_ours(page, pages, capacity)
        ours.append(len(page) / seconds)
        misses.add(missed)
    return {
        "fast_share": share,
        "hits_equal": len(misses) == 1,
        "misses": sorted(misses),
        "isotherm_per_s": statistics.median(ours),
        "isotherm_range_per_s": [min(ours), max(ours)],
        "libcachesim_per_s": statistics.median(theirs),
        "libcachesim_range_per_s": [min(theirs), max(theirs)],
        "ratio": statistics.median(ours) / statistics.median(theirs),
    }


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pages", type=int, default=1 << 20)
    parser.add_argument("--accesses", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    page = zipf(args.pages, args.accesses, seed=1)
    DemandFillLru(8, 2).access(page[:0])  # compile
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "zipf.oracleGeneral.bin"
        rows = np.zeros(len(page), ROW)
        rows["id"], rows["size"], rows["next"] = page, 1, -1
        rows.tofile(trace)
        results = [measure(trace, page, args.pages, s, args.runs) for s in SHARES]
    if args.json:
        print(json.dumps({"pages": args.pages, "bar": BAR, "results": results}))
    else:
        print(f"{args.pages} pages, {args.accesses} accesses, median of {args.runs}")
        for r in results:
            print(
                f"fast {r['fast_share']:.0%}: isotherm {r['isotherm_per_s'] / 1e6:.1f}"
                f" M/s, libCacheSim {r['libcachesim_per_s'] / 1e6:.2f} M/s,"
                f" ratio {r['ratio']:.1f} (bar {BAR:.0f}),"
                f" hits {'equal' if r['hits_equal'] else 'DIFFER'}"
            )
    good = all(r["hits_equal"] and r["ratio"] >= BAR for r in results)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
