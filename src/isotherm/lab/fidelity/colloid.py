"""Colloid's gains: GUPS beside an antagonist that loads the fast tier.

Fifteen threads of the application wait for memory, and so do those of the
antagonist, bound to the fast tier (5, 10 and 15 cores: 1x, 2x, 3x). HeMem and TPP
pack the hot set into the fast tier; with Colloid hot pages leave it while it answers
later than the slow one. A gain is the throughput with Colloid over that without.

TPP with huge pages and without is one run of the policy: the simulated page stands
for memory, not for a size of page. What differs is reckoned after it: faults and
moves cost a share of a huge page's, and small pages walk the page table in memory.
"""

import math
from dataclasses import dataclass
from typing import Final

from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.lab.fidelity.play import Tail, play_one
from isotherm.lab.fidelity.published import Measured, Published
from isotherm.machine.sim.queueing import QUEUE_SHARE
from isotherm.machine.sim.spec import CostSpec, MachineSpec, NodeSpec
from isotherm.topology.model import MemoryKind
from isotherm.trace.stream import Background
from isotherm.workloads.registry import make_workload

PAGES: Final = 2304
#: Accesses per page and second: they set how much is sampled, not the throughput.
RATE: Final = 32.0
REFERENCE_GIB: Final = 72.0
FAST_RATIO: Final = 33_820_770_304 / 77_309_411_328
HOT_SHARE: Final = 21_474_836_480 / 77_309_411_328
#: HeMem counts 2 MiB pages; a page here stands for 16 of them: as many samples of it.
SAMPLING_PERIOD: Final = 5
#: Of the updates, those in the hot set.
GUPS_HOT: Final = 0.9
APPLICATION_CORES: Final = 15
LATENCIES_NS: Final = (135, 148, 168, 192)
ANTAGONIST_CORES: Final = (0, 5, 10, 15)
#: System: without and with Colloid, seconds.
SYSTEMS: Final = {
    "hemem": ("hemem", "colloid-hemem", 60.0),
    "tpp": ("numab2", "colloid", 240.0),
}
#: The latencies are evened out, as the paper has it. Even occupancies, as its artifact
#: can be read, would take 20 % from HeMem's unloaded column.
OPTIONS: Final = {
    "colloid-hemem": {"reference_gib": REFERENCE_GIB, "balance_latency": 1.0}
}
#: Fault and move of a 2 MiB page over 512 of 4 KiB: one fault; 10.67 GB/s for
#: 3.73 (migrate_pages() RFC v3 on Zen 3).
HUGE_FAULT: Final = 1 / 512
HUGE_MOVE: Final = 3.73 / 10.67


@dataclass(frozen=True, slots=True)
class _Run:
    """What a run was like at its end.

    Attributes:
        latency_ns: Mean of an access.
        fast_ns: Loaded latency of the fast tier.
        faults: Share of the threads' time that hint faults take, 4 KiB pages.
        moves: The same of moves.
    """

    latency_ns: float
    fast_ns: float
    faults: float
    moves: float

    def throughput(self, *, walk_share: float, fault: float, move: float) -> float:
        """Return accesses per thread and nanosecond, up to a factor.

        Args:
            walk_share: Entries read from the fast tier per access, before it.
            fault: What a fault costs, of that of a 4 KiB page.
            move: Likewise.
        """
        busy = fault * self.faults + move * self.moves
        return (1 - busy) / (self.latency_ns + walk_share * self.fast_ns)


def play(published: Published, *, quick: bool, seed: int) -> Measured:
    """Return the gain of every system and cell; quick: the corners of the table."""
    measured: Measured = {}
    latencies = (LATENCIES_NS[0], LATENCIES_NS[-1]) if quick else LATENCIES_NS
    cores = (0, 15) if quick else ANTAGONIST_CORES
    length = 0.5 if quick else 1.0
    walk = published.constants["walk_share"]
    for latency_ns in latencies:
        for nr_cores in cores:
            machine = machine_of(published, latency_ns, nr_cores)
            row = f"{latency_ns} ns, {nr_cores // 5}x"
            without, with_it = _both(published, "hemem", machine, length, seed)
            # Samples are read and pages moved by threads of HeMem's own.
            own = {"walk_share": 0.0, "fault": 0.0, "move": 0.0}
            measured["gain", row, "hemem"] = _gain(without, with_it, own)
            without, with_it = _both(published, "tpp", machine, length, seed)
            huge = {"walk_share": 0.0, "fault": HUGE_FAULT, "move": HUGE_MOVE}
            measured["gain", row, "tpp+thp"] = _gain(without, with_it, huge)
            small = {"walk_share": walk, "fault": 1.0, "move": 1.0}
            measured["gain", row, "tpp"] = _gain(without, with_it, small)
    return measured


def machine_of(published: Published, latency_ns: int, cores: int) -> MachineSpec:
    """Return the artifact's machine with an antagonist on so many cores.

    The other socket's memory is behind a link of 75 GB/s each way; GUPS reads as
    much as it writes, so that both together have 150.
    """
    constants = published.constants
    lines = constants["antagonist_lines"] * cores
    antagonist = [Background(0, in_flight=lines, written_back=1)] if cores else []
    return MachineSpec(
        name="colloid",
        description="Ice Lake, the other socket as slow tier, an antagonist",
        nodes=[
            NodeSpec(
                MemoryKind.DRAM, 0, [70.0], read_bandwidth_gb_s=205, initiators=[0]
            ),
            NodeSpec(
                MemoryKind.REMOTE, 1, [float(latency_ns)], read_bandwidth_gb_s=150
            ),
        ],
        parallelism=constants["parallelism"],
        threads=constants["threads"],
        reference_gib=REFERENCE_GIB,
        background=antagonist,
        costs=CostSpec(move_fixed_ns=0.0, move_page_ns=700.0, move_byte_ns=0.1),
    )


def calibrate(updates_per_s: float, inflation: float) -> tuple[float, float]:
    """Return accesses in flight of an application core, and lines of an antagonist's.

    Little's law twice, with HeMem's placement (hot set in the fast tier) and the slow
    tier at 135 ns: without an antagonist the application makes ``updates_per_s``;
    with one on 15 cores the fast tier's latency is ``inflation`` times the unloaded.

    Args:
        updates_per_s: Reads that are each written back.
        inflation: > 1.
    """
    fast, slow = 70.0, float(LATENCIES_NS[0])
    served = GUPS_HOT + (1 - GUPS_HOT) * FAST_RATIO
    cores = ANTAGONIST_CORES[-1]
    rate = 2 * updates_per_s / NS_PER_S
    fast_load, slow_load = rate * served * 64 / 205, rate * (1 - served) * 64 / 150
    loaded = fast * _factor(fast_load), slow * _factor(slow_load)
    in_flight = rate * (served * loaded[0] + (1 - served) * loaded[1])
    # 1 + k load^2 / (1 - load) = inflation, for load.
    extra = (inflation - 1) / QUEUE_SHARE
    load = 0.5 * (math.sqrt(extra * extra + 4 * extra) - extra)
    slowed = fast * inflation
    rate = in_flight / (served * slowed + (1 - served) * slow)
    rest = load * 205 - rate * served * 64
    return in_flight / APPLICATION_CORES, rest / 128 * slowed / cores


def _factor(load: float) -> float:
    return 1 + QUEUE_SHARE * load * load / (1 - load)


def _both(
    published: Published, system: str, machine: MachineSpec, length: float, seed: int
) -> tuple[_Run, _Run]:
    without, with_it, seconds = SYSTEMS[system]
    seconds *= length
    return (
        _run(published, without, machine, seconds, seed),
        _run(published, with_it, machine, seconds, seed),
    )


def unloaded_gain(published: Published, *, balance_latency: bool, seed: int) -> float:
    """Return HeMem's gain without an antagonist, under one rule or the other.

    The rule is chosen by this: even latencies give 1, as published.
    """
    machine = machine_of(published, LATENCIES_NS[0], 0)
    seconds = SYSTEMS["hemem"][2] / 2
    options = {**OPTIONS["colloid-hemem"], "balance_latency": float(balance_latency)}
    without = _run(published, "hemem", machine, seconds, seed)
    with_it = _run(published, "colloid-hemem", machine, seconds, seed, options)
    return _gain(without, with_it, {"walk_share": 0.0, "fault": 0.0, "move": 0.0})


def _gain(without: _Run, with_it: _Run, cost: dict[str, float]) -> float:
    return with_it.throughput(**cost) / without.throughput(**cost)


def _run(
    published: Published,
    policy: str,
    machine: MachineSpec,
    seconds: float,
    seed: int,
    options: dict[str, float] | None = None,
) -> _Run:
    gups = make_workload("gups", PAGES, seed, {"hot_pages": HOT_SHARE, "contiguity": 1})
    watch = play_one(
        policy,
        gups,
        machine,
        fast_ratio=FAST_RATIO,
        seed=seed,
        rate=RATE,
        seconds=seconds,
        placement="random",
        sampling_period=SAMPLING_PERIOD,
        options=options or OPTIONS.get(policy, {"reference_gib": REFERENCE_GIB}),
    )
    tail: Tail = watch.tail(1 / 3)
    scale = PAGES * PAGE_BYTES / (REFERENCE_GIB * (1 << 30))
    time_ns = published.constants["threads"] * scale * len(tail.samples) * 0.5
    time_ns *= NS_PER_S
    served = tail.total("accesses")
    fast_ns = sum(s["latency_ns"][0, 0] * s["accesses"] for s in tail.samples) / served
    return _Run(
        tail.access_ns * published.constants["parallelism"],
        float(fast_ns),
        tail.total("application_ns") / time_ns,
        tail.total("migration_ns") / time_ns,
    )
