"""pghot under Graph500: what is lost when the record does not name the node.

All memory starts on CXL and fits the two sockets' DRAM. NUMA balancing and pghot's
precise record promote to the node of the CPU that made the access; the default
record holds no node, and all goes to node 0, which is the other socket's for half
of the ranks. A search goes level by level, so the slower socket sets the time.
"""

from typing import Final

from isotherm.core.units import NS_PER_S
from isotherm.lab.fidelity.play import (
    ClosedLoop,
    Sample,
    Watch,
    epoch_accesses,
    play_one,
)
from isotherm.lab.fidelity.published import Measured, Published
from isotherm.machine.sim.spec import parse_machine
from isotherm.workloads.registry import make_workload

PAGES: Final = 4096
REFERENCE_GIB: Final = 100.0
#: Accesses per page and second without migration, and seconds of the whole run.
RATE: Final = 10.0
SECONDS: Final = 64 * 8.46
QUICK_SECONDS: Final = 240.0
EPOCH_S: Final = 1.0

#: Distances from a socket: its own memory, where the default record sends pages,
#: CXL. Of the two sockets of the machine, and of the halves of one in NPS2 mode.
TWO_SOCKETS: Final = ((10, 10, 50), (10, 32, 60))
NPS2: Final = ((10, 10, 50), (10, 12, 50))

#: Policy, its options, whether pages go to the node of whoever made the access.
SYSTEMS: Final[dict[str, tuple[str, dict[str, float], bool]]] = {
    "off": ("first-touch", {}, True),
    "numab2": ("numab2", {"reference_gib": REFERENCE_GIB}, True),
    "pghot default": (
        "pghot",
        {"reference_gib": REFERENCE_GIB, "freq_threshold": 1},
        False,
    ),
    "pghot precise": (
        "pghot",
        {"reference_gib": REFERENCE_GIB, "freq_threshold": 1, "precise": 1},
        True,
    ),
}

MACHINE: Final = """
name = "graph500"
description = "one socket's view of two sockets and CXL"
reference_gib = 100

[[nodes]]
kind = "dram"
tier = 0
read_latency_ns = [{fast}]
initiators = [0]

[[nodes]]
kind = "cxl"
tier = 1
read_latency_ns = [{slow}]

[costs]
move_fixed_ns = 5000
move_page_ns = 700
move_byte_ns = 0.1
"""


def play(published: Published, *, quick: bool, seed: int) -> Measured:
    """Return the rate of searches of every system, over that without migration."""
    measured: Measured = {}
    seconds = QUICK_SECONDS if quick else SECONDS
    times: dict[tuple[str, tuple[int, int, int]], float] = {}

    def time_of(system: str, socket: tuple[int, int, int]) -> float:
        own, other, cxl = socket
        fast = own if SYSTEMS[system][2] else other
        seen = (system, (fast, fast, cxl))
        if seen not in times:
            times[seen] = _run_s(published, system, fast, cxl, seconds, seed)
        return times[seen]

    for row, sockets in (("v6", TWO_SOCKETS), ("v7", TWO_SOCKETS), ("v7 NPS2", NPS2)):
        worst = {s: max(time_of(s, socket) for socket in sockets) for s in SYSTEMS}
        for system, took in worst.items():
            measured["teps", row, system] = worst["off"] / took
    return measured


def _run_s(
    published: Published,
    system: str,
    fast: int,
    cxl: int,
    seconds: float,
    seed: int,
) -> float:
    """Return how long the ranks of one socket take for all searches."""
    unit_ns = published.constants["local_ns"] / 10
    other_ns = published.constants["other_ns"]
    slow_ns = unit_ns * cxl
    in_flight = RATE * PAGES * (other_ns + unit_ns * 50) / NS_PER_S
    policy, options, _ = SYSTEMS[system]

    def per_epoch(last: Sample | None) -> int:
        access_ns = slow_ns
        if last is not None:
            waits = last["application_ns"] + last["migration_ns"]
            access_ns = (last["access_ns"] + waits) / last["accesses"]
        return epoch_accesses(in_flight, other_ns + access_ns, EPOCH_S)

    graph = make_workload("graph", PAGES, seed)
    work = round(RATE * PAGES * seconds)
    loop = ClosedLoop(graph, per_epoch, work=work)
    watch: Watch = play_one(
        policy,
        loop,
        parse_machine(MACHINE.format(fast=unit_ns * fast, slow=slow_ns), "graph500"),
        fast_ratio=1.0,
        seed=seed,
        rate=RATE,
        epoch_s=EPOCH_S,
        placement="slowest",
        options=options,
    )
    return len(watch.samples) * EPOCH_S
