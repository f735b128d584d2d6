"""The kernel's NUMA scan: which pages to poison next, and how often.

task_numa_work() and task_scan_min() in kernel/sched/fair.c (6.3): every scan
period, ``scan_size_mb`` of the address space get PROT_NONE, from where the last
scan ended; the larger the process, the shorter the period, down to a scan rate
of 2560 MB/s.
"""

import math
from collections.abc import Mapping

from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import BLOCK_PAGES, Look, Mechanism
from isotherm.policy.options import PAGES_PER_MIB

NS_PER_MS = NS_PER_S // 1000

#: sysctl and debugfs defaults (kernel/sched/fair.c, 6.3).
SCAN_DEFAULTS = {
    "scan_delay_ms": 1000.0,
    "scan_period_min_ms": 1000.0,
    "scan_period_max_ms": 60_000.0,
    "scan_size_mb": 256.0,
}
MAX_SCAN_WINDOW_MB = 2560  # per second: MAX_SCAN_WINDOW
PERIOD_SLOTS = 10  # NUMA_PERIOD_SLOTS
PERIOD_THRESHOLD = 7  # NUMA_PERIOD_THRESHOLD


class NumaScan:
    """Walks the flat pages round and round.

    Args:
        pages: Length of the flat page index.
        options: Values for ``SCAN_DEFAULTS``.
        scale: What sizes are multiplied by.

    Attributes:
        period_ms: Time between two scans of ``scan_pages``.
        scan_pages: Pages of one scan.
        sweeps: Times that the scan has come round.
    """

    def __init__(self, pages: int, options: Mapping[str, float], scale: float) -> None:
        self._pages = pages
        self._delay_ns = int(options["scan_delay_ms"] * NS_PER_MS)
        size_mb = max(options["scan_size_mb"], 1.0)
        self.scan_pages = max(1.0, size_mb * PAGES_PER_MIB * scale)
        windows = math.ceil(pages / self.scan_pages)
        floor_ms = 1000 / max(MAX_SCAN_WINDOW_MB / size_mb, 1)
        self.min_ms = max(floor_ms, options["scan_period_min_ms"] / windows)
        self.max_ms = max(self.min_ms, options["scan_period_max_ms"] / windows)
        self.period_ms = self.min_ms
        self.sweeps = 0
        self._at = 0  # numa_scan_offset
        self._due = 0.0
        self._start_ns: int | None = None
        self._promoted = 0
        self._failed = 0

    def feedback(self, promoted: int, failed: int) -> None:
        """Count promotions that went and that failed, until the sweep ends."""
        self._promoted += promoted
        self._failed += failed

    def next_looks(self, now_ns: int, dt_ns: int, nodes: list[int]) -> tuple[Look, ...]:
        """Return what to poison in the epoch that begins at ``now_ns``.

        All scans that fall into the epoch are made at its start.

        Args:
            now_ns: End of the last epoch.
            dt_ns: Length of an epoch.
            nodes: Poison only pages on these: top-tier pages are skipped.
        """
        if self._start_ns is None:
            self._start_ns = now_ns - dt_ns
        if now_ns - self._start_ns < self._delay_ns:
            return ()
        self._due += self.scan_pages * dt_ns / (self.period_ms * NS_PER_MS)
        count = min(int(self._due) // BLOCK_PAGES * BLOCK_PAGES, self._pages)
        self._due -= count
        ranges = []
        while count > 0:
            end = min(self._at + count, self._pages)
            ranges.append((self._at, end))
            count -= end - self._at
            self._at = end
            if end == self._pages:
                self._at = 0
                self._end_sweep()
                count = count // BLOCK_PAGES * BLOCK_PAGES
        return tuple(
            Look(Mechanism.HINT_FAULT, start, end, node=node)
            for start, end in ranges
            for node in nodes
        )

    def _end_sweep(self) -> None:
        """Adapt the period, once per sweep (update_task_scan_period()).

        In tiering mode only promoted pages are counted as faults, all of them
        local and private: both ratios are 10 of 10 slots, so the period grows by
        10 - 7 = 3 slots; without faults, or when migrations failed, it doubles.
        """
        self.sweeps += 1
        if self._promoted == 0 or self._failed > 0:
            longer = self.period_ms * 2
        else:
            slot = math.ceil(self.period_ms / PERIOD_SLOTS)
            longer = self.period_ms + (PERIOD_SLOTS - PERIOD_THRESHOLD) * slot
        self.period_ms = min(max(longer, self.min_ms), self.max_ms)
        self._promoted = self._failed = 0
