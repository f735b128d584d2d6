"""DAMON as a source of regions: virtual memory of processes, or physical memory.

kdamond watches what it is told to (the managed ranges, with the ``fvaddr``
operations, or all of RAM with ``paddr``), and every aggregation becomes a batch.
Ranges are committed while it runs. When kdamond takes more CPU time than its
budget, its intervals are doubled; when it takes far less, they are halved again.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from isotherm.core.availability import Availability
from isotherm.core.errors import IsothermError, UnsupportedError
from isotherm.core.units import PAGE_BYTES
from isotherm.hints.batch import HintBatch, Look, Mechanism, RegionCounts
from isotherm.hints.capability import Capability
from isotherm.hints.live.accessed_bits import SET_BIT_NS
from isotherm.hints.live.damon_admin import (
    DamonAdmin,
    Intervals,
    Kdamond,
    Target,
    cpu_ns,
    probe,
)
from isotherm.hints.live.damon_trace import Regions, RegionTrace
from isotherm.hints.live.frame_map import FrameMap
from isotherm.hints.live.regions import coarsened, to_flat
from isotherm.machine.linux.spaces import SpaceMap

log = structlog.get_logger()

#: Ranges of one process that are told to DAMON; smaller gaps count as memory.
RANGES_A_TARGET: Final = 64
#: kdamond's time is looked at so often.
REGULATE_S: Final = 1.0
#: Batches handed on at a drain, the newest; older ones are lost.
BATCHES_AT_ONCE: Final = 4
MOST_SCALE: Final = 64
#: The map of frames is renewed within so many drains.
FRAME_TURNS: Final = 8

_NEVER: Final = 1 << 62

OpenTrace = Callable[[int], RegionTrace]


class DamonRegions:
    """Hands on DAMON's aggregations.

    Args:
        spaces: Which page is whose.
        admin: DAMON's control files.
        frames: Watch physical memory and translate by this map; None: watch the
            virtual memory of the processes.
        intervals: How often it looks, within the budget.
        budget: CPU time that kdamond may take, as a share of one CPU.
        now_ns: The machine's time, CLOCK_MONOTONIC.
        open_trace: Opens the reports of a kernel thread.
        iomem: Where the ranges of RAM stand.
        threaded: Follow spaces and regulate in a thread; else ``step`` does it.
    """

    mechanism: Final = Mechanism.REGION
    capability: Final = Capability(unit_pages=0, clears=True)

    def __init__(
        self,
        spaces: SpaceMap,
        admin: DamonAdmin,
        *,
        frames: FrameMap | None = None,
        intervals: Intervals | None = None,
        budget: float = 0.01,
        now_ns: Callable[[], int] = time.monotonic_ns,
        open_trace: OpenTrace = RegionTrace,
        iomem: Path = Path("/proc/iomem"),
        threaded: bool = True,
    ) -> None:
        self._spaces = spaces
        self._admin = admin
        self._frames = frames
        self._wanted = intervals or Intervals()
        self._budget = budget
        self._now_ns = now_ns
        self._open_trace = open_trace
        self._iomem = iomem
        self._threaded = threaded
        self.name = "damon-paddr" if frames is not None else "damon-vaddr"
        #: Intervals are this many times those that were asked for.
        self.scale = 1
        self._kdamond: Kdamond | None = None
        self._trace: RegionTrace | None = None
        self._reports: deque[Regions] = deque(maxlen=BATCHES_AT_ONCE)
        self._guard = threading.Lock()  # of the trace and what it reads
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._version = -1
        self._targets: tuple[int, ...] = ()
        self._applied = self._wanted
        self._valid_from_ns = 0
        self._measured = (0, 0, 0)  # pid, its CPU time, when
        self._charged = (0, 0)  # pid, its CPU time as far as it was charged
        self._lost = 0
        self.error: Exception | None = None

    @staticmethod
    def probe() -> Availability:
        """Return whether DAMON can be used here and now."""
        return probe()

    @property
    def frames(self) -> FrameMap | None:
        """The map of frames, where DAMON watches physical memory."""
        return self._frames

    def open(self) -> None:
        """Take a kdamond; it starts once there is something to watch.

        Raises:
            UnsupportedError: No DAMON, without these operations, or taken.
            NotPermittedError: Not root.
        """
        if self._kdamond is not None:
            return
        kdamond = self._admin.take(self.name)
        try:
            wanted = ("paddr",) if self._frames is not None else ("fvaddr", "vaddr")
            kdamond.set_operations(choose_operations(kdamond, wanted))
        except BaseException:
            self._admin.give_back(self.name)
            raise
        self._kdamond = kdamond
        self._version = -1
        self._stop.clear()
        if self._threaded:
            self._thread = threading.Thread(
                target=self._run, name=self.name, daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Stop and remove the kdamond; may be called again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._guard:
            if self._trace is not None:
                self._trace.close()
                self._trace = None
        if self._kdamond is not None:
            self._kdamond = None
            self._admin.give_back(self.name)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- keeping it at work -----------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            try:
                self.step()
            except (IsothermError, OSError) as error:
                self._tell(error)
                if self._stop.wait(5.0):
                    return

    def _tell(self, error: Exception) -> None:
        """Keep what went wrong, and say it once; the next step tries again."""
        if str(error) != str(self.error):
            log.warning("source", name=self.name, why=str(error))
        self.error = error

    def step(self) -> None:
        """Follow the spaces, keep to the budget, and restart what has ended.

        Raises:
            IsothermError: The kernel refuses; the next step tries again.
        """
        kdamond = self._kdamond
        if kdamond is None:
            return
        running = kdamond.running
        if running:
            self._regulate()
        intervals = self._scaled()
        if (
            running
            and self._version == self._spaces.version
            and intervals == self._applied
        ):
            self._read_trace()
            return
        version, targets = self._spaces.version, self._make_targets()
        if not targets:
            kdamond.stop()
            self._version = version
            return
        with self._guard:
            self._collect()
            self._valid_from_ns = _NEVER  # until the kernel has taken it over
        kdamond.set_intervals(intervals)
        kdamond.set_targets(targets)
        if running:
            kdamond.commit()
        else:
            kdamond.start()
        with self._guard:
            self._applied, self._version = intervals, version
            self._targets = tuple(t.pid or 0 for t in targets)
            # A window that began before is of old ranges and intervals.
            self._valid_from_ns = self._now_ns()
            listens = self._follow_kdamond(kdamond)
        if not listens:
            kdamond.set_stat_scheme()
            kdamond.commit()
        self.error = None

    def _scaled(self) -> Intervals:
        return replace(
            self._wanted,
            sample_us=self._wanted.sample_us * self.scale,
            aggregate_us=self._wanted.aggregate_us * self.scale,
        )

    def _make_targets(self) -> list[Target]:
        if self._frames is not None:
            return [Target(None, read_ram(self._iomem))]
        targets = []
        for pid in self._spaces.pids():
            ranges = self._spaces.ranges(pid)[:, :2]
            if len(ranges) and Path(f"/proc/{pid}").exists():
                ranges = coarsened(ranges, RANGES_A_TARGET) * PAGE_BYTES
                targets.append(Target(pid, ranges))
        return targets

    def _follow_kdamond(self, kdamond: Kdamond) -> bool:
        """Listen to the kernel thread that runs now; return whether we can."""
        pid = kdamond.pid
        if pid is None or (self._trace is not None and self._trace.pid == pid):
            return True
        if self._trace is not None:
            self._trace.close()
        self._trace = None
        with contextlib.suppress(OSError, UnsupportedError):
            self._trace = self._open_trace(pid)
        self._measured = (pid, cpu_ns(pid), self._now_ns())
        self._charged = (pid, 0)
        return self._trace is not None

    def _regulate(self) -> None:
        pid, used_ns, then_ns = self._measured
        now_ns = self._now_ns()
        if pid == 0 or now_ns - then_ns < REGULATE_S * 1e9:
            return
        used_now_ns = cpu_ns(pid)
        share = (used_now_ns - used_ns) / (now_ns - then_ns)
        self._measured = (pid, used_now_ns, now_ns)
        if share > self._budget and self.scale < MOST_SCALE:
            self.scale *= 2
        elif share < 0.3 * self._budget and self.scale > 1:
            self.scale //= 2

    def _read_trace(self) -> None:
        """Empty the ring before it overflows, or ask for a snapshot."""
        if self._trace is None and self._kdamond is not None:
            seen = self._kdamond.tried_regions()
            time_ns = np.full(len(seen), self._now_ns(), np.int64)
            which = self._target_of(seen[:, 0])
            if len(seen):
                with self._guard:
                    self._reports.append(Regions(time_ns, which, *seen.T))
            return
        with self._guard:
            self._collect()

    def _target_of(self, start: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the target of regions that come one target after the other."""
        falls = np.zeros(len(start), np.int64)
        falls[1:] = np.cumsum(start[1:] < start[:-1])
        return np.minimum(falls, max(0, len(self._targets) - 1))

    def _collect(self) -> None:
        if self._trace is None:
            return
        reports = self._trace.read()
        self._lost += reports.lost
        window_ns = self._applied.aggregate_us * 1000
        for snapshot in reports.snapshots():
            if int(snapshot.time_ns[0]) - window_ns >= self._valid_from_ns:
                self._reports.append(snapshot)

    # -- the source -------------------------------------------------------

    def look(self, looks: tuple[Look, ...]) -> None:
        """Keep monitoring; DAMON chooses where to look by itself."""

    def drain(self) -> tuple[HintBatch, ...]:
        """Return one batch an aggregation, the newest few; the first has the cost."""
        if self._kdamond is None:
            return ()
        spent_ns = time.thread_time_ns()
        with self._guard:
            self._collect()
            reports, self._reports = self._reports, deque(maxlen=BATCHES_AT_ONCE)
            lost, self._lost = self._lost, 0
            targets, applied = self._targets, self._applied
            pid, charged_ns = self._charged
        if not reports:
            return ()
        if self._frames is not None:
            self._frames.refresh(-(-self._spaces.pages // FRAME_TURNS))
        batches = []
        for snapshot in reports:
            seen, untold = self._translate(snapshot, targets, applied)
            touched = float(snapshot.nr_accesses.sum())
            end_ns = int(snapshot.time_ns[-1])
            batches.append(
                HintBatch(
                    self.name,
                    end_ns - applied.aggregate_us * 1000,
                    end_ns,
                    seen,
                    lost=lost + untold,
                    application_ns=touched * SET_BIT_NS,
                    capability=self.capability,
                )
            )
            lost = 0
        used_ns = cpu_ns(pid)
        self._charged = (pid, used_ns)
        spent_ns = time.thread_time_ns() - spent_ns
        cost_ns = float(max(0, used_ns - charged_ns) + spent_ns)
        batches[0] = replace(batches[0], background_ns=cost_ns)
        return tuple(batches)

    def _translate(
        self, snapshot: Regions, targets: tuple[int, ...], applied: Intervals
    ) -> tuple[RegionCounts, int]:
        """Return a snapshot in flat pages, and how many regions are nobody's."""
        start = snapshot.start // PAGE_BYTES
        end = -(-snapshot.end // PAGE_BYTES)
        parts = []
        untold = 0
        if self._frames is not None:
            region, first, last, untold = self._frames.to_flat(start, end)
            parts.append((region, first, last))
        else:
            for index, pid in enumerate(targets):
                row = np.flatnonzero(snapshot.target == index)
                extents = self._spaces.ranges(pid)
                region, first, last = to_flat(extents, start[row], end[row])
                untold += len(row) - len(np.unique(region))
                parts.append((row[region], first, last))
        which = np.concatenate([p[0] for p in parts] or [np.empty(0, np.int64)])
        first = np.concatenate([p[1] for p in parts] or [np.empty(0, np.int64)])
        last = np.concatenate([p[2] for p in parts] or [np.empty(0, np.int64)])
        order = np.argsort(first, kind="stable")
        which = which[order]
        found = np.minimum(snapshot.nr_accesses[which], applied.checks)
        return (
            RegionCounts(
                first[order].astype(np.uint32),
                last[order].astype(np.uint32),
                found.astype(np.uint32),
                snapshot.age[which].astype(np.uint32),
                applied.checks,
                applied.sample_us / 1e6,
            ),
            untold,
        )


def choose_operations(kdamond: Kdamond, wanted: tuple[str, ...]) -> str:
    """Return the first of the wanted operations sets that the kernel has.

    Raises:
        UnsupportedError: It has none of them.
    """
    offered = kdamond.operations
    for name in wanted:
        if name in offered:
            return name
    raise UnsupportedError(
        f"damon: operations: found {' '.join(offered)}, expected {' or '.join(wanted)}"
    )


def read_ram(iomem: Path) -> NDArray[np.int64]:
    """Return the ranges of RAM in bytes, int64[n, 2], from /proc/iomem.

    Raises:
        UnsupportedError: The file shows none: not root.
    """
    rows = []
    for line in iomem.read_text().splitlines():
        span, _, name = line.partition(" : ")
        if name.strip().startswith("System RAM") and not line.startswith(" "):
            first, _, last = span.partition("-")
            low = -(-int(first, 16) // PAGE_BYTES) * PAGE_BYTES
            high = (int(last, 16) + 1) // PAGE_BYTES * PAGE_BYTES
            if low < high:
                rows.append((low, high))
    if not rows or rows[-1][1] == 0:
        raise UnsupportedError(f"{iomem}: no System RAM is shown", hint="run as root")
    return np.array(rows, np.int64)
