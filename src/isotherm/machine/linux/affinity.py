"""Where threads run and may run: read from /proc, set by sched_setaffinity(2).

What was set goes through the journal and is put back at the end or after a crash.
"""

import contextlib
import errno
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.changes import Facts, HostChanges, undoes
from isotherm.core.errors import IsothermError
from isotherm.machine.linux.process import Process

KIND: Final = "affinity"
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Running:
    """The threads of a process, as columns.

    Attributes:
        tid: int64[n], ascending.
        cpu: CPU that each ran on last, int64[n] (``processor`` of proc_pid_stat(5)).
        ticks: Clock ticks of CPU time that it has had, int64[n].
    """

    tid: NDArray[np.int64]
    cpu: NDArray[np.int64]
    ticks: NDArray[np.int64]


def parse_thread(text: str) -> tuple[int, int]:
    """Return CPU and clock ticks of a ``/proc/PID/task/TID/stat`` line.

    Raises:
        ValueError: The line is cut off.
    """
    field = text[text.rindex(")") + 2 :].split()  # field[0] is the third
    if len(field) < 37:
        raise ValueError(f"stat: expected at least 39 fields, got {len(field) + 2}")
    return int(field[36]), int(field[11]) + int(field[12])


def read_running(process: Process) -> Running:
    """Return where the threads of a process ran last; none if it has ended."""
    rows: list[tuple[int, int, int]] = []
    with contextlib.suppress(IsothermError):
        for tid in process.threads():
            with contextlib.suppress(IsothermError, ValueError):
                cpu, ticks = parse_thread(process.read_text(f"task/{tid}/stat"))
                rows.append((tid, cpu, ticks))
    table = np.array(rows, np.int64).reshape(-1, 3)
    return Running(table[:, 0], table[:, 1], table[:, 2])


def allowed_cpus(tid: int) -> frozenset[int]:
    """Return the CPUs that a thread may run on; none if it has ended."""
    try:
        return frozenset(os.sched_getaffinity(tid))
    except OSError:
        return frozenset()


def run_on(
    process: Process,
    cpus: Collection[int],
    changes: HostChanges,
    tid: int | None,
    ours: Collection[int] = (),
) -> int:
    """Have threads run on these CPUs; what they might before is in the journal.

    A thread that may not run on all of them already is left alone: somebody has
    pinned it. Threads that are started later do as the one that starts them.

    Args:
        process: Whose.
        cpus: Not empty.
        changes: Where it is written down.
        tid: One thread; None: all of the process.
        ours: What was set last: threads with just this may be set to others.

    Returns:
        Threads that were set; 0 where it has ended, or cpuset and user forbid it.
    """
    wanted, set_before = frozenset(cpus), frozenset(ours)
    threads = [tid] if tid is not None else read_running(process).tid.tolist()
    masks = {one: allowed_cpus(one) for one in threads}
    before = {
        one: sorted(mask)
        for one, mask in masks.items()
        if mask > wanted or (mask and mask == set_before != wanted)
    }
    if not before:
        return 0
    changes.made(
        KIND,
        pid=process.pid,
        start_ticks=process.start_ticks,
        cpus=sorted(cpus),
        before={str(one): mask for one, mask in before.items()},
        whole=tid is None,
    )
    done = 0
    for one in before:
        with process.held() as alive:
            if not alive:
                return done
            # Its number may be a thread of another process by now.
            with contextlib.suppress(OSError, IsothermError):
                os.close(process.open(f"task/{one}", os.O_PATH))
                os.sched_setaffinity(one, cpus)
                done += 1
    return done


@undoes(KIND)
def put_back(facts: Facts) -> str:
    """Give threads the CPUs back that they might run on before.

    Threads that somebody has set to others since are left alone; those that were
    started meanwhile get what the first of their process had.
    """
    pid, cpus = int(facts["pid"]), set(facts["cpus"])
    before: dict[str, Any] = facts["before"]
    first = sorted(before[min(before, key=int)])
    said = f"pid {pid}: CPUs {_listed(cpus)} -> {_listed(set(first))}"
    if _start_ticks(pid) != facts["start_ticks"]:
        return f"{said}: the process has ended"
    done = 0
    try:
        names = os.listdir(_PROC / str(pid) / "task")  # noqa: PTH208  # names alone
    except FileNotFoundError:
        return f"{said}: the process has ended"
    for name in names:
        mask = before.get(name, first if facts["whole"] else None)
        if mask is None or allowed_cpus(int(name)) != cpus:
            continue
        try:
            os.sched_setaffinity(int(name), mask)
        except OSError as error:
            # EINVAL: its cpuset forbids them by now; the others get theirs.
            if error.errno not in (errno.ESRCH, errno.EINVAL):
                raise
        else:
            done += 1
    return f"{said}, {done} threads"


def _start_ticks(pid: int) -> int | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return int(text[text.rindex(")") + 2 :].split()[19])


def _listed(cpus: Collection[int]) -> str:
    """Return CPUs as the kernel lists them.

    >>> _listed({0, 1, 2, 5})
    '0-2,5'
    """
    words: list[str] = []
    first = last = -1
    for cpu in [*sorted(cpus), -2]:
        if cpu == last + 1 and first >= 0:
            last = cpu
            continue
        if first >= 0:
            words.append(f"{first}" if first == last else f"{first}-{last}")
        first = last = cpu
    return ",".join(words)
