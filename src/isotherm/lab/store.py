"""Finished runs on disk: a Parquet file, and a journal while a grid is running.

``FILE.parquet.journal`` gets one line of JSON as soon as a run is finished, so
that a grid that was interrupted goes on where it stopped; at the end the journal
becomes part of ``FILE.parquet`` and is removed. The Parquet file holds every
number as a column of its own, and the whole result as JSON in ``result``.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from isotherm.core.errors import UsageError
from isotherm.observability.jsonable import encode_json


class ResultStore:
    """Results by the key of their run.

    Args:
        path: The Parquet file; need not exist.

    Raises:
        UsageError: The file exists and holds something else, or the place
            cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal = path.with_name(path.name + ".journal")
        self.done: dict[str, dict[str, Any]] = {}
        if not path.parent.is_dir():
            raise UsageError(f"{path.parent}: no such directory")
        if path.exists():
            self.done.update(_read_parquet(path))
        if self._journal.exists():
            self.done.update(_read_journal(self._journal))
        try:
            self._file = self._journal.open("ab")
        except OSError as error:
            raise UsageError(
                f"{self._journal}: cannot write: {error.strerror}"
            ) from error

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result, at once."""
        self.done[key] = result
        line = encode_json({"key": key, "result": result})
        self._file.write(line + b"\n")
        self._file.flush()

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
        pq.write_table(table, partial, compression="zstd")
        partial.replace(self.path)
        self._file.close()
        self._journal.unlink()

    def close(self) -> None:
        """Leave the journal where it is, unless nothing is in it."""
        if not self._file.closed:
            self._file.close()
            if self._journal.stat().st_size == 0:
                self._journal.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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
    """Return the whole lines; a run that was cut off may leave half a line."""
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
    if len(whole) < len(raw):
        path.write_bytes(whole)
    return done
