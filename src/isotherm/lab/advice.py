"""Settings for a kernel as it is: which of Linux' own mechanisms suits a trace.

Every candidate is a setting that an unmodified kernel takes; all are simulated on the
recorded workload, and the best is told as the commands that would make it so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

from isotherm.lab.capacity import slowdown_of
from isotherm.policy.damon import MEM_TIER
from isotherm.topology import interleave
from isotherm.topology.model import Topology

#: A gain smaller than this is not worth a setting: leave things as they are.
LEAST_GAIN: Final = 0.01

_HOT_MS: Final = (125.0, 1000.0)
_RATE_MB_S: Final = (30.0, 1000.0, 65_536.0)
_SCAN_MB: Final = (256.0, 1024.0)
_DAMON_MB: Final = (50.0, 200.0, 1000.0)
_DAMON_ACCESS: Final = (0.05, 0.25, 0.5)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A setting to try.

    Attributes:
        policy: The peer that models the mechanism.
        options: Its parameters; sizes as they stand on the host.
    """

    policy: str
    options: Mapping[str, float] = field(default_factory=dict)


def candidates() -> list[Candidate]:
    """Return what is tried, the kernel as it comes first."""
    as_is = {"reference_gib": 0.0}
    found = [Candidate("first-touch"), Candidate("interleave")]
    found.append(Candidate("weighted-interleave"))
    found += [
        Candidate(
            "numab2",
            {
                **as_is,
                "hot_threshold_ms": hot,
                "promote_rate_limit_mb_s": rate,
                "scan_size_mb": scan,
            },
        )
        for hot, rate, scan in product(_HOT_MS, _RATE_MB_S, _SCAN_MB)
    ]
    found += [
        Candidate(
            "damon",
            {
                **as_is,
                "promote_mb": size,
                "demote_mb": size,
                "promote_min_access": access,
            },
        )
        for size, access in product(_DAMON_MB, _DAMON_ACCESS)
    ]
    return found


@dataclass(frozen=True, slots=True)
class Setting:
    """What to do on the host.

    Attributes:
        candidate: What was simulated.
        slowdown: Time over that with all memory fast.
        commands: Shell lines, as root; none to leave the host as it is.
    """

    candidate: Candidate
    slowdown: float
    commands: list[str]


def best_settings(
    tried: Sequence[Candidate], rows: Sequence[Mapping[str, Any]], topology: Topology
) -> list[Setting]:
    """Return the best setting of each mechanism, the best mechanism first.

    Args:
        tried: Candidates.
        rows: Their results, in order.
        topology: The machine: which node is fast.
    """
    best: dict[str, tuple[float, Candidate]] = {}
    for candidate, row in zip(tried, rows, strict=True):
        slowdown = slowdown_of(row)
        policy = candidate.policy
        if policy not in best or slowdown < best[policy][0]:
            best[policy] = slowdown, candidate
    ranked = sorted(best.values(), key=lambda pair: pair[0])
    return [_setting(candidate, slowdown, topology) for slowdown, candidate in ranked]


def pays(settings: Sequence[Setting]) -> bool:
    """Return whether the best setting is worth being made."""
    return _gain(settings) >= LEAST_GAIN


def _gain(settings: Sequence[Setting]) -> float:
    still = next(s for s in settings if s.candidate.policy == "first-touch")
    return still.slowdown / settings[0].slowdown - 1


def advice_of(settings: Sequence[Setting]) -> str:
    """Return one sentence: what to set, which may be nothing."""
    best = settings[0]
    gain = _gain(settings)
    if gain < LEAST_GAIN:
        return (
            "Leave the kernel as it is: the best of its mechanisms, "
            f"{best.candidate.policy}, gains {max(gain, 0):.1%}."
        )
    return f"Use {best.candidate.policy}: {gain:.0%} faster than leaving it as it is."


def _setting(candidate: Candidate, slowdown: float, topology: Topology) -> Setting:
    fast = [int(n) for n in topology.tiers[0].nodes]
    slow = [int(n) for n in topology.tiers[-1].nodes]
    nodes = sorted(n for tier in topology.tiers for n in tier.nodes)
    commands: list[str] = []
    match candidate.policy:
        case "numab2":
            commands = numa_balancing_commands(candidate.options)
        case "interleave":
            listed = ",".join(str(n) for n in nodes)
            commands = [f"numactl --interleave={listed} COMMAND"]
        case "weighted-interleave":
            commands = interleave.commands(interleave.derive_weights(topology, nodes))
            listed = ",".join(str(n) for n in nodes)
            commands.append(f"numactl --weighted-interleave={listed} COMMAND")
        case "damon":
            arguments = damo_arguments(candidate.options, fast[0], slow[0])
            commands = [
                f"damo args damon {arguments} --format yaml --out damon.yaml",
                "damo start damon.yaml",
            ]
    return Setting(candidate, slowdown, commands)


def numa_balancing_commands(options: Mapping[str, float]) -> list[str]:
    """Return the knobs of NUMA balancing in tiering mode (kernel/sched/fair.c)."""
    debug = "/sys/kernel/debug/sched/numa_balancing"
    rate = round(options["promote_rate_limit_mb_s"])
    return [
        "echo 1 > /sys/kernel/mm/numa/demotion_enabled",
        f"echo {rate} > /proc/sys/kernel/numa_balancing_promote_rate_limit_MBps",
        f"echo {round(options['hot_threshold_ms'])} > {debug}/hot_threshold_ms",
        f"echo {round(options['scan_size_mb'])} > {debug}/scan_size_mb",
        "echo 2 > /proc/sys/kernel/numa_balancing",
    ]


def damo_arguments(options: Mapping[str, float], fast: int, slow: int) -> str:
    """Return two contexts with a scheme each, as scripts/mem_tier.sh of damo has them.

    damo itself finds which physical memory a node has, so this is its command line;
    ``damo args damon ARGUMENTS --format yaml`` turns it into a file.
    """
    o = {**MEM_TIER, **options}
    quota = (
        f"--damos_apply_interval {o['apply_interval_s']:g}s "
        f"--damos_quota_interval {o['quota_interval_s']:g}s "
    )
    cold = (
        f"--numa_node {fast} --monitoring_intervals 5ms 100ms 1s "
        f"--damos_action migrate_cold {slow} --damos_access_rate 0% 0% {quota}"
        f"--damos_quota_space {o['demote_mb']:g}MB "
        f"--damos_quota_goal node_mem_free_bp {o['free_goal']:.1%} {fast} "
        "--damos_filter reject young "
    )
    hot = (
        f"--numa_node {slow} --monitoring_intervals 5ms 100ms 1s "
        f"--damos_action migrate_hot {fast} "
        f"--damos_access_rate {o['promote_min_access']:.0%} max {quota}"
        f"--damos_quota_space {o['promote_mb']:g}MB "
        f"--damos_quota_goal node_mem_used_bp {o['used_goal']:.1%} {fast} "
        "--damos_filter allow young "
    )
    counts = (
        "--damos_nr_quota_goals 1 1 --damos_nr_filters 1 1 "
        "--nr_targets 1 1 --nr_schemes 1 1 --nr_ctxs 1 1"
    )
    return cold + hot + counts
