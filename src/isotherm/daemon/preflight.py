"""What is asked for, and what is checked before anything heavy is loaded or touched."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from isotherm.core.errors import UsageError
from isotherm.core.extras import require
from isotherm.daemon.config import Config
from isotherm.daemon.config_check import check_words
from isotherm.daemon.movers import Mover, find_movers, refuse
from isotherm.daemon.permitted import check_permitted
from isotherm.daemon.pods.cgroups import find_roots
from isotherm.daemon.rundir import RunDirectory, run_directory
from isotherm.daemon.targets import check_processes, find_cgroup
from isotherm.daemon.tenant_members import EMPTY, check_policy, find_tenants
from isotherm.policy.tenant_file import TenantFile

#: What ``--mover kernel`` sets going itself.
KERNELS_OWN: Final = (
    "numa-balancing",
    "numa-balancing-hints",
    "numa-balancing-tiering",
    "demotion",
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for.

    Attributes:
        pids: Processes to manage.
        cgroup: Or a cgroup.
        command: Or a command to start.
        config: Settings.
        mover: ``isotherm`` or ``kernel``.
        dry_run: Move nothing.
        duration_s: End after so long.
        intrusive: Sources may change something in the target.
        with_other_movers: Run beside other movers.
        record: Where to keep the run for ``explain``.
        tenants: Or tenants; their processes are in ``pids``.
        pods: Or the pods of this node, by the file of ``isotherm pods watch``; ``-``:
            without one.
        interleave_weights: Set the kernel's weights by the nodes' bandwidth meanwhile.
        advise_cpus: ``print`` says where threads had better run, ``apply`` has them
            run there, ``off`` neither.
        config_file: What the settings were read from, to be read again at SIGHUP;
            None: SIGHUP ends the run.
        overrides: What the command line says, put over what the file says.
        root: Where /proc and /sys are (other than for the targets themselves).
        run_directory: Where daemons leave word; None: the usual place.
    """

    pids: tuple[int, ...] = ()
    cgroup: str | None = None
    command: tuple[str, ...] = ()
    config: Config = field(default_factory=Config)
    mover: str = "isotherm"
    dry_run: bool = False
    duration_s: float | None = None
    intrusive: bool = False
    with_other_movers: bool = False
    record: Path | None = None
    tenants: TenantFile | None = None
    pods: str | None = None
    interleave_weights: bool = False
    advise_cpus: str = "off"
    config_file: Path | None = None
    overrides: Callable[[Config], Config] = lambda config: config
    root: Path = Path("/")
    run_directory: Path | None = None


#: The run directory, and other movers that are let go on.
Checked = tuple[RunDirectory, list[Mover]]


def preflight(request: Request) -> Checked:
    """Check what can be checked at once, and undo what killed runs have left.

    Raises:
        NotPermittedError: This user may not do it; nothing was changed.
        UnsupportedError: Another mover manages the same memory.
        TargetGoneError: The target is not there.
        UsageError: The target is no target.
    """
    check_request(request)
    check_permitted(request.root)
    check_processes(request.pids)
    if request.cgroup is not None:
        find_cgroup(request.cgroup)
    if request.tenants is not None:
        check_policy(request.tenants, request.config.loop.policy)
        find_tenants(request.tenants)
    if request.pods is not None:
        check_policy(EMPTY, request.config.loop.policy)
        find_roots(request.root)
    runs = RunDirectory(request.run_directory or run_directory())
    for line in runs.recover():
        log.warning("recovered", after="a run that was killed", what=line)
    return runs, look_at_others(request)


def check_request(request: Request) -> None:
    """Check what is asked for by itself, before this host is asked anything.

    Raises:
        UsageError: A source or an address is none, the command is not there, or the
            directory to record in holds other things.
        UnsupportedError: What writes a recording is not installed.
        NotPermittedError: That directory may not be read.
    """
    no_sources = request.mover == "kernel"
    check_words(request.config, intrusive=request.intrusive or no_sources)
    if request.command and shutil.which(request.command[0]) is None:
        word = request.command[0]
        closed = "/" in word and Path(word).exists()
        why = os.strerror(errno.EACCES if closed else errno.ENOENT)
        raise UsageError(f"{word}: cannot be started: {why}")
    if request.record is not None:
        require("pyarrow")
    if request.record is not None and request.record.exists():  # it is made later
        from isotherm.observability.recording import (  # noqa: PLC0415  # pyarrow
            check_directory,
        )

        check_directory(request.record)


def describe_target(request: Request) -> str:
    """Return who is to be managed, in words; a command is described by its pid."""
    if request.cgroup is not None:
        return f"cgroup {find_cgroup(request.cgroup)}"
    if request.tenants is not None:
        return f"tenants of {request.tenants.name}"
    if request.pods is not None:
        return "pods of this node"
    return f"pid {', '.join(map(str, request.pids))}"


def look_at_others(request: Request) -> list[Mover]:
    """Return other movers that are let go on; refuse the rest.

    With ``--mover kernel`` the kernel's own are what is wanted.
    """
    found = find_movers(request.root, request.pids or None)
    if request.mover == "kernel":
        found = [mover for mover in found if mover.name not in KERNELS_OWN]
    if not request.with_other_movers and not request.dry_run:
        refuse(found)
    for mover in found:
        log.warning("other-mover", name=mover.name, why=mover.why)
    return found
