"""The truth file: what a native workload publishes, as a fixed layout to map.

=========  =====================  ==============================================
offset     type                   holds
=========  =====================  ==============================================
0          ``HEADER``             who, where, which phase; see the field names
512        uint64[64]             accesses made, per thread
1024       uint64[64]             writes made, per thread
1536       uint64[64]             accesses that found damaged data, per thread
4096       uint64[threads, pages] accesses per page, per thread
=========  =====================  ==============================================

All numbers are little-endian; times are CLOCK_MONOTONIC in nanoseconds. The
workload only ever adds to its counts, eight aligned bytes at a time, so a reader
may copy them at any moment: what it gets lies between two accesses of each
thread.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import NotPermittedError, UsageError
from isotherm.core.units import PAGE_BYTES

MAGIC = b"ISOTRUTH"
VERSION = 1
HEADER_BYTES = 4096
MAX_THREADS = 64

#: The header's fields, at offset 0.
HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u8"),
        ("pid", "<i8"),
        ("start_ticks", "<i8"),  # field 22 of /proc/PID/stat: tells pids apart
        ("address", "<u8"),  # of page 0
        ("pages", "<u8"),
        ("page_bytes", "<u8"),
        ("threads", "<u8"),
        ("state", "<u8"),  # a State
        ("phase", "<u8"),  # grows by one when the hot set changes at once
        ("phase_began_ns", "<i8"),
        ("began_ns", "<i8"),  # first access
        ("updated_ns", "<i8"),
        ("rate", "<f8"),  # accesses per page per second asked for; 0: full speed
        ("workload", "S64"),
    ]
)
_COLUMNS = {"accesses": 512, "writes": 1024, "errors": 1536}


class State(IntEnum):
    """What the workload is doing."""

    PREPARING = 0  #: filling its memory
    RUNNING = 1
    DONE = 2  #: ended; every line was verified
    DAMAGED = 3  #: ended; some data was not what had been written


class TruthFile:
    """A mapped truth file, as numpy views.

    Args:
        buffer: The mapping.
        threads: Rows of ``counts``.
        pages: Columns of ``counts``.
    """

    def __init__(self, buffer: mmap.mmap, threads: int, pages: int) -> None:
        self._buffer = buffer
        self.header: NDArray[Any] = np.frombuffer(buffer, HEADER, 1)
        self.accesses, self.writes, self.errors = (
            np.frombuffer(buffer, "<u8", MAX_THREADS, offset)
            for offset in _COLUMNS.values()
        )
        self.counts: NDArray[np.uint64] = np.frombuffer(
            buffer, "<u8", threads * pages, HEADER_BYTES
        ).reshape(threads, pages)

    def get(self, name: str) -> int:
        """Return an integer field of the header."""
        return int(self.header[name][0])

    def set(self, **fields: float | bytes) -> None:
        """Write fields of the header, each on its own."""
        for name, value in fields.items():
            self.header[name][0] = value

    def close(self) -> None:
        """Drop the views and unmap the file."""
        del self.header, self.accesses, self.writes, self.errors, self.counts
        self._buffer.close()


def file_bytes(pages: int, threads: int) -> int:
    """Return the size of a truth file."""
    return HEADER_BYTES + 8 * pages * threads


@contextmanager
def create_truth(
    path: Path | None, pages: int, threads: int, **fields: float | bytes
) -> Iterator[TruthFile]:
    """Yield a fresh truth file, mapped for writing; no path: memory of our own.

    The file appears under its name when its header is complete.

    Args:
        path: Where it is to be.
        pages: Columns of the counts.
        threads: Rows.
        fields: More of the header.

    Raises:
        NotPermittedError: The file may not be written.
        UsageError: Its folder does not exist, or it is a folder.
    """
    size = file_bytes(pages, threads)
    fresh = None
    if path is None:
        buffer = mmap.mmap(-1, size)
    else:
        # A new file, renamed into place: a reader of an old one keeps it.
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with fresh.open("w+b") as file:
                file.truncate(size)
                buffer = mmap.mmap(file.fileno(), size)
        except PermissionError as error:
            raise NotPermittedError(f"{path}: {error.strerror}") from None
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
    truth = TruthFile(buffer, threads, pages)
    truth.set(
        magic=MAGIC,
        version=VERSION,
        pages=pages,
        page_bytes=PAGE_BYTES,
        threads=threads,
        **fields,
    )
    if fresh is not None and path is not None:
        try:
            fresh.replace(path)
        except OSError as error:
            truth.close()
            fresh.unlink(missing_ok=True)
            raise UsageError(f"{path}: {error.strerror}") from None
    try:
        yield truth
    finally:
        truth.close()


def open_truth(path: Path) -> TruthFile:
    """Return a truth file, mapped for reading.

    Raises:
        UsageError: There is no such file, or it is no truth file.
        NotPermittedError: It may not be read.
    """
    try:
        with path.open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except PermissionError as error:
        raise NotPermittedError(f"{path}: {error.strerror}") from None
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise UsageError(f"{path}: {error}") from None
    good = len(buffer) >= HEADER_BYTES and buffer[:8] == MAGIC
    if good:
        header = np.frombuffer(buffer, HEADER, 1)[0]
        version, pages = int(header["version"]), int(header["pages"])
        threads = int(header["threads"])
        good = version == VERSION and len(buffer) == file_bytes(pages, threads)
        del header
    if not good:
        buffer.close()
        raise UsageError(
            f"{path}: not a truth file of version {VERSION}",
            hint="isotherm workload run gups --truth FILE makes one",
        )
    return TruthFile(buffer, threads, pages)
