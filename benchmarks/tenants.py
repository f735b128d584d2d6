"""A well-behaved tenant beside a scanning or thrashing neighbour.

    .venv/bin/python benchmarks/tenants.py [--publish] [--pages N] [--seeds 1,2]
        [--only bars|losses]

Three mixes on dram-cxl, a fifth of the memory fast. The neighbour has as many pages
and makes twice as many accesses. The tenant is guaranteed half of the fast tier, more
than it earns with; the neighbour nothing. Each mix runs with a price per tenant, with
one global price (no tenancy) and as a fixed partition by halves; *kept* is the
tenant's performance over what it has alone on a machine with as much fast memory as
its guarantee, its own moves and looks charged. Exit code 1 where a bar is missed: 95 %
kept, and all memory together at most 5 % slower than with one global price. A second
table is of where tenants lose: a weight beside a sweep, and two sockets, on half as
many pages; no bar is on it.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from isotherm.lab.simulate import SimulationSpec, simulate
from publish import markdown, publish

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "results" / "tenants.md"
KEPT: Final = 0.95
TOTAL: Final = 1.05
#: Tenant and neighbour of each mix: a hot set beside a sweep, a skewed one beside one
#: that changes every four seconds, a database beside skewed data under a sweep.
MIXES: Final = {
    "gups beside stream": ('kind = "gups"', 'kind = "stream"'),
    "zipf beside phases": ('kind = "zipf"', 'kind = "phases"\nphase_s = 4'),
    "btree beside scan-zipf": ('kind = "btree"', 'kind = "scan-zipf"'),
}
SHARINGS: Final = {
    "a price per tenant": "price",
    "one global price": "none",
    "fixed partition": "partition",
}
GUARANTEE: Final = "50%"
#: Machine and the tenant's weight, btree beside stream, a price per tenant.
LOSSES: Final = (("dram-cxl", 1), ("dram-cxl", 4), ("two-socket-cxl", 1))

Row = dict[str, Any]


def mix_text(tenant: str, neighbour: str) -> str:
    """Return a mixture of two."""
    parts = (("tenant", tenant, 1), ("neighbour", neighbour, 2))
    return "\n".join(
        f'[[part]]\nname = "{name}"\n{kind}\npages = 1\naccesses = {accesses}'
        for name, kind, accesses in parts
    )


def tenants_text(sharing: str, weight: float = 1) -> str:
    """Return the file of tenants; a fixed partition gives each its half."""
    other = GUARANTEE if sharing == "partition" else "0%"
    rows = (("tenant", GUARANTEE, weight), ("neighbour", other, 1))
    return f'sharing = "{sharing}"\n' + "\n".join(
        f'[[tenant]]\nname = "{name}"\nworkload = "{name}"\nguarantee = "{share}"'
        f"\nweight = {float(counts)}"
        for name, share, counts in rows
    )


def run(pages: int, seeds: Sequence[int], folder: Path) -> list[Row]:
    """Return one row for each mix, sharing and seed."""
    rows = []
    for number, (mix, kinds) in enumerate(MIXES.items()):
        workload = folder / f"mix{number}.toml"
        workload.write_text(mix_text(*kinds))
        for name, sharing in SHARINGS.items():
            tenants = folder / f"{sharing}.toml"
            tenants.write_text(tenants_text(sharing))
            for seed in seeds:
                spec = SimulationSpec(
                    "isotherm",
                    str(workload),
                    pages=pages,
                    seed=seed,
                    tenants=str(tenants),
                )
                result = simulate(spec)
                mine, other = result["tenants"]
                rows.append(
                    {
                        "mix": mix,
                        "run": name,
                        "seed": seed,
                        "total": result["slowdown"],
                        "kept": mine["kept"],
                        "slowdown": mine["slowdown"],
                        "solo": mine["solo_slowdown"],
                        "share": mine["fast_share"],
                        "solo_share": mine["solo_fast_share"],
                        "held": mine["mean_fast_pages"] / mine["guarantee_pages"],
                        "neighbour": other["slowdown"],
                    }
                )
                print(f"{mix}, {name}, seed {seed}", file=sys.stderr, flush=True)
    return rows


def lose(pages: int, seeds: Sequence[int], folder: Path) -> str:
    """Return the table of where tenants lose, means over seeds."""
    workload = folder / "losses.toml"
    workload.write_text(mix_text('kind = "btree"', 'kind = "stream"'))
    lines = []
    for machine, weight in LOSSES:
        tenants = folder / f"weight-{weight}.toml"
        tenants.write_text(tenants_text("price", weight))
        found = []
        for seed in seeds:
            spec = SimulationSpec(
                "isotherm",
                str(workload),
                machine=machine,
                pages=pages,
                seed=seed,
                tenants=str(tenants),
            )
            found.append(simulate(spec)["tenants"][0])
            print(f"{machine}, weight {weight}, seed {seed}", file=sys.stderr)
        of = {name: statistics.fmean(row[name] for row in found) for name in _LOST}
        lines.append(
            [
                machine,
                str(weight),
                f"{of['kept']:.1%}",
                f"{of['slowdown']:.3f}",
                f"{of['stall_ns'] / of['all_fast_ns']:.3f}",
                f"{of['solo_slowdown']:.3f}",
                f"{of['fast_share']:.3f}",
                f"{of['solo_fast_share']:.3f}",
                f"{of['paid_moves'] / of['pages']:.1f}",
            ]
        )
    header = ["machine", "weight", "kept", "slowdown", "of it waiting", "alone"]
    return markdown([*header, "fast", "alone fast", "moves a page"], lines)


_LOST: Final = (
    *("kept", "slowdown", "solo_slowdown", "fast_share", "solo_fast_share"),
    *("stall_ns", "all_fast_ns", "paid_moves", "pages"),
)


def mean(rows: Sequence[Row], mix: str, name: str, column: str) -> float:
    """Return the mean over seeds."""
    return statistics.fmean(
        row[column] for row in rows if (row["mix"], row["run"]) == (mix, name)
    )


def tables(rows: Sequence[Row]) -> tuple[str, bool]:
    """Return the table, and whether the bars are kept."""
    out, kept = [], True
    price, common, _ = SHARINGS
    for mix in MIXES:
        base = mean(rows, mix, common, "total")
        for name in SHARINGS:
            figures = {c: mean(rows, mix, name, c) for c in rows[0] if c not in _WORDS}
            over = figures["total"] / base
            out.append(
                [
                    mix,
                    name,
                    f"{figures['kept']:.1%}",
                    f"{figures['slowdown']:.3f}",
                    f"{figures['solo']:.3f}",
                    f"{figures['share']:.3f}",
                    f"{figures['solo_share']:.3f}",
                    f"{figures['held']:.0%}",
                    f"{figures['neighbour']:.3f}",
                    f"{figures['total']:.3f}",
                    f"{over - 1:+.1%}",
                ]
            )
            if name == price:
                kept &= figures["kept"] >= KEPT and over <= TOTAL
    header = ["mix", "shared by", "kept", "slowdown", "alone", "fast", "alone fast"]
    header += ["of guarantee held", "neighbour", "total", "total over one price"]
    return markdown(header, out), kept


_WORDS: Final = ("mix", "run", "seed")


def main() -> int:
    """Run; print, and publish where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--pages", type=int, default=16384)
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--only", choices=("bars", "losses"))
    chosen = parser.parse_args()
    seeds = [int(word) for word in chosen.seeds.split(",")]
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        if chosen.only != "bars":
            text = lose(chosen.pages // 2, seeds, Path(folder))
            print(text)
            if chosen.publish:
                publish("tenants-losses", text, PAGE)
        if chosen.only != "losses":
            text, kept = tables(run(chosen.pages, seeds, Path(folder)))
            print(text)
            print("bars kept" if kept else "a bar is missed")
            if chosen.publish:
                publish("tenants", text, PAGE)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
