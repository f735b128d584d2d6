"""A run in two processes: a mover that keeps the rights, a session that has none.

The process that was started becomes the mover: it holds the journal, the locks and the
record of the run, does what the session asks for as far as it may
(``isotherm.mover``), passes signals on and puts everything back when the session has
ended, however it ended. Its child becomes the session: another user, no capability,
no way to get one, no descriptor but its channels. When the mover ends the kernel kills
the session.

The session leaves word in a directory of its own, ``/run/isotherm/UID``, so that its
user can ask and stop it as root can.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec
import structlog

from isotherm.core import privileged
from isotherm.core.changes import HostChanges
from isotherm.core.errors import NotPermittedError, UsageError
from isotherm.daemon.movers import Mover
from isotherm.daemon.notify import Notifier
from isotherm.daemon.pods.cgroups import find_roots
from isotherm.daemon.preflight import Checked, Request, describe_target
from isotherm.daemon.rundir import WEIGHTS, RunDirectory, RunRecord, start_ticks
from isotherm.daemon.session_home import make_home, make_owned
from isotherm.daemon.targets import find_cgroup
from isotherm.daemon.tenant_members import find_tenants
from isotherm.daemon.waiting import STOP_SIGNAL
from isotherm.machine.linux.usage import read_compressed_swap
from isotherm.mover import wire
from isotherm.mover.client import Client
from isotherm.mover.drop import User, drop, find_user
from isotherm.mover.scope import Rules
from isotherm.mover.server import Server
from isotherm.topology.parse import MAX_NODES, parse_list

#: Passed on to the session.
PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, STOP_SIGNAL)
#: Of them, those that ask for the end.
ENDS: Final = frozenset({signal.SIGTERM, signal.SIGINT, STOP_SIGNAL})
#: A session that does not end when it is asked to is killed after this long: before
#: the service manager kills both (TimeoutStopSec of the unit).
OBEY_S: Final = 50.0
#: A request under way when the session has ended is waited for.
PATIENCE_S: Final = 30.0
NODES: Final = Path("sys/devices/system/node/possible")

log = structlog.get_logger()


def split(request: Request, checked: Checked) -> Checked | int:
    """Split this process in two, where a user is named.

    Returns:
        In the session, and where nobody is named: what to go on with. In the mover,
        after the session has ended: the exit code.

    Raises:
        UsageError: There is no such user, or what is asked for cannot be split.
        NotPermittedError: We may not become this user.
    """
    name = request.config.privileges.user
    if not name:
        return checked
    user = find_user(name)
    _check(request, user)
    runs, others = checked
    rules = _rules(request)
    home = make_home(runs.directory, user.uid, user.gid)
    cache = _make_cache(user)
    changes = HostChanges(runs.journal)
    ends = [wire.pair() for _ in range(wire.CHANNELS)]
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    # What comes before both have their handlers waits for them (see Waiter).
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    child = os.fork()
    if child == 0:
        for mine, _ in ends:
            mine.detach()  # closed with all others
        ours = [end for _, end in ends]
        return _become_session(user, parent, ours, home, cache), others
    for _, end in ends:
        end.close()
    mover = _Mover(request, runs, changes, rules, child, home, user)
    try:
        return mover.run([mine for mine, _ in ends])
    finally:
        for line in changes.restore():
            log.info("restored", what=line)
        changes.close()
        runs.close()
        while signal.sigtimedwait(PASSED_ON, 0) is not None:
            pass  # it has come too late to ask for anything
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)


def _check(request: Request, user: User) -> None:
    """Refuse what cannot be split.

    Raises:
        UsageError: A command, the kernel's movers, sources that change a target.
        NotPermittedError: Only root can become somebody else.
    """
    hint = '--user "" leaves the run in one process'
    if request.command:
        raise UsageError(
            "privileges.user: a command is started by who watches it, as its user",
            hint=f"start it and name it with --pid, or {hint}",
        )
    if request.mover == "kernel":
        raise UsageError(
            "privileges.user: --mover kernel does nothing but write the kernel's"
            " settings",
            hint=hint,
        )
    if request.intrusive:
        raise UsageError(
            "privileges.user: --intrusive sources trace their targets", hint=hint
        )
    if os.geteuid() != 0:
        raise NotPermittedError(
            f"privileges.user: user {os.geteuid()} cannot become {user.name}",
            hint="run it as root",
        )


def _rules(request: Request) -> Rules:
    """Return what the session may do."""
    cgroups: tuple[Path, ...] = ()
    if request.cgroup is not None:
        cgroups = (find_cgroup(request.cgroup),)
    elif request.tenants is not None:
        cgroups = find_tenants(request.tenants).directories
    elif request.pods is not None:
        cgroups = find_roots(request.root)
    memory = request.config.memory
    text = (request.root / NODES).read_text()
    return Rules(
        pids=request.pids,
        cgroups=cgroups,
        nodes=frozenset(parse_list(text.strip(), MAX_NODES)),
        dry_run=request.dry_run,
        locks=not request.dry_run and not request.with_other_movers,
        moves_all=memory.shared or memory.files,
        sets_affinity=request.advise_cpus == "apply",
        sets_weights=request.interleave_weights,
        makes_huge=request.config.huge_pages.use,
        other_locks=frozenset({WEIGHTS} if request.interleave_weights else ()),
    )


# -- the session ----------------------------------------------------------------


class SessionDirectory(RunDirectory):
    """Where a session leaves word; processes are locked by the mover, for root to see.

    Args:
        directory: Its own.
        client: To the mover.
    """

    def __init__(self, directory: Path, client: Client) -> None:
        super().__init__(directory)
        self._client, self._taken = client, set[int]()

    def lock(self, numbers: Collection[int]) -> list[Mover]:  # type: ignore[override]  # never an iterator
        """Lock processes; return who holds those that are taken."""
        try:
            taken = self._client.lock(numbers)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            why = f"the mover looks at no more for now: {error.strerror}"
            return [Mover("isotherm", f"pid {n}: {why}", None) for n in numbers]
        self._taken.update(numbers)
        return [msgspec.convert(one, Mover) for one in taken]

    def unlock(self, numbers: Collection[int]) -> None:  # type: ignore[override]  # likewise
        """Give up processes that have gone."""
        theirs = [number for number in numbers if number in self._taken]
        self._taken -= set(theirs)
        if theirs:
            self._client.unlock(theirs)
        super().unlock([number for number in numbers if number not in theirs])


def _become_session(
    user: User,
    parent: int,
    ends: list[socket.socket],
    home: Path,
    cache: Path | None,
) -> RunDirectory:
    """Give all rights up; return where to leave word."""
    drop(user, parent, [end.fileno() for end in ends])
    _check_reach(user, home)
    _choose_cache(home, cache)
    client = Client(ends)
    privileged.install(client)
    runs = SessionDirectory(home, client)
    runs.recover()
    return runs


def _check_reach(user: User, home: Path) -> None:
    """Check that the user reaches what it needs: its directory, and this program.

    Raises:
        NotPermittedError: It does not.
    """
    if not os.access(home, os.W_OK | os.X_OK):
        raise NotPermittedError(
            f"{home}: user {user.name} cannot reach it",
            hint="ISOTHERM_RUN_DIRECTORY names another place",
        )
    for file in (os.__file__, __file__, msgspec.__file__):
        if not os.access(file, os.R_OK):
            raise NotPermittedError(
                f"{file}: user {user.name} cannot read the program itself",
                hint="install isotherm and its Python where everybody may read them",
            )


def _make_cache(user: User) -> Path | None:
    """Make the user's part of the service's cache; None where a service has none."""
    given = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    if not given:
        return None
    return make_owned(Path(given), user.uid, user.gid)


def _choose_cache(home: Path, cache: Path | None) -> None:
    """Have compiled kernels kept where the user may write them.

    Numba looks beside the source and in the home directory, which a service's user
    may not write, and gives up without any.
    """
    given = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(given)] if given else []
    places += [cache] if cache is not None else []
    places += [home / "numba"]
    for place in places:
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, exist_ok=True)
        if os.access(place, os.W_OK | os.X_OK):
            os.environ["NUMBA_CACHE_DIR"] = str(place)
            return


# -- the mover ------------------------------------------------------------------


class _Locks:
    """The locks of the run, by name of who holds others."""

    def __init__(self, runs: RunDirectory) -> None:
        self._runs, self._mine = runs, set[int]()
        self._guard = threading.Lock()

    def lock(self, numbers: Collection[int]) -> list[dict[str, Any]]:
        taken = []
        with self._guard:
            for number in numbers:
                found = self._runs.lock((number,))
                taken += [msgspec.to_builtins(one) for one in found]
                if not found:
                    self._mine.add(number)
        return taken

    def unlock(self, numbers: Collection[int]) -> None:
        with self._guard:
            ours = self._mine.intersection(numbers)
            self._runs.unlock(sorted(ours))
            self._mine -= ours

    def is_locked(self, pid: int) -> bool:
        with self._guard:
            return pid in self._mine


class _Mover:
    """The privileged half of a run under way."""

    def __init__(
        self,
        request: Request,
        runs: RunDirectory,
        changes: HostChanges,
        rules: Rules,
        child: int,
        home: Path,
        user: User,
    ) -> None:
        self._child, self._runs, self._request = child, runs, request
        self._home, self._user = home, user
        self._pidfd = os.pidfd_open(child)
        self._asked_s: float | None = None  # when the end was asked for
        self.server = Server(
            rules,
            changes,
            child,
            _Locks(runs),
            Notifier().send,
            has_swap=lambda: read_compressed_swap(request.root) is not None,
        )

    def run(self, ends: list[socket.socket]) -> int:
        """Serve until the session has ended; return its exit code."""
        threads = [
            threading.Thread(target=self.server.serve, args=(end,), daemon=True)
            for end in ends
        ]
        with self._passing_on() as pipe:
            self._announce()
            # Who has cleared up meanwhile has not known of us.
            make_home(self._runs.directory, self._user.uid, self._user.gid)
            for thread in threads:
                thread.start()
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.register(pipe, select.POLLIN)
            # A signal that asks for the end wakes it; only then is there a hurry.
            while self._pidfd not in (ready := [fd for fd, _ in poll.poll(self._ms())]):
                if ready:
                    os.read(pipe, 64)
                self._insist()
        _, status = os.waitpid(self._child, 0)
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        until = time.monotonic() + PATIENCE_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        for end in ends:
            end.close()
        self.server.close()
        os.close(self._pidfd)
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            log.error("session", ended_by=name, pid=self._child)
            if self.server.halted:
                return 0  # as it was told to, in whatever way: not to be begun anew
            return 128 + os.WTERMSIG(status)
        return os.waitstatus_to_exitcode(status)

    def _ms(self) -> int | None:
        return None if self._asked_s is None else 500

    def _insist(self) -> None:
        """Kill a session that has been asked to end and does not."""
        if self._asked_s is None or time.monotonic() - self._asked_s < OBEY_S:
            return
        self._asked_s = None
        log.error("session", why="does not end when asked to", after_s=OBEY_S)
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _announce(self) -> None:
        request, me = self._request, os.getpid()
        self._runs.announce(
            RunRecord(
                pid=me,
                start_ticks=start_ticks(me) or 0,
                since_s=time.time(),
                mover=request.mover,
                targets=describe_target(request),
                pids=request.pids,
                command=tuple(sys.argv),
                socket=str(self._home / f"run-{self._child}.sock"),
            )
        )

    @contextlib.contextmanager
    def _passing_on(self) -> Iterator[int]:
        """Pass signals on to the session; give what wakes a poll."""

        def pass_on(number: int, frame: FrameType | None) -> None:
            if number in ENDS and not self.server.halted:
                self.server.halted, self._asked_s = True, time.monotonic()
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, number)

        pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        wakeup = signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
        old = {number: signal.signal(number, pass_on) for number in PASSED_ON}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        try:
            yield pipe[0]
        finally:
            # What comes while all is put back must not end that half-way.
            signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
            for number, handler in old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            for end in pipe:
                os.close(end)
