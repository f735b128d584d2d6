"""Accessed bits of a live host: looks in, batches out, whoever reads the bits."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import BLOCK_PAGES, AccessedBits, HintBatch, Look, Mechanism
from isotherm.hints.capability import Capability
from isotherm.hints.live.bit_reader import (
    GRANULE,
    GRANULE_BLOCKS,
    BitReader,
    Granules,
)
from isotherm.hints.live.later import Later
from isotherm.machine.linux.spaces import SpaceMap

#: What a set bit that was cleared costs its owner: a table walk that sets it anew,
#: and its share of the flush. 64 Ki hot pages cleared once and ten times a second
#: took 2 % and 18 % of their owner's throughput: docs/reference/hint-sources.md.
SET_BIT_NS: Final = 300.0
#: Parts of a process that count as all of it: 1 but for rounding.
ALL: Final = 1.0 - 1e-9
#: Of the time of the processes looked at, that looks may take which come sooner.
HASTE_TARGET: Final = 0.005
#: How fast the cost of reading a granule is followed.
COST_GAIN: Final = 0.3
#: Granules between two looks at the clock.
AT_ONCE: Final = 64
#: How fast the length of epochs is followed.
PACE_GAIN: Final = 0.5
#: Stripes of which it is remembered how often they were looked at.
MOST_STRIPES: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Granules to look at, ascending by flat granule."""

    flat: NDArray[np.int64]
    virtual: NDArray[np.int64]
    pid: NDArray[np.int32]


@dataclass(slots=True)
class _Armed:
    """A look, and what its window cleared once it has opened."""

    look: Look
    chosen: _Chosen | None = None


class LiveAccessedBits:
    """Reads and clears accessed bits where it is told to look.

    A look without a window reads what gathered since these bits were last cleared;
    one with a window clears them so long before the end of the epoch, too. Bits
    that were never cleared by us come with interval 0. An epoch ends as long after
    the end of the one before as epochs have lasted of late: what deciding takes is
    part of it, and a budget may make epochs longer.

    Bits are read by the granule of 512 pages, so ``stripes`` choose granules, not
    blocks: over as many looks as there are stripes everything is read once, as
    asked. A process that can only be cleared as a whole is read when its parts asked
    for add up to all of it. A look at one node reads all pages.

    Looks that cost more than the budget are thinned: each reads every second (4th,
    8th …) of its granules, in turns, until the cost fits. Looks that are asked for
    more rarely than a part of the budget allows come sooner: what looking is worth
    is reckoned from rates, and bits tell none above one in a window, so that where
    nobody counts accesses a busy process is taken for a quiet one.

    Args:
        reader: How this host shows bits.
        spaces: Which page is whose.
        epoch_ns: Length of the first epoch; windows end with an epoch.
        budget: CPU time that looking may take, as a share of one CPU.
        haste: Share of the budget that is used whatever is asked for.
        now_ns: The machine's time.
        later: Runs an action after so many seconds; None: a thread of its own.
    """

    mechanism: Final = Mechanism.ACCESSED_BIT
    capability: Final = Capability(clears=True)

    def __init__(
        self,
        reader: BitReader,
        spaces: SpaceMap,
        epoch_ns: int,
        *,
        budget: float = 0.02,
        haste: float = 0.0,
        now_ns: Callable[[], int] = time.monotonic_ns,
        later: Callable[[float, Callable[[], None]], None] | None = None,
    ) -> None:
        self._reader = reader
        self._spaces = spaces
        self._epoch_ns = epoch_ns
        self._budget = budget
        self._haste = haste
        self._now_ns = now_ns
        self._later = later
        self._thread: Later | None = None
        self._guard = threading.Lock()
        self._open = False
        self._armed: list[_Armed] = []
        self._done: list[HintBatch] = []
        self._round = 0  # of looks: a window that opens too late is dropped
        self._drained_ns = 0  # end of the last epoch; 0: there was none
        self._start_ns = 0
        self._cost_ns = 0.0
        self._walks = 0
        #: Of reading a granule, here and for its process; 0: not known.
        self._granule_ns = 0.0
        self._granule_target_ns = 0.0
        self._hasty = 0  # looks that came sooner than asked for
        #: Looks so far at each of so many stripes: thinning goes on from there.
        self._turns: dict[tuple[int, int], int] = {}
        #: By process cleared as a whole: the part asked for since it was read.
        self._share: dict[int, float] = {}
        #: Granules of which one is read at a look, beyond the stripes asked for.
        self.thinned = 1
        # By flat granule: when it was cleared, and whose it was then.
        self._cleared = np.zeros(0, np.int64)
        self._owner = np.zeros(0, np.int32)
        self._virtual = np.zeros(0, np.int64)
        # Of the managed memory: extents, and pages by process.
        none = np.zeros(0, np.int64)
        self._extents = (none, none, none, np.zeros(0, np.int32))
        self._base = self._end = none
        self._pids = np.zeros(0, np.int32)
        self._sizes = np.zeros(0, np.int64)
        self._version = -1

    def open(self) -> None:
        """Open the reader; see BitReader.open for errors."""
        if self._open:
            return
        self._reader.open()
        if self._later is None:
            self._thread = Later("accessed-bits")
        self._start_ns = self._now_ns()
        self._open = True

    def close(self) -> None:
        """Stop looking; may be called again. Nothing is left behind."""
        with self._guard:
            self._armed, self._open = [], False
            self._round += 1
        if self._thread is not None:
            self._thread.close()
            self._thread = None
        self._reader.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self, looks: tuple[Look, ...]) -> None:
        """Arm the next epoch's looks; open windows at their time."""
        with self._guard:
            if not self._open:
                return
            self._round += 1
            self._armed = [
                _Armed(self._hasten(k))
                for k in looks
                if k.mechanism is Mechanism.ACCESSED_BIT
            ]
            for armed in self._armed:
                if armed.look.window_s is not None:
                    now_ns = self._now_ns()
                    end_ns = (self._drained_ns or now_ns) + self._epoch_ns
                    wait_s = (end_ns - now_ns) / NS_PER_S - armed.look.window_s
                    self._run_later(max(0.0, wait_s), self._round, armed)

    def _hasten(self, look: Look) -> Look:
        """Return the look in as few stripes as a part of the budget allows."""
        if not self._haste or look.stripes == 1 or self.thinned > 1:
            return look
        if self._granule_ns <= 0:
            return look
        self._follow_spaces()
        walks = -(-int(self._sizes.sum()) // GRANULE)
        walks *= 1 if look.window_s is None else 2
        period_ns = walks * max(
            self._granule_ns / (self._haste * self._budget),
            self._granule_target_ns / HASTE_TARGET,
        )
        stripes = max(1, math.ceil(period_ns / self._epoch_ns))
        if stripes >= look.stripes:
            return look
        self._hasty += 1
        return replace(look, stripes=stripes, stripe=self._hasty % stripes)

    def _run_later(self, wait_s: float, current: int, armed: _Armed) -> None:
        def begin() -> None:
            with self._guard:
                if current == self._round and self._open:
                    armed.chosen = self._walk(armed, opening=True)

        later = self._later or (self._thread.call if self._thread else None)
        if later is not None:
            later(wait_s, begin)

    def drain(self) -> tuple[HintBatch, ...]:
        """Read every armed look; a window gives two batches."""
        with self._guard:
            if not self._open:
                return ()
            self._follow_pace()
            for armed in self._armed:
                self._walk(armed)
                place = armed.look.stripes, armed.look.stripe
                turn = self._turns.pop(place, 0) + 1
                if len(self._turns) > MOST_STRIPES:
                    self._turns.clear()
                self._turns[place] = turn
            self._armed = []
            self._round += 1
            done, self._done = self._done, []
            self._keep_to_budget()
        return tuple(done)

    def _follow_pace(self) -> None:
        """Note the end of an epoch, and how long epochs are."""
        before_ns, self._drained_ns = self._drained_ns, self._now_ns()
        if before_ns:
            lasted_ns = self._drained_ns - before_ns
            self._epoch_ns += round(PACE_GAIN * (lasted_ns - self._epoch_ns))

    def _keep_to_budget(self) -> None:
        now_ns = self._now_ns()
        passed = now_ns - self._start_ns
        if passed <= 0:
            return
        if self._cost_ns > self._budget * passed and self.thinned < 1 << 16:
            self.thinned *= 2
        elif self._cost_ns < 0.3 * self._budget * passed and self.thinned > 1:
            self.thinned //= 2
        self._start_ns, self._cost_ns = now_ns, 0.0

    # -- what to read -----------------------------------------------------

    def _follow_spaces(self) -> None:
        """Make room for new spaces, and note what is mapped.

        A window opens in a thread of its own while the loop may renew the spaces:
        they are read once, and what is chosen is chosen of what was read then.
        """
        if self._version == self._spaces.version:
            return
        self._version = self._spaces.version
        self._extents = base, end, _, owner = self._spaces.extents()
        granules = -(-self._spaces.pages // GRANULE)
        grow = granules - len(self._cleared)
        if grow > 0:
            self._cleared = np.concatenate([self._cleared, np.zeros(grow, np.int64)])
            self._owner = np.concatenate([self._owner, np.full(grow, -1, np.int32)])
            self._virtual = np.concatenate([self._virtual, np.zeros(grow, np.int64)])
        self._base, self._end = base, end
        self._pids, where = np.unique(owner, return_inverse=True)
        here = set(self._pids.tolist())
        self._share = {pid: x for pid, x in self._share.items() if pid in here}
        self._sizes = np.bincount(where, end - base, len(self._pids)).astype(np.int64)

    def _cleared_whole(self) -> NDArray[np.bool_]:
        """Return which of the processes are cleared as a whole, bool[pids]."""
        sizes = zip(self._pids.tolist(), self._sizes.tolist(), strict=True)
        return np.array([self._reader.clears_all(*size) for size in sizes], np.bool_)

    def _choose(self, look: Look) -> _Chosen:
        """Return the granules of a look, with their owners."""
        base, end, start_vpage, owner = self._extents
        first = np.maximum(base, look.start_page)
        last = np.minimum(end, look.end_page)
        stripes = look.stripes * self.thinned
        turn = self._turns.get((look.stripes, look.stripe), 0)
        stripe = look.stripe + look.stripes * (turn % self.thinned)
        whole = self._cleared_whole()[np.searchsorted(self._pids, owner)]
        asked = owner[whole & (first < last)]
        now = whole & np.isin(owner, self._fall_due(asked, stripes))
        if now.any():
            # Clearing takes every page of such a process, so all are read.
            first, last = np.where(now, base, first), np.where(now, end, last)
        row = np.flatnonzero(first < last)
        begin, stop = first[row] // GRANULE, -(-last[row] // GRANULE)
        size = stop - begin
        row = np.repeat(row, size)
        within = np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size)
        flat = np.repeat(begin, size) + within
        flat, once = np.unique(flat, return_index=True)
        row = row[once]
        use = np.where(whole[row], now[row], flat % stripes == stripe)
        flat, row = flat[use], row[use]
        virtual = start_vpage[row] // GRANULE + flat - base[row] // GRANULE
        return _Chosen(flat, virtual, owner[row])

    def _fall_due(self, pid: NDArray[np.int32], stripes: int) -> list[int]:
        """Return the processes of which so many parts now add up to all.

        Stripes may be more or fewer at each look; a certain one may never come.
        """
        due = []
        for one in np.unique(pid).tolist():
            share = self._share.get(one)
            share = 1.0 if share is None else share + 1.0 / stripes
            if share >= ALL:
                due.append(one)
                share -= 1.0
            self._share[one] = share
        return due

    # -- reading ----------------------------------------------------------

    def _walk(self, armed: _Armed, *, opening: bool = False) -> _Chosen:
        """Read and clear the granules of a look; return which."""
        spent_ns = time.thread_time_ns()
        self._follow_spaces()
        chosen = armed.chosen or self._choose(armed.look)
        if len(chosen.flat) == 0:
            return chosen
        self._walks += 1
        start_ns = self._start_ns
        count = len(chosen.flat)
        bits = np.zeros((count, GRANULE_BLOCKS), np.uint8)
        ok = np.zeros(count, np.bool_)
        stuck = np.zeros((count, GRANULE_BLOCKS), np.uint8)
        interval_ns = np.zeros(count, np.int64)
        for pid in np.unique(chosen.pid).tolist():
            self._walk_process(pid, chosen, bits, ok, stuck, interval_ns)
        spent_ns = time.thread_time_ns() - spent_ns
        self._cost_ns += spent_ns
        seen = self._columns(chosen, bits, ok, stuck, interval_ns, opening)
        touched = int(np.bitwise_count(seen.bits).sum())
        self._learn_cost(spent_ns / count, touched * SET_BIT_NS / count)
        batch = HintBatch(
            self._reader.name,
            start_ns,
            self._now_ns(),
            seen,
            lost=int((~ok).sum()) * GRANULE,
            application_ns=touched * SET_BIT_NS,
            background_ns=float(spent_ns),
            capability=self.capability,
        )
        self._done.append(batch)
        return chosen

    def _learn_cost(self, granule_ns: float, target_ns: float) -> None:
        gain = COST_GAIN if self._granule_ns > 0 else 1.0
        self._granule_ns += gain * (granule_ns - self._granule_ns)
        self._granule_target_ns += gain * (target_ns - self._granule_target_ns)

    def _walk_process(
        self,
        pid: int,
        chosen: _Chosen,
        bits: NDArray[np.uint8],
        ok: NDArray[np.bool_],
        stuck: NDArray[np.uint8],
        interval_ns: NDArray[np.int64],
    ) -> None:
        mapped = self._spaces.ranges(pid)
        pages = int((mapped[:, 1] - mapped[:, 0]).sum())
        rows = np.flatnonzero(chosen.pid == pid)
        rows = rows[np.argsort(chosen.virtual[rows], kind="stable")]
        whole = self._reader.clears_all(pid, pages)
        pieces = [rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE)]
        for row in pieces:
            virtual: Granules = chosen.virtual[row]
            bits[row], ok[row] = self._reader.read(pid, virtual)
            self._note_times(pid, chosen, row, interval_ns)
            if not whole:
                held = self._reader.clear(pid, virtual, mapped)
                if held is not None:
                    stuck[row] = held
                self._cleared[chosen.flat[row[ok[row]]]] = self._now_ns()
        if whole and len(rows):
            self._reader.clear(pid, chosen.virtual[rows[:1]], mapped)
            self._cleared[chosen.flat[rows[ok[rows]]]] = self._now_ns()

    def _note_times(
        self,
        pid: int,
        chosen: _Chosen,
        row: NDArray[np.int64],
        interval_ns: NDArray[np.int64],
    ) -> None:
        """Work out since when bits gather; a new owner's gather since never."""
        flat, virtual = chosen.flat[row], chosen.virtual[row]
        same = (self._owner[flat] == pid) & (self._virtual[flat] == virtual)
        cleared = np.where(same, self._cleared[flat], 0)
        gathered = np.maximum(self._now_ns() - cleared, 1)
        interval_ns[row] = np.where(cleared > 0, gathered, 0)
        self._owner[flat], self._virtual[flat] = pid, virtual
        self._cleared[flat] = cleared

    def _is_mapped(self, block: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether a managed page is in each block."""
        first = block * BLOCK_PAGES
        after = np.searchsorted(self._base, first + BLOCK_PAGES)
        mapped = (after > 0) & (self._end[np.maximum(after - 1, 0)] > first)
        return np.asarray(mapped, np.bool_)

    def _columns(
        self,
        chosen: _Chosen,
        bits: NDArray[np.uint8],
        ok: NDArray[np.bool_],
        stuck: NDArray[np.uint8],
        interval_ns: NDArray[np.int64],
        opening: bool,
    ) -> AccessedBits:
        block = chosen.flat[:, None] * GRANULE_BLOCKS + np.arange(GRANULE_BLOCKS)
        keep = self._is_mapped(block) & ok[:, None]
        seconds = np.repeat(interval_ns / NS_PER_S, GRANULE_BLOCKS)
        observed = None
        if stuck.any():
            observed = ~stuck[keep]
            bits = bits & ~stuck
        return AccessedBits(
            block[keep].astype(np.uint32),
            bits[keep],
            seconds.reshape(block.shape)[keep].astype(np.float32),
            observed,
            opening,
        )
