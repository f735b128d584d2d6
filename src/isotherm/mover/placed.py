"""Where a mover has had threads run: what a session says of that is not believed."""

import errno
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from isotherm.core.changes import HostChanges
from isotherm.machine.linux.affinity import allowed_cpus, read_running
from isotherm.machine.linux.process import Process
from isotherm.mover.files import number

#: Threads, or processes as a whole, that are remembered.
MOST_PLACED: Final = 1 << 16

_MOST_CPUS: Final = 1 << 13

RunOn = Callable[
    [Process, Collection[int], HostChanges, int | None, frozenset[int]], int
]


@dataclass(frozen=True, slots=True)
class _Set:
    """What was set last.

    Attributes:
        cpus: The CPUs.
        may: Those that all threads that were set might run on before.
    """

    cpus: frozenset[int]
    may: frozenset[int]


class Placements:
    """Has threads run on CPUs; safe to use from several threads.

    A thread that somebody has pinned is left alone (``machine.linux.affinity``): one
    with other CPUs than the mover itself set last, and not more than are asked for.
    What the mover has narrowed it moves only among the CPUs of before.

    Args:
        changes: The journal.
        run_on: sched_setaffinity(2), through the journal.
    """

    def __init__(self, changes: HostChanges, run_on: RunOn) -> None:
        self._changes, self._run_on = changes, run_on
        self._set: dict[tuple[int, int, int], _Set] = {}
        self._guard = threading.Lock()

    def place(self, process: Process, cpus: Collection[int], tid: int | None) -> int:
        """Have a thread, or all of a process, run on some CPUs; return how many.

        Raises:
            OSError: ENOSPC: too many are remembered; or the kernel's.
        """
        wanted = frozenset(cpus)
        key = process.pid, process.start_ticks, tid or process.pid
        with self._guard:
            last = self._set.get(key)
            if last is None and len(self._set) >= MOST_PLACED:
                raise OSError(errno.ENOSPC, "too many threads are placed")
            goes_on = last is not None and wanted <= last.may
            threads = [tid] if tid else read_running(process).tid.tolist()
            masks = [allowed_cpus(one) for one in threads]
            may = [mask for mask in masks if mask > wanted]
            ours = frozenset[int]()
            if last is not None and goes_on:
                may.append(last.may)
                ours = last.cpus
            done = self._run_on(process, cpus, self._changes, tid, ours)
            if done:
                both = frozenset.intersection(*may) if may else wanted
                self._set[key] = _Set(wanted, both)
        return done

    def forget(self) -> None:
        """Begin anew: everything is as it was before."""
        with self._guard:
            self._set.clear()


def check_cpus(value: object) -> list[int]:
    """Return the CPUs of a request.

    Raises:
        OSError: EINVAL: they are none.
    """
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_CPUS:
        raise OSError(errno.EINVAL, "expected a list of CPUs")
    return [number(one, 0, _MOST_CPUS - 1) for one in value]
