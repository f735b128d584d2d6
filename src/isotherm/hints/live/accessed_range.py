"""Accessed bits by mapping: ``Referenced`` of smaps, cleared by clear_refs.

/proc/PID/smaps says of every mapping how much of it was touched since the bits
were last cleared (fs/proc/task_mmu.c). That tells mappings apart, not pages: a heap
of one mapping is one number. It needs nothing but /proc, so it works where every
other source is missing.

Registering alternate ranges of the target with a userfaultfd makes each a mapping
of its own, and so makes the numbers as fine as the ranges. Nothing is protected,
so nothing faults; but the target gets a userfaultfd by ptrace and up to 16384 more
mappings. That is done only to targets named for it (``--intrusive``). The kernel
joins the mappings again when our descriptor closes, in whatever way we end.
"""

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core import privileged
from isotherm.core.availability import Availability
from isotherm.core.errors import IsothermError
from isotherm.core.units import PAGE_BYTES, PAGES_PER_HUGE_PAGE
from isotherm.hints.batch import HintBatch, Look, Mechanism, RegionCounts
from isotherm.hints.capability import Capability
from isotherm.hints.live.accessed_bits import SET_BIT_NS
from isotherm.hints.live.regions import to_flat
from isotherm.hints.live.userfaultfd import RemoteUserfaultfd, inject
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import SpaceMap

#: A share of pages is told as so many positive checks of so few: with more checks
#: than these the evidence would be saturated. Columns: checks, positive ones.
SHARES: Final = np.array(
    [[1, 0], [1, 1], [3, 2]] + [[n, 1] for i in range(1, 11) for n in (1 << i, 3 << i)]
)
#: Of the target's time that bits to be set anew may take: 1 GiB of hot pages takes
#: 80 ms of it a look (docs/measurements.md#the-daemon).
TARGET_BUDGET: Final = 0.005
LONGEST: Final = 64  # times the interval that was asked for
_MAPPING: Final = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) [^\n]*\n"
    rb"(?:[A-Z][^\n]*\n)*?Rss: +([0-9]{1,18}) kB\n"
    rb"(?:[A-Z][^\n]*\n)*?Referenced: +([0-9]{1,18}) kB\n",
    re.MULTILINE,
)

#: Mappings into which a process is split at most, of vm.max_map_count (65530).
MOST_SPLITS: Final = 16384


def parse_smaps(text: bytes) -> NDArray[np.int64]:
    r"""Return mappings, int64[n, 4]: start, end, resident, referenced, in pages.

    >>> parse_smaps(b"7000-9000 rw-p\nRss: 8 kB\nReferenced: 4 kB\n").tolist()
    [[7, 9, 2, 1]]
    """
    kib = PAGE_BYTES // 1024
    rows = [
        (
            int(found[1], 16) // PAGE_BYTES,
            int(found[2], 16) // PAGE_BYTES,
            int(found[3]) // kib,
            int(found[4]) // kib,
        )
        for found in _MAPPING.finditer(text)
    ]
    return np.array(rows, np.int64).reshape(-1, 4)


def nearest_share(share: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return for each share the row of ``SHARES`` that is nearest to it.

    >>> SHARES[nearest_share(np.array([0.0, 0.26, 0.5, 0.9]))].tolist()
    [[1, 0], [4, 1], [2, 1], [1, 1]]
    """
    told = SHARES[1:, 1] / SHARES[1:, 0]
    apart = np.abs(np.log(np.maximum(share, 1e-9))[:, None] - np.log(told))
    row = apart.argmin(axis=1) + 1
    return np.where(share < 0.5 * told.min(), 0, row)


def alternate(
    ranges: NDArray[np.int64], chunk: int, most: int
) -> list[tuple[int, int]]:
    """Return every second chunk of ranges of pages; larger ones if there are many.

    >>> alternate(np.array([[0, 10]]), 4, 100)
    [(0, 4), (8, 10)]
    >>> alternate(np.array([[0, 10]]), 4, 1)
    [(0, 8)]
    """
    while (ranges[:, 1] // (2 * chunk) - ranges[:, 0] // (2 * chunk) + 1).sum() > most:
        chunk *= 2
        if chunk > 1 << 40:
            return []
    parts = []
    for start, end in ranges.tolist():
        for at in range(start // (2 * chunk) * 2 * chunk, end, 2 * chunk):
            low, high = max(start, at), min(end, at + chunk)
            if low < high:
                parts.append((low, high))
    return parts


class AccessedRanges:
    """Reads and clears what was touched of every mapping, at an interval.

    It clears the bits that other readers of accessed bits look at: it is for hosts
    that have none of them.

    Args:
        spaces: Which page is whose.
        interval_s: Seconds between two looks, within the budget.
        budget: CPU time that looking may take, as a share of one CPU.
        intrusive: Processes whose mappings may be split.
        chunk_pages: Pages of a part of a split mapping.
        now_ns: The machine's time.
        open_process: Opens a process.
        process_of: Returns the process of a pid that the spaces name, or None; it
            stays theirs. None: open_process opens them by number.
    """

    mechanism: Final = Mechanism.REGION
    capability: Final = Capability(unit_pages=0, clears=True)
    name: Final = "accessed-range"

    def __init__(
        self,
        spaces: SpaceMap,
        *,
        interval_s: float = 5.0,
        budget: float = 0.01,
        intrusive: frozenset[int] = frozenset(),
        chunk_pages: int = PAGES_PER_HUGE_PAGE,
        now_ns: Callable[[], int] = time.monotonic_ns,
        open_process: Callable[[int], Process] = Process,
        process_of: Callable[[int], Process | None] | None = None,
    ) -> None:
        self._spaces = spaces
        self._wanted_s = interval_s
        #: Seconds between two looks now: widened while they cost too much.
        self.interval_s = interval_s
        self._budget = budget
        self._intrusive = intrusive
        self._chunk = chunk_pages
        self._uffds: dict[int, tuple[RemoteUserfaultfd, int]] = {}  # and the version
        #: Why a process named for it was not split.
        self.refused: dict[int, str] = {}
        self._now_ns = now_ns
        self._open_process = open_process
        self._process_of = process_of
        self._processes: dict[int, Process] = {}
        self._cleared: dict[int, int] = {}  # pid -> when
        self._guard = threading.Lock()
        self._open = False

    @staticmethod
    def probe() -> Availability:
        """Return whether smaps and clear_refs are there, on this process."""
        name = "accessed-range"
        asks = privileged.broker() is not None  # its own are not its own to open
        for path, mode in (("smaps", os.R_OK), ("clear_refs", os.W_OK)):
            if not os.access(f"/proc/self/{path}", os.F_OK if asks else mode):
                why = f"/proc/PID/{path}: not there or not ours"
                return Availability(name, "source", False, why)
        return Availability(
            name, "source", True, "smaps and clear_refs: one number a mapping"
        )

    def open(self) -> None:
        """Begin; nothing is cleared before the first drain."""
        self._open = True

    def close(self) -> None:
        """Give the descriptors back; may be called again."""
        with self._guard:
            self._open = False
            for pid in list(self._processes):
                self._forget(pid)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self, looks: tuple[Look, ...]) -> None:
        """Keep looking at all mappings."""

    def drain(self) -> tuple[HintBatch, ...]:
        """Return what was touched of processes whose interval is over.

        Mappings of which about the same share was touched make a batch.
        """
        batches: list[HintBatch] = []
        with self._guard:
            if not self._open:
                return ()
            pids = self._spaces.pids()
            for pid in set(self._processes) - set(pids):
                self._forget(pid)
            for pid in pids:
                last_ns = self._cleared.get(pid)
                now_ns = self._now_ns()
                if last_ns is None or now_ns - last_ns >= self.interval_s * 1e9:
                    batches += self._look_at(pid, last_ns)
        return tuple(batches)

    def _forget(self, pid: int) -> None:
        process = self._processes.pop(pid, None)
        if process is not None and self._process_of is None:
            process.close()
        uffd = self._uffds.pop(pid, None)
        if uffd is not None:
            uffd[0].close()
        self._cleared.pop(pid, None)

    def _split(self, process: Process) -> None:
        """Register every second chunk of a process's spaces."""
        pid, version = process.pid, self._spaces.version
        held = self._uffds.get(pid)
        if held is not None and held[1] == version:
            return
        try:
            uffd = held[0] if held is not None else inject(process)
        except IsothermError as error:
            self.refused[pid] = str(error)
            return
        self._uffds[pid] = (uffd, version)
        for start, end in alternate(
            self._spaces.ranges(pid)[:, :2], self._chunk, MOST_SPLITS // 2
        ):
            # What cannot be registered (a special mapping) stays whole.
            uffd.register(start, end)

    def _process(self, pid: int) -> Process | None:
        """Return the very process that the spaces mean, not another of its number."""
        process = self._processes.get(pid)
        if self._process_of is not None:
            theirs = self._process_of(pid)
            if theirs is not process:
                self._forget(pid)
            process = theirs
        elif process is None:
            process = self._open_process(pid)
        if process is not None:
            self._processes[pid] = process
        return process

    def _look_at(self, pid: int, last_ns: int | None) -> list[HintBatch]:
        spent_ns = time.thread_time_ns()
        try:
            process = self._process(pid)
            if process is None:
                self._forget(pid)
                return []
            if pid in self._intrusive and pid not in self.refused:
                self._split(process)
            mapping = parse_smaps(process.read_bytes("smaps"))
            read_ns = self._now_ns()
            process.clear_refs(1)
        except (OSError, IsothermError):
            self._forget(pid)
            return []
        self._cleared[pid] = self._now_ns()
        spent_ns = time.thread_time_ns() - spent_ns
        if last_ns is None or len(mapping) == 0:
            return []
        gathered_s = (read_ns - last_ns) / 1e9
        stall_ns = int(mapping[:, 3].sum()) * SET_BIT_NS
        self._keep_to_budget(spent_ns, stall_ns, gathered_s)
        region, first, last = to_flat(
            self._spaces.ranges(pid), mapping[:, 0], mapping[:, 1]
        )
        order = np.argsort(first, kind="stable")
        region = region[order]
        share = mapping[:, 3] / np.maximum(mapping[:, 2], 1)
        touched = int(mapping[np.unique(region), 3].sum())
        row = nearest_share(share)[region]
        batches = []
        for which in np.unique(row).tolist():
            here = row == which
            checks, found = SHARES[which].tolist()
            seen = RegionCounts(
                first[order][here].astype(np.uint32),
                last[order][here].astype(np.uint32),
                np.full(int(here.sum()), found, np.uint32),
                np.zeros(int(here.sum()), np.uint32),
                checks,
                gathered_s,
            )
            batches.append(HintBatch(self.name, last_ns, read_ns, seen))
        if batches:
            batches[0] = replace(
                batches[0],
                application_ns=touched * SET_BIT_NS,
                background_ns=float(spent_ns),
                capability=self.capability,
            )
        return batches

    def _keep_to_budget(
        self, spent_ns: int, stall_ns: float, gathered_s: float
    ) -> None:
        """Look more seldom while it costs too much, of us or of who is looked at."""
        gathered_ns = gathered_s * 1e9
        share = spent_ns * max(1, len(self._processes)) / gathered_ns
        # What the target may lose, told in our own budget.
        share = max(share, self._budget * stall_ns / (TARGET_BUDGET * gathered_ns))
        if share > self._budget:
            longest_s = LONGEST * self._wanted_s
            self.interval_s = min(longest_s, 2 * self.interval_s)
        elif share < 0.3 * self._budget:
            self.interval_s = max(self._wanted_s, self.interval_s / 2)
