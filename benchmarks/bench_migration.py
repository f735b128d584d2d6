"""Time a plan of a million moves on a full fast node, and an empty plan (CPU time).

Usage: bench_migration.py [pages]   (default 4 Mi pages)
Prints the median of ten runs; what the machine itself takes is taken off.
"""

import sys
import time

import numpy as np
from numpy.typing import NDArray

from isotherm.core.clock import VirtualClock
from isotherm.machine.protocol import MoveResult, Space, SpacesChanged, Usage
from isotherm.migration import MigrationEngine
from isotherm.policy.plan import Moves, Reason
from isotherm.topology.model import MemoryKind, Node, Source, Tier, Topology

MOVES = 1_000_000
RUNS = 10


class TableMachine:
    """A machine that writes a column and keeps its own time."""

    def __init__(self, node: NDArray[np.uint8]) -> None:
        self.clock = VirtualClock()
        self.topology = Topology(
            tuple(Node(n, MemoryKind.DRAM, Source.CONFIGURED, None) for n in (0, 1)),
            tuple(Tier(n, None, (n,), Source.CONFIGURED) for n in (0, 1)),
            (),
            (),
            {},
        )
        self.spaces = (Space(0, len(node), "bench"),)
        self.pages = len(node)
        self.parallelism = 1.0
        self.own_ns = 0
        self._node = node

    def refresh(self) -> SpacesChanged | None:
        """Return None: the space stays."""
        return None

    def usage(self) -> Usage:
        """Return a full fast node and a roomy slow one."""
        start_ns = time.process_time_ns()
        used = np.bincount(self._node, minlength=2).astype(np.int64)
        capacity = np.array([used[0], self.pages], np.int64)
        zero = np.zeros(2, np.int64)
        self.own_ns += time.process_time_ns() - start_ns
        return Usage(capacity, used, zero, zero, zero, zero)

    def placement(self) -> NDArray[np.uint8]:
        """Return the column."""
        return self._node

    def latency_ns(self) -> NDArray[np.float64]:
        """Return the reference machine's latencies."""
        return np.array([[80.0, 250.0]])

    def access_rate(self) -> float | None:
        """Return None: nothing accesses."""
        return None

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Move all pages."""
        start_ns = time.process_time_ns()
        self._node[page] = node
        result = MoveResult(np.zeros(len(page), np.int16), 2500.0 * len(page))
        self.own_ns += time.process_time_ns() - start_ns
        return result


def time_plan(pages: int, seed: int) -> tuple[float, float]:
    """Return milliseconds of a million moves, and microseconds of an empty plan."""
    rng = np.random.default_rng(seed)
    node = (rng.random(pages) > 0.25).astype(np.uint8)
    machine = TableMachine(node)
    engine = MigrationEngine(machine)
    down = rng.choice(np.flatnonzero(node == 0), MOVES // 2, replace=False)
    up = rng.choice(np.flatnonzero(node == 1), MOVES // 2, replace=False)
    moves = Moves.concat(
        Moves.to(down, 1, Reason.MAKES_ROOM, -1.0), Moves.to(up, 0, Reason.PAYS, 5e4)
    )
    start_ns = time.process_time_ns()
    engine.submit(moves, 500_000_000)
    plan_ns = time.process_time_ns() - start_ns - machine.own_ns
    if engine.totals.applied != MOVES:
        raise SystemExit(f"moved {engine.totals.applied} pages, expected {MOVES}")
    empty = Moves.none()
    start_ns = time.process_time_ns()
    for _ in range(1000):
        engine.submit(empty, 500_000_000)
    return plan_ns / 1e6, (time.process_time_ns() - start_ns) / 1e6


def main() -> None:
    """Print medians."""
    pages = int(sys.argv[1]) if len(sys.argv) > 1 else 4 << 20
    runs = np.array([time_plan(pages, seed) for seed in range(RUNS)])
    plan_ms, empty_us = np.median(runs, axis=0)
    low, high = np.percentile(runs[:, 0], [25, 75])
    print(f"pages                 {pages}")
    print(f"plan of {MOVES} moves  {plan_ms:.1f} ms (quartiles {low:.1f}, {high:.1f})")
    print(f"empty plan            {empty_us:.1f} us")


if __name__ == "__main__":
    main()
