"""What a run decided, small enough for a report: from the data of ``explain``."""

import errno as errno_names
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.lab.recorded import STRETCHES, RecordedRun, rank_of, read_recorded
from isotherm.observability.why import (
    COULD_NOT_MOVE,
    STAYED_FAST,
    STAYED_SLOW,
    page_ranges,
    reason_name,
)

#: Parts that a run's pages are told in.
PARTS: Final = 16
#: Page ranges named for one group of pages or moves.
MAX_RANGES: Final = 3
#: More tried moves than this are not looked at one by one: 1 GiB of columns.
MAX_MOVES: Final = 10_000_000
#: What became of pages that were not moved.
NOT_MOVED: Final = (STAYED_FAST, STAYED_SLOW, COULD_NOT_MOVE)


def decisions_of(directory: Path) -> dict[str, Any]:
    """Return what a recorded run decided, as JSON values.

    ``total``: pages up, down, sideways and failed, what moves promised and
    earned (ns; None where nobody can say). ``moved``: the same by stretch of
    time, direction, reason and errno, with some of the pages. ``why``: pages by
    what became of them, in words. ``parts``: each of ``PARTS`` ranges of pages
    with its own total and why. Empty for a run with more than ``MAX_MOVES``.

    Raises:
        UsageError: No recording.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415  # 0.1 s that --help must not pay

    if pq.read_metadata(directory / "moves.parquet").num_rows > MAX_MOVES:
        return {}
    whole = read_recorded(directory)
    return {
        "total": _total(whole),
        "moved": _moved(whole),
        "why": _why(whole),
        "notes": {name: _figure(value) for name, value in whole.notes.items()},
        "parts": [
            {
                "pages": [part.first, part.last],
                "start_fast": _fast_share(part, part.start),
                "end_fast": _fast_share(part, part.end),
                "rate": _figure(float((part.rate @ part.weight).mean())),
                **_total(part),
                "why": _why(part),
            }
            for part in _parts(whole)
        ],
    }


def _parts(whole: RecordedRun) -> list[RecordedRun]:
    """Return the run in parts of whole regions, as equal as can be."""
    regions = len(whole.width)
    edges = np.unique(np.linspace(0, regions, min(PARTS, regions) + 1).astype(int))
    firsts = edges[:-1] * whole.size
    lasts = np.minimum(edges[1:] * whole.size - 1, whole.last)
    return [
        whole.part(int(first), int(last))
        for first, last in zip(firsts, lasts, strict=True)
    ]


def _fast_share(run: RecordedRun, node: NDArray[np.uint8]) -> float:
    fast = [one for one in range(256) if run.rank(one) == 0]
    return round(float(np.isin(node, fast).mean()), 4)


def _direction(run: RecordedRun) -> NDArray[np.int64]:
    """Return -1 for moves to a faster tier, 1 to a slower one, else 0."""
    rank = np.array([rank_of(run.run, node) for node in range(256)])
    step: NDArray[np.int64] = np.sign(rank[run.moves["dst"]] - rank[run.moves["src"]])
    return step


def _total(run: RecordedRun) -> dict[str, Any]:
    done, step = run.moves["errno"] == 0, _direction(run)
    return {
        "up": int((done & (step < 0)).sum()),
        "down": int((done & (step > 0)).sum()),
        "sideways": int((done & (step == 0)).sum()),
        "failed": int((~done).sum()),
        "promised_ns": _sum(run.moves["gain_ns"][done]),
        "earned_ns": _sum(run.moves["earned_ns"][done]),
    }


def _sum(values: NDArray[np.floating]) -> float | None:
    """Return the sum of what is known; None of nothing."""
    known = values[~np.isnan(values)]
    return _figure(float(known.sum(dtype=np.float64))) if len(known) else None


def _figure(value: float) -> float:
    """Return six significant digits: a report shows three."""
    return float(f"{value:.6g}")


def _moved(run: RecordedRun) -> list[dict[str, Any]]:
    """Return moves by stretch of time, direction, reason and errno."""
    moves, step = run.moves, _direction(run)
    if not len(step):
        return []
    epochs = len(run.end_s)
    stretches = min(STRETCHES, epochs)
    edges = np.linspace(0, epochs, stretches + 1).astype(int)
    stretch = np.searchsorted(edges, moves["position"], side="left") - 1
    key = (stretch * 3 + step + 1) << 24 | moves["reason"].astype(np.int64) << 16
    kinds, which = np.unique(
        key | moves["errno"].astype(np.int64) & 0xFFFF, return_inverse=True
    )
    rows = []
    for at, kind in enumerate(kinds.tolist()):
        when, way = divmod(kind >> 24, 3)
        reason, errno = kind >> 16 & 0xFF, kind & 0xFFFF
        mine = which == at
        page = np.unique(moves["page"][mine]).astype(np.int64)
        start = edges[when]
        rows.append(
            {
                "from_s": _figure(float(run.end_s[start] - run.dt_s[start])),
                "to_s": _figure(float(run.end_s[edges[when + 1] - 1])),
                "way": ("up", "sideways", "down")[way],
                "reason": reason_name(reason),
                "errno": errno_names.errorcode.get(errno, str(errno)) if errno else "",
                "moves": int(mine.sum()),
                "pages": _some_ranges(page_ranges(page)),
                "promised_ns": _sum(moves["gain_ns"][mine]),
                "earned_ns": _sum(moves["earned_ns"][mine]),
            }
        )
    return rows


def _why(run: RecordedRun) -> list[dict[str, Any]]:
    """Return pages by what became of them, those not moved first."""
    said = run.why(run.groups())
    said.sort(key=lambda group: group["what"] not in NOT_MOVED)
    return [{**group, "pages": _some_ranges(group["pages"])} for group in said]


def _some_ranges(ranges: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the longest ranges in order, and how many there are."""
    longest = sorted(ranges, key=lambda pair: pair[0] - pair[1])[:MAX_RANGES]
    return {"ranges": sorted(longest), "nr": len(ranges)}
