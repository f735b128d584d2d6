"""A mover and a session without rights, in two real processes; what it finds as JSON.

    python session.py PID ADDRESS work|wait

``work`` looks at a process and moves its pages; ``wait`` says the session's pid and
sleeps. Everything is imported before rights are given up: where Python lies may be
closed to the session's user.
"""

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from isotherm.core import privileged
from isotherm.core.changes import HostChanges
from isotherm.core.errors import IsothermError
from isotherm.machine.linux import pagemap
from isotherm.machine.linux.mappings import MappingPolicy
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.targets.follow import Follower
from isotherm.mover import wire
from isotherm.mover.client import BrokeredChanges, Client
from isotherm.mover.drop import drop, find_user
from isotherm.mover.scope import Rules
from isotherm.mover.server import Server


def refused(act: Any) -> str:
    """Return with what something is refused; empty if it is not."""
    try:
        act()
    except (OSError, IsothermError) as error:
        return type(error).__name__
    return ""


def look(pid: int, address: int, mover: int) -> dict[str, Any]:
    """Return what a session can and cannot do."""
    status = Path("/proc/self/status").read_text()
    process = Process(pid)
    first = address >> 12
    entries = process.pagemap(first, first + 16)
    where = process.move_pages(np.arange(first, first + 16, dtype=np.uint64), None)
    there = where.status >= 0
    page = (first + np.flatnonzero(there)).astype(np.uint64)
    moved = process.move_pages(page, np.zeros(len(page), np.int32))
    follower = Follower([pid], policy=MappingPolicy())
    follower.scan(1)
    managed = int(sum(len(t.managed.ranges) for t in follower.targets.values()))
    follower.close()
    fds = []
    for fd in range(64):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            fds.append(fd)
    found = {
        "status": {
            line.partition(":")[0]: line.partition(":")[2].strip()
            for line in status.splitlines()
        },
        "descriptors": len(fds),
        "image": list(process.stat().image),
        "threads": len(process.threads()),
        "frames": int(np.count_nonzero(entries & pagemap.FRAME)),
        "own_frames": pagemap.frames_visible(),
        "zero_frame": pagemap.zero_frame() > 0,
        "moved": int((moved.status == 0).sum()),
        "there": len(page),
        "mapped": process.mappings().name_of(first),
        "managed": managed,
        "refused": {
            "root": refused(lambda: os.setuid(0)),
            "mover": refused(lambda: os.kill(mover, 0)),
            "movers memory": refused(lambda: os.open(f"/proc/{mover}/mem", 0)),
            "stranger": refused(lambda: Process(mover)),
            "maps": refused(lambda: os.open(f"/proc/{pid}/maps", os.O_RDONLY)),
            "journal": refused(lambda: BrokeredChanges(client()).made("affinity")),
            "weights": refused(
                lambda: BrokeredChanges(client()).write(
                    Path("/proc/sys/kernel/core_pattern"), "x"
                )
            ),
        },
        "signalled_by_parent": os.getppid() == mover,
    }
    process.close()
    return found


def client() -> Client:
    """Return who is asked."""
    asked = privileged.broker()
    assert isinstance(asked, Client)
    return asked


def main() -> int:
    """Split in two."""
    pid, address, what = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    user = find_user("nobody")
    ends = [wire.pair() for _ in range(wire.CHANNELS)]
    mover = os.getpid()
    child = os.fork()
    if child == 0:
        for mine, _ in ends:
            mine.detach()
        drop(user, mover, [end.fileno() for _, end in ends])
        privileged.install(Client([end for _, end in ends]))
        if what == "wait":
            print(os.getpid(), flush=True)  # noqa: T201  # to the test
            signal.pause()
        print(json.dumps(look(pid, address, mover)), flush=True)  # noqa: T201  # to the test
        os._exit(0)
    for _, end in ends:
        end.close()
    server = Server(Rules(pids=(pid,), nodes=frozenset({0})), HostChanges(None), child)
    for mine, _ in ends:
        threading.Thread(target=server.serve, args=(mine,), daemon=True).start()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
