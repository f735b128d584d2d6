"""Every policy by name; importable without numba.

A policy's module is imported when the policy is made, not before.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

from isotherm.core.errors import UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.policy.plan import Policy, Setup

if TYPE_CHECKING:
    from isotherm.policy.bounds import Future

#: Name and one line, online policies first.
POLICIES: Final[Mapping[str, str]] = {
    "isotherm": "fast memory has a price; a page moves when the move pays",
    "first-touch": "never moves a page: what Linux does without tiering",
    "lru": "fast memory as a demand-filled cache, least recently used",
    "numab2": "Linux NUMA balancing mode 2: hint faults, adaptive threshold",
    "tpp": "TPP: promote on a second hint fault, demote ahead of need",
    "pghot": "pghot: two hint faults within a window, promoted by kmigrated",
    "pghot-hw": "pghot on samples of the hardware",
    "damon": "DAMON's migrate schemes as damo's mem_tier.sh sets them up",
    "hmsdk": "DAMON's migrate schemes as HMSDK sets them up",
    "hemem": "HeMem: sample counts over a threshold, cooling",
    "memtis": "MEMTIS: histogram of sample counts sets the threshold",
    "arms": "ARMS: a ranking by two averages, moves that pay",
    "colloid": "Colloid on hint faults: promote while that lowers the latency",
    "colloid-hemem": "Colloid on HeMem: even out the tiers' queues",
    "soar": "SOAR: objects placed once, by what their misses stall",
    "interleave": "pages dealt to the nodes in turn, never moved",
    "weighted-interleave": "dealt by the nodes' bandwidth, never moved",
    "all-fast": "everything in the fastest tier: slowdown 1",
    "all-slow": "everything in the slowest tier",
    "static-oracle": "the best placement that never changes, future known",
    "clairvoyant": "knows the future and pays for its moves",
}

#: Those that only a host can run: nothing simulates what they look with.
LIVE: Final[Mapping[str, str]] = {
    "reclaim": "what nobody misses goes to compressed memory, within a stall budget",
}

#: Those that no host could run.
BOUNDS: Final = frozenset({"all-fast", "all-slow", "static-oracle", "clairvoyant"})

#: Those that say where pages are born, and start from that.
AT_BIRTH: Final = frozenset({"interleave", "weighted-interleave"})

#: Bounds that must be given the future.
NEEDS_FUTURE: Final = frozenset({"static-oracle", "clairvoyant"})

#: Those that do with one what they could not without.
USES_FUTURE: Final = NEEDS_FUTURE | {"all-fast"}

_CLASS: Final[Mapping[str, str]] = {
    "isotherm": "isotherm.policy.isotherm:Isotherm",
    "first-touch": "isotherm.policy.first_touch:FirstTouch",
    "lru": "isotherm.policy.lru:Lru",
    "numab2": "isotherm.policy.numab2:Numab2",
    "tpp": "isotherm.policy.tpp:Tpp",
    "pghot": "isotherm.policy.pghot:PgHot",
    "pghot-hw": "isotherm.policy.pghot:PgHotSampled",
    "damon": "isotherm.policy.damon:Damon",
    "hmsdk": "isotherm.policy.damon:Hmsdk",
    "hemem": "isotherm.policy.hemem:HeMem",
    "memtis": "isotherm.policy.memtis:Memtis",
    "arms": "isotherm.policy.arms:Arms",
    "colloid": "isotherm.policy.colloid:Colloid",
    "colloid-hemem": "isotherm.policy.colloid_hemem:ColloidHeMem",
    "soar": "isotherm.policy.soar:Soar",
    "interleave": "isotherm.policy.interleave:Interleave",
    "weighted-interleave": "isotherm.policy.interleave:WeightedInterleave",
    "all-fast": "isotherm.policy.bounds:AllFast",
    "all-slow": "isotherm.policy.bounds:AllSlow",
    "static-oracle": "isotherm.policy.bounds:StaticOracle",
    "clairvoyant": "isotherm.policy.clairvoyant:Clairvoyant",
    "reclaim": "isotherm.policy.reclaim:Reclaim",
}

#: What each peer is tried with besides its published defaults, which come first.
#: The best is chosen on workloads marked for tuning, and used on all the others.
TUNING_GRID: Final[Mapping[str, tuple[Mapping[str, float], ...]]] = {
    "first-touch": ({},),
    "lru": ({},),
    "numab2": (
        {},
        {"reference_gib": 0},
        {"hot_threshold_ms": 125},
        {"promote_rate_limit_mb_s": 655.36},
        {"promote_rate_limit_mb_s": 30},  # what MEMTIS' authors gave it
        {"hot_threshold_ms": 125, "promote_rate_limit_mb_s": 655.36},
    ),
    "tpp": (
        {},
        {"reference_gib": 0},
        {"marks_to_activate": 2},
        {"demote_scale_factor": 1000},
    ),
    "hemem": (
        {},
        {"hot_read": 4, "hot_write": 4, "cooling_threshold": 10},
        {"hot_read": 2, "hot_write": 1, "cooling_threshold": 4},
        {"unit_pages": 64},
        {"unit_pages": 64, "hot_read": 4, "cooling_threshold": 10},
    ),
    "memtis": (
        {},
        {"cooling_period": 8_000_000},
        {"cooling_period": 500_000, "adaptation_period": 25_000},
        {"cooling_period": 8_000_000, "adaptation_period": 400_000},
    ),
    "pghot": (
        {},
        {"reference_gib": 0},
        {"precise": 1, "window_ms": 5000, "hot_threshold_ms": 5000},
    ),
    "pghot-hw": ({}, {"reference_gib": 0}, {"freq_threshold": 3}),
    "damon": ({}, {"reference_gib": 0}, {"promote_min_access": 0.5}),
    "hmsdk": ({}, {"reference_gib": 0}, {"promote_min_access": 0.5}),
    "arms": ({}, {"short_s": 4, "long_s": 40}, {"cost_multiplier": 1}),
    "colloid": ({}, {"reference_gib": 0}, {"hot_threshold_ms": 125}),
    "colloid-hemem": ({}, {"beta": 1.5}),
    "soar": ({}, {"object_pages": 512}, {"object_pages": 64, "profile_s": 40}),
    "interleave": ({},),
    "weighted-interleave": ({},),
}


def make_policy(name: str, setup: Setup, future: "Future | None" = None) -> Policy:
    """Return a policy, ready for its first epoch.

    Args:
        name: One of ``POLICIES`` or ``LIVE``.
        setup: Pages, topology, capacity, and the policy's own options.
        future: For the bounds in ``USES_FUTURE``; others do not get it.

    Raises:
        UsageError: The name or an option is not known, or the future is missing.
    """
    if name not in _CLASS:
        raise UsageError(
            f"policy {name!r}: not known{did_you_mean(name, _CLASS)}",
            hint=f"known: {', '.join(_CLASS)}",
        )
    module, _, attribute = _CLASS[name].partition(":")
    make: Any = getattr(import_module(module), attribute)
    if name not in USES_FUTURE:
        return cast("Policy", make(setup))
    if future is None and name in NEEDS_FUTURE:
        raise UsageError(f"policy {name!r}: needs a future, and a live run has none")
    return cast("Policy", make(setup, future))
