"""Judge isotherm against every peer and two bounds on a grid of cells.

    .venv/bin/python benchmarks/quality.py [--quick] [--only main,rate-100] ...

Finished runs are kept in OUT/runs.parquet, so that a run that was stopped goes
on; runs whose code has changed since are made again, and set aside in
OUT/runs-other-code.parquet for the day that code comes back. The cells go to
OUT/quality.parquet, from which quality_report.py writes docs/results/quality.md.
The bars are printed per regime; exit code 1 when one is missed.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from isotherm.core.errors import IsothermError
from isotherm.data import trace_path
from isotherm.lab.compare import Answer, compare, usable_cores
from isotherm.lab.future import workload_future
from isotherm.lab.simulate import (
    DEFAULT_PAGES,
    SimulationSpec,
    simulate,
)
from isotherm.policy.bounds import KnownFuture
from isotherm.policy.registry import NEEDS_FUTURE
from isotherm.trace.stream import Pace, Workload
from isotherm.workloads.registry import make_workload
from quality_grid import (
    OURS,
    PEERS,
    PERIODS,
    PLACE,
    QUICK_PERIOD,
    QUICK_SEED,
    RATIOS,
    REGIMES,
    SEEDS,
    TRACE,
    TUNING_WORKLOADS,
    Planned,
    Selection,
    choose,
    in_order,
    is_flat,
    plan,
    tuning_specs,
    workloads_of,
)
from quality_report import print_bars, read_bars
from quality_store import Runs, Stale, is_current

ROOT: Final = Path(__file__).resolve().parents[1]
OUT: Final = ROOT / "out" / "quality"
PUBLISHED: Final = ROOT / "docs" / "results" / "quality.parquet"
RUNS: Final = "runs.parquet"
CELLS: Final = "quality.parquet"

Stream = tuple[str, int | None, int, tuple[tuple[str, Any], ...]]


# ---- what a worker does


def work(spec: SimulationSpec, keep_timeline: bool) -> Answer:
    """Make one run; what runs of one access stream share is made once."""
    options = tuple(sorted(spec.workload_options.items()))
    stream: Stream = (spec.workload, spec.pages, spec.seed, options)
    future = _future(stream, spec.pace) if spec.policy in NEEDS_FUTURE else None
    result = simulate(spec, workload=_workload(stream), future=future)
    result["workload"] = spec.workload
    return result, None


@functools.lru_cache(maxsize=1)
def _workload(stream: Stream) -> Workload:
    name, pages, seed, options = stream
    if name.startswith(TRACE):
        return make_workload(str(trace_path(name.removeprefix(TRACE))))
    return make_workload(name, pages or DEFAULT_PAGES, seed, dict(options) or None)


@functools.lru_cache(maxsize=1)
def _future(stream: Stream, pace: Pace) -> KnownFuture:
    return workload_future(_workload(stream), pace)


# ---- how far it is


class Progress:
    """Runs done and time left on stderr; a line a minute without a terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = self._told = time.monotonic()
        self._first: int | None = None
        self._wide = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Tell, unless it was told a moment ago."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
            print(f"{self._title}: {total} runs, {done} kept", file=sys.stderr)
        if done == self._first == total:
            return
        if done < total and now - self._told < (1 if self._wide else 60):
            return
        self._told = now
        made = done - self._first
        left = ""
        if made:
            left = f", {(total - done) * (now - self._began) / made:.0f} s left"
        text = f"{self._title}: {done} of {total}{left}"
        end = "\r" if self._wide and done < total else "\n"
        print(f"{text:<70}", end=end, file=sys.stderr, flush=True)


def run(
    specs: Sequence[SimulationSpec], args: argparse.Namespace, title: str
) -> dict[str, dict[str, Any]]:
    """Make the runs that are not kept yet; return all that are."""
    with Runs(args.out / RUNS, args.stale) as store:
        if store.stale:
            print(
                f"{store.stale} runs made by other code: {args.stale}", file=sys.stderr
            )
        if store.back:
            print(f"{store.back} runs made by this code before: used", file=sys.stderr)
        if specs:
            compare(
                in_order(specs),
                jobs=args.jobs,
                store=store,
                progress=Progress(title),
                work=work,
            )
        if store.mixed:
            print(
                f"{store.mixed} runs: the code changed while they ran;"
                " the next start makes them again",
                file=sys.stderr,
            )
        return dict(store.done)


# ---- cells


Rows = dict[tuple[object, ...], dict[str, Any]]


def read_published(path: Path, pages: int) -> Rows:
    """Return the rows of a file of cells by their place; none where it is not there.

    Rows of generators with another number of pages are left out.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415  # workers do without

    rows = pq.read_table(path).to_pylist() if path.exists() else []
    return {
        tuple(row[name] for name in PLACE): row
        for row in rows
        if row["pages"] == pages or REGIMES[row["regime"]].traces
    }


def cell_rows(
    planned: Sequence[Planned],
    done: dict[str, dict[str, Any]],
    published: Rows | None = None,
) -> list[dict[str, Any]]:
    """Return one row per policy and cell, of the cells of which all is there.

    Args:
        planned: The runs.
        done: Finished ones by key.
        published: Rows that stand for runs that are not kept, or kept from other
            code than there is.
    """
    made = [(entry, _row_of(entry, done, published or {})) for entry in planned]
    missing = {entry.cell for entry, row in made if row is None}
    return [row for entry, row in made if row is not None and entry.cell not in missing]


def _row_of(
    entry: Planned, done: dict[str, dict[str, Any]], published: Rows
) -> dict[str, Any] | None:
    result, kept, spec = done.get(entry.key), published.get(entry.place), entry.spec
    if result is None or (kept is not None and not is_current(result)):
        return kept
    moves = result["promoted_pages"] + result["demoted_pages"]
    return {
        "regime": entry.regime,
        "workload": spec.workload.removeprefix(TRACE),
        "tuning": spec.workload in TUNING_WORKLOADS,
        "flat": is_flat(spec.workload),
        "fast_ratio": spec.fast_ratio,
        "seed": spec.seed,
        "period": entry.period,
        "policy": spec.policy,
        "variant": entry.variant,
        "options": entry.options,
        "slowdown": result["slowdown"],
        "fast_share": result["fast_share"],
        "moves_per_page": moves / result["pages"],
        "hint_share": result["hint_overhead_ns"]
        / (result["mean_latency_ns"] * result["accesses"]),
        "accesses": result["accesses"],
        "pages": result["pages"],
        "simulated_s": result["simulated_s"],
        "code": result.get("code"),
    }


def write_cells(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the cells, whole or not at all."""
    import pyarrow as pa  # noqa: PLC0415  # workers do without
    import pyarrow.parquet as pq  # noqa: PLC0415  # likewise

    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(list(rows)), partial, compression="zstd")
    partial.replace(path)


# ---- command line


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",") if part]

    return parse


def _one_of(known: Sequence[str], what: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in known:
            raise argparse.ArgumentTypeError(
                f"{what} {name!r}: expected one of {', '.join(known)}"
            )
        return name

    return check


def _ratio(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    names = sorted({w for r in REGIMES.values() for w in workloads_of(r, None)})
    regime, peer = _one_of(list(REGIMES), "regime"), _one_of(PEERS, "peer")
    add = parser.add_argument
    add("--quick", action="store_true", help="seed 1 and period 2000 only")
    add("--only", type=_list_of(regime), default=list(REGIMES), help="regimes")
    add("--policies", type=_list_of(peer), default=list(PEERS), help="peers")
    add("--workloads", type=_list_of(_one_of(names, "workload")), default=None)
    add("--seeds", type=_list_of(int), default=None)
    add("--periods", type=_list_of(int), default=None)
    add("--ratios", type=_list_of(_ratio), default=list(RATIOS))
    add("--pages", type=int, default=DEFAULT_PAGES)
    add("--jobs", type=int, default=usable_cores(), help="processes")
    add("--out", type=Path, default=OUT, help="directory of the Parquet files")
    add("--no-tune", action="store_true", help="peers at their defaults only")
    add(
        "--stale",
        type=Stale,
        choices=list(Stale),
        default=Stale.ASIDE,
        help="runs made by other code: use them and what was published, the same but"
        " isotherm's made again, set them aside, drop them",
    )
    args = parser.parse_args(arguments)
    args.seeds = args.seeds or ([QUICK_SEED] if args.quick else list(SEEDS))
    args.periods = args.periods or ([QUICK_PERIOD] if args.quick else list(PERIODS))
    return args


def run_all(args: argparse.Namespace) -> Path:
    """Make all runs that were asked for; return the file of the cells.

    The file holds the cells asked for and, of the whole grid, those that earlier
    runs have finished. Where runs of other code are used, published rows stand for
    runs that are not kept: those are not made again, and the file has them.
    """
    uses = args.stale in (Stale.USE, Stale.OURS)
    published = read_published(PUBLISHED, args.pages) if uses else {}
    args.out.mkdir(parents=True, exist_ok=True)
    part = Selection(
        args.workloads,
        args.ratios,
        args.periods,
        args.seeds,
        args.policies,
        args.pages,
    )
    tuned: dict[str, int] = {}
    if not args.no_tune:
        grids = tuning_specs(part)
        done = run([s for runs in grids.values() for s in runs], args, "tuning")
        tuned = choose(grids, done)
    whole = Selection(
        ratios=tuple(dict.fromkeys((*RATIOS, *args.ratios))),
        periods=tuple(dict.fromkeys((*PERIODS, *args.periods))),
        seeds=tuple(dict.fromkeys((*SEEDS, *args.seeds))),
        peers=args.policies,
        pages=args.pages,
    )
    entries = [e for regime in REGIMES.values() for e in plan(regime, whole, tuned)]
    path: Path = args.out / CELLS
    for name in args.only:
        wanted = [
            entry.spec
            for entry in plan(REGIMES[name], part, tuned)
            if entry.place not in published
            or (args.stale == Stale.OURS and entry.spec.policy == OURS)
        ]
        done = run(wanted, args, name)
        write_cells(cell_rows(entries, done, published), path)
        print_bars(read_bars(path), {name})
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the bars, judge."""
    args = parse_arguments(arguments)
    try:
        path = run_all(args)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except IsothermError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    bars = read_bars(path)
    missed = [b for b in bars if b.regime in args.only and b.passed is False]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
