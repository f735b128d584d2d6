"""``isotherm run``: keep the hot memory of processes in the fast tier."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from isotherm.cli.output import note, print_json, start_logging
from isotherm.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from isotherm.daemon.config import Config

EPILOGUE = """\
Examples:
  isotherm run --pid 4242 --dry-run --duration 60
  isotherm run --cgroup system.slice/db.service --record run
  isotherm run -- redis-server --save ''
  isotherm run --mover kernel --pid 4242
  isotherm stop

Exit codes: that of COMMAND; else 0 when the time is over or isotherm stop was
called, 3 unsupported here or another mover is active, 4 not permitted, 5 the
target has gone, 130 interrupted. What was changed in the kernel is put back.

Overhead: at most 2 % of one core and 0.1 % of managed memory (config: budget);
what was taken is in the summary. Moves cost the target some 2 us a page,
looking what the hint sources say (docs/reference/run.md).
"""

app = App(name="run", help_epilogue=EPILOGUE, help_format="plaintext")

Flag = Parameter(negative=(), show_default=False)


@app.default
def run(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    pid: Annotated[
        list[str] | None, Parameter(consume_multiple=True, negative=())
    ] = None,
    cgroup: str | None = None,
    dry_run: Annotated[bool, Flag] = False,
    duration: float | None = None,
    epoch: float | None = None,
    limit: float | None = None,
    mover: Literal["isotherm", "kernel"] = "isotherm",
    hints: str | None = None,
    intrusive: Annotated[bool, Flag] = False,
    with_other_movers: Annotated[bool, Flag] = False,
    config: Path | None = None,
    record: Path | None = None,
    tenants: Path | None = None,
    pods: str | None = None,
    advise_cpus: Literal["off", "print", "apply"] = "off",
    interleave_weights: Annotated[bool, Flag] = False,
    huge_pages: Annotated[bool, Flag] = False,
    metrics: str | None = None,
    user: str | None = None,
    verbose: Annotated[bool, Flag] = False,
    json: Annotated[bool, Flag] = False,
) -> int:
    """Move pages between tiers while a workload runs, where a move pays.

    Parameters
    ----------
    command
        Start this after -- and manage it; its exit status is passed on.
    pid
        Manage these processes and their children.
    cgroup
        Manage all processes of this cgroup: a directory or a path below the mount.
    dry_run
        Look, decide and say what would be moved; move nothing.
    duration
        End after so many seconds.
    epoch
        Seconds between decisions (default 1; longer to keep the CPU budget).
    limit
        Most memory to move, MiB per second (default 200).
    mover
        isotherm moves pages itself; kernel steers what the kernel ships.
    hints
        Comma list of sources to use, as isotherm doctor names them (default: the
        best of those that change nothing in the target).
    intrusive
        Also sources that change something in the target: see the documentation.
    with_other_movers
        Run although another mover manages the same memory.
    config
        A TOML file; isotherm config show lists every key. SIGHUP has it read again.
    record
        Keep what isotherm explain reads in this directory.
    tenants
        Manage the tenants of this TOML file, each on its terms: isotherm tenants.
    pods
        Manage the pods of this Kubernetes node, each on the terms of its annotations:
        the file that isotherm pods watch keeps, or - for no terms.
    huge_pages
        Collapse and split huge pages where it pays, and move them whole.
    metrics
        Serve figures for Prometheus on this HOST:PORT; :9977 is this host only.
    advise_cpus
        print says where threads had better run, by who accesses what; apply has
        them run there (sched_setaffinity), until the run ends.
    interleave_weights
        Set the kernel's weights of weighted interleaving by the nodes' bandwidth,
        until the run ends: isotherm topology weights shows them.
    user
        Be this user, without any rights: they stay with a second process that does
        what it is asked for as far as the command line goes. "" is one process.
    verbose
        Log every epoch.
    json
        Print one JSON document with raw units at the end.
    """
    start_logging()
    pids = _parse_pids(pid or ())
    if duration is not None and not 0 < duration < math.inf:
        raise UsageError(f"duration: expected seconds > 0, got {duration:g}")
    overrides = _overrides(epoch, limit, hints, metrics, user, huge_pages=huge_pages)
    settings = overrides(_read(config))
    if not (pids or command or cgroup or tenants or pods):
        cgroup = settings.target.cgroup or None
        tenants = Path(settings.target.tenants) if settings.target.tenants else None
        pods = settings.target.pods or None
    named = [bool(target) for target in (pids, cgroup, command, tenants, pods)]
    if sum(named) != 1:
        raise UsageError(
            "target: expected one of --pid, --cgroup, --pods, --tenants and -- COMMAND",
            hint="isotherm run --pid 4242, or isotherm run -- COMMAND; or a cgroup"
            " under [target] in the configuration",
        )
    if advise_cpus != "off" and mover == "kernel":
        raise UsageError(
            "advise-cpus: the kernel tells nobody who accesses what",
            hint="leave --mover kernel out",
        )
    if huge_pages and mover == "kernel":
        raise UsageError(
            "huge-pages: the kernel's movers change no page sizes",
            hint="leave --mover kernel out",
        )
    if verbose:
        _log_all()

    from isotherm.daemon.preflight import Request, preflight  # noqa: PLC0415  # --help
    from isotherm.policy.tenant_file import read_tenants  # noqa: PLC0415  # likewise

    file = None if tenants is None else read_tenants(tenants)
    if file is not None or pods is not None:
        check_mover(mover)
        shared = file is None or file.tenancy.sharing != "none"
        if settings.huge_pages.use and shared:
            raise UsageError(
                "huge-pages: the markets of tenants trade small pages",
                hint="leave huge pages out, or have tenants only reported:"
                ' sharing = "none"',
            )
    if file is not None:
        pids = tuple(pid for member in file.members for pid in member.pids)

    request = Request(
        pids=pids,
        cgroup=cgroup,
        command=command,
        config=settings,
        mover=mover,
        dry_run=dry_run,
        duration_s=duration,
        intrusive=intrusive,
        with_other_movers=with_other_movers or settings.movers.tolerate,
        record=record,
        tenants=file,
        pods=pods,
        config_file=config,
        overrides=overrides,
        advise_cpus=advise_cpus,
        interleave_weights=interleave_weights,
    )
    checked = preflight(request)
    if settings.privileges.user:
        from isotherm.daemon.split import split  # noqa: PLC0415  # likewise

        parted = split(request, checked)
        if isinstance(parted, int):
            return parted
        checked = parted

    from isotherm.daemon.session import run_session  # noqa: PLC0415  # numba
    from isotherm.daemon.summary import describe  # noqa: PLC0415  # likewise

    ended = run_session(request, checked)
    if json:
        print_json(ended.result)
    else:
        for line in describe(ended.result):
            note(line)
    return ended.code


def check_mover(mover: str) -> None:
    """Check that tenants are not asked of the kernel.

    Raises:
        UsageError: They are.
    """
    if mover == "kernel":
        raise UsageError(
            "tenants: the kernel's movers know none", hint="leave --mover kernel out"
        )


def _parse_pids(words: list[str] | tuple[str, ...]) -> tuple[int, ...]:
    """Return the pids of words that may hold comma lists.

    Raises:
        UsageError: One is no pid.
    """
    pids = []
    for word in ",".join(words).split(",") if words else ():
        if not word.strip().isdigit() or int(word) <= 0:
            raise UsageError(f"pid: expected a process id, got {word!r}")
        pids.append(int(word))
    return tuple(dict.fromkeys(pids))


def _overrides(
    epoch: float | None,
    limit: float | None,
    hints: str | None,
    metrics: str | None,
    user: str | None = None,
    *,
    huge_pages: bool = False,
) -> "Callable[[Config], Config]":
    """Return what puts the command line over a configuration."""

    def override(config: "Config") -> "Config":
        import msgspec  # noqa: PLC0415  # --help

        from isotherm.daemon.config import Config  # noqa: PLC0415  # likewise

        fields = msgspec.to_builtins(config)
        if epoch is not None:
            fields["loop"]["epoch_s"] = epoch
            longest = max(epoch, fields["loop"]["longest_epoch_s"])
            fields["loop"]["longest_epoch_s"] = longest
        if limit is not None:
            fields["migration"]["limit_mib_s"] = limit
        if metrics is not None:
            fields["metrics"]["listen"] = metrics
        if user is not None:
            fields["privileges"]["user"] = user
        if huge_pages:
            fields["huge_pages"]["use"] = True
        if hints is not None:
            fields["sources"]["use"] = [word.strip() for word in hints.split(",")]
        try:
            return msgspec.convert(fields, Config)
        except msgspec.ValidationError as error:
            text = str(error)
            raise UsageError(
                text[:1].lower() + text[1:], hint="isotherm config show lists every key"
            ) from error

    return override


def _read(path: Path | None) -> "Config":
    """Return the configuration of a file, or of the host's where none is named."""
    from isotherm.daemon.config_check import (  # noqa: PLC0415  # --help
        read_checked,
        read_host_config,
    )

    return read_host_config(note) if path is None else read_checked(path)


def _log_all() -> None:
    """Let debug events through, too."""
    import logging  # noqa: PLC0415  # only here

    import structlog  # noqa: PLC0415  # likewise

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG)
    )
