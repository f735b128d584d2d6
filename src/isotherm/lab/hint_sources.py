"""The hint drivers of one simulation."""

from typing import Protocol

from isotherm.hints.accessed_bit import AccessedBitSource
from isotherm.hints.batch import HintSource, Mechanism
from isotherm.hints.hint_fault import HintFaultSource
from isotherm.hints.region import RegionSource
from isotherm.hints.sampling import SamplingSource
from isotherm.lab.hotness_unit import simulated_chmu
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.mechanisms import SimPageTable, SimRegions, SimSampling


class SourceSettings(Protocol):
    """What a simulation says of its sources: a `SimulationSpec`."""

    @property
    def seed(self) -> int:
        """For everything random."""
        ...

    @property
    def sampling_period(self) -> int:
        """Accesses per sample."""
        ...

    @property
    def sampling_loss(self) -> float:
        """Share of samples that the hardware drops."""
        ...


def build_sources(
    machine: SimMachine,
    hints: frozenset[Mechanism],
    epoch_ns: int,
    spec: SourceSettings,
    samples: HintSource | None = None,
) -> tuple[HintSource, ...]:
    """Return the drivers of some mechanisms, in a fixed order, so that runs repeat.

    Args:
        machine: With its pages placed.
        hints: Which mechanisms.
        epoch_ns: Length of an epoch.
        spec: Seed, period and losses.
        samples: Where samples come from; None: from the machine's sampler.

    Raises:
        UnsupportedError: The machine has not the mechanism.
    """
    costs = machine.spec.costs
    table = SimPageTable(
        machine,
        faults=Mechanism.HINT_FAULT in hints,
        bits=Mechanism.ACCESSED_BIT in hints,
    )
    sources: list[HintSource] = []
    if Mechanism.SAMPLING in hints and samples is None:
        pmu = SimSampling(machine, spec.sampling_period, spec.seed, spec.sampling_loss)
        samples = SamplingSource(pmu, costs.sample_ns)
    if Mechanism.SAMPLING in hints and samples is not None:
        sources.append(samples)
    if Mechanism.ACCESSED_BIT in hints:
        sources.append(AccessedBitSource(table, costs.entry_ns, epoch_ns))
    if Mechanism.HINT_FAULT in hints:
        sources.append(HintFaultSource(table, costs.fault_ns, costs.entry_ns))
    if Mechanism.REGION in hints:
        regions = SimRegions(machine, spec.seed, epoch_ns)
        sources.append(RegionSource(regions, costs.entry_ns))
    if Mechanism.CHMU in hints:
        sources.append(simulated_chmu(machine, epoch_ns, spec.seed))
    return tuple(sources)
