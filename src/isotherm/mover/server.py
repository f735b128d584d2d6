"""Doing what a session asks for, as far as it may."""

import errno
import json
import os
import re
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.changes import HostChanges, write_value
from isotherm.core.errors import IsothermError, NotPermittedError, TargetGoneError
from isotherm.machine.linux import affinity, kdamonds, syscalls
from isotherm.machine.linux.perf_open import perf_event_open
from isotherm.machine.linux.process import NoDescriptorError, Process
from isotherm.mover import events, files, wire
from isotherm.mover.damon import Damon
from isotherm.mover.limits import Events, Looks, Room
from isotherm.mover.placed import Placements, check_cpus
from isotherm.mover.scope import Rules, Scope, has_thread, leader_of
from isotherm.mover.wire import Message, Op

#: Advice that may be given: none loses what is in memory.
ADVICE: Final = frozenset(
    {
        syscalls.MADV_WILLNEED,
        syscalls.MADV_COLD,
        syscalls.MADV_PAGEOUT,
        syscalls.MADV_COLLAPSE,
    }
)
#: Of it, what has to do with swap.
SWAPS: Final = frozenset({syscalls.MADV_WILLNEED, syscalls.MADV_PAGEOUT})
#: A call takes a GiB at most: a larger range would be that many calls.
MOST_ADVISED_BYTES: Final = 1 << 40
#: What may be told to the service manager: no MAINPID, no descriptors.
STATES: Final = re.compile(
    r"READY=1|WATCHDOG=1|RELOADING=1|STOPPING=1|MONOTONIC_USEC=[0-9]{1,20}"
    r"|STATUS=[^\n\x00-\x1f]{0,300}"
)


class Locks(Protocol):
    """Who else manages a process."""

    def lock(self, numbers: Collection[int]) -> list[dict[str, Any]]:
        """Lock processes; return who holds those that are taken."""
        ...

    def unlock(self, numbers: Collection[int]) -> None:
        """Give them up."""
        ...

    def is_locked(self, pid: int) -> bool:
        """Return whether a process is locked for this run."""
        ...


@dataclass(slots=True)
class Calls:
    """The system calls that change something, so that tests see each of them.

    Attributes:
        move_pages: move_pages(2).
        madvise: process_madvise(2).
        touch: process_vm_readv(2).
        clear_refs: Writes ``clear_refs`` of a process.
        perf_event_open: perf_event_open(2).
        write: Writes a file of the kernel.
        run_on: sched_setaffinity(2), through the journal.
    """

    move_pages: Callable[..., syscalls.MovePages] = syscalls.move_pages
    madvise: Callable[..., int] = syscalls.process_madvise
    touch: Callable[..., int] = syscalls.touch
    clear_refs: Callable[[Process, int], None] = Process.clear_refs
    perf_event_open: Callable[..., int] = perf_event_open
    write: Callable[[Path, str], None] = write_value
    run_on: Callable[..., int] = affinity.run_on


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gives.

    Attributes:
        value: The result.
        body: Columns, text or JSON.
        fd: A descriptor to send and to close after; -1: none.
        handle: A process that was admitted.
    """

    value: int = 0
    body: bytes = b""
    fd: int = -1
    handle: int = 0


class Server:
    """Answers the requests of one session; safe to call from several threads.

    Args:
        rules: What the session may do.
        changes: The journal.
        session: Its process.
        locks: Who else manages a process; None: nobody asks.
        notify: Tells the service manager.
        calls: The system calls.
        has_swap: Whether there is a tier, now, to which pages are put out.

    Attributes:
        looks: Processes that it may yet ask about.
        room: Whether the journal has any.
        refused: Requests that were answered with an errno of the mover's own.
        halted: Somebody has asked for the end: nothing is moved, put out, placed or
            set any more, whatever the session makes of it.
    """

    def __init__(
        self,
        rules: Rules,
        changes: HostChanges,
        session: int,
        locks: Locks | None = None,
        notify: Callable[[str], None] = lambda state: None,
        calls: Calls | None = None,
        has_swap: Callable[[], bool] = lambda: False,
    ) -> None:
        self.rules = rules
        self.calls = calls or Calls()
        self.refused, self.halted = 0, False
        self._changes, self._session, self._locks = changes, session, locks
        self._notify, self._has_swap = notify, has_swap
        self._cpus = frozenset(range(os.cpu_count() or 1)) | os.sched_getaffinity(0)
        is_locked = (lambda pid: True) if locks is None else locks.is_locked
        self.scope = Scope(rules, frozenset({os.getpid(), session}), is_locked)
        self._damon = Damon(changes, self.scope, self.calls.write)
        self._placed = Placements(changes, self.calls.run_on)
        self.looks, self.room, self.events = Looks(), Room(changes), Events()
        self._ops: dict[int, Callable[[Message], Answer]] = {
            Op.HELLO: lambda m: Answer(wire.VERSION),
            Op.ADMIT: self._admit,
            Op.RELEASE: self._release,
            Op.READ: self._read,
            Op.OPEN: self._open,
            Op.CLEAR: self._clear,
            Op.MOVE: self._move,
            Op.WHERE: self._where,
            Op.MADVISE: self._madvise,
            Op.TOUCH: self._touch,
            Op.SHARES: self._shares,
            Op.RUN_ON: self._run_on,
            Op.EVENT: self._event,
            Op.OWN_PAGEMAP: self._own_pagemap,
            Op.READ_FILE: self._read_file,
            Op.WRITE_FILE: self._write_file,
            Op.CHANGE: self._change,
            Op.MADE: self._note,
            Op.RESTORE: self._restore,
            Op.LOCK: self._lock,
            Op.UNLOCK: self._unlock,
            Op.NOTIFY: self._tell,
        }

    def close(self) -> None:
        """Give all descriptors back; what was changed is the caller's to restore."""
        self.scope.close()

    # -- answering ---------------------------------------------------------

    def serve(self, end: socket.socket) -> None:
        """Answer a channel until it ends."""
        room = bytearray(wire.MOST_BYTES)
        while True:
            try:
                data, more = wire.receive(end, room)
            except OSError:
                return
            if not data:
                return
            message, answer = self.handle(data, too_long=more)
            reply = Message(
                message.op,
                message.number,
                len(answer.body),
                answer.handle,
                answer.value,
                answer.body,
            )
            try:
                wire.send(end, reply, answer.fd)
            except OSError:
                return  # nobody reads it any more
            finally:
                if answer.fd >= 0:
                    os.close(answer.fd)

    def handle(self, data: bytes, *, too_long: bool = False) -> tuple[Message, Answer]:
        """Do what a message asks for; a refusal is an answer, too.

        Args:
            data: The message.
            too_long: It was cut off, or brought what no request brings.
        """
        message = Message(0)
        try:
            if too_long:
                raise wire.ProtocolError(errno.EMSGSIZE, "too much in a message")
            message = wire.unpack(data)
            operation = self._ops.get(message.op)
            if operation is None:
                raise wire.ProtocolError(errno.EPROTO, f"operation {message.op}")
            return message, operation(message)
        except OSError as error:
            code, why = error.errno or errno.EIO, error.strerror or ""
        except IsothermError as error:
            code, why = _code_of(error), error.message
        except (ValueError, OverflowError, MemoryError) as error:
            code, why = errno.EINVAL, str(error)
        self.refused += 1
        return message, Answer(-code, why.encode()[: wire.MOST_TEXT_BYTES])

    # -- processes ---------------------------------------------------------

    def _admit(self, message: Message) -> Answer:
        wire.plain(message)
        self.looks.take()
        handle, pidfd, start_ticks = self.scope.admit(message.value)
        return Answer(start_ticks, b"", pidfd, handle)

    def _release(self, message: Message) -> Answer:
        wire.plain(message)
        self.scope.release(message.handle)
        return Answer()

    def _read(self, message: Message) -> Answer:
        name = wire.text_of(message.body)
        if not files.READ.fullmatch(name):
            raise OSError(errno.EACCES, f"{name[:80]!r} is not to be read")
        with self.scope.using(message.handle) as process:
            data = process.read_bytes(name)
        if len(data) > wire.MOST_ANSWER_BYTES:
            raise OSError(errno.EFBIG, name)
        return Answer(len(data), data)

    def _open(self, message: Message) -> Answer:
        name, flags = wire.text_of(message.body), message.value
        reads = files.OPEN.fullmatch(name) and flags == os.O_RDONLY
        lists = name == files.LIST and flags == os.O_RDONLY | os.O_DIRECTORY
        if not (reads or lists):
            raise OSError(errno.EACCES, f"{name[:80]!r} is not to be opened")
        with self.scope.using(message.handle) as process:
            return Answer(0, b"", process.open(name, flags | os.O_NOFOLLOW))

    def _clear(self, message: Message) -> Answer:
        """Clear accessed bits; soft-dirty ones are whoever's who checkpoints."""
        wire.plain(message)
        self._check_goes_on()
        if message.value not in files.CLEARS:
            raise OSError(errno.EINVAL, f"clear_refs {message.value}")
        with self.scope.using(message.handle) as process:
            self.calls.clear_refs(process, message.value)
        return Answer()

    def _shares(self, message: Message) -> Answer:
        """Say whether a process of this run has its parent's address space."""
        wire.plain(message)
        self.looks.take()
        return Answer(int(self.scope.shares_memory(message.value, message.handle)))

    # -- pages -------------------------------------------------------------

    def _addresses(self, body: bytes, count: int) -> NDArray[np.uint64]:
        """Return a column of addresses of pages.

        Raises:
            OSError: EINVAL: one is not the beginning of a page of user space.
        """
        address = np.frombuffer(body, np.uint64, count)
        if (address & np.uint64(files.PAGE_MASK)).any() or (
            address >= np.uint64(files.USER_END)
        ).any():
            raise OSError(errno.EINVAL, "an address is no page of user space")
        return address

    def _check_swaps(self) -> None:
        """Refuse to put out and to bring back where no tier is swap."""
        if not self._has_swap():
            raise OSError(errno.EPERM, "no swap on this host is a tier")

    def _check_goes_on(self) -> None:
        """Refuse changes, by EPERM, once the end is asked for."""
        if self.halted:
            raise OSError(errno.EPERM, "the run is about to end")

    def _move(self, message: Message) -> Answer:
        count = wire.rows(message, 12, wire.MOST_PAGES)
        if self.rules.dry_run:
            raise OSError(errno.EPERM, "a dry run moves nothing")
        self._check_goes_on()
        allowed = {syscalls.MPOL_MF_MOVE}
        if self.rules.moves_all:
            allowed.add(syscalls.MPOL_MF_MOVE_ALL)
        if message.value not in allowed:
            raise OSError(errno.EINVAL, f"move_pages flags {message.value}")
        address = self._addresses(message.body, count)
        node = np.frombuffer(message.body, np.int32, count, 8 * count)
        if not self.rules.nodes.issuperset(np.unique(node).tolist()):
            raise OSError(errno.ENODEV, "a node is none of this host's with memory")
        return self._moved(message.handle, address, node, message.value)

    def _where(self, message: Message) -> Answer:
        count = wire.rows(message, 8, wire.MOST_PAGES)
        return self._moved(
            message.handle, self._addresses(message.body, count), None, 0
        )

    def _moved(
        self,
        handle: int,
        address: NDArray[np.uint64],
        node: NDArray[np.int32] | None,
        flags: int,
    ) -> Answer:
        with self.scope.using(handle) as process:
            done = self.calls.move_pages(process.pid, address, node, flags)
        return Answer(done.result, done.status.tobytes())

    def _madvise(self, message: Message) -> Answer:
        count = wire.rows(message, 16, wire.MOST_RANGES)
        if self.rules.dry_run:
            raise OSError(errno.EPERM, "a dry run gives no advice")
        if message.value not in ADVICE:
            raise OSError(errno.EINVAL, f"advice {message.value}")
        if message.value == syscalls.MADV_COLLAPSE and not self.rules.makes_huge:
            raise OSError(errno.EPERM, "nobody asked for huge pages")
        if message.value in SWAPS:
            self._check_swaps()
        if message.value != syscalls.MADV_WILLNEED:  # brings back what was put out
            self._check_goes_on()
        both = self._addresses(message.body, 2 * count)
        start, size = both[:count], both[count:]
        if (start + size > np.uint64(files.USER_END)).any():
            raise OSError(errno.EINVAL, "a range ends beyond user space")
        if size.sum(dtype=np.float64) > MOST_ADVISED_BYTES:
            raise OSError(errno.EINVAL, "more memory than is advised on at once")
        with self.scope.using(message.handle) as process:
            return Answer(self.calls.madvise(process.pidfd, start, size, message.value))

    def _touch(self, message: Message) -> Answer:
        count = wire.rows(message, 8, wire.MOST_PAGES)
        if self.rules.dry_run:
            raise OSError(errno.EPERM, "a dry run touches nothing")
        self._check_swaps()
        address = self._addresses(message.body, count)
        with self.scope.using(message.handle) as process:
            return Answer(self.calls.touch(process.pid, address))

    # -- threads and events ------------------------------------------------

    def _run_on(self, message: Message) -> Answer:
        cpus = check_cpus(wire.json_of(message.body))
        if not self.rules.sets_affinity or self.rules.dry_run:
            raise OSError(errno.EPERM, "nobody asked for threads to be placed")
        self._check_goes_on()
        tid = message.value or None
        with self.scope.using(message.handle) as process:
            if tid is not None and not has_thread(process, tid):
                raise OSError(errno.ESRCH, f"thread {tid}")
            self.room.check()
            return Answer(self._placed.place(process, cpus, tid))

    def _event(self, message: Message) -> Answer:
        tid, cpu = message.value, message.handle - 1
        asked = events.check(message.body, cpu, self._cpus)
        if asked.kind is events.Kind.KDAMOND:
            self._damon.check_trace(tid, asked.config)
            self.events.take(tid, cpu)
            return Answer(fd=self.calls.perf_event_open(message.body, tid, cpu))
        if tid == 0:
            return Answer(
                fd=self.calls.perf_event_open(message.body, self._session, cpu)
            )
        with self.scope.using(self.scope.handle_of(leader_of(tid))) as process:
            if not has_thread(process, tid):
                raise OSError(errno.ESRCH, f"thread {tid}")
            self.events.take(tid, cpu)
            fd = self.calls.perf_event_open(message.body, tid, cpu)
            # It may have ended, and its number be another's, in between.
            if not has_thread(process, tid):
                os.close(fd)
                raise OSError(errno.ESRCH, f"thread {tid}")
        return Answer(fd=fd)

    def _own_pagemap(self, message: Message) -> Answer:
        wire.plain(message)
        path = f"/proc/{self._session}/pagemap"
        return Answer(fd=os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    # -- files of the kernel -----------------------------------------------

    def _read_file(self, message: Message) -> Answer:
        data = files.read_listed(wire.text_of(message.body))
        return Answer(len(data), data)

    def _write_file(self, message: Message) -> Answer:
        self._damon.write(*wire.two_texts(message.body))
        return Answer()

    # -- the journal -------------------------------------------------------

    def _change(self, message: Message) -> Answer:
        path, value = wire.two_texts(message.body)
        files.may_write(files.WEIGHTS, path, value)
        if not self.rules.sets_weights or self.rules.dry_run:
            raise OSError(errno.EPERM, "nobody asked for weights to be set")
        if self._locks and not all(map(self._locks.is_locked, self.rules.other_locks)):
            raise OSError(errno.EPERM, "another run may have set the weights")
        self._check_goes_on()
        self.room.check()
        return Answer(int(self._changes.write(Path(path), value)))

    def _note(self, message: Message) -> Answer:
        asked = wire.json_of(message.body)
        if not isinstance(asked, dict) or asked.keys() != {"kind", "facts"}:
            raise wire.ProtocolError(errno.EPROTO, "kind and facts")
        if asked["kind"] != kdamonds.KIND:
            raise OSError(errno.EACCES, f"changes of kind {asked['kind']!r:.40}")
        self.room.check()
        self._damon.note(asked["facts"])
        return Answer()

    def _restore(self, message: Message) -> Answer:
        kind = wire.text_of(message.body) or None
        if kind not in (None, kdamonds.KIND, affinity.KIND):
            raise OSError(errno.EACCES, f"changes of kind {kind!r:.40}")
        said = self._damon.restore(kind)
        if kind != kdamonds.KIND:
            self._placed.forget()
        while len(data := json.dumps(said).encode()) > wire.MOST_ANSWER_BYTES:
            said = said[: len(said) // 2]
        return Answer(len(said), data)

    # -- the run -----------------------------------------------------------

    def _lock(self, message: Message) -> Answer:
        """Lock those that are of this run; the others are left alone, unlocked."""
        numbers = self._numbers(message)
        if self._locks is None:
            return Answer(0, b"[]")
        self.looks.take(len(numbers))
        ours = [
            number
            for number in numbers
            if number in self.rules.other_locks or self.scope.may_lock(number)
        ]
        data = json.dumps(self._locks.lock(ours)).encode()
        if len(data) > wire.MOST_ANSWER_BYTES:
            raise OSError(errno.EFBIG, "too many are taken")
        return Answer(0, data)

    def _unlock(self, message: Message) -> Answer:
        numbers = self._numbers(message)
        if self._locks is not None:
            self._locks.unlock(numbers)
        return Answer()

    def _numbers(self, message: Message) -> list[int]:
        count = wire.rows(message, 8, wire.MOST_PAGES)
        numbers: list[int] = np.frombuffer(message.body, np.int64, count).tolist()
        return numbers

    def _tell(self, message: Message) -> Answer:
        text = wire.text_of(message.body)
        for line in text.split("\n"):
            if not STATES.fullmatch(line):
                raise OSError(errno.EACCES, f"{line[:40]!r} is not to be told")
        self._notify(text)
        return Answer()


def _code_of(error: IsothermError) -> int:
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno:
        return cause.errno
    if isinstance(error, TargetGoneError):
        return errno.ESRCH
    if isinstance(error, NotPermittedError):
        return errno.EPERM
    return errno.EMFILE if isinstance(error, NoDescriptorError) else errno.EIO
