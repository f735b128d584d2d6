"""Intel's precise samples: loads that missed the L3, or that took long.

``l3-miss`` counts loads that the L3 did not have and samples one in so many of
them. ``latency`` samples loads that took at least so many cycles, drawn by the
hardware from those in flight; their latency tells what they cost, but how many
loads a sample stands for is not known. Events: MEM_LOAD_RETIRED.L3_MISS and
MEM_TRANS_RETIRED.LOAD_LATENCY of the Intel SDM, volume 3, and Linux's pmu-events.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

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
from isotherm.records.data_source import DataSource, Op

NAME: Final = "pebs"
#: The big cores' PMU of a hybrid processor, or the only one.
PMUS: Final = ("cpu_core", "cpu")
Mode = Literal["l3-miss", "latency"]

_L3_MISS: Final = {"event": 0xD1, "umask": 0x20}
_LATENCY: Final = {"event": 0xCD, "umask": 0x01}
#: Threshold of `latency` in cycles: beyond what a cache takes.
LATENCY_CYCLES: Final = 128
#: Loads that missed, a sample; prime, so that no loop keeps in step with it.
PERIOD: Final = 5003
#: Loads of long latency, a sample; Intel's own event table has 1009 for 128 cycles.
LATENCY_PERIOD: Final = 1009
LEAST_PERIOD: Final = 101
MOST_PERIOD: Final = (1 << 31) - 1
#: PEBS with the address of the operand; one that is not precise has none.
_PRECISE: Final = 2
#: Group leader that some processors want before a latency event (Sapphire Rapids).
_AUX_EVENT: Final = "mem-loads-aux"


def find_pmu(root: Path = Path("/")) -> Pmu | None:
    """Return the PMU that samples loads with their addresses; None if none does."""
    for name in PMUS:
        pmu = read_pmu(name, root)
        # Other makers' PMUs are called cpu, too, and have no such event.
        if pmu is not None and "mem-loads" in pmu.events and "ldlat" in pmu.formats:
            return pmu
    return None


def event_of(pmu: Pmu, mode: Mode, period: int) -> EventSpec:
    """Return the event of a mode."""
    terms = {**_LATENCY, "ldlat": LATENCY_CYCLES} if mode == "latency" else _L3_MISS
    config, config1, config2, _ = pmu.encode(**terms)
    return EventSpec(
        pmu.type,
        config,
        FIELDS,
        period=period,
        config1=config1,
        config2=config2,
        precise_ip=_PRECISE,
        inherit=False,
    )


def leader_of(pmu: Pmu, mode: Mode) -> EventSpec | None:
    """Return the event that must lead a latency event here; None if none must."""
    if mode != "latency" or _AUX_EVENT not in pmu.events:
        return None
    config, config1, config2, _ = pmu.encode(**pmu.named(_AUX_EVENT))
    return EventSpec(
        pmu.type,
        config,
        FIELDS,
        period=0,
        config1=config1,
        config2=config2,
        inherit=False,
    )


def filter_samples(accesses: Accesses, source: DataSource) -> NDArray[np.bool_]:
    """Return which samples are loads from memory that tell their address.

    A long wait for the L2, or for a line on its way, is none.
    """
    loads: NDArray[np.bool_] = (source.op & Op.LOAD) != 0
    loads &= (accesses.address != 0) & only_memory(accesses.where)
    return loads


class PebsSource(MemorySampling):
    """Samples of loads from memory.

    Args:
        spaces: Which flat page is whose.
        clock: The machine's, CLOCK_MONOTONIC.
        mode: What is sampled.
        budget: CPU time that sampling may take, of one CPU.
        frames: Which flat page is on a frame; None: virtual addresses only.
        initiator_of_cpu: Initiator of every CPU, uint8; None: unknown.
        period: Events a sample to begin with; None: the mode's.
        root: Root of the host's files.
        make: Makes the events from event, CPUs, leader; None: `CpuEvents`.
    """

    def __init__(
        self,
        spaces: SpaceMap,
        clock: Clock,
        *,
        mode: Mode = "l3-miss",
        budget: float = 0.02,
        frames: FrameMap | None = None,
        initiator_of_cpu: NDArray[np.uint8] | None = None,
        period: int | None = None,
        root: Path = Path("/"),
        make: Callable[
            [EventSpec, tuple[int, ...] | None, EventSpec | None], Sampler
        ] = lambda event, cpus, leader: CpuEvents(event, cpus, leader=leader),
    ) -> None:
        pmu = find_pmu(root)
        if pmu is None:
            raise UnsupportedError(self.probe(root).why)
        # Only the latency event measures it on every processor.
        speed = cycles_per_ns(root) if mode == "latency" else None
        capability = Capability(
            post_cache=True,
            sees_writes=False,
            knows_initiator=initiator_of_cpu is not None,
            knows_latency=speed is not None,
        )
        begin = period or (LATENCY_PERIOD if mode == "latency" else PERIOD)
        control = PeriodControl(begin, LEAST_PERIOD, MOST_PERIOD, budget=budget)
        super().__init__(
            NAME,
            make(event_of(pmu, mode, begin), pmu.cpus, leader_of(pmu, mode)),
            filter_samples,
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
        """Say whether loads can be sampled with their addresses, and may be."""
        pmu = find_pmu(root)
        if pmu is None:
            why = (
                f"/sys/bus/event_source/devices/{PMUS[1]}: no event mem-loads: "
                "no Intel PEBS (virtual machines rarely have it)"
            )
            return Availability(NAME, "source", present=False, why=why)
        event = event_of(pmu, "l3-miss", PERIOD)
        return try_event(NAME, event, f"{pmu.name}: loads that missed the L3")
