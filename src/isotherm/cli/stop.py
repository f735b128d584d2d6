"""``isotherm stop``: stop movement at once, restore what was changed."""

from typing import Annotated

from cyclopts import App, Parameter

from isotherm.cli.output import note, print_json, print_text, start_logging

EPILOGUE = """\
Examples:
  isotherm stop
  isotherm stop 4242
  isotherm stop --all

Overhead: none; it waits until the daemon has put everything back.
"""

app = App(name="stop", help_epilogue=EPILOGUE, help_format="plaintext")


@app.default
def stop(
    *pid: int,
    all_: Annotated[
        bool, Parameter(name="--all", negative=(), show_default=False)
    ] = False,
    wait: float = 30.0,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Stop isotherm run, and put back what a killed one has left.

    A command that isotherm run was started with goes on, unmanaged.

    Parameters
    ----------
    pid
        Of a daemon, or of a process that it manages (default: the only one).
    all_
        Stop all of this user's.
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
    from isotherm.daemon.stop import stop as stop_them  # noqa: PLC0415  # likewise

    done = stop_them(RunDirectory(run_directory()), pid, every=all_, wait_s=wait)
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
    if not done.stopped:
        print_text("no isotherm runs")
    return 0
