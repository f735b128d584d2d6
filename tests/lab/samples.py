"""Hand-made results and timelines: nothing here was simulated."""

from typing import Any

import numpy as np

from isotherm.observability.timeline import Timeline, TimelineBuilder

#: Slowdown of every policy at a fifth of fast memory; others scale from there.
SLOWDOWNS = {
    "isotherm": 1.3,
    "tpp": 3.4,
    "memtis": 1.6,
    "first-touch": 2.5,
    "all-fast": 1.0,
    "all-slow": 3.1,
    "static-oracle": 1.3,
    "clairvoyant": 1.2,
}


def result(
    policy: str, slowdown: float | None = None, **changes: Any
) -> dict[str, Any]:
    """Return a result as ``simulate`` gives it."""
    moves = 0 if policy in ("first-touch", "all-fast", "all-slow") else 4915
    return {
        "policy": policy,
        "workload": "gups",
        "machine": "dram-cxl",
        "fast_ratio": 0.2,
        "seed": 1,
        "rate": 10.0,
        "placement": "random",
        "hints": ["accessed-bit", "sampling"],
        "sampling_period": 2000,
        "accesses": 39321600,
        "pages": 32768,
        "simulated_s": 120.0,
        "fast_share": 0.9,
        "slowdown": SLOWDOWNS[policy] if slowdown is None else slowdown,
        "mean_latency_ns": 96.7,
        "migrated_bytes": 2 * moves * 4096,
        "promoted_pages": moves,
        "demoted_pages": moves,
        "ping_pong_pages": 31,
        "migration_time_ns": 2500.0 * 2 * moves,
        "hint_overhead_ns": 6.3e7,
        "tracker_bytes_per_page": 4.0,
        "wall_s": 0.61,
        "setup_s": 0.9,
        "accesses_per_wall_s": 6.45e7,
        **changes,
    }


def grid(
    workloads: tuple[str, ...] = ("gups", "drift"),
    ratios: tuple[float, ...] = (0.5, 0.2),
) -> list[dict[str, Any]]:
    """Return results of every policy on some workloads and ratios."""
    rows = []
    for workload in workloads:
        for ratio in ratios:
            for policy, slowdown in SLOWDOWNS.items():
                scaled = 1 + (slowdown - 1) * (0.3 / (ratio + 0.1))
                if policy == "all-slow":
                    scaled = slowdown
                rows.append(result(policy, scaled, workload=workload, fast_ratio=ratio))
    return rows


def timeline(seed: int = 1, epochs: int = 60, pages: int = 4096) -> Timeline:
    """Return a hot range that wanders, and a placement that follows it."""
    rng = np.random.default_rng(seed)
    size = 32
    rows = pages // size
    builder = TimelineBuilder(pages, size)
    at = np.arange(rows)
    for epoch in range(epochs):
        middle = epoch * rows / epochs
        heat = 20 + 4000 * np.exp(-(((at - middle) / 8) ** 2))
        share = np.clip(1.2 * np.exp(-(((at - middle + seed) / 12) ** 2)), 0, 1)
        fast = float((heat * share).sum())
        builder.add(
            {
                "dt_ns": 5e8,
                "accesses": float(heat.sum()),
                "fast_accesses": fast,
                "latency_ns": 80 * fast + 250 * float(heat.sum() - fast),
                "all_fast_ns": 80 * float(heat.sum()),
                "migration_ns": 2500.0 * 40,
                "application_ns": 1e5,
                "promoted_pages": float(20 + rng.integers(5)),
                "demoted_pages": 20.0,
            },
            heat,
            share,
            {"price_ns_0": 900.0},
        )
    return builder.build()


def report_input(
    rows: list[dict[str, Any]] | None = None,
) -> tuple[list[dict[str, Any]], dict[int, Timeline]]:
    """Return judged results and timelines at a fifth of fast memory."""
    from isotherm.lab.regret import judge

    judged = judge(grid() if rows is None else rows)
    still = {"all-fast", "all-slow", "static-oracle"}
    return judged, {
        index: timeline(index + 1)
        for index, row in enumerate(judged)
        if row["fast_ratio"] == 0.2 and row["policy"] not in still
    }
