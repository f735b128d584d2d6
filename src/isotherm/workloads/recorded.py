"""A recorded trace as a workload: cut into epochs, streamed from its file."""

import math
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import TraceFormatError, UsageError
from isotherm.core.files import file_error
from isotherm.core.names import without_endings
from isotherm.core.units import NS_PER_S
from isotherm.trace.format import TraceReader
from isotherm.trace.importing import import_trace
from isotherm.trace.info import TraceInfo
from isotherm.trace.reader import ColumnarFile, is_columnar
from isotherm.trace.source import Progress
from isotherm.trace.stream import AccessChunk, Pace

_EMPTY = AccessChunk(np.empty(0, np.uint32))
#: Epochs that may follow one another without an access: a trace of seconds
#: with one stray time would otherwise run for years.
MAX_IDLE_EPOCHS = 10_000_000
#: Accesses that are decoded at a time: fewer cost more each, more cost memory.
MIN_ROWS, MAX_ROWS = 1 << 20, 1 << 23


class ChunkSource(Protocol):
    """What accesses are read from, such as a ``TraceReader``."""

    @property
    def info(self) -> TraceInfo:
        """What the trace says about itself."""
        ...

    def chunks(
        self, rows: int = ..., ahead: int = 0, *, times: bool = True
    ) -> Iterator[AccessChunk]:
        """Yield the accesses in order, in chunks of any length.

        Args:
            rows: Accesses of a chunk at most.
            ahead: Accesses that are worth decoding before they are asked for.
            times: Whether ``time_ns`` is wanted.
        """
        ...


class RecordedWorkload:
    """A trace file as a stream of epochs.

    Each call of ``epochs`` reads the file again. One epoch is held in memory, and
    what is decoded for the next one meanwhile.

    Args:
        reader: The trace.
        name: Name for tables; the file's without its endings if None.
        window: Only the k-th of n equal parts, ``(k, n)``: of the time, or of the
            accesses where the trace has no times. The footprint stays the whole's.

    Raises:
        UsageError: Not 1 <= k <= n.
    """

    def __init__(
        self,
        reader: ChunkSource,
        name: str | None = None,
        window: tuple[int, int] = (1, 1),
    ) -> None:
        if not 1 <= window[0] <= window[1]:
            raise UsageError(
                f"window: expected K/N with 1 <= K <= N, got {window[0]}/{window[1]}"
            )
        self._reader = reader
        self._name = name or without_endings(Path(reader.info.path).name)
        self._window = window

    @property
    def name(self) -> str:
        """Name for tables."""
        return self._name

    @property
    def pages(self) -> int:
        """Footprint: distinct pages."""
        return self._reader.info.pages

    @property
    def info(self) -> TraceInfo:
        """What the trace says about itself."""
        return self._reader.info

    @property
    def reader(self) -> ChunkSource:
        """Where the accesses come from."""
        return self._reader

    def epochs(self, pace: Pace) -> Iterator[AccessChunk]:
        """Yield the accesses of one epoch after the other, to the trace's end.

        With a rate, epoch ``e`` holds ``floor(n (e+1)) - floor(n e)`` accesses,
        ``n = rate * pages * epoch seconds``, and carries no times. Without one,
        epoch ``e`` holds what happened in ``[e, e+1) * epoch_ns``, which may be
        nothing.

        Raises:
            UsageError: No rate was given and the trace has no times; a rate,
                length of an epoch or limit is not above 0.
            TraceFormatError: The file is damaged.
        """
        if pace.rate is not None and not 0 < pace.rate < math.inf:
            raise UsageError(f"rate: expected above 0, got {pace.rate}")
        if pace.epoch_ns < 1:
            raise UsageError(f"epoch: expected at least 1 ns, got {pace.epoch_ns}")
        if pace.accesses is not None and pace.accesses < 1:
            raise UsageError(f"accesses: expected at least 1, got {pace.accesses}")
        if pace.rate is None and "time_ns" not in self._reader.info.columns:
            raise UsageError(
                f"{self._reader.info.path}: has no times, expected a rate",
                hint="--rate 10",
            )
        accesses, duration_ns = (
            self._reader.info.accesses,
            self._reader.info.duration_ns,
        )
        if pace.rate is None:
            per_epoch = accesses * min(1.0, pace.epoch_ns / ((duration_ns or 0) + 1))
        else:
            per_epoch = pace.rate * self.pages * pace.epoch_ns / NS_PER_S
        # While an epoch is played the next two are decoded, if there are any: two, for
        # a thread does not always get its core at once.
        left = min(accesses, pace.accesses or accesses) - math.ceil(per_epoch)
        ahead = max(0, min(math.ceil(2 * per_epoch), left))
        times = pace.rate is None or self._window[1] > 1
        # Pieces of an epoch each need not be joined.
        rows = min(max(math.ceil(per_epoch), MIN_ROWS), MAX_ROWS)
        chunks = self._reader.chunks(rows, ahead, times=times)
        chunks = _limited(self._windowed(chunks), pace.accesses)
        if pace.rate is None:
            return _by_time(chunks, pace.epoch_ns)
        return _by_count(chunks, per_epoch, accesses)

    def _windowed(self, chunks: Iterator[AccessChunk]) -> Iterator[AccessChunk]:
        """Yield the accesses of one part of a trace, times counted from its start."""
        part, parts = self._window
        if parts == 1:
            yield from chunks
            return
        duration_ns, accesses = (
            self._reader.info.duration_ns,
            self._reader.info.accesses,
        )
        seen = 0
        for chunk in chunks:
            if chunk.time_ns is not None and duration_ns is not None:
                whole = duration_ns + 1
                begin_ns, end_ns = whole * (part - 1) // parts, whole * part // parts
                start, stop = np.searchsorted(
                    chunk.time_ns, [begin_ns, end_ns]
                ).tolist()
                done = stop < len(chunk)
                cut = chunk.slice(start, stop)
                if cut.time_ns is not None:
                    cut = replace(cut, time_ns=cut.time_ns - begin_ns)
            else:
                first, last = accesses * (part - 1) // parts, accesses * part // parts
                start = min(max(first - seen, 0), len(chunk))
                stop = min(max(last - seen, 0), len(chunk))
                seen += len(chunk)
                done = seen >= last
                cut = chunk.slice(start, stop)
            if len(cut):
                yield cut
            if done:
                return


def open_recorded(
    path: Path, progress: Progress | None = None, window: tuple[int, int] = (1, 1)
) -> RecordedWorkload:
    """Return a trace file, or another tool's trace, as a workload.

    A foreign file is imported into a temporary trace, which goes with the workload.

    Args:
        path: The file.
        progress: Told the bytes read of a foreign file, and its size.
        window: Only the k-th of n parts.

    Raises:
        UsageError: It does not exist or cannot be read.
        TraceFormatError: It is malformed or of no known format.
    """
    if _is_trace(path):
        return RecordedWorkload(TraceReader(path), window=window)
    folder = Path(tempfile.mkdtemp(prefix="isotherm-"))
    try:
        import_trace(path, folder / "trace.parquet", progress=progress)
        reader = TraceReader(folder / "trace.parquet")
        workload = RecordedWorkload(reader, without_endings(path.name), window)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(workload, shutil.rmtree, folder, ignore_errors=True)
    return workload


def _is_trace(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise file_error(path, error, "expected a trace") from error
    if not is_columnar(head):
        return False
    return ColumnarFile(path).document is not None


def parse_window(text: str) -> tuple[int, int]:
    """Return ``(k, n)`` of ``k/n``.

    Raises:
        UsageError: Not two whole numbers.

    >>> parse_window("2/4")
    (2, 4)
    """
    try:
        part, parts = text.split("/")
        return int(part), int(parts)
    except ValueError:
        raise UsageError(f"window: expected K/N, such as 2/4, got {text!r}") from None


def _limited(chunks: Iterator[AccessChunk], limit: int | None) -> Iterator[AccessChunk]:
    left = limit
    for chunk in chunks:
        if left is None:
            yield chunk
            continue
        yield chunk.slice(0, min(left, len(chunk)))
        left -= len(chunk)
        if left <= 0:
            return


def _by_count(
    chunks: Iterator[AccessChunk], per_epoch: float, accesses: int
) -> Iterator[AccessChunk]:
    """Yield epochs of a fixed number of accesses, the last one possibly fewer.

    Pieces are let go as soon as they are copied, and nothing of an epoch is kept once
    the next one is asked for: a large epoch is in memory once.
    """
    epoch = 0
    filling = _Filling(math.floor(per_epoch), accesses)
    for chunk in chunks:
        start = 0
        while start < len(chunk):
            start += filling.add(chunk, start)
            if filling.full:
                yield filling.take()
                epoch += 1
                begin, end = per_epoch * epoch, per_epoch * (epoch + 1)
                filling = _Filling(math.floor(end) - math.floor(begin), accesses)
    if filling.have:
        yield filling.take()


class _Filling:
    """An epoch in the making.

    Args:
        want: Its accesses.
        most: No more are expected, whatever is wanted.
    """

    def __init__(self, want: int, most: int) -> None:
        self._want = want
        self._room = min(want, most)
        self._only: AccessChunk | None = None  # its first piece, not copied yet
        self._columns: dict[str, NDArray[Any]] = {}
        self.have = 0

    @property
    def full(self) -> bool:
        """Whether it has all its accesses."""
        return self.have == self._want

    def add(self, chunk: AccessChunk, start: int) -> int:
        """Take what is wanted of a chunk, from ``start`` on; return how many."""
        stop = min(len(chunk), start + self._want - self.have)
        part = replace(chunk.slice(start, stop), time_ns=None)
        if self._only is not None:
            self._copy(self._only, 0)
            self._only = None
        if self.have:
            self._copy(part, self.have)
        elif len(part):
            self._only = part
        self.have += len(part)
        return stop - start

    def take(self) -> AccessChunk:
        """Return it; it is not kept."""
        if not self.have:
            return _EMPTY
        whole = self._only or AccessChunk(
            **{name: column[: self.have] for name, column in self._columns.items()}
        )
        self._only, self._columns = None, {}
        return whole

    def _copy(self, part: AccessChunk, at: int) -> None:
        if at + len(part) > self._room:  # the trace is longer than it says
            self._room = min(self._want, 2 * (at + len(part)))
            for name, column in self._columns.items():
                self._columns[name] = np.resize(column, self._room)
        for name in ("page", "write", "initiator"):
            column = getattr(part, name)
            if column is None:
                continue
            if name not in self._columns:
                self._columns[name] = np.empty(self._room, column.dtype)
            self._columns[name][at : at + len(part)] = column


def _by_time(chunks: Iterator[AccessChunk], epoch_ns: int) -> Iterator[AccessChunk]:
    """Yield epochs of a fixed length, up to that of the last access."""
    parts: list[AccessChunk] = []
    end, idle, seen = epoch_ns, 0, False
    for chunk in chunks:
        times = chunk.time_ns
        if times is None:
            raise TraceFormatError("trace: a chunk without times, expected time_ns")
        start = 0
        while start < len(chunk):
            stop = int(np.searchsorted(times, end, side="left"))
            if stop > start:
                parts.append(chunk.slice(start, stop))
                start, seen = stop, True
            if start < len(chunk):
                idle = 0 if parts else idle + 1
                if idle > MAX_IDLE_EPOCHS:
                    raise UsageError(
                        f"trace: more than {MAX_IDLE_EPOCHS} epochs in a row without "
                        "an access, expected a longer epoch",
                        hint="--rate 10",
                    )
                yield _joined(parts)
                parts, end = [], end + epoch_ns
    if parts or not seen:
        yield _joined(parts)


def _joined(parts: list[AccessChunk]) -> AccessChunk:
    """Return one chunk; views where there is but one part."""
    if not parts:
        return _EMPTY

    def join(name: str) -> Any:  # a column, or None where the trace lacks it
        columns = [getattr(part, name) for part in parts]
        return columns[0] if len(parts) == 1 else np.concatenate(columns)

    first = parts[0]
    return AccessChunk(
        join("page"),
        None if first.write is None else join("write"),
        None if first.initiator is None else join("initiator"),
        join("time_ns"),
    )
