"""Which runs a report shows in full, and what it shows of each."""

import base64
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from isotherm.core.units import PAGE_BYTES
from isotherm.lab.catalogue import BOUNDS
from isotherm.lab.charts import CONFIG
from isotherm.lab.heatmap import describe_heat, pack_heat
from isotherm.lab.regret import cell_of
from isotherm.lab.simulate import SimulationSpec
from isotherm.lab.summary import IN_HARDWARE, REFERENCES, name_of
from isotherm.lab.time_charts import TIMELINE_POINTS, whole_bins
from isotherm.lab.watched import Watched
from isotherm.observability.jsonable import encode_json
from isotherm.observability.timeline import Timeline

Result = Mapping[str, Any]
Spec = dict[str, Any]

#: The ratio whose runs are kept over time in a large grid: the one nearest to this.
TIMELINE_RATIO: Final = 0.2
#: Bounds of which a line over time would say nothing.
STILL: Final = frozenset({"all-fast", "all-slow", "static-oracle"})
#: A grid of so many runs, still ones not counted, keeps all of them.
MAX_KEPT: Final = 48
#: Runs in full: 35 KB each.
MAX_SHOWN: Final = 120

#: The parts of an access's time, in the order of their stack; name, words, colour.
PARTS: Final = (
    ("base", "as if all memory were fast", "#c6ccd3"),
    ("wait", "waiting for slow memory", "#3182bd"),
    ("move", "moving pages", "#e6842a"),
    ("look", "looking at pages", "#7a5195"),
)

#: Chart over time, its series, its unit.
SERIES: Final = (
    ("access", "access_ns", "ns an access"),
    ("moved", "moved_mib_s", "MiB a second"),
)


def timeline_wanted(
    specs: Sequence[SimulationSpec],
) -> Callable[[SimulationSpec], bool]:
    """Return which runs of a grid must keep a timeline for its report.

    All of a small grid; of a larger one one ratio, seed, rate, placement and
    period per workload and machine.
    """
    moving = [spec for spec in specs if spec.policy not in STILL]
    if len(moving) <= MAX_KEPT:
        return lambda spec: spec.policy not in STILL
    ratio = min(
        (spec.fast_ratio for spec in moving),
        key=lambda value: abs(value - TIMELINE_RATIO),
        default=TIMELINE_RATIO,
    )
    chosen: dict[tuple[str, str, str], SimulationSpec] = {}
    for spec in moving:
        if spec.fast_ratio == ratio:
            chosen.setdefault((spec.policy, spec.workload, spec.machine), spec)

    def wanted(spec: SimulationSpec) -> bool:
        return chosen.get((spec.policy, spec.workload, spec.machine)) == spec

    return wanted


@dataclass(frozen=True, slots=True)
class Group:
    """Runs over time that differ in nothing but the policy.

    Attributes:
        row: One of their results.
        lines: By policy, every one that was kept.
        full: Policies of which everything is shown; the first is the subject.
        rival: What stands beside the subject at first.
    """

    row: Result
    lines: Mapping[str, tuple[Result, Timeline]]
    full: Sequence[str]
    rival: str


def groups_of(
    results: Sequence[Result], timelines: Mapping[int, Timeline]
) -> list[Group]:
    """Return the runs over time by cell, at most ``MAX_SHOWN`` of them in full."""
    cells: dict[tuple[Any, ...], dict[str, tuple[Result, Timeline]]] = {}
    periods: dict[tuple[Any, ...], set[int]] = {}
    for index in sorted(timelines):
        row = results[index]
        if len(timelines[index].epochs):
            found = cells.setdefault(cell_of(row), {})
            found.setdefault(row["policy"], (row, timelines[index]))
            periods.setdefault(cell_of(row), set()).add(row["sampling_period"])
    ranked = []
    for lines in cells.values():
        order = _order(lines)
        if order:
            ranked.append((lines, order))
    each = max(2, MAX_SHOWN // max(1, len(ranked)))
    groups = []
    room = MAX_SHOWN
    for lines, order in ranked:
        full = order[: min(each, room)]
        room -= len(full)
        rival = next((name for name in full[1:] if name != "first-touch"), full[-1])
        groups.append(Group(lines[order[0]][0], lines, full, rival))
    return [group for group in groups if group.full]


def _order(lines: Mapping[str, tuple[Result, Timeline]]) -> list[str]:
    """Return policies by how much a reader wants to see them; none without one."""
    by_slowdown = sorted(lines, key=lambda name: lines[name][0]["slowdown"])
    online = [name for name in by_slowdown if name not in BOUNDS]
    if not online:
        return []
    subject = "isotherm" if "isotherm" in lines else online[0]
    rivals = [name for name in online if name not in (subject, "first-touch")]
    rivals.sort(key=lambda name: name in IN_HARDWARE)
    wanted = [subject, *rivals[:1], "first-touch", "clairvoyant", *rivals[1:]]
    wanted += by_slowdown
    return [name for name in dict.fromkeys(wanted) if name in lines]


def in_lines(group: Group) -> dict[str, Timeline]:
    """Return what stands in the charts of all policies: no bounds."""
    return {
        policy: line
        for policy, (_, line) in group.lines.items()
        if policy not in REFERENCES or policy == "first-touch"
    }


def group_name(group: Group, groups: Sequence[Group]) -> str:
    """Return the workload, and what else tells a group from the others."""
    row = group.row
    name = f"{name_of(row['workload'])}, {row['fast_ratio']:.3g} fast"
    for key, text in (
        ("machine", name_of(row["machine"])),
        ("seed", f"seed {row['seed']}"),
        ("rate", "own times" if row["rate"] is None else f"rate {row['rate']:g}"),
        ("placement", row["placement"]),
    ):
        if len({other.row[key] for other in groups}) > 1:
            name += f", {text}"
    return name


def run_values(policy: str, row: Result, line: Timeline) -> dict[str, Any]:
    """Return all that a report shows of one run, as JSON values."""
    return {
        "policy": policy,
        "slowdown": row["slowdown"],
        "regret": None if policy in BOUNDS else row.get("regret"),
        "map": {**pack_heat(line), "words": describe_heat(policy, line)},
        "series": run_series(line),
        "decisions": dict(line.decisions) if isinstance(line, Watched) else {},
        "promised_ns": row.get("promised_ns"),
        "realised_ns": row.get("realised_ns"),
    }


def run_series(line: Timeline) -> list[dict[str, float]]:
    """Return rows over time: parts of an access's time in ns, moves, placement.

    ``t`` is the end of a stretch in seconds, ``up`` and ``down`` are MiB a second
    (``down`` below 0), ``fast`` is the share of accesses that fast memory served.
    The first stretch stands twice, at 0 and at its end.
    """
    bins = whole_bins(line)
    step = max(1, -(-bins // TIMELINE_POINTS))
    starts = np.arange(0, bins, step)
    total = {
        name: np.add.reduceat(value[:bins], starts)
        for name, value in line.series.items()
    }
    accesses = np.maximum(total["accesses"], 1)
    seconds = np.maximum(total["dt_ns"] / 1e9, 1e-9)
    mib = PAGE_BYTES / 2**20
    base = np.where(
        np.isnan(total["all_fast_ns"]), total["latency_ns"], total["all_fast_ns"]
    )
    columns = {
        "t": np.cumsum(total["dt_ns"]) / 1e9,
        "base": base / accesses,
        "wait": np.maximum(total["latency_ns"] - base, 0) / accesses,
        "move": total["migration_ns"] / accesses,
        "look": (total["application_ns"] + total["background_ns"]) / accesses,
        "up": total["promoted_pages"] * mib / seconds,
        "down": -total["demoted_pages"] * mib / seconds,
        "fast": total["fast_accesses"] / accesses,
    }
    rows = [
        {name: float(f"{column[at]:.4g}") for name, column in columns.items()}
        for at in range(len(starts))
    ]
    # What is drawn begins with the run, not with the end of its first stretch.
    return [{**rows[0], "t": 0.0}, *rows] if rows else []


def run_charts(rows: Sequence[Mapping[str, float]]) -> dict[str, Spec]:
    """Return the three charts under a run's map; without rows a form to fill."""
    x: Spec = {
        "field": "t",
        "type": "quantitative",
        "scale": {"nice": False, "zero": True},
        "axis": {"title": None, "grid": False, "tickCount": 6},
    }
    names = [name for name, _, _ in PARTS]
    words = {name: said for name, said, _ in PARTS}
    ways = {"up": "up to fast memory", "down": "down to slow memory"}
    same: Spec = {
        "width": "container",
        "config": CONFIG,
        "data": {"values": list(rows)},
        "padding": {"left": 2, "right": 8, "top": 5, "bottom": 5},
    }

    def y(title: str, **more: Any) -> Spec:
        return {
            "type": "quantitative",
            "axis": {
                "title": title,
                "tickCount": 4,
                "format": ".3~g",
                "minExtent": 34,
                "maxExtent": 34,
            },
            **more,
        }

    return {
        "latency": {
            **same,
            "height": 120,
            "transform": [
                {"fold": names, "as": ["part", "ns"]},
                {"calculate": f"indexof({names}, datum.part)", "as": "order"},
                {"calculate": f"({words})[datum.part]", "as": "what"},
            ],
            "mark": {"type": "area", "interpolate": "step-before"},
            "encoding": {
                "x": x,
                "y": y("ns an access", field="ns", stack="zero"),
                "color": {
                    "field": "what",
                    "type": "nominal",
                    "legend": None,
                    "scale": {
                        "domain": list(words.values()),
                        "range": [color for _, _, color in PARTS],
                    },
                },
                "order": {"field": "order", "type": "ordinal"},
                "tooltip": [
                    {"field": "t", "title": "seconds"},
                    {"field": "what", "title": "part"},
                    {"field": "ns", "title": "ns an access", "format": ".3~g"},
                ],
            },
        },
        "moves": {
            **same,
            "height": 100,
            "transform": [
                {"fold": list(ways), "as": ["way", "mib"]},
                {"calculate": f"({ways})[datum.way]", "as": "what"},
            ],
            "mark": {"type": "area", "interpolate": "step-before"},
            "encoding": {
                "x": x,
                "y": y("MiB/s down, up", field="mib", stack=False),
                "color": {
                    "field": "what",
                    "type": "nominal",
                    "legend": None,
                    "scale": {
                        "domain": list(ways.values()),
                        "range": ["#e6842a", "#3182bd"],
                    },
                },
                "tooltip": [
                    {"field": "t", "title": "seconds"},
                    {"field": "up", "format": ".3~g", "title": "up, MiB/s"},
                    {"field": "down", "format": ".3~g", "title": "down, MiB/s"},
                ],
            },
        },
        "placement": {
            **same,
            "height": 90,
            "mark": {
                "type": "area",
                "interpolate": "step-before",
                "color": "#e6842a",
                "opacity": 0.75,
                "line": {"color": "#e6842a"},
            },
            "encoding": {
                "x": {**x, "axis": {**x["axis"], "title": "seconds"}},
                "y": y("served fast", field="fast", scale={"domain": [0, 1]}),
                "tooltip": [
                    {"field": "t", "title": "seconds"},
                    {"field": "fast", "format": ".1%", "title": "served fast"},
                ],
            },
        },
    }


def pack(value: Any) -> str:
    """Return JSON, deflated, in base64: what a page unpacks when it is asked for."""
    return base64.b64encode(zlib.compress(encode_json(value))).decode()
