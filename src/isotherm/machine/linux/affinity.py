"""Where threads run and may run: read from /proc, set by sched_setaffinity(2).

What was set goes through the journal and is put back at the end or after a crash.
"""

import contextlib
import errno
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core import privileged
from isotherm.core.changes import Facts, HostChanges, undoes
from isotherm.core.errors import IsothermError
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.targets.discover import derive_descendants, read_parents

KIND: Final = "affinity"
_PROC: Final = Path("/proc")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


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
    asked = privileged.broker()
    if asked is not None:
        try:
            return asked.run_on(process.handle, tid, cpus)
        except OSError:
            return 0
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
        known=read_running(process).tid.tolist(),
        since_ticks=int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS_PER_S),
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

    Threads that somebody has set to others since are left alone; threads and children
    that were started meanwhile have inherited it, and get what the first one had.
    """
    pid, cpus = int(facts["pid"]), set(facts["cpus"])
    before: dict[str, Any] = facts["before"]
    first = sorted(before[min(before, key=int)])
    known, since = set(facts["known"]), facts["since_ticks"]
    said = f"pid {pid}: CPUs {_listed(cpus)} -> {_listed(set(first))}"
    if _start_ticks(f"{pid}") != facts["start_ticks"]:
        return f"{said}: the process has ended"
    done = 0
    for task in _tasks(pid):
        pid_of, _, tid = task.partition("/task/")
        if allowed_cpus(int(tid)) != cpus:
            continue
        mask = before.get(tid) if pid_of == f"{pid}" else None
        if mask is None and int(tid) not in known:
            started = _start_ticks(task)
            mask = first if started is not None and started >= since else None
        if mask is None:
            continue
        try:
            os.sched_setaffinity(int(tid), mask)
        except OSError as error:
            # EINVAL: its cpuset forbids them by now; the others get theirs.
            if error.errno not in (errno.ESRCH, errno.EINVAL):
                raise
        else:
            done += 1
    return f"{said}, {done} threads"


def _tasks(pid: int) -> Iterator[str]:
    """Yield the threads of a process and of its descendants, as below /proc."""
    family = {pid, *derive_descendants(read_parents(), (pid,))}
    for one in sorted(family):
        with contextlib.suppress(OSError):
            for name in os.listdir(_PROC / f"{one}/task"):  # noqa: PTH208  # names alone
                yield f"{one}/task/{name}"


def _start_ticks(task: str) -> int | None:
    try:
        text = (_PROC / task / "stat").read_text()
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
