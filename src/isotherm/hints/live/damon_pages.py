"""DAMON as a reader of single pages: regions of one page, one check a window.

kdamond checks one random page of a region. Where every region is one page, the
check is that page's accessed bit. Neighbours are not merged while together they
are larger than the range over the fewest regions (damon_region_sz_limit(),
mm/damon/core.c), so the fewest regions are set to the number of pages. A region of
two pages is never split: pages must be given as regions of their own.

That costs two file writes a page, so a window of some hundred pages goes through
what is to be looked at, and stays a few checks at each place.
"""

import contextlib
import os
import resource
import threading
import time
from collections.abc import Callable
from typing import Final, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from isotherm.core.availability import Availability
from isotherm.core.errors import IsothermError
from isotherm.core.units import PAGE_BYTES
from isotherm.hints.batch import BLOCK_PAGES, AccessedBits, HintBatch, Look, Mechanism
from isotherm.hints.capability import Capability
from isotherm.hints.live.accessed_bits import SET_BIT_NS
from isotherm.hints.live.damon import OpenTrace, choose_operations
from isotherm.hints.live.damon_admin import (
    DamonAdmin,
    Intervals,
    Kdamond,
    Target,
    cpu_ns,
    probe,
)
from isotherm.hints.live.damon_trace import Regions, RegionTrace
from isotherm.machine.linux.spaces import SpaceMap

log = structlog.get_logger()

#: Checks at one place before the window goes on.
CHECKS: Final = 4
MOST_PAGES: Final = 4096
FEWEST_PAGES: Final = 64
SHORTEST_S: Final = 0.01
LONGEST_S: Final = 2.0


def most_pages() -> int:
    """Return the largest window: two files a page, of a third of those we may open.

    The soft limit on files counts (RLIMIT_NOFILE), often 1024.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST_PAGES
    pages = files // 6 // BLOCK_PAGES * BLOCK_PAGES
    return max(FEWEST_PAGES, min(MOST_PAGES, pages))


class DamonPages:
    """Reads accessed bits of single pages where it is told to look.

    A look's window is the interval of the checks; without one it is ``check_s``.
    Its range is gone through block by block; stripes say nothing, for the order
    is in turns anyway. Intervals in the batches are those of the checks.

    Args:
        spaces: Which page is whose.
        admin: DAMON's control files.
        pages: Regions at once, a multiple of eight; less where ``ulimit -n`` says.
        budget: CPU time that this may take, kdamond's included, of one CPU; after
            each place it rests as long as that takes.
        check_s: Interval of checks where a look does not say.
        now_ns: The machine's time, CLOCK_MONOTONIC.
        open_trace: Opens the reports of a kernel thread.
        threaded: Go on in a thread; else ``step`` does it.
    """

    mechanism: Final = Mechanism.ACCESSED_BIT
    capability: Final = Capability(clears=True)
    name: Final = "damon-pages"

    def __init__(
        self,
        spaces: SpaceMap,
        admin: DamonAdmin,
        *,
        pages: int = 512,
        budget: float = 0.02,
        check_s: float = 0.2,
        now_ns: Callable[[], int] = time.monotonic_ns,
        open_trace: OpenTrace = RegionTrace,
        threaded: bool = True,
    ) -> None:
        self._spaces = spaces
        self._admin = admin
        self._budget = budget
        self._check_s = check_s
        self._now_ns = now_ns
        self._open_trace = open_trace
        self._threaded = threaded
        #: Pages in the window.
        self.pages = min(pages, most_pages())
        self._kdamond: Kdamond | None = None
        self._trace: RegionTrace | None = None
        self._files: tuple[list[int], list[int]] = ([], [])
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._looks: tuple[Look, ...] = ()
        self._next = 0  # flat block at which the window stands next
        self._flat = np.zeros(0, np.int64)  # flat pages of the window
        self._vpage = np.zeros(0, np.int64)
        self._window_us = 0
        self._valid_from_ns = 0
        self._seen = 0
        self._began_ns = 0  # at this place
        self._rest_until_ns = 0
        self._cost_ns = 0.0  # not charged to a batch yet
        self._spent_ns = 0.0  # charged at this place
        self._measured = (0, 0)  # kernel thread and its CPU time
        self._done: list[HintBatch] = []
        self.error: Exception | None = None

    @staticmethod
    def probe() -> Availability:
        """Return whether DAMON can be used here and now."""
        found = probe()
        return Availability(
            "damon-pages", "source", found.present, found.why, found.command
        )

    def open(self) -> None:
        """Take a kdamond; see DamonRegions.open for errors."""
        if self._kdamond is not None:
            return
        kdamond = self._admin.take(self.name)
        try:
            kdamond.set_operations(choose_operations(kdamond, ("fvaddr", "vaddr")))
        except BaseException:
            self._admin.give_back(self.name)
            raise
        self._kdamond = kdamond
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
        self._close_files()
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

    def look(self, looks: tuple[Look, ...]) -> None:
        """Go on through these ranges; without any the window stays where it is."""
        wanted = tuple(k for k in looks if k.mechanism is Mechanism.ACCESSED_BIT)
        if wanted:
            with self._guard:
                self._looks = wanted

    def drain(self) -> tuple[HintBatch, ...]:
        """Return what was seen since the last drain."""
        with self._guard:
            done, self._done = self._done, []
        return tuple(done)

    # -- the window -------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s()):
            try:
                self.step()
            except (IsothermError, OSError) as error:
                self._tell(error)
                self._flat = self._flat[:0]
                if self._stop.wait(5.0):
                    return

    def _pause_s(self) -> float:
        """Return how long nothing is to be done."""
        if not len(self._flat):
            rest_s = (self._rest_until_ns - self._now_ns()) / 1e9
            return min(max(rest_s, 0.05), 1.0)
        return max(0.02, (CHECKS - self._seen) * self._window_us / 1e6)

    def _tell(self, error: Exception) -> None:
        """Keep what went wrong, and say it once; the next step tries again."""
        if str(error) != str(self.error):
            log.warning("source", name=self.name, why=str(error))
        self.error = error

    def step(self) -> None:
        """Read what was reported, and move the window when it has seen enough.

        Raises:
            IsothermError: The kernel refuses; the next step tries again.
        """
        kdamond = self._kdamond
        if kdamond is None:
            return
        spent_ns = time.thread_time_ns()
        with self._guard:
            looks = self._looks
        if self._trace is not None and len(self._flat):
            self._read()
        running = kdamond.running
        if len(self._flat) and (self._seen >= CHECKS or not running):
            running = not self._rest(kdamond) and running
        elif len(self._flat):
            looks = ()
        if looks and self._now_ns() >= self._rest_until_ns:
            self._began_ns, self._spent_ns = self._now_ns(), 0.0
            self._move(kdamond, looks, running=running)
        self._cost_ns += time.thread_time_ns() - spent_ns

    def _read(self) -> None:
        assert self._trace is not None  # noqa: S101  # the caller has looked
        reports = self._trace.read()
        lost = reports.lost
        for snapshot in reports.snapshots():
            begun_ns = int(snapshot.time_ns[0]) - self._window_us * 1000
            if begun_ns < self._valid_from_ns or len(snapshot) != len(self._vpage):
                continue
            self._seen += 1
            self._emit(snapshot, lost)
            lost = 0

    def _emit(self, snapshot: Regions, lost: int) -> None:
        order = np.argsort(self._flat, kind="stable")
        found = snapshot.nr_accesses > 0
        bits = np.packbits(found[order].reshape(-1, 8), axis=1, bitorder="little")[:, 0]
        block = self._flat[order][::BLOCK_PAGES] // BLOCK_PAGES
        pid, used_ns = self._measured
        now_used_ns = cpu_ns(pid)
        self._cost_ns += now_used_ns - used_ns
        self._measured = (pid, now_used_ns)
        end_ns = int(snapshot.time_ns[-1])
        batch = HintBatch(
            self.name,
            end_ns - self._window_us * 1000,
            end_ns,
            AccessedBits(
                block.astype(np.uint32),
                bits,
                np.full(len(block), self._window_us / 1e6, np.float32),
            ),
            lost=lost,
            application_ns=float(found.sum()) * SET_BIT_NS,
            background_ns=self._cost_ns,
            capability=self.capability,
        )
        self._spent_ns += self._cost_ns
        self._cost_ns = 0.0
        with self._guard:
            self._done.append(batch)
            del self._done[:-64]

    def _rest(self, kdamond: Kdamond) -> bool:
        """Return whether the budget wants a rest before the window goes on."""
        spent_ns = self._spent_ns + self._cost_ns
        self._rest_until_ns = self._began_ns + int(spent_ns / self._budget)
        if self._rest_until_ns <= self._now_ns():
            return False
        kdamond.stop()
        self._flat = self._flat[:0]
        return True

    def _choose(self, looks: tuple[Look, ...]) -> tuple[int, NDArray[np.int64]]:
        """Return the next blocks of one process: its pid and flat blocks."""
        base, end, _, owner = self._spaces.extents()
        rows = []
        for look in looks:
            first = -(-np.maximum(base, look.start_page) // BLOCK_PAGES)
            last = np.minimum(end, look.end_page) // BLOCK_PAGES
            keep = np.flatnonzero(first < last)
            rows += list(
                zip(
                    first[keep].tolist(),
                    last[keep].tolist(),
                    owner[keep].tolist(),
                    strict=True,
                )
            )
        if not rows:
            return 0, np.empty(0, np.int64)
        rows = sorted(set(rows))
        at = next((i for i, row in enumerate(rows) if row[1] > self._next), 0)
        if rows[at][1] <= self._next:
            self._next = 0
        room, pid, parts = self.pages // BLOCK_PAGES, rows[at][2], []
        for first, last, whose in rows[at:]:
            begin = max(first, self._next)
            if whose != pid or room == 0:
                break
            stop = min(last, begin + room)
            if begin < stop:
                parts.append(np.arange(begin, stop))
                room -= stop - begin
                self._next = stop
        return pid, np.concatenate(parts)

    def _move(
        self, kdamond: Kdamond, looks: tuple[Look, ...], *, running: bool
    ) -> None:
        """Put the window on the next pages."""
        pid, block = self._choose(looks)
        if not len(block):
            kdamond.stop()
            self._flat = self._flat[:0]
            return
        flat = (block[:, None] * BLOCK_PAGES + np.arange(BLOCK_PAGES)).ravel()
        owner, vpage = self._spaces.locate(flat.astype(np.uint32))
        order = np.argsort(vpage, kind="stable")
        flat, at = flat[order], vpage[order].astype(np.int64)
        if not (owner == pid).all():  # the spaces changed while we chose
            self._flat = self._flat[:0]
            return
        window_s = min((k.window_s or self._check_s) for k in looks)
        window_us = int(min(max(window_s, SHORTEST_S), LONGEST_S) * 1e6)
        count = len(flat)
        kdamond.set_intervals(
            Intervals(window_us, window_us, (max(3, count), 4 * max(3, count)))
        )
        if count != len(self._files[0]):
            self._close_files()
            kdamond.set_targets([Target(pid, np.empty((0, 2), np.int64))])
            try:
                self._files = kdamond.region_files(count)
            except OSError as error:
                raise IsothermError(
                    f"damon: {error.filename}: {error.strerror}",
                    hint="ulimit -n, it takes two files a page",
                ) from error
        else:
            kdamond.set_pid(pid)
        for fd_start, fd_end, page in zip(*self._files, at.tolist(), strict=True):
            os.pwrite(fd_start, b"%d" % (page * PAGE_BYTES), 0)
            os.pwrite(fd_end, b"%d" % ((page + 1) * PAGE_BYTES), 0)
        if running:
            kdamond.commit()
        else:
            kdamond.start()
        self._flat, self._vpage, self._window_us = flat, at, window_us
        self._seen = 0
        self._valid_from_ns = self._now_ns()
        self._listen(kdamond)

    def _listen(self, kdamond: Kdamond) -> None:
        pid = kdamond.pid
        if pid is None or (self._trace is not None and self._trace.pid == pid):
            return
        if self._trace is not None:
            self._trace.close()
        self._trace = None
        try:
            self._trace = self._open_trace(pid)
        except OSError as error:
            raise IsothermError(
                f"damon: reports: {error.strerror}", hint="run as root"
            ) from error
        self._measured = (pid, cpu_ns(pid))

    def _close_files(self) -> None:
        for fd in self._files[0] + self._files[1]:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._files = ([], [])
