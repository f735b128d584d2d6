"""The trace file: Parquet, one row an access (or a run of equal ones).

Columns: ``page`` (uint32, dense, first-seen order), optionally ``write``,
``initiator``, ``time_ns`` and ``count``, and ``raw_page``: the source's page
number on the row that shows a page first, null elsewhere. So the mapping is
written as the trace streams by and needs no second file. Metadata:
:mod:`isotherm.trace.info`. The schema is set out in docs/reference/traces.md.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isotherm.core.errors import IsothermError
from isotherm.core.files import file_error, output_file
from isotherm.trace.arrow import COLUMNS, import_arrow, render_reason
from isotherm.trace.info import METADATA_KEY, Metadata, Provenance, TraceInfo
from isotherm.trace.pages import PageIndex
from isotherm.trace.reader import TraceReader

__all__ = ["Provenance", "TraceInfo", "TraceReader", "TraceWriter"]

#: Rows of a row group: 26 bytes a row at most, so 26 MiB of buffer.
GROUP_ROWS = 1 << 20
#: What LZ4 would leave much larger for little.
_QUICK = {"time_ns": "zstd", "raw_page": "zstd"}


class TraceWriter:
    """Writes a trace in bounded memory; the file appears when all is well.

    Use it as a context manager. Rows go to a temporary file beside the target,
    which takes the target's name on success and vanishes on any error.

    Args:
        path: The target, replaced if it exists.
        provenance: Where the accesses come from.
        level: zstd level of all columns, 1 to 22, for a small file. None: LZ4, but
            for the times and page numbers of the source, which are written as
            differences: larger, and quicker to decode (docs/reference/traces.md).

    Raises:
        UsageError: The target's folder does not exist, or the target is a folder,
            a device or another thing that is no file. Links are followed.
        NotPermittedError: The folder may not be written to.
    """

    def __init__(
        self, path: Path, provenance: Provenance, *, level: int | None = None
    ) -> None:
        self._path = Path(path)
        self._provenance = provenance
        self._level = level
        self._index = PageIndex()
        self._page = np.empty(GROUP_ROWS, np.uint32)
        self._raw = np.empty(GROUP_ROWS, np.uint64)
        self._fresh = np.empty(GROUP_ROWS, np.uint8)
        self._columns: dict[str, NDArray[Any]] | None = None
        self._fill = 0
        self._rows = 0
        self._accesses = 0
        self._writes = 0
        self._last_ns = 0
        self._writer: Any = None
        self._file: Any = None
        self._done = False
        self._target = self._temporary = self._path

    @property
    def pages(self) -> int:
        """Distinct pages so far."""
        return len(self._index)

    @property
    def accesses(self) -> int:
        """Accesses so far, counts expanded."""
        return self._accesses

    def __enter__(self) -> Self:
        self._target = output_file(self._path)
        self._temporary = self._target.with_name(
            f".{self._target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        )
        try:
            self._file = self._temporary.open("wb")
        except OSError as error:
            raise file_error(self._path, error, "cannot write") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._abandon()

    def append(
        self,
        page: ArrayLike,
        *,
        write: ArrayLike | None = None,
        initiator: ArrayLike | None = None,
        time_ns: ArrayLike | None = None,
        count: ArrayLike | None = None,
    ) -> None:
        """Append accesses in order, as columns of equal length.

        Args:
            page: Raw page numbers, uint64.
            write: 1 for a write, 0 for a read.
            initiator: Initiator index, 255 unknown.
            time_ns: Nanoseconds since the trace began, >= 0, non-decreasing.
            count: Accesses that the row stands for, >= 1.

        Raises:
            ValueError: Columns differ in length or from the columns of the first
                call, times decrease, a count is 0.
            TraceFormatError: More pages than the format can number.
            IsothermError: The disk is full or fails.
        """
        raw = np.ascontiguousarray(page, np.uint64)
        given = {
            name: np.ascontiguousarray(column, COLUMNS[name])
            for name, column in (
                ("write", write),
                ("initiator", initiator),
                ("time_ns", time_ns),
                ("count", count),
            )
            if column is not None
        }
        self._check(raw, given)
        if self._columns is None:
            self._columns = {
                name: np.empty(GROUP_ROWS, COLUMNS[name]) for name in given
            }
        start = 0
        while start < len(raw):
            stop = min(len(raw), start + GROUP_ROWS - self._fill)
            self._take(raw[start:stop], {k: v[start:stop] for k, v in given.items()})
            start = stop
            if self._fill == GROUP_ROWS:
                self._flush()

    def _check(self, raw: NDArray[np.uint64], given: dict[str, NDArray[Any]]) -> None:
        if self._file is None:
            raise ValueError("append: the writer is not open")
        if self._columns is not None and set(given) != set(self._columns):
            raise ValueError(
                f"append: expected columns {sorted(self._columns)}, got {sorted(given)}"
            )
        for name, column in given.items():
            if column.shape != raw.shape or raw.ndim != 1:
                raise ValueError(
                    f"append: {name} has shape {column.shape}, expected {raw.shape}"
                )
        if not len(raw):
            return
        if "time_ns" in given:
            times = given["time_ns"]
            if times[0] < self._last_ns or np.any(times[1:] < times[:-1]):
                raise ValueError("append: time_ns: expected >= 0 and non-decreasing")
            self._last_ns = int(times[-1])
        if "count" in given and not given["count"].all():
            raise ValueError("append: count: expected >= 1, got 0")

    def _take(self, raw: NDArray[np.uint64], given: dict[str, NDArray[Any]]) -> None:
        at = slice(self._fill, self._fill + len(raw))
        self._raw[at] = raw
        self._index.intern(raw, self._page[at], self._fresh[at])
        assert self._columns is not None  # noqa: S101  # set by append
        for name, column in given.items():
            self._columns[name][at] = column
        self._fill += len(raw)
        if "count" in given:
            self._accesses += int(given["count"].sum(dtype=np.uint64))
            if "write" in given:
                wrote = given["write"] != 0
                self._writes += int(given["count"][wrote].sum(dtype=np.uint64))
        else:
            self._accesses += len(raw)
            if "write" in given:
                self._writes += int(np.count_nonzero(given["write"]))

    def _open(self) -> None:
        pa, pq = import_arrow()
        names = [name for name in COLUMNS if name in (self._columns or {})]
        fields = [pa.field("page", pa.uint32(), nullable=False)]
        fields += [
            pa.field(name, pa.from_numpy_dtype(COLUMNS[name]), nullable=False)
            for name in names
        ]
        fields.append(pa.field("raw_page", pa.uint64(), nullable=True))
        # The high bytes of dense indices are alike: split, they take 10 to 80 % less.
        encoding = {"page": "BYTE_STREAM_SPLIT", "raw_page": "DELTA_BINARY_PACKED"}
        if "time_ns" in names:
            encoding["time_ns"] = "DELTA_BINARY_PACKED"
        codec: dict[str, Any] = {
            "compression": "zstd",
            "compression_level": self._level,
        }
        if self._level is None:
            codec = {"compression": {f.name: _QUICK.get(f.name, "lz4") for f in fields}}
        self._writer = pq.ParquetWriter(
            self._file,
            pa.schema(fields),
            version="2.6",
            **codec,
            use_dictionary=[n for n in names if n != "time_ns"],
            column_encoding=encoding,
            write_page_checksum=True,
        )

    def _flush(self) -> None:
        pa, _ = import_arrow()
        if self._writer is None:
            self._open()
        rows = slice(0, self._fill)
        columns = {"page": pa.array(self._page[rows])}
        for name in COLUMNS:
            if self._columns is not None and name in self._columns:
                columns[name] = pa.array(self._columns[name][rows])
        columns["raw_page"] = pa.array(
            self._raw[rows], pa.uint64(), mask=self._fresh[rows] == 0
        )
        table = pa.table(columns, schema=self._writer.schema)
        try:
            self._writer.write_table(table, row_group_size=GROUP_ROWS)
        except (OSError, pa.ArrowException) as error:
            raise IsothermError(f"{self._path}: {render_reason(error)}") from error
        self._rows += self._fill
        self._fill = 0

    def _finish(self) -> None:
        if self._fill or self._writer is None:
            self._flush()
        columns = self._columns or {}
        metadata = Metadata(
            self._provenance,
            pages=len(self._index),
            accesses=self._accesses,
            writes=self._writes if "write" in columns else None,
            duration_ns=self._last_ns if "time_ns" in columns else None,
        )
        self._writer.add_key_value_metadata({METADATA_KEY: metadata.encode()})
        try:
            self._writer.close()
            self._writer = None
            self._file.close()
            self._temporary.replace(self._target)
        except (OSError, import_arrow()[0].ArrowException) as error:
            raise IsothermError(f"{self._path}: {render_reason(error)}") from error

    def _abandon(self) -> None:
        """Close what is open and remove the temporary file, if it is still there."""
        if self._file is None:
            return
        # The disk that failed before fails again; the file goes anyway.
        failures = (OSError, import_arrow()[0].ArrowException)
        if self._writer is not None:
            with suppress(*failures):
                self._writer.close()
            self._writer.is_open = False  # or the collector tries again
        with suppress(*failures):
            self._file.close()
        self._writer = self._file = None
        self._temporary.unlink(missing_ok=True)
