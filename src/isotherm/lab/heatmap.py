"""Packing a page-heat map for a report, and the same map as a chart for export."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.lab.charts import CONFIG
from isotherm.observability.timeline import Timeline

Spec = dict[str, Any]

#: Cells along time; a phone shows no more.
MAP_COLUMNS: Final = 160
#: Steps of heat and of share: half the file of 256 each, and finer than an eye
#: tells apart.
HEAT_STEPS: Final = 31
SHARE_STEPS: Final = 31
#: Cells of an exported map: numbers, not pixels.
EXPORT_COLUMNS: Final = 80
EXPORT_ROWS: Final = 64


def pack_heat(line: Timeline) -> dict[str, Any]:
    """Return a heat map as JSON values.

    Heat is on a logarithmic scale: 0 is ``low_rate`` or less, ``HEAT_STEPS`` is
    ``high_rate`` or more, in accesses per page per second. Share is linear,
    ``SHARE_STEPS`` is all of the region's pages in the fastest tier. Both are a
    character a cell, column by column, row 0 the lowest page: the difference from
    the column before, modulo the steps and one, which packs better. Of a
    character's code 48 is taken.
    """
    heat, share, time_s = _cells(line, MAP_COLUMNS)
    low, high = _range(heat)
    scaled = np.log2(np.maximum(heat, low) / low) / np.log2(high / low)
    return {
        "columns": len(time_s),
        "rows": heat.shape[1],
        "pages": line.pages,
        "region_pages": line.region_pages,
        "end_s": round(float(time_s[-1]), 3),
        "low_rate": low,
        "high_rate": high,
        "heat_steps": HEAT_STEPS,
        "share_steps": SHARE_STEPS,
        "heat": _text(scaled, HEAT_STEPS),
        "share": _text(share, SHARE_STEPS),
    }


def unpack_cells(text: str, columns: int, steps: int) -> NDArray[np.int64]:
    """Return what ``pack_heat`` packed: int64[columns, rows]."""
    step = np.array([ord(one) for one in text]).reshape(columns, -1) - 48
    level: NDArray[np.int64] = step.cumsum(axis=0) % (steps + 1)
    return level


def _cells(
    line: Timeline, columns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return heat and share by column and row, and the columns' ends in seconds."""
    bins = len(line.epochs)
    step = max(1, -(-bins // columns))
    starts = np.arange(0, bins, step)
    weight = line.epochs.astype(np.float64)[:, None]
    total = np.add.reduceat(weight, starts)
    heat = np.add.reduceat(line.heat * weight, starts) / total
    share = np.add.reduceat(line.fast_share * weight, starts) / total
    time_s = np.cumsum(np.add.reduceat(line.series["dt_ns"], starts)) / 1e9
    return heat, share, time_s


def _range(heat: NDArray[np.floating]) -> tuple[float, float]:
    """Return the ends of the colour scale: an eighth of the mean, 99.5 %."""
    mean = float(heat.mean()) or 1.0
    high = max(float(np.quantile(heat, 0.995)), 2 * mean)
    return mean / 8, high


def _text(share: NDArray[np.floating], steps: int) -> str:
    level = np.clip(np.rint(share * steps), 0, steps).astype(np.int64)
    step = np.diff(level, axis=0, prepend=np.zeros((1, level.shape[1]), np.int64))
    codes: bytes = (step % (steps + 1) + 48).astype(np.uint8).tobytes()
    return codes.decode("ascii")


def describe_heat(policy: str, line: Timeline) -> str:
    """Return in words what a map shows, for a screen reader."""
    accesses = np.maximum(line.series["accesses"], 1)
    share = line.series["fast_accesses"] / accesses
    tenth = max(1, len(share) // 10)
    moves = int(
        line.series["promoted_pages"].sum() + line.series["demoted_pages"].sum()
    )
    return (
        f"Page heat over time under {policy}: {share[:tenth].mean():.0%} of accesses"
        f" come from fast memory in the first tenth of the run,"
        f" {share[-tenth:].mean():.0%} in the last, with {moves} page moves."
    )


def heat_chart(line: Timeline) -> Spec:
    """Return the map as a Vega-Lite chart of at most 80 x 64 cells of numbers."""
    heat, share, time_s = _cells(line, EXPORT_COLUMNS)
    low, high = _range(heat)
    rows = heat.shape[1]
    step = max(1, -(-rows // EXPORT_ROWS))
    starts = np.arange(0, rows, step)
    nr = np.diff(np.append(starts, rows))
    rate = np.add.reduceat(heat, starts, axis=1) / nr
    fast = np.add.reduceat(share, starts, axis=1) / nr
    begins = np.concatenate([[0.0], time_s[:-1]])
    edges = np.append(starts * line.region_pages, line.pages)
    values = [
        {
            "from_s": round(float(begins[c]), 3),
            "to_s": round(float(time_s[c]), 3),
            "first": int(edges[r]),
            "end": int(edges[r + 1]),
            "rate": float(f"{rate[c, r]:.4g}"),
            "fast": round(float(fast[c, r]), 3),
        }
        for c in range(len(time_s))
        for r in range(len(starts))
    ]
    return heat_form(values, low, high)


def heat_form(values: Sequence[Mapping[str, float]], low: float, high: float) -> Spec:
    """Return the chart of some cells; without any a form that a page fills.

    Args:
        values: ``from_s``, ``to_s``, ``first`` and ``end`` page, ``rate``, ``fast``.
        low: Rate at the cold end of the colours.
        high: Rate at the hot end.
    """
    place: Spec = {
        "x": {
            "field": "from_s",
            "type": "quantitative",
            "scale": {"nice": False},
            "axis": {"title": "seconds", "grid": False},
        },
        "x2": {"field": "to_s"},
        "y": {
            "field": "first",
            "type": "quantitative",
            "scale": {"nice": False},
            "axis": {"title": "page", "grid": False, "format": "~s"},
        },
        "y2": {"field": "end"},
    }

    def ramp(title: str, colours: list[str]) -> Spec:
        return {
            "field": "rate",
            "type": "quantitative",
            "scale": {
                "type": "log",
                "domain": [low, high],
                "range": colours,
                "clamp": True,
            },
            "legend": {"title": title, "format": ".2~g", "tickCount": 4},
        }

    return {
        "width": "container",
        "height": 400,
        "config": CONFIG,
        "data": {"values": list(values)},
        "transform": [{"calculate": f"max(datum.rate, {low})", "as": "rate"}],
        "layer": [
            {
                "mark": {"type": "rect"},
                "encoding": {
                    **place,
                    "color": ramp("in slow memory, /page/s", ["#f1f5fb", "#084594"]),
                },
            },
            {
                "mark": {"type": "rect"},
                "encoding": {
                    **place,
                    "color": ramp("in fast memory, /page/s", ["#ffe9cf", "#b33c00"]),
                    "opacity": {
                        "field": "fast",
                        "type": "quantitative",
                        "scale": {"domain": [0, 1], "range": [0, 1]},
                        "legend": None,
                    },
                },
            },
        ],
        "resolve": {"scale": {"color": "independent"}},
    }
