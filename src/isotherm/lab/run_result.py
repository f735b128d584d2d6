"""What one simulation came to, as JSON values."""

from typing import TYPE_CHECKING, Any

from isotherm.core.errors import UsageError
from isotherm.core.units import NS_PER_S, PAGE_BYTES

if TYPE_CHECKING:
    from isotherm.lab.simulate import _Run


def result_of(run: "_Run", total_s: float) -> dict[str, Any]:
    """Return the result of a simulation; see docs/reference/cli.md.

    Args:
        run: A simulation that has been played.
        total_s: What it took, with setting up.

    Raises:
        UsageError: The workload had no accesses.
    """
    spec, bill, engine = run.spec, run.machine.bill, run.engine
    if bill.accesses == 0:
        raise UsageError(f"workload {spec.workload}: expected accesses, got none")
    promoted, demoted = engine.promoted_pages, engine.demoted_pages
    cache = run.machine.demand_fill
    if cache is not None:
        promoted, demoted = cache.promoted, cache.evicted
    hint_ns = bill.application_ns + bill.background_ns
    base_ns = bill.all_fast_ns
    slowdown = (bill.access_ns + bill.migration_ns + hint_ns) / base_ns
    result: dict[str, Any] = {
        "policy": spec.policy,
        "workload": run.workload.name,
        "workload_kind": getattr(run.workload, "kind", None),
        "machine": run.machine.spec.name,
        "fast_ratio": spec.fast_ratio,
        "seed": spec.seed,
        "rate": spec.rate,
        "placement": spec.placement,
        "hints": sorted(h.value for h in run.hints),
        "sampling_period": spec.sampling_period,
        "sampling_loss": spec.sampling_loss,
        "epoch_s": spec.epoch_s,
        "memory_bound": spec.memory_bound,
        "faults": dict(spec.faults),
        "accesses": bill.accesses,
        "pages": run.workload.pages,
        "simulated_s": run.epochs * run.pace.epoch_ns / NS_PER_S,
        "fast_share": bill.fast_accesses / bill.accesses,
        "remote_share": bill.remote_accesses / bill.accesses,
        "slowdown": slowdown,
        "mean_latency_ns": run.machine.mean_latency_ns,
        "migrated_bytes": (promoted + demoted) * PAGE_BYTES,
        "promoted_pages": promoted,
        "demoted_pages": demoted,
        "lateral_pages": engine.totals.lateral,
        "ping_pong_pages": engine.ping_pong_pages,
        "migration_time_ns": bill.migration_ns,
        "hint_overhead_ns": hint_ns,
        "hint_application_ns": bill.application_ns,
        "hint_background_ns": bill.background_ns,
        "tracker_bytes_per_page": (
            0.0 if run.tracker is None else run.tracker.bytes_per_page
        ),
        "promised_ns": engine.ledger.both.promised_ns,
        "realised_ns": engine.ledger.both.realised_ns,
        "failed_moves": {str(k): v for k, v in engine.failures.items()},
        "options": dict(spec.options),
        "workload_options": dict(spec.workload_options),
        "epochs": run.epochs,
        "wall_s": run.wall_s,
        "setup_s": max(0.0, total_s - run.wall_s),
        "accesses_per_wall_s": bill.accesses / max(run.wall_s, 1e-9),
    }
    if spec.memory_bound is not None:
        result["app_slowdown"] = 1 + spec.memory_bound * (slowdown - 1)
    if run.machine.load.streams:
        overhead_ns = bill.migration_ns + hint_ns
        result["streams"] = run.machine.load.report(overhead_ns)
        result["workloads"] = run.machine.load.report(overhead_ns, run.workload.name)
    if bill.births:
        result["births"] = bill.births
        result["fast_births"] = bill.fast_births
    if run.cpus is not None:
        result["cpu_advice"] = run.cpus.report()
    if run.machine.expander is not None:
        result["expander"] = run.machine.expander.report()
    if run.huge is not None:
        result["huge_pages"] = run.huge.report()
    return result
