"""One run from start to end: checks, targets, the loop, and putting all back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from isotherm.core import privileged
from isotherm.core.changes import HostChanges
from isotherm.core.errors import (
    IsothermError,
    NotPermittedError,
    TargetGoneError,
    UnsupportedError,
    UsageError,
)
from isotherm.daemon.answers import Answers
from isotherm.daemon.config import Config
from isotherm.daemon.cpu_live import LiveThreads
from isotherm.daemon.host import Host, check_tiers, open_host
from isotherm.daemon.interleave import claim_weights, set_weights
from isotherm.daemon.kernel_mover import KernelMover, Steered
from isotherm.daemon.metrics import Meter
from isotherm.daemon.movers import Mover, refuse
from isotherm.daemon.notify import Notifier
from isotherm.daemon.page_cache import read_unmapped_bytes
from isotherm.daemon.planned import Planned
from isotherm.daemon.pods.live import LivePods
from isotherm.daemon.pods.roster import Roster
from isotherm.daemon.preflight import Checked, Request, preflight
from isotherm.daemon.pressure import PressureReader
from isotherm.daemon.record import LiveRecorder
from isotherm.daemon.rundir import HOST, RunDirectory, RunRecord, start_ticks
from isotherm.daemon.service import Service
from isotherm.daemon.sources import check_names
from isotherm.daemon.supervised import Supervised
from isotherm.daemon.targets import Claims, find_cgroup, memcg_path
from isotherm.daemon.tenant_members import find_tenants
from isotherm.daemon.tenants import live_tenants
from isotherm.daemon.waiting import Waiter
from isotherm.machine.linux.nodes import HostNodes
from isotherm.machine.linux.targets.discover import read_members
from isotherm.migration.background import BackgroundEngine
from isotherm.mover.client import BrokeredChanges, Client
from isotherm.observability.metrics import Figures, MetricsServer
from isotherm.observability.recording import check_directory

EXIT_GONE: Final = 5
EXIT_INTERRUPTED: Final = 130
#: Seconds between looks at what the kernel's movers do.
KERNEL_EPOCH_S: Final = 1.0
#: A command that is to end and does not is killed after this long.
PATIENCE_S: Final = 10.0

log = structlog.get_logger()


@dataclass(slots=True)
class Ended:
    """How a run ended.

    Attributes:
        code: Exit code.
        result: Raw units, for ``--json``.
    """

    code: int
    result: dict[str, Any]


def run_session(request: Request, checked: Checked | None = None) -> Ended:
    """Run until it is over; nothing that was changed stays changed.

    Args:
        request: What was asked for.
        checked: What ``preflight`` returned, where it was called already.

    Raises:
        NotPermittedError: This user may not do it; nothing was changed.
        UnsupportedError: This host has nothing to move between, or another mover.
        TargetGoneError: The target was not there.
        UsageError: The target is no target.
    """
    runs, others = preflight(request) if checked is None else checked
    if request.command:
        _check_host(request)
    cgroup = None if request.cgroup is None else find_cgroup(request.cgroup)
    with ExitStack() as stack:
        reloads = request.config_file is not None and not request.command
        waiter = stack.enter_context(Waiter(reloads=reloads))
        changes = _open_journal(runs)
        session = _Session(request, runs, changes, waiter, others, cgroup)
        stack.callback(session.put_back)
        return session.run()


def _check_host(request: Request) -> None:
    """Check what opening the host would find wrong, before a command is started.

    Raises:
        UnsupportedError: One tier only, or a named source is not there.
        UsageError: A source or the directory to record in is no such thing.
    """
    check_tiers(HostNodes().topology)
    if request.mover == "isotherm":
        check_names(request.config.sources.use, intrusive=request.intrusive)
    if request.record is not None:
        check_directory(request.record)


def _open_journal(runs: RunDirectory) -> HostChanges:
    """Return the journal of this run: nothing is changed without one."""
    asked = privileged.broker()
    if isinstance(asked, Client):  # who has the rights has the journal
        return BrokeredChanges(asked)
    try:
        return HostChanges(runs.journal)
    except OSError as error:
        raise NotPermittedError(
            f"{runs.journal}: {error.strerror}",
            hint="ISOTHERM_RUN_DIRECTORY names another place",
        ) from None


class _Session:
    """A run under way."""

    def __init__(
        self,
        request: Request,
        runs: RunDirectory,
        changes: HostChanges,
        waiter: Waiter,
        others: list[Mover],
        cgroup: Path | None,
    ) -> None:
        self.request, self.runs, self.changes = request, runs, changes
        self.waiter, self.others, self.cgroup = waiter, others, cgroup
        self.notifier = Notifier()
        self.tenants = None
        if request.tenants is not None:
            self.tenants = find_tenants(request.tenants)
        self.roster = None
        if request.pods is not None:
            file = None if request.pods == "-" else Path(request.pods)
            self.roster = Roster(file, request.config.pods, request.root)
        self.child: subprocess.Popen[bytes] | None = None
        self.restored: list[str] = []

    def run(self) -> Ended:
        """Run it."""
        request = self.request
        with self._targets() as pids:
            if pids:
                self._lock(pids)
            if self.cgroup is not None:
                self._lock(tuple(sorted(read_members(self.cgroup))))
            for path in () if self.tenants is None else self.tenants.directories:
                self._lock(tuple(sorted(read_members(path))))
            if request.mover == "kernel":
                self._lock((HOST,))
            if request.interleave_weights and not request.dry_run:
                claim_weights(self.runs)
            try:
                reason, result = self._look_after(pids)
            except TargetGoneError:
                if self.child is None:
                    raise
                # A command that ends at once has done what it was to do.
                reason, result = "gone", {"mover": request.mover}
            self.put_back()
            result["target"] = self._describe_target()
            result["reason"] = reason
            result["unmapped_cache_bytes"] = read_unmapped_bytes(
                request.root, self.cgroup
            )
            result["other_movers"] = [mover.name for mover in self.others]
            result["restored"] = self.restored
            return Ended(self._code(reason), result)

    def _look_after(self, pids: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
        """Manage or steer until it is over; return why it is, and what was done."""
        request = self.request
        self._announce(pids)  # sources take their time to open: it can be stopped
        with open_host(
            pids,
            self.cgroup,
            request.config,
            self.changes,
            intrusive=request.intrusive,
            needs_sources=request.mover == "isotherm",
            dry_run=request.dry_run,
            claims=None
            if request.dry_run
            else Claims(self.runs, insist=not request.with_other_movers),
            cgroups=self._tenants_groups(),
        ) as host:
            host.waits = self.roster is not None
            weights = None
            if request.interleave_weights:
                weights = set_weights(
                    host.machine.topology,
                    self.changes,
                    request.root,
                    dry_run=request.dry_run,
                )
            steer = request.mover == "kernel"
            reason, result = self._steer(host) if steer else self._manage(host)
            if weights is not None:
                result["interleave_weights"] = weights
            return reason, result

    def _tenants_groups(self) -> tuple[Path, ...]:
        """Return the cgroups of tenants; those of pods may go at any time."""
        if self.roster is not None:
            groups = self.roster.found().directories
            return tuple(path for path in groups if (path / "cgroup.procs").exists())
        return () if self.tenants is None else self.tenants.directories

    def put_back(self) -> None:
        """Undo every change; safe to call again."""
        self.notifier.stopping()
        self.restored += self.changes.restore()
        self.changes.close()
        self.runs.close()

    # -- targets -----------------------------------------------------------

    @contextmanager
    def _targets(self) -> Iterator[tuple[int, ...]]:
        """Give the named processes; a command is started, and waited for at the end."""
        request = self.request
        if not request.command:
            yield request.pids
            return
        self.child = child = _start(request.command)
        pidfd = os.pidfd_open(child.pid)
        try:
            self.waiter.watch(pidfd)
            yield (child.pid,)
            self._await_child(child)
        finally:
            os.close(pidfd)
            if child.poll() is None:
                # Something failed here: the command must not run on unseen.
                self.put_back()
                _end(child)

    def _await_child(self, child: "subprocess.Popen[bytes]") -> None:
        """Wait for the command; SIGINT and SIGTERM are passed on to it."""
        while child.poll() is None:
            if self.waiter.signal in (signal.SIGTERM, signal.SIGHUP):
                child.send_signal(self.waiter.signal)
            # A terminal sends SIGINT to the command as well.
            self.waiter.signal = None
            self.waiter.wait(3600)

    def _describe_target(self) -> str:
        """Return who is managed, in words."""
        if self.cgroup is not None:
            return f"cgroup {self.cgroup}"
        if self.request.tenants is not None:
            return f"tenants of {self.request.tenants.name}"
        if self.roster is not None:
            return "pods of this node"
        pids = self.request.pids if self.child is None else (self.child.pid,)
        names = f"pid {', '.join(map(str, pids))}"
        if self.request.command:
            names += f" ({' '.join(self.request.command)})"
        return names

    def _lock(self, numbers: tuple[int, ...]) -> None:
        """Have processes for ourselves; a dry run only looks who has them."""
        taken = self.runs.lock(numbers)
        if self.request.dry_run:
            self.runs.unlock(numbers)
        elif not self.request.with_other_movers:
            refuse(taken)
        for mover in taken:
            log.warning("other-mover", name=mover.name, why=mover.why)
        self.others += taken

    def _announce(self, pids: tuple[int, ...]) -> None:
        self.runs.announce(
            RunRecord(
                pid=os.getpid(),
                start_ticks=start_ticks(os.getpid()) or 0,
                since_s=time.time(),
                mover=self.request.mover,
                targets=self._describe_target(),
                pids=pids,
                command=tuple(sys.argv),
                socket=None
                if self.request.mover == "kernel"
                else str(self.runs.socket),
            )
        )

    def _answering(self, service: Service) -> AbstractContextManager[object]:
        """Answer ``isotherm explain`` meanwhile; a run goes on where it cannot."""
        targets = self._describe_target()
        try:
            return Answers(service, self.runs.socket, targets)
        except IsothermError as error:
            log.warning("no-explain-socket", why=error.message)
            return nullcontext()

    def _measured(self, figures: Figures) -> AbstractContextManager[object]:
        """Serve figures meanwhile, where that is asked for.

        Raises:
            UsageError: The address is none.
            UnsupportedError: Nothing can be served there.
        """
        listen = self.request.config.metrics.listen
        if not listen:
            return nullcontext()
        server = MetricsServer(listen, figures)
        host, port = server.address
        log.info("metrics", url=f"http://{host}:{port}/metrics")
        return server

    # -- the two movers ----------------------------------------------------

    def _manage(self, host: Host) -> tuple[str, dict[str, Any]]:
        """Move pages ourselves until it is over."""
        request = self.request
        tenants, pods = live_tenants(self.tenants, host.machine), None
        if self.roster is not None:
            follow = host.machine.follower.take_cgroups
            pods = LivePods(self.roster, host.machine, follow)
            tenants = pods.tenants
        service = Service(
            host.units,
            host.sources,
            request.config,
            host.make_engine,
            host.alive,
            pressure=PressureReader(request.root, self.cgroup),
            unit_pages=host.unit,
            coarser=host.coarser,
            dry_run=request.dry_run,
            tenants=tenants,
        )
        if pods is not None:
            service.observers.append(pods.observe)
        recorder = None
        if request.record is not None:
            recorder = service.recorder = LiveRecorder(
                request.record,
                host.units,
                {"target": self._describe_target()},
                round(request.config.loop.epoch_s * 1e9),
                service.engine.move_cost_ns(),
            )
        counts = None if self.roster is None else self.roster.counts
        planned, meter = Planned(), Meter(request.root, counts)
        cpus = self._advised(host)
        if cpus is not None:
            service.observers.append(cpus)
        if request.dry_run:
            service.observers.append(planned)
        if request.config.metrics.listen:
            service.observers.append(meter)
        service.observers.append(self._supervised(host))
        try:
            with (
                self._measured(meter.figures),
                host.serving(service),
                self._answering(service),
            ):
                log.info(
                    "run",
                    target=self._describe_target(),
                    hints=[source.name for source in host.chosen],
                    tiers=[list(t.nodes) for t in host.machine.topology.tiers],
                    dry_run=request.dry_run,
                )
                self.notifier.ready(f"managing {self._describe_target()}")
                self.waiter.halt = lambda: _halt(service)
                reason = service.run(self.waiter.wait, request.duration_s)
            result = service.result() | host.result() | {"planned": planned.ranges}
            if tenants is not None:
                result["tenants"] = tenants.report()
            if cpus is not None:
                result["cpu_advice"] = cpus.result()
        except BaseException:
            if recorder is not None:
                recorder.abandon()
            raise
        if recorder is not None:
            recorder.finish(result, request.config.loop.policy, self._describe_target())
        return reason, result

    def _advised(self, host: Host) -> LiveThreads | None:
        """Return who advises on where threads run; None where nobody is asked.

        Raises:
            UnsupportedError: There is one place to run.
        """
        request = self.request
        if request.advise_cpus == "off":
            return None
        if not host.sockets.several:
            raise UnsupportedError(
                "advise-cpus: this host has one node with CPUs: nowhere else to run"
            )
        acts = request.advise_cpus == "apply" and not request.dry_run
        return LiveThreads(host.machine, host.sockets, self.changes, acts=acts)

    def _supervised(self, host: Host) -> Supervised:
        """Return what tells the service manager, and reads the settings again."""

        def change(config: Config) -> None:
            host.config = config

        return Supervised(
            self.notifier,
            self.request.config_file,
            self.waiter.take_reload,
            self.request.overrides,
            change,
        )

    def _steer(self, host: Host) -> tuple[str, dict[str, Any]]:
        """Let the kernel move until it is over."""
        request = self.request
        below = None
        if self.cgroup is not None:
            below = memcg_path(self.cgroup)
        mover = KernelMover(
            host.machine.topology,
            Steered(host.pids, below, request.config.migration.limit_mib_s),
            request.config.kernel,
            self.changes,
            request.root,
            dry_run=request.dry_run,
        )
        began = time.monotonic()

        def look() -> None:
            self.notifier.alive()
            # Forks are claimed, the dead are let go.
            host.machine.refresh()
            host.tell(host.machine.take_events())
            mover.epoch(time.monotonic_ns())

        with self._measured(Meter(request.root).figures):
            mover.start(time.monotonic_ns())
            self.notifier.ready(f"the kernel moves: {self._describe_target()}")
            wait = self.waiter.wait
            reason = _wait_out(wait, request.duration_s, host.alive, look)
        return reason, mover.result(time.monotonic() - began) | host.result()

    # -- the end -----------------------------------------------------------

    def _code(self, reason: str) -> int:
        if self.child is not None:
            # The context of the targets waits for it; its status is final then.
            self._await_child(self.child)
            code = self.child.returncode
            return code if code >= 0 else 128 - code
        if reason == "gone":
            return EXIT_GONE
        if self.waiter.signal == signal.SIGINT:
            return EXIT_INTERRUPTED
        return 0


def _halt(service: Service) -> None:
    """Begin no more moves, whatever else is under way."""
    if isinstance(service.engine, BackgroundEngine):
        service.engine.halt()


def _wait_out(
    wait: Callable[[float], bool],
    duration_s: float | None,
    alive: Callable[[], bool],
    each: Callable[[], None],
) -> str:
    """Wait, calling ``each`` every second; return why it is over."""
    end = None if duration_s is None else time.monotonic() + duration_s
    while True:
        left = KERNEL_EPOCH_S
        if end is not None:
            left = min(left, max(0.0, end - time.monotonic()))
        if wait(left):
            return "asked" if alive() else "gone"
        each()
        if not alive():
            return "gone"
        if end is not None and time.monotonic() >= end:
            return "duration"


def _start(command: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    """Start a command.

    Raises:
        UsageError: It is not there, or cannot be run.
    """
    try:
        return subprocess.Popen(command)
    except OSError as error:
        raise UsageError(f"{command[0]}: cannot be started: {error.strerror}") from None


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End a command, the hard way where it does not listen."""
    child.terminate()
    try:
        child.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
