"""Packing a page-heat map for a report: two bytes a cell."""

import base64
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.observability.timeline import Timeline

#: Cells along time; a phone shows no more.
MAP_COLUMNS: Final = 160


def pack_heat(line: Timeline) -> dict[str, Any]:
    """Return a heat map as JSON values.

    Heat is on a logarithmic scale: byte 0 is ``low_rate`` or less, 255 is
    ``high_rate`` or more, in accesses per page per second. Share is linear,
    255 is all of the region's pages in the fastest tier. Both are base64 of
    uint8[columns, rows], row 0 the lowest page.
    """
    bins = len(line.epochs)
    step = max(1, -(-bins // MAP_COLUMNS))
    starts = np.arange(0, bins, step)
    weight = line.epochs.astype(np.float64)[:, None]
    total = np.add.reduceat(weight, starts)
    heat = np.add.reduceat(line.heat * weight, starts) / total
    share = np.add.reduceat(line.fast_share * weight, starts) / total
    low, high = _range(heat)
    scaled = np.log2(np.maximum(heat, low) / low) / np.log2(high / low)
    time_s = np.cumsum(np.add.reduceat(line.series["dt_ns"], starts)) / 1e9
    return {
        "columns": len(starts),
        "rows": heat.shape[1],
        "pages": line.pages,
        "region_pages": line.region_pages,
        "end_s": round(float(time_s[-1]), 3),
        "low_rate": low,
        "high_rate": high,
        "heat": _bytes(scaled),
        "share": _bytes(share),
    }


def _range(heat: NDArray[np.floating]) -> tuple[float, float]:
    """Return the ends of the colour scale: an eighth of the mean, 99.5 %."""
    mean = float(heat.mean()) or 1.0
    high = max(float(np.quantile(heat, 0.995)), 2 * mean)
    return mean / 8, high


def _bytes(share: NDArray[np.floating]) -> str:
    packed = np.clip(np.rint(share * 255), 0, 255).astype(np.uint8)
    return base64.b64encode(packed.tobytes()).decode()


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
