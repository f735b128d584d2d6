"""What collapsing and splitting a huge page costs here, on a process of our own.

    .venv/bin/python benchmarks/bench_huge.py [--publish] [--ranges N]

A child maps memory in small pages; from outside its ranges are collapsed one by one,
then split, three rounds. Needs Linux 6.7, root or the child's own user.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np

from isotherm.machine.linux.huge import HugeHost
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.nodes import HostNodes
from isotherm.machine.linux.spaces import GRANULE
from isotherm.machine.linux.targets.follow import Follower
from publish import markdown, publish

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PAGE: Final = DOCS / "reference" / "huge-pages.md"
ROUNDS: Final = 3
CHILD: Final = """
import ctypes, mmap, sys
size = int(sys.argv[1]) << 21
memory = mmap.mmap(-1, size + (1 << 21), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
ctypes.memset(start, 1, len(memory))
memory.madvise(mmap.MADV_HUGEPAGE)
print((start + (-start % (1 << 21))) >> 12, flush=True)
sys.stdin.readline()
"""


def main() -> int:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--ranges", type=int, default=64)
    args = parser.parse_args()
    words = [sys.executable, "-c", CHILD, str(args.ranges)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as child:
        if child.stdout is None or child.stdin is None:
            raise SystemExit("no pipes")
        page = int(child.stdout.readline())
        follower = Follower((child.pid,))
        with LinuxMachine(follower, HostNodes(compressed=False)) as machine:
            rows = measure(machine, HugeHost(machine), child.pid, page, args.ranges)
        child.stdin.write("\n")
        child.stdin.close()
    text = markdown(["change", "median µs", "fastest µs", "slowest µs", "failed"], rows)
    print(text)
    if args.publish:
        publish("costs", text, PAGE)
    return 0


def measure(
    machine: LinuxMachine, host: HugeHost, pid: int, page: int, ranges: int
) -> list[list[str]]:
    """Return a row for collapses and one for splits."""
    vpage = page + GRANULE * np.arange(ranges, dtype=np.uint64)
    first = machine.space_map.flat_pages(pid, vpage)
    rows = []
    cost: dict[bool, list[float]] = {True: [], False: []}
    failed = {True: 0, False: 0}
    for _ in range(ROUNDS):
        for huge in (True, False):
            result = host.resize(first, np.full(ranges, huge))
            cost[huge] += result.cost_ns[result.errno == 0].tolist()
            failed[huge] += int(np.count_nonzero(result.errno))
    for huge, name in ((True, "collapse"), (False, "split")):
        us = [ns / 1e3 for ns in cost[huge]]
        middle = statistics.median(us) if us else float("nan")
        ends = (min(us, default=float("nan")), max(us, default=float("nan")))
        rows.append([name, *(f"{x:.0f}" for x in (middle, *ends)), str(failed[huge])])
    return rows


if __name__ == "__main__":
    sys.exit(main())
