"""What a decision costs, on a tracker that has seen real evidence.

    taskset -c 1 .venv/bin/python benchmarks/bench_decision.py [--pages N] [--publish]

Runs ``simulate`` and times ``Isotherm.decide`` and ``GammaTracker.update`` inside
it, epoch by epoch, in CPU time: what else runs on the core does not count. The bar
is 8 ns per page and epoch for the decision, median of the second half of the
epochs, and 4 bytes of tracker state a page. ``zipf`` comes to rest; ``drift`` never
does, so that moves are picked in every epoch.
Exit code 1 when a bar is missed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from isotherm.hotness.tracker import GammaTracker
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.policy.isotherm import Isotherm
from publish import markdown, processor, publish

PAGES: Final = 4 << 20
EPOCHS: Final = 30
RATE: Final = 10.0
WORKLOADS: Final = ("zipf", "drift")
DECIDE_BAR_NS: Final = 8.0
TRACKER_BAR_BYTES: Final = 4.0


@contextmanager
def timed(owner: type, method: str) -> Iterator[list[float]]:
    """Collect CPU seconds per call of a method while the block runs."""
    seconds: list[float] = []
    original: Callable[..., Any] = getattr(owner, method)

    def call(*given: Any, **named: Any) -> Any:  # whatever the method takes
        began = time.thread_time()
        answer = original(*given, **named)
        seconds.append(time.thread_time() - began)
        return answer

    setattr(owner, method, call)
    try:
        yield seconds
    finally:
        setattr(owner, method, original)


def measure(workload: str, pages: int, rate: float, epochs: int) -> dict[str, Any]:
    """Return nanoseconds per page and epoch, of both, and the tracker's state."""
    spec = SimulationSpec(policy="isotherm", workload=workload, pages=pages, rate=rate)
    per_epoch = int(pages * rate * spec.epoch_s)
    spec = SimulationSpec(
        policy="isotherm",
        workload=workload,
        pages=pages,
        rate=rate,
        accesses=per_epoch * epochs,
    )
    with timed(Isotherm, "decide") as decide, timed(GammaTracker, "update") as update:
        result = simulate(spec)
    row: dict[str, Any] = {
        "workload": workload,
        "pages": pages,
        "rate": rate,
        "epochs": result["epochs"],
        "moves_per_page": (result["promoted_pages"] + result["demoted_pages"]) / pages,
        "tracker_bytes_per_page": result["tracker_bytes_per_page"],
    }
    for name, seconds in (("decide", decide), ("update", update)):
        ns = np.array(seconds) * 1e9 / pages
        late = ns[len(ns) // 2 :]
        row[f"{name}_ns"] = float(np.median(late))
        row[f"{name}_quartiles_ns"] = [float(q) for q in np.percentile(late, [25, 75])]
        row[f"{name}_first_ns"] = float(ns[0])
        row[f"{name}_worst_ns"] = float(ns[1:].max())
    row["cheap_enough"] = row["decide_ns"] <= DECIDE_BAR_NS
    row["small_enough"] = row["tracker_bytes_per_page"] <= TRACKER_BAR_BYTES
    return row


def render(results: Sequence[dict[str, Any]]) -> str:
    """Return the results as a table, a row per workload."""
    header = [
        "workload",
        "decision, ns a page",
        "quartiles",
        "first, worst later",
        f"bar {DECIDE_BAR_NS:g}",
        "tracker update, ns a page",
        "quartiles",
        "tracker, bytes a page",
        f"bar {TRACKER_BAR_BYTES:g}",
        "moves a page",
    ]
    rows = [
        [
            r["workload"],
            f"{r['decide_ns']:.1f}",
            "{:.1f} to {:.1f}".format(*r["decide_quartiles_ns"]),
            f"{r['decide_first_ns']:.1f}, {r['decide_worst_ns']:.1f}",
            "pass" if r["cheap_enough"] else "**fail**",
            f"{r['update_ns']:.1f}",
            "{:.1f} to {:.1f}".format(*r["update_quartiles_ns"]),
            f"{r['tracker_bytes_per_page']:.2f}",
            "pass" if r["small_enough"] else "**fail**",
            f"{r['moves_per_page']:.3f}",
        ]
        for r in results
    ]
    return markdown(header, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--publish", action="store_true", help="put the table into docs/measurements.md"
    )
    args = parser.parse_args(arguments)
    measure("zipf", 4096, 100.0, 4)  # compile
    results = [measure(w, args.pages, args.rate, args.epochs) for w in WORKLOADS]
    text = render(results)
    if args.json:
        print(json.dumps({"processor": processor(), "results": results}))
    else:
        print(f"{args.pages} pages, rate {args.rate:g}, {args.epochs} epochs\n\n{text}")
    if args.publish:
        head = f"{processor()}; {args.pages} pages, rate {args.rate:g}."
        publish("decision", f"{head}\n\n{text}")
    good = all(r["cheap_enough"] and r["small_enough"] for r in results)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
