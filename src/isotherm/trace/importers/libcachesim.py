"""libCacheSim: oracleGeneral records, and CSV of time, object, size."""

from collections.abc import Iterator

import numpy as np

from isotherm.core.errors import TraceFormatError
from isotherm.core.units import NS_PER_S
from isotherm.records.oracle_general import RECORD_BYTES, decode_records
from isotherm.trace.importers.rows import ImportOptions, Rows, check_times
from isotherm.trace.importers.tables import (
    csv_batches,
    integers,
    line_of,
    seconds_to_ns,
)
from isotherm.trace.source import ByteSource

_BLOCK_BYTES = RECORD_BYTES << 17

#: Names that tools give the columns, for files with a header.
_TIME = ("time", "timestamp", "clock_time", "real_time", "time_s")
_OBJECT = ("obj_id", "object", "object_id", "obj", "id", "key")
_HEADERLESS = ("time", "obj_id", "obj_size", "next_access_vtime")


def read_oracle_general(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield one reference for each record; an object is one page, whatever its size.

    Raises:
        TraceFormatError: The file ends within a record, or a time goes back.
    """
    offset, last_ns = 0, 0
    options.details["pages"] = "one for each object, sizes not used"
    while data := source.read(_BLOCK_BYTES):
        if len(data) % RECORD_BYTES:
            raise source.fail(
                f"byte {offset + len(data)}",
                f"the end of the file {len(data) % RECORD_BYTES} bytes into a record",
                "records of 24 bytes",
            )
        records = decode_records(data)
        time_ns = records["time_s"].astype(np.int64) * NS_PER_S
        last_ns = check_times(source, time_ns, last_ns, "byte", offset, RECORD_BYTES)
        yield Rows(records["id"].astype(np.uint64), time_ns=time_ns)
        offset += len(data)


def read_libcachesim_csv(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield one reference for each row: time in seconds, numeric object id.

    With a header the columns are found by name, without one they are time,
    object, size and, if there, the next request.

    Raises:
        TraceFormatError: A column is missing or no number, or a time goes back.
    """
    options.details["pages"] = "one for each object, sizes not used"
    first = source.peek(4096).split(b"\n", 1)[0].decode("latin-1").strip()
    names = [name.strip().lower() for name in first.lstrip("#").split(",")]
    headerless = bool(names[0]) and all(_is_number(name) for name in names)
    if headerless:
        names = list(_HEADERLESS[: len(names)])
    time = next((name for name in names if name in _TIME), None)
    key = next((name for name in names if name in _OBJECT), None)
    if key is None or time is None:
        raise TraceFormatError(
            f"{source.path}: line 1: got {first[:120]!r}, expected the columns "
            "time and obj_id",
            hint="name a column page or address, and use --format csv",
        )
    row, last_ns, place = 0 if headerless else 1, 0, line_of(source)
    for batch in csv_batches(source, names, (time, key), headerless=headerless):
        time_ns = seconds_to_ns(source, time, batch.column(time))
        last_ns = check_times(source, time_ns, last_ns, place, row + 1)
        ids = integers(source, key, batch.column(key), np.uint64, row, place)
        yield Rows(ids, time_ns=time_ns)
        row += len(time_ns)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
