"""The regret of every policy in every cell, as a table in colours and as a chart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from isotherm.lab.charts import CONFIG
from isotherm.lab.summary import IN_HARDWARE, contenders, mean, name_of

Result = Mapping[str, Any]
Spec = dict[str, Any]

#: Column of a matrix, what it is called.
AXES: Final = {
    "workload": "workload",
    "machine": "machine",
    "fast_ratio": "fast memory",
}
#: Regret up to which a colour holds; the last one holds above.
STEPS: Final = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 3.0)
#: Blue is better than never moving (regret 1), orange worse: told apart with any
#: colour vision (ColorBrewer's BrBG and PuOr idea, in this report's two hues).
COLOURS: Final = (
    "#08519c",
    "#2171b5",
    "#6baed6",
    "#bdd7e7",
    "#eaf1f8",
    "#fde0c5",
    "#f8a26a",
    "#c24e00",
)
#: Text on them.
INKS: Final = ("#fff", "#fff", "#000", "#000", "#000", "#000", "#000", "#fff")


@dataclass(frozen=True, slots=True)
class Matrix:
    """Mean regret by policy and column.

    Attributes:
        axis: What the columns are, a key of ``AXES``.
        policies: Lowest mean first, those in hardware last.
        columns: Their names in results.
        values: Mean regret and worst, by policy and column; None: nothing to gain.
        means: Over all cells, by policy.
    """

    axis: str
    policies: Sequence[str]
    columns: Sequence[Any]
    values: Mapping[tuple[str, Any], tuple[float, float] | None]
    means: Mapping[str, tuple[float, float]]


def matrices(results: Sequence[Result]) -> list[Matrix]:
    """Return a matrix per axis that varies; by workload in any case.

    None of a grid without a regret: the bounds or first-touch are missing.
    """
    found = []
    for axis in AXES:
        columns = list(dict.fromkeys(row[axis] for row in results))
        if axis == "workload" or len(columns) > 1:
            made = _matrix(results, axis, columns)
            if made is not None:
                found.append(made)
    return found


def _matrix(
    results: Sequence[Result], axis: str, columns: Sequence[Any]
) -> Matrix | None:
    values: dict[tuple[str, Any], tuple[float, float] | None] = {}
    means: dict[str, tuple[float, float]] = {}
    for policy in contenders(results):
        rows = [row for row in results if row["policy"] == policy]
        for column in columns:
            values[policy, column] = _mean_and_worst(
                [row["regret"] for row in rows if row[axis] == column]
            )
        whole = _mean_and_worst([row["regret"] for row in rows])
        if whole is not None:
            means[policy] = whole
    if not means:
        return None
    if axis == "fast_ratio":
        columns = sorted(columns, reverse=True)
    policies = sorted(means, key=lambda name: (name in IN_HARDWARE, means[name][0]))
    return Matrix(axis, policies, columns, values, means)


def _mean_and_worst(regrets: Sequence[float | None]) -> tuple[float, float] | None:
    known = [regret for regret in regrets if regret is not None]
    middle = mean(known)
    return None if middle is None else (middle, max(known))


def step_of(regret: float) -> int:
    """Return the colour of a regret as it is written, an index into ``COLOURS``.

    >>> step_of(0.0), step_of(0.26), step_of(40.0)
    (0, 2, 7)
    """
    return sum(round(regret, 2) > step for step in STEPS)


def column_name(axis: str, column: Any) -> str:
    """Return the heading of a column."""
    if axis == "fast_ratio":
        return f"{100 * column:.3g} %"
    return name_of(str(column))


def _written(regret: float) -> str:
    return f"{regret:.2f}" if abs(regret) < 9.95 else f"{regret:.0f}"


def matrix_html(matrix: Matrix) -> str:
    """Return the matrix as a table; its cells are buttons that choose a run."""
    heads = "".join(
        f"<th scope=col>{escape(column_name(matrix.axis, column))}</th>"
        for column in matrix.columns
    )
    head = (
        "<table class=matrix><thead><tr><th scope=col>policy</th><th scope=col>mean"
        f"</th>{heads}</tr></thead><tbody>"
    )
    lines = [head]
    for policy in matrix.policies:
        own = ' class="own"' if policy == "isotherm" else ""
        cells = [_cell(policy, None, None, matrix.means[policy])]
        cells += [
            _cell(policy, matrix.axis, column, matrix.values[policy, column])
            for column in matrix.columns
        ]
        lines.append(
            f"<tr{own}><th scope=row>{escape(policy)}</th>{''.join(cells)}</tr>"
        )
    lines.append("</tbody></table>")
    return "".join(lines)


def _cell(
    policy: str, axis: str | None, column: Any, value: tuple[float, float] | None
) -> str:
    if value is None:
        return '<td class=none title="nothing to be gained, or no bounds">-</td>'
    regret, worst = value
    title = f"{policy}: mean regret {regret:.3f}, worst {worst:.3f}"
    text = _written(regret)
    if axis is None:
        return (
            f'<td class="g{step_of(regret)} mean" title="{escape(title)}">{text}</td>'
        )
    where = escape(str(column), quote=True)
    return (
        f'<td class=g{step_of(regret)}><button type=button title="{escape(title)}"'
        f' data-go="{escape(policy)}" data-{axis.replace("_", "-")}="{where}">{text}'
        "</button></td>"
    )


def matrix_chart(matrix: Matrix) -> Spec:
    """Return the matrix as a Vega-Lite chart, for export."""
    values = [
        {
            "policy": policy,
            "column": column_name(matrix.axis, column),
            "regret": round(found[0], 4),
            "worst": round(found[1], 4),
            "text": _written(found[0]),
            "step": step_of(found[0]),
        }
        for policy in matrix.policies
        for column in matrix.columns
        if (found := matrix.values[policy, column]) is not None
    ]
    columns = [column_name(matrix.axis, column) for column in matrix.columns]
    axis: Spec = {"ticks": False, "domain": False, "title": None}
    steps = list(range(len(COLOURS)))

    def scale(colours: Sequence[str]) -> Spec:
        return {"domain": steps, "range": list(colours)}

    place = {
        "x": {
            "field": "column",
            "type": "nominal",
            "sort": columns,
            "axis": {**axis, "orient": "top", "labelAngle": -35, "labelLimit": 130},
        },
        "y": {
            "field": "policy",
            "type": "nominal",
            "sort": list(matrix.policies),
            "axis": axis,
        },
    }
    return {
        "width": {"step": 54},
        "height": {"step": 26},
        "title": {
            "text": f"mean regret by {AXES[matrix.axis]}",
            "subtitle": "0: as good as knowing the future; 1: as good as never moving",
            "anchor": "start",
        },
        "config": CONFIG,
        "data": {"values": values},
        "layer": [
            {
                "mark": {"type": "rect", "stroke": "#fff"},
                "encoding": {
                    **place,
                    "color": {
                        "field": "step",
                        "type": "ordinal",
                        "legend": None,
                        "scale": scale(COLOURS),
                    },
                },
            },
            {
                "mark": {"type": "text", "fontSize": 12},
                "encoding": {
                    **place,
                    "text": {"field": "text"},
                    "color": {
                        "field": "step",
                        "type": "ordinal",
                        "legend": None,
                        "scale": scale(INKS),
                    },
                },
            },
        ],
        "resolve": {"scale": {"color": "independent"}},
    }
