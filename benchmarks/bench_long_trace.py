"""A trace of billions of accesses: memory and speed from its start to its end.

    .venv/bin/python benchmarks/bench_long_trace.py [--accesses N] [--publish]
    .venv/bin/python benchmarks/bench_long_trace.py --accesses 10000000000

``simulate`` with the isotherm policy and its default hints on a recorded trace of
Zipf 0.99 over 1 Mi pages at 10 accesses per page per second, read from its file as
any trace is. The file holds 52 million accesses and is read again and again until
there are N: every access is decoded, checked and played, only the disk holds less.

Twice in twelve readings the accesses come decoded (columns in a file, mapped), and
twice they are decoded in turn, without a thread; neither counts towards N. So the
three speeds are of one run. Speed is in accesses per second: of the clock; of the
clock less what the simulation's thread waited for a core that others had (schedstat);
of CPU time of all threads. Memory is the peak resident set of the process, the
interpreter and libraries included.

Bars: 2 GiB; the last tenth at 90 % of the first tenth's speed; 60 M accesses a CPU
second without decoding; where there are two cores, 90 % of the speed without decoding
by the second of the clocks. Exit code 1 when one is missed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.lab.trace_cache import MappedTrace, TraceCache
from isotherm.trace.ahead import read_ahead
from isotherm.trace.format import TraceReader, TraceWriter
from isotherm.trace.info import Provenance, TraceInfo
from isotherm.trace.stream import AccessChunk, Pace
from isotherm.workloads.recorded import ChunkSource, RecordedWorkload
from isotherm.workloads.registry import make_workload
from publish import markdown, processor, publish

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "reference" / "sweeps.md"
PAGES: Final = 1 << 20
EPOCH: Final = PAGES * 5  # accesses
FILE_ACCESSES: Final = 10 * EPOCH
#: How the file is read, again and again: ahead of the simulation, in turn with it,
#: and not at all.
READINGS: Final = ("ahead", 8), ("in turn", 2), ("decoded", 2)
MEMORY_BAR: Final = 2 << 30
STEADY_BAR: Final = 0.9
SPEED_BAR: Final = 60e6
OVERLAP_BAR: Final = 0.9
GIB: Final = 1 << 30


class Repeated:
    """A trace that is read from its file again and again.

    Args:
        reader: The file.
        mapped: The same, decoded.
        accesses: Of which so many are decoded ahead.

    Attributes:
        waited_s: Seconds that the simulation has waited for accesses so far.
    """

    def __init__(self, reader: TraceReader, mapped: MappedTrace, accesses: int) -> None:
        self._reader = reader
        self._mapped = mapped
        self._accesses = accesses
        self.waited_s = 0.0

    @property
    def info(self) -> TraceInfo:
        """Return what the trace says about itself, as long as it is made."""
        return replace(self._reader.info, accesses=sum(n for _, n in self.pieces()))

    def pieces(self) -> Iterator[tuple[str, int]]:
        """Yield how the trace is read, and how many accesses so, in order."""
        left = self._accesses
        while left > 0:
            for kind, times in READINGS:
                count = min(times * FILE_ACCESSES, left)
                yield kind, count
            left -= min(READINGS[0][1] * FILE_ACCESSES, left)

    def chunks(
        self, rows: int = 1 << 20, ahead: int = 0, *, times: bool = True
    ) -> Iterator[AccessChunk]:
        """Yield the accesses of the file, over and over, as many as were asked for."""
        for kind, count in self.pieces():
            source = self._mapped if kind == "decoded" else self._reader
            again = self._again(source, count, rows, times=times)
            if kind == "ahead":
                again = read_ahead(again, -(-ahead // rows))
            while True:
                began = time.perf_counter()
                chunk = next(again, None)
                self.waited_s += time.perf_counter() - began
                if chunk is None:
                    break
                yield chunk

    def _again(
        self, source: ChunkSource, left: int, rows: int, *, times: bool
    ) -> Iterator[AccessChunk]:
        while left > 0:
            for chunk in source.chunks(rows, times=times):
                yield chunk.slice(0, min(left, len(chunk)))
                left -= len(chunk)
                if left <= 0:
                    break


def write_trace(path: Path, level: int | None = None) -> None:
    """Write the trace's file."""
    with TraceWriter(path, Provenance(tool="bench_long_trace"), level=level) as writer:
        pace = Pace(accesses=FILE_ACCESSES)
        for chunk in make_workload("zipf", PAGES).epochs(pace):
            writer.append(chunk.page)


def peak_bytes() -> int:
    """Return the peak resident set of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status: expected VmHWM")


class Mark(NamedTuple):
    """A moment at the end of an epoch.

    Attributes:
        wall_s: Of the clock.
        cpu_s: Of all threads.
        waited_s: That the simulation has waited for accesses so far.
        own_s: Of the clock, less what the simulation's thread has waited for a core.
    """

    wall_s: float
    cpu_s: float
    waited_s: float
    own_s: float

    @classmethod
    def now(cls, source: Repeated) -> "Mark":
        """Return this one."""
        wall_s = time.perf_counter()
        # Run time, time that it was ready without a core, slices: sched-stats.rst.
        schedstat = Path("/proc/thread-self/schedstat").read_text().split()
        own_s = wall_s - int(schedstat[1]) / 1e9
        return cls(wall_s, time.process_time(), source.waited_s, own_s)


def total(spans: Sequence[tuple[Mark, Mark]], clock: str) -> float:
    """Return what epochs took by a field of `Mark`."""
    took: float = sum(
        getattr(stop, clock) - getattr(start, clock) for start, stop in spans
    )
    return took


def speed(spans: Sequence[tuple[Mark, Mark]], per_epoch: float, clock: str) -> float:
    """Return accesses a second of epochs; nan without any."""
    took = total(spans, clock)
    return len(spans) * per_epoch / took if took > 0 else float("nan")


def measure(path: Path, accesses: int, policy: str) -> dict[str, Any]:
    """Run the simulation, and return what its epochs took."""
    cached = TraceCache(path.parent, 1 << 30).open(path)
    if cached is None or not isinstance(cached.reader, MappedTrace):
        raise SystemExit(f"{path.parent}: expected room for the decoded trace")
    source = Repeated(TraceReader(path), cached.reader, accesses)
    workload = RecordedWorkload(source, "zipf")
    spec = SimulationSpec(policy, str(path), accesses=source.info.accesses)
    simulate(replace(spec, accesses=1 << 20))  # compile
    per_epoch = workload.pages * 10.0 * 0.5
    marks = [Mark.now(source)]
    peaks = []

    def note(simulated_s: float) -> None:
        marks.append(Mark.now(source))
        if len(marks) % 16 == 0:
            peaks.append(peak_bytes())
            if sys.stderr.isatty():
                done = len(marks) * per_epoch / source.info.accesses
                print(f"{done:.1%}", end="\r", file=sys.stderr)

    result = simulate(spec, workload=workload, progress=note)
    spans: dict[str, list[tuple[Mark, Mark]]] = {kind: [] for kind, _ in READINGS}
    start = 0
    for kind, count in source.pieces():
        # Not the epoch that begins in the piece before, and not the first whole one,
        # for which nothing was decoded ahead.
        first, last = int(start / per_epoch) + 2, int((start + count) / per_epoch)
        spans[kind] += zip(marks[first:last], marks[first + 1 : last + 1], strict=True)
        start += count
    ahead = spans["ahead"]
    tenth = max(1, len(ahead) // 10)
    return {
        "policy": policy,
        "accesses": accesses,
        "played": result["accesses"],
        "wall_s": marks[-1].wall_s - marks[0].wall_s,
        "cpu_s": marks[-1].cpu_s - marks[0].cpu_s,
        **{
            f"{kind} {clock}": speed(spans[kind], per_epoch, clock)
            for kind in spans
            for clock in ("wall_s", "own_s", "cpu_s")
        },
        **{
            f"{kind} waited": total(s, "waited_s") / total(s, "wall_s")
            for kind, s in spans.items()
            if s
        },
        "first": speed(ahead[:tenth], per_epoch, "cpu_s"),
        "last": speed(ahead[-tenth:], per_epoch, "cpu_s"),
        "peak_bytes": peak_bytes(),
        "peak_early_bytes": peaks[0] if peaks else peak_bytes(),
    }


def report(row: dict[str, Any]) -> str:
    """Return the measurement as two tables."""
    speeds = markdown(
        ["M accesses a second", "decoded ahead", "decoded in turn", "not decoded"],
        [
            [name, *[f"{row[f'{kind} {clock}'] / 1e6:.0f}" for kind, _ in READINGS]]
            for name, clock in (
                ("by the clock", "wall_s"),
                ("less time without a core", "own_s"),
                ("by CPU time", "cpu_s"),
            )
        ]
        + [
            [
                "of the time, waiting for accesses",
                *[
                    f"{row.get(f'{kind} waited', float('nan')):.1%}"
                    for kind, _ in READINGS
                ],
            ]
        ],
    )
    whole = markdown(
        [
            "policy",
            "accesses",
            "peak memory",
            "after 16 epochs",
            "of the speed without decoding",
            "last tenth over first, CPU",
            "CPU s",
            "s",
        ],
        [
            [
                row["policy"],
                f"{row['accesses'] / 1e9:g} G",
                f"{row['peak_bytes'] / GIB:.2f} GiB",
                f"{row['peak_early_bytes'] / GIB:.2f} GiB",
                f"{row['ahead own_s'] / row['decoded own_s']:.0%}",
                f"{row['last'] / row['first']:.0%}",
                f"{row['cpu_s']:.0f}",
                f"{row['wall_s']:.0f}",
            ]
        ],
    )
    return f"{whole}\n\n{speeds}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--accesses", type=int, default=1_000_000_000)
    add("--policy", default="isotherm")
    add("--publish", action="store_true", help="write docs/reference/sweeps.md")
    add("--level", type=int, help="of zstd, for the file; default: LZ4")
    add("--write", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.write:
        write_trace(args.write, args.level)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-long-trace-") as folder:
        path = Path(folder) / "zipf.parquet"
        # Elsewhere: what writing takes is none of the simulation's memory.
        level = [] if args.level is None else ["--level", str(args.level)]
        subprocess.run(
            [sys.executable, __file__, "--write", str(path), *level], check=True
        )
        print(f"{path.stat().st_size / FILE_ACCESSES:.2f} bytes an access\n")
        row = measure(path, args.accesses, args.policy)
    text = report(row)
    print(f"{processor()}\n\n{text}")
    if args.publish:
        publish("bench-long-trace", f"{processor()}.\n\n{text}", PAGE)
    hidden = row["ahead own_s"] >= OVERLAP_BAR * row["decoded own_s"]
    met = (
        row["last"] >= STEADY_BAR * row["first"],
        row["peak_bytes"] <= MEMORY_BAR,
        row["decoded cpu_s"] >= SPEED_BAR,
        hidden or len(os.sched_getaffinity(0)) < 2,
    )
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
