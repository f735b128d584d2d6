"""The report as text and its charts as data; tests/browser looks at the pixels."""

import base64
import json
import re
import zlib
from types import ModuleType

import numpy as np
import pytest

from isotherm.lab.charts import (
    best_bound,
    off_the_chart,
    slowdown_chart,
    style_of,
    table_of,
)
from isotherm.lab.heatmap import pack_heat, unpack_cells
from isotherm.lab.regret import judge
from isotherm.lab.report import render_report
from isotherm.lab.report_parts import card_html
from isotherm.lab.summary import settings_of
from isotherm.lab.time_charts import time_series
from isotherm.observability.timeline import TimelineBuilder
from isotherm.policy.registry import BOUNDS, POLICIES


@pytest.fixture(scope="module")
def page(samples: ModuleType) -> str:
    """Return a report of two workloads."""
    pytest.importorskip("vl_convert", reason="the charts' JavaScript is missing")
    return render_report(*samples.report_input())


def test_every_policy_has_a_look_of_its_own() -> None:
    """No two policies share colour, dash and marker; most differ in colour too."""
    online = [name for name in POLICIES if name not in BOUNDS]
    looks = [style_of(name) for name in online]
    assert len(set(looks)) == len(online)
    assert len({color for color, _, _ in looks}) == len(online)


def test_chart_has_every_number(samples: ModuleType) -> None:
    """Each policy stands in the chart with each ratio; bounds are the shading."""
    rows = judge(samples.grid(workloads=("gups",)))
    spec = slowdown_chart(rows)
    points = spec["layer"][-1]["data"]["values"]
    found = {(point["policy"], point["ratio"]): point["slowdown"] for point in points}
    assert len(found) == 8
    table = table_of(rows)
    assert found["isotherm", 0.2] == table["isotherm"][0.2]
    band = spec["layer"][0]["data"]["values"]
    assert [row["bound"] for row in band] == [best_bound(table, r) for r in (0.2, 0.5)]


def test_thrashing_is_shown_at_the_edge(samples: ModuleType) -> None:
    """A slowdown far beyond all-slow does not squeeze the others; it is named."""
    rows = judge(
        [*samples.grid(("gups",), (0.2,)), samples.result("tpp", 40.0, seed=2)]
    )
    beyond = off_the_chart(rows)
    assert [(policy, ratio) for policy, ratio, _ in beyond] == [("tpp", 0.2)]
    dots = slowdown_chart(rows)["layer"][1]["data"]["values"]
    assert max(dot["shown"] for dot in dots) < 4


def test_series_share_out_all_costs(samples: ModuleType) -> None:
    """An access's time holds latency, moving and looking."""
    line = samples.timeline(epochs=10)
    series = time_series(line)
    total = sum(
        line.series[name]
        for name in ("latency_ns", "migration_ns", "application_ns", "background_ns")
    )
    assert np.allclose(series["access_ns"], total / line.series["accesses"], atol=1e-3)
    assert series["time_s"][-1] == 5.0


def test_idle_stretches_repeat_what_was_before() -> None:
    """Where nothing is accessed, the line goes on instead of falling to zero."""
    builder = TimelineBuilder(4, 4)
    for accesses in (10.0, 0.0, 20.0):
        builder.add(
            {"dt_ns": 1e9, "accesses": accesses, "latency_ns": 80 * accesses},
            np.array([accesses]),
            np.array([1.0]),
            {},
        )
    assert time_series(builder.build())["access_ns"] == [80, 80, 80]


def test_cut_off_end_is_left_out() -> None:
    """A last epoch with few accesses is the end of the trace, not a spike."""
    builder = TimelineBuilder(4, 4)
    for accesses in (10.0, 10.0, 10.0, 2.0):
        builder.add(
            {
                "dt_ns": 1e9,
                "accesses": accesses,
                "latency_ns": 80 * accesses,
                "application_ns": 100.0,
            },
            np.array([accesses]),
            np.array([1.0]),
            {},
        )
    series = time_series(builder.build())
    assert series["access_ns"] == [90, 90, 90]
    assert series["time_s"] == [1, 2, 3]


def test_bounds_have_no_regret(page: str) -> None:
    """Bounds are the yardstick: a dash stands for their regret."""
    rows = re.findall(r'<tr class="bound">.*?</tr>', page[page.index('id="numbers"') :])
    assert len(rows) == 16
    assert all('<td data-v="">-</td>' in row for row in rows)


def test_every_point_beyond_the_edge_is_named(samples: ModuleType) -> None:
    """The note under a chart has each policy and ratio that was clipped."""
    rows = judge(
        [
            *(row for row in samples.grid(("gups",)) if row["policy"] != "tpp"),
            samples.result("tpp", 40.0),
            samples.result("tpp", 30.0, fast_ratio=0.5),
            samples.result("tpp", 50.0, fast_ratio=0.125),
        ]
    )
    setting, mine = settings_of(rows)[0]
    html, _ = card_html("chart", setting, mine, [(setting, mine)])
    assert "beyond it: tpp 50.00 at 12.5%, 40.00 at 20%, 30.00 at 50%." in html


def test_hardware_is_told_apart(samples: ModuleType) -> None:
    """What no host can run stands last in the table, and a note says why."""
    pytest.importorskip("vl_convert", reason="the charts' JavaScript is missing")
    rows = judge([*samples.grid(("gups",), (0.2,)), samples.result("lru", 1.2)])
    text = render_report(rows, {})
    table = text[text.index("<table>") : text.index("</table>")]
    assert table.rindex("<tr") == table.index('<tr class="bound"><td>lru (in hardware)')
    assert text.count("no host can run") == 2
    assert "isotherm is fastest: 1.30 (lru, in hardware, 1.20)" in text


def test_long_series_are_thinned(samples: ModuleType) -> None:
    """A long run has at most 80 points, and they still end at its end."""
    series = time_series(samples.timeline(epochs=500))
    assert len(series["time_s"]) <= 80
    assert series["time_s"][-1] == 250.0


def test_heat_map_is_packed_in_characters(samples: ModuleType) -> None:
    """A map is two characters a cell, and what comes back differs by half a step."""
    line = samples.timeline()
    packed = pack_heat(line)
    columns, rows = packed["columns"], packed["rows"]
    assert (60, 128) == (columns, rows)
    assert len(packed["heat"]) == len(packed["share"]) == columns * rows
    low, high = packed["low_rate"], packed["high_rate"]
    assert low < line.heat.mean() < high
    share = unpack_cells(packed["share"], columns, packed["share_steps"])
    assert np.allclose(share / packed["share_steps"], line.fast_share, atol=0.52 / 31)
    heat = unpack_cells(packed["heat"], columns, packed["heat_steps"])
    rate = low * (high / low) ** (heat / packed["heat_steps"])
    within = np.clip(line.heat, low, high)
    assert np.abs(np.log(rate / within)).max() < 0.52 / 31 * np.log(high / low)


def test_file_is_complete_in_itself(page: str) -> None:
    """Nothing is loaded: no source, style sheet or import from elsewhere."""
    head = page[: page.index('<script id="data"')]
    assert re.findall(r"(?:src|href)=\"(?!data:)[^\"]+", head) == []
    assert "{{" not in head
    # Data, two groups, five runs in each, Vega, the page's own.
    assert page.count("</script>") == 3 + 2 + 2 * 5
    assert 'name="viewport"' in page


def test_every_result_is_in_the_table(page: str, samples: ModuleType) -> None:
    """The table has a row for each run."""
    table = page[page.index('<table id="numbers">') :]
    table = table[: table.index("</table>")]
    assert table.count("<tr") == 1 + len(samples.grid())


def test_data_is_json(page: str) -> None:
    """What the charts draw can be read back: a chart per workload, maps over time."""
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', page)
    assert data is not None
    found = json.loads(data[1].replace("<\\/", "</"))
    assert len(found["charts"]) == 2
    assert [group["left"] for group in found["groups"]] == ["isotherm"] * 2
    assert [market["label"] for market in found["markets"]] == [
        "all workloads",
        "gups",
        "drift",
    ]
    assert [matrix["label"] for matrix in found["matrices"]] == [
        "workload",
        "fast memory",
    ]


def test_runs_can_be_unpacked(page: str, samples: ModuleType) -> None:
    """What a page unpacks later is JSON: a run's map, its series and its figures."""
    blob = re.search(r'<script type="text/plain" id="run-0-0">(.*?)</script>', page)
    assert blob is not None
    run = json.loads(zlib.decompress(base64.b64decode(blob[1])))
    results, timelines = samples.report_input()
    row = next(results[at] for at in sorted(timelines))
    assert ("isotherm", row["slowdown"]) == (run["policy"], run["slowdown"])
    assert run["map"]["rows"] == 128
    assert run["series"][-1]["t"] == 30.0


def test_names_cannot_break_the_page(samples: ModuleType) -> None:
    """A workload's name is text, whatever it holds."""
    pytest.importorskip("vl_convert", reason="the charts' JavaScript is missing")
    name = "</script><b>x"
    rows = judge(
        [samples.result(p, workload=name) for p in ("isotherm", "first-touch")]
    )
    text = render_report(rows, {})
    assert "<b>x" not in text[: text.index('<script id="data"')]
    assert text.count("</script>") == 3
