"""The table of a simulated run's tenants."""

from collections.abc import Mapping, Sequence
from typing import Any

from isotherm.cli.output import print_table, table


def print_tenants(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what every tenant has met, and of it what it would have had alone."""
    names = ("guarantee", "held", "fast", "slowdown", "alone", "kept", "paid")
    made = table([("tenant", "left"), *((name, "right") for name in names)])
    for row in rows:
        alone, kept = row["solo_slowdown"], row["kept"]
        made.add_row(
            row["name"],
            str(row["guarantee_pages"]),
            f"{row['mean_fast_pages']:.0f}",
            f"{row['fast_share']:.1%}",
            "" if row["slowdown"] is None else f"{row['slowdown']:.3f}",
            "" if alone is None else f"{alone:.3f}",
            "" if kept is None else f"{kept:.1%}",
            f"{row['paid_moves']} moves",
        )
    print_table(made)
