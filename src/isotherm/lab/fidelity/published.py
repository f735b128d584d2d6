"""What was published: figures as data, with source and role.

A file holds one experiment (see ``Published``)::

    title = "…"
    source = "venue; S: read in the source itself, N: in somebody's notes of it"
    scale = "how the experiment was made small"
    calibration = "what the constants were taken from, in words"

    [constants]
    sigma = 0.1

    [[tables]]
    name = "score"
    better = "higher"
    systems = ["base", "hot selection"]
    calibrates = ["*|base"]

    [tables.rows]
    "pmbench" = [1.0, 1.128]

    [[misses]]
    cells = "score|pmbench|*"
    why = "…"
"""

import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from typing import Literal

import msgspec

from isotherm.core.errors import ConfigError


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of a publication.

    Attributes:
        name: What is measured.
        systems: Names of the columns.
        rows: Figures of each condition, one per system; nan: not published.
        better: Which figures are better; "target": neither.
        pairs: How the order of systems is read from it: "row": two systems under
            one condition; "column": one system under two conditions; "one": each
            figure is a gain over the same system without something; "none".
        evidence: S: read in the source; N: in notes of it.
        error: "relative" to the published figure, or "absolute" (of shares).
        median: Claimed: the median error of unseen figures is at most this.
        worst: Claimed: no error of an unseen figure is more.
        tie: Published figures that differ by less, relatively, have no order.
        calibrates: Patterns ``ROW|SYSTEM`` of figures that constants were taken
            from: they are shown, and count neither as errors nor as order.
    """

    name: str
    systems: list[str]
    rows: dict[str, list[float]]
    better: Literal["higher", "lower", "target"]
    pairs: Literal["row", "column", "one", "none"] = "row"
    evidence: Literal["S", "N"] = "S"
    error: Literal["relative", "absolute"] = "relative"
    median: float = 0.2
    worst: float = 0.4
    tie: float = 0.02
    calibrates: list[str] = []

    def cells(self) -> Iterator["Cell"]:
        """Yield what was published."""
        for row, figures in self.rows.items():
            for system, value in zip(self.systems, figures, strict=True):
                if not math.isnan(value):
                    seen = any(
                        fnmatchcase(f"{row}|{system}", pattern)
                        for pattern in self.calibrates
                    )
                    yield Cell(self.name, row, system, value, seen)


class Miss(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the model misses: cells by pattern ``TABLE|ROW|SYSTEM``."""

    cells: str
    why: str


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An experiment as it was published, and what the model of it takes from it."""

    title: str
    source: str
    scale: str
    calibration: str
    tables: list[Table]
    constants: dict[str, float] = {}
    misses: list[Miss] = []

    def why(self, cell: "Cell") -> str | None:
        """Return the documented reason of a miss, if there is one."""
        for miss in self.misses:
            if fnmatchcase("|".join(cell.key), miss.cells):
                return miss.why
        return None


@dataclass(frozen=True, slots=True)
class Cell:
    """One published figure; ``seen``: the model was calibrated on it."""

    table: str
    row: str
    system: str
    value: float
    seen: bool

    @property
    def key(self) -> "Key":
        """Table, row and system."""
        return self.table, self.row, self.system


#: Table, row, system.
Key = tuple[str, str, str]
#: What an experiment measured.
Measured = dict[Key, float]


def read_published(name: str) -> Published:
    """Return what was published of a shipped experiment.

    Raises:
        ConfigError: The file does not fit the schema; the message says where.
    """
    file = resources.files("isotherm.lab.fidelity").joinpath(f"published/{name}.toml")
    return parse_published(file.read_text(encoding="utf-8"), f"{name}.toml")


def parse_published(text: str, path: str) -> Published:
    """Return what a TOML text says was published.

    Raises:
        ConfigError: It does not fit the schema, or a row has not one figure for
            each system.
    """
    try:
        found = msgspec.convert(tomllib.loads(text), Published)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for table in found.tables:
        for row, figures in table.rows.items():
            if len(figures) != len(table.systems):
                raise ConfigError(
                    f"{path}: {table.name}: {row}: expected {len(table.systems)}"
                    f" figures, one per system, got {len(figures)}"
                )
    return found
