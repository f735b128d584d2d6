"""DAMON for a session: its kdamonds, whom they look at, and their reports."""

import errno
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from isotherm.core.changes import HostChanges
from isotherm.machine.linux import kdamonds
from isotherm.mover import files
from isotherm.mover.scope import Scope

_STARTS: Final = frozenset({"on", "commit"})
_MOST_PID: Final = 1 << 22
#: Of all targets together: the kernel makes three objects for each.
_MOST_REGIONS: Final = 1 << 17
_WHICH: Final = re.compile(r"/kdamonds/([0-9])/")
_TRACEFS: Final = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

Write = Callable[[Path, str], None]


class Damon:
    """What a session may do with DAMON; safe to call from several threads.

    Kdamonds are made once they are in the journal, and only where nobody else has
    any; they carry the mark that is in the journal from the moment they can, and no
    other, so that the way back knows them again. A target is a process that is
    managed, when it is written down and around every write that has DAMON take it
    over.

    Args:
        changes: The journal.
        scope: Who is managed.
        write: Writes a file.
    """

    def __init__(self, changes: HostChanges, scope: Scope, write: Write) -> None:
        self._changes, self._scope, self._write = changes, scope, write
        self._made: dict[str, Any] | None = None
        self._watched: dict[str, int] = {}  # process by file
        self._regions: dict[str, int] = {}  # how many, by file
        self._guard = threading.RLock()

    def note(self, facts: Any) -> None:  # of any shape: checked here
        """Write down that kdamonds are about to be made.

        Raises:
            OSError: EINVAL, EACCES: the facts are none; EBUSY: DAMON is in use.
        """
        if not isinstance(facts, dict) or facts.keys() != {"admin", "kdamonds", "mark"}:
            raise OSError(errno.EINVAL, "facts of kdamonds")
        if facts["admin"] != str(kdamonds.ADMIN):
            raise OSError(errno.EACCES, "another folder than DAMON's")
        files.number(facts["kdamonds"], 1, 2)
        files.number(facts["mark"], *kdamonds.MARKS)
        with self._guard:
            if self._made is not None:
                raise OSError(errno.EBUSY, "kdamonds are made already")
            count = files.read_listed(f"{kdamonds.ADMIN}/kdamonds/nr_kdamonds")
            if count.strip() != b"0":
                raise OSError(errno.EBUSY, "somebody else uses DAMON")
            self._changes.made(kdamonds.KIND, **facts)
            self._made = facts

    def restore(self, kind: str | None) -> list[str]:
        """Undo changes, those of DAMON among them or alone."""
        with self._guard:
            said = self._changes.restore(kind)
            if kind in (None, kdamonds.KIND):
                self._made, self._watched, self._regions = None, {}, {}
        return said

    def write(self, path: str, value: str) -> None:
        """Write one of DAMON's files.

        Raises:
            OSError: EPERM: no kdamonds are ours, or a process is not; EACCES, EINVAL:
                path or value is on no list; or the kernel's.
        """
        with self._guard:
            if self._made is None:
                raise OSError(errno.EPERM, "no kdamonds are made")
            _check_ours(self._made, path, value)
            if files.DAMON_PID.fullmatch(path):
                if not files.whole(1, _MOST_PID)(value):
                    raise OSError(errno.EINVAL, f"pid {value[:20]!r}")
                self._scope.handle_of(int(value))
                self._write(Path(path), value)
                self._watched[path] = int(value)
                return
            files.may_write(files.DAMON, path, value)
            if path.endswith("/nr_regions"):
                self._check_regions(path, int(value))
            if files.DAMON_STATE.fullmatch(path) and value in _STARTS:
                self._start(path, value)
                return
            self._write(Path(path), value)
            if path.endswith("/nr_contexts") and value != "0":
                folder = Path(path).parent / "0/monitoring_attrs/intervals"
                self._write(folder / "update_us", str(self._made["mark"]))
            if path.endswith(("/nr_targets", "/nr_contexts", "/nr_kdamonds")):
                top = path.rpartition("/")[0]
                for kept in (self._watched, self._regions):
                    for one in [file for file in kept if file.startswith(top)]:
                        del kept[one]
            elif path.endswith("/nr_regions"):
                self._regions[path] = int(value)

    def _check_regions(self, path: str, count: int) -> None:
        """Refuse more regions than any run has: they are memory of the kernel's.

        Raises:
            OSError: ENOSPC.
        """
        others = sum(self._regions.values()) - self._regions.get(path, 0)
        if others + count > _MOST_REGIONS:
            raise OSError(errno.ENOSPC, f"{others + count} regions")

    def _start(self, path: str, value: str) -> None:
        """Have DAMON take over what it is to look at: ours before and after."""
        top = path.removesuffix("state")
        pids = [pid for file, pid in self._watched.items() if file.startswith(top)]
        for pid in pids:
            self._scope.handle_of(pid)
        self._write(Path(path), value)
        try:
            for pid in pids:
                self._scope.handle_of(pid)
        except OSError:
            self._write(Path(path), "off")
            raise

    def check_trace(self, tid: int, config: int) -> None:
        """Refuse another tracepoint than DAMON's, and other threads than kdamonds.

        Raises:
            OSError: EACCES.
        """
        with self._guard:
            count = 0 if self._made is None else int(self._made["kdamonds"])
            base = f"{kdamonds.ADMIN}/kdamonds"
            pids = [files.read_listed(f"{base}/{i}/pid") for i in range(count)]
        if b"%d" % tid not in {pid.strip() for pid in pids}:
            raise OSError(errno.EACCES, f"thread {tid} is none of our kdamonds")
        for root in _TRACEFS:
            try:
                found = files.read_listed(f"{root}/events/damon/damon_aggregated/id")
            except OSError:
                continue
            if found.strip() == b"%d" % config:
                return
        raise OSError(errno.EACCES, f"tracepoint {config}")


def _check_ours(made: Mapping[str, Any], path: str, value: str) -> None:
    """Refuse what would make kdamonds that the journal does not describe.

    Raises:
        OSError: EACCES: another kdamond; EINVAL: another number of them, or mark.
    """
    which = _WHICH.search(path)
    if which is not None and int(which[1]) >= made["kdamonds"]:
        raise OSError(errno.EACCES, f"{path[:200]!r} is none of our kdamonds")
    if path.endswith("/nr_kdamonds"):
        expected = {"0", str(made["kdamonds"])}
    elif path.endswith("/update_us"):
        expected = {str(made["mark"])}
    else:
        return
    if value not in expected:
        raise OSError(errno.EINVAL, f"{path}: {value[:40]!r} is not in the journal")
