"""Record the traces that isotherm ships: ``python record.py NAME... [--out DIR]``.

Each recipe makes its input from a seed in a scratch folder, without valgrind,
and then records one program. Needs valgrind, gcc, libsqlite3-dev, sqlite3,
redis-server, zstd and coreutils (``apt install`` each by that name).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import inputs
import redis_client

from isotherm.core.units import render_bytes, render_ns
from isotherm.trace.format import TraceReader
from isotherm.trace.record import record_command

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "src" / "isotherm" / "data" / "traces"
KIB = 1024
#: The footprints stand for ones a thousand times as large. A page of those is
#: touched a thousand times less often, so time is stretched by as much.
NS_PER_INSTRUCTION = 1000


@dataclass(frozen=True)
class Recipe:
    """How one trace is made.

    Attributes:
        prepare: Makes the input in the scratch folder, which is also where the
            program runs.
        command: The recorded command.
        llc_bytes: Modelled cache: small beside the footprint, as on a server.
        quantum_instructions: Accesses of one page within it become one row.
        note: What the program does, for the provenance.
        seed: Of the input, and of the program's draws.
        limit: Accesses after which the program is ended.
        skip_instructions: Start-up that is left out.
        client: Runs beside the program, in a thread.
    """

    prepare: Callable[[Path], object]
    command: list[str]
    llc_bytes: int
    quantum_instructions: int
    note: str
    seed: int
    limit: int | None = None
    skip_instructions: int = 0
    client: Callable[[Path], None] | None = None


def build(folder: Path, program: str, *libraries: str) -> None:
    """Compile one of our programs into the scratch folder."""
    source = HERE / "src" / f"{program}.c"
    subprocess.run(
        ["gcc", "-O2", "-o", folder / program, source, *libraries, "-lm"], check=True
    )


def prepare_oltp(folder: Path) -> None:
    """Compile the client and make the table."""
    build(folder, "oltp", "-lsqlite3")
    subprocess.run(
        ["./oltp", "build", "oltp.db", "160000", "1"], cwd=folder, check=True
    )


def prepare_analytic(folder: Path) -> None:
    """Make the star schema and the queries."""
    inputs.write_warehouse(folder / "warehouse.db", 24_000, 12_000, 2)
    (folder / "queries.sql").write_text(inputs.WAREHOUSE_QUERIES)


def prepare_graph(folder: Path) -> None:
    """Compile the program and make the graph."""
    build(folder, "graph")
    command = ["./graph", "build", "graph.bin", "19", "5000000", "4"]
    subprocess.run(command, cwd=folder, check=True)


def cc1() -> str:
    """Return the path of the C compiler proper."""
    done = subprocess.run(
        ["gcc", "-print-prog-name=cc1"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


RECIPES = {
    "sqlite-oltp": Recipe(
        prepare_oltp,
        ["./oltp", "run", "oltp.db", "24000", "1001"],
        256 * KIB,
        10_000,
        "sqlite 3: 60 % look-ups by an index, 30 % updates with an insert, 10 % "
        "ranges of 20 rows; power-law keys over 160,000 accounts",
        1,
    ),
    "sqlite-analytic": Recipe(
        prepare_analytic,
        ["sqlite3", "-init", "queries.sql", "warehouse.db", ".quit"],
        256 * KIB,
        10_000,
        "sqlite3: three scans of a 25 MB fact table with joins, grouping, sorting",
        2,
    ),
    "redis": Recipe(
        lambda folder: None,
        [
            *("redis-server", "--port", "0", "--unixsocket", "redis.sock"),
            *("--save", "", "--appendonly", "no", "--enable-debug-command", "yes"),
            *("--hz", "1", "--maxclients", "32"),
        ],
        256 * KIB,
        10_000,
        "redis-server filled by DEBUG POPULATE, then 90 % GET and 10 % SET of "
        "1000-byte values by a power law; the hot keys change half-way",
        3,
        client=lambda folder: redis_client.drive(
            folder / "redis.sock", 30_000, 1000, 40_000, 3
        ),
    ),
    "pagerank": Recipe(
        prepare_graph,
        ["./graph", "run", "graph.bin", "2"],
        1024 * KIB,
        50_000,
        "breadth-first search, then two iterations of PageRank, on an R-MAT graph "
        "of 524,288 vertices and 5 million edges",
        4,
    ),
    "hash-join": Recipe(
        lambda folder: build(folder, "hashjoin"),
        ["./hashjoin", "1048576", "600000", "5"],
        512 * KIB,
        100_000,
        "a hash table of 1,048,576 rows is built, then probed 600,000 times by a "
        "power law, a tenth of the probes in vain",
        5,
    ),
    "sort": Recipe(
        lambda folder: inputs.write_lines(folder / "lines.txt", 80_000, 6),
        ["sort", "--parallel=1", "-S", "64M", "-o", "sorted.txt", "lines.txt"],
        256 * KIB,
        20_000,
        "GNU sort of 80,000 lines of about 120 bytes, in the C locale, in memory",
        6,
    ),
    "zstd": Recipe(
        lambda folder: inputs.write_text(folder / "text", 6 << 20, 7),
        [*("zstd", "-q", "-3", "--long=27", "--single-thread", "-f"), "text"],
        512 * KIB,
        50_000,
        "zstd -3 with a long window on 6 MiB of text with distant repeats",
        7,
    ),
    "gcc": Recipe(
        lambda folder: inputs.write_c_source(folder / "big.c", 1500, 5, 8),
        [cc1(), "-quiet", "-O2", "-o", "big.s", "big.c"],
        256 * KIB,
        10_000,
        "the C compiler proper (cc1 -O2) on a generated file of 4500 declarations "
        "and 5 functions",
        8,
    ),
}


def record(name: str, out: Path) -> None:
    """Record one trace and print its facts."""
    recipe = RECIPES[name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="isotherm-record-") as scratch:
        folder = Path(scratch)
        recipe.prepare(folder)
        client = None
        if recipe.client is not None:
            client = threading.Thread(target=recipe.client, args=(folder,), daemon=True)
            client.start()
        info = record_command(
            recipe.command,
            out / f"{name}.parquet",
            recipe.llc_bytes,
            recipe.limit,
            ns_per_instruction=NS_PER_INSTRUCTION,
            quantum_ns=recipe.quantum_instructions * NS_PER_INSTRUCTION,
            skip_instructions=recipe.skip_instructions,
            note=recipe.note,
            details={
                "seed": str(recipe.seed),
                "made_by": f"benchmarks/record_traces/record.py {name}",
            },
            cwd=folder,
            quiet=True,
            level=19,
        )
        if client is not None:
            client.join()
    print(
        f"{name}: {info.pages} pages, {info.accesses} accesses, {info.rows} rows, "
        f"{info.writes} writes, {info.file_bytes} bytes, "
        f"{time.monotonic() - began:.0f} s, {info.provenance.details}",
        flush=True,
    )


def print_table(folder: Path) -> None:
    """Print the table of docs/reference/recording.md from the files."""
    print("| trace | footprint | accesses | writes | nominal time | cache | file |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in RECIPES:
        info = TraceReader(folder / f"{name}.parquet").info
        cells = [
            f"{info.pages:,} pages, {render_bytes(info.pages * info.page_bytes)}",
            f"{info.accesses:,}",
            f"{(info.writes or 0) / info.accesses:.0%}",
            render_ns(info.duration_ns or 0),
            render_bytes(info.provenance.llc_bytes or 0),
            f"{info.file_bytes / 1e6:.2f} MB",
        ]
        print(f"| `{name}` | {' | '.join(cells)} |")
    for name, recipe in RECIPES.items():
        command = TraceReader(folder / f"{name}.parquet").info.provenance.command
        print(f"* `{name}` (seed {recipe.seed}): {recipe.note}.\n  `{command}`")


def main() -> None:
    """Record the named traces, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--table", action="store_true", help="print what is there")
    given = parser.parse_args()
    if given.table:
        print_table(given.out)
        return
    unknown = set(given.names) - set(RECIPES)
    if unknown:
        sys.exit(
            f"no recipe {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}"
        )
    os.environ["LC_ALL"] = "C"
    for name in given.names or RECIPES:
        record(name, given.out)


if __name__ == "__main__":
    main()
