"""Processes that map, unmap, fork, exec and end while their pages are moved."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import NotPermittedError, UnsupportedError
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.nodes import HostNodes
from isotherm.machine.linux.targets.follow import Follower
from isotherm.machine.protocol import NOT_PRESENT

pytestmark = pytest.mark.slow

#: Each memory holds a pattern that is looked at before it is given up.
CHURN = """
import mmap, os, random, signal, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
dice = random.Random({seed})
held = []
def good():
    for memory, mark in held:
        for at in range(0, len(memory), 4096):
            if memory[at] != mark:
                print("spoilt", flush=True)
                os._exit(1)
while not os.path.exists({stop!r}):
    what = dice.random()
    if what < 0.4 or not held:
        pages, mark = dice.randrange(16, 300), dice.randrange(1, 256)
        memory = mmap.mmap(-1, pages << 12, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, len(memory), 4096):
            memory[at] = mark
        held.append((memory, mark))
    elif what < 0.7:
        good()
        held.pop(dice.randrange(len(held)))[0].close()
    elif what < 0.85:
        if os.fork() == 0:
            good()
            if dice.random() < 0.5:
                os.execv("/bin/sleep", ["sleep", "0.1"])
            os._exit(0)
    time.sleep(0.01)
good()
print("good", flush=True)
"""


def descriptors() -> int:
    """Return how many descriptors we have, but for the pipes of children."""
    names = Path("/proc/self/fd").iterdir()
    return sum("pipe:" not in str(n.readlink()) for n in names if n.is_symlink())


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Return a function that starts a Python program which ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(program: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-S", "-E", "-c", program]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_nothing_is_spoilt_or_lost(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Every pattern is whole, no descriptor is left, no errno is one of confusion.

    Where there is one node, pages are moved to where they are.
    """
    before = descriptors()
    stop = tmp_path / "stop"
    children = [start(CHURN.format(seed=seed, stop=str(stop))) for seed in range(6)]
    pids = [child.pid for child in children]
    try:
        machine = LinuxMachine(Follower(pids), HostNodes(compressed=False))
    except (NotPermittedError, UnsupportedError) as error:
        pytest.skip(f"a live host is not to be had here: {error}")
    nodes = np.array(machine.nodes.memory_nodes, np.uint8)
    codes: set[int] = set()
    moved = 0
    done = threading.Event()
    lock = threading.Lock()
    todo: list[tuple[np.ndarray, np.ndarray]] = []

    def work() -> None:
        nonlocal moved
        while not done.is_set():
            with lock:
                batch = todo.pop() if todo else None
            if batch is None:
                time.sleep(0.001)
                continue
            result = machine.move(*batch)
            codes.update(result.errno.tolist())
            moved += int((result.errno == 0).sum())

    thread = threading.Thread(target=work)
    thread.start()
    dice = np.random.default_rng(1)
    end = time.monotonic() + 60
    rounds = 0
    while (moved < 3000 or rounds < 15) and time.monotonic() < end:
        rounds += 1
        machine.refresh()
        node = machine.placement()
        there = np.flatnonzero(node != NOT_PRESENT).astype(np.uint32)
        if len(there):
            page = dice.choice(there, min(512, len(there)), replace=False)
            with lock:
                todo[:] = [(page, dice.choice(nodes, len(page)))]
        usage = machine.usage()
        assert (usage.used_pages <= usage.capacity_pages).all()
    stop.touch()
    done.set()
    thread.join()
    said = [child.communicate()[0].strip() for child in children]
    assert ["good"] * len(children) == said
    assert moved >= 3000
    # Busy, gone, shared, ended, set aside: nothing else can have happened. EINVAL:
    # a process that is ending has no memory any more (mm/migrate.c).
    assert codes <= {0, 2, 3, 11, 13, 14, 16, 22, 95}
    while machine.spaces and time.monotonic() < end + 90:
        machine.refresh()  # forked sleepers end within a moment
    assert () == machine.spaces
    machine.close()
    assert before == descriptors()
