"""Finding processes: members of cgroups, children, and whether there can be new."""

import os
from collections.abc import Iterable
from pathlib import Path

from isotherm.core.descriptors import HINT, NONE_LEFT
from isotherm.core.errors import IsothermError, TargetGoneError
from isotherm.machine.linux.process import NoDescriptorError, Process


def read_task_mark(root: Path = Path("/")) -> str:
    """Return a text that changes when any task of the machine starts or ends.

    The count of tasks and the last id given out, from ``/proc/loadavg``: a read of
    2 µs that saves a walk. Empty where it cannot be read.
    """
    try:
        text = (root / "proc/loadavg").read_text()
    except OSError:
        return ""
    words = text.split()
    return " ".join([words[3].partition("/")[2], words[4]]) if len(words) > 4 else ""


def read_members(cgroup: Path) -> set[int]:
    """Return the processes of a cgroup and of those below it.

    Raises:
        TargetGoneError: There is no such cgroup (any more).
        NoDescriptorError: It cannot be opened now: nobody knows who is in it.
    """
    pids: set[int] = set()
    try:
        pids.update(_read_procs(cgroup))
    except OSError as error:
        _check_not_full(error)
        raise TargetGoneError(
            f"{cgroup}: expected a cgroup: {error.strerror}",
            hint="cgroups are directories under /sys/fs/cgroup",
        ) from error
    for at, below, _ in os.walk(cgroup, onerror=_check_not_full):
        for name in below:
            try:
                pids.update(_read_procs(Path(at, name)))
            except OSError as error:
                _check_not_full(error)
                continue  # it has just gone
    pids.discard(0)  # a process of another pid namespace
    return pids


def _check_not_full(error: OSError) -> None:
    """Raise NoDescriptorError where that is why something could not be opened."""
    if error.errno in NONE_LEFT:
        name = os.strerror(error.errno)
        raise NoDescriptorError(f"{error.filename}: {name}", hint=HINT) from error


def _read_procs(cgroup: Path) -> Iterable[int]:
    return map(int, (cgroup / "cgroup.procs").read_text().split())


def read_children(process: Process) -> set[int] | None:
    """Return the children of a process's threads; None where the kernel cannot say.

    ``/proc/PID/task/TID/children`` needs CONFIG_PROC_CHILDREN. A child that starts
    and ends while this reads may be missed.
    """
    pids: set[int] = set()
    for thread in process.threads():
        try:
            pids.update(map(int, process.read_text(f"task/{thread}/children").split()))
        except TargetGoneError:
            if not (Path("/proc/self/task") / str(os.getpid()) / "children").exists():
                return None
        except IsothermError:
            continue
    return pids


def read_parents(root: Path = Path("/")) -> dict[int, int]:
    """Return the parent of every process that can be seen: ``{pid: parent}``."""
    parents: dict[int, int] = {}
    try:
        names = os.listdir(root / "proc")  # noqa: PTH208  # names
    except OSError:
        return parents
    for name in names:
        if not name.isdigit():
            continue
        try:
            text = (root / "proc" / name / "stat").read_text()
            parents[int(name)] = int(text[text.rindex(")") + 2 :].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    return parents


def derive_descendants(parents: dict[int, int], of: Iterable[int]) -> dict[int, int]:
    """Return ``{pid: parent}`` of all that descend from some processes.

    >>> derive_descendants({2: 1, 3: 2, 4: 1, 5: 9}, [2])
    {3: 2}
    """
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: dict[int, int] = {}
    todo = list(of)
    while todo:
        parent = todo.pop()
        for pid in children.get(parent, ()):
            if pid not in found:
                found[pid] = parent
                todo.append(pid)
    return found
