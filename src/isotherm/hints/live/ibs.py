"""AMD's instruction-based sampling: operations, tagged one in so many.

The core tags an operation and tells what became of it: linear and physical address,
where the data was, how long it took, without skid. Most operations are none of
memory, and most accesses are served by a cache; from Zen 4 on the hardware can drop
what did not miss the L3 itself (``l3missonly``). Source of the settings:
arch/x86/events/amd/ibs.c.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.availability import Availability
from isotherm.core.clock import Clock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.capability import Capability
from isotherm.hints.live.frame_map import FrameMap
from isotherm.hints.live.perf_event import EventSpec
from isotherm.hints.live.perf_event_cpu import CpuEvents, try_event
from isotherm.hints.live.perf_event_nodes import read_physical_nodes
from isotherm.hints.live.perf_event_period import PeriodControl
from isotherm.hints.live.perf_event_pmu import Pmu, cycles_per_ns, read_pmu
from isotherm.hints.live.perf_event_samples import Accesses, Translator, only_memory
from isotherm.hints.live.perf_event_sampling import FIELDS, MemorySampling, Sampler
from isotherm.machine.linux.spaces import SpaceMap
from isotherm.records.data_source import DataSource

PMU: Final = "ibs_op"
NAME: Final = "ibs"
#: Operations a sample to begin with; DAMON's validation ran 132 CPUs at this for
#: hours without being throttled.
PERIOD: Final = 262144
#: The counter takes no less (0x90), and 27 bits; it counts in sixteens.
LEAST_PERIOD: Final = 0x90
MOST_PERIOD: Final = (1 << 27) - 16
MULTIPLE: Final = 16


def event_of(pmu: Pmu, period: int = PERIOD) -> EventSpec:
    """Return the event: operations rather than cycles, only L3 misses if possible.

    Nothing is excluded: without ``swfilt`` the kernel refuses that.
    """
    terms = {}
    if "cnt_ctl" in pmu.formats:  # count dispatched operations: one in PERIOD of them
        terms["cnt_ctl"] = 1
    if "l3missonly" in pmu.formats:
        terms["l3missonly"] = 1
    config, config1, config2, config3 = pmu.encode(**terms)
    return EventSpec(
        pmu.type,
        config,
        FIELDS,
        period=period,
        config1=config1,
        config2=config2,
        config3=config3,
        exclude_hv=False,
        inherit=False,
    )


def filter_samples(
    accesses: Accesses, source: DataSource, *, misses_only: bool
) -> NDArray[np.bool_]:
    """Return which samples are accesses to memory.

    Operations that are neither load nor store come with whatever address the last
    one left; an address of 0 was never filled in. A store's data source is not
    valid: where the hardware does not drop cache hits, nobody can tell which of
    them a store was, and none is kept.

    Args:
        accesses: Samples.
        source: Their data sources.
        misses_only: Whether the hardware drops what did not miss the L3.
    """
    valid: NDArray[np.bool_] = source.is_memory & (accesses.address != 0)
    valid &= accesses.physical != 0
    valid &= only_memory(accesses.where)
    if not misses_only:
        valid &= source.is_store == 0
    return valid


class IbsSource(MemorySampling):
    """Samples of loads and stores that went to memory.

    Args:
        spaces: Which flat page is whose.
        clock: The machine's, CLOCK_MONOTONIC.
        budget: CPU time that sampling may take, of one CPU.
        frames: Which flat page is on a frame; None: virtual addresses only.
        initiator_of_cpu: Initiator of every CPU, uint8; None: unknown.
        period: Operations a sample to begin with.
        root: Root of the host's files.
        make: Makes the events; None: `CpuEvents`.
    """

    def __init__(
        self,
        spaces: SpaceMap,
        clock: Clock,
        *,
        budget: float = 0.02,
        frames: FrameMap | None = None,
        initiator_of_cpu: NDArray[np.uint8] | None = None,
        period: int = PERIOD,
        root: Path = Path("/"),
        make: Callable[[EventSpec, tuple[int, ...] | None], Sampler] = CpuEvents,
    ) -> None:
        pmu = read_pmu(PMU, root)
        if pmu is None:
            raise UnsupportedError(self.probe(root).why)
        speed = cycles_per_ns(root)
        #: Whether the hardware drops what did not miss the L3.
        self.misses_only = misses_only = "l3missonly" in pmu.formats
        capability = Capability(
            post_cache=True,
            sees_writes=misses_only,
            knows_initiator=initiator_of_cpu is not None,
            knows_latency=speed is not None,
        )
        control = PeriodControl(period, LEAST_PERIOD, MOST_PERIOD, MULTIPLE, budget)
        super().__init__(
            NAME,
            make(event_of(pmu, control.period), pmu.cpus),
            lambda a, s: filter_samples(a, s, misses_only=misses_only),
            Translator(
                spaces,
                read_physical_nodes(root),
                frames=frames,
                initiator_of_cpu=initiator_of_cpu,
                cycles_per_ns=speed,
            ),
            control,
            clock,
            capability,
            root,
        )

    @staticmethod
    def probe(root: Path = Path("/")) -> Availability:
        """Say whether IBS is there and may be used."""
        pmu = read_pmu(PMU, root)
        if pmu is None:
            why = f"/sys/bus/event_source/devices/{PMU}: not there: no AMD IBS"
            return Availability(NAME, "source", present=False, why=why)
        only = "" if "l3missonly" in pmu.formats else ", loads only: before Zen 4"
        return try_event(NAME, event_of(pmu), f"{PMU}{only}")
