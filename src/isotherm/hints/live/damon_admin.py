"""DAMON's control files, /sys/kernel/mm/damon/admin, behind a few typed calls.

Documentation/admin-guide/mm/damon/usage.rst; mm/damon/sysfs.c. What the files say
takes effect when ``on`` or ``commit`` is written to ``state``; that write waits for
kdamond, 0.1 s and more on Linux 6.12, and one sampling interval.

Writing a count to ``nr_kdamonds`` makes all of them anew and is refused while one
runs. So monitoring cannot be added beside somebody else's: it is refused here, by
name, and all kdamonds that isotherm wants are made at once. Ours carry a mark, an
odd ``update_us``, by which recovery after a kill knows them again.
"""

import errno
import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core import privileged
from isotherm.core.availability import Availability
from isotherm.core.changes import HostChanges, read_value, write_value
from isotherm.core.errors import IsothermError, NotPermittedError, UnsupportedError
from isotherm.hints.live.facts import missing
from isotherm.machine.linux.kdamonds import ADMIN, KIND, MARKS, patiently
from isotherm.machine.linux.syscalls import errno_name

MODULES: Final = Path("/sys/module")
#: Modules of the kernel that use DAMON exclusively (mm/damon/{reclaim,lru_sort,
#: stat}.c): while one is on, no other monitoring starts.
EXCLUSIVE: Final = ("damon_reclaim", "damon_lru_sort", "damon_stat")

Write = Callable[[Path, str], None]


@dataclass(frozen=True, slots=True)
class Intervals:
    """How often kdamond looks: struct damon_attrs.

    Attributes:
        sample_us: Between two checks of a region.
        aggregate_us: Between two reports.
        regions: Fewest and most regions; the fewest are at least 3.
    """

    sample_us: int = 5_000
    aggregate_us: int = 100_000
    regions: tuple[int, int] = (10, 1000)

    @property
    def checks(self) -> int:
        """Checks in a report."""
        return max(1, self.aggregate_us // self.sample_us)


@dataclass(frozen=True, slots=True)
class Target:
    """What to monitor.

    Attributes:
        pid: Whose memory; None for physical memory.
        ranges: Bytes, int64[n, 2], ascending and disjoint, multiples of a page.
    """

    pid: int | None
    ranges: NDArray[np.int64]


class Kdamond:
    """One kdamond with one context.

    Args:
        path: ``admin/kdamonds/N``.
        mark: Its ``update_us``.
        write: Writes a file.
    """

    def __init__(self, path: Path, mark: int, write: Write) -> None:
        self._path = path
        self._context = path / "contexts/0"
        self._mark = mark
        self._write_file = write

    def _write(self, path: Path, value: str) -> None:
        patiently(lambda: self._write_file(path, value))

    def _read(self, path: Path) -> str:
        return patiently(lambda: privileged.read_kernel_text(path)).strip()

    def prepare(self) -> None:
        """Make the context and mark it as ours."""
        self._write(self._path / "contexts/nr_contexts", "1")
        intervals = self._context / "monitoring_attrs/intervals"
        self._write(intervals / "update_us", str(self._mark))

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations sets that the kernel has: ``vaddr fvaddr paddr``."""
        return tuple(self._read(self._context / "avail_operations").split())

    def set_operations(self, name: str) -> None:
        """Choose the operations set."""
        self._write(self._context / "operations", name)

    def set_intervals(self, intervals: Intervals) -> None:
        """Set how often it looks; for the next ``start`` or ``commit``."""
        base = self._context / "monitoring_attrs"
        self._write(base / "intervals/sample_us", str(intervals.sample_us))
        self._write(base / "intervals/aggr_us", str(intervals.aggregate_us))
        self._write(base / "nr_regions/max", str(intervals.regions[1]))
        self._write(base / "nr_regions/min", str(intervals.regions[0]))

    def set_targets(self, targets: Sequence[Target]) -> None:
        """Set what it looks at; for the next ``start`` or ``commit``."""
        base = self._context / "targets"
        self._write(base / "nr_targets", str(len(targets)))
        for i, target in enumerate(targets):
            if target.pid is not None:
                self._write(base / f"{i}/pid_target", str(target.pid))
            regions = base / f"{i}/regions"
            self._write(regions / "nr_regions", str(len(target.ranges)))
            for j, (start, end) in enumerate(target.ranges.tolist()):
                self._write(regions / f"{j}/start", str(start))
                self._write(regions / f"{j}/end", str(end))

    def set_pid(self, pid: int) -> None:
        """Have target 0 watch a process; for the next ``commit``."""
        self._write(self._context / "targets/0/pid_target", str(pid))

    def set_stat_scheme(self) -> None:
        """Have a scheme that matches every region and does nothing to it."""
        self._write(self._context / "schemes/nr_schemes", "1")
        scheme = self._context / "schemes/0"
        self._write(scheme / "action", "stat")
        for name in ("sz", "nr_accesses", "age"):
            most = "4294967295" if name != "sz" else str((1 << 64) - 1)
            self._write(scheme / f"access_pattern/{name}/min", "0")
            self._write(scheme / f"access_pattern/{name}/max", most)

    def region_files(self, count: int) -> tuple[list[int], list[int]]:
        """Make ``count`` regions in target 0 and open their files for writing.

        The descriptors are the caller's. Writing to them costs a tenth of opening
        them anew.

        Returns:
            Descriptors of ``start`` and of ``end``.
        """
        base = self._context / "targets/0/regions"
        self._write(base / "nr_regions", str(count))
        files: list[int] = []
        try:
            for i in range(count):
                for name in ("start", "end"):
                    path = base / f"{i}/{name}"
                    files.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            for fd in files:
                os.close(fd)
            raise
        return files[::2], files[1::2]

    # -- running ----------------------------------------------------------

    def start(self) -> None:
        """Start it.

        Raises:
            UnsupportedError: Somebody else uses DAMON exclusively.
            IsothermError: The kernel refuses what the files say.
        """
        self._command("on")

    def commit(self) -> None:
        """Have what the files say taken over while it runs; see :meth:`start`."""
        self._command("commit")

    def stop(self) -> None:
        """Stop it; nothing is done where it does not run."""
        if self.running:
            try:
                self._write(self._path / "state", "off")
            except OSError as error:
                if self.running:
                    raise _refused("off", error) from error

    def _command(self, command: str) -> None:
        try:
            self._write(self._path / "state", command)
        except OSError as error:
            raise _refused(command, error) from error

    @property
    def running(self) -> bool:
        """Whether it runs now; it ends by itself when all its targets are gone."""
        return self._read(self._path / "state") == "on"

    @property
    def pid(self) -> int | None:
        """Process id of the kernel thread; None if it does not run."""
        pid = int(self._read(self._path / "pid"))
        return pid if pid > 0 else None

    def tried_regions(self) -> NDArray[np.int64]:
        """Return what the stat scheme has seen, int64[n, 4].

        Start, end in bytes, accesses, age. Waits for an aggregation. Targets are
        not told apart.
        """
        self._command("update_schemes_tried_regions")
        base = self._context / "schemes/0/tried_regions"
        rows = []
        count = sum(path.name.isdigit() for path in base.iterdir())
        for i in range(count):
            names = ("start", "end", "nr_accesses", "age")
            rows.append([int((base / f"{i}/{name}").read_text()) for name in names])
        return np.array(rows, np.int64).reshape(-1, 4)


class DamonAdmin:
    """All of isotherm's kdamonds, made at once.

    Args:
        changes: Where the way back is written down.
        kdamonds: How many to make.
        admin: DAMON's folder.
        modules: Folder of modules' parameters.
        write: Writes a file.
    """

    def __init__(
        self,
        changes: HostChanges,
        kdamonds: int = 2,
        *,
        admin: Path = ADMIN,
        modules: Path = MODULES,
        write: Write = write_value,
    ) -> None:
        self._changes = changes
        self._count = kdamonds
        self._admin = admin
        self._modules = modules
        self._write = write
        self._taken: set[str] = set()
        self._users: dict[str, Kdamond] = {}
        self._guard = threading.Lock()
        self._made: list[Kdamond] = []

    def take(self, user: str) -> Kdamond:
        """Return a kdamond for a user; the first call makes them all.

        Raises:
            UnsupportedError: No DAMON, or somebody else has it.
            NotPermittedError: Not root.
        """
        with self._guard:
            if not self._made:
                self._make()
            if user not in self._users:
                if not self._made or len(self._users) == len(self._made):
                    raise UnsupportedError(
                        f"damon: {self._count} kdamonds are made, all are taken"
                    )
                free = [k for k in self._made if k not in self._users.values()]
                self._users[user] = free[0]
            return self._users[user]

    def give_back(self, user: str) -> list[str]:
        """Stop a user's kdamond; with the last one all are removed."""
        with self._guard:
            kdamond = self._users.pop(user, None)
            if kdamond is None:
                return []
            if self._users:
                kdamond.stop()
                return []
            self._made = []
            return self._changes.restore(KIND)

    def _make(self) -> None:
        other = in_use(self._admin, self._modules)
        if other is not None:
            raise UnsupportedError(f"damon: {other[0]}", hint=other[1])
        mark = random.SystemRandom().randint(*MARKS)
        self._changes.made(
            KIND, admin=str(self._admin), kdamonds=self._count, mark=mark
        )
        base = self._admin / "kdamonds"
        try:
            patiently(lambda: self._write(base / "nr_kdamonds", str(self._count)))
            self._made = [
                Kdamond(base / str(i), mark, self._write) for i in range(self._count)
            ]
            for kdamond in self._made:
                kdamond.prepare()
        except OSError as error:
            self._made = []
            self._changes.restore(KIND)
            raise _refused("nr_kdamonds", error) from error


def in_use(
    admin: Path = ADMIN, modules: Path = MODULES
) -> tuple[str, str | None] | None:
    """Return who else has DAMON and the command that would end that, or None.

    Raises:
        UnsupportedError: The kernel has no DAMON.
        NotPermittedError: Its files may not be read.
    """
    base = admin / "kdamonds"
    try:
        count = int(read_value(base / "nr_kdamonds"))
        states = [_patient_text(base / f"{i}/state") for i in range(count)]
        pids = [_patient_text(base / f"{i}/pid") for i in range(count)]
        if privileged.broker() is None:
            os.close(os.open(base / "nr_kdamonds", os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        raise _refused("nr_kdamonds", error) from error
    for name in EXCLUSIVE:
        parameter = modules / name / "parameters/enabled"
        try:
            if privileged.read_kernel_text(parameter).strip() == "Y":
                return f"{name} is on and has DAMON alone", f"echo N > {parameter}"
        except OSError:
            continue
    if count:
        said = ", ".join(
            f"kdamond {i} {state.strip()}"
            + (f" (pid {pid.strip()})" if pid.strip() != "-1" else "")
            for i, (state, pid) in enumerate(zip(states, pids, strict=True))
        )
        stop = "; ".join(
            [
                f"echo off > {base}/{i}/state"
                for i, state in enumerate(states)
                if state.strip() == "on"
            ]
            + [f"echo 0 > {base}/nr_kdamonds"]
        )
        return f"somebody else has made {said}", stop
    return None


def _patient_text(path: Path) -> str:
    return patiently(lambda: privileged.read_kernel_text(path))


def probe(admin: Path = ADMIN, modules: Path = MODULES) -> Availability:
    """Return whether DAMON can be used here and now."""
    name = "damon"
    try:
        other = in_use(admin, modules)
    except IsothermError as error:
        return missing(name, error)
    if other is not None:
        return Availability(name, "source", False, *other)
    return Availability(name, "source", True, f"{admin} is there and nobody uses it")


def cpu_ns(pid: int, proc: Path = Path("/proc")) -> int:
    """Return the CPU time that a kernel thread has used; 0 if it is gone."""
    try:
        return int((proc / f"{pid}/schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _refused(what: str, error: OSError) -> IsothermError:
    name = errno_name(error.errno or 0)
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermittedError(f"damon: {what}: {name}", hint="run as root")
    if error.errno == errno.ENOENT:
        return UnsupportedError(
            f"damon: {error.filename}: no such file",
            hint="a kernel with CONFIG_DAMON_SYSFS (and VADDR, PADDR)",
        )
    if error.errno == errno.EBUSY:
        return UnsupportedError(
            f"damon: {what}: {name}: somebody else uses DAMON",
            hint="isotherm doctor says who",
        )
    return IsothermError(f"damon: {what}: {name}")
