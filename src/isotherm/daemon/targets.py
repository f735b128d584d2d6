"""Whose memory is meant: checked before anything is touched."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from isotherm.core.errors import TargetGoneError, UnsupportedError, UsageError
from isotherm.daemon.rundir import RunDirectory

#: Where cgroup v2 is mounted, and where hybrid systems have it.
CGROUP_ROOTS: Final = ("sys/fs/cgroup", "sys/fs/cgroup/unified")


def check_processes(pids: Iterable[int], root: Path = Path("/")) -> None:
    """Check that processes are there and have memory.

    Args:
        pids: Processes named.
        root: Where /proc is.

    Raises:
        TargetGoneError: There is no such process, or it is a zombie.
        UsageError: It is a kernel thread.
    """
    for pid in pids:
        try:
            stat = (root / f"proc/{pid}/stat").read_text()
            size = (root / f"proc/{pid}/statm").read_text().split()[0]
        except OSError:
            raise TargetGoneError(f"pid {pid}: no such process") from None
        if stat[stat.rindex(")") + 2 :].split()[0] in ("Z", "X"):
            raise TargetGoneError(f"pid {pid}: it has ended")
        if size == "0":
            raise UsageError(f"pid {pid}: a kernel thread has no memory of its own")


def find_cgroup(name: str, root: Path = Path("/")) -> Path:
    """Return the directory of a cgroup.

    Args:
        name: An absolute directory, or a path below the cgroup mount.
        root: Where /sys is.

    Raises:
        UsageError: There is none of this name.
    """
    tried = [Path(name)] if name.startswith("/") else []
    tried += [root / mount / name.lstrip("/") for mount in CGROUP_ROOTS]
    for path in tried:
        if (path / "cgroup.procs").is_file():
            return path
    raise UsageError(
        f"cgroup {name}: found no cgroup.procs, looked in "
        + ", ".join(str(path) for path in tried),
        hint="name it as /proc/PID/cgroup does",
    )


def memcg_path(cgroup: Path, root: Path = Path("/")) -> str:
    """Return a cgroup's path in the memory hierarchy, as DAMON's filters compare it.

    Args:
        cgroup: Its directory.
        root: Where /proc is.

    Raises:
        UnsupportedError: It is in no mounted hierarchy that has the memory controller.
    """
    best: tuple[int, str] | None = None
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        # man proc(5): fields up to " - ", then type, source, super options.
        fields, _, after = line.partition(" - ")
        inside, mount = fields.split()[3:5]
        kind, _, options = after.split()[:3]
        has_memory = kind == "cgroup2" or "memory" in options.split(",")
        if kind not in ("cgroup", "cgroup2") or not has_memory:
            continue
        if cgroup.is_relative_to(mount) and (best is None or len(mount) > best[0]):
            below = cgroup.relative_to(mount)
            best = len(mount), str(Path(inside) / below)
    if best is None:
        raise UnsupportedError(
            f"{cgroup}: in no cgroup hierarchy with the memory controller",
            hint="name a cgroup of version 2",
        )
    return best[1]


class Claims:
    """Locks processes as they are found, so that no other isotherm manages them.

    Args:
        runs: Holds the locks.
        insist: Leave alone what another isotherm has; else manage it all the same.
    """

    def __init__(self, runs: RunDirectory, *, insist: bool) -> None:
        self._runs = runs
        self._insist = insist

    def claim(self, pid: int) -> str | None:
        """Lock a process; return who has it, None if it is ours or need not be."""
        taken = self._runs.lock((pid,))
        return taken[0].why if taken and self._insist else None

    def release(self, pid: int) -> None:
        """Unlock a process that has gone: its number may come again."""
        self._runs.unlock((pid,))
