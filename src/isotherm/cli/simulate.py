"""``isotherm simulate``: one policy, one workload, one machine."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from isotherm.cli.options import (
    at_least,
    check_loss,
    parse_faults,
    parse_hints,
    parse_pairs,
    parse_rate,
    parse_ratio,
    parse_settings,
    split_recording,
)
from isotherm.cli.output import (
    MAX_COLUMNS,
    print_json,
    print_table,
    print_text,
    progress_bar,
    start_logging,
    table,
    tell_first_start,
)
from isotherm.cli.tenant_table import print_tenants
from isotherm.cli.termination import tidy_end
from isotherm.core.errors import UsageError
from isotherm.core.extras import require
from isotherm.core.units import PAGE_BYTES, render_bytes, render_ns
from isotherm.lab import catalogue

#: Threads that are named in a line of advice.
_NAMED = 3

EPILOGUE = """\
Examples:
  isotherm simulate --list
  isotherm simulate --policy isotherm --workload gups --fast-ratio 1/5
  isotherm simulate --workload drift --policy tpp --json
  isotherm simulate --workload trace.parquet --rate 10 --record run
  isotherm explain run --pages 0-63
  isotherm simulate --workload perf.data --hints perf.data:perf.data

Overhead: everything is simulated; nothing of this host is looked at or moved.
"""

app = App(name="simulate", help_epilogue=EPILOGUE, help_format="plaintext")


@app.default
def simulate(
    *,
    policy: str = "isotherm",
    workload: str = "zipf",
    machine: str = "dram-cxl",
    fast_ratio: str = "0.2",
    pages: int | None = None,
    accesses: int | None = None,
    seed: int = 1,
    rate: str | None = None,
    placement: str = "random",
    hints: str | None = None,
    sampling_period: int = 2000,
    sampling_loss: float = 0.0,
    epoch: float = 0.5,
    memory_bound: str | None = None,
    option: Annotated[list[str] | None, Parameter(negative=())] = None,
    workload_option: Annotated[list[str] | None, Parameter(negative=())] = None,
    fault: Annotated[list[str] | None, Parameter(negative=())] = None,
    compressibility: str | None = None,
    huge_pages: str | None = None,
    record: Path | None = None,
    tenants: Path | None = None,
    advise_cpus: Literal["off", "print", "apply"] = "off",
    list_: Annotated[
        bool, Parameter(name="--list", negative=(), show_default=False)
    ] = False,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Run one policy on one workload on one simulated machine.

    Parameters
    ----------
    policy
        Name of a policy or a bound.
    workload
        Name of a generator, a TOML workload, or a trace.
    machine
        Name of a machine, a TOML machine, or a recorded topology.
    fast_ratio
        Fast memory over the workload's footprint: 0.2, 1/5 or 20%.
    pages
        Footprint of a generator in 4 KiB pages (default 32768).
    accesses
        Stop after so many (default: 120 simulated seconds, a trace's end).
    seed
        For every random choice; the same seed gives the same result.
    rate
        Accesses per page per second (default 10; a trace: its own times).
    placement
        Where pages are at the start: random, first-access or slowest.
    hints
        Comma list of sampling, accessed-bit, hint-fault, region, or none
        (default: all that the policy wants); what it cannot use stays off.
        perf.data:FILE takes the samples of a recording of the same trace.
    sampling_period
        Accesses per sample.
    sampling_loss
        Share of samples that the hardware drops, in [0, 1).
    epoch
        Simulated seconds between decisions.
    memory_bound
        Share of time spent waiting for memory when all of it is fast;
        adds app_slowdown, in which computing counts too.
    option
        A parameter of the policy, name=value; may be repeated.
    workload_option
        A parameter of the generator, name=value; may be repeated.
    fault
        Trouble for moves, name=share: busy, no_memory (of tries), vanished,
        pinned (of pages); may be repeated.
    compressibility
        How well the data compress, for ocp-expander: 2, or 3-1.5/60 (from 3:1 to
        1.5:1 in 60 s); default: as the workload says, or 2.
    huge_pages
        Model huge pages and the TLB; who decides about them: priced (isotherm),
        never-split, always-split or always-huge; MODE:small begins without any,
        MODE:mixed with half (default: all pages are small).
    record
        Keep what isotherm explain reads in this directory; a recording that is
        there is replaced.
    tenants
        Whose the parts of a mixed workload are, and on which terms: a TOML file.
    advise_cpus
        print advises where the workload's threads should run, apply has them run
        there; for workloads whose parts have threads, on machines of two sockets.
    list_
        List policies, workloads, machines and hints.
    json
        Print one JSON document with raw units.
    """
    start_logging()
    if list_:
        _print_list(as_json=json)
        return 0
    at_least("pages", pages, 1)
    at_least("accesses", accesses, 1)
    at_least("sampling period", sampling_period, 1)
    at_least("epoch", epoch, 1e-6)
    catalogue.check_policy(policy)
    catalogue.check_workload(workload)
    if pages is not None and not catalogue.is_generator(workload):
        raise UsageError(
            f"--pages: {workload} is a trace of so many pages as it has, got {pages}",
            hint="leave it out; --workload-option window=K/N plays a part of a trace",
        )
    catalogue.check_machine(machine)
    catalogue.check_placement(placement)
    ratio = parse_ratio(fast_ratio)
    bound = None if memory_bound is None else parse_ratio(memory_bound, "memory bound")
    hints, recording = split_recording(hints)
    mechanisms = parse_hints(hints)
    options = parse_pairs(option or (), "option")
    workload_options = parse_settings(workload_option or (), "workload option")
    faults = parse_faults(fault or ())
    check_loss(sampling_loss)
    pace = None if rate is None else parse_rate(rate)

    if record is not None:
        require("pyarrow")

    # The simulator brings numba: 0.5 s that a wrong option must not wait for.
    from isotherm.lab.grid import default_rate  # noqa: PLC0415
    from isotherm.lab.simulate import SimulationSpec  # noqa: PLC0415
    from isotherm.lab.simulate import simulate as run  # noqa: PLC0415
    from isotherm.observability.recorder import Recorder  # noqa: PLC0415

    spec = SimulationSpec(
        policy=policy,
        workload=workload,
        machine=machine,
        fast_ratio=ratio,
        pages=pages,
        accesses=accesses,
        seed=seed,
        rate=default_rate(workload) if rate is None else pace,
        placement=placement,
        hints=mechanisms,
        sampling_period=sampling_period,
        epoch_s=epoch,
        memory_bound=bound,
        options=options,
        workload_options=workload_options,
        sampling_loss=sampling_loss,
        faults=faults,
        compressibility=compressibility,
        huge_pages=huge_pages,
        recording=recording,
        tenants=None if tenants is None else str(tenants),
        advise_cpus=advise_cpus,
    )
    tell_first_start()
    total_s = _expected_seconds(spec.workload, spec.pages, spec.accesses, spec.rate)
    with progress_bar(f"{policy} on {Path(workload).name}") as bar:

        def progress(done_s: float) -> None:
            bar(done_s, total_s)

        if record is None:
            result = run(spec, progress=progress)
        else:
            with tidy_end(), Recorder(record) as recorder:
                result = run(spec, recorder=recorder, progress=progress)
    if json:
        print_json(result)
    else:
        _print_result(result)
        if record is not None:
            print_text(f"recorded in {record}: isotherm explain {record} --pages 0-63")
    return 0


def _expected_seconds(
    workload: str, pages: int | None, accesses: int | None, rate: float | None
) -> float | None:
    """Return simulated seconds to come, for the bar; None of a trace."""
    if not catalogue.is_generator(workload):
        return None
    if accesses is None or rate is None:
        return 120.0
    return accesses / (rate * (pages or 32768))


def _print_list(*, as_json: bool) -> None:
    parts: dict[str, Mapping[str, str]] = {
        "policies": catalogue.POLICIES,
        "bounds": catalogue.BOUNDS,
        "workloads": catalogue.WORKLOADS,
        "traces": catalogue.traces(),
        "machines": catalogue.machines(),
        "hints": {str(name): text for name, text in catalogue.HINTS.items()},
        "placements": catalogue.PLACEMENTS,
    }
    if as_json:
        print_json(parts)
        return
    for kind, names in parts.items():
        print_text(kind)
        for name, text in names.items():
            wrapped = textwrap.wrap(text, MAX_COLUMNS - 18)
            for start, line in zip([name, *[""] * len(wrapped)], wrapped, strict=False):
                print_text(f"  {start:<15} {line}")
        print_text()
    print_text(
        "A file serves as well: a trace, a TOML workload, a TOML machine, a topology."
    )


def _print_result(result: Mapping[str, Any]) -> None:
    made = table(
        [("", "left"), ("", "right"), ("", "left")],
        title=f"{result['policy']} on {Path(result['workload']).name},"
        f" {Path(result['machine']).name}, fast memory {result['fast_ratio']:.1%}",
    )
    made.show_header = False
    moved = f"{result['promoted_pages']} up, {result['demoted_pages']} down"
    if result["ping_pong_pages"]:
        moved += f", {result['ping_pong_pages']} back and forth"
    rate = result["rate"]
    work = f"{result['accesses'] / 1e6:.3g} M accesses in {result['simulated_s']:.4g} s"
    if rate is not None:
        work += f", {rate:g} a page and second"
    speed = (
        f"{result['accesses_per_wall_s'] / 1e6:.3g} M accesses/s,"
        f" and {result['setup_s']:.2f} s of set-up"
    )
    looking = result.get("hints") or ()
    rows = [
        ("slowdown", f"{result['slowdown']:.3f}", "1 is all memory fast"),
        ("served fast", f"{result['fast_share']:.1%}", "of accesses"),
        ("mean latency", render_ns(result["mean_latency_ns"]), "an access"),
        ("moved", render_bytes(result["migrated_bytes"]), moved),
        ("spent moving", render_ns(result["migration_time_ns"]), ""),
        ("spent looking", render_ns(result["hint_overhead_ns"]), ", ".join(looking)),
        ("workload", render_bytes(result["pages"] * PAGE_BYTES), work),
        ("simulated in", f"{result['wall_s']:.2f} s", speed),
    ]
    if "app_slowdown" in result and result["app_slowdown"] is not None:
        text = f"{result['app_slowdown']:.3f}"
        rows.insert(1, ("of the program", text, "computing counted too"))
    if cpus := result.get("cpu_advice"):
        moved = f"{cpus['thread_moves']} moves of threads" if cpus["applied"] else ""
        shares = cpus["remote_shares"] or [result["remote_share"]]
        text = f"of accesses, at first {shares[0]:.1%}; {moved}".rstrip("; ")
        rows.insert(2, ("far", f"{shares[-1]:.1%}", text))
        if cpus["advice"] and not cpus["applied"]:
            rows.insert(3, _advised(cpus["advice"][-1]))
    if born := result.get("births"):
        share = result["fast_births"] / born
        rows.insert(2, ("born fast", f"{share:.1%}", f"of {born} pages"))
    if recorded := result.get("recording"):
        text = f"{recorded['of_no_page']} of no page, {recorded['lost']} lost"
        rows.insert(-2, ("recorded", f"{recorded['samples']} samples", text))
    if device := result.get("expander"):
        text = f"at most {device['peak_fill']:.0%}, {device['ratio']:.2f}:1 stored"
        if device["failed_writes"]:
            text += f", {device['failed_writes']} failed writes"
        rows.insert(-1, ("device full", f"{device['fill']:.1%}", text))
    if huge := result.get("huge_pages"):
        text = f"{huge['collapses']} collapses, {huge['splits']} splits"
        rows.insert(-1, ("huge pages", f"{huge['huge_share']:.1%}", text))
        rows.insert(-1, ("TLB walks", render_ns(huge["walk_ns"]), ""))
    for row in rows:
        made.add_row(*row)
    print_table(made)
    if found := result.get("tenants"):
        print_tenants(found)


def _advised(advice: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the row of advice on where threads had better run."""
    threads = advice["threads"]
    named = [f"{row['id']} on {row['to']}" for row in threads[:_NAMED]]
    more = len(threads) - len(named)
    text = ", ".join(named) + (f" and {more} more" if more else "")
    return "better run", text, f"saves {advice['gain']:.0%} of what accesses cost"
