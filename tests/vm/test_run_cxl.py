"""isotherm run on a machine whose CXL memory arrives and leaves meanwhile."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.layout("cxl"),
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("quiet_kernel"),
]

HOT_PAGES = 2048
LIMIT_S = 400
Start = Callable[..., subprocess.Popen[str]]
Await = Callable[..., None]

# Cold memory at once; on a line of input hot memory born on node 1 (set_mempolicy,
# syscall 238, MPOL_BIND 2), touched until the next line; then says whether every
# page holds what was written to it.
TARGET = f"""
import ctypes, mmap, select, sys
libc = ctypes.CDLL(None)
def allocate(pages, first):
    memory = mmap.mmap(-1, pages << 12, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(pages):
        memory[page << 12] = (first + page) % 251
    return memory
def intact(memory, first):
    return all(memory[p << 12] == (first + p) % 251 for p in range(len(memory) >> 12))
def say(memory):
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    print(at, flush=True)
cold = allocate(3 * {HOT_PAGES}, 1)
say(cold)
sys.stdin.readline()
mask = ctypes.c_ulong(2)
libc.syscall(238, 2, ctypes.byref(mask), 64)
hot = allocate({HOT_PAGES}, 2)
hot.madvise(mmap.MADV_DONTDUMP)  # to the kernel a mapping apart from the cold one
libc.syscall(238, 0, None, 0)
say(hot)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(20):
        hot[::4096]
print("intact" if intact(hot, 2) and intact(cold, 1) else "broken", flush=True)
"""


def cxl(verb: str) -> str:
    """Have the guest's CXL memory come or go."""
    done = subprocess.run(["vmtest-cxl", verb], check=True, stdout=subprocess.PIPE)
    return done.stdout.decode().strip()


def ask(child: "subprocess.Popen[str]") -> str:
    """Give a process a line of input and return the line that it says."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return cast("IO[str]", child.stdout).readline().strip()


def pages_on(pid: int, address: int, node: int) -> int:
    """Return pages of the mapping at an address that are on a node."""
    text = Path(f"/proc/{pid}/numa_maps").read_text()
    starts = [(int(line.split()[0], 16), line) for line in text.splitlines()]
    line = max(entry for entry in starts if entry[0] <= address)[1]
    found = re.search(rf"\bN{node}=(\d+)", line)
    return int(found[1]) if found else 0


def test_the_daemon_takes_up_memory_that_arrives_and_leaves(
    start: Start, await_true: Await, tmp_path: Path
) -> None:
    """It waits on one tier; pages born on the new node go up from it; it leaves.

    The daemon goes on, and data is whole.
    """
    cxl("leave")
    settings = tmp_path / "isotherm.toml"
    settings.write_text("[budget]\ncpu_percent = 6400.0\n[brake]\nenabled = false\n")
    target = start(TARGET)
    assert target.stdout is not None
    cold = int(target.stdout.readline())
    words = ("run", "--config", str(settings), "--pid", str(target.pid), "--json")
    log = tmp_path / "log"
    environment = os.environ | {"ISOTHERM_KERNELS": "numpy", "NO_COLOR": "1"}
    with log.open("w") as file:
        run = subprocess.Popen(
            [sys.executable, "-m", "isotherm", *words],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=environment,
        )

    def comes(condition: Callable[[], bool], what: str) -> None:
        await_true(lambda: condition() or run.poll() is not None, what, LIMIT_S)
        assert run.poll() is None, log.read_text()

    try:
        comes(lambda: "hints=" in log.read_text(), "it runs on one tier")
        assert "one-tier" in log.read_text()
        cxl("arrive")
        comes(lambda: "[[0], [1]]" in log.read_text(), "news of the node")
        hot = int(ask(target))
        comes(
            lambda: pages_on(target.pid, hot, 0) >= HOT_PAGES // 2,
            "hot pages are on node 0",
        )

        cxl("leave")
        comes(lambda: "nodes=[[0]]" in log.read_text(), "news that the node left")
        assert 4 * HOT_PAGES == pages_on(target.pid, hot, 0) + pages_on(
            target.pid, cold, 0
        )
        run.send_signal(signal.SIGTERM)
        out, _ = run.communicate(timeout=LIMIT_S)
        assert 0 == run.returncode, log.read_text()
        result = json.loads(out)
        assert [[[0], [1]], [[0]]] == [row["tiers"] for row in result["tiers"]]
        assert result["promoted_pages"] >= HOT_PAGES // 2
        assert "intact" == ask(target)
    finally:
        sys.stdout.write(log.read_text())
        if run.poll() is None:
            run.kill()
            run.communicate()
        cxl("arrive")
