"""A recording on disk: what ``simulate --record DIR`` writes and ``explain`` reads.

======================  ====================================================
``run.json``            spec, result, topology, sizes; written last, so that a
                        directory without it is not a recording
``placement.parquet``   where every page was at the start: ``page``, ``node``
``epochs.parquet``      one row an epoch: times, costs, accesses and use per
                        node, loaded latency, decision notes
``heat.parquet``        one row per epoch and region: ``accesses`` (true),
                        ``belief`` (the tracker's rate), ``fast_share``
``moves.parquet``       one row per page that was tried: ``epoch``, ``page``,
                        ``src``, ``dst``, ``reason``, ``gain_ns``, ``errno``
======================  ====================================================

Columns are appended as row groups, so memory stays bounded however long the run.
Every file can be queried with DuckDB or any Parquet reader.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError, UsageError
from isotherm.core.extras import require
from isotherm.core.files import file_error
from isotherm.observability.jsonable import encode_json
from isotherm.topology.model import Topology

log = structlog.get_logger()

FORMAT: Final = "isotherm-recording"
VERSION: Final = 1

#: A row group is written when so many rows have gathered.
GROUP_ROWS: Final = 1 << 17
FILES: Final = ("placement", "epochs", "heat", "moves")


class _Table:
    """One Parquet file that grows by row groups."""

    def __init__(self, path: Path, fields: dict[str, str]) -> None:
        import pyarrow as pa  # noqa: PLC0415  # 0.1 s that --help must not pay
        import pyarrow.parquet as pq  # noqa: PLC0415  # likewise

        kinds = {
            "int64": pa.int64(),
            "uint32": pa.uint32(),
            "int16": pa.int16(),
            "uint8": pa.uint8(),
            "float32": pa.float32(),
            "float64": pa.float64(),
            "list_int64": pa.list_(pa.int64()),
            "list_float64": pa.list_(pa.float64()),
            "map": pa.map_(pa.string(), pa.float64()),
        }
        self._pa = pa
        self._path = path
        self._schema = pa.schema([(name, kinds[kind]) for name, kind in fields.items()])
        with self._failing():
            self._file = path.open("wb")
            self._writer = pq.ParquetWriter(
                self._file, self._schema, compression="zstd", use_dictionary=False
            )
        self._parts: list[list[Any]] = []
        self._rows = 0

    def append(self, columns: list[Any], rows: int) -> None:
        """Add rows, columns in the order of the schema."""
        if rows == 0:
            return
        self._parts.append(columns)
        self._rows += rows
        if self._rows >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write a row group."""
        if not self._parts:
            return
        arrays = []
        for number, kind in enumerate(self._schema.types):
            chunks = [part[number] for part in self._parts]
            if isinstance(chunks[0], np.ndarray):
                arrays.append(self._pa.array(np.concatenate(chunks), type=kind))
            else:
                values = [value for chunk in chunks for value in chunk]
                arrays.append(self._pa.array(values, type=kind))
        table = self._pa.Table.from_arrays(arrays, schema=self._schema)
        with self._failing():
            self._writer.write_table(table)
        self._parts = []
        self._rows = 0

    def close(self) -> None:
        """Write what is left and the footer; do nothing the second time."""
        if self._file.closed:
            return
        self.flush()
        with self._failing():
            self._writer.close()
            self._file.close()

    def abandon(self) -> None:
        """Let go of the file, whatever the disk says."""
        for let_go in (self._writer.close, self._file.close):
            with contextlib.suppress(OSError, self._pa.ArrowException):
                let_go()
        self._writer.is_open = False  # or the collector tries again

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Say which file a disk that is full or fails has refused."""
        try:
            yield
        except (OSError, self._pa.ArrowException) as error:
            why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise IsothermError(f"{self._path}: cannot write: {why}") from error


def check_directory(directory: Path) -> set[str]:
    """Return the files of a directory that a recording may replace; make it.

    Raises:
        UnsupportedError: pyarrow, which writes a recording, is not installed.
        UsageError: It cannot be written, or holds other things.
        NotPermittedError: It may not be written to.
    """
    require("pyarrow")
    known = {"run.json", *(f"{name}.parquet" for name in FILES)}
    try:
        if directory.exists() and not directory.is_dir():
            raise UsageError(f"{directory}: expected a directory for the recording")
        directory.mkdir(parents=True, exist_ok=True)
        found = {entry.name for entry in directory.iterdir()}
    except OSError as error:
        raise file_error(directory, error, "cannot write here") from error
    if found:
        if found - known or "run.json" not in found:
            raise UsageError(
                f"{directory}: holds other files ({min(found)}), expected an empty"
                " directory or a recording",
                hint="give a new directory to --record",
            )
        read_run(directory)
    return found


class RecordingWriter:
    """Writes a recording; ``finish`` makes it one, ``abandon`` removes it.

    Args:
        directory: Made if missing; a recording in it is replaced.

    Raises:
        UsageError: The directory holds other things.
    """

    def __init__(self, directory: Path) -> None:
        found = check_directory(directory)
        if found:
            log.info("replaces a recording", directory=str(directory))
        for name in found:
            (directory / name).unlink()
        self._directory = directory
        self._tables: dict[str, _Table] = {}
        self._run: dict[str, Any] = {}

    def _open(self, name: str, fields: dict[str, str]) -> _Table:
        path = self._directory / f"{name}.parquet"
        try:
            table = _Table(path, fields)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._tables[name] = table
        return table

    def start(
        self,
        *,
        spec: dict[str, Any],
        topology: Topology,
        node: NDArray[np.uint8],
        region_pages: int,
        epoch_ns: int,
        latency_ns: NDArray[np.float64] | None,
        move_cost_ns: NDArray[np.float64] | None,
    ) -> None:
        """Open the files and keep the placement at the start."""
        self._run = {
            "format": FORMAT,
            "version": VERSION,
            "spec": spec,
            "pages": len(node),
            "region_pages": region_pages,
            "epoch_ns": epoch_ns,
            "latency_ns": None if latency_ns is None else latency_ns.tolist(),
            "move_cost_ns": None if move_cost_ns is None else move_cost_ns.tolist(),
            "topology": msgspec.to_builtins(topology, str_keys=True),
        }
        placement = self._open("placement", {"page": "uint32", "node": "uint8"})
        for first in range(0, len(node), GROUP_ROWS):
            part = node[first : first + GROUP_ROWS].copy()
            page = np.arange(first, first + len(part), dtype=np.uint32)
            placement.append([page, part], len(part))
        placement.close()
        self._open(
            "epochs",
            {
                "epoch": "int64",
                "now_ns": "int64",
                "dt_ns": "float64",
                "accesses": "float64",
                "fast_accesses": "float64",
                "latency_ns": "float64",
                "all_fast_ns": "float64",
                "application_ns": "float64",
                "background_ns": "float64",
                "migration_ns": "float64",
                "promoted_pages": "float64",
                "demoted_pages": "float64",
                "failed_pages": "float64",
                "planned_pages": "float64",
                "accesses_per_node": "list_int64",
                "used_pages": "list_int64",
                "loaded_latency_ns": "list_float64",
                "notes": "map",
            },
        )
        self._open(
            "heat",
            {
                "epoch": "int64",
                "region": "uint32",
                "accesses": "float32",
                "belief": "float32",
                "fast_share": "float32",
            },
        )
        self._open(
            "moves",
            {
                "epoch": "int64",
                "page": "uint32",
                "src": "uint8",
                "dst": "uint8",
                "reason": "uint8",
                "gain_ns": "float32",
                "errno": "int16",
            },
        )

    def epoch(
        self,
        *,
        index: int,
        now_ns: int,
        sums: dict[str, float],
        accesses_per_node: NDArray[np.int64],
        latency_ns: NDArray[np.float64],
        used_pages: NDArray[np.int64] | None,
        notes: dict[str, float],
        heat: NDArray[np.floating],
        fast_share: NDArray[np.floating],
        belief: NDArray[np.floating] | None,
    ) -> None:
        """Append one epoch and its heat."""
        row: list[Any] = [[index], [now_ns]]
        row += [[sums[name]] for name in sums]
        row += [
            [accesses_per_node.tolist()],
            [None if used_pages is None else used_pages.tolist()],
            [latency_ns.ravel().tolist()],
            [[(name, float(value)) for name, value in notes.items()]],
        ]
        self._tables["epochs"].append(row, 1)
        regions = len(heat)
        self._tables["heat"].append(
            [
                np.full(regions, index, np.int64),
                np.arange(regions, dtype=np.uint32),
                np.asarray(heat, np.float32).copy(),
                np.full(regions, np.nan, np.float32)
                if belief is None
                else np.asarray(belief, np.float32).copy(),
                np.asarray(fast_share, np.float32).copy(),
            ],
            regions,
        )

    def moves(
        self,
        *,
        index: int,
        page: NDArray[np.uint32],
        source: NDArray[np.uint8],
        target: NDArray[np.uint8],
        errno: NDArray[np.int16],
        reason: NDArray[np.uint8],
        gain_ns: NDArray[np.float32],
    ) -> None:
        """Append the moves that were tried in one epoch."""
        epoch = np.full(len(page), index, np.int64)
        columns = [
            epoch,
            page.copy(),
            source,
            target.copy(),
            reason,
            gain_ns,
            errno.copy(),
        ]
        self._tables["moves"].append(columns, len(page))

    def finish(self, result: dict[str, Any], more: dict[str, Any]) -> None:
        """Close the files and write ``run.json``, with more keys at its top."""
        for table in self._tables.values():
            table.close()
        self._run["result"] = result
        self._run |= more
        text = encode_json(self._run, indent=1)
        partial = self._directory / "run.json.partial"
        try:
            partial.write_bytes(text + b"\n")
            partial.rename(self._directory / "run.json")
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise file_error(partial, error, "cannot write") from error

    def abandon(self) -> None:
        """Close and remove what was written, and the directory if it is empty."""
        for name, table in self._tables.items():
            table.abandon()
            (self._directory / f"{name}.parquet").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody put something there: leave it
            self._directory.rmdir()


def read_run(directory: Path) -> dict[str, Any]:
    """Return ``run.json`` of a recording.

    Raises:
        UsageError: The directory is no recording, or of a later version.
    """
    path = directory / "run.json"
    hint = "isotherm simulate --record DIR makes one"
    try:
        run = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"{directory}: no recording here (no run.json)", hint=hint
        ) from None
    except OSError as error:
        raise file_error(path, error, "cannot be read", hint=hint) from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: cannot be read: {error}", hint=hint) from error
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise UsageError(f"{path}: expected a recording of isotherm", hint=hint)
    if run["version"] > VERSION:
        raise UsageError(
            f"{path}: version {run['version']}, expected at most {VERSION}",
            hint="upgrade isotherm",
        )
    return run
