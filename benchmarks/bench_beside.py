"""What work beside the decision costs an epoch, on a large memory.

    .venv/bin/python benchmarks/bench_beside.py [--pages N] [--processes N] [--publish]

CPU time, median of some calls, of what is done for all of the memory beside the
decision itself: room for pages that cross between sockets and for what is born, the
adviser's pages by region, who manages what several processes map, and which ranges of
a process are huge; and of the trades of as many tenants as there can be, with pages of
every kind in both tiers. Bars: no more than 2 ns a page, 100 ms for 100 processes with
100 shared mappings each, and 50 ms for the trades, which know no pages. Exit code 1
when one is missed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from isotherm.machine.linux.huge import Blocks, within
from isotherm.machine.linux.mappings import Managed, MappingPolicy, Mappings, parse_maps
from isotherm.machine.linux.sharing import split
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.cells import CELLS
from isotherm.policy.coldest import coldest
from isotherm.policy.cpu_adviser import CpuAdviser
from isotherm.policy.tenant_trades import Book, deal
from isotherm.policy.tenants import MOST_TENANTS
from publish import markdown, processor, publish

PAGES: Final = 16 << 20
CALLS: Final = 9
PAGE_BAR_NS: Final = 2.0
SPLIT_BAR_MS: Final = 100.0
TRADES_BAR_MS: Final = 50.0
GRANULE: Final = 512


@dataclass(frozen=True)
class Process:
    """A process and its mappings."""

    pid: int
    mappings: Mappings

    @property
    def managed(self) -> Managed:
        """What would be managed of it alone."""
        return MappingPolicy(shmem=True, file=True).select(self.mappings)


def processes(count: int) -> list[Process]:
    """Return processes that map a hundred libraries and some memory of their own."""
    found = []
    for pid in range(1, count + 1):
        lines = []
        for k in range(100):
            start = 0x7F0000000000 + (k << 24)
            lines.append(
                f"{start:x}-{start + (1 << 20):x} r-xp 00000000 08:01 {k + 1} /lib/{k}"
            )
        lines.append("7fff00000000-7fff10000000 rw-p 00000000 00:00 0 ")
        found.append(Process(pid, parse_maps("\n".join([*lines, ""]).encode())))
    return found


def full_book() -> Book:
    """Return a book: every tenant has pages of every kind to sell and to buy."""
    rng = np.random.default_rng(1)
    tenants = MOST_TENANTS + 1
    upper, lower = rng.integers(0, 200, (2, tenants, CELLS))
    used = upper.sum(1)
    owed, entitled, grow, cap = (
        (used * rng.uniform(low, high, tenants)).astype(np.int64)
        for low, high in ((0, 1.2), (0, 1.4), (0.8, 3), (0.9, 3))
    )
    return Book(
        rng.normal(0, 1e4, upper.shape), rng.uniform(0.5, 4, tenants), upper, lower,
        owed, entitled, grow, cap, np.ones(tenants, np.bool_), 1000, 1 << 40,
        np.full(tenants, 1 / tenants), np.ones(tenants),
    )  # fmt: skip


def timed(call: Callable[[], Any]) -> float:
    """Return the median CPU milliseconds of a call, after one to warm up."""
    call()
    taken = []
    for _ in range(CALLS):
        began = time.thread_time_ns()
        call()
        taken.append((time.thread_time_ns() - began) / 1e6)
    return statistics.median(taken)


def measure(pages: int, count: int) -> list[dict[str, Any]]:
    """Return a row a piece of work."""
    rng = np.random.default_rng(1)
    node = rng.integers(0, 3, pages).astype(np.uint8)
    kind = rng.integers(0, 400, pages).astype(np.uint16)
    rate = rng.random(1024)
    out = rng.choice(pages, 4096, replace=False).astype(np.uint32)
    label = rng.integers(0, 4, pages).astype(np.uint8)
    give = np.full(4, 1000)
    topology = load_machine("two-socket-cxl").topology([pages] * 3)
    adviser = CpuAdviser(topology, pages, acts=True)
    base = np.arange(0, pages, 64 * GRANULE)
    extents = base, base + 64 * GRANULE, base + (1 << 30), np.ones(len(base), np.int32)
    runs = np.stack([base + (1 << 30), base + (1 << 30) + 32 * GRANULE], axis=1)
    some, book = processes(count), full_book()
    calls: dict[str, Callable[[], Any]] = {
        "room on a node": lambda: coldest(node, kind, rate, 0, 2000, (out,)),
        "the same, of tenants": lambda: coldest(
            node, kind, rate, 0, 2000, (out,), label=label, give=give
        ),
        "pages by region": lambda: adviser.pages_on(node),
        "which ranges are huge": lambda: within(runs, Blocks.of(*extents).vpage),
        "who manages what": lambda: split(some),
        f"trades of {MOST_TENANTS + 1} tenants": lambda: deal(book),
    }
    return [{"work": name, "ms": timed(call)} for name, call in calls.items()]


def main() -> int:
    """Measure, print, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--processes", type=int, default=100)
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure(args.pages, args.processes)
    lines = [[row["work"], f"{row['ms']:.2f}"] for row in rows]
    table = markdown(["work", "ms an epoch"], lines)
    print(json.dumps(rows) if args.json else f"{processor()}\n\n{table}")
    bars = {
        "who manages what": SPLIT_BAR_MS * args.processes / 100,
        f"trades of {MOST_TENANTS + 1} tenants": TRADES_BAR_MS,
    }
    missed = [
        row["work"]
        for row in rows
        if row["ms"] > bars.get(row["work"], PAGE_BAR_NS * args.pages / 1e6)
    ]
    for work in missed:
        print(f"FAIL: {work}", file=sys.stderr)
    if args.publish:
        publish("beside", table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
