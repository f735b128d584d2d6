"""Figures of tenants: what each holds, meets, causes and pays."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.observability.metrics import Family

#: Figure, its text, and where it stands in a tenant's report.
_BYTES: Final = (
    ("tenant_managed_bytes", "Managed memory of a tenant.", "bytes"),
    ("tenant_fast_bytes", "Of it in the fastest tier.", "fast_bytes"),
    ("tenant_guarantee_bytes", "Guaranteed of the fastest tier.", "guarantee_bytes"),
    ("tenant_maximum_bytes", "Most that it may have of it.", "maximum_bytes"),
    ("tenant_owed_bytes", "Used of the guarantee: nobody may buy it.", "owed_bytes"),
    ("tenant_lent_bytes", "Guaranteed, and held by others now.", "lent_bytes"),
    ("tenant_borrowed_bytes", "Held beyond the guarantee.", "borrowed_bytes"),
)
_SEEN: Final = (
    (
        "tenant_fast_share_ratio",
        "Share of a tenant's accesses served by the fastest tier, estimated.",
        "fast_share",
    ),
    (
        "tenant_slowdown_ratio",
        "Latency of its accesses over that with all of its memory fast, estimated.",
        "slowdown",
    ),
    ("tenant_accesses_per_second", "Its accesses, estimated.", "accesses_per_s"),
)
_COSTS: Final = (
    ("migration", "migration_ns"),
    ("application", "application_ns"),
    ("background", "background_ns"),
    ("cpu", "cpu_ns"),
)


def tenant_families(report: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
    """Give the figures of a report of `LiveTenants`; nothing without tenants."""
    if not report:
        return
    info: dict[tuple[str, ...], float] = {
        (row["name"], row["profile"] or ""): 1.0 for row in report
    }
    labels = ("tenant", "profile")
    yield Family("tenant_info", "gauge", "A tenant; always 1.", labels, info)
    for name, text, field in (*_BYTES, *_SEEN):
        rows: dict[tuple[str, ...], float] = {
            (row["name"],): float(row[field])
            for row in report
            if row[field] is not None
        }
        yield Family(name, "gauge", text, ("tenant",), rows)
    yield Family(
        "tenant_slot_price_seconds",
        "gauge",
        "What a fast slot costs it for an epoch; pool: common, owed or capped, whom"
        " that price is settled with.",
        ("tenant", "pool"),
        {
            (row["name"], row["pool"]): row["price_ns"] / NS_PER_S
            for row in report
            if row["price_ns"] is not None
        },
    )
    moved: dict[tuple[str, ...], float] = {}
    costs: dict[tuple[str, ...], float] = {}
    for row in report:
        moved[row["name"], "promotion"] = row["promoted_pages"]
        moved[row["name"], "demotion"] = row["demoted_pages"]
        for of, field in _COSTS:
            costs[row["name"], of] = row[field] / NS_PER_S
    yield Family(
        "tenant_moved_pages",
        "counter",
        "Its pages that were moved, whoever pays.",
        ("tenant", "direction"),
        moved,
    )
    yield Family(
        "tenant_charged_bytes",
        "counter",
        "Moves that it pays for, of its own pages and of others that made room.",
        ("tenant",),
        {(row["name"],): row["paid_moves"] * PAGE_BYTES for row in report},
    )
    yield Family(
        "tenant_cost_seconds",
        "counter",
        "What it is charged, of what the run took.",
        ("tenant", "of"),
        costs,
    )
