"""Figures over time: a line per policy, as series and as Vega-Lite charts."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from isotherm.core.units import PAGE_BYTES
from isotherm.lab.charts import CONFIG, style_scales
from isotherm.observability.timeline import Timeline

Spec = dict[str, Any]

#: Points of a line in a timeline: more would be a smear at a phone's width.
TIMELINE_POINTS: Final = 80
#: A last bin with fewer accesses an epoch than this share of the one before is
#: the run's cut-off end; what it shows is the cut.
_WHOLE: Final = 0.8


def time_series(line: Timeline, parallelism: float = 1.0) -> dict[str, list[float]]:
    """Return the small series of a report: ``time_s``, ``access_ns``, ``moved_mib_s``.

    ``access_ns`` is what an access takes with moving and looking shared out:
    ``(latency + migration + all hint costs) / accesses``. At most
    ``TIMELINE_POINTS`` points, each the mean over its stretch; without the last
    bin where the run ended in the midst of it.
    """
    bins = whole_bins(line)
    step = max(1, -(-bins // TIMELINE_POINTS))
    starts = np.arange(0, bins, step)
    total = {
        name: np.add.reduceat(value[:bins], starts)
        for name, value in line.series.items()
    }
    time_s = np.cumsum(total["dt_ns"]) / 1e9
    spent = (
        total["latency_ns"] / parallelism
        + total["migration_ns"]
        + total["application_ns"]
        + total["background_ns"]
    )
    some = total["accesses"] > 0
    # A stretch without accesses repeats the one before: idle is not fast.
    last = np.maximum.accumulate(np.where(some, np.arange(len(some)), 0))
    access = (spent / np.maximum(total["accesses"], 1))[last]
    pages = total["promoted_pages"] + total["demoted_pages"]
    moved = pages * PAGE_BYTES / 2**20 / np.maximum(total["dt_ns"] / 1e9, 1e-9)
    return {
        "time_s": [round(float(value), 4) for value in time_s],
        "access_ns": [round(float(value), 3) for value in access],
        "moved_mib_s": [round(float(value), 4) for value in moved],
    }


def whole_bins(line: Timeline) -> int:
    """Return the bins without a last one in the midst of which the run ended."""
    bins = len(line.epochs)
    if bins < 3:
        return bins
    last, before = line.series["accesses"][[-1, -2]] / line.epochs[[-1, -2]]
    return bins - 1 if last < _WHOLE * before else bins


def timeline_chart(
    series: Mapping[str, Mapping[str, Sequence[float]]], name: str, title: str
) -> Spec:
    """Return one figure over time, a line per policy.

    Args:
        series: By policy, what ``time_series`` returns.
        name: ``access_ns`` or ``moved_mib_s``.
        title: Of the vertical axis.
    """
    policies = sorted(series, key=lambda policy: policy == "isotherm")
    values = [
        {"policy": policy, "t": t, "value": value}
        for policy in policies
        for t, value in zip(series[policy]["time_s"], series[policy][name], strict=True)
    ]
    scales = style_scales(policies)
    if name == "access_ns":
        scale: Spec = {"zero": False, "domainMax": _series_cap(series, name)}
        ticks: Spec = {"tickCount": 5}
    else:  # from nothing to all of memory: linear near 0, logarithmic above
        scale = {"type": "symlog", "constant": 0.1}
        ticks = {"values": [0, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]}
    return {
        "width": "container",
        "height": 230,
        "config": CONFIG,
        "data": {"values": values},
        "mark": {"type": "line", "interpolate": "step-before", "clip": True},
        "encoding": {
            "x": {
                "field": "t",
                "type": "quantitative",
                "axis": {"title": "seconds", "grid": False, "tickCount": 6},
            },
            "y": {
                "field": "value",
                "type": "quantitative",
                "scale": scale,
                "axis": {"title": title, "format": ".3~g", **ticks},
            },
            "color": scales["color"],
            "strokeDash": scales["strokeDash"],
            "strokeWidth": {
                "condition": {"test": "datum.policy == 'isotherm'", "value": 2.8},
                "value": 1.3,
            },
            "tooltip": [
                {"field": "policy", "type": "nominal"},
                {"field": "t", "type": "quantitative", "title": "seconds"},
                {"field": "value", "type": "quantitative", "format": ".4~g"},
            ],
        },
    }


def _series_cap(
    series: Mapping[str, Mapping[str, Sequence[float]]], name: str
) -> float:
    """Return where the view ends: some above what first-touch and isotherm need."""
    near = [policy for policy in ("first-touch", "isotherm") if policy in series]
    return 1.15 * max(max(series[policy][name]) for policy in near or series)
