"""CSV and Parquet with named columns."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import TraceFormatError
from isotherm.core.units import NS_PER_S
from isotherm.trace.arrow import import_arrow, render_reason
from isotherm.trace.importers.rows import MAX_NS, ImportOptions, Rows, check_times
from isotherm.trace.reader import ColumnarFile
from isotherm.trace.source import MAX_LINE_BYTES, ByteSource

_BLOCK_BYTES = 4 << 20
_BATCH_ROWS = 1 << 20
#: The columns that are read; others are passed over.
NAMES = ("page", "address", "time_ns", "write", "count", "initiator")
_EXPECTED = "a column page or address; optional: time_ns, write, count, initiator"
_TYPES: dict[str, type[np.generic]] = {
    "page": np.uint64,
    "address": np.uint64,
    "time_ns": np.int64,
    "write": np.uint8,
    "count": np.uint32,
    "initiator": np.uint8,
}


class _File:
    """What pyarrow reads from: ``read`` is all that it calls."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        return self._source.read(_BLOCK_BYTES if size < 0 else size)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def csv_batches(
    source: ByteSource,
    names: Sequence[str],
    wanted: Sequence[str],
    *,
    headerless: bool = False,
) -> Iterator[Any]:
    """Yield the wanted columns as Arrow record batches, in strings.

    Args:
        source: CSV, comma-separated; the header, if there is one, comes first.
        names: All columns, as the caller read them off the header.
        wanted: Those to hand on.
        headerless: The first line is data.

    Raises:
        TraceFormatError: A row has more or fewer fields than the first.
    """
    pa, _ = import_arrow()
    import pyarrow.csv as pv  # noqa: PLC0415  # heavy, only here

    with _errors(source):
        reader = pv.open_csv(
            _File(source),
            read_options=pv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=list(names),
                skip_rows=0 if headerless else 1,
            ),
            convert_options=pv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=list(wanted),
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )
    while True:
        with _errors(source):
            batch = next(reader, None)
        if batch is None:
            return
        if batch.num_rows:
            yield batch


@contextmanager
def _errors(source: ByteSource) -> Iterator[None]:
    pa, _ = import_arrow()
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = render_reason(error).replace("Row #", "line ")
        raise TraceFormatError(
            f"{source.path}: {reason}",
            hint="the format is described in docs/reference/traces.md",
        ) from error


def row_of(number: int) -> str:
    """Return words for a row, counted from 1."""
    return f"row {number}"


def line_of(source: ByteSource) -> Callable[[int], str]:
    """Return what gives words for a row of a CSV file: the line that it is on.

    Blank lines are no rows. A file is read again to find the line, so ask once; of
    what cannot be read again (a pipe) the row is named.
    """

    def words(number: int) -> str:
        if not source.path.is_file():
            return row_of(number)
        rows = 0
        with ByteSource(source.path) as again:
            for block in again.blocks():
                for index, text in enumerate(block.text.split(b"\n")):
                    rows += text not in (b"", b"\r")
                    if rows == number:
                        return f"line {block.line + index}"
        return row_of(number)

    return words


def integers(
    source: ByteSource,
    name: str,
    column: Any,
    dtype: type[np.generic],
    row: int = 0,
    place: Callable[[int], str] = row_of,
) -> NDArray[Any]:
    """Return a column of strings or whole numbers as integers of ``dtype``.

    ``time_ns`` may be of a type of times or durations in any unit, ``write`` of
    booleans.

    Args:
        source: For the message of an error.
        name: The column's.
        column: Arrow array.
        dtype: Type wanted; a value that it cannot hold is an error.
        row: Rows before this column's first.
        place: Words for a row, counted from 1.

    Raises:
        TraceFormatError: A value is missing, no integer, or out of range, or the
            column is of a type that holds something else.
    """
    pa, _ = import_arrow()
    kind = pa.from_numpy_dtype(dtype)
    if column.null_count:
        at = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise source.fail(f"{place(row + at + 1)}: {name}", "nothing", _wanted(dtype))
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    with _errors(source):
        column = _numbers(source, name, column)
    try:
        return np.array(column.cast(kind).to_numpy(zero_copy_only=False), dtype)
    except pa.ArrowException as error:
        at, found = _first_bad(column, kind)
        raise source.fail(
            f"{place(row + at + 1)}: {name}", found, _wanted(dtype)
        ) from error


def _numbers(source: ByteSource, name: str, column: Any) -> Any:
    """Return a column that may be cast to integers; times are in nanoseconds.

    Raises:
        TraceFormatError: It is of a type that holds something else.
        pyarrow.ArrowException: A time is beyond what nanoseconds hold.
    """
    pa, _ = import_arrow()
    kind, types = column.type, pa.types
    if name == "time_ns" and types.is_timestamp(kind):
        return column.cast(pa.timestamp("ns", kind.tz)).cast(pa.int64())
    if name == "time_ns" and types.is_duration(kind):
        return column.cast(pa.duration("ns")).cast(pa.int64())
    if types.is_boolean(kind) and name == "write":
        return column
    strings = types.is_string(kind) or types.is_large_string(kind)
    if not (strings or types.is_integer(kind) or types.is_floating(kind)):
        expected = "whole numbers"
        if name == "time_ns":
            expected += " of nanoseconds, times or durations"
        raise source.fail(f"column {name}", f"values of type {kind}", expected)
    return column


def _wanted(dtype: Any) -> str:
    """Return what a column's values may be, in words."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if low == 0 and high < 1 << 32:
        return f"an integer from 0 to {high}"
    return "an integer >= 0" if low == 0 else "an integer"


def _first_bad(column: Any, kind: Any) -> tuple[int, str]:
    """Return the first value that cannot be cast, by bisection over prefixes."""
    pa, _ = import_arrow()
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            column.slice(low, middle - low).cast(kind)
        except pa.ArrowException:
            high = middle
        else:
            low = middle
    return low, repr(column[low].as_py())


def seconds_to_ns(source: ByteSource, name: str, column: Any) -> NDArray[np.int64]:
    """Return a column of seconds, whole or fractional, as nanoseconds.

    Raises:
        TraceFormatError: A value is missing, no number, negative or beyond 2^63 ns.
    """
    pa, _ = import_arrow()
    if column.null_count:
        raise source.fail(name, "nothing", "seconds")
    try:
        seconds = np.asarray(column.cast(pa.float64()), np.float64)
    except pa.ArrowException as error:
        raise source.fail(name, render_reason(error), "seconds") from error
    # Not (a <= b): a NaN must fail.
    if not np.all((seconds >= 0) & (seconds < MAX_NS / NS_PER_S / 2)):
        raise source.fail(name, "a time out of range", "seconds from 0 to 4.6e9")
    whole = np.floor(seconds)
    part = np.rint((seconds - whole) * NS_PER_S)
    return whole.astype(np.int64) * NS_PER_S + part.astype(np.int64)


def read_csv(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield the accesses of a CSV file whose header names the columns.

    Integers may be hexadecimal with 0x; ``write`` may be true or false.

    Raises:
        TraceFormatError: No page column, a wrong value, a time that goes back.
    """
    header = source.peek(MAX_LINE_BYTES >> 10).split(b"\n", 1)[0]
    names = [
        name.strip().strip('"').strip().lower()
        for name in header.decode("utf-8-sig", "replace").split(",")
    ]
    wanted = _choose(source, names)
    batches = (
        {name: batch.column(name) for name in wanted}
        for batch in csv_batches(source, names, wanted)
    )
    yield from _rows(source, batches, options, 1, line_of(source))


def read_parquet(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield the accesses of a Parquet or Arrow IPC file with named columns.

    Raises:
        TraceFormatError: No page column, a wrong value, a time that goes back,
            or the file is compressed as a whole.
    """
    if source.compression is not None:
        raise source.fail(
            "byte 0", f"{source.compression} data", "a bare Parquet or Arrow file"
        )
    file = ColumnarFile(source.path)
    if file.document is not None:
        raise TraceFormatError(
            f"{source.path}: is an isotherm trace, expected another tool's file",
            hint=f"isotherm trace info {source.path}",
        )
    wanted = _choose(source, list(file.columns))
    yield from _rows(source, file.batches(wanted, _BATCH_ROWS), options)


def _choose(source: ByteSource, names: Sequence[str]) -> list[str]:
    wanted = [name for name in NAMES if name in names]
    duplicate = next((name for name in wanted if names.count(name) > 1), None)
    if duplicate is not None:
        raise source.fail("columns", f"{duplicate} twice", "each column once")
    if ("page" in wanted) == ("address" in wanted):
        raise source.fail("columns", ", ".join(names), _EXPECTED)
    return wanted


def _rows(
    source: ByteSource,
    batches: Iterator[dict[str, Any]],
    options: ImportOptions,
    first_row: int = 0,
    place: Callable[[int], str] = row_of,
) -> Iterator[Rows]:
    pa, _ = import_arrow()
    row, last_ns = first_row, 0
    for batch in batches:
        columns: dict[str, NDArray[Any]] = {}
        for name, column in batch.items():
            typed = column
            if name == "write" and pa.types.is_string(column.type):
                typed = _flags(column)
            columns[name] = integers(source, name, typed, _TYPES[name], row, place)
        page = columns.pop("page", None)
        if page is None:
            page = columns.pop("address") >> options.shift
        if not len(page):
            continue
        if "count" in columns and not columns["count"].all():
            at = row + int(np.argmin(columns["count"])) + 1
            raise source.fail(f"{place(at)}: count", 0, "at least 1")
        if "write" in columns and columns["write"].max() > 1:
            at = row + int(np.argmax(columns["write"] > 1)) + 1
            found = int(columns["write"].max())
            raise source.fail(f"{place(at)}: write", found, "0 or 1")
        if "time_ns" in columns:
            times = columns["time_ns"]
            last_ns = check_times(source, times, last_ns, place, row + 1)
        yield Rows(page, **columns)
        row += len(page)


def _flags(column: Any) -> Any:
    """Return true and false as 1 and 0, other strings as they are."""
    import pyarrow.compute as pc  # noqa: PLC0415  # heavy, only here

    lower = pc.utf8_lower(column)
    return pc.case_when(
        pc.make_struct(pc.equal(lower, "true"), pc.equal(lower, "false")),
        "1",
        "0",
        column,
    )
