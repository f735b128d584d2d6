"""Finished runs, each with the digest of the code that made it."""

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from isotherm.core.errors import UsageError
from isotherm.lab.store import ResultStore
from isotherm.observability.jsonable import encode_json
from quality_grid import BOUNDS, OURS, PEERS, code_of, forget_code, newest_change

ASIDE: Final = "-other-code"

Row = dict[str, Any]


class Stale(StrEnum):
    """What becomes of runs that were made by other code than there is now.

    ``OURS``: isotherm's are set aside, all others are used.
    """

    USE = "use"
    OURS = "ours"
    ASIDE = "aside"
    DROP = "drop"


class Runs(ResultStore):
    """Finished runs; those of other code stand in a file of their own.

    A run that was set aside is used again when its code is back: to try a change
    and take it back costs no run.

    Args:
        path: The Parquet file; beside it ``NAME-other-code.parquet``.
        stale: What becomes of runs that were made by other code.

    Attributes:
        stale: How many of the kept runs were made by other code.
        back: How many came back from beside.
        mixed: How many were made while the code changed.
    """

    def __init__(self, path: Path, stale: Stale = Stale.ASIDE) -> None:
        super().__init__(path)
        forget_code()
        self._changed_at = newest_change()
        self._code = {p: code_of(p, "zipf") for p in (OURS, *PEERS, *BOUNDS)}
        self._beside = path.with_stem(path.stem + ASIDE)
        self._aside = _read_aside(self._beside) if self._beside.exists() else {}
        self.mixed = 0
        others = [key for key, row in self.done.items() if not is_current(row)]
        self.stale = len(others)
        if stale == Stale.OURS:
            others = [key for key in others if self.done[key].get("policy") == OURS]
        if stale != Stale.USE:
            for key in others:
                row = self.done.pop(key)
                if stale != Stale.DROP:
                    self._aside[key, str(row.get("code"))] = row
        if stale == Stale.DROP:
            self._aside.clear()
        back = [at for at, row in self._aside.items() if is_current(row)]
        self.back = sum(key not in self.done for key, _ in back)
        for at in back:
            self.done.setdefault(at[0], self._aside.pop(at))

    def worker_journal(self) -> None:
        """Return None: ``add`` marks every result with its code first."""

    def add(self, key: str, result: Row) -> None:
        """Keep a result, at once; one whose code changed under it is marked."""
        changed_at = newest_change()
        if changed_at != self._changed_at:
            self._changed_at = changed_at
            forget_code()
        policy = result["policy"]
        result["code"] = code_of(policy, result["workload"])
        if not result["code"].startswith(self._code[policy]):
            result["code"] = "changed while it ran"
            self.mixed += 1
        super().add(key, result)

    def save(self, rows: list[Row], keys: list[str]) -> None:
        """Write both files, that of other code first: no run is lost between."""
        if self._aside or self._beside.exists():
            _write_aside(self._aside, self._beside)
        super().save(rows, keys)


def is_current(row: Row) -> bool:
    """Return whether a run was made by the code that there is."""
    try:
        return bool(row.get("code") == code_of(row["policy"], row["workload"]))
    except (KeyError, UsageError):
        return False


def _read_aside(path: Path) -> dict[tuple[str, str], Row]:
    import pyarrow.parquet as pq  # noqa: PLC0415  # workers do without

    rows = pq.read_table(path).to_pylist()
    return {(r["key"], r["code"]): msgspec.json.decode(r["result"]) for r in rows}


def _write_aside(aside: dict[tuple[str, str], Row], path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415  # workers do without
    import pyarrow.parquet as pq  # noqa: PLC0415  # likewise

    table = pa.table(
        {
            "key": pa.array([key for key, _ in aside], pa.string()),
            "code": pa.array([code for _, code in aside], pa.string()),
            "result": pa.array(
                [encode_json(row).decode() for row in aside.values()], pa.string()
            ),
        }
    )
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)
