"""The daemon's budget at any size: CPU time, epoch length, state (synthetic memory).

Usage: bench_daemon.py [--publish] [--live GiB] [GiB ...]   (default 4 64 1024)

A service on a table instead of a host: a column says where pages are, a source
answers looks with bits of a skewed working set, in proportion to what a budgeted
reader of accessed bits can read (2 % of a core at 30 ns a page). Everything above
is what runs on a host. The pace is the daemon's own; waiting is not waited.
Printed: CPU time of an epoch, its length at the end, the share of a core, resident
memory beyond the interpreter's, and its share of what is managed.

With ``--live`` also the real daemon on a process of so many GiB (daemon_live.py): its
CPU time and memory, and what it costs the process, in interleaved slices.
``--publish`` writes the tables into docs/measurements.md.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from isotherm.core.clock import VirtualClock
from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.daemon.budget import choose_unit
from isotherm.daemon.coarse import CoarseMachine, CoarseSource
from isotherm.daemon.config import BudgetConfig, Config
from isotherm.daemon.service import Service
from isotherm.hints.batch import AccessedBits, HintBatch, Look, Mechanism
from isotherm.hints.capability import Capability
from isotherm.machine.protocol import Machine, MoveResult, Space, SpacesChanged, Usage
from isotherm.migration.engine import MigrationEngine
from isotherm.topology.model import MemoryKind, Node, Source, Tier, Topology
from publish import markdown, publish
from zram_swap import missing

if TYPE_CHECKING:
    from daemon_live import Live

EPOCHS = 40
READ_NS = 30.0  # a page-table entry; docs/reference/hint-sources.md
FAST_SHARE = 0.25


class Table:
    """Memory as a column; it keeps its own time."""

    def __init__(self, pages: int) -> None:
        self.clock = VirtualClock()
        self.pages = pages
        self.parallelism = 1.0
        self.topology = Topology(
            tuple(Node(n, MemoryKind.DRAM, Source.CONFIGURED, None) for n in (0, 1)),
            tuple(Tier(n, None, (n,), Source.CONFIGURED) for n in (0, 1)),
            (),
            (),
            {},
        )
        self.spaces = (Space(0, pages, "bench"),)
        self._node = np.ones(pages, np.uint8)
        self._node[: int(FAST_SHARE * pages)] = 0
        self._used = np.bincount(self._node, minlength=2).astype(np.int64)

    def refresh(self) -> SpacesChanged | None:
        """Return None: the space stays."""
        return None

    def usage(self) -> Usage:
        """Return a full fast node and a roomy slow one."""
        capacity = np.array([int(FAST_SHARE * self.pages), self.pages], np.int64)
        zero = np.zeros(2, np.int64)
        return Usage(capacity, self._used.copy(), zero, zero, zero, zero)

    def placement(self) -> NDArray[np.uint8]:
        """Return the column."""
        return self._node

    def latency_ns(self) -> NDArray[np.float64]:
        """Return the reference machine's latencies."""
        return np.array([[80.0, 250.0]])

    def access_rate(self) -> float | None:
        """Nobody counts."""
        return None

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Move whatever is asked for."""
        np.subtract.at(self._used, self._node[page], 1)
        np.add.at(self._used, node, 1)
        self._node[page] = node
        return MoveResult(np.zeros(len(page), np.int16), 2500.0 * len(page))


class Bits:
    """Answers looks within a budget: a tenth of the memory is hot."""

    mechanism = Mechanism.ACCESSED_BIT
    capability = Capability(clears=True)

    def __init__(self, pages: int, clock: VirtualClock) -> None:
        self._blocks = pages // 8
        self._clock = clock
        self._rng = np.random.default_rng(1)
        self._looks: tuple[Look, ...] = ()
        self._last_ns = 0
        self._at = 0

    def open(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def look(self, looks: tuple[Look, ...]) -> None:
        """Keep them."""
        self._looks = looks

    def drain(self) -> tuple[HintBatch, ...]:
        """Return bits of as many blocks as the budget allows, in turns."""
        now_ns, start_ns = self._clock.now_ns(), self._last_ns
        self._last_ns = now_ns
        if not self._looks:
            return ()
        look = self._looks[0]
        blocks = (look.end_page - look.start_page) // 8 // look.stripes
        budget = int(0.02 * (now_ns - start_ns) / READ_NS / 8)
        blocks = max(1, min(blocks, budget, self._blocks))
        first = self._at if self._at + blocks <= self._blocks else 0
        self._at = first + blocks
        block = np.arange(first, first + blocks, dtype=np.uint32)
        hot = block % 10 == 0
        bits = np.where(hot, 255, self._rng.integers(0, 256, blocks) & 1)
        interval = np.full(blocks, (now_ns - start_ns) / NS_PER_S, np.float32)
        seen = AccessedBits(block, bits.astype(np.uint8), interval)
        return (HintBatch("bits", start_ns, now_ns, seen),)


def measure(gib: int, floor_mib: float) -> dict[str, float]:
    """Run some epochs at one size; return what they took."""
    pages = gib << 18
    before = resident()
    config = Config(budget=BudgetConfig(memory_floor_mib=floor_mib))
    budget = config.budget
    unit = choose_unit(pages, budget.memory_permille, budget.memory_floor_mib * 2**20)
    table = Table(pages)
    machine: Machine = table if unit == 1 else CoarseMachine(table, unit)
    bits = Bits(pages, table.clock)
    source = bits if unit == 1 else CoarseSource(bits, unit)
    service = Service(
        machine,
        (source,),
        config,
        lambda m: MigrationEngine(m, quota_pages_per_s=51200.0 / unit),
        lambda: True,
        unit_pages=unit,
    )
    spent: list[float] = []
    source.look(())
    for _ in range(EPOCHS):
        table.clock.advance(round(service.pacer.epoch_s * NS_PER_S))
        began = time.process_time()
        service.epoch()
        spent.append(time.process_time() - began)
    late = np.array(spent[EPOCHS // 2 :])
    length_s = service.pacer.epoch_s
    return {
        "gib": gib,
        "floor_mib": floor_mib,
        "unit": unit,
        "epoch_ms": float(np.median(late)) * 1e3,
        "least_ms": float(late.min()) * 1e3,
        "most_ms": float(late.max()) * 1e3,
        "every_s": length_s,
        "core": float(np.median(late)) / length_s,
        "state_bytes": resident() - before,
        "of_managed": (resident() - before) / pages / PAGE_BYTES,
    }


def resident() -> int:
    """Return resident memory now, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def measure_apart(gib: int, floor_mib: float) -> dict[str, float]:
    """Measure in a process of its own: memory is not given back."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        measure(1, floor_mib)  # import and compile
        os.write(theirs, json.dumps(measure(gib, floor_mib)).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        found: dict[str, float] = json.loads(pipe.read())
    os.waitpid(child, 0)
    return found


def render_sizes(rows: list[dict[str, float]]) -> str:
    """Return the table of sizes."""
    head = ["managed", "floor", "unit", "epoch", "range", "every", "share of a core"]
    return markdown(
        [*head, "state", "of managed"],
        [
            [
                f"{row['gib']:.0f} GiB",
                f"{row['floor_mib']:.0f} MiB",
                f"{row['unit']:.0f} pages",
                f"{row['epoch_ms']:.1f} ms",
                f"{row['least_ms']:.1f} to {row['most_ms']:.1f}",
                f"{row['every_s']:.0f} s",
                f"{row['core']:.2%}",
                f"{row['state_bytes'] / 2**20:.0f} MiB",
                f"{row['of_managed']:.3%}",
            ]
            for row in rows
        ],
    )


def render_live(live: "Live") -> str:
    """Return the table of the live run."""
    costs = live.result["costs"]
    names = [source["name"] for source in live.result["sources"]]
    rows = [
        ["loss of throughput while it works, median", f"{live.loss:.2%}"],
        ["its standard error", f"{live.loss_error:.2%} ({live.slices} slices)"],
        ["CPU time of the process in the kernel, more", f"{live.kernel:.2%}"],
        ["the daemon's CPU in its first minute, of a core", f"{live.cpu:.2%}"],
        ["and in the slices after it", f"{live.cpu_sliced:.2%}"],
        ["seconds between decisions at the end", f"{costs['epoch_s']:g}"],
        ["its resident memory", f"{live.resident_bytes / 2**20:.0f} MiB"],
        ["looked with", ", ".join(names)],
        ["moved", f"{live.result['moved_bytes'] / 2**20:.1f} MiB"],
    ]
    return markdown(
        [f"a process of {live.gib:g} GiB", "Linux " + os.uname().release], rows
    )


def main() -> None:
    """Measure every size, and live where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gib", nargs="*", type=int)
    parser.add_argument("--live", type=float, help="GiB of the process")
    parser.add_argument("--seconds", type=float, default=120.0, help="of work, live")
    parser.add_argument("--hints", default="", help="sources of the live run")
    parser.add_argument("--publish", action="store_true")
    given = parser.parse_args()
    live = None
    if given.live:
        why = missing()
        if why:
            print(f"live: skipped: {why}", file=sys.stderr)
        else:
            from daemon_live import measure as measure_live  # noqa: PLC0415  # numba

            found = measure_live(given.live, given.seconds, given.hints)
            live = render_live(found)
            print(live + "\n")
            if given.publish:
                publish("daemon-live", live)
        if not given.gib:
            return
    usual = BudgetConfig().memory_floor_mib
    # Where the floor keeps single pages, also what the budget alone would give.
    rows = [
        measure_apart(gib, floor_mib)
        for gib in given.gib or [4, 64, 1024]
        for floor_mib in (usual, 0.0)
        if floor_mib == usual or gib << 10 < 1000 * usual
    ]
    sizes = render_sizes(rows)
    print(sizes)
    if given.publish:
        publish("daemon", sizes)


if __name__ == "__main__":
    main()
