"""``isotherm workload``: real processes that touch memory and know the truth."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from isotherm.cli.output import note, print_json, print_text

if TYPE_CHECKING:
    from isotherm.workloads.native.truth import Window

EPILOGUE = """\
Examples:
  isotherm workload run gups --pages 32768 --rate 50 --truth /dev/shm/gups
  isotherm workload run gups-shift --set shift_s=30 --duration 60
  isotherm workload run zipf --pages 65536 --rate 0 --huge always --place bind:1
  isotherm workload truth /dev/shm/gups --interval 2

Overhead: run needs the memory that it touches, 8 bytes a page and thread for
counts, and one core a thread at full speed. truth reads 8 bytes a page from
pagemap (root), or asks move_pages: 0.03 to 0.25 us a page and reading.
"""

app = App(name="workload", help_epilogue=EPILOGUE, help_format="plaintext")

_Flag = Annotated[bool, Parameter(negative=())]


@app.command
def run(
    kind: str,
    /,
    *,
    pages: int = 32768,
    rate: float = 10.0,
    duration: float = 60.0,
    seed: int = 1,
    set: Annotated[list[str] | None, Parameter(negative=())] = None,  # noqa: A002
    truth: Path | None = None,
    threads: int = 1,
    huge: str = "default",
    place: str = "",
    place_stays: _Flag = False,
    json: _Flag = False,
) -> int:
    """Touch real memory as a generator says; count and check every access.

    Parameters
    ----------
    kind
        A generator: gups, gups-shift, zipf, phases, drift, ...
    pages
        Pages of 4 KiB to touch.
    rate
        Accesses per page per second; 0: as fast as it goes.
    duration
        Seconds from the first access on; 0: until SIGINT or SIGTERM.
    seed
        Decides which pages are hot, as in simulations.
    set
        A parameter of the generator: hot_share=0.8. May be repeated.
    truth
        Publish counts per page in this file.
    threads
        1, 2, 4, ... 64.
    huge
        Advice about huge pages: default, always, never.
    place
        Where memory is allocated first: bind:N, preferred:N, interleave:N,M.
    place_stays
        Keep that memory policy after the start.
    json
        Print one JSON document at the end instead of a line a second.
    """
    from isotherm.workloads.native.__main__ import run as run_plan  # noqa: PLC0415

    return run_plan(
        SimpleNamespace(
            kind=kind,
            pages=pages,
            rate=rate,
            duration=duration,
            seed=seed,
            set=set or [],
            truth=truth,
            threads=threads,
            huge=huge,
            place=place,
            place_stays=place_stays,
            json=json,
        )
    )


@app.command
def truth(
    file: Path,
    /,
    *,
    interval: float = 1.0,
    count: int = 0,
    fast_nodes: str = "0",
    fast_pages: int | None = None,
    wait: float = 10.0,
    json: _Flag = False,
) -> int:
    """Say what share of a native workload's accesses the fast nodes served.

    Parameters
    ----------
    file
        The truth file of a running workload.
    interval
        Seconds of a window.
    count
        Windows; 0: until the workload ends.
    fast_nodes
        Nodes of the fastest tier, as a comma list.
    fast_pages
        Fast pages that the best placement may have; else what the workload has
        there and what is free, at the start.
    wait
        Seconds to wait for a file that is not there yet.
    json
        Print one JSON document a window.
    """
    import time  # noqa: PLC0415  # --help is quick

    from isotherm.core.errors import TargetGoneError, UsageError  # noqa: PLC0415
    from isotherm.workloads.native.truth import (  # noqa: PLC0415  # numpy
        TruthReader,
        parse_nodes,
    )

    if not interval > 0:
        raise UsageError(f"interval: expected seconds > 0, got {interval}")
    nodes = parse_nodes(fast_nodes)
    until_s = time.monotonic() + wait
    while not file.exists() and time.monotonic() < until_s:
        time.sleep(0.05)  # the workload was started a moment ago
    reader = TruthReader(file, nodes)
    reader.wait_until_running()
    before = reader.snapshot()
    done = 0
    while not count or done < count:
        time.sleep(interval)
        try:
            after = reader.snapshot()
        except TargetGoneError as error:
            if not done:
                raise
            note(error.message)
            break
        _show(reader.window(before, after, fast_pages), json=json)
        before = after
        done += 1
    return 0


def _show(window: "Window", *, json: bool) -> None:
    if json:
        from dataclasses import asdict  # noqa: PLC0415  # only here

        print_json(asdict(window))
        return
    unsure = (window.fast_share_high - window.fast_share_low) / 2
    print_text(
        f"{window.to_s:7.1f} s  phase {window.phase}  fast {window.fast_share:.4f}"
        f" ±{unsure:.4f}  best {window.best_share:.4f}"
        f"  {window.accesses_per_s:,.0f}/s  {window.changed_pages} moved"
    )
