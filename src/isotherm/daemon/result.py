"""What a run of the service has come to, in raw units: the document of ``--json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.daemon.brake import Shift
from isotherm.daemon.huge import report as huge_report
from isotherm.daemon.summary import failures

if TYPE_CHECKING:
    from isotherm.daemon.service import Service


@dataclass(slots=True)
class Costs:
    """What the run took, in nanoseconds."""

    cpu_ns: float = 0.0
    application_ns: float = 0.0
    background_ns: float = 0.0
    migration_ns: float = 0.0


def result_of(run: "Service") -> dict[str, Any]:
    """Return a run so far; seconds, bytes and pages, never units."""
    seconds = (run.last_ns - run.began_ns) / NS_PER_S
    tally, costs = run.tally, run.costs
    promoted, demoted = tally.promoted_pages, tally.demoted_pages
    if run.dry_run:
        promoted, demoted = run.wished_pages
    hold_back = run.engine.books.hold_back
    return {
        "mover": "isotherm",
        "policy": run.config.loop.policy,
        "dry_run": run.dry_run,
        "duration_s": seconds,
        "epochs": run.epochs,
        "hints": run.seen_by,
        "hints_lost": run.lost,
        "managed_pages": run.managed_pages,
        "most_managed_pages": run.most_managed_pages,
        "promoted_pages": promoted,
        "demoted_pages": demoted,
        "moved_bytes": (promoted + demoted) * PAGE_BYTES,
        "ping_pong_pages": tally.ping_pong_pages,
        "failed": failures(tally.errno),
        "fast_share": run.fast_share,
        "fast_share_at_start": run.fast_share_at_start,
        "costs": {
            "cpu_s": costs.cpu_ns / NS_PER_S,
            "cpu_share": costs.cpu_ns / NS_PER_S / max(seconds, 1e-9),
            "application_s": costs.application_ns / NS_PER_S,
            "background_s": costs.background_ns / NS_PER_S,
            "migration_s": costs.migration_ns / NS_PER_S,
            "epoch_s": run.pacer.epoch_s,
            "epoch_cost_s": run.pacer.cost_s,
        },
        **huge_report(run.loop.sizer),
        "coarsened": run.paced,
        "units": run.units,
        "tiers": run.tiers,
        "promised_ns": tally.promised_ns,
        "realised_ns": tally.realised_ns,
        "held_back_pages": tally.held_back_pages,
        "held_back": None if hold_back is None else hold_back.to_dict(),
        "brake": [_shift(shift, run.began_ns) for shift in run.shifts],
        "gears": run.brake.gears,
    }


def _shift(shift: Shift, began_ns: int) -> Mapping[str, Any]:
    return {
        "time_s": (shift.now_ns - began_ns) / NS_PER_S,
        "event": shift.event,
        "sign": shift.sign.value,
        "value": shift.value,
        "limit": shift.limit,
        "share": shift.share,
    }
