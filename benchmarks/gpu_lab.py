"""Every policy on machines with a GPU: the tables of docs/results/gpu.md.

    python benchmarks/gpu_lab.py                 # all, and write the tables
    python benchmarks/gpu_lab.py --trace FILE    # Mooncake's requests are there
    python benchmarks/gpu_lab.py --pages         # only what page size costs
    python benchmarks/gpu_lab.py --policies isotherm    # its rows anew, the rest kept

Embedding look-ups have the reuse of Meta's DLRM data sets, in pages of 64 rows and
in pages of one, as a tiered tensor has them. The key-value cache is the generator,
and Mooncake's conversation trace played by a server (`trace import --format
mooncake-serving`). Without the trace its column is left out, and the page says so.
"""

import argparse
import gzip
import itertools
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from command import run
from publish import markdown, publish

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/results/gpu.md"
MACHINES = ("gpu-host", "gpu-coherent")
RATIO = "1/10"
TRACE = "traces/mooncake-conversation.jsonl.gz"
#: Columns: head of the table, arguments of compare beyond policies and machines.
GRIDS = {
    "embedding, a page of 64 rows": "--workloads embedding",
    "embedding, a page of a row": (
        "--workloads embedding --workload-option rows_per_page=1"
    ),
    "kv-cache": "--workloads kv-cache",
}
#: Of the conversation trace: about its first quarter of an hour.
REQUESTS = 3000
SERVING = "--workloads {trace} --rates trace --epoch 2"
#: By column, slowdowns by machine and policy.
Columns = dict[str, dict[tuple[str, str], float]]
BOUNDS = ("all-fast", "clairvoyant", "static-oracle", "all-slow")


def find_trace(given: Path | None) -> Path | None:
    """Return Mooncake's conversation trace; None where it is not there."""
    if given is not None:
        if not given.is_file():
            raise SystemExit(f"{given}: no such trace")
        return given
    shared = Path(os.environ.get("ISOTHERM_SHARED", ROOT.parent / "shared"))
    path = shared / TRACE
    return path if path.is_file() else None


def grids(trace: Path | None, scratch: Path) -> dict[str, str]:
    """Return the columns, with the trace imported where it is there."""
    found = dict(GRIDS)
    if trace is not None:
        first, out = scratch / "first.jsonl", scratch / "mooncake.trace"
        with gzip.open(trace, "rt") as requests:
            first.write_text("".join(itertools.islice(requests, REQUESTS)))
        words = ["trace", "import", str(first), str(out), "--format"]
        run([*words, "mooncake-serving"])
        found["Mooncake"] = SERVING.format(trace=out)
    return found


def slowdowns(
    arguments: str, jobs: int, policies: str = "all"
) -> dict[tuple[str, str], float]:
    """Return the slowdown of every (machine, policy) of a grid."""
    words = ["compare", "--policies", policies, "--machines", ",".join(MACHINES)]
    words += ["--fast-ratios", RATIO, "--jobs", str(jobs), *shlex.split(arguments)]
    rows = run(words)["results"]
    return {(row["machine"], row["policy"]): row["slowdown"] for row in rows}


def kept(page: str, names: Sequence[str]) -> Columns:
    """Return what the tables of a page say, by the names of their columns.

    Args:
        page: The page.
        names: Columns; tables that have others are passed over.
    """
    found: Columns = {name: {} for name in names}
    machine, wanted = "", False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("`"):
            machine = line.strip("`")
        elif line.startswith("| slowdown"):
            wanted = cells[1:] == list(names)
        elif not line:
            wanted = False
        elif wanted and line.startswith("| ") and machine:
            for name, cell in zip(names, cells[1:], strict=True):
                if cell:
                    found[name][machine, cells[0]] = float(cell)
    return found


def table(machine: str, columns: Columns) -> str:
    """Return a machine's table: policies by their geometric mean, then the bounds."""

    def mean(policy: str) -> float:
        product = 1.0
        for found in columns.values():
            product *= found.get((machine, policy), float("inf"))
        return float(product ** (1 / len(columns)))

    names = {policy for found in columns.values() for _, policy in found}
    ranked = sorted(names - set(BOUNDS), key=mean)
    ranked += [bound for bound in BOUNDS if bound in names]
    rows = []
    for policy in ranked:
        cells = [found.get((machine, policy)) for found in columns.values()]
        shown = ["" if cell is None else f"{cell:.2f}" for cell in cells]
        rows.append([policy, *shown])
    return f"`{machine}`\n\n" + markdown([f"slowdown, {RATIO} fast", *columns], rows)


def dilution(rows: int = 1 << 20, share: float = 0.1, seed: int = 1) -> str:
    """Return the best hit rate by page size and skew, rows placed at random.

    Bounded Zipf over ``rows``; the hottest ``share`` of the pages are fast.
    """
    sizes = (1, 2, 4, 8, 16, 64)
    rng = np.random.default_rng(seed)
    table = []
    for exponent in (0.99, 1.05, 1.2):
        weight = np.arange(1, rows + 1) ** -exponent
        weight /= weight.sum()
        placed = weight[rng.permutation(rows)]
        cells = []
        for size in sizes:
            pages = np.sort(placed.reshape(-1, size).sum(1))[::-1]
            cells.append(f"{pages[: int(share * len(pages))].sum():.3f}")
        table.append([f"Zipf {exponent:g}", *cells])
    return markdown(["rows a page", *map(str, sizes)], table)


def main() -> None:
    """Run the grids and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="Mooncake's conversation trace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--print", action="store_true", help="leave the page alone")
    parser.add_argument("--policies", default="all", help="a comma list, or all")
    parser.add_argument("--pages", action="store_true", help="only the page sizes")
    given = parser.parse_args()
    if given.pages and given.print:
        print(dilution())
        return
    if not given.print:
        publish("page-size", dilution(), PAGE)
    if given.pages:
        return
    trace = find_trace(given.trace)
    with tempfile.TemporaryDirectory() as scratch:
        todo = grids(trace, Path(scratch))
        old = {} if given.policies == "all" else kept(PAGE.read_text(), tuple(todo))
        columns = {}
        for name, arguments in todo.items():
            sys.stderr.write(f"{name}\n")
            made = slowdowns(arguments, given.jobs, given.policies)
            columns[name] = old.get(name, {}) | made
    parts = [table(machine, columns) for machine in MACHINES]
    if trace is None:
        parts.append(f"Without Mooncake's requests: {TRACE} is not there.")
    text = "\n\n".join(parts)
    if given.print:
        print(text)
    else:
        publish("gpu-lab", text, PAGE)


if __name__ == "__main__":
    main()
