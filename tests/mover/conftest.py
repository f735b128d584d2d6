"""A mover whose system calls are written down, and processes to try it on."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isotherm.core.changes import HostChanges
from isotherm.core.errors import NotPermittedError
from isotherm.daemon.permitted import check_permitted
from isotherm.machine.linux import syscalls
from isotherm.machine.linux.perf_open import perf_event_open
from isotherm.machine.linux.process import Process
from isotherm.mover.scope import Rules
from isotherm.mover.server import Answer, Calls, Server
from isotherm.mover.wire import Message

#: Takes 16 pages, says where, and waits to be ended.
CHILD = """
import ctypes, mmap, os, sys, threading
memory = mmap.mmap(-1, 16 << 12, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
ctypes.memset(start, 7, 16 << 12)
stop = threading.Event()
thread = threading.Thread(target=stop.wait, daemon=True)
thread.start()
print(start, thread.native_id, flush=True)
for line in sys.stdin:
    if line == "fork\\n":
        pid = os.fork()
        if pid == 0:
            os.close(0)
            stop.wait()
        print(pid, flush=True)
    else:
        print(memory[:] == bytes([7]) * (16 << 12), flush=True)
"""


@dataclass
class Puppet:
    """A process with 16 pages of its own and a second thread."""

    process: subprocess.Popen[str]
    start: int
    tid: int

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def ask(self, line: str) -> str:
        """Say a line; return what it answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def is_whole(self) -> bool:
        """Return whether its memory holds what it wrote."""
        return self.ask("whole") == "True"

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[[], Puppet]]:
    """Return a function that starts a puppet; it ends with the test."""
    begun: list[Puppet] = []

    def begin() -> Puppet:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        address, tid = process.stdout.readline().split()
        begun.append(Puppet(process, int(address), int(tid)))
        return begun[-1]

    yield begin
    for one in begun:
        one.end()


@pytest.fixture
def managed(start: Callable[[], Puppet]) -> Puppet:
    """Return a process that the command line names."""
    return start()


@pytest.fixture
def bystander(start: Callable[[], Puppet]) -> Puppet:
    """Return a process that nobody names."""
    return start()


@pytest.fixture
def rights() -> None:
    """Skip where this process may not move pages of others and see frames."""
    try:
        check_permitted()
    except NotPermittedError as error:
        pytest.skip(f"needs the rights of a daemon: {error.message}")


@dataclass
class Record:
    """What reached the kernel, by call.

    Attributes:
        moved: pid, first address and node of each move.
        advised: Advice given, by the process's descriptor.
        wrote: Path and value of each file written.
        real: Every move is made, events are opened and bits cleared, which takes
            milliseconds each.
    """

    pids: set[int] = field(default_factory=set)
    moved: list[tuple[int, np.ndarray, Any, int]] = field(default_factory=list)
    advised: list[tuple[np.ndarray, np.ndarray, int]] = field(default_factory=list)
    events: list[tuple[bytes, int, int]] = field(default_factory=list)
    wrote: list[tuple[str, str]] = field(default_factory=list)
    placed: list[tuple[int, Any]] = field(default_factory=list)
    cleared: list[tuple[int, int]] = field(default_factory=list)
    real: bool = True

    def calls(self) -> Calls:
        """Return calls that are written down, then made; files are never written."""

        def move(pid: int, address: Any, node: Any, flags: int) -> Any:
            self.pids.add(pid)
            self.moved.append((pid, address, node, flags))
            if not self.real and len(self.moved) % 256:
                node = None  # a move waits for every CPU: most only ask where
            return syscalls.move_pages(pid, address, node, flags)

        def madvise(pidfd: int, begin: Any, size: Any, advice: int) -> int:
            self.pids.add(pid_of(pidfd))
            self.advised.append((begin, size, advice))
            return syscalls.process_madvise(pidfd, begin, size, advice)

        def touch(pid: int, address: Any) -> int:
            self.pids.add(pid)
            return syscalls.touch(pid, address)

        def event(attr: bytes, tid: int, cpu: int) -> int:
            self.events.append((attr, tid, cpu))
            if not self.real:
                return os.open(os.devnull, os.O_RDONLY)
            return perf_event_open(attr, tid, cpu)

        def run_on(
            process: Process, cpus: Any, changes: Any, tid: Any, ours: Any
        ) -> int:
            self.pids.add(process.pid)
            self.placed.append((process.pid, cpus))
            return 0

        def clear(process: Process, what: int) -> None:
            self.pids.add(process.pid)
            self.cleared.append((process.pid, what))
            if self.real:
                process.clear_refs(what)

        def write(path: Path, value: str) -> None:
            self.wrote.append((str(path), value))

        return Calls(move, madvise, touch, clear, event, write, run_on)


class RecordedChanges(HostChanges):
    """A journal in memory that writes no file."""

    def __init__(self, record: Record) -> None:
        super().__init__(None)
        self.record = record

    def write(self, path: Path, value: str | int) -> bool:
        """Note the write."""
        self.record.wrote.append((str(path), str(value)))
        return True

    def made(self, kind: str, **facts: Any) -> None:
        """Note the change."""
        self.record.wrote.append((kind, str(sorted(facts))))

    def restore(self, kind: str | None = None) -> list[str]:
        """Undo nothing: nothing was done."""
        return []


def pid_of(pidfd: int) -> int:
    """Return the process of a pidfd."""
    text = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    return int(text.partition("Pid:")[2].split()[0])


@pytest.fixture
def record() -> Record:
    """Return what is written down."""
    return Record()


@pytest.fixture
def serve(record: Record) -> Iterator[Callable[..., Server]]:
    """Return a function that makes a server; its session is this process's parent."""
    made: list[Server] = []

    def begin(**rules: Any) -> Server:
        rules.setdefault("nodes", frozenset({0}))
        swap = rules.pop("swap", False)
        server = Server(
            Rules(**rules),
            RecordedChanges(record),
            os.getppid(),
            calls=record.calls(),
            has_swap=lambda: swap,
        )
        made.append(server)
        return server

    yield begin
    for one in made:
        one.close()


def ask(server: Server, message: Message) -> Answer:
    """Return what a server answers; a descriptor is closed."""
    _, answer = server.handle(message.pack())
    if answer.fd >= 0:
        os.close(answer.fd)
    return answer
