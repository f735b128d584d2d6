"""``isotherm stop``: stop movement at once, restore what was changed."""

import math
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from isotherm.cli.output import note, print_json, print_text, start_logging
from isotherm.core.errors import UsageError

if TYPE_CHECKING:
    from isotherm.daemon.stop import Plan

EPILOGUE = """\
Examples:
  isotherm stop
  isotherm stop 4242
  isotherm stop --all
  isotherm stop --all --dry-run

Overhead: none; it waits until the daemon has put everything back.
"""

app = App(name="stop", help_epilogue=EPILOGUE, help_format="plaintext")


@app.default
def stop(
    *pid: int,
    all_: Annotated[
        bool, Parameter(name="--all", negative=(), show_default=False)
    ] = False,
    recover: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    dry_run: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    wait: float = 60.0,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Stop isotherm run, and put back what a killed one has left.

    A command that isotherm run was started with goes on, unmanaged.

    Parameters
    ----------
    pid
        Of a daemon, or of a process that it manages (default: the only one).
    all_
        Stop all of this user's; root's are the host's services and root's own.
    recover
        Stop nobody: only put back what killed ones have left.
    dry_run
        Say who would be stopped and what put back; do nothing.
    wait
        Seconds to wait for each.
    json
        Print one JSON document.
    """
    start_logging()
    from isotherm.daemon.rundir import (  # noqa: PLC0415  # --help
        RunDirectory,
        describe,
        run_directory,
    )
    from isotherm.daemon.stop import Stopped  # noqa: PLC0415  # likewise
    from isotherm.daemon.stop import stop as stop_them  # noqa: PLC0415  # likewise

    directory = RunDirectory(run_directory())
    if recover and (pid or all_):
        raise UsageError(
            "recover: expected alone, got a run to stop",
            hint="isotherm stop --all puts back what killed runs have left, too",
        )
    if not 0 <= wait < math.inf:
        raise UsageError(f"wait: expected seconds >= 0, got {wait:g}")
    if dry_run:
        from isotherm.daemon.stop import plan  # noqa: PLC0415  # likewise

        _show(plan(directory, pid, every=all_, only_recover=recover), as_json=json)
        return 0
    if recover:
        done = Stopped(recovered=directory.recover())
        directory.tidy()
    else:
        done = stop_them(directory, pid, every=all_, wait_s=wait)
    if json:
        print_json(
            {
                "stopped": [describe(run) for run in done.stopped],
                "recovered": done.recovered,
            }
        )
        return 0
    for line in done.recovered:
        note(f"recovered: {line}")
    for run in done.stopped:
        print_text(f"stopped {run.pid}: {run.targets}")
    if not done.stopped and not recover:
        print_text("no isotherm runs")
    return 0


def _show(planned: "Plan", *, as_json: bool) -> None:
    """Say what would be done."""
    from isotherm.daemon.rundir import describe  # noqa: PLC0415  # --help

    if as_json:
        print_json(
            {
                "would_stop": [describe(run) for run in planned.stops],
                "would_restore": planned.restores,
                "would_recover": planned.recovers,
            }
        )
        return
    for line in planned.recovers:
        print_text(f"would recover: {line}")
    for run in planned.stops:
        print_text(f"would stop {run.pid}: {run.targets}")
    for line in planned.restores:
        print_text(f"would put back: {line}")
    if not planned.stops and not planned.recovers:
        print_text("no isotherm runs, nothing to put back")
