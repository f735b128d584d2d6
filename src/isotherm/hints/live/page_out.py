"""Sampled page-out: put a few pages into compressed memory, and see who comes back.

As Thermostat samples with faults (Agarwal and Wenisch, ASPLOS 2017), without any
help from the target: random blocks of eight pages are paged out to zram or zswap
by process_madvise(2); after a window the page map says which of them somebody
has touched. One bit a page, reads and writes alike, exact, over a known time: the
confirmation that a page is cold before it is moved, on hosts where nothing else
sees reads of single pages.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core import privileged
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
from isotherm.machine.linux import syscalls
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import SpaceMap

#: What the application waits when it touches a page again: a zram page is read
#: and decompressed; a page that was fetched at once is only mapped
#: (docs/reference/hint-sources.md, measured).
STALL_NS: Final = 4600.0
STALL_FETCHED_NS: Final = 1350.0
#: Blocks drawn for one that is wanted: some are not there, or are not pageable.
_DRAWN: Final = 3
#: Bits of a page-map entry (Documentation/admin-guide/mm/pagemap.rst).
_PRESENT: Final = np.uint64(1 << 63)
_SWAPPED: Final = np.uint64(1 << 62)
_FILE: Final = np.uint64(1 << 61)
_EXCLUSIVE: Final = np.uint64(1 << 56)
_BLOCK_LINE: Final = np.arange(BLOCK_PAGES, dtype=np.uint64)

Flat = NDArray[np.uint32]


@dataclass(slots=True)
class _Window:
    """Blocks that are out, and since when.

    Attributes:
        pid: Whose pages, int32[n].
        vpage: First virtual page of each block, uint64[n].
        block: Flat page // 8, uint32[n].
        out: Which pages went out, uint8[n, 8].
        since_ns: When.
        until_ns: When they are looked at again.
    """

    pid: NDArray[np.int32]
    vpage: NDArray[np.uint64]
    block: Flat
    out: NDArray[np.bool_]
    since_ns: int
    until_ns: int


def compressed_swap(root: Path = Path("/")) -> str | None:
    """Return what the swap of this host is compressed by; None if it is not.

    Every area in use must be on zram, or zswap must stand before them all: a page
    that goes to a disk is a page that is lost for milliseconds.
    """
    try:
        lines = (root / "proc/swaps").read_text().splitlines()[1:]
    except OSError:
        return None
    areas = [line.split()[0] for line in lines if line.strip()]
    if not areas:
        return None
    if all(Path(area).name.startswith("zram") for area in areas):
        return "zram"
    try:
        zswap = (root / "sys/module/zswap/parameters/enabled").read_text().strip()
    except OSError:
        return None
    return "zswap" if zswap == "Y" else None


class PageOutSource:
    """Pages out random blocks, and reports which were touched again.

    Without a look for it, it draws from all spaces; `confirm` names pages that are
    to be looked at next instead, as a policy does before it demotes them.

    Args:
        spaces: Which flat page is whose.
        clock: The machine's.
        sample_blocks: Blocks of eight pages put out between two drains.
        window_s: How long they stay before they are looked at; a look's own
            window comes first. 0: until the next drain.
        fetch: Read the pages back into the swap cache at once, so that a touch
            only maps them; costs this process their decompression. Not with
            ``keep_out``: what is fetched takes memory again.
        keep_out: Leave what nobody has touched where it is. Otherwise it is
            brought back when its window ends.
        seed: Of the drawing.
        process_of: Returns the process of a pid that the spaces name, or None; the
            machine's, so that both mean the same one. None: opened here.
        root: Root of the host's files, for the check of its swap.
    """

    mechanism = LiveMechanism.PAGE_OUT
    capability = Capability()

    def __init__(
        self,
        spaces: SpaceMap,
        clock: Clock,
        *,
        sample_blocks: int = 32,
        window_s: float = 0.0,
        fetch: bool = True,
        keep_out: bool = False,
        seed: int = 1,
        process_of: Callable[[int], Process | None] | None = None,
        root: Path = Path("/"),
    ) -> None:
        self._root = root
        self._process_of = process_of
        self._gone: set[int] = set()
        self._spaces = spaces
        self._clock = clock
        self._blocks = sample_blocks
        self._window_s = window_s
        self._fetch = fetch and not keep_out  # a fetched page takes memory again
        self._keep_out = keep_out
        self._rng = np.random.default_rng(seed)
        self._processes: dict[int, Process] = {}
        self._windows: list[_Window] = []
        self._wanted: Flat = np.empty(0, np.uint32)
        self._looks: tuple[Look, ...] = ()
        self._lost = 0
        self._spent_ns = 0
        self._start_ns = 0
        self._is_open = False

    @staticmethod
    def probe(root: Path = Path("/")) -> Availability:
        """Say whether pages can be put out to compressed memory here."""
        name = LiveMechanism.PAGE_OUT.value
        kind = compressed_swap(root)
        if kind is None:
            return Availability(
                name,
                "source",
                present=False,
                why="/proc/swaps: no swap on zram, and zswap is not in use",
                command=(
                    "zramctl --find --size 4G --algorithm lz4 && "
                    "mkswap /dev/zram0 && swapon --priority 100 /dev/zram0"
                ),
            )
        if privileged.broker() is not None:  # a call answers, as of old kernels
            return Availability(name, "source", present=True, why=f"swap is on {kind}")
        pidfd = os.pidfd_open(os.getpid())
        try:
            nothing = np.zeros(1, np.uint64)  # no bytes at address 0
            answer = syscalls.process_madvise(
                pidfd, nothing, nothing, syscalls.MADV_PAGEOUT
            )
        finally:
            os.close(pidfd)
        if answer < 0:
            why = f"process_madvise: {syscalls.errno_name(-answer)}"
            return Availability(name, "source", present=False, why=why)
        return Availability(name, "source", present=True, why=f"swap is on {kind}")

    # -- opening and closing ----------------------------------------------

    def open(self) -> None:
        """Make ready.

        Raises:
            UnsupportedError: There is no compressed swap, or no process_madvise(2).
        """
        found = self.probe(self._root)
        if not found.present:
            raise UnsupportedError(f"{found.name}: {found.why}", hint=found.command)
        self._start_ns = self._clock.now_ns()
        self._is_open = True

    def close(self) -> None:
        """Bring back what is still out, unless it is to stay; may be called again."""
        windows, self._windows = self._windows, []
        if not self._keep_out:
            for window in windows:
                self._bring_back(window, window.out)
        for process in self._processes.values():
            process.close()
        self._processes = {}
        self._is_open = False

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- looking -----------------------------------------------------------

    def confirm(self, page: Flat) -> None:
        """Look at the blocks of these pages next, before any that are drawn.

        Args:
            page: Flat pages, uint32[n]; more than fit wait for their turn.
        """
        wanted = np.setdiff1d(page // BLOCK_PAGES, self._pending())
        self._wanted = np.union1d(self._wanted, wanted).astype(np.uint32)

    def look(self, looks: tuple[Look, ...]) -> None:
        """Put out what is asked for, or a sample of everything."""
        if not self._is_open:
            return
        began = time.thread_time_ns()
        mine = tuple(k for k in looks if k.mechanism is self.mechanism)
        window_s = self._window_s
        for look in mine:
            window_s = window_s if look.window_s is None else look.window_s
        take = self._wanted[: self._blocks]
        self._wanted = self._wanted[self._blocks :]
        drawn = self._draw(mine, self._blocks - len(take))
        self._put_out(np.unique(np.concatenate([take, drawn])), window_s)
        self._spent_ns += time.thread_time_ns() - began

    def _draw(self, looks: tuple[Look, ...], count: int) -> Flat:
        """Draw blocks at random from the looks' ranges, or from every space."""
        if looks:
            bounds = [
                (k.start_page, min(k.end_page, self._spaces.pages)) for k in looks
            ]
        else:
            base, end, _, _ = self._spaces.extents()
            bounds = list(zip(base.tolist(), end.tolist(), strict=True))
        first = np.array([-(-a // BLOCK_PAGES) for a, _ in bounds], np.int64)
        last = np.array([b // BLOCK_PAGES for _, b in bounds], np.int64)
        size = np.maximum(0, last - first)
        whole = int(size.sum())
        if count <= 0 or not whole:
            return np.empty(0, np.uint32)
        if 0 < len(looks) <= count:  # of each look as many
            at = np.repeat(np.arange(len(looks)), count // len(looks))
            at = at[size[at] > 0]
            block = (first[at] + self._rng.integers(0, size[at])).astype(np.uint32)
        else:
            draw = np.sort(self._rng.integers(0, whole, count * _DRAWN))
            begin = np.cumsum(size) - size
            at = np.searchsorted(begin, draw, side="right") - 1
            block = (first[at] + draw - begin[at]).astype(np.uint32)
        for look in looks:
            if look.stripes > 1:
                inside = (block >= look.start_page // BLOCK_PAGES) & (
                    block < look.end_page // BLOCK_PAGES
                )
                block = block[~inside | (block % look.stripes == look.stripe)]
        block = np.setdiff1d(block, self._pending())
        if len(block) > count:
            block = self._rng.choice(block, count, replace=False)
        return np.sort(block).astype(np.uint32)

    def _pending(self) -> Flat:
        return np.concatenate(
            [np.empty(0, np.uint32), *(window.block for window in self._windows)]
        )

    def _put_out(self, block: Flat, window_s: float) -> None:
        """Page out whole blocks of private memory that is there."""
        pid, vpage = self._spaces.locate(block * np.uint32(BLOCK_PAGES))
        for owner in np.unique(pid).tolist():
            process = self._process(owner)
            rows = np.flatnonzero(pid == owner)
            if process is None:
                self._lost += BLOCK_PAGES * len(rows)
                continue
            try:
                entries = self._entries(process, vpage[rows])
                wanted = _PRESENT | _EXCLUSIVE
                able = ((entries & (wanted | _FILE)) == wanted).all(1)
                rows = rows[able]
                if not len(rows):
                    continue
                start = vpage[rows].astype(np.int64)
                ranges = np.column_stack([start, start + BLOCK_PAGES])
                since_ns = self._clock.now_ns()
                process.madvise(ranges, syscalls.MADV_PAGEOUT)
                out = (self._entries(process, vpage[rows]) & _SWAPPED) != 0
                again = ~out.all(1)
                if again.any():
                    process.madvise(ranges[again], syscalls.MADV_PAGEOUT)
                    late = self._entries(process, vpage[rows[again]]) & _SWAPPED
                    out[again] = late != 0
                if self._fetch:
                    process.madvise(ranges, syscalls.MADV_WILLNEED)
            except IsothermError:  # gone, or no longer ours to look at
                self._lost += BLOCK_PAGES * len(rows)
                self._drop(owner)
                continue
            # What stays is locked or pinned, or so new that it stands on no list
            # of the kernel's yet, or is touched without a pause: nobody can tell.
            went = out.any(1)
            self._lost += int((~out).sum())
            rows = rows[went]
            if len(rows):
                self._windows.append(
                    _Window(
                        pid[rows],
                        vpage[rows],
                        block[rows],
                        out[went],
                        since_ns,
                        since_ns + int(window_s * NS_PER_S),
                    )
                )

    def _entries(
        self, process: Process, vpage: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """Return the page-map entries of blocks, uint64[n, 8]."""
        entries = np.zeros((len(vpage), BLOCK_PAGES), np.uint64)
        for row, first in zip(entries, vpage.tolist(), strict=True):
            process.read_pagemap(first, row)
        return entries

    # -- reporting ---------------------------------------------------------

    def drain(self) -> tuple[HintBatch, ...]:
        """Look again at blocks whose window is over.

        A page that is there again was touched. Of a page that would not go out
        nothing is said: ``observed`` has the others of its block.
        """
        began = time.thread_time_ns()
        now_ns = self._clock.now_ns()
        due = [w for w in self._windows if w.until_ns <= now_ns]
        self._windows = [w for w in self._windows if w.until_ns > now_ns]
        batches: list[tuple[AccessedBits, float]] = []
        for window in due:
            seen, touched = self._read(window)
            if seen is None:
                continue
            cost_ns = STALL_FETCHED_NS if self._fetch else STALL_NS
            batches.append((seen, touched * cost_ns))
        start_ns, self._start_ns = self._start_ns, now_ns
        spent_ns = self._spent_ns + time.thread_time_ns() - began
        self._spent_ns = 0
        lost, self._lost = self._lost, 0
        if not batches:
            batches = [(_nothing(), 0.0)]
        return tuple(
            HintBatch(
                self.mechanism.value,
                start_ns,
                now_ns,
                seen,
                lost=lost if k == 0 else 0,
                application_ns=stall_ns,
                background_ns=float(spent_ns) if k == 0 else 0.0,
                capability=self.capability,
            )
            for k, (seen, stall_ns) in enumerate(batches)
        )

    def _read(self, window: _Window) -> tuple[AccessedBits | None, int]:
        """Return the bits of a window, and how many pages were touched."""
        process = self._process(int(window.pid[0]))
        try:
            if process is None:
                self._lost += int(window.out.sum())
                return None, 0
            now_pid, now_vpage = self._spaces.locate(
                window.block * np.uint32(BLOCK_PAGES)
            )
            same = (now_pid == window.pid) & (now_vpage == window.vpage)
            entries = self._entries(process, window.vpage)
            until_ns = self._clock.now_ns()
        except IsothermError:
            self._lost += int(window.out.sum())
            self._drop(int(window.pid[0]))
            return None, 0
        there, swapped = (entries & _PRESENT) != 0, (entries & _SWAPPED) != 0
        touched = there & window.out
        if not self._keep_out:
            self._bring_back(window, window.out & swapped)
        # Neither there nor in swap: unmapped meanwhile.
        observed = window.out & (there | swapped) & same[:, None]
        self._lost += int((window.out & ~observed).sum())
        known = observed.any(1)
        interval_s = (until_ns - window.since_ns) / NS_PER_S
        seen = AccessedBits(
            window.block[known],
            _packed(touched[known]),
            np.full(int(known.sum()), interval_s, np.float32),
            _packed(observed[known]),
        )
        return seen, int(touched.sum())

    def _bring_back(self, window: _Window, out: NDArray[np.bool_]) -> None:
        """Fault pages in from outside."""
        process = self._process(int(window.pid[0]))
        vpage = (window.vpage[:, None] + _BLOCK_LINE)[out]
        if process is not None and len(vpage):
            process.touch(vpage)

    # -- processes ---------------------------------------------------------

    def _process(self, pid: int) -> Process | None:
        """Return a process, held by its pidfd; None if it is gone."""
        if pid < 0:
            return None
        if self._process_of is not None:
            return self._process_of(pid)
        held = self._processes.get(pid)
        if held is not None and held.alive():
            return held
        if held is not None:
            self._drop(pid)
            self._gone.add(pid)
        # A pid that has died is not opened again while the spaces still name it:
        # whoever has it now is somebody else.
        self._gone &= set(self._spaces.pids())
        if pid in self._gone:
            return None
        try:
            self._processes[pid] = Process(pid)
        except IsothermError:
            return None
        return self._processes[pid]

    def _drop(self, pid: int) -> None:
        held = self._processes.pop(pid, None)
        if held is not None:
            held.close()


def _packed(bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(bits, axis=1, bitorder="little").ravel()


def _nothing() -> AccessedBits:
    return AccessedBits(
        np.empty(0, np.uint32), np.empty(0, np.uint8), np.empty(0, np.float32)
    )
