"""How long a guest takes to its command, and how slow things are in it.

    .venv/bin/python benchmarks/bench_vmtest.py [--boots N] [--layouts A,B] [--publish]

Wall time from the start of ``python -m vmtest`` to the first byte that the command
says, and to the end of it all, with packages in the cache; and some programs in the
guest beside the same here. The bar: median of each layout at most 10 s to the
command on two cores. Exit code 1 when it is missed, or when no guest can be had.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from publish import markdown, processor, publish

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "reference" / "vmtest.md"
LAYOUTS: Final = ("two-tier", "three-tier", "two-socket", "cxl", "flat")
BAR_S: Final = 10.0
VMTEST: Final = (sys.executable, "-m", "vmtest")
PROGRAMS: Final = {
    "start Python": "pass",
    "import numpy": "import numpy",
    "import numba": "import numba",
    "3 M turns of a Python loop": "for i in range(3_000_000): pass",
    "numpy: sort 2 M numbers": (
        "import numpy as np; np.sort(np.random.default_rng(1).random(2_000_000))"
    ),
}


def boot(layout: str) -> tuple[float, float, float]:
    """Return seconds to the command's first byte, to the end, and of CPU time."""
    begun, spent = time.monotonic(), cpu_s()
    with subprocess.Popen(
        [*VMTEST, "--layout", layout, "--", "echo", "up"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as process:
        first = process.stdout.readline() if process.stdout else b""
        to_command = time.monotonic() - begun
        process.wait()
        if first != b"up\n" or process.returncode:
            raise SystemExit(f"{layout}: no guest, exit status {process.returncode}")
    return to_command, time.monotonic() - begun, cpu_s() - spent


def cpu_s() -> float:
    """Return the CPU time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_boots(layout: str, boots: int) -> dict[str, Any]:
    """Return what a layout's boots took."""
    times = [boot(layout) for _ in range(boots)]
    to_command = [seconds for seconds, _, _ in times]
    return {
        "layout": layout,
        "to_command_s": to_command,
        "total_s": [seconds for _, seconds, _ in times],
        "cpu_s": [seconds for _, _, seconds in times],
        "good": statistics.median(to_command) <= BAR_S,
    }


def measure_programs() -> list[dict[str, Any]]:
    """Return seconds of each program, second run of two, here and in the guest."""
    here = [timed_program(code) for code in PROGRAMS.values()]
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
        "import json, bench_vmtest as b; "
        "print(json.dumps([b.timed_program(c) for c in b.PROGRAMS.values()]))"
    )
    done = subprocess.run(
        [*VMTEST, "--", "python", "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    there = json.loads(done.stdout)
    return [
        {"program": name, "here_s": a, "guest_s": b}
        for name, a, b in zip(PROGRAMS, here, there, strict=True)
    ]


def timed_program(code: str) -> float:
    """Return seconds of a Python program in a process of its own, run twice."""
    for _ in range(2):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - begun


def render_boots(results: Sequence[dict[str, Any]]) -> str:
    """Return boot times as a table."""
    header = [
        "layout",
        "to the command",
        "range",
        "to the end",
        "CPU time",
        f"bar {BAR_S:g} s",
    ]
    rows = [
        [
            r["layout"],
            f"{statistics.median(r['to_command_s']):.1f} s",
            f"{min(r['to_command_s']):.1f} to {max(r['to_command_s']):.1f}",
            f"{statistics.median(r['total_s']):.1f} s",
            f"{statistics.median(r['cpu_s']):.1f} s",
            "pass" if r["good"] else "**fail**",
        ]
        for r in results
    ]
    return markdown(header, rows)


def render_programs(results: Sequence[dict[str, Any]]) -> str:
    """Return program times as a table."""
    rows = [
        [
            r["program"],
            f"{r['here_s']:.2f} s",
            f"{r['guest_s']:.1f} s",
            f"{r['guest_s'] / r['here_s']:.0f}",
        ]
        for r in results
    ]
    return markdown(["program", "here", "in the guest", "times as long"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--boots", type=int, default=5)
    parser.add_argument("--layouts", default=",".join(LAYOUTS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--publish", action="store_true", help="put the tables into the vmtest page"
    )
    args = parser.parse_args(arguments)
    layouts = args.layouts.split(",")
    for layout in layouts:
        done = subprocess.run(
            [*VMTEST, "--fetch", "--layout", layout], cwd=ROOT, check=False
        )
        if done.returncode:
            return 1
    load = os.getloadavg()[0]
    boots = [measure_boots(layout, args.boots) for layout in layouts]
    programs = measure_programs()
    head = (
        f"{processor()}, {os.cpu_count()} CPUs, load {load:.1f} before the first boot; "
        f"median of {args.boots} boots."
    )
    text = f"{head}\n\n{render_boots(boots)}\n\n{render_programs(programs)}"
    if args.json:
        print(json.dumps({"head": head, "boots": boots, "programs": programs}))
    else:
        print(text)
    if args.publish:
        publish("vmtest", text, PAGE)
    return 0 if all(r["good"] for r in boots) else 1


if __name__ == "__main__":
    sys.exit(main())
