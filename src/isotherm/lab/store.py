"""Finished runs on disk: a Parquet file, and a journal while a grid is running.

``FILE.parquet.journal`` gets one line of JSON as soon as a run is finished, so
that a grid that was interrupted goes on where it stopped; at the end the journal
becomes part of ``FILE.parquet`` and is removed. Workers on this host write to it
themselves: what they have finished is kept whoever is killed. The Parquet file
holds every number as a column of its own, and the whole result as JSON in
``result``.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from isotherm.core.errors import IsothermError, UsageError
from isotherm.core.files import file_error, output_file
from isotherm.observability.jsonable import encode_json
from isotherm.trace.arrow import render_reason


def append_row(journal: Path, key: str, result: dict[str, Any]) -> None:
    """Add a finished run to a journal: one write, which others do not cut in two.

    Raises:
        IsothermError: The disk is full or fails.
    """
    line = encode_json({"key": key, "result": result}) + b"\n"
    try:
        file = os.open(journal, os.O_WRONLY | os.O_APPEND)
        try:
            written = os.write(file, line)
        finally:
            os.close(file)
    except OSError as error:
        raise file_error(journal, error, "cannot write", IsothermError) from error
    if written < len(line):
        raise IsothermError(f"{journal}: the disk is full")


class ResultStore:
    """Results by the key of their run; one process at a time has it.

    Args:
        path: The Parquet file; need not exist.

    Raises:
        UsageError: The file exists and holds something else, the path is no file,
            or another process is writing there.
        NotPermittedError: The place may not be written to.
    """

    def __init__(self, path: Path) -> None:
        self._named, path = path, output_file(path)
        self.path = path
        self._journal = path.with_name(path.name + ".journal")
        self.done: dict[str, dict[str, Any]] = {}
        if not path.parent.is_dir():
            raise UsageError(f"{path.parent}: no such directory")
        self._file = _open_locked(self._journal)
        try:
            if path.exists():
                self.done.update(_read_parquet(path))
            self.done.update(_read_journal(self._journal))
            _drop_half_line(self._journal)
        except BaseException:
            self.close()
            raise

    def worker_journal(self) -> Path | None:
        """Return where workers of this host may write with ``append_row``.

        None where ``add`` must see every result first.
        """
        return self._journal

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result, at once."""
        self.done[key] = result
        line = encode_json({"key": key, "result": result})
        try:
            self._file.write(line + b"\n")
            self._file.flush()
        except OSError as error:
            raise file_error(self._journal, error, "cannot write") from error

    def written(self, key: str, result: dict[str, Any]) -> None:
        """Take note of a result that its worker has written to the journal."""
        self.done[key] = result

    def written_since(self) -> dict[str, dict[str, Any]]:
        """Return what the journal holds now: of a worker that was lost as well."""
        return _read_journal(self._journal)

    def save(self, rows: list[dict[str, Any]], keys: list[str]) -> None:
        """Write the Parquet file, whole or not at all, and drop the journal.

        Args:
            rows: Judged results of the runs that were asked for now, same
                order as ``keys``; runs of earlier grids are kept as they were.
            keys: The keys of the runs.
        """
        import pyarrow as pa  # noqa: PLC0415  # 0.1 s, only when a file is asked for
        import pyarrow.parquet as pq  # noqa: PLC0415  # likewise

        merged = dict(self.done)
        merged.update(zip(keys, rows, strict=True))
        names = list(dict.fromkeys(name for row in merged.values() for name in row))
        columns: dict[str, list[Any]] = {"key": list(merged)}
        for name in names:
            values = [row.get(name) for row in merged.values()]
            columns[name] = [_plain(value) for value in values]
        columns["result"] = [encode_json(row).decode() for row in merged.values()]
        table = pa.table(columns)
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            pq.write_table(table, partial, compression="zstd")
            partial.replace(self.path)
        except (OSError, pa.ArrowException) as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise IsothermError(
                f"{self._named}: cannot write: {render_reason(error)}",
                hint=f"{self._journal} has the runs; make room and start again",
            ) from error
        self._journal.unlink()
        self._file.close()

    def close(self) -> None:
        """Leave the journal where it is, unless nothing is in it."""
        if not self._file.closed:
            if os.fstat(self._file.fileno()).st_size == 0:
                self._journal.unlink(missing_ok=True)
            with suppress(OSError):  # of a full disk: whoever wrote has been told
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _open_locked(journal: Path) -> BinaryIO:
    """Return the journal, open for appending and locked against other processes."""
    while True:
        try:
            file = journal.open("ab")
        except OSError as error:
            raise file_error(journal, error, "cannot write") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UsageError(
                f"{journal}: another comparison is writing to it",
                hint="wait for it, or give another file to --out",
            ) from None
        if os.fstat(file.fileno()).st_nlink:  # not removed before it was locked
            return file
        file.close()


def _plain(value: object) -> object:
    """Return what fits a Parquet column of one type; lists and tables as JSON."""
    if isinstance(value, (list, tuple, dict)):
        return encode_json(value).decode()
    return value


def _read_parquet(path: Path) -> dict[str, dict[str, Any]]:
    import pyarrow as pa  # noqa: PLC0415  # 0.1 s, only when a file is asked for
    import pyarrow.parquet as pq  # noqa: PLC0415  # likewise

    try:
        table = pq.read_table(path, columns=["key", "result"])
    except PermissionError as error:
        raise file_error(path, error, "cannot read") from error
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UsageError(
            f"{path}: expected results of isotherm compare",
            hint="give another file to --out",
        ) from error
    rows = table.to_pydict()
    if set(rows) != {"key", "result"}:
        raise UsageError(
            f"{path}: expected results of isotherm compare",
            hint="give another file to --out",
        )
    return {
        key: msgspec.json.decode(text)
        for key, text in zip(rows["key"], rows["result"], strict=True)
    }


def _read_journal(path: Path) -> dict[str, dict[str, Any]]:
    """Return the whole lines; one that is being written, or was cut off, is left."""
    done = {}
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry = msgspec.json.decode(line)
            done[entry["key"]] = entry["result"]
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}:{number}: expected one result a line",
                hint=f"remove {path} to start again",
            ) from error
    return done


def _drop_half_line(path: Path) -> None:
    """Cut off what a run that was cut off has left, so that lines stay lines."""
    raw = path.read_bytes()
    if not raw.endswith(b"\n"):
        os.truncate(path, raw.rfind(b"\n") + 1)
