"""What a trace says about itself: the metadata of the file, typed."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from isotherm.core.errors import TraceFormatError
from isotherm.core.units import PAGE_BYTES

#: Raised by one when a reader of the old version would misread the new one.
FORMAT_VERSION = 1
#: Metadata key that holds one JSON document; its presence makes a file a trace.
METADATA_KEY = b"isotherm.trace"
UNITS = {
    "page": "dense index, first-seen order",
    "write": "1 write, 0 read",
    "initiator": "index, 255 unknown",
    "time_ns": "nanoseconds since the trace began",
    "count": "accesses that this row stands for",
    "raw_page": "page number in the source, on the first row of each page",
}


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a trace comes from, for people and for reports.

    Attributes:
        command: The command that was traced or that imported the file.
        tool: What observed the accesses, such as ``valgrind lackey``.
        date: ISO date of the recording or import.
        note: Anything a reader should know.
        source: Format of the source, such as ``spec`` or ``recorded``.
        source_file: Name of the imported file, without its folder.
        llc_bytes: Size of the modelled cache in front; None: unfiltered or unknown.
        page_bytes: Bytes of a page, a power of two.
        details: Further facts, name to text.
    """

    command: str = ""
    tool: str = ""
    date: str = ""
    note: str = ""
    source: str = ""
    source_file: str = ""
    llc_bytes: int | None = None
    page_bytes: int = PAGE_BYTES
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """Facts about one trace.

    Attributes:
        path: The file.
        file_bytes: Its size.
        pages: Footprint, distinct pages.
        accesses: Accesses, counts expanded.
        rows: Rows of the file.
        writes: Accesses that write; None where the trace does not say.
        duration_ns: Time of the last access; None where only order is known.
        columns: Optional columns present, of write, initiator, time_ns, count.
        provenance: Where it comes from.
        version: Format version.
    """

    path: str
    file_bytes: int
    pages: int
    accesses: int
    rows: int
    writes: int | None
    duration_ns: int | None
    columns: tuple[str, ...]
    provenance: Provenance
    version: int = FORMAT_VERSION

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return self.provenance.page_bytes

    def to_json(self) -> dict[str, Any]:
        """Return builtin types, raw units, for ``--json``."""
        document = asdict(self)
        document["columns"] = list(self.columns)
        document["page_bytes"] = self.page_bytes
        document["footprint_bytes"] = self.pages * self.page_bytes
        return document


@dataclass(frozen=True, slots=True)
class Metadata:
    """The JSON document under ``isotherm.trace``; counts are None until known."""

    provenance: Provenance
    version: int = FORMAT_VERSION
    pages: int | None = None
    accesses: int | None = None
    writes: int | None = None
    duration_ns: int | None = None
    units: dict[str, str] = field(default_factory=lambda: dict(UNITS))

    def encode(self) -> bytes:
        """Return the JSON document."""
        return msgspec.json.encode(self)


def parse_metadata(path: Path, document: bytes | None) -> Metadata:
    """Return the metadata of a trace file.

    Raises:
        TraceFormatError: There is none, it is broken, or its version is newer.
    """
    if document is None:
        raise TraceFormatError(
            f"{path}: no {METADATA_KEY.decode()} metadata, expected an isotherm trace",
            hint=f"isotherm trace import {path} OUT.parquet",
        )
    try:
        found = msgspec.json.decode(document, type=Metadata)
    except (msgspec.MsgspecError, ValueError) as error:
        raise TraceFormatError(
            f"{path}: {METADATA_KEY.decode()}: {error}, expected trace metadata"
        ) from error
    if found.version != FORMAT_VERSION:
        raise TraceFormatError(
            f"{path}: trace format version {found.version}, expected {FORMAT_VERSION}",
            hint="use the isotherm that wrote it",
        )
    page_bytes = found.provenance.page_bytes
    if page_bytes < 1 or page_bytes & (page_bytes - 1):
        raise TraceFormatError(
            f"{path}: page_bytes {page_bytes}, expected a power of two"
        )
    for name in ("pages", "accesses", "writes", "duration_ns"):
        value = getattr(found, name)
        if value is not None and value < 0:
            raise TraceFormatError(f"{path}: {name} {value}, expected >= 0")
    return found
