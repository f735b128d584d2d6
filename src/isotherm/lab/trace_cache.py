"""Decoded traces of a sweep: columns in files that every worker of a host maps.

Decoding a trace costs about as much as a cheap policy's simulation of it, and an
import of another tool's file far more. The first run of a sweep that wants a trace
decodes it into a folder of the host; all others, in whatever process, map the
columns. The folder is bounded in size and goes with the sweep; what a killed sweep
has left is removed by the next one.
"""

import fcntl
import hashlib
import mmap
import os
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from isotherm.trace.arrow import COLUMNS
from isotherm.trace.info import TraceInfo
from isotherm.trace.stream import AccessChunk
from isotherm.workloads.recorded import ChunkSource, RecordedWorkload, open_recorded

log = structlog.get_logger()

PREFIX: Final = "isotherm-sweep-"
#: Accesses that are mapped at once: bounds what a run has of the file in memory.
MAPPED_ROWS: Final = 1 << 24
#: Of the free space of the disk: no more is used without being asked.
FREE_SHARE: Final = 0.25
DEFAULT_LIMIT_BYTES: Final = 8 << 30

#: As ``AccessChunk`` has them: counts are expanded.
_DTYPES: Final[dict[str, type[np.generic]]] = {
    "page": np.uint32,
    **{name: dtype for name, dtype in COLUMNS.items() if name != "count"},
}


class MappedTrace:
    """A decoded trace whose columns are mapped, not read.

    Args:
        folder: Made by ``TraceCache``: a file a column, and what the trace says.

    Raises:
        FileNotFoundError: It is not there, or no longer.
    """

    def __init__(self, folder: Path) -> None:
        self.info = msgspec.json.decode((folder / "info").read_bytes(), type=TraceInfo)
        self._files = {}
        for name in _DTYPES:
            if name in ("page", *self.info.columns):
                self._files[name] = os.open(folder / name, os.O_RDONLY)
                weakref.finalize(self, os.close, self._files[name])
        self._rows = os.fstat(self._files["page"]).st_size // 4

    def chunks(
        self,
        rows: int = MAPPED_ROWS,
        ahead: int = 0,  # there is nothing to decode
        *,
        times: bool = True,
    ) -> Iterator[AccessChunk]:
        """Yield the accesses in order, columns mapped copy-on-write.

        A write to them changes nobody else's copy, and they have the type that the
        kernels are compiled for.
        """
        for start in range(0, self._rows, rows):
            count = min(rows, self._rows - start)
            yield AccessChunk(
                **{
                    name: self._map(name, start, count)
                    for name in self._files
                    if times or name != "time_ns"
                }
            )

    def _map(self, name: str, start: int, count: int) -> NDArray[Any]:
        dtype = np.dtype(_DTYPES[name])
        begin, end = start * dtype.itemsize, (start + count) * dtype.itemsize
        aligned = begin - begin % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(
            self._files[name], end - aligned, offset=aligned, access=mmap.ACCESS_COPY
        )
        return np.frombuffer(mapped, dtype, count, begin - aligned)


class TraceCache:
    """A folder of decoded traces, shared by the processes of one host.

    Args:
        folder: Where; exists.
        limit_bytes: The most that is kept; older traces go first.

    Attributes:
        decoded: How many traces this object has decoded into the folder.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self.decoded = 0

    def open(
        self, path: Path, accesses: int | None = None, window: tuple[int, int] = (1, 1)
    ) -> RecordedWorkload | None:
        """Return a trace as a workload; None if it does not fit.

        Args:
            path: A trace, or another tool's.
            accesses: As many from its start are enough.
            window: As of ``RecordedWorkload``; the whole is kept for all windows.

        Raises:
            UsageError: It does not exist or cannot be read.
            TraceFormatError: It is malformed or of no known format.
        """
        limit = accesses if window == (1, 1) else None
        entry = self._folder / _name(path, limit)
        with suppress(FileNotFoundError):
            return RecordedWorkload(_touched(entry), window=window)
        with _locked(entry.with_suffix(".lock")):
            if not entry.exists() and not self._decode(path, entry, limit):
                return None
            return RecordedWorkload(_touched(entry), window=window)

    def _decode(self, path: Path, entry: Path, limit: int | None) -> bool:
        whole = open_recorded(path)  # kept: an imported trace goes with it
        source = whole.reader
        info = replace(source.info, path=str(path))
        rows = info.accesses if limit is None else min(limit, info.accesses)
        names = [name for name in _DTYPES if name in ("page", *info.columns)]
        size = rows * sum(np.dtype(_DTYPES[name]).itemsize for name in names)
        if not self._make_room(size):
            log.warning("trace too large to keep decoded", trace=str(path), bytes=size)
            return False
        partial = entry.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            _write_columns(source, partial, names, rows)
            (partial / "info").write_bytes(msgspec.json.encode(info))
            partial.rename(entry)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            log.warning("trace not kept decoded", trace=str(path), error=error.strerror)
            return False
        self.decoded += 1
        return True

    def _make_room(self, size: int) -> bool:
        """Remove the oldest traces until one of ``size`` bytes fits.

        Who has a removed one mapped keeps it until its run is over.
        """
        entries = sorted(
            (at for at in self._folder.iterdir() if not at.suffix and at.is_dir()),
            key=lambda at: at.stat().st_mtime_ns,
        )
        kept = {at: sum(file.stat().st_size for file in at.iterdir()) for at in entries}
        free = shutil.disk_usage(self._folder).free
        limit = min(self._limit_bytes, sum(kept.values()) + int(free * FREE_SHARE))
        if size > limit:
            return False
        while sum(kept.values()) + size > limit:
            oldest = next(iter(kept))
            shutil.rmtree(oldest, ignore_errors=True)
            del kept[oldest]
        return True


def _write_columns(
    source: ChunkSource, folder: Path, names: list[str], rows: int
) -> None:
    with ExitStack() as stack:
        files = {n: stack.enter_context((folder / n).open("wb")) for n in names}
        left = rows
        for chunk in source.chunks():
            part = chunk.slice(0, min(left, len(chunk)))
            for name, file in files.items():
                file.write(np.ascontiguousarray(getattr(part, name)).data)
            left -= len(part)
            if left <= 0:
                return


def _touched(entry: Path) -> MappedTrace:
    trace = MappedTrace(entry)
    with suppress(FileNotFoundError):
        now_ns = time.time_ns()  # the kernel's own idea of now is coarser
        os.utime(entry, ns=(now_ns, now_ns))
    return trace


def _name(path: Path, limit: int | None) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "missing"  # opening it says why
    text = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{limit}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---- the folder of a sweep on a host


def new_token() -> str:
    """Return a name for a sweep's folder that nobody can guess."""
    return secrets.token_hex(8)


class SweepFolder:
    """A sweep's folder on this host, held while this object is open.

    Who makes it removes what sweeps that are no more have left.

    Args:
        token: Of the sweep; its processes on one host share the folder.
    """

    def __init__(self, token: str) -> None:
        root = Path(tempfile.gettempdir())
        self.path = root / (PREFIX + token)
        if not self.path.exists():
            _remove_left_over(root)
        while True:
            self.path.mkdir(0o700, exist_ok=True)
            with suppress(FileNotFoundError):
                self._hold = (self.path / "hold").open("ab")
                fcntl.flock(self._hold, fcntl.LOCK_SH)
                if os.fstat(self._hold.fileno()).st_nlink:
                    return
                self._hold.close()

    def release(self) -> None:
        """Let go of it; who holds it last, or the next sweep, removes it."""
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(self._hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.path, ignore_errors=True)
        self._hold.close()


def remove_folder(token: str) -> None:
    """Remove a sweep's folder on this host, whoever holds it: the sweep is over."""
    shutil.rmtree(Path(tempfile.gettempdir()) / (PREFIX + token), ignore_errors=True)


def _remove_left_over(root: Path) -> None:
    for folder in root.glob(PREFIX + "*"):
        with suppress(OSError):
            if folder.stat().st_uid != os.getuid():
                continue
            with (folder / "hold").open("ab") as hold:
                fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
