"""A process that does what it is told, and where its pages are."""

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.spaces import NO_PAGE

FAST, SLOW = 0, 1

#: A process that does what it is told, a line of Python at a time.
CHILD = r"""
import ctypes, mmap, os, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
kept = []
def call(number, *words):
    return libc.syscall(number, *(ctypes.c_long(word) for word in words))
def bind(page, pages, mode, nodes, flags=0):  # mbind
    mask = ctypes.c_ulong(nodes)
    return call(237, page << 12, pages << 12, mode, ctypes.addressof(mask), 64, flags)
def take(pages, node=None, huge=False, fill=True):  # first virtual page
    memory = mmap.mmap(-1, (pages + 512) << 12, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    start += -start % (2 << 20)
    libc.madvise(ctypes.c_long(start), ctypes.c_long(pages << 12), 14 if huge else 15)
    if node is not None:
        assert bind(start >> 12, pages, 2, 1 << node) == 0
    if fill:
        ctypes.memset(start, 1, pages << 12)
    if node is not None:
        assert bind(start >> 12, pages, 0, 0) == 0
    return start >> 12
def read(page, pages):
    return sum(ctypes.string_at((page + i) << 12, 1)[0] for i in range(pages))
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except SyntaxError:
        exec(line)
        print("None", flush=True)
"""


class Puppet:
    """A process under test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def do(self, line: str) -> Any:
        """Have it evaluate a line; return what came of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return ast.literal_eval(self.process.stdout.readline())

    def end(self) -> None:
        """Kill it and wait for its end."""
        self.process.kill()
        self.process.wait()


def flat(machine: LinuxMachine, pid: int, page: int, pages: int) -> np.ndarray:
    """Return the flat pages of a stretch of a process's memory, uint32."""
    found = machine.space_map.flat_pages(
        pid, np.arange(page, page + pages, dtype=np.uint64)
    )
    assert not (found == NO_PAGE).any()
    return found


def move(machine: LinuxMachine, page: np.ndarray, node: int) -> list[int]:
    """Move pages to a node; return their errnos."""
    return machine.move(page, np.full(len(page), node, np.uint8)).errno.tolist()


def on_node(pid: int, page: int, node: int) -> int:
    """Return the pages on a node of the mapping that holds a page: numa_maps says."""
    count = 0
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        if int(line.split()[0], 16) >> 12 <= page:
            found = re.search(rf" N{node}=(\d+)", line)
            count = int(found[1]) if found else 0
    return count


def counter(name: str) -> int:
    """Return a counter of /proc/vmstat."""
    found = re.search(
        rf"^{name} (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE
    )
    assert found is not None
    return int(found[1])
