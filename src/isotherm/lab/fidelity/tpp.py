"""TPP: what local memory serves under default Linux, TPP and NUMA balancing.

Files come first and fill local memory; what the program allocates then is born on
CXL, hot or not. Default Linux leaves it there. TPP moves it. NUMA balancing of that
kernel (5.12) demotes to storage only, and promoted 11 times slower than TPP: it is
played as numab2 with that rate as its limit.
"""

from typing import Final

from isotherm.lab.fidelity.play import Ordered, Watch, play_one
from isotherm.lab.fidelity.published import Measured, Published
from isotherm.policy.options import PAGES_PER_MIB, REFERENCE_GIB, scale_of
from isotherm.trace.stream import Workload
from isotherm.workloads.build import build
from isotherm.workloads.mix import MixPart, build_mix
from isotherm.workloads.spec import Zipf

PAGES: Final = 8192
SECONDS: Final = 240.0
#: The paper's production hosts have a CXL card; this machine is the lab's own.
MACHINE: Final = "dram-cxl"
ROWS: Final = ("web1 2:1", "cache1 1:4", "cache2 1:4")
TAIL: Final = 0.25


def play(published: Published, *, quick: bool, seed: int) -> Measured:
    """Return local shares and throughputs of every workload and system."""
    measured: Measured = {}
    for row in ROWS[:2] if quick else ROWS:
        workload, fast_ratio = _workload(published, row, seed)

        def run(
            policy: str,
            options: dict[str, float] | None = None,
            *,
            workload: Workload = workload,
            fast_ratio: float = fast_ratio,
        ) -> Watch:
            return play_one(
                policy,
                workload,
                MACHINE,
                fast_ratio=fast_ratio,
                seed=seed,
                seconds=SECONDS,
                options=options,
            )

        tpp = run("tpp")
        promoted = sum(s["promoted"] for s in tpp.samples) / SECONDS
        limit = promoted / PAGES_PER_MIB / scale_of(PAGES, REFERENCE_GIB)
        limit /= published.constants["numab_slower"]
        runs = {
            "default": run("first-touch"),
            "tpp": tpp,
            "numab": run("numab2", {"promote_rate_limit_mb_s": limit}),
        }
        share = _memory_share(published, row, runs["default"])
        for system, watch in runs.items():
            tail = watch.tail(TAIL)
            slowdown = tail.in_line_ns / tail.all_fast_ns
            measured["local traffic", row, system] = tail.local_share
            measured["throughput", row, system] = 1 / (1 + share * (slowdown - 1))
        if row.startswith("cache1"):
            ablated = {"decoupled": tpp, "coupled": run("tpp", COUPLED)}
            for system, watch in ablated.items():
                local = watch.tail(TAIL).local_share
                measured["local traffic, watermarks", row, system] = local
    return measured


#: Demotion starts and ends where allocation does: at the ordinary watermarks.
COUPLED: Final = {"coupled": 1.0}


def _workload(published: Published, row: str, seed: int) -> tuple[Workload, float]:
    """Return files and the rest, side by side, and the share that is local."""
    constants, name = published.constants, row.split(maxsplit=1)[0]
    files = round(PAGES * constants[f"{name}_files"])
    traffic = constants[f"{name}_file_traffic"]
    kind = Zipf(exponent=constants["exponent"])
    parts = [
        MixPart(build(kind, "files", files, seed), traffic),
        MixPart(build(kind, "anonymous", PAGES - files, seed + 1), 1 - traffic),
    ]
    mixed = build_mix(name, parts, seed)
    return Ordered(mixed, name), constants[f"{name}_local"]


def _memory_share(published: Published, row: str, default: Watch) -> float:
    """Return the share of time that is memory, from default Linux' throughput."""
    table = next(t for t in published.tables if t.name == "throughput")
    throughput = table.rows[row][table.systems.index("default")]
    tail = default.tail(TAIL)
    return (1 / throughput - 1) / (tail.in_line_ns / tail.all_fast_ns - 1)
