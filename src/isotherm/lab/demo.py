"""The demo: the shipped recordings of real programs under every policy."""

from typing import Final

from isotherm.core.errors import UnsupportedError
from isotherm.lab.catalogue import POLICIES, traces
from isotherm.lab.grid import DEFAULT_RATE, Grid
from isotherm.lab.simulate import SimulationSpec

DEMO_MACHINE: Final = "dram-cxl"
DEMO_RATIOS: Final = (0.5, 0.2)


def demo_specs() -> list[SimulationSpec]:
    """Return the runs of the demo: traces x ratios x policies and bounds.

    Raises:
        UnsupportedError: This installation came without the traces.
    """
    names = list(traces())
    if not names:
        raise UnsupportedError(
            "demo: this installation came without the recorded traces",
            hint="isotherm compare --workloads gups,drift --report report.html",
        )
    grid = Grid(
        policies=list(POLICIES),
        workloads=names,
        machines=(DEMO_MACHINE,),
        fast_ratios=DEMO_RATIOS,
        rates=(DEFAULT_RATE,),
    )
    return grid.specs()
