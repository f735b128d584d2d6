"""Whose memory is managed: processes and their children, or a cgroup."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isotherm.core.errors import NotPermittedError, TargetGoneError, UsageError

#: Where cgroup v2 is mounted, and where hybrid systems have it.
CGROUP_ROOTS: Final = ("sys/fs/cgroup", "sys/fs/cgroup/unified")


@dataclass(frozen=True, slots=True)
class _Life:
    """What tells a process from another with its number."""

    parent: int
    start_ticks: int


class Targets:
    """The processes that are managed now.

    Named processes are followed to their children, and to children that have lost
    their parent. A cgroup's are all that are in it or below.

    Args:
        pids: Processes named.
        cgroup: A cgroup directory, or its path below the mount.
        root: Where /proc and /sys are.

    Raises:
        UsageError: Neither or both are named, or a name is wrong.
        TargetGoneError: There is no such process.
    """

    def __init__(
        self,
        pids: Sequence[int] = (),
        cgroup: str | None = None,
        root: Path = Path("/"),
    ) -> None:
        if bool(pids) == (cgroup is not None):
            raise UsageError(
                "target: expected processes or a cgroup",
                hint="--pid 4242, --cgroup PATH, or -- COMMAND",
            )
        self._proc = root / "proc"
        self._known: dict[int, _Life] = {}
        self.cgroup = None if cgroup is None else find_cgroup(cgroup, root)
        self.named = tuple(dict.fromkeys(pids))
        for pid in self.named:
            life = self._life(pid)
            if pid <= 0 or life is None:
                raise TargetGoneError(f"pid {pid}: no such process")
            if not self._has_memory(pid):
                raise UsageError(f"pid {pid}: a kernel thread has no memory of its own")
            self._known[pid] = life
        if self.cgroup is not None and not self._members(self.cgroup):
            raise TargetGoneError(f"{self.cgroup}: no process is in this cgroup")

    def __str__(self) -> str:
        if self.cgroup is not None:
            return f"cgroup {self.cgroup}"
        return f"pid {', '.join(map(str, self.named))}"

    def pids(self) -> tuple[int, ...]:
        """Return the processes that are managed and alive, ascending; none if gone."""
        if self.cgroup is not None:
            found = self._members(self.cgroup)
        else:
            found = self._follow()
        return tuple(sorted(pid for pid in found if pid != os.getpid()))

    def check_permitted(self) -> None:
        """Check that their memory may be looked at and moved.

        Raises:
            NotPermittedError: Not by this user.
        """
        for pid in self.pids():
            try:
                with (self._proc / str(pid) / "maps").open("rb") as file:
                    file.read(1)
            except PermissionError:
                raise NotPermittedError(
                    f"pid {pid}: EACCES: memory of another user",
                    hint="run as that user or as root",
                ) from None
            except OSError:
                continue

    def _follow(self) -> set[int]:
        """Return the named processes that live, and all their descendants."""
        lives = self._all()
        known = {
            pid: life
            for pid, life in self._known.items()
            if (now := lives.get(pid)) and now.start_ticks == life.start_ticks
        }
        if known:
            children: dict[int, list[int]] = {}
            for pid, life in lives.items():
                children.setdefault(life.parent, []).append(pid)
            todo = list(known)
            while todo:
                for child in children.get(todo.pop(), ()):
                    if child not in known:
                        known[child] = lives[child]
                        todo.append(child)
        self._known = known
        return {pid for pid in known if self._has_memory(pid)}

    def _members(self, cgroup: Path) -> set[int]:
        found: set[int] = set()
        for directory, _, files in os.walk(cgroup):
            if "cgroup.procs" in files:
                try:
                    text = (Path(directory) / "cgroup.procs").read_text()
                except OSError:
                    continue
                found.update(int(word) for word in text.split() if word != "0")
        return {pid for pid in found if self._has_memory(pid)}

    def _all(self) -> dict[int, _Life]:
        found = {}
        for entry in os.scandir(self._proc):
            if entry.name.isdigit():
                life = self._life(int(entry.name))
                if life is not None:
                    found[int(entry.name)] = life
        return found

    def _life(self, pid: int) -> _Life | None:
        """Return parent and start of a process; None if it is gone or a zombie."""
        try:
            text = (self._proc / str(pid) / "stat").read_text()
        except OSError:
            return None
        field = text[text.rindex(")") + 2 :].split()
        if field[0] in ("Z", "X"):
            return None
        return _Life(int(field[1]), int(field[19]))

    def _has_memory(self, pid: int) -> bool:
        try:
            return (self._proc / str(pid) / "statm").read_text().split()[0] != "0"
        except (OSError, IndexError):
            return False


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
