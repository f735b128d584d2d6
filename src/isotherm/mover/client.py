"""The session's side: what ``core.privileged`` asks, over the channels."""

import contextlib
import errno
import json
import os
import queue
import socket
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.changes import HostChanges
from isotherm.core.errors import IsothermError, NotPermittedError
from isotherm.mover import wire
from isotherm.mover.wire import Message, Op


class Client:
    """Asks a mover; safe to call from several threads, each on a channel of its own.

    A `core.privileged.Broker`.

    Args:
        ends: The session's ends of the channels.

    Raises:
        IsothermError: The mover is of another version.
    """

    def __init__(self, ends: Sequence[socket.socket]) -> None:
        self._free: queue.LifoQueue[socket.socket] = queue.LifoQueue()
        self._number = 0
        for end in ends:
            self._free.put(end)
        version = self._ask(Op.HELLO).value
        if version != wire.VERSION:
            raise IsothermError(f"mover: speaks version {version}, not {wire.VERSION}")

    def close(self) -> None:
        """Close the channels."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait().close()

    def _call(self, request: Message) -> tuple[Message, list[int]]:
        """Send a request; return the answer and what came with it.

        Raises:
            OSError: EPIPE: the mover has gone.
        """
        end = self._free.get()
        try:
            wire.send(end, request)
            data, fds = wire.receive_with(end)
        finally:
            self._free.put(end)
        if not data:
            raise OSError(errno.EPIPE, "the mover has gone")
        answer = wire.unpack(data)
        if (answer.op, answer.number) != (request.op, request.number):
            raise OSError(errno.EPROTO, "an answer to something else")
        return answer, fds

    def _ask(
        self,
        op: Op,
        *,
        count: int = 0,
        handle: int = 0,
        value: int = 0,
        body: bytes = b"",
    ) -> Message:
        """Return an answer without a descriptor.

        Raises:
            OSError: What the mover or the kernel said.
        """
        return self._asked(op, count, handle, value, body)[0]

    def _asked(
        self, op: Op, count: int, handle: int, value: int, body: bytes
    ) -> tuple[Message, list[int]]:
        self._number = number = self._number + 1 & 0xFFFFFFFF
        answer, fds = self._call(Message(op, number, count, handle, value, body))
        if answer.value < 0:
            for fd in fds:
                os.close(fd)
            raise OSError(-answer.value, answer.body.decode("utf-8", "replace"))
        return answer, fds

    def _fetch(
        self,
        op: Op,
        *,
        handle: int = 0,
        value: int = 0,
        body: bytes = b"",
        count: int = 0,
    ) -> tuple[Message, int]:
        """Return an answer and its descriptor."""
        answer, fds = self._asked(op, count, handle, value, body)
        if len(fds) != 1:
            for fd in fds:
                os.close(fd)
            # It was sent, and there was no room for it here.
            raise OSError(errno.EMFILE, "no descriptor came")
        return answer, fds[0]

    # -- processes ---------------------------------------------------------

    def admit(self, pid: int) -> tuple[int, int, int]:
        """Open a managed process; return handle, pidfd and start in clock ticks."""
        answer, fd = self._fetch(Op.ADMIT, value=pid)
        return answer.handle, fd, answer.value

    def release(self, handle: int) -> None:
        """Give a handle back."""
        self._ask(Op.RELEASE, handle=handle)

    def read(self, handle: int, name: str) -> bytes:
        """Return a file of a process's ``/proc`` directory.

        What depends on who reads is read by the mover, the rest here.
        """
        if name.endswith("stat"):
            return self._ask(Op.READ, handle=handle, body=name.encode()).body
        fd = self.open(handle, name, os.O_RDONLY)
        with open(fd, "rb", buffering=0) as file:  # noqa: PTH123  # a descriptor
            return file.readall()

    def open(self, handle: int, name: str, flags: int) -> int:
        """Return a descriptor of a file of a process's ``/proc`` directory."""
        return self._fetch(Op.OPEN, handle=handle, value=flags, body=name.encode())[1]

    def clear_refs(self, handle: int, what: int) -> None:
        """Clear accessed or soft-dirty bits."""
        self._ask(Op.CLEAR, handle=handle, value=what)

    def move_pages(
        self,
        handle: int,
        address: NDArray[np.uint64],
        node: NDArray[np.int32] | None,
        flags: int,
    ) -> tuple[int, NDArray[np.int32]]:
        """Move pages or ask where they are; see ``syscalls.move_pages``."""
        status = np.full(len(address), -(1 << 20), np.int32)
        left = 0
        for first in range(0, len(address), wire.MOST_PAGES):
            rows = slice(first, first + wire.MOST_PAGES)
            part = np.ascontiguousarray(address[rows], np.uint64)
            op, value, body = Op.WHERE, 0, part.tobytes()
            if node is not None:
                op, value = Op.MOVE, flags
                body += np.ascontiguousarray(node[rows], np.int32).tobytes()
            try:
                answer, _ = self._call(Message(op, 0, len(part), handle, value, body))
            except OSError as error:
                return -(error.errno or errno.EIO), status
            if len(answer.body) == 4 * len(part):
                status[rows] = np.frombuffer(answer.body, np.int32)
            if answer.value < 0:
                return answer.value, status
            left += answer.value
        return left, status

    def madvise(
        self,
        handle: int,
        start: NDArray[np.uint64],
        size: NDArray[np.uint64],
        advice: int,
    ) -> int:
        """Give advice; see ``syscalls.process_madvise``."""
        advised, failed = 0, 0
        for first in range(0, len(start), wire.MOST_RANGES):
            rows = slice(first, first + wire.MOST_RANGES)
            both = np.concatenate([start[rows], size[rows]]).astype(np.uint64)
            try:
                advised += self._ask(
                    Op.MADVISE,
                    count=len(both) // 2,
                    handle=handle,
                    value=advice,
                    body=both.tobytes(),
                ).value
            except OSError as error:
                failed = failed or -(error.errno or errno.EIO)
        return advised if advised or not failed else failed

    def touch(self, handle: int, address: NDArray[np.uint64]) -> int:
        """Fault pages in; see ``syscalls.touch``."""
        done, failed = 0, 0
        for first in range(0, len(address), wire.MOST_PAGES):
            part = np.ascontiguousarray(address[first : first + wire.MOST_PAGES])
            try:
                done += self._ask(
                    Op.TOUCH, count=len(part), handle=handle, body=part.tobytes()
                ).value
            except OSError as error:
                failed = failed or -(error.errno or errno.EIO)
        return done if done or not failed else failed

    def shares_memory(self, pid: int, other: int) -> bool:
        """Return whether two processes have one address space."""
        try:
            return bool(self._ask(Op.SHARES, value=pid, handle=other).value)
        except OSError:
            return False

    def run_on(self, handle: int, tid: int | None, cpus: Collection[int]) -> int:
        """Have threads run on CPUs; return how many were set."""
        body = json.dumps(sorted(cpus)).encode()
        return self._ask(Op.RUN_ON, handle=handle, value=tid or 0, body=body).value

    # -- events and files --------------------------------------------------

    def open_event(self, attr: bytes, tid: int, cpu: int, group: int) -> int:
        """Return the descriptor of a perf event; none leads a group here."""
        if group != -1:
            raise OSError(errno.EACCES, "perf event: no groups")
        if cpu < -1:
            raise OSError(errno.EINVAL, f"perf event: CPU {cpu}")
        return self._fetch(Op.EVENT, handle=cpu + 1, value=tid, body=attr)[1]

    def own_pagemap(self) -> int:
        """Return a descriptor of our own pagemap, which shows frames."""
        return self._fetch(Op.OWN_PAGEMAP)[1]

    def read_file(self, path: Path) -> str:
        """Return what a file of the kernel says; those anybody may read are read."""
        try:
            return path.read_text()
        except PermissionError:
            answer = self._ask(Op.READ_FILE, body=str(path).encode())
        return answer.body.decode()

    def write_file(self, path: Path, value: str) -> None:
        """Write a file of the kernel."""
        self._ask(Op.WRITE_FILE, body=f"{path}\n{value}".encode())

    # -- changes -----------------------------------------------------------

    def change(self, path: Path, value: str) -> bool:
        """Write a file of the kernel and its old value to the journal."""
        return bool(self._ask(Op.CHANGE, body=f"{path}\n{value}".encode()).value)

    def made(self, kind: str, facts: dict[str, Any]) -> None:
        """Note a change that is not a file write."""
        body = json.dumps({"kind": kind, "facts": facts}).encode()
        self._ask(Op.MADE, body=body)

    def restore(self, kind: str | None) -> list[str]:
        """Undo changes; return what was done."""
        said: list[str] = json.loads(
            self._ask(Op.RESTORE, body=(kind or "").encode()).body
        )
        return said

    # -- the run -----------------------------------------------------------

    def lock(self, pids: Collection[int]) -> list[dict[str, Any]]:
        """Lock processes; return who holds those that are taken."""
        taken: list[dict[str, Any]] = []
        for part in _parts(pids):
            answer = self._ask(Op.LOCK, count=len(part), body=part.tobytes())
            taken += json.loads(answer.body)
        return taken

    def unlock(self, pids: Collection[int]) -> None:
        """Give locks back."""
        for part in _parts(pids):
            self._ask(Op.UNLOCK, count=len(part), body=part.tobytes())

    def notify(self, state: str) -> None:
        """Tell the service manager; who does not listen hurts nobody."""
        with contextlib.suppress(OSError):
            self._ask(Op.NOTIFY, body=state.encode())


def _parts(pids: Collection[int]) -> list[NDArray[np.int64]]:
    column = np.array(sorted(pids), np.int64)
    most = wire.MOST_PAGES
    return [column[i : i + most] for i in range(0, len(column), most)]


class BrokeredChanges(HostChanges):
    """Changes that a mover makes and undoes: its journal, its rights.

    Args:
        client: To the mover.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(None)
        self._client = client

    def write(self, path: Path, value: str | int) -> bool:
        """Write a kernel file; see `HostChanges.write`."""
        return self._client.change(path, str(value))

    def made(self, kind: str, **facts: Any) -> None:  # any JSON value
        """Note a change that is not a file write; see `HostChanges.made`."""
        try:
            self._client.made(kind, facts)
        except OSError as error:
            raise NotPermittedError(f"{kind}: the mover refuses: {error}") from error

    def restore(self, kind: str | None = None) -> list[str]:
        """Undo changes; what cannot be asked for any more, the mover undoes itself."""
        try:
            return self._client.restore(kind)
        except OSError:
            return []
