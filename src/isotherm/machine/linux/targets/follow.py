"""Following processes: forks, threads, execs, mappings and exits, once an epoch."""

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from isotherm.core.errors import IsothermError, NotPermittedError, TargetGoneError
from isotherm.core.units import NS_PER_S
from isotherm.machine.linux import syscalls
from isotherm.machine.linux.intervals import total
from isotherm.machine.linux.mappings import MappingPolicy
from isotherm.machine.linux.process import (
    NoDescriptorError,
    Process,
    gone,
    no_descriptor,
)
from isotherm.machine.linux.targets.discover import (
    derive_descendants,
    read_children,
    read_members,
    read_parents,
    read_task_mark,
)
from isotherm.machine.linux.targets.target import Target

#: Mappings are read again after this long even if the size has not changed: a
#: mapping may have taken another's place.
_MAPPINGS_NS: Final = 10 * NS_PER_S
#: Cpusets are looked at again after this long: 40 µs a process.
_STATUS_NS: Final = NS_PER_S
#: Policies and locks: not before this long, and 1000 times what reading
#: them took, which is a thousandth of a core.
_RULES_NS: Final = 10 * NS_PER_S
_RULES_REST: Final = 1000
#: New mappings are left out until their policies are read: at once where that takes
#: less than this, else not before 200 times as long, half a hundredth of a core.
_QUICK_NS: Final = 2_000_000
_NEW_RULES_REST: Final = 200
#: Processes are looked for again after this long even if nothing says that there
#: are new ones.
_SEARCH_NS: Final = 10 * NS_PER_S
#: Moving between cgroups leaves no mark: their members are read again after this
#: long, or 1000 times what reading them took.
_MEMBERS_NS: Final = NS_PER_S
_MEMBERS_REST: Final = 1000

#: Up to so many threads their children files are read, beyond all of /proc.
_FEW_THREADS: Final = 256


class EventKind(StrEnum):
    """What can happen to a followed process."""

    FOUND = "found"
    THREADS = "threads"
    EXEC = "exec"
    MAPPED = "mapped"
    EXITED = "exited"
    LEFT = "left"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class TargetEvent:
    """Something that happened to a process.

    Attributes:
        kind: What.
        pid: To whom.
        comm: Its name.
        detail: Parent (FOUND), threads (THREADS), managed pages (MAPPED); else 0.
        why: For REFUSED: the message.
    """

    kind: EventKind
    pid: int
    comm: str
    detail: int = 0
    why: str = ""


class Claims(Protocol):
    """Who else manages a process: asked before it is looked into."""

    def claim(self, pid: int) -> str | None:
        """Have a process for ourselves; return why not, None if it is ours now."""
        ...

    def release(self, pid: int) -> None:
        """Give it up."""
        ...


class Follower:
    """Keeps a set of processes and what is mapped in them up to date.

    Args:
        pids: Processes by name; each must be there and open to us.
        cgroups: Directories of cgroups; members of those below them count.
        descendants: Follow what the processes that were named fork. A child whose
            parent ends before it is seen is missed. What members of a cgroup fork
            is followed while it is a member, too; a member that is moved out of
            the cgroup is left alone within a second, or 1000 times as long as
            reading the members takes (at most 10 s).
        policy: Which mappings are managed.
        budget_ns: Time for reading mappings in one ``scan``; what does not fit
            waits for the next. At least one process is always read.
        claims: Asked for every process that is found; those that are named are
            their namer's to claim. One that is another's is left alone, and asked
            for again every ten seconds, and so is one for which there is no file
            descriptor: three are open for each.

    Raises:
        TargetGoneError: A process or cgroup that was named is not there.
        NotPermittedError: One may not be looked into.
    """

    def __init__(
        self,
        pids: Iterable[int] = (),
        cgroups: Iterable[Path] = (),
        *,
        descendants: bool = True,
        policy: MappingPolicy | None = None,
        budget_ns: int = 5_000_000,
        claims: Claims | None = None,
    ) -> None:
        self.policy = policy or MappingPolicy()
        self.targets: dict[int, Target] = {}
        #: Named cgroups that are still there.
        self.cgroups = list(cgroups)
        #: What happened, oldest first; the reader empties it.
        self.events: deque[TargetEvent] = deque(maxlen=4096)
        #: Time spent in ``scan`` so far.
        self.cost_ns = 0
        self._descendants = descendants
        self._budget_ns = budget_ns
        self._claims = claims
        self._epoll = select.epoll()
        self._by_fd: dict[int, int] = {}
        #: Processes that may not be looked into, by start time where known.
        self._refused: set[int] = set()
        #: What was said of those, so that it is said once.
        self._why: dict[int, str] = {}
        self._task_mark = ""
        #: A child was seen that still shares its parent's memory.
        self._unripe = False
        self._searched_ns = self._members_ns = self._members_cost_ns = 0
        try:
            for pid in pids:
                try:
                    self._open(pid, 0)
                except NoDescriptorError as error:
                    self._leave_alone(pid, error.message)
            for cgroup in self.cgroups:
                read_members(cgroup)
        except IsothermError:
            self.close()
            raise

    def close(self) -> None:
        """Give all descriptors back."""
        for target in self.targets.values():
            target.process.close()
        self.targets = {}
        self._by_fd = {}
        self._epoll.close()

    def scan(self, now_ns: int) -> tuple[list[Target], list[int]]:
        """See what has happened since the last scan.

        Returns:
            Processes whose managed pages may have changed, and those that are gone
            or have started another program: their pages are void first.
        """
        began = time.perf_counter_ns()
        void = self._reap()
        void += self._search(now_ns)
        due: list[Target] = []
        for target in list(self.targets.values()):
            try:
                if self._look(target, now_ns, void):
                    due.append(target)
            except TargetGoneError:
                void.append(self._drop(target))
            except NoDescriptorError as error:
                self._say_why(target.pid, error.message, target.stat.comm)
        due.sort(key=lambda target: target.read_ns)
        changed: list[Target] = []
        for target in due:
            if changed and time.perf_counter_ns() - began > self._budget_ns:
                break
            try:
                if self._read(target, now_ns):
                    changed.append(target)
            except TargetGoneError:
                void.append(self._drop(target))
            except NotPermittedError as error:
                # An exec of a set-user-id program.
                void.append(self._refuse(target, error))
            except NoDescriptorError as error:
                self._say_why(target.pid, error.message, target.stat.comm)
        self.cost_ns += time.perf_counter_ns() - began
        return changed, void

    def take_cgroups(self, cgroups: Iterable[Path]) -> None:
        """Follow the members of these at the next scan, and of no others."""
        self.cgroups = list(cgroups)
        self._members_ns = -_SEARCH_NS

    def reread_cpusets(self) -> None:
        """Have the cpusets of all read at the next scan: nodes have come or gone."""
        for target in self.targets.values():
            target.status_ns = 0

    # -- who --------------------------------------------------------------

    def _open(self, pid: int, parent: int, *, member: bool = False) -> None:
        """Follow a process."""
        process = Process(pid)
        try:
            target = Target(process, process.stat(), parent, member)
            if parent and not self._is_child(target):
                raise gone(pid)
            if member and syscalls.shares_memory(pid, target.stat.parent):
                self._unripe = True  # between vfork and exec
                raise gone(pid)
            os.close(process.open("maps"))
            process.pagemap_fd()
            if not process.fits():
                raise no_descriptor(pid, f"{len(self.targets)} are followed already")
        except IsothermError:
            process.close()
            raise
        self.targets[pid] = target
        self._by_fd[process.pidfd] = pid
        self._epoll.register(process.pidfd, select.EPOLLIN)
        self._tell(EventKind.FOUND, target, parent)

    def _is_child(self, target: Target) -> bool:
        """Return whether it is the child that was seen, not another of its number.

        Both are held by now: where the parent lives its number is its own.
        """
        if target.stat.parent != target.parent:
            return False
        parent = self.targets.get(target.parent)
        return parent is None or parent.process.alive()

    def _try_open(self, pid: int, parent: int, *, member: bool = False) -> None:
        if pid in self.targets or pid in self._refused or pid == os.getpid():
            return
        if parent and syscalls.shares_memory(pid, parent):
            self._unripe = True  # between vfork and exec
            return
        why = None if self._claims is None else self._claims.claim(pid)
        if why is not None:
            self._leave_alone(pid, why)
            return
        try:
            self._open(pid, parent, member=member)
        except TargetGoneError:
            self._release(pid)
        except IsothermError as error:
            self._release(pid)
            self._leave_alone(pid, error.message)

    def _leave_alone(self, pid: int, why: str, comm: str = "") -> None:
        """Do not try a process again for a while; say why, if that is new."""
        self._refused.add(pid)
        self._say_why(pid, why, comm)

    def _say_why(self, pid: int, why: str, comm: str) -> None:
        if self._why.get(pid) != why:
            self._why[pid] = why
            self.events.append(TargetEvent(EventKind.REFUSED, pid, comm, why=why))

    def _release(self, pid: int) -> None:
        if self._claims is not None:
            self._claims.release(pid)

    def _drop(self, target: Target, why: EventKind = EventKind.EXITED) -> int:
        """Stop following a process; return its pid."""
        pid = target.pid
        if self.targets.get(pid) is target:
            del self.targets[pid]
            self._by_fd.pop(target.process.pidfd, None)
            target.process.close()
            self._release(pid)
            self._tell(why, target)
        return pid

    def _refuse(self, target: Target, error: IsothermError) -> int:
        pid = target.pid
        del self.targets[pid]
        self._by_fd.pop(target.process.pidfd, None)
        target.process.close()
        self._release(pid)
        self._leave_alone(pid, error.message, target.stat.comm)
        return pid

    def _reap(self) -> list[int]:
        """Drop processes that have ended; return their pids."""
        gone: list[int] = []
        for fd, _ in self._epoll.poll(0):
            pid = self._by_fd.get(fd)
            if pid is not None:
                gone.append(self._drop(self.targets[pid]))
        return gone

    def _search(self, now_ns: int) -> list[int]:
        """Look for new members and descendants; return members that have left."""
        mark = read_task_mark()
        overdue = now_ns - self._searched_ns >= _SEARCH_NS
        new = not mark or mark != self._task_mark or self._unripe or overdue
        left: list[int] = []
        if self.cgroups or any(target.member for target in self.targets.values()):
            rest = max(_MEMBERS_NS, _MEMBERS_REST * self._members_cost_ns)
            if new or now_ns - self._members_ns >= rest:
                with contextlib.suppress(NoDescriptorError):  # at the next scan
                    left = self._search_members(now_ns)
        if not new:
            return left
        self._task_mark, self._searched_ns = mark, now_ns
        self._unripe = False
        if overdue:
            known = self._refused & self._why.keys()
            self._why = {pid: self._why[pid] for pid in known}
            self._refused.clear()
        if self._descendants:
            self._search_descendants()
        return left

    def _search_members(self, now_ns: int) -> list[int]:
        """Follow new members of the cgroups; leave alone who is none any more."""
        began = time.perf_counter_ns()
        members = self._read_members()
        before = self.targets.keys() - {os.getpid()}
        for pid in sorted(members - before):
            self._try_open(pid, 0, member=True)
        doubtful = {
            pid
            for pid, target in self.targets.items()
            if target.member and (pid not in members or pid not in before)
        }
        left: list[int] = []
        if doubtful:
            # Somebody else may have got the number before it was opened, and one
            # that is moved to another group below while they are read is missed.
            members = self._read_members()
            left = [
                self._drop(self.targets[pid], EventKind.LEFT)
                for pid in sorted(doubtful - members)
            ]
        self._members_ns = now_ns
        self._members_cost_ns = time.perf_counter_ns() - began
        return left

    def _read_members(self) -> set[int]:
        """Return the members of all cgroups; forget cgroups that have gone."""
        members: set[int] = set()
        for cgroup in list(self.cgroups):
            try:
                members |= read_members(cgroup)
            except TargetGoneError:
                self.cgroups.remove(cgroup)
        return members

    def _search_descendants(self) -> None:
        """Follow what the processes that were named have forked.

        By the children files of their threads, up to hundreds of threads cheaper
        than the parents of all processes there are.
        """
        todo = [target for target in self.targets.values() if not target.member]
        named = {target.pid for target in todo}
        if sum(target.stat.threads for target in todo) <= _FEW_THREADS:
            while todo:
                target = todo.pop()
                try:
                    children = read_children(target.process)
                except IsothermError:
                    continue
                if children is None:
                    break
                for pid in sorted(children - self.targets.keys()):
                    self._try_open(pid, target.pid)
                    if pid in self.targets:
                        todo.append(self.targets[pid])
            else:
                return
        for pid, parent in derive_descendants(read_parents(), named).items():
            self._try_open(pid, parent)

    # -- what -------------------------------------------------------------

    def _look(self, target: Target, now_ns: int, void: list[int]) -> bool:
        """Read a process's ``stat``; return whether its mappings are to be read."""
        before = target.stat
        target.stat = stat = target.process.stat()
        if stat.image != before.image:
            target.forget()
            void.append(target.pid)
            self._tell(EventKind.EXEC, target)
        elif stat.threads != before.threads:
            self._tell(EventKind.THREADS, target, stat.threads)
        if now_ns - target.status_ns >= _STATUS_NS or not target.status_ns:
            had_locks = target.locks
            target.read_status(now_ns)
            if target.locks != had_locks:
                target.read_ns = target.rules_ns = 0
        if target.has_new and self._may_read_rules(target, now_ns):
            return True
        seen = target.seen
        if target.read_ns == 0 or stat.vsize_bytes != seen.vsize_bytes:
            return True
        if "empty" in target.managed.left_out and (
            stat.rss_pages > seen.rss_pages + seen.rss_pages // 64
        ):
            return True
        return now_ns - target.read_ns >= _MAPPINGS_NS

    def _read(self, target: Target, now_ns: int) -> bool:
        """Read mappings, and rules when they are due; return whether pages changed."""
        changed = target.read_mappings(self.policy)
        if self._may_read_rules(target, now_ns):
            began = time.thread_time_ns()
            target.read_rules()
            target.rules_cost_ns = time.thread_time_ns() - began
            target.rules_ns = max(now_ns, 1)
            changed |= target.read_mappings(self.policy)
        target.read_ns = max(now_ns, 1)
        if changed:
            self._tell(EventKind.MAPPED, target, total(target.managed.ranges))
        return changed

    def _may_read_rules(self, target: Target, now_ns: int) -> bool:
        """Return whether it is time to read a process's policies and locks."""
        if target.rules_ns == 0:
            return True
        rest = max(_RULES_NS, _RULES_REST * target.rules_cost_ns)
        if target.has_new and target.rules_cost_ns < _QUICK_NS:
            return True
        if target.has_new:
            rest = min(rest, _NEW_RULES_REST * target.rules_cost_ns)
        return now_ns - target.rules_ns >= rest

    def _tell(self, kind: EventKind, target: Target, detail: int = 0) -> None:
        self.events.append(TargetEvent(kind, target.pid, target.stat.comm, detail))
