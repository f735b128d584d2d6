"""Why a page range is where it is, from the recording of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isotherm.core.errors import UsageError
from isotherm.lab.recorded import RecordedRun, read_recorded
from isotherm.observability.recording import read_run
from isotherm.observability.sizes import SizeLog
from isotherm.observability.why import page_ranges, pages_per_node, reason_name

__all__ = ["explain", "page_ranges"]


def explain(directory: Path, first: int, last: int) -> dict[str, Any]:
    """Return why pages ``first`` to ``last`` (both included) are where they are.

    Args:
        directory: A recording.
        first: First flat page.
        last: Last flat page.

    Raises:
        UsageError: No recording, or pages that the run does not have.
    """
    run = read_run(directory)
    pages = run["pages"]
    if not 0 <= first <= last < pages:
        raise UsageError(
            f"pages {first}-{last}: expected a range within 0-{pages - 1}",
            hint=f"isotherm explain {directory} --pages 0-{min(63, pages - 1)}",
        )
    recording = read_recorded(directory, first, last)
    return {
        "recording": str(directory),
        "policy": run["result"]["policy"],
        "workload": run["result"]["workload"],
        "machine": run["result"]["machine"],
        "fast_ratio": run["result"]["fast_ratio"],
        "pages": [first, last],
        "region_pages": run["region_pages"],
        "nodes": recording.node_names(),
        "start_pages_per_node": pages_per_node(recording.start),
        "end_pages_per_node": pages_per_node(recording.end),
        "heat": recording.heat_over_time(),
        "moves": _moves(recording),
        "sizes": _sizes(run, first, last),
        "decision": recording.notes,
        "initiators": _initiators(run, recording.notes),
        "why": recording.why(recording.groups()),
    }


def _initiators(run: dict[str, Any], notes: Mapping[str, float]) -> dict[str, Any]:
    """Return how many initiators samples named, and whose the other accesses are."""
    there = run["topology"]["initiators"]
    kind = there[0]["kind"] if there else None
    named = notes.get("initiators_named")
    return {
        "named": None if named is None else int(named),
        "unnamed_taken_for": [i["name"] for i in there if i["kind"] == kind],
    }


def _moves(recording: RecordedRun) -> list[dict[str, Any]]:
    """Return what was tried, with what each move earned until the next one."""
    moves = recording.moves
    return [
        {
            "time_s": float(recording.end_s[moves["position"][at] - 1]),
            "epoch": int(moves["epoch"][at]),
            "page": int(moves["page"][at]),
            "src": int(moves["src"][at]),
            "dst": int(moves["dst"][at]),
            "reason": reason_name(int(moves["reason"][at])),
            "gain_ns": _known(moves["gain_ns"][at]),
            "earned_ns": _known(moves["earned_ns"][at]),
            "errno": int(moves["errno"][at]),
        }
        for at in range(len(moves["page"]))
    ]


def _sizes(run: dict[str, Any], first: int, last: int) -> list[dict[str, Any]]:
    """Return the changes of page size of ranges that hold some of the pages."""
    if "sizes" not in run:
        return []
    return SizeLog.of(run["sizes"]).about(np.arange(first, last + 1))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
