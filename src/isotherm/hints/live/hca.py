"""Power10's hot-cold affinity tables: the nest counts, eight bytes a page.

The nest unit counts every access of a stretch of physical memory that goes past the
caches, and keeps an entry a page in memory of its own (`isotherm.records.hca`). The
driver, on PowerNV only and not in mainline, shows control files and tables under
debugfs. We read the entries of pages that are ours, and take the difference to the
last time.
"""

import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core.availability import Availability
from isotherm.core.clock import Clock
from isotherm.core.errors import NotPermittedError, UnsupportedError
from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import HintBatch, LiveMechanism, Look, RangeCounts
from isotherm.hints.capability import Capability
from isotherm.hints.live.frame_map import NO_FRAME, FrameMap
from isotherm.machine.linux.spaces import SpaceMap
from isotherm.records.hca import ENTRY_BYTES, HotCold, decode_hca, looks_right

NAME: Final = "hca"
FOLDER: Final = Path("sys/kernel/debug/powerpc/hca")
#: Of sampling-mode: accesses for each that is counted; 3 adapts, and nobody knows.
_SCALES: Final = {0: 1, 1: 16, 2: 32}
#: Entries are read in pieces of so many: 32 KiB.
_PIECE: Final = 4096
#: Pages of the frame map read anew at every drain.
_REFRESH_PAGES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Engine:
    """One counting engine.

    Attributes:
        folder: Its control files.
        base: First byte of physical memory that it watches.
        size: How many bytes.
        entries: Entries of its table.
    """

    folder: Path
    base: int
    size: int
    entries: int


def find_engines(root: Path = Path("/")) -> tuple[list[Engine], str]:
    """Return the engines that count now, and why there are no more.

    Raises:
        NotPermittedError: debugfs may not be read.
    """
    top = root / FOLDER
    try:
        names = sorted(os.listdir(top))  # noqa: PTH208  # names only
    except PermissionError as error:
        raise NotPermittedError(f"/{FOLDER}: EACCES", hint="run as root") from error
    except OSError:
        return [], f"/{FOLDER}: not there: no Power10 hot-cold counters"
    engines, why = [], f"/{FOLDER}: no engine counts"
    for name in names:
        folder = top / name
        if not name.startswith("engine") or not _number(folder / "enable"):
            continue
        base, size = _number(folder / "monitor-base"), _number(folder / "monitor-size")
        table = _number(folder / "counter-size")
        if base is None or not size or not table:
            why = f"/{FOLDER}/{name}: monitor-base, -size or counter-size: no number"
            continue
        engines.append(Engine(folder, base, size, table // ENTRY_BYTES))
    return engines, why


class HcaSource:
    """Counts of the pages that the counting engines watch.

    Args:
        spaces: Which flat page is whose.
        clock: The machine's.
        frames: Which flat page is on which frame.
        page_bytes: Bytes of memory an entry stands for; None: an engine's memory
            over its entries.
        budget: CPU time that reading may take, of one CPU; after each reading it
            rests as long as that takes.
        sockets: Of the machine, to tell a table that is read the wrong way round.
        big_endian: Order of an entry's bytes.
        upper_first: Order of an entry's fields.
        root: Root of the host's files.
    """

    mechanism: Final = LiveMechanism.COUNTER_TABLE
    capability: Final = Capability(unit_pages=0, post_cache=True, sees_prefetch=True)

    def __init__(
        self,
        spaces: SpaceMap,
        clock: Clock,
        frames: FrameMap,
        *,
        page_bytes: int | None = None,
        budget: float = 0.02,
        sockets: int = 16,
        big_endian: bool = True,
        upper_first: bool = True,
        root: Path = Path("/"),
    ) -> None:
        self._spaces = spaces
        self._clock = clock
        self._frames = frames
        self._page_bytes = page_bytes
        self._budget = budget
        self._sockets = sockets
        self._order = (big_endian, upper_first)
        self._root = root
        self._engines: list[tuple[Engine, int]] = []
        self._scale = 1
        self._before: dict[Path, tuple[NDArray[np.int64], HotCold, int]] = {}
        self._start_ns = self._rest_until_ns = 0
        #: Flat pages on memory that no engine watches, at the last reading.
        self.unwatched = 0

    @staticmethod
    def probe(root: Path = Path("/")) -> Availability:
        """Say whether an engine counts here, and its table may be read."""
        try:
            engines, why = find_engines(root)
        except NotPermittedError as error:
            return Availability(NAME, "source", False, error.message, error.hint)
        if engines:
            ranges = (f"{e.folder.name}: {e.size >> 30} GiB" for e in engines)
            return Availability(NAME, "source", True, ", ".join(ranges))
        command = None
        if (root / FOLDER).is_dir():
            command = f"echo 1 > /{FOLDER}/engine0/enable"
        return Availability(NAME, "source", False, why, command)

    @property
    def frames(self) -> FrameMap:
        """The map of frames."""
        return self._frames

    def open(self) -> None:
        """Find the engines and open their tables.

        Raises:
            UnsupportedError: None counts, or its counts cannot be scaled.
            NotPermittedError: debugfs may not be read.
        """
        engines, why = find_engines(self._root)
        if not engines:
            raise UnsupportedError(why, hint=self.probe(self._root).command)
        mode = _number(self._root / FOLDER / "sampling-mode") or 0
        if mode not in _SCALES:
            raise UnsupportedError(
                f"/{FOLDER}/sampling-mode: {mode}: what share is counted changes",
                hint=f"echo 0 > /{FOLDER}/sampling-mode",
            )
        self._scale = _SCALES[mode]
        try:
            for engine in engines:
                fd = os.open(engine.folder / "counter-data", os.O_RDONLY | os.O_CLOEXEC)
                self._engines.append((engine, fd))
        except OSError as error:
            self.close()
            raise NotPermittedError(
                f"{error.filename}: {error.strerror}", hint="run as root"
            ) from error
        self._start_ns = self._clock.now_ns()

    def close(self) -> None:
        """Close the tables; may be called again."""
        for _, fd in self._engines:
            os.close(fd)
        self._engines = []
        self._before = {}

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self, looks: tuple[Look, ...]) -> None:
        """Do nothing: the engines count everything that they watch."""

    def drain(self) -> tuple[HintBatch, ...]:
        """Return what was counted since the last reading; none while it rests."""
        if not self._engines or self._clock.now_ns() < self._rest_until_ns:
            return ()
        began = time.thread_time_ns()
        self._frames.refresh(_REFRESH_PAGES)
        frame = self._frames.frames(0, self._spaces.pages).astype(np.int64)
        page = np.flatnonzero(frame != NO_FRAME)
        address = frame[page] * mmap.PAGESIZE
        batches, left = [], len(page)
        for engine, fd in self._engines:
            inside = (address >= engine.base) & (address < engine.base + engine.size)
            left -= int(inside.sum())
            batch = self._read(engine, fd, page[inside], address[inside])
            if batch is not None:
                batches.append(batch)
        self.unwatched = left
        spent_ns = time.thread_time_ns() - began
        now_ns = self._clock.now_ns()
        self._rest_until_ns = now_ns + int(spent_ns / self._budget)
        start_ns, self._start_ns = self._start_ns, now_ns
        return tuple(
            HintBatch(
                NAME,
                start_ns,
                now_ns,
                seen,
                lost=lost,
                background_ns=spent_ns / len(batches),
                capability=self.capability,
            )
            for seen, lost in batches
        )

    def _read(
        self,
        engine: Engine,
        fd: int,
        page: NDArray[np.int64],
        address: NDArray[np.int64],
    ) -> tuple[RangeCounts, int] | None:
        """Return what an engine counted of flat pages since the last reading."""
        each = self._page_bytes or max(1, engine.size // engine.entries)
        index = (address - engine.base) // each
        unit = np.unique(index)
        unit = unit[unit < engine.entries]
        table, there = self._entries(fd, unit)
        now_ns = self._clock.now_ns()
        before = self._before.get(engine.folder)
        self._before[engine.folder] = (unit[there], table, now_ns)
        lost = int(len(unit) - there.sum())
        if not looks_right(table, self._sockets):
            raise UnsupportedError(
                f"{engine.folder}/counter-data: sockets that there are not: "
                "its entries are not as they are read"
            )
        if before is None:
            return None
        count = _difference(unit[there], table, before[0], before[1])
        exposure_s = (now_ns - before[2]) / NS_PER_S
        return self._ranges(page, index, unit[there], count, exposure_s), lost

    def _entries(
        self, fd: int, unit: NDArray[np.int64]
    ) -> tuple[HotCold, NDArray[np.bool_]]:
        """Return the entries of units, and which could be read."""
        there = np.ones(len(unit), np.bool_)
        raw = np.zeros(len(unit), np.uint64)
        for piece in np.unique(unit // _PIECE).tolist():
            rows = np.flatnonzero(unit // _PIECE == piece)
            first = piece * _PIECE
            try:
                data = os.pread(fd, _PIECE * ENTRY_BYTES, first * ENTRY_BYTES)
            except OSError:
                data = b""
            whole = len(data) // ENTRY_BYTES
            words = np.frombuffer(data[: whole * ENTRY_BYTES], np.uint64)
            known = unit[rows] - first < whole
            there[rows] = known
            raw[rows[known]] = words[unit[rows[known]] - first]
        big, upper = self._order
        data = raw[there].tobytes()
        return decode_hca(data, big_endian=big, upper_first=upper), there

    def _ranges(
        self,
        page: NDArray[np.int64],
        index: NDArray[np.int64],
        unit: NDArray[np.int64],
        count: NDArray[np.float64],
        exposure_s: float,
    ) -> RangeCounts:
        """Return counts by runs of flat pages that are on one unit.

        A unit's count is shared among the runs on it by their pages.
        """
        at = np.searchsorted(unit, index)
        at[at == len(unit)] = 0
        known = (unit[at] == index) & np.isfinite(count[at]) if len(unit) else at < 0
        page, at = page[known], at[known]
        first = np.ones(len(page), np.bool_)
        first[1:] = (page[1:] != page[:-1] + 1) | (at[1:] != at[:-1])
        begin = np.flatnonzero(first)
        length = np.diff(np.append(begin, len(page)))
        ours = np.bincount(at, minlength=max(1, len(unit)))
        share = count[at[begin]] * self._scale * length / np.maximum(ours[at[begin]], 1)
        gap = np.ones(len(page), np.bool_)
        gap[1:] = page[1:] != page[:-1] + 1
        low = np.flatnonzero(gap)
        high = np.append(low[1:], len(page)) - 1 if len(low) else low
        return RangeCounts(
            page[begin].astype(np.uint32),
            (page[begin] + length).astype(np.uint32),
            share.astype(np.float32),
            np.full(len(begin), exposure_s, np.float32),
            np.column_stack([page[low], page[high] + 1]),
            share=1 / self._scale,
        )


def _difference(
    unit: NDArray[np.int64],
    table: HotCold,
    before: NDArray[np.int64],
    was: HotCold,
) -> NDArray[np.float64]:
    """Return the accesses since the last reading; NaN where that is not known.

    A count that went down began anew: what it holds came since then. An entry of
    another generation is of another period, and the one before has been moved to
    ``previous``. The generation is one bit: where it is the same and ``previous`` is
    not, two periods have passed or more, and what both counts hold came since then;
    it is a lower bound.
    """
    at = np.searchsorted(before, unit)
    at[at == len(before)] = 0
    known = before[at] == unit if len(before) else np.zeros(len(unit), np.bool_)
    new = np.full(len(unit), np.nan)
    rows, old = np.flatnonzero(known), at[known]
    same = table.generation[rows] == was.generation[old]
    fell = table.count[rows] < was.count[old]
    grown = table.count[rows] - was.count[old]
    over = table.count[rows] + np.maximum(table.previous[rows] - was.count[old], 0)
    again = same & (table.previous[rows] != was.previous[old])
    both = table.count[rows] + table.previous[rows]
    one = np.where(fell, table.count[rows], grown)
    new[rows] = np.select([again, same], [both, one], over)
    return new


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text().strip(), 0)
    except (OSError, ValueError):
        return None
