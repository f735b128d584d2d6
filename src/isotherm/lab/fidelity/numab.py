"""NUMA balancing's tiering mode under pmbench: what selection and limit bring.

The patch set's cover letter compares promotion on every hint fault (base) with
promotion by the time from scan to fault (hot selection) and with a limit on the rate.
A score is accesses per second: the inverse of an access's time, faults and moves
included, for the program waits for both.
"""

from dataclasses import dataclass
from typing import Final

from isotherm.lab.fidelity.play import Tail, play_one
from isotherm.lab.fidelity.published import Measured, Published
from isotherm.machine.sim.spec import parse_machine
from isotherm.policy.options import PAGES_PER_MIB, REFERENCE_GIB, scale_of
from isotherm.workloads.registry import make_workload

PAGES: Final = 8192
QUICK_PAGES: Final = 4096
SECONDS: Final = 1200.0
QUICK_SECONDS: Final = 600.0
#: As the built-in dram-pmem, for one access at a time: pmbench times each of them.
MACHINE: Final = """
name = "pmbench"
description = "DRAM and PMEM, threads that wait for every access"
parallelism = 1
reference_gib = 64

[[nodes]]
kind = "dram"
tier = 0
read_latency_ns = [92]
read_bandwidth_gb_s = 81
initiators = [0]

[[nodes]]
kind = "pmem"
tier = 1
read_latency_ns = [323]
read_bandwidth_gb_s = 26
write_bandwidth_gb_s = 9

[costs]
move_fixed_ns = 5000
move_page_ns = 700
move_byte_ns = 0.1
"""
#: Every fault is soon enough: promotion of the most recently used.
EVERY_FAULT: Final = {"hot_threshold_ms": 1e9}


@dataclass(frozen=True, slots=True)
class _Case:
    """What one system did, once it was settled."""

    access_ns: float
    promoted_per_access: float
    promoted_mb_s: float


def play(published: Published, *, quick: bool, seed: int) -> Measured:
    """Return scores and promotion rates, relative to the base's."""
    pages = QUICK_PAGES if quick else PAGES
    seconds = QUICK_SECONDS if quick else SECONDS
    base = _case(published, pages, seconds, seed, EVERY_FAULT)
    limit = base.promoted_mb_s * published.constants["limit"]
    cases = {
        "base": base,
        "hot selection": _case(published, pages, seconds, seed, {}),
        "rate limit": _case(
            published, pages, seconds, seed, {"promote_rate_limit_mb_s": limit}
        ),
    }
    measured: Measured = {}
    for name, case in cases.items():
        measured["score", "pmbench", name] = base.access_ns / case.access_ns
        measured["promoted", "pmbench", name] = (
            case.promoted_per_access
            / base.promoted_per_access
            * (base.access_ns / case.access_ns)
        )
    return measured


def _case(
    published: Published,
    pages: int,
    seconds: float,
    seed: int,
    options: dict[str, float],
) -> _Case:
    constants = published.constants
    gauss = make_workload(
        "drift",
        pages,
        seed,
        {
            "hot_share": 1.0,
            "sigma": constants["sigma"],
            "period_s": 1e9,
            "write_share": 0.2,
            "contiguity": 1,
        },
    )
    watch = play_one(
        "numab2",
        gauss,
        parse_machine(MACHINE, "pmbench"),
        fast_ratio=constants["fast_ratio"],
        seed=seed,
        rate=constants["rate"],
        seconds=seconds,
        placement="random",
        options=options,
    )
    tail: Tail = watch.tail(1 / 3)
    per_s = tail.total("promoted") / (len(tail.samples) * 0.5)
    return _Case(
        tail.in_line_ns,
        tail.total("promoted") / tail.total("accesses"),
        per_s / PAGES_PER_MIB / scale_of(pages, REFERENCE_GIB),
    )
