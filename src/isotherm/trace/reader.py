"""Reading a trace file in bounded memory: Parquet, Arrow IPC file or stream."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import (
    IsothermError,
    NotPermittedError,
    TraceFormatError,
    UsageError,
)
from isotherm.trace.ahead import read_ahead
from isotherm.trace.arrow import COLUMNS, import_arrow, render_reason
from isotherm.trace.info import METADATA_KEY, TraceInfo, parse_metadata
from isotherm.trace.stream import AccessChunk

#: Columns that are decoded ahead, at most: 32 Mi accesses that are pages alone.
AHEAD_BYTES: Final = 128 << 20

_PARQUET, _IPC_FILE, _IPC_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"


def is_columnar(head: bytes) -> bool:
    """Return whether a file that starts with ``head`` is Parquet or Arrow IPC."""
    return head.startswith((_PARQUET, _IPC_FILE, _IPC_STREAM))


class ColumnarFile:
    """A Parquet or Arrow IPC file: its metadata, and its columns batch by batch.

    Args:
        path: The file.

    Raises:
        TraceFormatError: It is neither, or damaged.
        UsageError: It does not exist or is a folder.
        NotPermittedError: It may not be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file_bytes = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(8)
        except PermissionError as error:
            raise NotPermittedError(f"{path}: {render_reason(error)}") from error
        except OSError as error:
            raise UsageError(f"{path}: {render_reason(error)}") from error
        if not is_columnar(head):
            raise TraceFormatError(
                f"{path}: starts with {head!r}, expected Parquet or Arrow IPC",
                hint=f"isotherm trace import {path} OUT.parquet",
            )
        self._parquet = head.startswith(_PARQUET)
        self._stream = head.startswith(_IPC_STREAM)
        with self._errors():
            self.columns, self.rows, self.document = self._probe()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        pa, _ = import_arrow()
        try:
            yield
        except IsothermError:
            raise
        except (
            pa.ArrowException,
            OSError,
            ValueError,
            TypeError,
            KeyError,
            NotImplementedError,
        ) as error:
            raise TraceFormatError(
                f"{self.path}: {render_reason(error)}, expected an undamaged file"
            ) from error

    def _open(self) -> Any:
        pa, pq = import_arrow()
        if self._parquet:
            return pq.ParquetFile(self.path, page_checksum_verification=True)
        source = pa.OSFile(str(self.path), "rb")
        return pa.ipc.open_stream(source) if self._stream else pa.ipc.open_file(source)

    def _probe(self) -> tuple[tuple[str, ...], int | None, bytes | None]:
        with self._open() as file:
            if self._parquet:
                found = file.metadata.metadata or {}
                names, rows = tuple(file.schema_arrow.names), file.metadata.num_rows
            else:
                found = file.schema.metadata or {}
                names, rows = tuple(file.schema.names), None
        return names, rows, found.get(METADATA_KEY)

    def batches(self, names: list[str], rows: int) -> Iterator[dict[str, Any]]:
        """Yield the named columns as Arrow arrays of at most ``rows`` rows.

        Raises:
            TraceFormatError: The file is damaged.
        """
        with self._errors(), self._open() as file:
            if self._parquet:
                for batch in file.iter_batches(batch_size=rows, columns=names):
                    yield {name: batch.column(name) for name in names}
                return
            batches = (
                file
                if self._stream
                else (file.get_batch(i) for i in range(file.num_record_batches))
            )
            for batch in batches:
                batch.validate(full=True)
                for start in range(0, batch.num_rows, rows):
                    part = batch.slice(start, rows)
                    yield {name: part.column(name) for name in names}


class TraceReader:
    """Reads a trace file in bounded memory.

    Args:
        path: A file written by ``TraceWriter``, or an Arrow IPC file or stream
            with the same columns and metadata.

    Raises:
        TraceFormatError: It is no trace, or a damaged one.
        UsageError: It does not exist or is a folder.
        NotPermittedError: It may not be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._file = ColumnarFile(self._path)
        metadata = parse_metadata(self._path, self._file.document)
        columns = self._file.columns
        if "page" not in columns:
            raise TraceFormatError(
                f"{path}: columns {', '.join(columns)}, expected a column page"
            )
        self._names = [name for name in COLUMNS if name in columns]
        self._pages = metadata.pages
        known = (
            (metadata.pages, metadata.accesses, metadata.writes, metadata.duration_ns)
            if metadata.pages is not None and metadata.accesses is not None
            else self._count()
        )
        self._pages = known[0]
        rows = self._file.rows if self._file.rows is not None else self._nr_rows()
        if known[0] > rows:
            raise TraceFormatError(
                f"{path}: {known[0]} pages in {rows} rows, expected no more than rows"
            )
        self._info = TraceInfo(
            path=str(path),
            file_bytes=self._file.file_bytes,
            pages=known[0],
            accesses=known[1],
            rows=rows,
            writes=known[2],
            duration_ns=known[3],
            columns=tuple(self._names),
            provenance=metadata.provenance,
        )

    @property
    def info(self) -> TraceInfo:
        """What the trace says about itself."""
        return self._info

    def chunks(
        self, rows: int = 1 << 20, ahead: int = 0, *, times: bool = True
    ) -> Iterator[AccessChunk]:
        """Yield the accesses in order, counts expanded, arrays owned by the caller.

        Args:
            rows: Accesses of a chunk at most; memory is about 40 bytes a row.
            ahead: Accesses that a thread decodes ahead, in whole chunks, of 128 MiB
                at most; 0: none, and no thread.
            times: Whether ``time_ns`` is wanted; else it is neither read nor checked.

        Raises:
            TraceFormatError: The file is damaged: a page beyond the footprint, a
                missing value, a time that goes back, a count of 0.
            ValueError: ``rows`` is below 1.
        """
        if rows < 1:
            raise ValueError(f"rows: expected >= 1, got {rows}")
        names = [name for name in self._names if times or name != "time_ns"]
        row_bytes = 4 + sum(np.dtype(COLUMNS[name]).itemsize for name in names)
        depth = min(-(-ahead // rows), AHEAD_BYTES // (rows * row_bytes))
        decoded = self._decoded(names, rows)
        if depth < 1 or self._info.accesses <= rows:
            yield from decoded
        else:
            yield from read_ahead(decoded, depth)

    def _decoded(self, names: list[str], rows: int) -> Iterator[AccessChunk]:
        for columns in self._rows(names, rows):
            count = columns.pop("count", None)
            if count is None:
                yield AccessChunk(**columns)
            else:
                yield from _expand(columns, count, rows)

    def raw_pages(self) -> NDArray[np.uint64] | None:
        """Return the source's page number of each page; None if it was not kept.

        Returns:
            uint64, shape (pages,).
        """
        if "raw_page" not in self._file.columns:
            return None
        mapping = np.zeros(self._info.pages, np.uint64)
        fill = 0
        for batch in self._file.batches(["raw_page"], 1 << 20):
            raw = self._numbers(batch["raw_page"].drop_null(), "raw_page", np.uint64)
            if fill + len(raw) > len(mapping):
                raise TraceFormatError(
                    f"{self._path}: raw_page: expected {len(mapping)} values, got more"
                )
            mapping[fill : fill + len(raw)] = raw
            fill += len(raw)
        if fill != len(mapping):
            raise TraceFormatError(
                f"{self._path}: raw_page: expected {len(mapping)} values, got {fill}"
            )
        return mapping

    def _numbers(self, array: Any, name: str, dtype: type[np.generic]) -> NDArray[Any]:
        pa, _ = import_arrow()
        if array.null_count:
            raise TraceFormatError(f"{self._path}: {name}: expected a value, got null")
        if not (pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
            raise TraceFormatError(
                f"{self._path}: {name}: expected an integer column, got {array.type}"
            )
        try:
            wanted = pa.from_numpy_dtype(dtype)
            typed = array if array.type == wanted else array.cast(wanted)
        except pa.ArrowException as error:
            raise TraceFormatError(
                f"{self._path}: {name}: {render_reason(error)}"
            ) from error
        buffer = typed.buffers()[1]
        if buffer is not None and buffer.is_mutable:  # made for this column alone
            start = typed.offset * np.dtype(dtype).itemsize
            return np.frombuffer(buffer, dtype, len(typed), start)
        return np.array(typed.to_numpy(zero_copy_only=False), dtype)

    def _rows(self, names: list[str], rows: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield checked columns, the page's and ``names``, counts not expanded."""
        start, last_ns = 0, 0
        for batch in self._file.batches(["page", *names], rows):
            columns = {"page": self._numbers(batch["page"], "page", np.uint32)}
            for name in names:
                columns[name] = self._numbers(batch[name], name, COLUMNS[name])
            page, times = columns["page"], columns.get("time_ns")
            if not len(page):
                continue
            if self._pages is not None and int(page.max()) >= self._pages:
                row = start + int(np.argmax(page >= self._pages))
                raise TraceFormatError(
                    f"{self._path}: row {row}: page {page[row - start]}, "
                    f"expected below {self._pages}"
                )
            if times is not None:
                if times[0] < last_ns or np.any(times[1:] < times[:-1]):
                    raise TraceFormatError(
                        f"{self._path}: rows {start} to {start + len(page)}: time_ns "
                        "goes back, expected >= 0 and non-decreasing"
                    )
                last_ns = int(times[-1])
            if "count" in columns and not columns["count"].all():
                row = start + int(np.argmin(columns["count"]))
                raise TraceFormatError(
                    f"{self._path}: row {row}: count 0, expected >= 1"
                )
            start += len(page)
            yield columns

    def _count(self) -> tuple[int, int, int | None, int | None]:
        """Return pages, accesses, writes and duration, by one pass over the file."""
        pages = accesses = writes = duration_ns = 0
        for columns in self._rows(self._names, 1 << 20):
            pages = max(pages, int(columns["page"].max()) + 1)
            count = columns.get("count", np.ones(1, np.uint32))
            count = np.broadcast_to(count, len(columns["page"]))
            accesses += int(count.sum(dtype=np.uint64))
            if "write" in columns:
                writes += int(count[columns["write"] != 0].sum(dtype=np.uint64))
            if "time_ns" in columns:
                duration_ns = int(columns["time_ns"][-1])
        return (
            pages,
            accesses,
            writes if "write" in self._names else None,
            duration_ns if "time_ns" in self._names else None,
        )

    def _nr_rows(self) -> int:
        return sum(len(b["page"]) for b in self._file.batches(["page"], 1 << 20))


def _expand(
    columns: dict[str, NDArray[Any]], count: NDArray[np.uint32], rows: int
) -> Iterator[AccessChunk]:
    """Yield each row ``count`` times, at most ``rows`` accesses at once."""
    ends = np.cumsum(count, dtype=np.int64)
    total = int(ends[-1])
    for start in range(0, total, rows):
        stop = min(start + rows, total)
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop - 1, side="right")) + 1
        times = count[first:last].astype(np.int64)
        times[0] = ends[first] - start
        times[-1] -= ends[last - 1] - stop
        part = {k: np.repeat(v[first:last], times) for k, v in columns.items()}
        yield AccessChunk(**part)
