"""Write tracking: which pages of sampled ranges were written, exactly.

A range is registered with a userfaultfd of the target for asynchronous write
protection, and write-protected by PAGEMAP_SCAN; the first write of a page faults
once, for 0.8 µs, without anybody else taking part; a second scan tells which pages
that were. Only sampled ranges are armed, and each is given back after its window:
to arm all memory all the time would cost a busy writer a third of its speed.

The target must help, or be named for ``--intrusive``: see `userfaultfd`.
"""

import errno
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core.availability import Availability
from isotherm.core.clock import Clock
from isotherm.core.errors import IsothermError, UnsupportedError
from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import (
    BLOCK_PAGES,
    AccessedBits,
    HintBatch,
    LiveMechanism,
    Look,
)
from isotherm.hints.capability import Capability
from isotherm.hints.live.pagemap_scan import (
    Category,
    expand,
    pages_in,
    probe_scan,
    scan_runs,
    why_not,
)
from isotherm.hints.live.userfaultfd import RemoteUserfaultfd, adopt, inject
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import SpaceMap

#: What the first write of an armed page costs its thread, measured
#: (docs/reference/hint-sources.md).
WRITE_NS: Final = 800.0
#: Pages armed in one piece: eight blocks. A piece is a mapping of its own while it
#: is armed; a process may have 65530 of them (vm.max_map_count).
PIECE_PAGES: Final = 64
_DRAWN: Final = 2


@dataclass(slots=True)
class _Armed:
    """One piece: virtual pages ``[start, end)`` from flat page ``base`` on."""

    pid: int
    start: int
    end: int
    base: int
    since_ns: int
    until_ns: int


class WriteTrackingSource:
    """Arms random pieces of memory and reports the pages that were written.

    Args:
        spaces: Which flat page is whose.
        clock: The machine's.
        intrusive: Processes into which a userfaultfd may be injected by ptrace.
        offered: Number of the userfaultfd that a cooperating process has made.
        sample_pages: Pages armed between two drains.
        window_s: How long a piece stays armed; a look's own window comes first.
            0: until the next drain.
        unwritten: What a page that was not written is taken for. ``unknown``:
            nothing, it may have been read. ``idle``: not accessed; right only for
            memory of which every access is a write, or near enough.
        seed: Of the drawing.
        process_of: Returns the process of a pid that the spaces name, or None; the
            machine's. None: opened here.

    Attributes:
        refused: Why processes are not tracked, by pid.
    """

    mechanism = LiveMechanism.WRITE
    capability = Capability(sees_reads=False)

    def __init__(
        self,
        spaces: SpaceMap,
        clock: Clock,
        *,
        intrusive: frozenset[int] = frozenset(),
        offered: Mapping[int, int] | None = None,
        sample_pages: int = 1024,
        window_s: float = 0.0,
        unwritten: Literal["unknown", "idle"] = "unknown",
        seed: int = 1,
        process_of: Callable[[int], Process | None] | None = None,
    ) -> None:
        self._spaces = spaces
        self._clock = clock
        self._intrusive = intrusive
        self._offered = dict(offered or {})
        self._pieces = max(1, sample_pages // PIECE_PAGES)
        self._window_s = window_s
        self._unwritten = unwritten
        self._rng = np.random.default_rng(seed)
        self._process_of = process_of
        self._held: dict[int, tuple[Process, RemoteUserfaultfd, int]] = {}
        self._armed: list[_Armed] = []
        self.refused: dict[int, str] = {}
        self._start_ns = 0
        self._spent_ns = 0
        self._stopped_ns = 0
        self._lost = 0
        self._is_open = False

    @staticmethod
    def probe() -> Availability:
        """Say whether writes can be tracked here, in a target that allows it."""
        name = LiveMechanism.WRITE.value
        error = probe_scan()
        if error is not None:
            return Availability(name, "source", present=False, why=why_not(error))
        if platform.machine() != "x86_64":
            why = f"{platform.machine()}: only targets that offer a userfaultfd"
            return Availability(name, "source", present=True, why=why)
        why = "PAGEMAP_SCAN works; a target must offer a userfaultfd or be intruded on"
        return Availability(name, "source", True, why, "isotherm run --intrusive")

    # -- opening and closing ----------------------------------------------

    def open(self) -> None:
        """Get a userfaultfd of every process that offers one or is named for it.

        Raises:
            UnsupportedError: The kernel cannot, or no process can be tracked; the
                first one's reason.
        """
        found = self.probe()
        if not found.present:
            raise UnsupportedError(f"{found.name}: {found.why}", hint=found.command)
        self._start_ns = self._clock.now_ns()
        self._is_open = True
        self._follow_spaces()
        if not self._held and self.refused:
            self.close()
            raise UnsupportedError(
                f"{found.name}: {next(iter(self.refused.values()))}",
                hint="name the target for it: isotherm run --intrusive",
            )

    def close(self) -> None:
        """Give every range and userfaultfd back; may be called again."""
        for armed in self._armed:
            self._disarm(armed)
        self._armed = []
        for pid in list(self._held):
            self._drop(pid)
        self._is_open = False

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _follow_spaces(self) -> None:
        """Take on processes that are new in the spaces, drop those that are gone."""
        pids = set(self._spaces.pids())
        for pid in set(self._held) - pids:
            self._drop(pid)
        self.refused = {p: why for p, why in self.refused.items() if p in pids}
        for pid in sorted(pids - set(self._held) - set(self.refused)):
            self._take(pid)

    def _take(self, pid: int) -> None:
        if pid not in self._offered and pid not in self._intrusive:
            self.refused[pid] = f"pid {pid}: not named for intrusive looking"
            return
        process: Process | None = None
        try:
            process = self._process_of(pid) if self._process_of else Process(pid)
            if process is None:
                self.refused[pid] = f"pid {pid}: no such process any more"
                return
            if pid in self._offered:
                uffd = adopt(process, self._offered[pid])
            else:
                uffd = inject(process)
                self._stopped_ns += uffd.stopped_ns
            # A descriptor of its own: the process's may be renewed after an exec,
            # while this userfaultfd stays with the memory before it.
            pagemap = process.open("pagemap")
        except IsothermError as error:
            self.refused[pid] = str(error)
            if process is not None and self._process_of is None:
                process.close()
            return
        self._held[pid] = (process, uffd, pagemap)

    def _drop(self, pid: int) -> None:
        process, uffd, pagemap = self._held.pop(pid)
        self._armed = [armed for armed in self._armed if armed.pid != pid]
        uffd.close()
        os.close(pagemap)
        if self._process_of is None:
            process.close()

    # -- looking -----------------------------------------------------------

    def look(self, looks: tuple[Look, ...]) -> None:
        """Arm what is asked for, or a sample of everything."""
        if not self._is_open:
            return
        began = time.thread_time_ns()
        self._follow_spaces()
        mine = tuple(k for k in looks if k.mechanism is self.mechanism)
        window_s = self._window_s
        for look in mine:
            window_s = window_s if look.window_s is None else look.window_s
        for pid, start, base in self._draw(mine):
            self._arm(pid, start, base, window_s)
        self._spent_ns += time.thread_time_ns() - began

    def _draw(self, looks: tuple[Look, ...]) -> list[tuple[int, int, int]]:
        """Draw pieces at random: pid, first virtual page, flat page."""
        base, end, start_vpage, owner = self._spaces.extents()
        ours = np.isin(owner, list(self._held))
        base, end, start_vpage = base[ours], end[ours], start_vpage[ours]
        owner = owner[ours]
        if looks:
            inside = np.zeros(len(base), np.bool_)
            first, last = base.copy(), base.copy()
            for look in looks:  # the last look that an extent is in counts
                a = np.maximum(base, look.start_page)
                b = np.minimum(end, look.end_page)
                hit = a < b
                first[hit], last[hit], inside = a[hit], b[hit], inside | hit
        else:
            first, last = base, end
        first = -(-first // PIECE_PAGES) * PIECE_PAGES
        size = np.maximum(0, last - first) // PIECE_PAGES
        whole = int(size.sum())
        if not whole:
            return []
        draw = np.unique(self._rng.integers(0, whole, self._pieces * _DRAWN))
        begin = np.cumsum(size) - size
        at = np.searchsorted(begin, draw, side="right") - 1
        flat = first[at] + (draw - begin[at]) * PIECE_PAGES
        taken = [armed.base for armed in self._armed]
        keep = np.flatnonzero(~np.isin(flat, taken))
        keep = self._rng.permutation(keep)[: self._pieces]
        vpage = start_vpage[at] + flat - base[at]
        return [(int(owner[at[k]]), int(vpage[k]), int(flat[k])) for k in keep]

    def _arm(self, pid: int, start: int, base: int, window_s: float) -> None:
        """Register and protect one piece of small pages that are there."""
        if pid not in self._held:
            return
        _, uffd, pagemap = self._held[pid]
        end = start + PIECE_PAGES
        try:
            present = Category.PRESENT
            huge = Category.HUGE | Category.FILE
            there = scan_runs(pagemap, start, end, all_of=present, none_of=huge)
            if pages_in(there) < PIECE_PAGES:
                return  # arming a part of a huge page would split it
            code = uffd.register(start, end)
            if code == errno.ESRCH:  # an exec, or the end
                self._drop(pid)
                return
            if code:
                self._lost += PIECE_PAGES
                return
            since_ns = self._clock.now_ns()
            scan_runs(pagemap, start, end, all_of=Category.WRITTEN, protect=True)
        except OSError:
            uffd.unregister(start, end)
            self._lost += PIECE_PAGES
            return
        until_ns = since_ns + int(window_s * NS_PER_S)
        self._armed.append(_Armed(pid, start, end, base, since_ns, until_ns))

    def _disarm(self, armed: _Armed) -> None:
        if armed.pid in self._held:
            self._held[armed.pid][1].unregister(armed.start, armed.end)

    # -- reporting ---------------------------------------------------------

    def drain(self) -> tuple[HintBatch, ...]:
        """Read and give back the pieces whose window is over, in one batch."""
        if not self._is_open:
            return ()
        began = time.thread_time_ns()
        now_ns = self._clock.now_ns()
        due = [armed for armed in self._armed if armed.until_ns <= now_ns]
        self._armed = [armed for armed in self._armed if armed.until_ns > now_ns]
        blocks: list[NDArray[np.uint32]] = []
        bits: list[NDArray[np.uint8]] = []
        interval_s: list[NDArray[np.float32]] = []
        for armed in sorted(due, key=lambda a: a.base):
            written = self._read(armed)
            if written is None:
                self._lost += armed.end - armed.start
                continue
            first = armed.base // BLOCK_PAGES
            count = len(written) // BLOCK_PAGES
            blocks.append(np.arange(first, first + count, dtype=np.uint32))
            bits.append(np.packbits(written, bitorder="little"))
            covered = (self._clock.now_ns() - armed.since_ns) / NS_PER_S
            interval_s.append(np.full(count, covered, np.float32))
        seen = AccessedBits(
            np.concatenate([np.empty(0, np.uint32), *blocks]),
            np.concatenate([np.empty(0, np.uint8), *bits]),
            np.concatenate([np.empty(0, np.float32), *interval_s]),
            writes_only=self._unwritten == "unknown",
        )
        written_pages = int(np.unpackbits(seen.bits).sum())
        start_ns, self._start_ns = self._start_ns, now_ns
        stopped_ns, self._stopped_ns = self._stopped_ns, 0
        spent_ns = self._spent_ns + time.thread_time_ns() - began
        lost, self._lost, self._spent_ns = self._lost, 0, 0
        return (
            HintBatch(
                self.mechanism.value,
                start_ns,
                now_ns,
                seen,
                lost=lost,
                application_ns=written_pages * WRITE_NS + stopped_ns,
                background_ns=float(spent_ns),
                capability=self.capability,
            ),
        )

    def _read(self, armed: _Armed) -> NDArray[np.bool_] | None:
        """Return which pages of a piece were written, and give it back.

        None where the memory is no longer what was armed.
        """
        if armed.pid not in self._held:
            return None
        pagemap = self._held[armed.pid][2]
        try:
            runs = scan_runs(
                pagemap,
                armed.start,
                armed.end,
                all_of=Category.WRITTEN | Category.WPALLOWED,
            )
            allowed = scan_runs(
                pagemap,
                armed.start,
                armed.end,
                all_of=Category.WPALLOWED,
            )
        except OSError:
            return None
        finally:
            self._disarm(armed)
        if pages_in(allowed) < armed.end - armed.start:  # unmapped, mapped anew
            return None
        at = np.array([armed.base], np.uint32)
        pid, vpage = self._spaces.locate(at)
        if int(pid[0]) != armed.pid or int(vpage[0]) != armed.start:
            return None
        written = np.zeros(armed.end - armed.start, np.bool_)
        written[expand(runs).astype(np.int64) - armed.start] = True
        return written
