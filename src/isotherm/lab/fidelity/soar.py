"""SOAR's microbenchmark and the order of its table.

Thread A sweeps its buffer, seven misses in flight; thread B chases pointers through
another of the same size, one at a time. A is hotter, B waits. With half of memory
slow, hotness puts A on DRAM, and criticality B.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.lab.fidelity.graphs import (
    Traversal,
    betweenness,
    kronecker_miss,
    slowdown,
)
from isotherm.lab.fidelity.numab import EVERY_FAULT
from isotherm.lab.fidelity.play import play_one
from isotherm.lab.fidelity.published import Measured, Published
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import CostSpec, MachineSpec, NodeSpec
from isotherm.topology.model import MemoryKind
from isotherm.trace.stream import Pace, Workload
from isotherm.workloads.registry import make_workload

PAGES: Final = 2048
SECONDS: Final = 240.0
QUICK_SECONDS: Final = 120.0
STATIC_SECONDS: Final = 20.0
#: The publication's kernels: NUMA balancing in 5.18, before hot page selection.
OPTIONS: Final[dict[str, dict[str, float]]] = {"numab2": EVERY_FAULT}
#: Of the run: SOAR's profile, and the moves to its placement.
PROFILED_S: Final = 40.0
#: The publication's names for them, and ours.
POLICIES: Final = {
    "soar": "soar",
    "colloid": "colloid",
    "numab2": "numab2",
    "tpp": "tpp",
    "first touch": "first-touch",
}


@dataclass(frozen=True, slots=True)
class Program:
    """A program of the table that runs for a given time.

    Attributes:
        kind: Generator.
        options: Its parameters.
        gib: Gigabytes that it stands for.
        rate: Accesses per page and second: the chase makes 4 G loads of 90 ns on
            524,288 pages, 21 a second each; the sweep 13.6 times as many.
    """

    kind: str
    options: dict[str, float]
    gib: float
    rate: float


#: A sweep of 2 GB, 12.9 ns a line, takes 0.43 s: so long between two touches of a page.
SWEEP_S: Final = 0.43
HEAT: Final = 13.6
CHASE_RATE: Final = 21.0
MICRO_RATE: Final = CHASE_RATE * (1 + HEAT) / 2
PROGRAMS: Final = {
    "microbenchmark": Program(
        "cold-on-dram", {"burst": round(CHASE_RATE * HEAT * SWEEP_S)}, 4.0, MICRO_RATE
    ),
}
#: The graphs' runs, as the artifact has them (bc -i4 -n1).
SOURCES: Final = 4
#: A source at the speed of slow memory.
GRAPH_PROFILE_S: Final = 80.0
GRAPHS: Final = {"bc-urand": lambda: 1.0, "bc-kron": kronecker_miss}


def play(published: Published, *, quick: bool, seed: int) -> Measured:
    """Return speeds of the placements and slowdowns of the systems."""
    measured: Measured = {}
    for program, own in PROGRAMS.items():
        machine = machine_of(published, own.gib)
        workload = make_workload(own.kind, PAGES, seed, own.options)
        first = np.arange(PAGES) < PAGES // 2
        placements = {
            "hot on DRAM": first,
            "cold on DRAM": ~first,
            "all on CXL": np.zeros(PAGES, np.bool_),
        }
        for name, fast in placements.items():
            slower = _placed(own, machine, workload, fast)
            measured["speed of all-DRAM", program, name] = 1 / slower
        seconds = QUICK_SECONDS if quick else SECONDS
        for name, policy in POLICIES.items():
            measured["slowdown", program, name] = _played(
                own, machine, workload, policy, seconds, seed
            )
    for program, miss in () if quick else GRAPHS.items():
        for name, policy in POLICIES.items():
            measured["slowdown", program, name] = _traversed(
                published, program, miss(), policy, seed
            )
    return measured


def machine_of(published: Published, gib: float) -> MachineSpec:
    """Return the Skylake machine for a program of so many gigabytes."""
    constants = published.constants
    return MachineSpec(
        name="skylake",
        description="DRAM, the other socket slowed down",
        nodes=[
            NodeSpec(
                MemoryKind.DRAM, 0, [90.0], read_bandwidth_gb_s=49, initiators=[0]
            ),
            NodeSpec(MemoryKind.CXL, 1, [190.0], read_bandwidth_gb_s=17),
        ],
        parallelism=constants["graph_parallelism"],
        threads=constants["threads"],
        reference_gib=gib,
        costs=CostSpec(move_page_ns=constants["move_ns"]),
    )


def _traversed(
    published: Published, name: str, miss: float, policy: str, seed: int
) -> float:
    """Return the slowdown of a policy on a graph."""
    program = Traversal(name, PAGES, betweenness(miss), seed)
    options = {"reference_gib": program.gib, **OPTIONS.get(policy, {})}
    skip = 0
    if policy == "soar":  # which profiles in a run of its own
        options, skip = {"profile_s": GRAPH_PROFILE_S}, SOURCES
    if policy == "first-touch":
        options = {}
    machine = machine_of(published, program.gib)
    return slowdown(
        program,
        policy,
        machine,
        SOURCES,
        options,
        memory_share=published.constants["graph_memory_share"],
        skip=skip,
        seed=seed,
    )


def _placed(
    own: Program, spec: MachineSpec, workload: Workload, fast: NDArray[np.bool_]
) -> float:
    """Return the slowdown of a placement that stays."""
    streams = getattr(workload, "streams", ())
    machine = SimMachine(spec, PAGES, 0.5, streams=streams)
    machine.place(np.where(fast, 0, 1).astype(np.uint8))
    pace = _pace(own, STATIC_SECONDS)
    for chunk in workload.epochs(pace):
        machine.advance(chunk, pace.epoch_ns)
    return machine.bill.access_ns / machine.bill.all_fast_ns


def _played(
    own: Program,
    machine: MachineSpec,
    workload: Workload,
    policy: str,
    seconds: float,
    seed: int,
) -> float:
    """Return the slowdown of a policy over the whole run, its work included."""
    options = {"reference_gib": own.gib, **OPTIONS.get(policy, {})}
    if policy == "soar":
        options = {"object_pages": PAGES / 2}
    if policy == "first-touch":
        options = {}
    watch = play_one(
        policy,
        workload,
        machine,
        fast_ratio=0.5,
        seed=seed,
        rate=own.rate,
        seconds=seconds,
        placement="random",
        options=options,
    )
    # SOAR profiles in a run of its own.
    tail = watch.tail(1 - PROFILED_S / seconds if policy == "soar" else 1.0)
    scale = PAGES * PAGE_BYTES / (own.gib * (1 << 30))
    threads = machine.threads or 1.0
    time_ns = threads * scale * len(tail.samples) * 0.5 * NS_PER_S
    busy = (tail.total("application_ns") + tail.total("migration_ns")) / time_ns
    return tail.access_ns / tail.all_fast_ns / max(1e-3, 1 - busy)


def _pace(own: Program, seconds: float) -> Pace:
    return Pace(rate=own.rate, accesses=round(own.rate * PAGES * seconds))
