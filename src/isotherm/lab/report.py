"""The HTML report: one file, complete in itself, that asks nothing of the network."""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Final

from isotherm import __version__
from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.lab.catalogue import BOUNDS
from isotherm.lab.charts import (
    time_series,
    timeline_chart,
)
from isotherm.lab.heatmap import describe_heat, pack_heat
from isotherm.lab.report_parts import card_html, key_html, standings_html, table_html
from isotherm.lab.simulate import SimulationSpec
from isotherm.lab.summary import (
    IN_HARDWARE,
    REFERENCES,
    contenders,
    headline,
    name_of,
    settings_of,
    standings,
)
from isotherm.observability.jsonable import encode_json
from isotherm.observability.timeline import Timeline

Result = Mapping[str, Any]

#: The ratio whose runs are shown over time: the one nearest to this.
TIMELINE_RATIO: Final = 0.2
#: Bounds of which a line over time would say nothing.
_STILL: Final = frozenset({"all-fast", "all-slow", "static-oracle"})
#: Heat maps of one workload: more would make the file heavy.
MAX_MAPS: Final = 4


#: Chart over time, its series, its unit.
_SERIES: Final = (
    ("access", "access_ns", "ns an access"),
    ("moved", "moved_mib_s", "MiB a second"),
)


def timeline_wanted(
    specs: Sequence[SimulationSpec],
) -> Callable[[SimulationSpec], bool]:
    """Return which runs of a grid must keep a timeline for its report.

    One ratio, seed, rate, placement and period per workload and machine.
    """
    ratio = min(
        (spec.fast_ratio for spec in specs),
        key=lambda value: abs(value - TIMELINE_RATIO),
        default=TIMELINE_RATIO,
    )
    chosen: dict[tuple[str, str, str], SimulationSpec] = {}
    for spec in specs:
        if spec.fast_ratio == ratio and spec.policy not in _STILL:
            chosen.setdefault((spec.policy, spec.workload, spec.machine), spec)

    def wanted(spec: SimulationSpec) -> bool:
        return chosen.get((spec.policy, spec.workload, spec.machine)) == spec

    return wanted


def write_report(
    path: Path,
    results: Sequence[Result],
    timelines: Mapping[int, Timeline] | None = None,
    *,
    kicker: str | None = None,
) -> None:
    """Write a report, whole or not at all.

    Args:
        path: The HTML file.
        results: Judged results.
        timelines: By index into ``results``; those runs are shown over time.
        kicker: A line over the headline; None: the machines and their setting.

    Raises:
        UnsupportedError: The package with the charts' JavaScript is missing.
        UsageError: The file cannot be written.
    """
    text = render_report(results, timelines or {}, kicker=kicker)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"{path}: cannot write: {error.strerror}") from error


def render_report(
    results: Sequence[Result],
    timelines: Mapping[int, Timeline],
    *,
    kicker: str | None = None,
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
        charts.append({"id": f"chart-{number}", "spec": spec})
    over_time = _over_time(results, timelines)
    ratios = sorted({row["fast_ratio"] for row in results})
    many = len(ratios) > 1
    key = key_html(contenders(results), shading=True)
    single = " single" if len(cards) == 1 else ""
    parts = {
        "title": escape(title),
        "kicker": escape(kicker or _kicker(results)),
        "lead": "\n".join(f'<p class="lead">{escape(text)}</p>' for text in sentences),
        "cells": escape(_cells_in_words(results)),
        "hardware": escape(_hardware_note(results)),
        "standings": standings_html(standings(results)),
        "ratio_title": "Slowdown against fast memory"
        if many
        else f"Slowdown with {ratios[0]:.0%} fast memory",
        "ratio_words": "Lower is better. Shaded areas lie beyond the bounds: below,"
        " better than knowing the future; above, worse than having no fast memory."
        + (" Ratios are on a logarithmic scale." if many else ""),
        "key": key,
        "cards": "\n".join(cards),
        "over_time": _template("over_time.html").replace(
            "{{key}}", key_html(contenders(results), shading=False)
        )
        if over_time
        else "",
        "table": table_html(results),
        "version": __version__,
        "css": _template("report.css"),
        "data": _for_script(
            encode_json({"charts": charts, "over_time": over_time}).decode()
        ),
        "vega": _for_script(vega_bundle()),
        "js": _for_script(_template("report.js")),
    }
    text = _template("report.html").replace(
        'class="cards"', f'class="cards{single}"', 1
    )
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], text)


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


def _over_time(
    results: Sequence[Result], timelines: Mapping[int, Timeline]
) -> list[dict[str, Any]]:
    """Return what is shown over time, a part per workload and machine."""
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for index in sorted(timelines):
        row = results[index]
        if len(timelines[index].epochs):
            key = (row["workload"], row["machine"])
            groups.setdefault(key, {}).setdefault(row["policy"], index)
    parts = []
    for (workload, machine), found in groups.items():
        by_slowdown = sorted(
            found, key=lambda policy: results[found[policy]]["slowdown"]
        )
        online = [policy for policy in by_slowdown if policy not in BOUNDS]
        if not online:
            continue
        subject = "isotherm" if "isotherm" in found else online[0]
        rivals = [p for p in online if p not in (subject, "first-touch")]
        rivals.sort(key=lambda policy: policy in IN_HARDWARE)
        wanted = [subject, *rivals[: MAX_MAPS - 1], "first-touch", "clairvoyant"]
        shown = [p for p in dict.fromkeys(wanted) if p in found][: MAX_MAPS + 1]
        maps = {
            policy: {
                **pack_heat(timelines[found[policy]]),
                "words": describe_heat(policy, timelines[found[policy]]),
            }
            for policy in shown
        }
        series = {
            policy: time_series(timelines[found[policy]])
            for policy in found
            if policy not in REFERENCES or policy == "first-touch"
        }
        ratio = results[found[subject]]["fast_ratio"]
        name = f"{name_of(workload)}, {ratio:.0%} fast"
        if len({row["machine"] for row in results}) > 1:
            name += f", {name_of(machine)}"
        parts.append(
            {
                "name": name,
                "structure": _structure(timelines[found[subject]]),
                "maps": maps,
                "left": subject,
                "right": rivals[0] if rivals else shown[-1],
                "series": series,
                "charts": {
                    name: {
                        **timeline_chart(series, key, unit),
                        "description": _series_words(series, key, unit),
                    }
                    for name, key, unit in _SERIES
                },
            }
        )
    return parts


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
