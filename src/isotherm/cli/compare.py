"""``isotherm compare``: policies side by side, with the bounds."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from isotherm.cli.options import (
    at_least,
    check_all,
    check_loss,
    check_parquet,
    check_scheduler,
    parse_faults,
    parse_hints,
    parse_list,
    parse_pairs,
    parse_rate,
    parse_ratio,
    parse_settings,
)
from isotherm.cli.output import (
    note,
    print_json,
    print_table,
    print_text,
    print_wrapped,
    start_logging,
    table,
    tell_first_start,
)
from isotherm.cli.report_files import ReportFiles
from isotherm.cli.sweep_progress import sweep_progress
from isotherm.cli.tenant_table import print_tenants
from isotherm.core.extras import require
from isotherm.core.files import check_writable
from isotherm.lab import catalogue

EPILOGUE = """\
Examples:
  isotherm compare --policies isotherm,tpp,memtis --workloads gups,drift
  isotherm compare --policies all --workloads zipf --fast-ratios 1/2,1/5,1/9 \\
      --report zipf.html
  isotherm compare --policies all --workloads all --seeds 1,2,3 \\
      --out grid.parquet
  isotherm compare --policies isotherm,tpp --workloads trace.parquet --rate 10 \\
      --json

  isotherm compare --policies isotherm,tpp --workloads all --seeds 1,2,3 \\
      --hints sampling --hints accessed-bit --hints sampling,accessed-bit

first-touch and the bounds all-fast, all-slow, static-oracle and clairvoyant
are always run beside what was asked for. Runs that are in --out FILE are not
made again; an interrupted grid goes on where it stopped.

Overhead: one process per core unless --jobs says otherwise.
"""

app = App(name="compare", help_epilogue=EPILOGUE, help_format="plaintext")

#: A table of this many ratios still fits 80 columns.
MAX_RATIOS = 5


@app.default
def compare(
    *,
    policies: Annotated[str, Parameter(name=["--policies", "--policy"])] = "all",
    workloads: Annotated[str, Parameter(name=["--workloads", "--workload"])] = "zipf",
    machines: Annotated[str, Parameter(name=["--machines", "--machine"])] = "dram-cxl",
    fast_ratios: Annotated[
        str, Parameter(name=["--fast-ratios", "--fast-ratio"])
    ] = "0.2",
    seeds: Annotated[str, Parameter(name=["--seeds", "--seed"])] = "1",
    rates: Annotated[str | None, Parameter(name=["--rates", "--rate"])] = None,
    placements: Annotated[
        str, Parameter(name=["--placements", "--placement"])
    ] = "random",
    sampling_periods: Annotated[
        str, Parameter(name=["--sampling-periods", "--sampling-period"])
    ] = "2000",
    pages: int | None = None,
    accesses: int | None = None,
    hints: Annotated[list[str] | None, Parameter(negative=())] = None,
    sampling_loss: float = 0.0,
    epoch: float = 0.5,
    memory_bound: str | None = None,
    option: Annotated[list[str] | None, Parameter(negative=())] = None,
    workload_option: Annotated[list[str] | None, Parameter(negative=())] = None,
    fault: Annotated[list[str] | None, Parameter(negative=())] = None,
    compressibility: str | None = None,
    tenants: Path | None = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    trace_cache: float | None = None,
    report: Path | None = None,
    export: Path | None = None,
    costs: Path | None = None,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Compare policies on workloads, machines and fast-memory ratios.

    Parameters
    ----------
    policies
        Comma list of policies, or all.
    workloads
        Comma list of generators, TOML workloads and traces, or all.
    machines
        Comma list of machines, TOML machines and topologies, or all.
    fast_ratios
        Comma list of fast memory over footprint: 0.5,0.2 or 1/2,1/5.
    seeds
        Comma list; tables show the mean over seeds.
    rates
        Comma list of accesses per page per second (default 10; a trace: its
        own times, which the word trace asks for).
    placements
        Comma list of random, first-access, slowest.
    sampling_periods
        Comma list of accesses per sample.
    pages
        Footprint of generators in 4 KiB pages (default 32768).
    accesses
        Stop after so many (default: 120 simulated seconds, a trace's end).
    hints
        Comma list of sampling, accessed-bit, hint-fault, region, chmu, or none
        (default: all that the policy wants); what it cannot use stays off.
        Repeated: each list is a setting, and every policy runs under each.
    sampling_loss
        Share of samples that the hardware drops, in [0, 1).
    epoch
        Simulated seconds between decisions.
    memory_bound
        Share of time spent waiting for memory when all of it is fast.
    option
        A parameter of the policies, name=value; may be repeated.
    workload_option
        A parameter of the generators, name=value; may be repeated.
    fault
        Trouble for moves, name=share: busy, no_memory (of tries), vanished,
        pinned (of pages); may be repeated.
    compressibility
        How well the data compress, for ocp-expander: 2, or 3-1.5/60 (from 3:1 to
        1.5:1 in 60 s); default: as the workload says, or 2.
    tenants
        Whose the parts of a mixed workload are, and on which terms: a TOML file.
    jobs
        Processes (default: one per core); results do not depend on it.
    scheduler
        Address of a Dask scheduler to run on instead.
    trace_cache
        Disk for decoded traces while it runs, in GiB on each host (default: 8, at
        most a quarter of what is free; 0: a trace is decoded for every run).
    report
        Write a self-contained HTML report to this file.
    export
        Write the report's charts to this directory, as Vega-Lite JSON and PNG.
    costs
        TOML file of prices per GiB for the report; without it: assumed.
    out
        Keep finished runs in this Parquet file, and go on from it.
    json
        Print one JSON document with raw units.
    """
    start_logging()
    at_least("jobs", jobs, 1)
    at_least("pages", pages, 1)
    at_least("accesses", accesses, 1)
    at_least("epoch", epoch, 1e-6)
    at_least("trace cache", trace_cache, 0)
    chosen = {
        "policies": _names(policies, catalogue.POLICIES, catalogue.check_policy),
        "workloads": _names(workloads, catalogue.WORKLOADS, catalogue.check_workload),
        "machines": _names(machines, catalogue.machines(), catalogue.check_machine),
    }
    fixed = [name for name in chosen["workloads"] if not catalogue.is_generator(name)]
    if pages is not None and fixed:
        note(f"--pages is not for traces: {', '.join(fixed)}")
    ratios = parse_list(fast_ratios, parse_ratio, "fast ratios")
    bound = None if memory_bound is None else parse_ratio(memory_bound, "memory bound")
    seed_list = parse_list(seeds, int, "seeds")
    period_list = parse_list(sampling_periods, int, "sampling periods")
    at_least("sampling periods", min(period_list), 1)
    pace = None if rates is None else parse_list(rates, parse_rate, "rates")
    placement_list = parse_list(placements, catalogue.check_placement, "placements")
    settings = [parse_hints(text) for text in hints or (None,)]
    options = parse_pairs(option or (), "option")
    workload_options = parse_settings(workload_option or (), "workload option")
    faults = parse_faults(fault or ())
    check_loss(sampling_loss)
    for path in (report, out):
        if path is not None:
            check_writable(path)
    check_parquet(out)
    if out is not None:
        require("pyarrow")
    check_scheduler(scheduler)
    files = ReportFiles.asked(report, export, costs, chosen["machines"])

    # The simulator brings numba: 0.5 s that a wrong option must not wait for.
    from isotherm.lab.compare import compare as run  # noqa: PLC0415
    from isotherm.lab.grid import Grid  # noqa: PLC0415
    from isotherm.lab.simulate import SimulationSpec  # noqa: PLC0415
    from isotherm.lab.store import ResultStore  # noqa: PLC0415
    from isotherm.lab.trace_cache import DEFAULT_LIMIT_BYTES  # noqa: PLC0415

    common = SimulationSpec(
        policy="isotherm",
        workload="zipf",
        pages=pages,
        accesses=accesses,
        epoch_s=epoch,
        memory_bound=bound,
        options=options,
        workload_options=workload_options,
        sampling_loss=sampling_loss,
        faults=faults,
        compressibility=compressibility,
        tenants=None if tenants is None else str(tenants),
    )
    grid = Grid(
        policies=chosen["policies"],
        workloads=chosen["workloads"],
        machines=chosen["machines"],
        fast_ratios=ratios,
        seeds=seed_list,
        rates=pace,
        placements=placement_list,
        sampling_periods=period_list,
        hint_settings=list(dict.fromkeys(settings)),
        common=common,
    )
    specs = grid.specs()
    tell_first_start()
    keep = None
    if files is not None:
        from isotherm.lab.shown import timeline_wanted  # noqa: PLC0415

        keep = timeline_wanted(specs)
    trace_bytes = DEFAULT_LIMIT_BYTES
    if trace_cache is not None:
        trace_bytes = int(trace_cache * (1 << 30))
    store = nullcontext() if out is None else ResultStore(out)
    with store as kept, sweep_progress("comparing") as bar:
        found = run(
            specs,
            jobs=jobs,
            scheduler=scheduler,
            store=kept,
            keep_timeline=keep,
            progress=bar,
            trace_bytes=trace_bytes,
        )
    if found.resumed:
        note(f"{found.resumed} of {len(specs)} runs were finished before, in {out}")
    for failure in found.errors:
        note(f"left out: {failure['error']}")
    if found.decoded:
        traces = "1 trace" if found.decoded == 1 else f"{found.decoded} traces"
        note(f"{traces} decoded, shared by the runs of each")
    shown = found.results if len(settings) == 1 else with_hints_named(found.results)
    if json:
        document: dict[str, Any] = {"results": found.results}
        if found.errors:
            document["errors"] = found.errors
        print_json(document)
    else:
        print_results(shown)
    if files is not None:  # last: what an hour has found is said by now
        files.write(shown, found.timelines)
    return 0


def with_hints_named(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return results in which a policy under different hints has different names.

    >>> row = {"policy": "isotherm", "hints": ["accessed-bit", "sampling"]}
    >>> with_hints_named([row])[0]["policy"]
    'isotherm (accessed-bit, sampling)'
    """
    return [
        row
        if row["policy"] in catalogue.WITHOUT_HINTS
        else {
            **row,
            "policy": f"{row['policy']} ({', '.join(row['hints']) or 'no hints'})",
        }
        for row in results
    ]


def _names(text: str, known: Any, check: Any) -> Sequence[str]:  # two shapes
    if text == "all":
        return list(known)
    return check_all(check, parse_list(text, str, "names"))


def print_results(results: Sequence[Any]) -> None:
    """Print one table per setting, and who wins."""
    from isotherm.lab.summary import headline, settings_of  # noqa: PLC0415  # small

    for setting, rows in settings_of(results):
        _print_setting(setting, rows)
    for row in results:
        if found := row.get("tenants"):
            print_text(f"{row['policy']}, {row['fast_ratio']:.3g} fast")
            print_tenants(found)
    title, sentences = headline(results)
    print_wrapped(title + ".")
    for sentence in sentences:
        print_wrapped(sentence)


def _print_setting(setting: tuple[Any, ...], rows: Sequence[Any]) -> None:
    from isotherm.lab.summary import ORDER, mean, name_of  # noqa: PLC0415

    machine, workload, rate, placement, period = setting
    ratios = sorted({row["fast_ratio"] for row in rows}, reverse=True)
    seeds = len({row["seed"] for row in rows})
    pace = "own times" if rate is None else f"{rate:g} a page and second"
    title = f"{name_of(workload)} on {name_of(machine)}"
    under = f"{pace}, {placement} placement, a sample per {period}"
    if seeds > 1:
        under += f", mean of {seeds} seeds"
    policies = list(dict.fromkeys(row["policy"] for row in rows))

    def pick(policy: str, name: str, ratio: float) -> float | None:
        return mean(
            row[name]
            for row in rows
            if row["policy"] == policy and row["fast_ratio"] == ratio
        )

    def order(policy: str) -> tuple[int, float]:
        place = ORDER.index(policy) if policy in ORDER else len(ORDER)
        last = 1 if policy == "all-slow" else 0
        return (place + last, pick(policy, "slowdown", ratios[-1]) or 0.0)

    policies.sort(key=order)
    print_text(title)
    print_text(f"  {under}")
    for start in range(0, len(ratios), MAX_RATIOS):
        block = ratios[start : start + MAX_RATIOS]
        one = len(ratios) == 1
        columns = [("policy", "left")]
        columns += [(f"{ratio:.3g} fast", "right") for ratio in block]
        if one:
            columns += [
                (text, "right") for text in ("regret", "served fast", "moves/page")
            ]
        made = table(columns)
        for policy in policies:
            cells = [_number(pick(policy, "slowdown", ratio), 3) for ratio in block]
            if one:
                cells.append(_number(pick(policy, "regret", block[0]), 2))
                share = pick(policy, "fast_share", block[0])
                cells.append("" if share is None else f"{share:.1%}")
                cells.append(_number(pick(policy, "moves_per_page", block[0]), 2))
            made.add_row(policy, *cells)
        print_table(made)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
