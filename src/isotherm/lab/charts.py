"""The charts of a report, as Vega-Lite specifications (plain data).

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which people
with any colour vision tell apart, with three more from Paul Tol's "muted" set;
every policy has a dash pattern and a marker of its own as well.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from zlib import crc32

from isotherm.lab.catalogue import BOUNDS
from isotherm.lab.summary import mean, name_of

Result = Mapping[str, Any]
Spec = dict[str, Any]

#: Colour, dash, marker. isotherm and first-touch stand out.
STYLES: Final[Mapping[str, tuple[str, tuple[int, ...], str]]] = {
    "isotherm": ("#D55E00", (), "circle"),
    "first-touch": ("#000000", (6, 3), "cross"),
    "lru": ("#56B4E9", (2, 2), "square"),
    "numab2": ("#E69F00", (8, 2), "triangle-up"),
    "tpp": ("#CC79A7", (4, 2, 1, 2), "triangle-down"),
    "damon": ("#009E73", (), "diamond"),
    "hemem": ("#0072B2", (3, 1), "triangle-right"),
    "memtis": ("#882255", (10, 3), "square"),
    "colloid": ("#8A7A00", (2, 4), "diamond"),
    "pghot": ("#332288", (6, 2, 2, 2), "triangle-left"),
    "arms": ("#44AA99", (1, 2), "stroke"),
    "pghot-hw": ("#6A51A3", (2, 1), "triangle-left"),
    "hmsdk": ("#117733", (5, 1), "diamond"),
    "colloid-hemem": ("#5A4A00", (3, 3), "diamond"),
    "soar": ("#1B7837", (9, 2, 2, 2), "triangle-up"),
    "interleave": ("#A6761D", (1, 4), "cross"),
    "weighted-interleave": ("#A50F15", (7, 3, 1, 3), "cross"),
    "clairvoyant": ("#555555", (2, 2), "circle"),
    "static-oracle": ("#555555", (5, 2), "square"),
}
_OTHER: Final = ("#777777", (1, 1), "circle")
_DASHES: Final = ((), (6, 3), (2, 2), (8, 2), (4, 2, 1, 2), (10, 3), (1, 4))

#: The view stops here, in slowdowns of the slowest bound; thrashing policies go
#: beyond and are shown at the edge.
CAP: Final = 1.1

CONFIG: Final[Spec] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelColor": "#333",
        "titleColor": "#333",
        "gridColor": "#ececec",
        "domainColor": "#999",
        "tickColor": "#999",
    },
    "view": {"stroke": None},
}


def style_of(policy: str) -> tuple[str, tuple[int, ...], str]:
    """Return colour, dash pattern and marker of a policy.

    A policy under some hints, ``tpp (sampling)``, has its colour and marker, and a
    dash pattern of its own.
    """
    name, _, hints = policy.partition(" (")
    color, dash, mark = STYLES.get(name, _OTHER)
    if hints:
        dash = _DASHES[crc32(hints.encode()) % len(_DASHES)]
    return color, dash, mark


def style_scales(policies: Sequence[str]) -> dict[str, Spec]:
    """Return the encodings that tell policies apart, without a legend."""
    styles = [style_of(policy) for policy in policies]

    def scale(values: list[Any]) -> Spec:
        return {"domain": list(policies), "range": values}

    plain = {"field": "policy", "type": "nominal", "legend": None}
    return {
        "color": {**plain, "scale": scale([color for color, _, _ in styles])},
        "strokeDash": {
            **plain,
            "scale": scale([list(dash) or [1, 0] for _, dash, _ in styles]),
        },
        "shape": {**plain, "scale": scale([shape for _, _, shape in styles])},
        "strokeWidth": {
            "condition": {"test": "datum.policy == 'isotherm'", "value": 3.5},
            "value": 1.6,
        },
    }


def table_of(rows: Sequence[Result]) -> dict[str, dict[float, float]]:
    """Return ``{policy: {ratio: slowdown}}``, the mean over seeds."""
    ratios = sorted({row["fast_ratio"] for row in rows})
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    table: dict[str, dict[float, float]] = {}
    for policy in policies:
        for ratio in ratios:
            value = mean(
                row["slowdown"]
                for row in rows
                if row["policy"] == policy and row["fast_ratio"] == ratio
            )
            if value is not None:
                table.setdefault(policy, {})[ratio] = value
    return table


def best_bound(table: Mapping[str, Mapping[float, float]], ratio: float) -> float:
    """Return the lower of the two bounds that use the future; 1 without them."""
    near = [
        table[name][ratio]
        for name in ("static-oracle", "clairvoyant")
        if ratio in table.get(name, {})
    ]
    return min(near, default=1.0)


def _cap(table: Mapping[str, Mapping[float, float]]) -> float:
    highest = [
        value
        for name in ("all-slow", "first-touch", "isotherm")
        for value in table.get(name, {}).values()
    ]
    if not highest:
        highest = [value for line in table.values() for value in line.values()]
    return max(1.05, CAP * max(highest) - (CAP - 1))


def off_the_chart(rows: Sequence[Result]) -> list[tuple[str, float, float]]:
    """Return (policy, ratio, slowdown) of what is shown at the edge."""
    table = table_of(rows)
    cap = _cap(table)
    return [
        (policy, ratio, value)
        for policy, line in table.items()
        for ratio, value in line.items()
        if value > cap and policy not in BOUNDS
    ]


def slowdown_chart(rows: Sequence[Result]) -> Spec:
    """Return slowdown against fast-memory ratio, or dots when there is one ratio.

    Args:
        rows: Results of one setting; several seeds are averaged.
    """
    table = table_of(rows)
    ratios = sorted({row["fast_ratio"] for row in rows})
    return _ratio_lines(table, ratios) if len(ratios) > 1 else _dots(table, ratios[0])


def _ratio_lines(
    table: Mapping[str, Mapping[float, float]], ratios: Sequence[float]
) -> Spec:
    policies = [name for name in table if name not in BOUNDS]
    policies.sort(key=lambda name: name == "isotherm")  # drawn last: on top
    cap = _cap(table)
    lines = [
        {
            "policy": policy,
            "ratio": ratio,
            "slowdown": value,
            "shown": min(value, cap),
        }
        for policy in policies
        for ratio, value in table[policy].items()
    ]
    band = [
        {
            "ratio": ratio,
            "bound": best_bound(table, ratio),
            "slow": min(table.get("all-slow", {}).get(ratio, cap), cap),
            "floor": 1.0,
            "cap": cap,
        }
        for ratio in ratios
    ]
    x: Spec = {
        "field": "ratio",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [ratios[0], ratios[-1]], "nice": False},
        "axis": {
            "title": "fast memory, share of footprint",
            "values": list(ratios),
            "format": ".0%",
            "grid": False,
            "labelOverlap": True,
        },
    }
    y: Spec = {
        "type": "quantitative",
        "scale": {"domain": [1.0, cap], "nice": False},
        "axis": {"title": "slowdown", "tickCount": 6, "format": ".2~f"},
    }
    scales = style_scales(policies)
    tooltip = [
        {"field": "policy", "type": "nominal"},
        {"field": "ratio", "type": "quantitative", "format": ".0%", "title": "fast"},
        {"field": "slowdown", "type": "quantitative", "format": ".3f"},
    ]
    return {
        "width": "container",
        "height": 250,
        "config": CONFIG,
        "layer": [
            {
                "data": {"values": band},
                "mark": {"type": "area", "color": "#dfe3e8", "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "floor"},
                    "y2": {"field": "bound"},
                },
            },
            {
                "data": {"values": band},
                "mark": {"type": "area", "color": "#eceff2", "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "slow"},
                    "y2": {"field": "cap"},
                },
            },
            {
                "data": {"values": lines},
                "mark": {"type": "line", "clip": False},
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "shown"},
                    "color": scales["color"],
                    "strokeDash": scales["strokeDash"],
                    "strokeWidth": scales["strokeWidth"],
                },
            },
            {
                "data": {"values": lines},
                "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "shown"},
                    "color": scales["color"],
                    "shape": scales["shape"],
                    "tooltip": tooltip,
                },
            },
        ],
    }


def _dots(table: Mapping[str, Mapping[float, float]], ratio: float) -> Spec:
    policies = [name for name in table if name not in BOUNDS]
    policies.sort(key=lambda name: table[name][ratio])
    cap = _cap(table)
    bound = best_bound(table, ratio)
    dots = [
        {
            "policy": policy,
            "slowdown": table[policy][ratio],
            "shown": min(table[policy][ratio], cap),
            "label": f"{table[policy][ratio]:.2f}",
        }
        for policy in policies
    ]
    band = [
        {"from": 1.0, "to": bound},
        {"from": min(table.get("all-slow", {}).get(ratio, cap), cap), "to": cap},
    ]
    edge = cap + 0.1 * (cap - 1)  # room for the label of the last dot
    band[-1]["to"] = edge
    x: Spec = {
        "type": "quantitative",
        "scale": {"domain": [1.0, edge], "nice": False},
        "axis": {"title": "slowdown", "tickCount": 6, "format": ".2~f"},
    }
    y: Spec = {
        "field": "policy",
        "type": "nominal",
        "sort": policies,
        "axis": {"title": None, "ticks": False, "domain": False, "grid": True},
    }
    scales = style_scales(policies)
    encoding = {"y": y, "x": {**x, "field": "shown"}, "color": scales["color"]}
    return {
        "width": "container",
        "height": 24 * len(policies),
        "config": CONFIG,
        "layer": [
            {
                "data": {"values": band},
                "mark": {"type": "rect", "color": "#dfe3e8", "opacity": 1},
                "encoding": {"x": {**x, "field": "from"}, "x2": {"field": "to"}},
            },
            {
                "data": {"values": dots},
                "mark": {"type": "point", "filled": True, "opacity": 1},
                "encoding": {
                    **encoding,
                    "size": {
                        "condition": {
                            "test": "datum.policy == 'isotherm'",
                            "value": 170,
                        },
                        "value": 80,
                    },
                    "shape": scales["shape"],
                    "tooltip": [
                        {"field": "policy", "type": "nominal"},
                        {"field": "slowdown", "type": "quantitative", "format": ".3f"},
                    ],
                },
            },
            {
                "data": {"values": dots},
                "mark": {"type": "text", "dx": 20, "fontSize": 12, "color": "#222"},
                "encoding": {
                    "y": y,
                    "x": {**x, "field": "shown"},
                    "text": {"field": "label", "type": "nominal"},
                },
            },
        ],
    }


def describe_slowdown(rows: Sequence[Result]) -> str:
    """Return in words what a slowdown chart shows, for a screen reader."""
    table = table_of(rows)
    ratios = sorted({row["fast_ratio"] for row in rows})
    parts = []
    for ratio in ratios:
        line = sorted(
            (values[ratio], name)
            for name, values in table.items()
            if name not in BOUNDS and ratio in values
        )
        if not line:
            continue
        said = ", ".join(f"{name} {value:.2f}" for value, name in line[:3])
        bound = best_bound(table, ratio)
        parts.append(f"at {ratio:.0%} fast memory {said}, best bound {bound:.2f}")
    workload = name_of(rows[0]["workload"])
    return f"Slowdown on {workload}: " + "; ".join(parts) + "."
