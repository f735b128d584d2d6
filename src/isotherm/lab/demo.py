"""The demo: the shipped recordings of real programs under a policy of each kind."""

from typing import Final

from isotherm.core.errors import UnsupportedError
from isotherm.core.units import NS_PER_S
from isotherm.lab.catalogue import POLICIES, traces
from isotherm.lab.grid import DEFAULT_RATE, Grid
from isotherm.lab.simulate import SimulationSpec

DEMO_MACHINE: Final = "dram-cxl"
DEMO_RATIOS: Final = (0.5, 0.2)
#: One policy of each kind; `compare --policies all` has their variants, too. Left
#: out is soar: nobody tells which pages of a trace are which object's.
DEMO_POLICIES: Final = tuple(
    name
    for name in POLICIES
    if name
    not in {
        "pghot-hw",
        "hmsdk",
        "colloid-hemem",
        "soar",
        "interleave",
        "weighted-interleave",
    }
)
#: A trace with shorter times of its own is paced by the default rate.
MIN_SECONDS: Final = 30


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
    specs = []
    for name in names:
        grid = Grid(
            policies=DEMO_POLICIES,
            workloads=(name,),
            machines=(DEMO_MACHINE,),
            fast_ratios=DEMO_RATIOS,
            rates=(_rate_of(name),),
        )
        specs += grid.specs()
    return specs


def _rate_of(name: str) -> float | None:
    """Return None, the trace's own times, where they are long enough to act in."""
    from isotherm.data import trace_path  # noqa: PLC0415  # may be left out
    from isotherm.workloads.recorded import open_recorded  # noqa: PLC0415  # pyarrow

    duration_ns = open_recorded(trace_path(name)).info.duration_ns
    if duration_ns is None or duration_ns < MIN_SECONDS * NS_PER_S:
        return DEFAULT_RATE
    return None
