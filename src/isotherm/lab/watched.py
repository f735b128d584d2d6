"""A run that a report shows in full: its result, its timeline, its decisions."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from isotherm.lab.decisions import decisions_of
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.observability.recorder import Recorder
from isotherm.observability.timeline import MAX_ROWS, Timeline
from isotherm.policy.bounds import Future
from isotherm.trace.stream import Workload

#: Regions of a recording for a report: the rows of its map.
ROWS: Final = MAX_ROWS


@dataclass(frozen=True, slots=True)
class Watched(Timeline):
    """A run over time, with what it decided.

    Attributes:
        decisions: See :func:`isotherm.lab.decisions.decisions_of`; empty where
            nobody kept them.
    """

    decisions: Mapping[str, Any] = field(default_factory=dict)


def watch(
    spec: SimulationSpec,
    *,
    workload: Workload | None = None,
    future: Future | None = None,
) -> tuple[dict[str, Any], Watched]:
    """Make one run and keep what a report shows of it.

    The run is recorded into a temporary directory, as ``simulate --record`` does,
    and read back.

    Args:
        spec: What to simulate.
        workload: The workload, where the caller has it already.
        future: Its counts, where the caller has them already (bounds).
    """
    with tempfile.TemporaryDirectory(prefix="isotherm-") as name:
        directory = Path(name) / "run"
        with Recorder(directory, rows=ROWS) as recorder:
            result = simulate(spec, recorder=recorder, workload=workload, future=future)
        return result, watched(recorder.timeline(), decisions_of(directory))


def watched(line: Timeline, decisions: Mapping[str, Any]) -> Watched:
    """Return a timeline with decisions."""
    kept = {one.name: getattr(line, one.name) for one in fields(Timeline)}
    return Watched(**kept, decisions=decisions)
