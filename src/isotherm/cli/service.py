"""``isotherm service``: a run as a service of systemd."""

from typing import Annotated

from cyclopts import App, Parameter

from isotherm.cli.output import note, print_text, start_logging

EPILOGUE = """\
Examples:
  isotherm service install --cgroup system.slice
  isotherm service install --canary 5 --dry-run
  systemctl enable --now isotherm
  isotherm service uninstall

Overhead: none; what a service takes is what isotherm run takes.
"""

app = App(
    name="service",
    help="Install isotherm run as a service of systemd, and remove it.",
    help_epilogue=EPILOGUE,
    help_format="plaintext",
)

Flag = Parameter(negative=(), show_default=False)


@app.command
def install(
    *,
    cgroup: str = "system.slice",
    canary: float = 100.0,
    metrics: str = "127.0.0.1:9977",
    dry_run: Annotated[bool, Flag] = False,
) -> int:
    """Write the unit, its user and its configuration; start nothing.

    A configuration that is there is kept as it is.

    Parameters
    ----------
    cgroup
        Whose memory to manage: a path below the cgroup mount.
    canary
        Manage this share of its processes, percent.
    metrics
        Serve figures for Prometheus on this HOST:PORT; "" serves none.
    dry_run
        Say what would be done, and show the files.
    """
    start_logging()
    from isotherm.daemon.install import (  # noqa: PLC0415  # --help
        Installer,
        find_program,
        render_settings,
        render_unit,
    )

    settings = render_settings(cgroup, canary, metrics)
    installer = Installer(dry_run=dry_run)
    installer.install(settings)
    for error in installer.refusals:
        note(f"warning: would be refused: {error.message}")
        note(f"  hint: {error.hint}")
    for step in installer.steps:
        print_text(str(step))
    if dry_run:
        print_text(f"\n{settings}\n{render_unit(find_program())}".rstrip())
    return 0


@app.command
def uninstall(
    *,
    purge: Annotated[bool, Flag] = False,
    dry_run: Annotated[bool, Flag] = False,
) -> int:
    """Stop the service, put back what it changed, remove what install wrote.

    Parameters
    ----------
    purge
        Remove the configuration, too.
    dry_run
        Say what would be done.
    """
    start_logging()
    from isotherm.daemon.install import Installer  # noqa: PLC0415  # --help
    from isotherm.daemon.rundir import (  # noqa: PLC0415  # likewise
        RunDirectory,
        run_directory,
    )

    installer = Installer(dry_run=dry_run, does="remove")
    installer.uninstall(RunDirectory(run_directory()), purge=purge)
    for step in installer.steps:
        print_text(str(step))
    return 0


@app.command
def unit() -> int:
    """Print the unit, with the path that packages use."""
    from isotherm.daemon.install import render_unit  # noqa: PLC0415  # --help

    print_text(render_unit().rstrip())
    return 0
