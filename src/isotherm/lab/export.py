"""The charts of a report as files: Vega-Lite JSON, and PNG drawn without a browser."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from isotherm.core.errors import UnsupportedError
from isotherm.core.files import file_error
from isotherm.lab.charts import slowdown_chart
from isotherm.lab.heatmap import heat_chart
from isotherm.lab.matrix import AXES, matrices, matrix_chart
from isotherm.lab.money import ASSUMED, Costs
from isotherm.lab.palette import standalone
from isotherm.lab.pareto import markets, pareto_chart
from isotherm.lab.shown import (
    SERIES,
    group_name,
    groups_of,
    in_lines,
    run_charts,
    run_series,
)
from isotherm.lab.summary import name_of, settings_of
from isotherm.lab.time_charts import time_series, timeline_chart
from isotherm.observability.timeline import Timeline

Result = Mapping[str, Any]
Spec = dict[str, Any]

#: Pixels of a PNG for one of the chart.
PNG_SCALE: Final = 2.0


def export_charts(
    directory: Path,
    results: Sequence[Result],
    timelines: Mapping[int, Timeline] | None = None,
    *,
    costs: Costs = ASSUMED,
    machines: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write every chart of a report as ``NAME.vl.json`` and ``NAME.png``.

    Of the runs over time, the subject's map and strips of every cell: see
    :func:`isotherm.lab.shown.groups_of`.

    Args:
        directory: Made if missing; files of the same names are replaced.
        results: Judged results.
        timelines: By index into ``results``.
        costs: Prices of memory.
        machines: Files of machines among the results.
        progress: Called with charts done and charts in all.

    Returns:
        The files, JSON before PNG of each chart.

    Raises:
        UnsupportedError: vl-convert-python is not installed.
        UsageError: The directory cannot be written.
    """
    try:
        import vl_convert  # noqa: PLC0415  # 40 MB, only for charts
    except ImportError:
        raise UnsupportedError(
            "export: vl-convert-python is not installed",
            hint="pip install 'isotherm[lab]'",
        ) from None
    charts = list(_charts(results, timelines or {}, costs, machines))
    files: list[Path] = []
    names: dict[str, int] = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for number, (title, spec) in enumerate(charts, 1):
            name = slug(title)
            names[name] = names.get(name, 0) + 1
            if names[name] > 1:
                name += f"-{names[name]}"
            text = json.dumps(standalone(spec, title), allow_nan=False)
            paths = (directory / f"{name}.vl.json", directory / f"{name}.png")
            paths[0].write_text(text, encoding="utf-8")
            paths[1].write_bytes(vl_convert.vegalite_to_png(text, scale=PNG_SCALE))
            files += paths
            if progress is not None:
                progress(number, len(charts))
    except OSError as error:
        raise file_error(directory, error, "cannot write") from error
    return files


def _charts(
    results: Sequence[Result],
    timelines: Mapping[int, Timeline],
    costs: Costs,
    machines: Sequence[str],
) -> Iterator[tuple[str, Spec]]:
    """Return every chart with its title."""
    for market in markets(results, costs, machines):
        where = f"{name_of(market.workload)} on {name_of(market.machine)}"
        yield f"cost: {where}", pareto_chart(market)
    for matrix in matrices(results):
        yield f"regret by {AXES[matrix.axis]}", matrix_chart(matrix)
    for (machine, workload, *_), rows in settings_of(results):
        where = f"{name_of(workload)} on {name_of(machine)}"
        yield f"slowdown: {where}", slowdown_chart(rows)
    groups = groups_of(results, timelines)
    for group in groups:
        place = group_name(group, groups)
        series = {policy: time_series(line) for policy, line in in_lines(group).items()}
        for name, key, unit in SERIES:
            yield f"{name}: {place}", timeline_chart(series, key, unit)
        subject = group.full[0]
        line = group.lines[subject][1]
        yield f"heat: {place}, {subject}", heat_chart(line)
        for name, spec in run_charts(run_series(line)).items():
            yield f"{name}: {place}, {subject}", spec


def slug(text: str) -> str:
    """Return a name that any file system takes.

    >>> slug("heat redis.7.2, 0.2 fast isotherm")
    'heat-redis.7.2-0.2-fast-isotherm'
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "chart"
