"""What another policy, or other memory, would have done with what was seen lately.

A view's heat map says how often memory was accessed, by range and time. It is made
a trace again: every page of a range gets the range's rate, whole accesses in every
stretch of time, what is left over carried on. Which pages of a range are hotter than
others is not in a heat map, nor is what wrote: a what-if compares placements by
range, and is as fine as the map.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError, UsageError
from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.observability.view import HeatView
from isotherm.trace.format import TraceWriter
from isotherm.trace.info import Provenance

#: More pages than this are thinned out evenly, all ranges alike.
MOST_PAGES: Final = 1 << 15
#: Rows of a trace at once; a stretch is cut into as many moments as it has epochs.
EPOCH_S: Final = 0.5
#: What is compared, beside the bounds.
POLICIES: Final = ("first-touch", "isotherm", "tpp", "memtis", "static-oracle")
RATIOS: Final = (0.5, 0.2, 0.1)
#: An answer is worth waiting for so long.
TIMEOUT_S: Final = 300.0


def write_heat_trace(heat: HeatView, path: Path, seed: int = 1) -> int:
    """Write a heat map as a trace and return its pages.

    Args:
        heat: Of a view.
        path: The trace to write.
        seed: Decides when pages of less than an access an epoch have theirs.

    Raises:
        UsageError: Nothing was accessed in it.
    """
    pages = (
        np.array(heat.end, np.int64) - np.array(heat.start, np.int64)
    ) // PAGE_BYTES
    table = [[0.0 if v is None else v for v in row] for row in heat.rate]
    rate = np.array(table, np.float64).reshape(len(pages), len(heat.time_s))
    thin = max(1, -(-int(pages.sum()) // MOST_PAGES))
    nr = np.maximum(1, pages // thin)
    of = np.repeat(np.arange(len(pages)), nr)
    if not len(of) or not rate.any():
        raise UsageError(
            "what-if: nothing was accessed in what was seen so far",
            hint="wait until there is a heat map",
        )
    carried = np.random.default_rng(seed).random(len(of))
    began_s = 0.0
    with TraceWriter(path, Provenance(command="isotherm serve: what-if")) as writer:
        for column, end_s in enumerate(heat.time_s):
            moments = max(1, round((end_s - began_s) / EPOCH_S))
            step_s = (end_s - began_s) / moments
            for moment in range(moments):
                carried += rate[of, column] * step_s
                count = carried.astype(np.int64)
                carried -= count
                _append(writer, count, round((began_s + moment * step_s) * NS_PER_S))
            began_s = end_s
    return len(of)


def _append(writer: TraceWriter, count: NDArray[np.int64], time_ns: int) -> None:
    page = np.flatnonzero(count)
    if len(page):
        times = np.full(len(page), time_ns, np.int64)
        writer.append(page, time_ns=times, count=count[page])


def compare_heat(
    heat: HeatView,
    policies: Sequence[str] = POLICIES,
    ratios: Sequence[float] = RATIOS,
    machine: str = "dram-cxl",
) -> dict[str, Any]:
    """Return what policies would have made of a heat map, as ``compare --json``.

    The comparison runs in a process of its own, so that whoever asks stays live.

    Args:
        heat: Of a view.
        policies: Names.
        ratios: Fast memory over all of it.
        machine: Name of a machine, or a TOML file.

    Returns:
        ``results`` as of compare, and ``pages``, ``ranges`` and ``seconds`` that they
        stand on.

    Raises:
        IsothermError: The comparison failed, in its own words.
        UsageError: Nothing was accessed.
    """
    with tempfile.TemporaryDirectory(prefix="isotherm-whatif-") as folder:
        trace = Path(folder) / "lately.parquet"
        pages = write_heat_trace(heat, trace)
        words = [sys.executable, "-m", "isotherm", "compare", "--json", "--jobs", "1"]
        words += ["--workloads", str(trace), "--rates", "trace", "--machines", machine]
        words += ["--policies", ",".join(policies)]
        words += ["--fast-ratios", ",".join(f"{ratio:g}" for ratio in ratios)]
        try:
            done = subprocess.run(
                words, check=False, capture_output=True, text=True, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise IsothermError(f"what-if: not done in {TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise IsothermError(said[-1] if said else "what-if: the comparison failed")
    found: dict[str, Any] = json.loads(done.stdout)
    return {
        **found,
        "pages": pages,
        "ranges": len(heat.start),
        "seconds": heat.time_s[-1],
    }
