"""A trace of billions of accesses: memory and speed from its start to its end.

    .venv/bin/python benchmarks/bench_long_trace.py [--accesses N] [--publish]
    .venv/bin/python benchmarks/bench_long_trace.py --accesses 10000000000

``simulate`` with the isotherm policy and its default hints on a recorded trace of
Zipf 0.99 over 1 Mi pages at 10 accesses per page per second, read from its file as
any trace is. The file holds 50 million accesses and is read again and again until
there are N: every access is decoded, checked and played, only the disk holds less.

Speed is in accesses per CPU second, decoding included and without it, in the first
tenth and in the last: on a machine that others load the clock says little. Memory is
the peak resident set of the process, the interpreter and libraries included.

Bars: 2 GiB; the last tenth at 90 % of the first tenth's speed; 60 M accesses a
second without decoding. Exit code 1 when one is missed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.trace.format import TraceReader, TraceWriter
from isotherm.trace.info import Provenance, TraceInfo
from isotherm.trace.stream import AccessChunk, Pace
from isotherm.workloads.recorded import RecordedWorkload
from isotherm.workloads.registry import make_workload
from publish import markdown, processor, publish

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "reference" / "sweeps.md"
PAGES: Final = 1 << 20
FILE_ACCESSES: Final = 50_000_000
MEMORY_BAR: Final = 2 << 30
STEADY_BAR: Final = 0.9
SPEED_BAR: Final = 60e6
GIB: Final = 1 << 30


class Repeated:
    """A trace that is read from its file again and again.

    Attributes:
        decode_s: CPU seconds that reading took so far.
    """

    def __init__(self, reader: TraceReader, accesses: int) -> None:
        self._reader = reader
        self._accesses = accesses
        self.decode_s = 0.0

    @property
    def info(self) -> TraceInfo:
        """Return what the trace says about itself, as long as it is made."""
        return replace(self._reader.info, accesses=self._accesses)

    def chunks(self) -> Iterator[AccessChunk]:
        """Yield the accesses of the file, over and over, as many as were asked for."""
        left = self._accesses
        while left > 0:
            chunks = self._reader.chunks()
            while left > 0:
                began = time.process_time()
                chunk = next(chunks, None)
                self.decode_s += time.process_time() - began
                if chunk is None:
                    break
                yield chunk.slice(0, min(left, len(chunk)))
                left -= len(chunk)


def write_trace(path: Path) -> None:
    """Write the trace's file."""
    with TraceWriter(path, Provenance(tool="bench_long_trace"), level=1) as writer:
        pace = Pace(accesses=FILE_ACCESSES)
        for chunk in make_workload("zipf", PAGES).epochs(pace):
            writer.append(chunk.page)


def peak_bytes() -> int:
    """Return the peak resident set of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status: expected VmHWM")


def measure(path: Path, accesses: int, policy: str) -> dict[str, Any]:
    """Run the simulation, and return what it took in its first and last tenth."""
    source = Repeated(TraceReader(path), accesses)
    workload = RecordedWorkload(source, "zipf")
    spec = SimulationSpec(policy, str(path), accesses=accesses)
    simulate(replace(spec, accesses=1 << 20))  # compile
    source.decode_s = 0.0
    marks = [(time.process_time(), 0.0)]  # after each epoch: CPU, of it decoding
    peaks = []

    def note(simulated_s: float) -> None:
        marks.append((time.process_time(), source.decode_s))
        if len(marks) % 16 == 0:
            peaks.append(peak_bytes())
            done = len(marks) * workload.pages * 10.0 * 0.5
            if sys.stderr.isatty():
                print(f"{done / accesses:.1%}", end="\r", file=sys.stderr)

    began = time.perf_counter()
    result = simulate(spec, workload=workload, progress=note)
    wall_s = time.perf_counter() - began
    tenth = max(1, (len(marks) - 1) // 10)
    per_epoch = workload.pages * 10.0 * 0.5

    def speed(start: int, stop: int, *, decoding: bool) -> float:
        took = marks[stop][0] - marks[start][0]
        if not decoding:
            took -= marks[stop][1] - marks[start][1]
        return (stop - start) * per_epoch / took

    last = len(marks) - 2  # the last epoch may be shorter
    return {
        "policy": policy,
        "accesses": result["accesses"],
        "epochs": result["epochs"],
        "wall_s": wall_s,
        "cpu_s": marks[-1][0] - marks[0][0],
        "whole": speed(0, last, decoding=True),
        "played": speed(0, last, decoding=False),
        "first": speed(0, tenth, decoding=True),
        "last": speed(last - tenth, last, decoding=True),
        "peak_bytes": peak_bytes(),
        "peak_early_bytes": peaks[0] if peaks else peak_bytes(),
        "fast_share": result["fast_share"],
    }


def report(row: dict[str, Any]) -> str:
    """Return the measurement as a table."""
    return markdown(
        [
            "policy",
            "accesses",
            "peak memory",
            "after 16 epochs",
            "M/s, decoding included",
            "without",
            "first tenth",
            "last tenth",
            "CPU s",
            "s",
        ],
        [
            [
                row["policy"],
                f"{row['accesses'] / 1e9:g} G",
                f"{row['peak_bytes'] / GIB:.2f} GiB",
                f"{row['peak_early_bytes'] / GIB:.2f} GiB",
                *[f"{row[k] / 1e6:.0f}" for k in ("whole", "played", "first", "last")],
                f"{row['cpu_s']:.0f}",
                f"{row['wall_s']:.0f}",
            ]
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--accesses", type=int, default=1_000_000_000)
    add("--policy", default="isotherm")
    add("--publish", action="store_true", help="write docs/reference/sweeps.md")
    add("--write", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.write:
        write_trace(args.write)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-long-trace-") as folder:
        path = Path(folder) / "zipf.parquet"
        # Elsewhere: what writing takes is none of the simulation's memory.
        subprocess.run([sys.executable, __file__, "--write", str(path)], check=True)
        row = measure(path, args.accesses, args.policy)
    text = report(row)
    print(f"{processor()}\n\n{text}")
    if args.publish:
        publish("bench-long-trace", f"{processor()}.\n\n{text}", PAGE)
    steady = row["last"] >= STEADY_BAR * row["first"]
    small = row["peak_bytes"] <= MEMORY_BAR
    return 0 if steady and small and row["played"] >= SPEED_BAR else 1


if __name__ == "__main__":
    sys.exit(main())
