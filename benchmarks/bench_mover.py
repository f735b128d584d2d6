"""What it costs to ask a mover, beside making the calls oneself.

    .venv/bin/python benchmarks/bench_mover.py [--publish] [--processes N] [--rounds N]

The mover and a session without rights run in processes of their own, as under
`isotherm run --user`. Batches of pages are moved (to the other of two nodes and back
where there are two; else to where they are, the least that a move can cost), their
places asked for, and processes opened with their mappings and pagemap. Needs root.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core import privileged
from isotherm.core.changes import HostChanges
from isotherm.machine.linux.process import Process
from isotherm.mover import wire
from isotherm.mover.client import Client
from isotherm.mover.drop import drop, find_user
from isotherm.mover.scope import Rules
from isotherm.mover.server import Server
from isotherm.topology.parse import MAX_NODES, parse_list
from publish import markdown, processor, publish

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PAGE: Final = DOCS / "reference" / "privileges.md"
BATCH: Final = 4096
CHILD: Final = """
import ctypes, mmap, sys
memory = mmap.mmap(-1, 4096 << 12, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
ctypes.memset(start, 1, len(memory))
print(start >> 12, flush=True)
sys.stdin.readline()
"""

#: By unit: microseconds of each round.
Timings = dict[str, list[float]]
Found = dict[str, Timings]


def main() -> int:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--processes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("only root can give rights up")
    with targets(args.processes) as (pid, page, pids):
        found = measure(pid, page, pids, args.rounds)
    rows = [row(name, *found[name]) for name in found]
    header = ["what", "direct µs", "asked µs", "ratio", "direct CPU", "asked CPU"]
    header += ["ratio"]
    text = markdown(header, rows)
    nodes = len(memory_nodes())
    load = os.getloadavg()[0]
    text += (
        f"\n\n{processor()}, {os.cpu_count()} CPUs, load {load:.1f}; nodes with memory:"
        f" {nodes}. By the clock the fastest of {args.rounds} rounds in turns; of CPU"
        " time, of both processes, the median.\n"
    )
    print(text)
    if args.publish:
        publish("overhead", text, PAGE)
    return 0


def row(name: str, direct: Timings, asked: Timings) -> list[str]:
    """Return a row of the table."""
    cells = []
    for unit, figure in (("wall", min), ("cpu", statistics.median)):
        one, two = figure(direct[unit]), figure(asked[unit])
        cells += [f"{one:.0f}", f"{two:.0f}", f"{two / one:.2f}"]
    return [name, *cells]


def cpu_us(*pids: int) -> float:
    """Return the CPU time of processes, all their threads, in microseconds.

    Their clocks: clock_getcpuclockid(3) as the kernel numbers them (CPUCLOCK_SCHED in
    include/linux/posix-timers.h).
    """
    return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in pids) / 1e3


def memory_nodes() -> tuple[int, ...]:
    """Return the nodes that have memory."""
    text = Path("/sys/devices/system/node/has_memory").read_text()
    return tuple(sorted(parse_list(text.strip(), MAX_NODES)))


@contextlib.contextmanager
def targets(count: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Start a process with memory and some that sleep."""
    pipe = subprocess.PIPE
    words = [sys.executable, "-S", "-E", "-c", CHILD]
    child = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
    others: list[subprocess.Popen[bytes]] = [
        subprocess.Popen(["sleep", "600"]) for _ in range(count)
    ]
    try:
        if child.stdout is None:
            raise SystemExit("no pipe")
        page = int(child.stdout.readline())
        yield child.pid, page, tuple(other.pid for other in others)
    finally:
        child.kill()
        child.communicate()
        for other in others:
            other.kill()
        for other in others:
            other.wait()


def measure(
    pid: int, page: int, pids: tuple[int, ...], rounds: int
) -> dict[str, tuple[Timings, Timings]]:
    """Return timings of each, direct and asked for."""
    nodes = memory_nodes()
    rules = Rules(pids=(pid, *pids), nodes=frozenset(nodes))
    ends = [wire.pair() for _ in range(wire.CHANNELS)]
    mover = os.getpid()
    with tempfile.TemporaryFile("w+") as answers:
        turns = [os.pipe(), os.pipe()]
        session = os.fork()
        if session == 0:
            for mine, _ in ends:
                mine.detach()
            kept = [end.fileno() for _, end in ends]
            kept += [answers.fileno(), turns[0][0], turns[1][1]]
            drop(find_user("nobody"), mover, kept)
            privileged.install(Client([end for _, end in ends]))
            timings: Found = {}
            both = (mover, os.getpid())
            while os.read(turns[0][0], 1) == b"x":
                one_round(timings, pid, page, pids, nodes, both)
                os.write(turns[1][1], b"x")
            json.dump(timings, answers)
            answers.flush()
            os._exit(0)
        for _, end in ends:
            end.close()
        server = Server(rules, HostChanges(None), session)
        for mine, _ in ends:
            threading.Thread(target=server.serve, args=(mine,), daemon=True).start()
        direct: Found = {}
        for _ in range(rounds):
            one_round(direct, pid, page, pids, nodes, (mover,))
            os.write(turns[0][1], b"x")
            os.read(turns[1][0], 1)
        os.write(turns[0][1], b"e")
        os.waitpid(session, 0)
        answers.seek(0)
        asked: Found = json.load(answers)
    server.close()
    return {name: (direct[name], asked[name]) for name in direct}


def one_round(
    into: Found,
    pid: int,
    page: int,
    pids: tuple[int, ...],
    nodes: tuple[int, ...],
    workers: tuple[int, ...],
) -> None:
    """Do each once, and note how long it took."""

    def clock(name: str, act: Callable[[], None]) -> None:
        used, began = cpu_us(*workers), time.perf_counter_ns()
        act()
        took = (time.perf_counter_ns() - began) / 1e3
        units = into.setdefault(name, {"wall": [], "cpu": []})
        units["wall"].append(took)
        units["cpu"].append(cpu_us(*workers) - used)

    vpage = np.arange(page, page + BATCH, dtype=np.uint64)
    ends = (nodes[-1], nodes[0])
    with Process(pid) as process:
        process.move_pages(vpage, np.full(BATCH, nodes[0], np.int32))
        for node in ends if len(nodes) > 1 else ends[:1]:
            to = np.full(BATCH, node, np.int32)
            clock(f"move {BATCH} pages", partial(check, process, vpage, to))
        clock(f"ask where {BATCH} pages are", lambda: check(process, vpage, None))
        few = vpage[:512]
        clock("ask where 512 pages are", lambda: check(process, few, None))
        clock("read stat", lambda: void(process.stat()))
    clock(f"open {len(pids)} processes", lambda: open_all(pids))


def check(
    process: Process, vpage: NDArray[np.uint64], node: NDArray[np.int32] | None
) -> None:
    """Move pages, all of them."""
    if (process.move_pages(vpage, node).status < 0).any():
        raise SystemExit("a page would not move")


def open_all(pids: tuple[int, ...]) -> None:
    """Open processes as a run does: with mappings and pagemap."""
    for pid in pids:
        with Process(pid) as process:
            process.mappings()
            process.pagemap_fd()


def void(_: object) -> None:
    """Take what nobody needs."""


if __name__ == "__main__":
    sys.exit(main())
