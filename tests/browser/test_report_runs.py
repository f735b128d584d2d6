"""Looking into a run, from a figure to its decisions, in a real browser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from isotherm.core.units import render_ns
from isotherm.lab.compare import Comparison, compare
from isotherm.lab.grid import Grid
from isotherm.lab.report import write_report
from isotherm.lab.shown import STILL
from isotherm.lab.simulate import SimulationSpec
from isotherm.lab.watched import Watched

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing")
pytest.importorskip("vl_convert", reason="the charts' JavaScript is missing")
pytest.importorskip("pyarrow", reason="pyarrow, which recordings need, is missing")

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGES = 1024


@pytest.fixture(scope="module")
def found() -> Comparison:
    """Return runs of two policies on a hot set that wanders; one ratio over time."""
    grid = Grid(
        ["isotherm", "tpp"],
        ["drift", "gups"],
        fast_ratios=(0.5, 0.2),
        common=SimulationSpec("isotherm", "drift", pages=PAGES, accesses=300_000),
    )

    def kept(spec: SimulationSpec) -> bool:
        return spec.fast_ratio == 0.2 and spec.policy not in STILL

    return compare(grid.specs(), jobs=1, keep_timeline=kept)


@pytest.fixture(scope="module")
def report(found: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return their report."""
    path = tmp_path_factory.mktemp("runs") / "report.html"
    write_report(path, found.results, found.timelines)
    return path


@pytest.fixture
def opened(browser: Any, open_report: Any, report: Path) -> Iterator[SimpleNamespace]:
    """Return the report in a window of a laptop, as it is at first."""
    shown = open_report(browser, report, 1280, 900)
    yield shown
    assert shown.said == []
    shown.page.close()


def decisions(found: Comparison, policy: str, workload: str) -> dict[str, Any]:
    """Return what a run decided."""
    for index, line in found.timelines.items():
        row = found.results[index]
        if (row["policy"], row["workload"]) == (policy, workload):
            assert isinstance(line, Watched)
            return dict(line.decisions)
    raise LookupError(f"{policy} on {workload}")


def tally(page: Any, side: str = "left") -> dict[str, str]:
    """Return the figures over a side's decisions, by their words."""
    cells = page.eval_on_selector_all(
        f"#decisions-{side} .tally div",
        "all => all.map(({ lastChild, firstChild }) =>"
        " [lastChild.textContent, firstChild.textContent])",
    )
    return dict(cells)


def choose(page: Any, workload: str, policy: str) -> None:
    """Choose a run on the left by hand."""
    page.select_option("#pick-workload", label=f"{workload}, 0.2 fast")
    page.select_option("#pick-left", policy)
    drawn(page, workload, policy)


def drawn(page: Any, workload: str, policy: str) -> None:
    """Wait until the left side shows a run."""
    name = f"{workload}, 0.2 fast, {policy}"
    page.wait_for_selector(f"#figure-left[data-shown='{name}']")


def number(text: str) -> int:
    """Return a figure as people read it."""
    return int(text.replace(",", ""))


def test_decisions_are_those_of_the_run(
    opened: SimpleNamespace, found: Comparison
) -> None:
    """What was moved, promised and earned stands beside the map, as recorded."""
    for workload in ("drift", "gups"):
        choose(opened.page, workload, "isotherm")
        total = decisions(found, "isotherm", workload)["total"]
        said = tally(opened.page)
        assert number(said["pages moved up"]) == total["up"] > 0
        assert number(said["pages moved down"]) == total["down"]
        for words, name in (("promised", "promised_ns"), ("earned, net", "earned_ns")):
            assert said[words].split()[1] == render_ns(total[name]).split()[1]
            assert float(said[words].split()[0]) == pytest.approx(
                float(render_ns(total[name]).split()[0]), rel=0.01
            )


def test_reasons_are_those_of_explain(
    opened: SimpleNamespace, found: Comparison
) -> None:
    """Why pages were or were not moved is said in the words of explain."""
    choose(opened.page, "drift", "isotherm")
    text = opened.page.inner_text("#decisions-left")
    for group in decisions(found, "isotherm", "drift")["why"]:
        assert f"{group['what']}: {group['nr_pages']:,} pages" in text
        assert group["words"] in text


def test_policy_without_promises_says_so(opened: SimpleNamespace) -> None:
    """Tpp promises nothing: no figure stands in for it."""
    choose(opened.page, "drift", "tpp")
    assert tally(opened.page)["promised"] == "not told"
    assert "promises nothing" in opened.page.inner_text("#decisions-left")


def test_moves_are_listed_by_time(opened: SimpleNamespace, found: Comparison) -> None:
    """The table of moves has a row per stretch, way and reason."""
    page = opened.page
    choose(page, "drift", "isotherm")
    page.click("#figure-left summary >> nth=0")
    rows = page.eval_on_selector_all(
        "#moved-left tbody tr",
        "all => all.map(row => [...row.cells].map(c => c.textContent))",
    )
    moved = decisions(found, "isotherm", "drift")["moved"]
    assert [(row["way"], row["reason"], row["moves"]) for row in moved] == [
        (cells[1], cells[2], number(cells[3])) for cells in rows
    ]


def test_click_on_the_map_shows_those_pages(
    opened: SimpleNamespace, found: Comparison
) -> None:
    """A click chooses the range under it, draws a frame and tells its decisions."""
    page = opened.page
    choose(page, "drift", "isotherm")
    whole = page.evaluate("document.getElementById('map-left').toDataURL()")
    box = page.locator("#map-left").bounding_box()
    page.locator("#map-left").click(
        position={"x": box["width"] / 2, "y": box["height"] * (1 - 5.5 / 16)}
    )
    part = decisions(found, "isotherm", "drift")["parts"][5]
    assert page.input_value("#pick-part-left") == "5"
    assert page.evaluate("document.getElementById('map-left').toDataURL()") != whole
    assert number(tally(page)["pages moved up"]) == part["up"]
    text = page.inner_text("#decisions-left")
    assert f"{100 * part['end_fast']:.0f} % at the end" in text
    assert all(group["words"] in text for group in part["why"])
    page.select_option("#pick-part-left", "")
    assert page.evaluate("document.getElementById('map-left').toDataURL()") == whole


def test_strips_drew(opened: SimpleNamespace) -> None:
    """Under each map: latency by parts, moves up and down, placement."""
    for side in ("left", "right"):
        for kind, areas in (("latency", 4), ("moves", 2), ("placement", 1)):
            count = opened.page.evaluate(
                "id => [...document.querySelectorAll(`#${id} svg .mark-area path`)]"
                ".filter(path => path.getBoundingClientRect().width > 100).length",
                f"chart-{kind}-{side}",
            )
            assert count == areas, (kind, side)


def test_regret_leads_to_its_run(opened: SimpleNamespace) -> None:
    """A click on a figure of the regret matrix shows that policy on that workload."""
    page = opened.page
    page.click("#matrices button[data-go=tpp][data-workload=gups]")
    drawn(page, "gups", "tpp")
    assert page.input_value("#pick-left") == "tpp"
    label = page.evaluate(
        "document.getElementById('pick-workload').selectedOptions[0].text"
    )
    assert label == "gups, 0.2 fast"
    assert page.inner_text("#run-note") == ""


def test_row_leads_to_the_nearest_run(opened: SimpleNamespace) -> None:
    """A run that was not kept over time leads to the nearest, and the page says so."""
    page = opened.page
    page.click(
        "#numbers button[data-go=tpp][data-workload=drift][data-fast-ratio='0.5']"
    )
    drawn(page, "drift", "tpp")
    assert "not kept over time" in page.inner_text("#run-note")
    page.click(
        "#numbers button[data-go=isotherm][data-workload=drift][data-fast-ratio='0.2']"
    )
    drawn(page, "drift", "isotherm")
    assert page.inner_text("#run-note") == ""
    page.click("#numbers button[data-go=all-slow] >> nth=0")
    assert "no run of it was kept" in page.inner_text("#run-note")


def test_mark_of_cost_leads_to_its_run(opened: SimpleNamespace) -> None:
    """A click on a mark of the chart of prices shows the run behind it."""
    page = opened.page
    page.select_option("#pick-market", label="gups")
    page.wait_for_selector("#chart-market[aria-label*=', gups on']")
    mark = page.locator(
        "#chart-market svg [aria-label*='policy: tpp'][aria-label*='20%']"
    )
    mark.first.click(force=True)
    drawn(page, "gups", "tpp")
    label = page.evaluate(
        "document.getElementById('pick-workload').selectedOptions[0].text"
    )
    assert label == "gups, 0.2 fast"


def test_cost_chart_drew(opened: SimpleNamespace) -> None:
    """The stair, a mark per policy and ratio, both things that need no policy."""
    points = opened.page.evaluate(
        "[...document.querySelectorAll('#chart-market svg .mark-symbol path')].length"
    )
    assert points == 3 * 2 + 2
    table = opened.page.inner_text("#market-table")
    assert "all memory fast" in table


def test_matrix_by_ratio(opened: SimpleNamespace) -> None:
    """The regret can be seen by fast memory instead of by workload."""
    page = opened.page
    page.select_option("#pick-matrix", label="fast memory")
    shown = page.eval_on_selector_all(
        "#matrices > div",
        "all => all.filter(one => !one.hidden).map(one => one.dataset.axis)",
    )
    assert shown == ["fast memory"]


def test_charts_can_be_saved(opened: SimpleNamespace, tmp_path: Path) -> None:
    """Each chart and map saves a PNG that is a picture, and JSON that is Vega-Lite."""
    page = opened.page
    for place, name in (
        ("#chart-market + .save", "cost-all-workloads-on-dram-cxl"),
        ("#save-matrix", "regret-by-workload"),
        ("#save-map-left", "heat-drift-0.2-fast-isotherm"),
        ("#chart-latency-left + .save", "latency-drift-0.2-fast-isotherm"),
    ):
        with page.expect_download() as waiting:
            page.click(f"{place} [data-save=png]")
        assert waiting.value.suggested_filename == f"{name}.png"
        waiting.value.save_as(tmp_path / "chart.png")
        picture = (tmp_path / "chart.png").read_bytes()
        assert picture[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(picture) > 5000, name
        with page.expect_download() as waiting:
            page.click(f"{place} [data-save=vega]")
        assert waiting.value.suggested_filename == f"{name}.vl.json"
        waiting.value.save_as(tmp_path / "chart.json")
        spec = json.loads((tmp_path / "chart.json").read_text())
        assert re.search(r"vega-lite/v\d", spec["$schema"])


def test_dark_page_has_dark_charts(
    browser: Any, open_report: Any, report: Path
) -> None:
    """On a dark screen paper, charts and maps are dark, and black lines are white."""
    shown = open_report(browser, report, 1280, 900, "dark")
    page = shown.page
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", paper)[:3]) < 40
    colours = page.evaluate(
        "[...document.querySelectorAll('#chart-0 svg .mark-line path')]"
        ".map(path => path.getAttribute('stroke'))"
    )
    assert "#FFFFFF" in colours
    assert "#000000" not in colours
    dark = mean_colour(page)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(
        "[...document.querySelectorAll('#chart-0 svg .mark-line path')]"
        ".some(path => path.getAttribute('stroke') === '#000000')"
    )
    assert shown.said == []
    assert mean_colour(page) > 1.5 * dark
    page.close()


def mean_colour(page: Any) -> float:
    """Return the brightness of the left map."""
    data = page.evaluate(
        "Array.from(document.getElementById('map-left').getContext('2d')"
        ".getImageData(0, 0, 640, 400).data.filter((_, i) => i % 100 === 1))"
    )
    return float(np.mean(data))


def test_phone_shows_one_run(browser: Any, open_report: Any, report: Path) -> None:
    """On a phone one run is shown, nothing scrolls sideways, a tap chooses pages."""
    shown = open_report(browser, report, 390, 844)
    page = shown.page
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.is_visible("#map-left")
    assert not page.is_visible("#map-right")
    page.locator("#map-left").click(position={"x": 100, "y": 60})
    assert page.input_value("#pick-part-left") != ""
    page.select_option("#pick-right", "tpp")
    page.wait_for_function(
        "document.querySelectorAll('#chart-placement-right svg').length"
    )
    assert page.is_visible("#map-right")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert shown.said == []
    page.close()
