"""Published beside ours: errors of unseen figures, and the order of systems."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from isotherm.lab.fidelity.published import Cell, Measured, Published, Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: published and ours.

    Attributes:
        cell: What was published.
        ours: What the simulator says.
        error: Ours minus published, relative or absolute as the table says.
        within: Whether the error is within the table's claim for the worst.
        why: The documented reason of a miss.
    """

    cell: Cell
    ours: float
    error: float
    within: bool
    why: str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two systems whose order was published, better one first."""

    table: str
    better: str
    worse: str
    right: bool


@dataclass(frozen=True, slots=True)
class TableVerdict:
    """A table played again.

    Attributes:
        table: What was published.
        figures: All figures, calibrated ones too.
        pairs: Orders, of unseen figures: at least one of the two is.
        median: Median of the absolute errors of unseen figures; None: all seen.
        worst: The largest of them.
    """

    table: Table
    figures: tuple[Figure, ...]
    pairs: tuple[Pair, ...]
    median: float | None
    worst: float | None

    @property
    def holds(self) -> bool:
        """Whether the table's claim holds."""
        return self.median is None or (
            self.median <= self.table.median and self.worst_error <= self.table.worst
        )

    @property
    def worst_error(self) -> float:
        """The largest absolute error of an unseen figure; 0 without any."""
        return self.worst or 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """An experiment played again."""

    name: str
    published: Published
    tables: tuple[TableVerdict, ...]
    wall_s: float

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Orders of all tables."""
        return tuple(p for table in self.tables for p in table.pairs)

    @property
    def misses(self) -> tuple[Figure, ...]:
        """Unseen figures beyond what is claimed."""
        return tuple(
            f
            for table in self.tables
            for f in table.figures
            if not (f.within or f.cell.seen)
        )


def right_share(verdicts: Sequence[Verdict]) -> float:
    """Return the share of published pairs whose order comes out; nan without any."""
    pairs = [p.right for v in verdicts for p in v.pairs]
    return sum(pairs) / len(pairs) if pairs else float("nan")


def judge(
    name: str, published: Published, measured: Measured, wall_s: float
) -> Verdict:
    """Compare what was measured with what was published.

    Cells that were not measured (a quick run plays some only) are left out.
    """
    tables = tuple(_judge(t, published, measured) for t in published.tables)
    return Verdict(name, published, tables, wall_s)


def _judge(table: Table, published: Published, measured: Measured) -> TableVerdict:
    figures = []
    for cell in table.cells():
        ours = measured.get(cell.key)
        if ours is None:
            continue
        error = ours - cell.value
        if table.error == "relative":
            error /= cell.value
        within = abs(error) <= table.worst
        why = None if within else published.why(cell)
        figures.append(Figure(cell, ours, error, within, why))
    unseen = [abs(f.error) for f in figures if not f.cell.seen]
    return TableVerdict(
        table,
        tuple(figures),
        tuple(_pairs(table, figures)),
        median(unseen) if unseen else None,
        max(unseen) if unseen else None,
    )


def _pairs(table: Table, figures: list[Figure]) -> Iterator[Pair]:
    if table.better == "target":
        return
    if table.pairs == "one":
        for f in figures:
            if f.cell.seen or abs(f.cell.value - 1) < table.tie:
                continue
            gains = f.cell.value > 1
            name = f"{f.cell.row}: {f.cell.system}"
            with_it, without = f"{name} with it", f"{name} without"
            better, worse = (with_it, without) if gains else (without, with_it)
            yield Pair(table.name, better, worse, (f.ours > 1) == gains)
        return
    for a, b in combinations(figures, 2):
        same = a.cell.row == b.cell.row
        if table.pairs == "column":
            same = a.cell.system == b.cell.system
        if table.pairs == "none" or not same or (a.cell.seen and b.cell.seen):
            continue
        low, high = sorted((a, b), key=lambda f: f.cell.value)
        if high.cell.value - low.cell.value < table.tie * abs(high.cell.value):
            continue
        best, rest = (high, low) if table.better == "higher" else (low, high)
        right = best.ours > rest.ours
        if table.better == "lower":
            right = best.ours < rest.ours
        yield Pair(table.name, _label(best), _label(rest), right)


def _label(figure: Figure) -> str:
    return f"{figure.cell.row}: {figure.cell.system}"
