"""A tree of files that behaves like /sys/kernel/mm/damon/admin (mm/damon/sysfs.c).

Counts make and remove folders, ``state`` takes commands and checks what the kernel
checks. It writes files under a folder of the test; the driver writes through it.
"""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from isotherm.core.changes import HostChanges
from isotherm.hints.live.damon_admin import DamonAdmin
from isotherm.hints.live.damon_trace import Regions

FIRST = 512 * 1000  # first virtual page of the target
MS = 1_000_000

DEFAULTS = {
    "operations": "vaddr",
    "avail_operations": "vaddr\nfvaddr\npaddr",
    "monitoring_attrs/intervals/sample_us": "5000",
    "monitoring_attrs/intervals/aggr_us": "100000",
    "monitoring_attrs/intervals/update_us": "60000000",
    "monitoring_attrs/nr_regions/min": "10",
    "monitoring_attrs/nr_regions/max": "1000",
    "targets/nr_targets": "0",
    "schemes/nr_schemes": "0",
}
SCHEME = {
    "action": "",
    **{
        f"access_pattern/{name}/{end}": "0"
        for name in ("sz", "nr_accesses", "age")
        for end in ("min", "max")
    },
    "tried_regions/total_bytes": "0",
}
#: What each count's folders hold.
INSIDE: dict[str, dict[str, str]] = {
    "nr_kdamonds": {"state": "off", "pid": "-1", "contexts/nr_contexts": "0"},
    "nr_contexts": DEFAULTS,
    "nr_targets": {"pid_target": "0", "regions/nr_regions": "0"},
    "nr_regions": {"start": "0", "end": "0"},
    "nr_schemes": SCHEME,
}


class FakeDamon:
    """The tree, and what the kernel would know.

    Attributes:
        admin: Its folder.
        commands: What was written to ``state``, with the kdamond's number.
        seen: What kdamond 0 saw at the last ``on`` or ``commit``: a list of
            (pid, [[start, end], ...]).
        dead: Processes that are gone.
    """

    def __init__(self, root: Path) -> None:
        self.admin = root / "admin"
        self.modules = root / "module"
        self.commands: list[tuple[int, str]] = []
        self.seen: list[tuple[int, list[list[int]]]] = []
        self.dead: set[int] = set()
        self.tried: list[tuple[int, int, int, int]] = []
        self.modules.mkdir(parents=True)
        self._make(self.admin / "kdamonds", {"nr_kdamonds": "0"})
        self._next_pid = 1 << 23  # beyond PID_MAX_LIMIT: never in /proc

    def _make(self, folder: Path, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    def write(self, path: Path, value: str) -> None:
        """Write a file as the kernel lets it be written."""
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        name, folder = path.name, path.parent
        if name == "state":
            self._command(folder, value)
            return
        if name == "nr_kdamonds" and any(
            state.read_text() == "on\n" for state in folder.glob("*/state")
        ):
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        if name in INSIDE:
            for old in folder.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
            for i in range(int(value)):
                self._make(folder / str(i), INSIDE[name])
        if name == "operations":
            assert value in ("vaddr", "fvaddr", "paddr")
        path.write_text(value + "\n")

    def _number(self, path: Path) -> int:
        return int(path.read_text())

    def _command(self, kdamond: Path, value: str) -> None:
        self.commands.append((int(kdamond.name), value))
        running = (kdamond / "state").read_text() == "on\n"
        if value in ("on", "commit"):
            if (value == "on") == running:
                raise OSError(errno.EINVAL, "Invalid argument")
            if any(p.read_text() == "Y\n" for p in self.modules.glob("*/*/enabled")):
                raise OSError(errno.EBUSY, "Device or resource busy")
            self._take_over(kdamond / "contexts/0")
        if value == "on":
            self._next_pid += 1
            (kdamond / "state").write_text("on\n")
            (kdamond / "pid").write_text(f"{self._next_pid}\n")
        elif value == "off":
            self.end(int(kdamond.name))
        elif value == "update_schemes_tried_regions":
            base = kdamond / "contexts/0/schemes/0/tried_regions"
            assert (base.parent / "action").read_text() == "stat\n"
            names = ("start", "end", "nr_accesses", "age")
            for i, row in enumerate(self.tried):
                files = dict(zip(names, map(str, row), strict=True))
                self._make(base / str(i), files)
        elif value != "commit":
            raise OSError(errno.EINVAL, "Invalid argument")

    def _take_over(self, context: Path) -> None:
        """Check what damon_set_attrs() and the sysfs code check."""
        attrs = context / "monitoring_attrs"
        sample, aggregate = (
            self._number(attrs / f"intervals/{name}_us") for name in ("sample", "aggr")
        )
        fewest, most = (
            self._number(attrs / f"nr_regions/{name}") for name in ("min", "max")
        )
        if sample > aggregate or not 3 <= fewest <= most:
            raise OSError(errno.EINVAL, "Invalid argument")
        seen = []
        for target in sorted((context / "targets").glob("[0-9]*")):
            pid = self._number(target / "pid_target")
            if pid in self.dead:
                raise OSError(errno.EINVAL, "Invalid argument")
            ranges = [
                [self._number(region / "start"), self._number(region / "end")]
                for region in sorted(
                    (target / "regions").glob("[0-9]*"), key=lambda p: int(p.name)
                )
            ]
            flat = [edge for part in ranges for edge in part]
            if flat != sorted(flat) or any(edge % 4096 for edge in flat):
                raise OSError(errno.EINVAL, "Invalid argument")
            seen.append((pid, ranges))
        self.seen = seen

    def end(self, index: int) -> None:
        """Have a kdamond end, as it does when its targets are gone."""
        base = self.admin / f"kdamonds/{index}"
        (base / "state").write_text("off\n")
        (base / "pid").write_text("-1\n")


class FakeTrace:
    """Reports that the test gives, for a kernel thread.

    Args:
        pid: The thread.
        now_ns: The time of the reports.
    """

    def __init__(self, pid: int, now_ns: Callable[[], int]) -> None:
        self.pid = pid
        self.closed = False
        self._now_ns = now_ns
        self._rows: list[tuple[int, ...]] = []
        self.lost = 0

    def report(self, *regions: tuple[int, int, int, int]) -> None:
        """Report an aggregation: (target, start page, end page, nr_accesses)."""
        for target, start, end, found in regions:
            row = (self._now_ns(), target, start << 12, end << 12, found, 1)
            self._rows.append(row)

    def read(self) -> Regions:
        """Return and forget the reports."""
        columns = np.array(self._rows, np.int64).reshape(-1, 6).T
        self._rows, lost, self.lost = [], self.lost, 0
        return Regions(*columns, lost=lost)

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


def admin_of(damon: FakeDamon, changes: HostChanges, count: int = 2) -> DamonAdmin:
    """Return an admin on the fake tree."""
    return DamonAdmin(
        changes,
        count,
        admin=damon.admin,
        modules=damon.modules,
        write=damon.write,
    )


def nr_kdamonds(damon: FakeDamon) -> int:
    """Return how many the tree has."""
    return int((damon.admin / "kdamonds/nr_kdamonds").read_text())
