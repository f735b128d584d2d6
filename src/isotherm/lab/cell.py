"""One cell of a comparison: the seam between the grid and the simulator."""

from typing import Any

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.observability.recorder import Recorder


def run_cell(
    spec: SimulationSpec, *, recorder: Recorder | None = None
) -> dict[str, Any]:
    """Return the result of one run; called in a worker process, many times."""
    return simulate(spec, recorder=recorder)
