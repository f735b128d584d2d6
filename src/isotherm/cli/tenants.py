"""``isotherm tenants``: who holds how much of the fast tier, and who pays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from isotherm.cli.output import (
    note,
    print_json,
    print_table,
    print_text,
    start_logging,
    table,
)
from isotherm.core.errors import TargetGoneError
from isotherm.core.units import render_bytes, render_ns

EPILOGUE = """\
Examples:
  isotherm run --tenants tenants.toml
  isotherm tenants
  isotherm tenants --json
  isotherm tenants --check tenants.toml

Overhead: the daemon counts its pages by tenant once an epoch, 1 to 2 ns a page,
and keeps one byte a page; an answer reads memory.numa_stat of every cgroup.
"""

app = App(name="tenants", help_epilogue=EPILOGUE, help_format="plaintext")


@app.default
def tenants(
    *,
    check: Path | None = None,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Show every tenant of the running daemons: share, slowdown, price, bill.

    Parameters
    ----------
    check
        Read this file and show what it says, profiles resolved; ask nobody.
    json
        Print one JSON document with raw units.
    """
    start_logging()
    if check is not None:
        return _check(check, as_json=json)
    from isotherm.daemon.asking import list_tenants  # noqa: PLC0415  # --help is quick

    found = list_tenants()
    if not found:
        raise TargetGoneError("no isotherm runs", hint="isotherm run --tenants FILE")
    if json:
        print_json({"daemons": found})
        return 0
    for daemon in found:
        print_text(f"{daemon['pid']}: {daemon['targets']}")
        if not daemon["tenants"]:
            note("  it has no tenants: isotherm run --tenants FILE")
            continue
        _print_shares(daemon["tenants"])
        _print_bills(daemon["tenants"])
    return 0


def _check(path: Path, *, as_json: bool) -> int:
    """Show what a file says."""
    from isotherm.policy.tenant_file import read_tenants  # noqa: PLC0415  # numpy

    file = read_tenants(path)
    rows: list[dict[str, Any]] = [
        {
            "name": tenant.name,
            "profile": tenant.profile,
            "guarantee": str(tenant.guarantee),
            "maximum": str(tenant.maximum),
            "weight": tenant.weight,
            "lend": tenant.lend,
            "move_share": tenant.move_share,
            "keep_out": sorted(tenant.keep_out),
            "cgroup": member.cgroup,
            "pids": list(member.pids),
            "workload": list(member.workload),
        }
        for tenant, member in zip(file.tenancy.tenants, file.members, strict=True)
    ]
    if as_json:
        print_json({"sharing": file.tenancy.sharing, "tenants": rows})
        return 0
    made = table(
        [("tenant", "left"), ("profile", "left")]
        + [(text, "right") for text in ("least", "most", "weight", "lend", "moves")]
        + [("not in", "left")]
    )
    for row in rows:
        made.add_row(
            row["name"],
            row["profile"],
            row["guarantee"],
            row["maximum"],
            f"{row['weight']:g}",
            f"{row['lend']:.0%}",
            f"{row['move_share']:.0%}",
            ", ".join(row["keep_out"]),
        )
    print_text(f"{path}: shared by {file.tenancy.sharing}")
    print_table(made)
    return 0


def _print_shares(rows: list[Mapping[str, Any]]) -> None:
    made = table(
        [("tenant", "left")]
        + [(text, "right") for text in ("fast", "of", "guarantee")]
        + [(text, "right") for text in ("lent", "borrowed")]
        + [("hits", "right"), ("slowdown", "right")]
    )
    for row in rows:
        share, slowdown = row["fast_share"], row["slowdown"]
        made.add_row(
            row["name"],
            render_bytes(row["fast_bytes"]),
            render_bytes(row["bytes"]),
            render_bytes(row["guarantee_bytes"]),
            render_bytes(row["lent_bytes"]),
            render_bytes(row["borrowed_bytes"]),
            "" if share is None else f"{share:.1%}",
            "" if slowdown is None else f"{slowdown:.2f}",
        )
    print_table(made)


def _print_bills(rows: list[Mapping[str, Any]]) -> None:
    made = table(
        [("pays", "left"), ("price", "right"), ("with", "left")]
        + [(text, "right") for text in ("up", "down", "paid for", "moving", "CPU")]
    )
    for row in rows:
        price = row["price_ns"]
        made.add_row(
            row["name"],
            "" if price is None else render_ns(price),
            {"common": "all", "owed": "guarantee", "capped": "maximum"}.get(
                row["pool"] or "", ""
            ),
            str(row["promoted_pages"]),
            str(row["demoted_pages"]),
            str(row["paid_moves"]),
            render_ns(row["migration_ns"]),
            render_ns(row["cpu_ns"]),
        )
    print_table(made)
