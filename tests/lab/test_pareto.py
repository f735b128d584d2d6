"""The front of slowdown against price, from hand-made results."""

from types import ModuleType

import pytest

from isotherm.lab.charts import style_of
from isotherm.lab.money import ASSUMED, Costs
from isotherm.lab.pareto import (
    ALL,
    Market,
    Option,
    costs_in_words,
    describe_market,
    front_html,
    markets,
    pareto_chart,
)
from isotherm.lab.regret import judge
from isotherm.topology.model import MemoryKind


def market_of(*options: tuple[str, float | None, float, float]) -> Market:
    """Return a market of some options."""
    return Market("dram-cxl", "gups", [Option(*one) for one in options], [])


def test_front_is_what_nothing_beats() -> None:
    """Cheaper or faster than every other; what is both dearer and slower is out."""
    market = market_of(
        ("all-fast", None, 1.0, 1.0),
        ("isotherm", 0.5, 0.75, 1.2),
        ("tpp", 0.5, 0.75, 1.4),
        ("isotherm", 0.2, 0.6, 1.3),
        ("memtis", 0.3, 0.65, 1.35),
        ("all-slow", None, 0.5, 3.1),
    )
    assert [(o.policy, o.ratio) for o in market.front] == [
        ("all-slow", None),
        ("isotherm", 0.2),
        ("isotherm", 0.5),
        ("all-fast", None),
    ]


def test_hardware_is_not_for_sale() -> None:
    """What no host can run is not on the front, however fast."""
    market = market_of(("lru", 0.2, 0.6, 1.05), ("isotherm", 0.2, 0.6, 1.3))
    assert [option.policy for option in market.front] == ["isotherm"]


def test_price_is_the_footprints(samples: ModuleType) -> None:
    """A fifth in DRAM at 4, the rest in CXL at 1: 40 % of the price of all DRAM."""
    costs = Costs({MemoryKind.DRAM: 4.0, MemoryKind.CXL: 1.0})
    found = markets(judge(samples.grid(("gups",), (0.2,))), costs)
    assert len(found) == 1
    price = {option.policy: option.price for option in found[0].options}
    assert price["isotherm"] == pytest.approx(0.4, abs=1e-4)
    assert price["all-fast"] == 1.0
    assert price["all-slow"] == pytest.approx(0.25, abs=1e-4)
    assert [pytest.approx((0.4, 1.2), abs=1e-4)] == list(found[0].bound)


def test_all_workloads_are_a_geometric_mean(samples: ModuleType) -> None:
    """The market of all workloads stands first; a policy must have run on all."""
    rows = [
        samples.result("isotherm", 1.2, workload="gups"),
        samples.result("isotherm", 1.8, workload="drift"),
        samples.result("tpp", 1.1, workload="gups"),
    ]
    found = markets(judge(rows), ASSUMED)
    assert [market.workload for market in found] == [ALL, "gups", "drift"]
    options = {o.policy: o.slowdown for o in found[0].options}
    assert options == {"isotherm": pytest.approx((1.2 * 1.8) ** 0.5)}


def test_machine_without_a_price_is_left_out(samples: ModuleType) -> None:
    """A kind of memory without a price, or an unknown machine, has no market."""
    rows = judge(samples.grid(("gups",), (0.2,)))
    assert markets(rows, Costs({MemoryKind.DRAM: 1.0})) == []
    odd = judge([samples.result("isotherm", machine="nobody-knows")])
    assert markets(odd, ASSUMED) == []


def test_what_to_buy(samples: ModuleType) -> None:
    """The table names the cheapest option within each slowdown, equal ones once."""
    market = market_of(
        ("all-fast", None, 1.0, 1.0),
        ("isotherm", 0.2, 0.6, 1.3),
        ("first-touch", 0.2, 0.6, 2.5),
    )
    html = front_html(market)
    assert html.count("<tr>") == 1 + 2
    assert "<td>2% to 25%</td><td class=text>all memory fast</td>" in html
    assert "<td>50% to 100%</td><td class=text>20% fast, isotherm</td>" in html
    assert "<td>1.30</td><td>40%</td>" in html
    nothing = front_html(market_of(("tpp", 0.2, 0.6, 9.0)))
    assert "nothing that was run" in nothing


def test_chart_has_every_option_and_the_front(samples: ModuleType) -> None:
    """Marks for all policies and ratios, in their own look; front marks are large."""
    market = markets(judge(samples.grid()), ASSUMED)[0]
    layers = pareto_chart(market)["layer"]
    marks = layers[3]
    points = marks["data"]["values"]
    assert {(p["policy"], p["ratio"]) for p in points} == {
        (policy, ratio)
        for policy in ("isotherm", "tpp", "memtis", "first-touch")
        for ratio in (0.2, 0.5)
    }
    assert {p["policy"] for p in points if p["front"]} == {"isotherm"}
    scale = marks["encoding"]["color"]["scale"]
    assert [style_of(name)[0] for name in scale["domain"]] == scale["range"]
    stair = [value["price"] for value in layers[0]["data"]["values"]]
    assert sorted(stair) == stair
    assert len(stair) == len(market.front)


def test_words_say_the_front_and_the_prices(samples: ModuleType) -> None:
    """A screen reader hears the front; the prices are said with their source."""
    market = markets(judge(samples.grid(("gups",))), ASSUMED)[0]
    words = describe_market(market)
    assert "20% fast, isotherm: price 60%, slowdown 1.30" in words
    assert "cxl 0.5" in costs_in_words(ASSUMED)
    assert "assumed" in costs_in_words(ASSUMED)
