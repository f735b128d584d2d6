"""Processes to look at, which touch what they are told to; DAMON on a tree of files."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest

from isotherm.core.clock import VirtualClock
from isotherm.machine.linux.spaces import SpaceMap
from tests.hints.live.fake_damon import FIRST, MS, FakeDamon, FakeTrace

_CHILD = textwrap.dedent(
    """
    import ctypes, mmap, sys, threading

    pages, advice = int(sys.argv[1]), int(sys.argv[2])
    offer = 0
    exec(sys.argv[3])
    extra = 512 * 4096
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, pages * 4096 + extra, flags)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    skip = -start % extra  # aligned to a huge page
    if advice:
        memory.madvise(advice)
    print((start + skip) >> 12, offer, flush=True)

    def work(verb, first, last, step):
        # No accessed bit is set where the processor still knows the translation:
        # more pages go than are forgotten one at a time, so all are.
        with mmap.mmap(-1, 64 * 4096, flags) as gone:
            for page in range(64):
                gone[page * 4096] = 1
        for page in range(first, last, step):
            at = skip + page * 4096
            if verb == "write":
                memory[at] = page % 250 + 1
            elif verb == "fill":
                memory[at : at + 4096] = bytes([page % 251 + 1]) * 4096
            else:
                memory[at]

    for line in sys.stdin:
        verb, threaded, *numbers = line.split()
        job = (verb, *map(int, numbers))
        if threaded == "thread":
            thread = threading.Thread(target=work, args=job)
            thread.start()
            thread.join()
        else:
            work(*job)
        print("done", flush=True)
    """
)
MADV_HUGEPAGE, MADV_NOHUGEPAGE = 14, 15


class Target:
    """A child process with ``pages`` pages of private memory, none there yet.

    ``prelude`` is code that it runs before; what that sets ``offer`` to comes back.
    """

    def __init__(
        self, pages: int, advice: int = MADV_NOHUGEPAGE, prelude: str = ""
    ) -> None:
        self.pages = pages
        arguments = [str(pages), str(advice), textwrap.dedent(prelude)]
        self._child = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _CHILD, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout is not None
        self.pid = self._child.pid
        first, offer = self._child.stdout.readline().split()
        self.vpage, self.offer = int(first), int(offer)

    def _do(self, verb: str, first: int, last: int, step: int, *, thread: bool) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        where = "thread" if thread else "main"
        self._child.stdin.write(f"{verb} {where} {first} {last} {step}\n")
        self._child.stdin.flush()
        assert "done\n" == self._child.stdout.readline()

    def fill(self, first: int = 0, last: int | None = None) -> None:
        """Give pages content of their own."""
        self._do("fill", first, last or self.pages, 1, thread=False)

    def write(self, first: int, last: int, step: int = 1, thread: bool = False) -> None:
        """Write every ``step``-th page, in the main or in a new thread."""
        self._do("write", first, last, step, thread=thread)

    def read(self, first: int, last: int, step: int = 1, thread: bool = False) -> None:
        """Read every ``step``-th page."""
        self._do("read", first, last, step, thread=thread)

    def fds(self) -> int:
        """Return how many descriptors the process has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def mappings(self) -> int:
        """Return how many mappings the process has."""
        return len(Path(f"/proc/{self.pid}/maps").read_text().splitlines())

    def spaces(self) -> SpaceMap:
        """Return a map that manages this memory alone, from flat page 0 on."""
        spaces = SpaceMap()
        spaces.update(self.pid, np.array([[self.vpage, self.vpage + self.pages]]))
        spaces.take_renewed()
        return spaces

    def close(self) -> None:
        """End it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.stdout.close()
        self._child.kill()
        self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@pytest.fixture
def new_target() -> Iterator[Callable[..., Target]]:
    """Return a function that starts targets; all of them end with the test."""
    started: list[Target] = []

    def start(pages: int, advice: int = MADV_NOHUGEPAGE, prelude: str = "") -> Target:
        started.append(Target(pages, advice, prelude))
        return started[-1]

    yield start
    for target in started:
        target.close()


# ---- DAMON on files


@pytest.fixture
def damon(tmp_path: Path) -> FakeDamon:
    """Return DAMON's files, unused."""
    return FakeDamon(tmp_path)


@pytest.fixture
def clock() -> VirtualClock:
    """Return a clock at one second."""
    return VirtualClock(1_000 * MS)


@pytest.fixture
def traces() -> list[FakeTrace]:
    """Return the traces that were opened, oldest first."""
    return []


@pytest.fixture
def open_trace(
    traces: list[FakeTrace], clock: VirtualClock
) -> Callable[[int], FakeTrace]:
    """Return what opens a trace."""

    def begin(pid: int) -> FakeTrace:
        traces.append(FakeTrace(pid, clock.now_ns))
        return traces[-1]

    return begin


@pytest.fixture
def spaces(own_pid: int) -> SpaceMap:
    """Return a map in which this process has 1024 pages, from flat page 0 on."""
    made = SpaceMap()
    made.update(own_pid, np.array([[FIRST, FIRST + 1024]]))
    return made


@pytest.fixture
def own_pid() -> int:
    """Return the id of a process that is there."""
    return os.getpid()
