"""NUMA hint faults of live processes, read as addresses through perf.

While ``kernel.numa_balancing`` is on, the kernel poisons the page-table entries of
every process in turn; the next access faults. perf's software event for minor page
faults gives the address of each such fault, of every thread of the targets. The
driver only watches. It can switch the balancing on, when it is told to: in tiering
mode with a rate limit of 0, which poisons pages of slow nodes and promotes none of
them by itself (unless the fast node has plenty of room: then the kernel always
promotes).

A first touch gives the same record. So the driver keeps which pages had memory
before; `fault_rounds` works out when they were poisoned.
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core.availability import Availability
from isotherm.core.changes import HostChanges
from isotherm.core.clock import Clock
from isotherm.core.errors import (
    IsothermError,
    NotPermittedError,
    UnsupportedError,
)
from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import FaultDelays, HintBatch, Look, Mechanism
from isotherm.hints.capability import Capability
from isotherm.hints.live import fault_rounds as rounds
from isotherm.hints.live.pagemap_scan import Category, open_pagemap, scan_runs
from isotherm.hints.live.perf_event import (
    SW_PAGE_FAULTS_MIN,
    TYPE_SOFTWARE,
    EventSpec,
    ThreadEvents,
    open_event,
)
from isotherm.machine.linux.spaces import NO_PAGE, SpaceMap
from isotherm.records.perf_ring import Field
from isotherm.topology.model import Topology

BALANCING: Final = Path("proc/sys/kernel/numa_balancing")
RATE_LIMIT: Final = Path("proc/sys/kernel/numa_balancing_promote_rate_limit_MBps")
#: Bits of numa_balancing (include/linux/sched/sysctl.h).
NORMAL: Final = 1
TIERING: Final = 2
ENABLE: Final = (
    "sysctl -w kernel.numa_balancing_promote_rate_limit_MBps=0 kernel.numa_balancing=2"
)
#: Time of a hint fault with its sample; docs/reference/hint-sources.md, measured.
FAULT_NS: Final = 1000.0
#: The same page of the same thread within this time is one fault reported twice.
#: No page is poisoned twice within the 100 ms between two stretches.
REPEAT_NS: Final = 20_000_000
#: Pages that stay silent are reported so often.
SILENCE_NS: Final = 10 * NS_PER_S

SPEC: Final = EventSpec(
    TYPE_SOFTWARE,
    SW_PAGE_FAULTS_MIN,
    Field.TID | Field.TIME | Field.ADDR | Field.CPU,
)


def read_balancing(root: Path = Path("/")) -> int | None:
    """Return kernel.numa_balancing; None where the kernel has none."""
    try:
        return int((root / BALANCING).read_text())
    except (OSError, ValueError):
        return None


class PageFaultSource:
    """Reports how soon poisoned pages were touched.

    Args:
        spaces: Which flat page is whose; its processes are watched.
        clock: The machine's, CLOCK_MONOTONIC.
        placement: Returns the node of every flat page, as ``Machine.placement``.
        fast_nodes: Nodes of the fastest tier: in tiering mode the kernel poisons
            nothing there.
        initiator_of_cpu: Initiator of every CPU, uint8; None: unknown.
        changes: Where what is switched on is written down, to be undone.
        enable: Switch the balancing on where it is off, through ``changes``.
        root: Root of the host's files.
    """

    mechanism = Mechanism.HINT_FAULT

    def __init__(
        self,
        spaces: SpaceMap,
        clock: Clock,
        *,
        placement: Callable[[], NDArray[np.uint8]] | None = None,
        fast_nodes: tuple[int, ...] = (),
        initiator_of_cpu: NDArray[np.uint8] | None = None,
        changes: HostChanges | None = None,
        enable: bool = False,
        root: Path = Path("/"),
    ) -> None:
        self._spaces = spaces
        self._clock = clock
        self._placement = placement
        self._fast = np.array(fast_nodes, np.uint8)
        self._initiator = initiator_of_cpu
        self.capability = Capability(knows_initiator=initiator_of_cpu is not None)
        self._changes = changes
        self._enable = enable
        self._root = root
        self._events = ThreadEvents(SPEC)
        self._ranges: dict[int, set[tuple[int, int, int]]] = {}
        self._version = -1
        self._state = np.empty(0, np.uint8)
        self._owner = np.empty(0, np.int32)
        self._armed_ns = np.empty(0, np.int64)
        self._told_ns = np.empty(0, np.int64)
        self._huge = np.empty(0, np.bool_)
        self._huge_ns = 0
        self._start_ns = 0
        self._is_open = False
        #: Samples passed over since the source was opened, for metrics.
        self.first_touches = self.repeats = self.undated = self.strange = 0

    @staticmethod
    def probe(root: Path = Path("/")) -> Availability:
        """Say whether hint faults happen here and can be read."""
        name = "hint-fault"
        try:
            os.close(open_event(SPEC, 0, -1))
        except OSError as error:
            refused = error.errno in (errno.EACCES, errno.EPERM)
            why = f"perf_event_open: {errno.errorcode.get(error.errno or 0, '?')}"
            command = "sysctl -w kernel.perf_event_paranoid=1" if refused else None
            return Availability(name, "source", False, why, command)
        mode = read_balancing(root)
        if mode is None:
            why = f"/{BALANCING}: not there: the kernel has no NUMA balancing"
            return Availability(name, "source", present=False, why=why)
        if not mode & (NORMAL | TIERING):
            why = f"/{BALANCING}: 0: nothing is poisoned"
            return Availability(name, "source", False, why, ENABLE)
        if mode & TIERING:
            why = f"/{BALANCING}: {mode}: pages of slow nodes are poisoned"
        else:
            why = f"/{BALANCING}: {mode}: pages of every node are poisoned"
        return Availability(name, "source", present=True, why=why)

    # -- opening and closing ----------------------------------------------

    def open(self) -> None:
        """Watch every process of the spaces; switch balancing on if told to.

        Raises:
            UnsupportedError: Nothing is poisoned here, and it is not to be enabled.
            NotPermittedError: perf events of the targets may not be opened.
        """
        mode = read_balancing(self._root)
        off = mode is not None and not mode & (NORMAL | TIERING)
        if off and self._enable and self._changes is not None:
            self._changes.write(self._root / RATE_LIMIT, 0)
            self._changes.write(self._root / BALANCING, TIERING)
        found = self.probe(self._root)
        if not found.present:
            raise UnsupportedError(f"{found.name}: {found.why}", hint=found.command)
        try:
            self._events.open()
            self._events.follow(self._spaces.pids())
        except OSError as error:
            self.close()
            raise _refused(error) from error
        self._start_ns = self._clock.now_ns()
        self._is_open = True
        self._follow_spaces()

    def close(self) -> None:
        """Stop watching; may be called again. What was enabled, ``changes`` undoes."""
        self._events.close()
        self._is_open = False

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self, looks: tuple[Look, ...]) -> None:
        """Do nothing: the kernel chooses what it poisons, and when."""

    # -- reporting ---------------------------------------------------------

    def drain(self) -> tuple[HintBatch, ...]:
        """Return the hint faults since the last drain, in one batch."""
        if not self._is_open:
            return ()
        began = time.thread_time_ns()
        # First the samples: pages of spaces that are new now are not judged by them.
        found = self._events.drain()
        self._follow_spaces()
        lost = sum(r.lost for r in found)
        pid = np.concatenate([r.pid for r in found])
        vpage = np.concatenate([r.column(Field.ADDR) for r in found]) >> np.uint64(12)
        time_ns = np.concatenate([r.column(Field.TIME) for r in found])
        cpu = np.concatenate([r.cpu for r in found])
        page = self._translate(pid, vpage)
        strange = page == NO_PAGE
        self.strange += int(strange.sum())
        row = self._in_order(page, time_ns.astype(np.int64), ~strange)
        seen = self._judge(page[row], time_ns[row].astype(np.int64), cpu[row])
        start_ns, self._start_ns = self._start_ns, self._clock.now_ns()
        faults = len(page)
        return (
            HintBatch(
                "hint-fault",
                start_ns,
                self._start_ns,
                seen,
                lost=lost,
                application_ns=(faults + lost) * FAULT_NS,
                background_ns=float(time.thread_time_ns() - began),
                capability=self.capability,
            ),
        )

    def _translate(
        self, pid: NDArray[np.int32], vpage: NDArray[np.uint64]
    ) -> NDArray[np.uint32]:
        page = np.full(len(pid), NO_PAGE, np.uint32)
        for owner in np.unique(pid).tolist():
            rows = pid == owner
            page[rows] = self._spaces.flat_pages(owner, vpage[rows])
        return page

    def _in_order(
        self,
        page: NDArray[np.uint32],
        time_ns: NDArray[np.int64],
        keep: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Return rows in order of time, each fault once."""
        order = np.lexsort((time_ns, page))
        again = np.zeros(len(page), np.bool_)
        same = page[order[1:]] == page[order[:-1]]
        soon = time_ns[order[1:]] - time_ns[order[:-1]] < REPEAT_NS
        again[order[1:]] = same & soon
        self.repeats += int((again & keep).sum())
        rows = np.flatnonzero(keep & ~again)
        ordered: NDArray[np.int64] = rows[np.argsort(time_ns[rows], kind="stable")]
        return ordered

    def _judge(
        self,
        page: NDArray[np.uint32],
        time_ns: NDArray[np.int64],
        cpu: NDArray[np.int32],
    ) -> FaultDelays:
        """Work out delays and silences."""
        n = len(page)
        kind = np.zeros(n, np.uint8)
        delay_ns, exposure_ns = np.zeros(n, np.int64), np.zeros(n, np.int64)
        room = rounds.GRANULE * max(1, min(64, len(self._owner)))
        quiet, quiet_ns = np.empty(room, np.uint32), np.empty(room, np.int64)
        silent, silent_ns, at = [], [], 0
        while at < n:
            at, count = rounds.follow(
                page,
                time_ns,
                at,
                self._state,
                self._owner,
                self._armed_ns,
                self._told_ns,
                rounds.HORIZON_NS,
                kind,
                delay_ns,
                exposure_ns,
                quiet,
                quiet_ns,
            )
            silent.append(quiet[:count].copy())
            silent_ns.append(quiet_ns[:count].copy())
        late, late_ns = self._long_silent()
        silent.append(late)
        silent_ns.append(late_ns)
        pages, waits = np.concatenate(silent), np.concatenate(silent_ns)
        poisoned = self._poisonable(pages) & (waits > 0)
        self.first_touches += int((kind == rounds.FIRST_TOUCH).sum())
        self.undated += int((kind == rounds.UNDATED).sum())
        dated = np.flatnonzero(kind == rounds.DATED)
        initiator = np.full(len(dated), 255, np.uint8)
        if self._initiator is not None:
            initiator = self._initiator[cpu[dated]]
        return FaultDelays(
            page[dated],
            (delay_ns[dated] / NS_PER_S).astype(np.float32),
            np.zeros(len(dated), np.uint8),  # the event does not tell writes
            initiator,
            pages[poisoned],
            (waits[poisoned] / NS_PER_S).astype(np.float32),
            (exposure_ns[dated] / NS_PER_S).astype(np.float32),
        )

    def _long_silent(self) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return pages of rounds that have been quiet for long, and how long."""
        now_ns = self._clock.now_ns()
        since = np.maximum(self._armed_ns, self._told_ns)
        due = (self._armed_ns != rounds.NEVER) & (now_ns - since > SILENCE_NS)
        granule = np.flatnonzero(due)
        if not len(granule):
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        page = granule[:, None] * rounds.GRANULE + np.arange(rounds.GRANULE)
        quiet = (self._state[page] & (rounds.SEEN | rounds.FAULTED)) == rounds.SEEN
        waited = np.broadcast_to((now_ns - since[granule])[:, None], page.shape)
        self._told_ns[granule] = now_ns
        return page[quiet].astype(np.uint32), waited[quiet].astype(np.int64)

    def _poisonable(self, page: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Return which pages the kernel poisons in its present mode, where they are.

        In tiering mode alone it leaves the fastest tier out; that a page there is
        silent says nothing. Nor does it for a page of a huge one, of which any
        page may have taken the fault.
        """
        mode = read_balancing(self._root) or 0
        small = ~self._huge[page // rounds.GRANULE]
        if mode & NORMAL:
            return small
        if self._placement is None or not mode & TIERING:
            return np.zeros(len(page), np.bool_)
        node = self._placement()
        inside = page < len(node)
        there = np.full(len(page), 255, np.uint8)
        there[inside] = node[page[inside]]
        poisoned: NDArray[np.bool_] = ~np.isin(there, self._fast) & (there != 255)
        return poisoned & small

    def take_tiers(self, topology: Topology) -> None:
        """Take the nodes of the fastest tier as they are now."""
        self._fast = np.array(topology.tiers[0].nodes, np.uint8)

    # -- following the spaces ----------------------------------------------

    def _follow_spaces(self) -> None:
        """Watch new processes, and learn which pages of new ranges have memory."""
        now_ns = self._clock.now_ns()
        if now_ns - self._huge_ns > SILENCE_NS:
            self._huge_ns = now_ns
            for pid, rows in self._ranges.items():
                self._find_huge(pid, rows)
        if self._version == self._spaces.version:
            return
        self._version = self._spaces.version
        self._grow(self._spaces.pages)
        pids = self._spaces.pids()
        try:
            self._events.follow(pids)
        except OSError as error:
            raise _refused(error) from error
        self._ranges = {p: self._ranges.get(p, set()) for p in pids}
        for pid in pids:
            rows = {(a, b, c) for a, b, c in self._spaces.ranges(pid).tolist()}
            for start, end, base in rows - self._ranges[pid]:
                self._learn(pid, start, end, base)
            self._ranges[pid] = rows

    def _grow(self, pages: int) -> None:
        granules = -(-pages // rounds.GRANULE)
        more = granules - len(self._owner)
        if more <= 0:
            return
        state = np.zeros(more * rounds.GRANULE, np.uint8)
        never = np.full(more, rounds.NEVER, np.int64)
        self._state = np.concatenate([self._state, state])
        self._owner = np.concatenate([self._owner, np.full(more, -1, np.int32)])
        self._armed_ns = np.concatenate([self._armed_ns, never])
        self._told_ns = np.concatenate([self._told_ns, never])
        self._huge = np.concatenate([self._huge, np.zeros(more, np.bool_)])

    def _learn(self, pid: int, start: int, end: int, base: int) -> None:
        """Begin a range anew: pages that have memory now are known."""
        self._state[base : base + end - start] = 0
        first = base // rounds.GRANULE
        last = -(-(base + end - start) // rounds.GRANULE)
        self._owner[first:last] = pid
        self._armed_ns[first:last] = rounds.NEVER
        self._told_ns[first:last] = rounds.NEVER
        runs = _scan(pid, start, end, Category.PRESENT)
        if runs is None:  # before v6.7 all count as known
            runs = np.array([[start, end]], np.int64)
        for a, b in runs.tolist():
            self._state[base + a - start : base + b - start] = rounds.KNOWN
        self._find_huge(pid, {(start, end, base)})

    def _find_huge(self, pid: int, rows: set[tuple[int, int, int]]) -> None:
        """Note which granules are one huge page now."""
        for start, end, base in rows:
            first = base // rounds.GRANULE
            last = -(-(base + end - start) // rounds.GRANULE)
            self._huge[first:last] = False
            runs = _scan(pid, start, end, Category.PRESENT | Category.HUGE)
            if runs is None:
                continue
            for a, b in (runs - start + base).tolist():
                self._huge[a // rounds.GRANULE : -(-b // rounds.GRANULE)] = True


def _scan(
    pid: int, start: int, end: int, category: Category
) -> NDArray[np.int64] | None:
    """Return runs of pages with a category; None without PAGEMAP_SCAN."""
    none = np.empty((0, 2), np.int64)
    try:
        fd = open_pagemap(pid)
    except OSError:  # gone, or hidden: then all its faults are first touches
        return none
    try:
        return scan_runs(fd, start, end, all_of=category)
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return None
        if error.errno == errno.ESRCH:
            return none
        raise
    finally:
        os.close(fd)


def _refused(error: OSError) -> IsothermError:
    name = errno.errorcode.get(error.errno or 0, "?")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermittedError(
            f"perf_event_open: {name}: page faults of the target may not be watched",
            hint="run as root, or: sysctl -w kernel.perf_event_paranoid=1",
        )
    return UnsupportedError(f"perf_event_open: {name}")
