"""What tiering costs and what it saves: slowdown against the price of memory.

An option is something that can be bought: a share of fast memory with a policy that
runs on it, all memory fast, or all of it slow. The front holds the options that no
other one beats in both price and slowdown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from isotherm.core.errors import ConfigError, IsothermError
from isotherm.lab.catalogue import BOUNDS
from isotherm.lab.charts import CONFIG, style_scales
from isotherm.lab.money import Costs, memory_price
from isotherm.lab.summary import IN_HARDWARE, geometric_mean, mean, name_of
from isotherm.machine.sim.spec import MachineSpec, load_machine

Result = Mapping[str, Any]
Spec = dict[str, Any]

#: Slowdowns that a buyer may allow.
LIMITS: Final = (1.02, 1.05, 1.1, 1.25, 1.5, 2.0)
#: Bounds that can be bought: they need no policy.
PURE: Final = ("all-fast", "all-slow")
ALL: Final = "all workloads"


@dataclass(frozen=True, slots=True)
class Option:
    """What can be bought.

    Attributes:
        policy: Its name, or a bound's.
        ratio: Fast memory over footprint; None for ``PURE``.
        price: Of the footprint's memory, over the price of all of it fast.
        slowdown: Geometric mean over workloads.
    """

    policy: str
    ratio: float | None
    price: float
    slowdown: float

    @property
    def words(self) -> str:
        """What it is, for people."""
        if self.ratio is None:
            return "all memory fast" if self.policy == "all-fast" else "all memory slow"
        return f"{self.ratio:.1%} fast, {self.policy}".replace(".0%", "%")


@dataclass(frozen=True, slots=True)
class Market:
    """The options of one machine for one workload, or for all of them.

    Attributes:
        machine: Its name, as in results.
        workload: Likewise, or ``ALL``.
        options: Every one that all its workloads were run with.
        bound: Price and slowdown of the best bound at every ratio.
    """

    machine: str
    workload: str
    options: Sequence[Option]
    bound: Sequence[tuple[float, float]]

    @property
    def workload_key(self) -> str | None:
        """The workload's name in results; None for all of them."""
        return None if self.workload == ALL else self.workload

    @property
    def front(self) -> list[Option]:
        """Options that none beats in both, cheapest first."""
        buyable = [o for o in self.options if o.policy not in IN_HARDWARE]
        order = sorted(buyable, key=lambda o: (o.price, o.slowdown))
        front: list[Option] = []
        for option in order:
            if not front or option.slowdown < front[-1].slowdown:
                front.append(option)
        return front


def markets(
    results: Sequence[Result], costs: Costs, machines: Sequence[str] = ()
) -> list[Market]:
    """Return a market per machine and workload, the one of all workloads first.

    Machines whose memory has no price, or that are not known by name, are left out.

    Args:
        results: Judged results.
        costs: Prices.
        machines: Files of machines beside the built-in ones.
    """
    specs = _machines(results, machines)
    found = []
    for machine in dict.fromkeys(row["machine"] for row in results):
        spec = specs.get(machine)
        if spec is None:
            continue
        rows = [row for row in results if row["machine"] == machine]
        workloads = list(dict.fromkeys(row["workload"] for row in rows))
        groups = [
            (name, [r for r in rows if r["workload"] == name]) for name in workloads
        ]
        if len(workloads) > 1:
            groups.insert(0, (ALL, rows))
        try:
            found += [
                _market(spec, machine, costs, name, mine) for name, mine in groups
            ]
        except ConfigError:  # no price for a kind of memory: said in the report
            continue
    return found


def _machines(
    results: Sequence[Result], files: Sequence[str]
) -> dict[str, MachineSpec]:
    """Return machines by the name that results have; ambiguous ones not at all."""
    specs: dict[str, MachineSpec] = {}
    twice = set()
    for name in dict.fromkeys([*files, *(row["machine"] for row in results)]):
        try:
            spec = load_machine(name)
        except IsothermError:
            continue
        if specs.setdefault(spec.name, spec) != spec:
            twice.add(spec.name)
        specs.setdefault(name, spec)
    return {name: spec for name, spec in specs.items() if name not in twice}


def _market(
    spec: MachineSpec, machine: str, costs: Costs, workload: str, rows: Sequence[Result]
) -> Market:
    ratios = sorted({row["fast_ratio"] for row in rows})
    price = {ratio: memory_price(spec, costs, ratio) for ratio in ratios}
    table = {
        (policy, ratio): value
        for policy in dict.fromkeys(row["policy"] for row in rows)
        for ratio in ratios
        if (value := _slowdown(rows, policy, ratio)) is not None
    }
    options = [
        Option(policy, ratio, price[ratio], value)
        for (policy, ratio), value in table.items()
        if policy not in BOUNDS
    ]
    for policy, at in (
        ("all-fast", 1.0),
        ("all-slow", memory_price(spec, costs, 1e-9)),
    ):
        values = [value for (name, _), value in table.items() if name == policy]
        if values:
            options.append(Option(policy, None, at, values[0]))
    bound = []
    for ratio in ratios:
        best = [
            table[name, ratio]
            for name in ("static-oracle", "clairvoyant")
            if (name, ratio) in table
        ]
        if best:
            bound.append((price[ratio], min(best)))
    return Market(machine, workload, options, bound)


def _slowdown(rows: Sequence[Result], policy: str, ratio: float) -> float | None:
    """Return the geometric mean over workloads; None where one of them is missing."""
    mine = [
        row for row in rows if row["policy"] == policy and row["fast_ratio"] == ratio
    ]
    workloads = {row["workload"] for row in rows}
    if {row["workload"] for row in mine} != workloads:
        return None
    return geometric_mean(
        mean(row["slowdown"] for row in mine if row["workload"] == name) or 1.0
        for name in workloads
    )


def pareto_chart(market: Market) -> Spec:
    """Return slowdown against the price of memory, the front in grey behind it."""
    policies = list(dict.fromkeys(o.policy for o in market.options if o.ratio))
    policies.sort(key=lambda name: name == "isotherm")  # drawn last: on top
    cap = _cap(market)
    front = market.front
    points = [
        {
            "policy": option.policy,
            "ratio": option.ratio,
            "price": round(option.price, 5),
            "slowdown": round(option.slowdown, 5),
            "shown": round(min(option.slowdown, cap), 5),
            "front": option in front,
        }
        for option in market.options
        if option.ratio
    ]
    pure = [
        {"what": option.words, "price": round(option.price, 5), "slowdown": value}
        for option in market.options
        if option.ratio is None and (value := round(option.slowdown, 5)) <= cap
    ]
    prices = [option.price for option in market.options] or [1.0]
    low, high = min(prices), max(prices)
    edge = 0.03 * (high - low) or 0.05
    x: Spec = {
        "field": "price",
        "type": "quantitative",
        "scale": {"domain": [low - edge, high + edge], "nice": False},
        "axis": {
            "title": "price of the memory; all of it fast is 100 %",
            "format": ".0%",
            "tickCount": 6,
            "grid": False,
        },
    }
    y: Spec = {
        "field": "shown",
        "type": "quantitative",
        "scale": {"domain": [1.0, cap], "nice": False},
        "axis": {"title": "slowdown", "tickCount": 6, "format": ".2~f"},
    }
    scales = style_scales(policies)
    tooltip = [
        {"field": "policy", "type": "nominal"},
        {"field": "ratio", "type": "quantitative", "format": ".1~%", "title": "fast"},
        {"field": "price", "type": "quantitative", "format": ".0%"},
        {"field": "slowdown", "type": "quantitative", "format": ".3f"},
    ]
    steps = [
        {"price": round(o.price, 5), "shown": round(min(o.slowdown, cap), 5)}
        for o in front
    ]
    bound = [
        {"price": round(at, 5), "shown": round(value, 5)} for at, value in market.bound
    ]
    plain = {"x": x, "y": y}
    return {
        "width": "container",
        "height": 330,
        "config": CONFIG,
        "layer": [
            {
                "data": {"values": steps},
                "mark": {
                    "type": "line",
                    "interpolate": "step-after",
                    "strokeWidth": 9,
                    "strokeJoin": "round",
                    "color": "#d3d9e0",
                },
                "encoding": plain,
            },
            {
                "data": {"values": bound},
                "mark": {"type": "line", "strokeDash": [2, 3], "color": "#555555"},
                "encoding": plain,
            },
            {
                "data": {"values": points},
                "mark": {"type": "line", "clip": True},
                "encoding": {
                    **plain,
                    "color": scales["color"],
                    "strokeDash": scales["strokeDash"],
                    "strokeWidth": scales["strokeWidth"],
                },
            },
            {
                "data": {"values": points},
                "mark": {
                    "type": "point",
                    "filled": True,
                    "opacity": 1,
                    "cursor": "pointer",
                },
                "encoding": {
                    **plain,
                    "color": scales["color"],
                    "shape": scales["shape"],
                    "size": {
                        "condition": {"test": "datum.front", "value": 130},
                        "value": 50,
                    },
                    "tooltip": tooltip,
                },
            },
            {
                "data": {"values": pure},
                "mark": {
                    "type": "point",
                    "size": 110,
                    "color": "#333",
                    "filled": False,
                },
                "encoding": {"x": x, "y": {**y, "field": "slowdown"}},
            },
            {
                "data": {"values": pure},
                "mark": {
                    "type": "text",
                    "fontSize": 12,
                    "color": "#333",
                    "dy": -13,
                    "align": {"expr": "datum.price > 0.99 ? 'right' : 'left'"},
                    "dx": {"expr": "datum.price > 0.99 ? 9 : -5"},
                },
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "slowdown"},
                    "text": {"field": "what"},
                },
            },
        ],
    }


def _cap(market: Market) -> float:
    """Return where the view ends: some above all-slow, first-touch and isotherm."""
    near = [
        option.slowdown
        for option in market.options
        if option.policy in ("all-slow", "first-touch", "isotherm")
    ]
    near = near or [option.slowdown for option in market.options] or [2.0]
    return round(max(1.05, 1.0 + 1.12 * (max(near) - 1.0)), 4)


def describe_market(market: Market) -> str:
    """Return in words what a chart shows, for a screen reader."""
    said = "; ".join(
        f"{option.words}: price {option.price:.0%}, slowdown {option.slowdown:.2f}"
        for option in market.front
    )
    return (
        f"Slowdown against price of memory, {name_of(market.workload)} on"
        f" {name_of(market.machine)}."
        f" What nothing beats in both, cheapest first: {said}."
    )


def front_html(market: Market) -> str:
    """Return what to buy for a slowdown that is allowed, as a table."""
    front = market.front
    found: list[tuple[list[float], Option | None]] = []
    for limit in LIMITS:
        fits = [option for option in front if option.slowdown <= limit]
        best = min(fits, key=lambda option: option.price) if fits else None
        if found and found[-1][1] == best:
            found[-1][0].append(limit)
        else:
            found.append(([limit], best))
    lines = [
        "<table><thead><tr><th>slowdown allowed</th><th class=text>cheapest</th>",
        "<th>slowdown</th><th>saved</th></tr></thead><tbody>",
    ]
    for limits, best in found:
        if best is None:
            said, rest = "nothing that was run", "<td></td><td></td>"
        else:
            said = best.words
            rest = (
                f"<td>{best.slowdown:.2f}</td><td>{max(0.0, 1 - best.price):.0%}</td>"
            )
        allowed = f"{limits[-1] - 1:.0%}"
        if len(limits) > 1:
            allowed = f"{limits[0] - 1:.0%} to {allowed}"
        lines.append(
            f"<tr><td>{allowed}</td><td class=text>{escape(said)}</td>{rest}</tr>"
        )
    lines.append("</tbody></table>")
    return "".join(lines)


def costs_in_words(costs: Costs) -> str:
    """Return the prices of every kind of memory, and who said so."""
    shown = [f"{kind} {price:g}" for kind, price in costs.per_gib.items()]
    return f"{', '.join(shown)} a GiB ({costs.unit}; {costs.source})"
