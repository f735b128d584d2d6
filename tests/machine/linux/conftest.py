"""A process that does what it is told, for tests of what can be seen of one."""

import ast
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

CHILD = r"""
import ctypes, mmap, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
kept = []
def take(pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, fill=True):
    memory = mmap.mmap(-1, pages << 12, flags)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if fill:
        ctypes.memset(start, 1, pages << 12)
    return start >> 12
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except SyntaxError:
        exec(line)
        print("None", flush=True)
"""


class Child:
    """A process under test."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.do("1")

    def tell(self, line: str) -> None:
        """Send it a line, and wait for nothing."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def do(self, line: str) -> Any:
        """Have it evaluate a line; return what came of it."""
        self.tell(line)
        assert self.process.stdout is not None
        return ast.literal_eval(self.process.stdout.readline())

    def end(self) -> None:
        """Kill it and wait for its end."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child() -> Iterator[Child]:
    """Return a process that does what it is told, and ends with the test."""
    made = Child()
    yield made
    made.end()


def poll(condition: Callable[[], object], what: str, limit_s: float = 20) -> None:
    """Wait for a condition, and fail without it."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {limit_s:g} s: {what}")
        time.sleep(0.005)


@pytest.fixture
def await_true() -> Callable[..., None]:
    """Return the function that waits for a condition."""
    return poll
