"""DAMON schemes that move memory between nodes: migrate_hot and migrate_cold.

One kdamond with one context and two schemes, as damo's tiering preset has them
(damonitor/damo, scripts/mem_tier.sh): what is accessed goes up, until so much of
the fast node is used; what is not accessed goes down, until so much of it is free.
Where the kernel has no such goals (before v6.16) the quotas alone bound them.

A kernel may take a scheme and never apply it (v6.12 does so for virtual
addresses): only ``nr_applied`` says that it works.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isotherm.core.changes import GONE, Facts, HostChanges, undoes, write_value
from isotherm.core.errors import UnsupportedError

ADMIN: Final = "sys/kernel/mm/damon/admin/kdamonds"
KIND: Final = "damos-kdamond"
#: DAMON's own defaults (mm/damon/core.c), in microseconds.
SAMPLE_US: Final = 5_000
AGGREGATION_US: Final = 100_000
UPDATE_US: Final = 1_000_000
#: At most so many regions: an uneven number, by which we know our own kdamond.
MOST_REGIONS: Final = 997
#: Basis points of the fast node kept free by demotion (damo's preset: 0.5 %).
FREE_BP: Final = 50


@dataclass(frozen=True, slots=True)
class SchemeStats:
    """What one scheme has done, from ``stats/``."""

    action: str
    nr_tried: int
    sz_tried: int
    nr_applied: int
    sz_applied: int


@dataclass(frozen=True, slots=True)
class SchemesSpec:
    """What the two schemes aim at.

    Attributes:
        fast: Node to promote to.
        slow: Node to demote to.
        quota_ms: Time a second for each scheme.
        quota_bytes: Memory a second for each scheme.
        used_bp: Of the fast node in use that promotion aims at, basis points.
    """

    fast: int
    slow: int
    quota_ms: int
    quota_bytes: int
    used_bp: int


@undoes(KIND)
def remove_kdamond(facts: Facts) -> str:
    """Turn our kdamond off and remove it, if it is still ours."""
    top = Path(str(facts["top"]))
    try:
        if not _is_ours(top):
            return f"{top}/0: is somebody else's now, left alone"
    except OSError:
        return f"{top}/0: gone meanwhile"
    with contextlib.suppress(OSError):  # it was never on, or has ended by itself
        write_value(top / "0/state", "off")
    try:
        write_value(top / "nr_kdamonds", "0")
    except OSError as error:
        if error.errno not in GONE:
            raise
    return f"{top}/0: turned off and removed"


def _is_ours(top: Path) -> bool:
    """Return whether a kdamond is ours: it has our mark, or was killed before it.

    Before the mark it is alone and off, and nothing is set up in it.

    Raises:
        OSError: There is none.
    """
    context = top / "0/contexts/0"
    if context.is_dir():
        most = (context / "monitoring_attrs/nr_regions/max").read_text().strip()
        if most == str(MOST_REGIONS):
            return True
        for name in ("schemes/nr_schemes", "targets/nr_targets"):
            if (context / name).read_text().strip() != "0":
                return False
    alone = (top / "nr_kdamonds").read_text().strip() == "1"
    return alone and (top / "0/state").read_text().strip() == "off"


class Schemes:
    """The kdamond with the two schemes.

    Args:
        changes: Where what is changed is written down.
        root: Where /sys is.
    """

    def __init__(self, changes: HostChanges, root: Path = Path("/")) -> None:
        self._changes = changes
        self._root = root
        self._top = root / ADMIN
        self.operations: str | None = None
        self.without_goals = False

    def start(
        self, operations: str, pids: Sequence[int], spec: SchemesSpec, cgroup: str = ""
    ) -> None:
        """Make the kdamond and turn it on.

        Args:
            operations: ``vaddr`` or ``paddr``.
            pids: Targets, for ``vaddr``.
            spec: What to aim at.
            cgroup: Path below the mount, for ``paddr``: only its pages.

        Raises:
            UnsupportedError: DAMON is not there, in use, or lacks what is needed.
        """
        top = self._top
        try:
            kdamonds = (top / "nr_kdamonds").read_text().strip()
        except OSError as error:
            raise UnsupportedError(
                f"/{ADMIN}: not in this kernel", hint="isotherm doctor"
            ) from error
        if kdamonds != "0":
            raise UnsupportedError(
                f"/{ADMIN}: {kdamonds} kdamonds are set up by somebody else",
                hint=f"echo 0 > /{ADMIN}/nr_kdamonds when they are off",
            )
        # Linux 6.17 and later may run DAMON_STAT, which excludes all others.
        stat = self._root / "sys/module/damon_stat/parameters/enabled"
        with contextlib.suppress(FileNotFoundError):
            self._changes.write(stat, "N")
        self._changes.made(KIND, top=str(top))
        try:
            self._set_up(operations, pids, spec, cgroup)
            write_value(top / "0/state", "on")
        except OSError as error:
            self.stop()
            raise UnsupportedError(
                f"DAMON schemes on {operations}: {error.strerror}:"
                f" {error.filename or top}",
                hint="isotherm doctor",
            ) from error
        self.operations = operations

    def stop(self) -> None:
        """Remove the kdamond; what it has moved stays."""
        self._changes.restore(KIND)
        self.operations = None

    def is_on(self) -> bool:
        """Return whether the kdamond runs; it ends with its targets."""
        try:
            return (self._top / "0/state").read_text().strip() == "on"
        except OSError:
            return False

    def stats(self) -> list[SchemeStats]:
        """Return what the schemes have done so far."""
        if not self.is_on():
            return []
        with contextlib.suppress(OSError):
            write_value(self._top / "0/state", "update_schemes_stats")
        found = []
        for number in range(2):
            scheme = self._top / f"0/contexts/0/schemes/{number}"
            try:
                figures = {
                    name: int((scheme / "stats" / name).read_text())
                    for name in ("nr_tried", "sz_tried", "nr_applied", "sz_applied")
                }
                found.append(
                    SchemeStats((scheme / "action").read_text().strip(), **figures)
                )
            except (OSError, ValueError):
                continue
        return found

    def _set_up(
        self, operations: str, pids: Sequence[int], spec: SchemesSpec, cgroup: str
    ) -> None:
        top = self._top
        write_value(top / "nr_kdamonds", "1")
        write_value(top / "0/contexts/nr_contexts", "1")
        context = top / "0/contexts/0"
        attrs = context / "monitoring_attrs"
        # First of all the mark that tells this kdamond from others.
        write_value(attrs / "nr_regions/max", str(MOST_REGIONS))
        write_value(context / "operations", operations)
        for name, value in (
            ("sample_us", SAMPLE_US),
            ("aggr_us", AGGREGATION_US),
            ("update_us", UPDATE_US),
        ):
            write_value(attrs / "intervals" / name, str(value))
        self._targets(context, operations, pids)
        write_value(context / "schemes/nr_schemes", "2")
        most = AGGREGATION_US // SAMPLE_US
        promote, demote = context / "schemes/0", context / "schemes/1"
        self._scheme(promote, "migrate_hot", spec.fast, (1, most), spec)
        self._scheme(demote, "migrate_cold", spec.slow, (0, 0), spec)
        self._goal(promote, "node_mem_used_bp", spec.used_bp, spec.fast)
        self._goal(demote, "node_mem_free_bp", FREE_BP, spec.fast)
        if operations == "paddr":
            # Promote only what was accessed, demote only what was not, page by page.
            self._filters(promote, [("young", "N", "")], cgroup)
            self._filters(demote, [("young", "Y", "")], cgroup)

    def _targets(self, context: Path, operations: str, pids: Sequence[int]) -> None:
        targets = context / "targets"
        if operations == "vaddr":
            write_value(targets / "nr_targets", str(len(pids)))
            for number, pid in enumerate(pids):
                write_value(targets / f"{number}/pid_target", str(pid))
            return
        ranges = system_ram(self._root / "proc/iomem")
        write_value(targets / "nr_targets", "1")
        write_value(targets / "0/regions/nr_regions", str(len(ranges)))
        for number, (start, end) in enumerate(ranges):
            region = targets / f"0/regions/{number}"
            write_value(region / "start", str(start))
            write_value(region / "end", str(end))

    def _scheme(
        self,
        scheme: Path,
        action: str,
        node: int,
        accesses: tuple[int, int],
        spec: SchemesSpec,
    ) -> None:
        write_value(scheme / "action", action)
        write_value(scheme / "target_nid", str(node))
        pattern = scheme / "access_pattern"
        for name, low, high in (
            ("sz", 4096, (1 << 64) - 1),
            ("nr_accesses", *accesses),
            ("age", 0, (1 << 32) - 1),
        ):
            # Each write is checked against the other bound: widen first.
            write_value(pattern / name / "max", str(high))
            write_value(pattern / name / "min", str(low))
        for name, value in (
            ("ms", spec.quota_ms),
            ("bytes", spec.quota_bytes),
            ("reset_interval_ms", 1000),
        ):
            write_value(scheme / "quotas" / name, str(value))

    def _goal(self, scheme: Path, metric: str, target: int, node: int) -> None:
        goals = scheme / "quotas/goals"
        try:
            write_value(goals / "nr_goals", "1")
            write_value(goals / "0/target_metric", metric)
            write_value(goals / "0/target_value", str(target))
            write_value(goals / "0/nid", str(node))
        except OSError:
            # Node goals came with Linux 6.16; before, quotas alone bound a scheme.
            self.without_goals = True
            with contextlib.suppress(OSError):
                write_value(goals / "nr_goals", "0")

    def _filters(
        self, scheme: Path, filters: list[tuple[str, str, str]], cgroup: str
    ) -> None:
        if cgroup:
            filters = [("memcg", "N", cgroup), *filters]
        directory = scheme / "filters"
        write_value(directory / "nr_filters", str(len(filters)))
        for number, (kind, matching, path) in enumerate(filters):
            one = directory / str(number)
            write_value(one / "type", kind)
            if path:
                write_value(one / "memcg_path", path)
            write_value(one / "matching", matching)


def system_ram(path: Path) -> list[tuple[int, int]]:
    """Return the ranges of System RAM, bytes [start, end), neighbours joined.

    Raises:
        OSError: The file cannot be read.
    """
    ranges: list[tuple[int, int]] = []
    for line in path.read_text().splitlines():
        span, _, name = line.partition(" : ")
        if "System RAM" not in name or line.startswith(" "):
            continue
        low, _, high = span.partition("-")
        start, end = int(low, 16), int(high, 16) + 1
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        elif end > start + 1:
            ranges.append((start, end))
    return ranges


def render_stats(stats: Sequence[SchemeStats]) -> list[dict[str, Any]]:
    """Return the figures of the schemes as JSON values."""
    return [
        {
            "action": one.action,
            "nr_tried": one.nr_tried,
            "tried_bytes": one.sz_tried,
            "nr_applied": one.nr_applied,
            "applied_bytes": one.sz_applied,
        }
        for one in stats
    ]
