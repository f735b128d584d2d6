"""``trace import``: from any supported format to a trace file."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from isotherm.core.errors import TraceFormatError, UsageError
from isotherm.core.units import PAGE_BYTES
from isotherm.records.oracle_general import looks_like_records
from isotherm.trace.format import Provenance, TraceInfo, TraceReader, TraceWriter
from isotherm.trace.importers.damo import read_damo
from isotherm.trace.importers.libcachesim import (
    read_libcachesim_csv,
    read_oracle_general,
)
from isotherm.trace.importers.mooncake import read_mooncake
from isotherm.trace.importers.perf import read_perf
from isotherm.trace.importers.perf_data import is_perf_data, read_perf_data
from isotherm.trace.importers.rows import Importer, ImportOptions, Rows
from isotherm.trace.importers.serving import read_mooncake_serving
from isotherm.trace.importers.tables import read_csv, read_parquet
from isotherm.trace.importers.text import (
    read_lackey,
    read_lirs,
    read_ramulator,
    read_spec,
)
from isotherm.trace.reader import is_columnar
from isotherm.trace.source import ByteSource, Progress

_HEAD_BYTES = 1 << 16
_HEAD_LINES = 40


@dataclass(frozen=True, slots=True)
class Format:
    """One foreign format.

    Attributes:
        name: What ``--format`` takes.
        tool: Whose it is.
        detect: Whether the first bytes of a file, decompressed, are of this format.
        read: Its importer.
    """

    name: str
    tool: str
    detect: Callable[[bytes], bool]
    read: Importer


def _lines(head: bytes) -> list[bytes]:
    """Return the first whole lines that hold something."""
    lines = head.split(b"\n")
    if len(lines) > 1:
        lines.pop()
    return [line.rstrip(b"\r") for line in lines if line.strip()][:_HEAD_LINES]


def _all_match(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern)

    def detect(head: bytes) -> bool:
        lines = _lines(head)
        return bool(lines) and all(compiled.fullmatch(line) for line in lines)

    return detect


def _any_match(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern)

    def detect(head: bytes) -> bool:
        return any(compiled.search(line) for line in _lines(head))

    return detect


def _is_lackey(head: bytes) -> bool:
    shape = re.compile(rb" [LSM] [0-9a-fA-F]+,\d+|I  [0-9a-fA-F]+,\d+")
    lines = [line for line in _lines(head) if not line.startswith((b"==", b"--"))]
    return bool(lines) and all(shape.fullmatch(line) for line in lines)


def _is_csv(head: bytes) -> bool:
    lines = _lines(head)
    names = lines[0].decode("utf-8-sig", "replace").lower().split(",") if lines else []
    plain = {name.strip().strip('"').strip() for name in names}
    return bool(plain & {"page", "address"})


def _is_libcachesim_csv(head: bytes) -> bool:
    lines = _lines(head)
    if not lines:
        return False
    names = {name.strip().lower() for name in lines[0].lstrip(b"#").split(b",")}
    known = {b"obj_id", b"object", b"object_id", b"obj", b"next_access_vtime"}
    numbers = re.compile(rb"\d+(\.\d+)?,\d+,\d+(,-?\d+)?")
    return bool(names & known) or all(numbers.fullmatch(line) for line in lines)


#: In the order in which ``auto`` tries them: the most telling first.
FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("parquet", "columns", is_columnar, read_parquet),
        Format("perf-data", "perf record", is_perf_data, read_perf_data),
        Format(
            "mooncake", "Mooncake", _any_match(rb'^\s*\{.*"hash_ids"'), read_mooncake
        ),
        Format(
            "damo",
            "DAMON",
            _any_match(
                rb"damon_aggregated:|^base_time_absolute:|^monitoring_start:"
                rb'|^\s*"snapshots":|^\s*\[\s*$|^\s*\[\{.*"snapshots"'
            ),
            read_damo,
        ),
        Format("csv", "columns", _is_csv, read_csv),
        Format(
            "spec",
            "UCSD SPEC CPU2000",
            _all_match(rb"#.*|[lLsS]\s+(0[xX])?[0-9a-fA-F]+\s+\d+\s*"),
            read_spec,
        ),
        Format("lackey", "valgrind lackey", _is_lackey, read_lackey),
        Format(
            "perf",
            "perf",
            _any_match(rb"\|OP [A-Z]|(^|\s)\d+\.\d{6,9}:\s|^#\s*PID, TID, "),
            read_perf,
        ),
        Format("lirs", "LIRS", _all_match(rb"#.*|\*.*|\s*\d+\s*"), read_lirs),
        Format(
            "ramulator",
            "ramulator",
            _all_match(rb"#.*|\s*\d+\s+\d+(\s+\d+)?\s*"),
            read_ramulator,
        ),
        Format(
            "libcachesim-csv", "libCacheSim", _is_libcachesim_csv, read_libcachesim_csv
        ),
        # By name only: the same file is also a list of references.
        Format("mooncake-serving", "Mooncake", lambda _: False, read_mooncake_serving),
        Format(
            "oracle-general", "libCacheSim", looks_like_records, read_oracle_general
        ),
    )
}


def detect_format(source: ByteSource) -> Format:
    """Return the format of a file, told by its first 64 KiB, decompressed.

    Raises:
        TraceFormatError: It is empty, or of no known format.
    """
    head = source.peek(_HEAD_BYTES)
    if not head:
        raise TraceFormatError(f"{source.path}: is empty, expected a trace")
    for form in FORMATS.values():
        if form.detect(head):
            return form
    raise TraceFormatError(
        f"{source.path}: starts with {head[:40]!a}, expected one of the formats "
        f"{', '.join(FORMATS)}",
        hint="name it with --format; see docs/reference/traces.md",
    )


def import_trace(
    path: Path,
    out: Path,
    *,
    form: str = "auto",
    page_bytes: int = PAGE_BYTES,
    command: str = "",
    date: str | None = None,
    progress: Progress | None = None,
) -> TraceInfo:
    """Write another tool's trace as a trace file; return what it holds.

    Args:
        path: The foreign file, plain or compressed.
        out: The file to write; it appears when all is read, or not at all.
        form: A name of :data:`FORMATS`, or ``auto``.
        page_bytes: Bytes of a page, a power of two; divides addresses, and is kept.
        command: The command to keep in the provenance.
        date: ISO date to keep; None: today.
        progress: Told the bytes of the file read, and its size.

    Raises:
        UsageError: No such file or format, ``page_bytes`` is no power of two, or
            ``out`` is the file itself.
        TraceFormatError: The file is malformed, or holds no access.
        NotPermittedError: A file may not be read or written.
    """
    if form != "auto" and form not in FORMATS:
        raise UsageError(
            f"--format: got {form!r}, expected auto or one of {', '.join(FORMATS)}"
        )
    if not 1 <= page_bytes <= 1 << 40 or page_bytes & (page_bytes - 1):
        raise UsageError(
            f"--page-bytes: got {page_bytes}, expected a power of two up to 1 TiB"
        )
    if out.exists() and path.exists() and out.samefile(path):
        raise UsageError(f"{out}: is the file to import, expected another name")
    options = ImportOptions(page_bytes)
    with ByteSource(path, progress) as source:
        chosen = detect_format(source) if form == "auto" else FORMATS[form]
        if not source.peek(1):
            raise TraceFormatError(f"{path}: is empty, expected a trace")
        # The writer keeps the very dictionary that the importer still fills.
        provenance = Provenance(
            command=command or f"isotherm trace import {path.name}",
            tool=chosen.tool,
            date=date or datetime.now(UTC).date().isoformat(),
            source=chosen.name,
            source_file=path.name,
            page_bytes=page_bytes,
            details=options.details,
        )
        with TraceWriter(out, provenance) as writer:
            start_ns: int | None = None
            for rows in chosen.read(source, options):
                if rows.time_ns is not None and start_ns is None and len(rows.page):
                    start_ns = int(rows.time_ns[0])
                _append(writer, rows, start_ns or 0)
            if not writer.accesses:
                raise TraceFormatError(
                    f"{path}: no accesses found, expected {chosen.name} data"
                )
    return TraceReader(out).info


def _append(writer: TraceWriter, rows: Rows, start_ns: int) -> None:
    if not len(rows.page):
        return
    writer.append(
        rows.page,
        write=rows.write,
        initiator=rows.initiator,
        time_ns=None if rows.time_ns is None else rows.time_ns - start_ns,
        count=rows.count,
    )
