"""The HTML report: one file, complete in itself, that asks nothing of the network."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Final

from isotherm import __version__
from isotherm.core.errors import UnsupportedError
from isotherm.core.files import file_error, output_file
from isotherm.lab.heatmap import heat_form
from isotherm.lab.matrix import AXES, matrices, matrix_chart, matrix_html
from isotherm.lab.money import ASSUMED, Costs
from isotherm.lab.palette import DARK
from isotherm.lab.pareto import (
    costs_in_words,
    describe_market,
    front_html,
    markets,
    pareto_chart,
)
from isotherm.lab.report_parts import card_html, key_html, standings_html, table_html
from isotherm.lab.shown import (
    PARTS,
    SERIES,
    Group,
    group_name,
    groups_of,
    in_lines,
    pack,
    run_charts,
    run_values,
    timeline_wanted,
)
from isotherm.lab.summary import (
    IN_HARDWARE,
    contenders,
    headline,
    name_of,
    settings_of,
    standings,
)
from isotherm.lab.time_charts import time_series, timeline_chart
from isotherm.observability.jsonable import encode_json
from isotherm.observability.timeline import Timeline

__all__ = ["render_report", "timeline_wanted", "vega_bundle", "write_report"]

Result = Mapping[str, Any]

#: Runs in the table of all numbers: a browser shows a million cells slowly.
MAX_ROWS: Final = 3000


def write_report(
    path: Path,
    results: Sequence[Result],
    timelines: Mapping[int, Timeline] | None = None,
    *,
    kicker: str | None = None,
    costs: Costs = ASSUMED,
    machines: Sequence[str] = (),
) -> None:
    """Write a report, whole or not at all.

    Args:
        path: The HTML file.
        results: Judged results.
        timelines: By index into ``results``; those runs are shown over time.
        kicker: A line over the headline; None: the machines and their setting.
        costs: Prices of memory.
        machines: Files of machines among the results; others are known by name.

    Raises:
        UnsupportedError: The package with the charts' JavaScript is missing.
        UsageError: The file cannot be written, or the path is no file.
        NotPermittedError: Its folder may not be written to.
    """
    text = render_report(
        results, timelines or {}, kicker=kicker, costs=costs, machines=machines
    )
    target = output_file(path)
    partial = target.with_name(target.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise file_error(path, error, "cannot write") from error


def render_report(
    results: Sequence[Result],
    timelines: Mapping[int, Timeline],
    *,
    kicker: str | None = None,
    costs: Costs = ASSUMED,
    machines: Sequence[str] = (),
) -> str:
    """Return the report as one HTML document.

    Raises:
        UnsupportedError: The package with the charts' JavaScript is missing.
    """
    title, sentences = headline(results)
    settings = settings_of(results)
    cards, charts = [], []
    for number, (setting, rows) in enumerate(settings):
        card, spec = card_html(f"chart-{number}", setting, rows, settings)
        cards.append(card)
        name = f"slowdown: {name_of(setting[1])} on {name_of(setting[0])}"
        charts.append({"id": f"chart-{number}", "name": name, "spec": spec})
    groups = groups_of(results, timelines)
    ratios = sorted({row["fast_ratio"] for row in results})
    many = len(ratios) > 1
    key = key_html(contenders(results), shading=True)
    single = " single" if len(cards) == 1 else ""
    market, market_data = _market_part(results, costs, machines)
    matrix, matrix_data = _matrix_part(results)
    data = {
        "charts": charts,
        "markets": market_data,
        "matrices": matrix_data,
        "groups": [_group_values(group, groups) for group in groups],
        "run_charts": run_charts([]),
        "heat_form": heat_form([], 1.0, 2.0),
        "dark": DARK,
    }
    parts = {
        "title": escape(title),
        "kicker": escape(kicker or _kicker(results)),
        "lead": "\n".join(f'<p class="lead">{escape(text)}</p>' for text in sentences),
        "cells": escape(_cells_in_words(results)),
        "hardware": escape(_hardware_note(results)),
        "standings": standings_html(standings(results)),
        "market": market,
        "matrix": matrix,
        "ratio_title": "Slowdown against fast memory"
        if many
        else f"Slowdown with {ratios[0]:.0%} fast memory",
        "ratio_words": "Lower is better. Shaded areas lie beyond the bounds: below,"
        " better than knowing the future; above, worse than having no fast memory."
        + (" Ratios are on a logarithmic scale." if many else ""),
        "key": key,
        "single": single,
        "cards": "\n".join(cards),
        "runs": _runs_part(results, groups),
        "table": table_html(results[:MAX_ROWS]),
        "table_words": "One row a run. Click a heading to sort, type to filter."
        if len(results) <= MAX_ROWS
        else f"The first {MAX_ROWS} of {len(results)} runs; compare --out keeps all.",
        "version": __version__,
        "css": _template("report.css"),
        "data": _for_script(encode_json(data).decode()),
        "blobs": "\n".join(_blobs(groups)),
        "vega": _for_script(vega_bundle()),
        "js": _for_script(_template("report.js") + _template("runs.js")),
    }
    return _fill("report.html", parts)


def _fill(template: str, parts: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _template(template))


def _market_part(
    results: Sequence[Result], costs: Costs, machines: Sequence[str]
) -> tuple[str, list[dict[str, Any]]]:
    """Return the section on prices, and its charts; nothing without a price."""
    found = markets(results, costs, machines)
    if not found:
        return "", []
    machines_shown = dict.fromkeys(one.machine for one in found)
    data = []
    for one in found:
        name = name_of(one.workload)
        if len(machines_shown) > 1:
            name += f" on {name_of(one.machine)}"
        data.append(
            {
                "label": name,
                "name": f"cost: {name_of(one.workload)} on {name_of(one.machine)}",
                "workload": one.workload_key,
                "machine": one.machine,
                "spec": {
                    **pareto_chart(one),
                    "description": describe_market(one),
                },
                "table": front_html(one),
            }
        )
    parts = {
        "prices": escape(costs_in_words(costs)),
        "key": key_html(contenders(results), shading=False),
    }
    return _fill("market.html", parts), data


def _matrix_part(
    results: Sequence[Result],
) -> tuple[str, list[dict[str, Any]]]:
    """Return the section on regret, and its charts; nothing without a regret."""
    found = matrices(results)
    if not found:
        return "", []
    tables = "".join(
        f'<div class="scroll" tabindex="0" role="region" aria-label="regret by'
        f' {AXES[one.axis]}" data-axis="{AXES[one.axis]}">{matrix_html(one)}</div>'
        for one in found
    )
    data = [
        {
            "label": AXES[one.axis],
            "name": f"regret by {AXES[one.axis]}",
            "spec": matrix_chart(one),
        }
        for one in found
    ]
    return _fill("matrix.html", {"tables": tables}), data


def _runs_part(results: Sequence[Result], groups: Sequence[Group]) -> str:
    if not groups:
        return ""
    parts = {
        "key": key_html(contenders(results), shading=False),
        "parts": "".join(
            f'<li><span class="swatch" style="--c:{color};--d:{DARK[color]}"></span>'
            f"{escape(words)}</li>"
            for _, words, color in PARTS
        ),
        "left": _fill("run.html", {"side": "left"}),
        "right": _fill("run.html", {"side": "right"}),
    }
    return _fill("runs.html", parts)


def vega_bundle() -> str:
    """Return vega, vega-lite and vega-embed as one script, from the package.

    Raises:
        UnsupportedError: vl-convert-python is not installed.
    """
    try:
        import vl_convert  # noqa: PLC0415  # 40 MB, only for reports
    except ImportError:
        raise UnsupportedError(
            "report: vl-convert-python is not installed",
            hint="pip install 'isotherm[lab]'",
        ) from None
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg, unused-ignore]  # their stub forgets the default
    return bundle


def _template(name: str) -> str:
    return (
        resources.files("isotherm.lab")
        .joinpath("templates", name)
        .read_text(encoding="utf-8")
    )


def _for_script(text: str) -> str:
    """Return text that cannot end the script element that it stands in."""
    text = re.sub(r"</(script)", r"<\\/\1", text, flags=re.IGNORECASE)
    return text.replace("<!--", "<\\!--")


def _kicker(results: Sequence[Result]) -> str:
    machines = dict.fromkeys(name_of(row["machine"]) for row in results)
    rates = dict.fromkeys(
        "the traces' own times"
        if row["rate"] is None
        else f"{row['rate']:g} accesses a page and second"
        for row in results
    )
    placements = dict.fromkeys(row["placement"] for row in results)
    seeds = len({row["seed"] for row in results})
    words = [
        ", ".join(machines),
        ", ".join(rates),
        f"{', '.join(placements)} placement",
    ]
    if seeds > 1:
        words.append(f"{seeds} seeds")
    return " · ".join(words)


def _cells_in_words(results: Sequence[Result]) -> str:
    workloads = len({row["workload"] for row in results})
    ratios = len({row["fast_ratio"] for row in results})
    count = "one workload" if workloads == 1 else f"{workloads} workloads"
    share = "one fast-memory ratio" if ratios == 1 else f"{ratios} fast-memory ratios"
    return f"{count} and {share}"


def _hardware_note(results: Sequence[Result]) -> str:
    found = [policy for policy in contenders(results) if policy in IN_HARDWARE]
    if not found:
        return ""
    return (
        f"{', '.join(found)} comes last whatever its figures: a cache as hardware"
        " would run it sees every access, and no host can run it. The others are"
        " compared without it."
    )


def _group_values(group: Group, groups: Sequence[Group]) -> dict[str, Any]:
    """Return what the page needs to know of a group before it is chosen."""
    row = group.row
    return {
        "name": group_name(group, groups),
        "policies": list(group.full),
        "left": group.full[0],
        "right": group.rival,
        "workload": row["workload"],
        "machine": row["machine"],
        "fast_ratio": row["fast_ratio"],
        "seed": row["seed"],
        "rate": row["rate"],
        "placement": row["placement"],
        "structure": _structure(group.lines[group.full[0]][1]),
    }


def group_charts(group: Group) -> dict[str, Any]:
    """Return the lines over time of every policy of a group, and their numbers."""
    series = {policy: time_series(line) for policy, line in in_lines(group).items()}
    return {
        "series": series,
        "charts": {
            name: {
                **timeline_chart(series, key, unit),
                "description": _series_words(series, key, unit),
            }
            for name, key, unit in SERIES
        },
    }


def _blobs(groups: Sequence[Group]) -> list[str]:
    """Return what is unpacked only when a reader asks for it, as script elements."""
    blobs = []
    for number, group in enumerate(groups):
        found = {f"group-{number}": group_charts(group)}
        for place, policy in enumerate(group.full):
            row, line = group.lines[policy]
            found[f"run-{number}-{place}"] = run_values(policy, row, line)
        blobs += [
            f'<script type="text/plain" id="{name}">{pack(value)}</script>'
            for name, value in found.items()
        ]
    return blobs


def _structure(line: Timeline) -> float:
    """Return how much a map has to show: the map that is shown first has most."""
    return round(float(line.fast_share.std()), 4)


def _series_words(
    series: Mapping[str, Mapping[str, Sequence[float]]], name: str, unit: str
) -> str:
    said = ", ".join(
        f"{policy} from {line[name][0]:.3g} to {line[name][-1]:.3g}"
        for policy, line in series.items()
    )
    return f"Over the run, {unit}: {said}."
