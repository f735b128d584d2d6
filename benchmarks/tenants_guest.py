"""A tenant beside a sweep on a real kernel: what it keeps by each kind of sharing.

    .venv/bin/python benchmarks/tenants_guest.py [--runs 3] [--publish]

Each run boots the two-tier guest for `tests/vm/test_tenants.py`, whose workloads count
their own accesses, and keeps what every sharing came to in out/tenants-guest/; runs
that are there are not made again. About five minutes a run on an idle host. *Kept* is
the tenant's share of accesses to the fast node over that of the best placement in as
many slots as it is guaranteed. Exit code 1 where less than 95 % is kept by a price per
tenant, or 95 % with one global price.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from publish import markdown, publish

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "results" / "tenants.md"
OUT: Final = ROOT / "out" / "tenants-guest"
KEPT: Final = 0.95
SHARINGS: Final = {
    "price": "a price per tenant",
    "none": "one global price",
}
LIMIT_S: Final = 1800

Row = dict[str, Any]


def run(folder: Path) -> None:
    """Boot a guest for the tests that compare kinds of sharing.

    Raises:
        SystemExit: They did not pass.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fast = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "ISOTHERM_KERNELS": "numpy"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vmtest", "--layout", "two-tier"),
            *("--limit", str(LIMIT_S), "--out", str(folder)),
            *(word for name in fast for word in ("--env", name)),
            *("--", "python", "-m", "pytest", "-v", "--tb=short"),
            *("-p", "pytest_timeout", "-p", "no:cacheprovider"),
            *("--confcutdir", "tests/vm", "tests/vm/test_tenants.py"),
            *("-k", "holds_beside_a_scan", "-x"),
        ],
        cwd=ROOT,
        env={**os.environ, **fast},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{folder.name}: exit status {done.returncode}")


def read(folders: list[Path]) -> list[Row]:
    """Return what every sharing came to in every run."""
    files = (
        path for folder in folders for path in sorted(folder.glob("beside-*.json"))
    )
    return [row for path in files for row in json.loads(path.read_text())]


def table(rows: list[Row]) -> tuple[str, bool]:
    """Return the table, and whether the bars are kept."""
    lines, kept = [], True
    for sharing, name in SHARINGS.items():
        mine = [row for row in rows if row["sharing"] == sharing]
        if not mine:
            continue
        each = [row["kept"] for row in mine]
        of = {c: statistics.median(row[c] for row in mine) for c in _COLUMNS}
        lines.append(
            [
                name,
                str(len(mine)),
                f"{statistics.median(each):.1%}",
                f"{min(each):.1%} to {max(each):.1%}",
                f"{of['fast_share']:.3f}",
                f"{of['best_share']:.3f}",
                f"{of['fast_pages']:,.0f}",
                f"{of['neighbour_pages']:,.0f}",
                f"{of['neighbour_share']:.3f}",
            ]
        )
        if sharing == "price":
            kept &= min(each) >= KEPT
        elif sharing == "none":
            kept &= max(each) < KEPT
    header = ["shared by", "times", "kept", "least to most", "fast", "best"]
    header += ["fast pages", "neighbour's", "neighbour's fast"]
    return markdown(header, lines), kept


_COLUMNS: Final = (
    *("fast_share", "best_share", "fast_pages"),
    *("neighbour_pages", "neighbour_share"),
)


def main() -> int:
    """Run what is missing; print, and publish where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    folders = [OUT / f"run-{number}" for number in range(1, chosen.runs + 1)]
    for folder in folders:
        if not (folder / "beside-price.json").exists():
            run(folder)
    text, kept = table(read(folders))
    print(text)
    print("bars kept" if kept else "a bar is missed")
    if chosen.publish:
        publish("tenants-guest", text, PAGE)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
