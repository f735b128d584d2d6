"""Write the Grafana dashboard: ``python deploy/grafana/build.py > isotherm.json``.

A panel is a title, a unit, and queries with their legends; what Grafana wants around
them is the same for all.
"""

import json
import sys
from typing import Any, Final

#: The kernel's own promotions and demotions.
KERNEL: Final = 'isotherm_kernel_events_total{counter=~"pg(promote|demote).*"}'
#: What tenants are charged.
CHARGED: Final = "isotherm_tenant_cost_seconds_total"

#: (title, what it shows, unit, [(query, legend)])
PANELS: Final = (
    (
        "Accesses served by the fastest tier",
        "Estimated from hints; 100 % is a host with fast memory only.",
        "percentunit",
        [("isotherm_fast_share_ratio", "{{instance}}")],
    ),
    (
        "Managed memory by tier",
        "Tier 0 is the fastest.",
        "bytes",
        [
            (
                "sum by (instance, tier) (isotherm_node_managed_bytes)",
                "{{instance}} tier {{tier}}",
            )
        ],
    ),
    (
        "Moves by isotherm and by the kernel",
        "Pages a second. The kernel's promotions and demotions are its own.",
        "ops",
        [
            ("rate(isotherm_moved_pages_total[$__rate_interval])", "{{direction}}"),
            (
                f"rate({KERNEL}[$__rate_interval])",
                "kernel {{counter}}",
            ),
        ],
    ),
    (
        "Moves by mover",
        "Pages a second between tiers; no page is in two lines.",
        "ops",
        [
            (
                "rate(isotherm_mover_pages_total[$__rate_interval])",
                "{{mover}} {{direction}}",
            )
        ],
    ),
    (
        "Accesses by tier",
        "Share that each tier serves, estimated.",
        "percentunit",
        [("isotherm_tier_access_share_ratio", "{{instance}} tier {{tier}}")],
    ),
    (
        "Moves between tiers",
        "Pages a second, by isotherm.",
        "ops",
        [
            (
                "rate(isotherm_tier_moved_pages_total[$__rate_interval])",
                "{{src}} to {{dst}}",
            )
        ],
    ),
    (
        "Gain promised and realised",
        "Access time that moves saved, seconds a second.",
        "none",
        [("deriv(isotherm_gain_seconds[10m])", "{{what}}")],
    ),
    (
        "Price of a place",
        "Access time per epoch that a page must save to be above a boundary.",
        "s",
        [("isotherm_slot_price_seconds", "boundary {{boundary}}")],
    ),
    (
        "Brake",
        "Share of the migration rate that is let through.",
        "percentunit",
        [("isotherm_brake_share_ratio", "{{instance}}")],
    ),
    (
        "Tries that failed",
        "Pages a second by error.",
        "ops",
        [("rate(isotherm_move_failures_total[$__rate_interval])", "{{errno}}")],
    ),
    (
        "Moved back soon",
        "Pages a second.",
        "ops",
        [("rate(isotherm_ping_pong_pages_total[$__rate_interval])", "{{instance}}")],
    ),
    (
        "Hints",
        "Observations a second by source, and what was lost.",
        "ops",
        [
            ("rate(isotherm_hint_observations_total[$__rate_interval])", "{{source}}"),
            ("rate(isotherm_hint_losses_total[$__rate_interval])", "{{source}} lost"),
        ],
    ),
    (
        "What it takes",
        "Of one core; the dashed line is the budget of cpu.",
        "percentunit",
        [
            ("rate(isotherm_cost_seconds_total[$__rate_interval])", "{{of}}"),
            ("isotherm_cpu_budget_ratio", "budget"),
        ],
    ),
    (
        "Memory of the daemon",
        "Resident.",
        "bytes",
        [('process_resident_memory_bytes{job="isotherm"}', "{{instance}}")],
    ),
    (
        "Time between decisions",
        "Longer where the CPU budget wants it.",
        "s",
        [("isotherm_epoch_seconds", "{{instance}}")],
    ),
    (
        "Fast memory of tenants",
        "What each holds of the fastest tier.",
        "bytes",
        [
            ("isotherm_tenant_fast_bytes", "{{tenant}}"),
            ("isotherm_tenant_guarantee_bytes > 0", "{{tenant}} guaranteed"),
        ],
    ),
    (
        "Slowdown of tenants",
        "Latency of accesses over that with all of their memory fast, estimated.",
        "none",
        [("isotherm_tenant_slowdown_ratio", "{{tenant}}")],
    ),
    (
        "Accesses of tenants served by the fastest tier",
        "Estimated.",
        "percentunit",
        [("isotherm_tenant_fast_share_ratio", "{{tenant}}")],
    ),
    (
        "Lent and borrowed",
        "Guaranteed and held by others; held beyond a guarantee.",
        "bytes",
        [
            ("isotherm_tenant_lent_bytes > 0", "{{tenant}} lends"),
            ("isotherm_tenant_borrowed_bytes > 0", "{{tenant}} borrows"),
        ],
    ),
    (
        "Who pays for moves",
        "Bytes a second, also of others that made room.",
        "Bps",
        [("rate(isotherm_tenant_charged_bytes_total[$__rate_interval])", "{{tenant}}")],
    ),
    (
        "What tenants are charged",
        "Of one core, all kinds of cost together.",
        "percentunit",
        [
            (
                f"sum by (instance, tenant) (rate({CHARGED}[$__rate_interval]))",
                "{{tenant}}",
            )
        ],
    ),
    (
        "Pods",
        "With terms of their own, of the rest, left alone, not known yet.",
        "none",
        [("isotherm_pods", "{{state}}")],
    ),
)
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": "isotherm",
        "title": "isotherm: memory tiering",
        "tags": ["memory", "tiering"],
        "timezone": "browser",
        "schemaVersion": 38,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_variable()]},
        "panels": [_panel(at, *panel) for at, panel in enumerate(PANELS)],
    }


def _variable() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus"}


def _panel(
    at: int, title: str, text: str, unit: str, queries: list[tuple[str, str]]
) -> dict[str, Any]:
    return {
        "id": at + 1,
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "gridPos": {"x": 12 * (at % 2), "y": 8 * (at // 2), "w": 12, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(65 + i),
                "datasource": SOURCE,
                "expr": e,
                "legendFormat": name,
            }
            for i, (e, name) in enumerate(queries)
        ],
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=1)
    sys.stdout.write("\n")
