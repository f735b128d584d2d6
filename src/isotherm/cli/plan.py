"""``isotherm plan``: how much fast memory, for how much money."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from isotherm.cli.options import (
    at_least,
    check_all,
    check_parquet,
    check_scheduler,
    parse_list,
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
    progress_bar,
    start_logging,
    table,
    tell_first_start,
)
from isotherm.core.errors import UsageError
from isotherm.core.extras import require
from isotherm.core.files import check_writable
from isotherm.lab import catalogue

if TYPE_CHECKING:
    from isotherm.lab.advice import Setting
    from isotherm.lab.capacity import Need
    from isotherm.lab.money import Costs, Offer
    from isotherm.lab.planning import Answer, Asked

EPILOGUE = """\
Examples:
  isotherm plan --workload zipf --machine dram-cxl --max-slowdown 10%
  isotherm plan --workload trace.parquet --windows 4 --memory-bound 30% \\
      --max-slowdown 5% --costs prices.toml --out plan.parquet
  isotherm plan --fleet traces/ --max-slowdown 5% --memory-bound 30%
  isotherm plan --advise --workload trace.parquet --fast-ratio 1/4

The slowdown is of the time spent waiting for memory, which is the whole of a
program's only if it does nothing else: give --memory-bound, or expect far too
much. Without --costs the prices are assumed.

Overhead: six runs a policy and replica, one process per core unless --jobs
says otherwise.
"""

app = App(name="plan", help_epilogue=EPILOGUE, help_format="plaintext")


@app.default
def plan(
    *,
    workload: str = "zipf",
    fleet: str | None = None,
    machine: str = "dram-cxl",
    max_slowdown: str = "5%",
    policies: Annotated[
        str, Parameter(name=["--policies", "--policy"])
    ] = "isotherm,first-touch",
    seeds: str = "1,2,3",
    windows: int = 1,
    memory_bound: str | None = None,
    costs: Path | None = None,
    advise: Annotated[bool, Parameter(negative=())] = False,
    fast_ratio: str = "0.2",
    rate: str | None = None,
    pages: int | None = None,
    accesses: int | None = None,
    placement: str = "random",
    sampling_period: int = 2000,
    workload_option: Annotated[list[str] | None, Parameter(negative=())] = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Say how much fast memory a workload needs, and what that saves.

    Parameters
    ----------
    workload
        A generator, a TOML workload or a trace.
    fleet
        A directory of recorded traces, one a host, instead of a workload; or an
        object store's: s3://BUCKET/PATH, gs://BUCKET/PATH.
    machine
        A machine, a TOML machine or a topology.
    max_slowdown
        Allowed time over that with all memory fast, less one: 5% or 0.05.
    policies
        Comma list of policies, or all.
    seeds
        Comma list: replicas of a generator, for the confidence interval.
    windows
        Cut a trace into so many equal parts: its replicas.
    memory_bound
        Share of time that the program waits for memory when all is fast.
    costs
        TOML with prices: [per_gib] dram = 4.0, cxl = 2.5.
    advise
        Say instead which settings of an unmodified kernel suit the workload.
    fast_ratio
        Fast memory over footprint that there is, for --advise.
    rate
        Accesses per page per second (default 10; a trace: its own times).
    pages
        Footprint of a generator in 4 KiB pages (default 32768).
    accesses
        Stop after so many (default: 120 simulated seconds, a trace's end).
    placement
        random, first-access or slowest.
    sampling_period
        Accesses per sample.
    workload_option
        A parameter of the generator, name=value; may be repeated.
    jobs
        Processes (default: one per core); results do not depend on it.
    scheduler
        Address of a Dask scheduler to run on instead.
    out
        Keep finished runs in this Parquet file, and go on from it.
    json
        Print one JSON document with raw units.
    """
    asked_for = dict(locals())
    start_logging()
    if advise and fleet is not None:
        raise UsageError(
            "--advise: expected one workload, got --fleet",
            hint=f"settings are of one host: --workload {fleet}/HOST.parquet",
        )
    at_least("jobs", jobs, 1)
    at_least("windows", windows, 1)
    names = list(catalogue.POLICIES) if policies == "all" else policies
    chosen = check_all(
        catalogue.check_policy,
        names if isinstance(names, list) else parse_list(names, str, "policies"),
    )
    allowed = parse_ratio(max_slowdown, "max slowdown", beyond_all=True)
    seed_list = parse_list(seeds, int, "seeds")
    bound = None
    if memory_bound is not None:
        bound = parse_ratio(memory_bound, "memory bound")
    options = parse_settings(workload_option or (), "workload option")
    catalogue.check_machine(machine)
    catalogue.check_placement(placement)
    ratio = parse_ratio(fast_ratio)
    if out is not None:
        require("pyarrow")
        check_writable(out)
        check_parquet(out)
    check_scheduler(scheduler)
    if not advise:
        require("scipy")

    from isotherm.lab.advice import best_settings, candidates  # noqa: PLC0415  # likewise
    from isotherm.lab.fleet import host_traces, hosts_need, near  # noqa: PLC0415  # brings numba
    from isotherm.lab.money import ASSUMED, read_costs  # noqa: PLC0415
    from isotherm.lab.planning import Planner  # noqa: PLC0415

    if fleet is not None and "://" in fleet:
        with near(fleet) as folder:
            return plan(**{**asked_for, "fleet": str(folder)})
    prices = ASSUMED if costs is None else read_costs(costs)
    hosts = [catalogue.check_workload(workload)]
    if fleet is not None:
        hosts = [str(path) for path in host_traces(Path(fleet))]
    fixed = [host for host in hosts if not catalogue.is_generator(host)]
    if windows > 1 and len(fixed) < len(hosts):
        raise UsageError(
            f"--windows: {hosts[0]} is a generator, expected a trace",
            hint="--seeds 1,2,3 makes replicas of a generator",
        )
    if pages is not None and fixed:
        note(f"--pages is not for traces: {', '.join(fixed)}")
    planner = Planner(
        machine=machine,
        policies=chosen,
        max_slowdown=allowed,
        costs=prices,
        jobs=jobs,
        scheduler=scheduler,
        out=out,
    )
    asked: Asked = {
        "rate": None if rate is None else parse_rate(rate),
        "own_rate": rate is None,
        "seeds": seed_list,
        "windows": windows,
        "memory_bound": bound,
        "pages": pages,
        "accesses": accesses,
        "placement": placement,
        "sampling_period": sampling_period,
        "workload_options": options,
    }
    tell_first_start()
    if advise:
        tried = candidates()
        with progress_bar("simulating settings") as bar:
            planner.progress = bar
            rows = planner.try_out(
                hosts[0], [(c.policy, c.options) for c in tried], ratio, **asked
            )
        settings = best_settings(tried, rows, planner.topology)
        _print_settings(settings, as_json=json)
        return 0
    with progress_bar("planning") as bar:
        answers: list[Answer] = []
        planner.progress = lambda done: bar((len(answers) + done) / len(hosts))
        for host in hosts:
            answers.append(  # noqa: PERF401  # progress counts them
                planner.ask(host, **asked)
            )
    if fleet is not None:
        found = hosts_need(answers, planner.machine, prices)
        if json:
            print_json(found.as_json(answers, prices))
        else:
            _print_fleet(found, len(answers), prices)
        return 0
    answer = answers[0]
    if json:
        print_json(answer.as_json(prices))
        return 0
    _print_answer(answer.needs, answer.offers, prices)
    print_wrapped(answer.advice)
    if bound is None:
        note("slowdown is of memory time alone; --memory-bound tells the program's")
    return 0


def _print_answer(needs: "list[Need]", offers: "list[Offer]", costs: "Costs") -> None:
    made = table(
        [
            ("policy", "left"),
            ("fast memory", "right"),
            ("mean, 95 % sure", "right"),
            ("slowdown", "right"),
            ("price", "right"),
            ("saved", "right"),
        ]
    )
    for need, offer in zip(needs, offers, strict=True):
        interval = need.interval()
        made.add_row(
            need.policy,
            f"{offer.ratio:.0%}",
            "" if interval is None else f"{interval[0]:.0%} to {interval[1]:.0%}",
            f"{max(need.slowdowns) - 1:.1%}",
            f"{offer.price:.0%}",
            f"{offer.saved:.0%}",
        )
    print_table(made)
    print_wrapped(_price_line(costs))


def _print_settings(settings: "list[Setting]", *, as_json: bool) -> None:
    from isotherm.lab.advice import advice_of, pays  # noqa: PLC0415  # brings numba

    if as_json:
        found = [
            {
                "mechanism": setting.candidate.policy,
                "options": dict(setting.candidate.options),
                "slowdown": setting.slowdown,
                "commands": setting.commands,
            }
            for setting in settings
        ]
        print_json({"settings": found, "advice": advice_of(settings)})
        return
    made = table([("mechanism", "left"), ("slowdown", "right"), ("settings", "left")])
    for setting in settings:
        options = setting.candidate.options
        shown = ", ".join(
            f"{name} {value:g}"
            for name, value in options.items()
            if name != "reference_gib"
        )
        made.add_row(setting.candidate.policy, f"{setting.slowdown:.3f}", shown)
    print_table(made)
    print_wrapped(advice_of(settings))
    if pays(settings):
        commands = settings[0].commands
        unprivileged = all(line.startswith("numactl ") for line in commands)
        print_text("Start it as:" if unprivileged else "As root:")
        for line in commands:
            print_text(f"  {line}")


def _print_fleet(found: Any, hosts: int, costs: "Costs") -> None:  # FleetNeed
    columns = [("policy", "left")]
    columns += [(f"{share:.0%} of hosts", "right") for share in found.shares]
    made = table([*columns, ("bought for all", "right"), ("saved", "right")])
    for row in found.rows:
        made.add_row(
            row.policy,
            *[f"{ratio:.0%}" for ratio in row.ratios],
            f"{row.offer.ratio:.0%}",
            f"{row.offer.saved:.0%}",
        )
    print_table(made)
    count = "1 host" if hosts == 1 else f"{hosts} hosts"
    print_wrapped(f"{count}. {_price_line(costs)}")
    print_wrapped(found.advice)


def _price_line(costs: "Costs") -> str:
    listed = ", ".join(
        f"{kind} {price:g}" for kind, price in sorted(costs.per_gib.items())
    )
    return f"Prices a GiB ({costs.source}; {costs.unit}): {listed}."
