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
#: SOAR's objects are the two buffers.
OPTIONS: Final[dict[str, dict[str, float]]] = {
    "first-touch": {},
    "soar": {"object_pages": PAGES / 2},
}
#: Of the run: SOAR's profile, and the moves to its placement.
PROFILED_S: Final = 40.0
#: The publication's names for them, and ours.
POLICIES: Final = {
    "colloid": "colloid",
    "numab2": "numab2",
    "tpp": "tpp",
    "first touch": "first-touch",
}


@dataclass(frozen=True, slots=True)
class Program:
    """A program of the table.

    Attributes:
        kind: Generator.
        options: Its parameters.
        gib: Gigabytes that it stands for.
        rate: Accesses per page and second. Of the graphs: 8 threads with four misses
            in flight at 100 ns on 5.2 million pages. Of the microbenchmark: the chase
            makes 4 G loads of 90 ns on 524,288 pages, 21 a second each; the sweep
            13.6 times as many.
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
    "bc-urand": Program("graph", {"exponent": 0.0}, 20.0, 60.0),
    "bc-kron": Program("graph", {"exponent": 0.75}, 20.0, 60.0),
}


def play(published: Published, *, quick: bool, seed: int) -> Measured:
    """Return speeds of the placements and slowdowns of the systems."""
    measured: Measured = {}
    for program in list(PROGRAMS)[:1] if quick else PROGRAMS:
        own = PROGRAMS[program]
        machine = machine_of(published, own.gib)
        workload = make_workload(own.kind, PAGES, seed, own.options)
        if program == "microbenchmark":
            first = np.arange(PAGES) < PAGES // 2
            placements = {
                "hot on DRAM": first,
                "cold on DRAM": ~first,
                "all on CXL": np.zeros(PAGES, np.bool_),
            }
            for name, fast in placements.items():
                slowdown = _placed(own, machine, workload, fast)
                measured["speed of all-DRAM", program, name] = 1 / slowdown
        seconds = QUICK_SECONDS if quick else SECONDS
        if program == "microbenchmark":
            best = _played(own, machine, workload, "soar", seconds, seed)
        else:
            critical = _critical(own, machine, workload)
            best = _placed(own, machine, workload, critical)
        measured["slowdown", program, "soar"] = best
        for name, policy in POLICIES.items():
            measured["slowdown", program, name] = _played(
                own, machine, workload, policy, seconds, seed
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


def _critical(
    own: Program, machine: MachineSpec, workload: Workload
) -> NDArray[np.bool_]:
    """Return the half of the pages that stalls most, page by page."""
    streams = getattr(workload, "streams", ())
    weight = np.array(
        [s.miss_share / machine.parallelism_of(0, s.parallelism) for s in streams]
        or [1.0]
    )
    stall = np.zeros(PAGES)
    for chunk in workload.epochs(_pace(own, STATIC_SECONDS)):
        each = weight[0] if chunk.stream is None else weight[chunk.stream]
        each = np.broadcast_to(each, chunk.page.shape)
        stall += np.bincount(chunk.page, each, PAGES)
    fast = np.zeros(PAGES, np.bool_)
    fast[np.argsort(-stall, kind="stable")[: PAGES // 2]] = True
    return fast


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
    options = OPTIONS.get(policy, {"reference_gib": own.gib})
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
