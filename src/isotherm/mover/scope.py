"""Which processes a session may have, and whether one is still among them.

A process is admitted where the command line names it, where it is a member of a
cgroup that it names, or where its parent was admitted and is none of a cgroup's
members: the rules of ``machine.linux.targets.follow``. It is held by pidfd before any
of that is looked at, so what is found is true of this very process, and a number that
is given out again names nobody.
"""

import contextlib
import errno
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from isotherm.core.errors import IsothermError, TargetGoneError
from isotherm.machine.linux import syscalls
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.targets.discover import read_members
from isotherm.mover.cgroups import Place, derive_places, is_in

#: A member of a cgroup is looked for in it again after this long.
MEMBER_S: Final = 1.0
#: Processes that may be open at once.
MOST_HANDLES: Final = 1 << 16
#: Ancestors that are looked at.
_MOST_ANCESTORS: Final = 16
_MOST_PID: Final = 1 << 22  # PID_MAX_LIMIT of 64-bit kernels


@dataclass(frozen=True, slots=True)
class Rules:
    """What a session may do, as the command line says.

    Attributes:
        pids: Processes by number.
        cgroups: Directories of cgroups.
        nodes: Nodes with memory, or that may get some.
        dry_run: Nothing is moved and nothing written.
        locks: A process is admitted only while it is locked for this run.
        moves_all: Pages that others map, too, may be moved (MPOL_MF_MOVE_ALL).
        sets_affinity: Threads may be told where to run.
        sets_weights: The weights of interleaving may be written.
        makes_huge: Huge pages may be made of small ones, which takes memory.
        other_locks: Numbers that may be locked beside those of processes.
    """

    pids: tuple[int, ...] = ()
    cgroups: tuple[Path, ...] = ()
    nodes: frozenset[int] = frozenset()
    dry_run: bool = False
    locks: bool = False
    moves_all: bool = False
    sets_affinity: bool = False
    sets_weights: bool = False
    makes_huge: bool = False
    other_locks: frozenset[int] = frozenset()


@dataclass(slots=True)
class Held:
    """An admitted process.

    Attributes:
        process: Held by pidfd.
        member: It is one as long as it is in a cgroup.
        looked_s: When that was looked at.
        uses: Requests under way that use it.
        released: Its handle was given back.
    """

    process: Process
    member: bool
    looked_s: float
    uses: int = 0
    released: bool = False


@dataclass(slots=True)
class Scope:
    """The processes of a run. Safe to call from several threads.

    Attributes:
        rules: What the command line says.
        never: Processes that are never admitted: the mover and its session.
        is_locked: Whether a process is locked for this run.
        clock: Seconds, monotonic.
    """

    rules: Rules
    never: frozenset[int] = frozenset()
    is_locked: Callable[[int], bool] = lambda pid: True
    clock: Callable[[], float] = time.monotonic
    _held: dict[int, Held] = field(default_factory=dict)
    _by_pid: dict[int, set[int]] = field(default_factory=dict)
    _named: dict[int, Process] = field(default_factory=dict)
    _places: tuple[Place, ...] = ()
    _next: int = 1
    _guard: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        """Hold the processes that are named: a number is theirs from now on."""
        with contextlib.suppress(OSError):
            mounts = Path("/proc/self/mountinfo").read_text()
            self._places = derive_places(self.rules.cgroups, mounts)
        for pid in self.rules.pids:
            with contextlib.suppress(IsothermError):  # it has ended
                self._named[pid] = Process(pid)

    def close(self) -> None:
        """Give all descriptors back."""
        with self._guard:
            for held in self._held.values():
                held.process.close()
            for process in self._named.values():
                process.close()
            self._held, self._by_pid, self._named = {}, {}, {}

    # -- admission ---------------------------------------------------------

    def admit(self, pid: int) -> tuple[int, int, int]:
        """Admit a process; return handle, a copy of its pidfd and its start in ticks.

        Raises:
            OSError: ESRCH: it is gone; EINVAL: it is a thread; EPERM: it is none of
                this run's; EAGAIN: it still shares its parent's memory; EMFILE:
                there are too many.
        """
        self.check_pid(pid)
        with self._guard:
            if len(self._held) >= MOST_HANDLES:
                raise OSError(errno.EMFILE, "too many processes are open")
            process = open_process(pid)
            try:
                member = self._find_place(process)
            except BaseException:
                process.close()
                raise
            try:
                pidfd = os.dup(process.pidfd)
            except OSError:
                process.close()
                raise
            handle, self._next = self._next, self._next + 1
            self._held[handle] = Held(process, member, self.clock())
            self._by_pid.setdefault(pid, set()).add(handle)
            return handle, pidfd, process.start_ticks

    def check_pid(self, pid: int) -> None:
        """Refuse numbers that are nobody's, and our own.

        Raises:
            OSError: EINVAL or EPERM.
        """
        if not 0 < pid <= _MOST_PID:
            raise OSError(errno.EINVAL, f"pid {pid}")
        if pid in self.never:
            raise OSError(errno.EPERM, f"pid {pid} is isotherm itself")

    def may_lock(self, pid: int) -> bool:
        """Return whether a process is of this run, so that it may be locked."""
        try:
            self.check_pid(pid)
            process = open_process(pid)
        except OSError:
            return False
        try:
            self._find_place(process, locked=True)
        except OSError:
            return False
        finally:
            process.close()
        return True

    def shares_memory(self, pid: int, parent: int) -> bool:
        """Return whether a process has its parent's address space, as after vfork(2).

        Of others nothing is said: it is a member of a cgroup, or its parent is
        admitted.

        Raises:
            OSError: EPERM: it is a stranger, or that is not its parent; ESRCH.
        """
        for number in (pid, parent):
            self.check_pid(number)
        process = open_process(pid)
        try:
            if not self.is_member(process):
                self.handle_of(parent)
            if process.stat().parent != parent:
                raise OSError(errno.EPERM, f"pid {parent} is not its parent")
            return syscalls.shares_memory(pid, parent)
        finally:
            process.close()

    def _find_place(self, process: Process, *, locked: bool = False) -> bool:
        """Return whether a process is admitted as a member of a cgroup; see admit."""
        pid = process.pid
        if self.rules.locks and not locked and not self.is_locked(pid):
            raise OSError(errno.EPERM, f"pid {pid} is not locked")
        named = self._named.get(pid)
        # Both are open: were they two, one would have ended by now.
        if named is not None and named.alive() and process.alive():
            return False
        if self.is_member(process):
            if self._is_unripe(process):
                raise OSError(errno.EAGAIN, f"pid {pid} shares its parent's memory")
            return True
        if self._is_descendant(process):
            if self._is_unripe(process):
                raise OSError(errno.EAGAIN, f"pid {pid} shares its parent's memory")
            return False
        raise OSError(errno.EPERM, f"pid {pid} is none of this run's")

    def is_member(self, process: Process) -> bool:
        """Return whether a process is in one of the cgroups now.

        It says so itself; else, where the mounts do not tell, the cgroups are read: it
        is open before and alive after, so that the number is its own.
        """
        if not self.rules.cgroups:
            return False
        if is_in(process, self._places):
            return True
        for cgroup in self.rules.cgroups:
            with contextlib.suppress(TargetGoneError):
                if process.pid in read_members(cgroup):
                    return process.alive()
        return False

    def _is_unripe(self, process: Process) -> bool:
        """Return whether it is between vfork and exec."""
        try:
            parent = process.stat().parent
        except IsothermError:
            return False
        return parent > 0 and syscalls.shares_memory(process.pid, parent)

    def _is_descendant(self, process: Process) -> bool:
        """Return whether it descends from a process that is here by itself.

        Each ancestor is held while it is asked for its own parent, and the child is
        asked again after that: no number has changed hands in between.
        """
        open_ones: list[Process] = []
        child = process
        try:
            for _ in range(_MOST_ANCESTORS):
                pid = child.stat().parent
                if pid <= 1:
                    return False
                if self._is_here(pid) and child.stat().parent == pid:
                    return True
                parent = Process(pid)
                open_ones.append(parent)
                if child.stat().parent != pid:
                    return False
                child = parent
        except IsothermError:
            return False
        finally:
            for one in open_ones:
                one.close()
        return False

    def _is_here(self, pid: int) -> bool:
        """Return whether the process of a number lives, and is here by itself."""
        named = self._named.get(pid)
        if named is not None and named.alive():
            return True
        with self._guard:
            handles = self._by_pid.get(pid, ())
            return any(
                not self._held[h].member and self._held[h].process.alive()
                for h in handles
            )

    # -- use ---------------------------------------------------------------

    @contextlib.contextmanager
    def using(self, handle: int) -> Iterator[Process]:
        """Give the process of a handle, if it is of this run still.

        Its descriptors stay open meanwhile, whoever gives the handle back: a number
        that another thread opens is never taken for one of them.

        Raises:
            OSError: EBADF: no such handle; ESRCH: it has ended, or left the cgroup.
        """
        with self._guard:
            held = self._held.get(handle)
            if held is None:
                raise OSError(errno.EBADF, f"handle {handle}")
            self._check(held)
            held.uses += 1
        try:
            yield held.process
        finally:
            with self._guard:
                held.uses -= 1
                if held.released and not held.uses:
                    held.process.close()

    def _check(self, held: Held) -> None:
        process = held.process
        if not process.alive():
            raise OSError(errno.ESRCH, f"pid {process.pid} has ended")
        if self.rules.locks and not self.is_locked(process.pid):
            raise OSError(errno.EPERM, f"pid {process.pid} is not locked")
        now_s = self.clock()
        if held.member and now_s - held.looked_s >= MEMBER_S:
            if not self.is_member(process):
                raise OSError(errno.ESRCH, f"pid {process.pid} is no member")
            held.looked_s = now_s

    def release(self, handle: int) -> None:
        """Give a handle back.

        Raises:
            OSError: EBADF: there is none.
        """
        with self._guard:
            held = self._held.pop(handle, None)
            if held is None:
                raise OSError(errno.EBADF, f"handle {handle}")
            pid = held.process.pid
            self._by_pid[pid].discard(handle)
            if not self._by_pid[pid]:
                del self._by_pid[pid]
            held.released = True
            if not held.uses:
                held.process.close()

    def handle_of(self, pid: int) -> int:
        """Return a handle of the admitted process of a number.

        Raises:
            OSError: EPERM: none is admitted; ESRCH: it has ended, or left.
        """
        with self._guard:
            for handle in self._by_pid.get(pid, ()):
                self._check(self._held[handle])
                return handle
        raise OSError(errno.EPERM, f"pid {pid} is not managed")

    def pids(self) -> Collection[int]:
        """Return the numbers of admitted processes."""
        with self._guard:
            return tuple(self._by_pid)


def open_process(pid: int) -> Process:
    """Hold a process.

    Raises:
        OSError: ESRCH: it is gone; EINVAL: it is a thread; EMFILE.
    """
    try:
        return Process(pid)
    except IsothermError as error:
        cause = error.__cause__
        code = cause.errno if isinstance(cause, OSError) else errno.ESRCH
        raise OSError(code or errno.ESRCH, error.message) from None


def has_thread(process: Process, tid: int) -> bool:
    """Return whether a thread is of a process now."""
    try:
        os.close(process.open(f"task/{tid}", os.O_PATH))
    except IsothermError:
        return False
    return True


def leader_of(tid: int) -> int:
    """Return the process that a thread says it is of.

    Raises:
        OSError: ESRCH: there is none.
    """
    try:
        status = Path(f"/proc/{tid}/status").read_text()
    except OSError:
        raise OSError(errno.ESRCH, f"thread {tid}") from None
    found = re.search(r"^Tgid:\s*([0-9]+)$", status, re.MULTILINE)
    if found is None:
        raise OSError(errno.ESRCH, f"thread {tid}")
    return int(found[1])
