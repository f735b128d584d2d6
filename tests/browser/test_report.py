"""The report in a real browser: it draws, fits a phone and stays offline."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing")
pytest.importorskip("vl_convert", reason="the charts' JavaScript is missing")

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def load_samples() -> ModuleType:
    """Return the hand-made results of the lab's tests."""
    path = Path(__file__).parents[1] / "lab" / "samples.py"
    spec = importlib.util.spec_from_file_location("lab_samples", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a report of two workloads and two ratios."""
    from isotherm.lab.report import write_report

    path = tmp_path_factory.mktemp("report") / "report.html"
    results, timelines = load_samples().report_input()
    write_report(path, results, timelines)
    return path


@pytest.fixture(scope="module")
def wide(browser: Any, open_report: Any, report: Path) -> Iterator[SimpleNamespace]:
    """Return the report in a window of a laptop."""
    opened = open_report(browser, report, 1280, 900)
    yield opened
    opened.page.close()


@pytest.fixture(scope="module")
def phone(browser: Any, open_report: Any, report: Path) -> Iterator[SimpleNamespace]:
    """Return the report on a phone."""
    opened = open_report(browser, report, 390, 844)
    yield opened
    opened.page.close()


def test_paper_does_not_wait(browser: Any, report: Path) -> None:
    """Charts that are drawn late are drawn when the page is printed."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script("window.setTimeout = () => 0;")
    page.goto(report.as_uri())
    page.wait_for_selector("#chart-0 svg")
    assert page.query_selector("#chart-1 svg") is None
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_selector("#chart-1 svg", timeout=10_000)
    page.close()


COLOURS = """
id => {
  const canvas = document.getElementById(id);
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const seen = new Set();
  for (let i = 0; i < data.data.length; i += 4 * 97)
    seen.add(data.data.slice(i, i + 4).join());
  return seen.size;
}
"""

PATHS = """
id => [...document.querySelectorAll(`#${id} svg path`)].filter(path => {
  const box = path.getBoundingClientRect();
  return box.width > 20 && box.height > 5 && path.getAttribute("stroke-width");
}).length
"""

POINTS = """
id => [...document.querySelectorAll(`#${id} svg .mark-symbol path`)].length
"""


def test_no_errors_and_no_requests(wide: SimpleNamespace, report: Path) -> None:
    """The console stays silent, and nothing but the file itself is asked for."""
    assert wide.said == []
    assert {url for url in wide.asked if not url.startswith("data:")} == {
        report.as_uri()
    }


def test_slowdown_charts_drew(wide: SimpleNamespace) -> None:
    """Each slowdown chart has a line per policy and a mark per policy and ratio."""
    for chart in ("chart-0", "chart-1"):
        assert wide.page.evaluate(PATHS, chart) >= 4
        assert wide.page.evaluate(POINTS, chart) == 8


def test_timelines_drew(wide: SimpleNamespace) -> None:
    """Both charts over time have a line for every policy that ran."""
    for chart in ("chart-access", "chart-moved"):
        assert wide.page.evaluate(PATHS, chart) >= 4


def test_heat_maps_drew(wide: SimpleNamespace) -> None:
    """Both maps show many colours, that is: heat and placement."""
    for canvas in ("map-left", "map-right"):
        assert wide.page.evaluate(COLOURS, canvas) > 50


def test_map_can_be_sorted_and_changed(wide: SimpleNamespace) -> None:
    """Sorting by heat and choosing another policy redraw the map."""
    page = wide.page
    picture = "id => document.getElementById(id).toDataURL()"
    before = page.evaluate(picture, "map-left")
    page.check("#sort-heat")
    after = page.evaluate(picture, "map-left")
    assert before != after
    page.uncheck("#sort-heat")
    page.select_option("#pick-left", "first-touch")
    page.wait_for_selector("#map-left[aria-label*='under first-touch']")
    other = page.evaluate(picture, "map-left")
    assert other != before
    page.select_option("#pick-left", "isotherm")
    page.wait_for_selector("#map-left[aria-label*='under isotherm']")


def test_map_reads_out_under_the_pointer(wide: SimpleNamespace) -> None:
    """Pointing at a map tells time, pages, heat and placement."""
    wide.page.hover("#map-left", position={"x": 40, "y": 40})
    text = wide.page.inner_text("#read-left")
    assert "accesses per page and second" in text
    assert "in fast memory" in text


def test_table_sorts_and_filters(wide: SimpleNamespace) -> None:
    """A click sorts the table by number; typing leaves the rows that match."""
    page = wide.page
    page.click("#numbers th:nth-child(9) button")
    cells = page.eval_on_selector_all(
        "#numbers tbody tr", "rows => rows.map(row => +row.cells[8].dataset.v)"
    )
    assert sorted(cells) == cells
    page.fill("#filter", "gups isotherm")
    shown = page.eval_on_selector_all(
        "#numbers tbody tr", "rows => rows.filter(row => !row.hidden).length"
    )
    assert shown == 2
    page.fill("#filter", "")


def test_every_chart_has_words_and_a_table(wide: SimpleNamespace) -> None:
    """Charts and maps carry a label, and their numbers stand beside as a table."""
    page = wide.page
    labels = page.eval_on_selector_all(
        ".chart, canvas", "all => all.map(one => one.getAttribute('aria-label') || '')"
    )
    # Two of slowdown, one of cost, two over time, a map and three strips a side.
    assert len(labels) == 5 + 2 * 4
    assert all(len(label) > 20 for label in labels)
    tables = page.eval_on_selector_all(
        ".card details table, [id^=table-] table",
        "all => all.map(table => table.tBodies[0].rows.length)",
    )
    assert len(tables) == 6
    assert all(rows >= 4 for rows in tables)


def test_fits_a_phone(phone: SimpleNamespace) -> None:
    """At 390 pixels nothing makes the page scroll sideways, and charts are there."""
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 390
    assert phone.said == []
    width = phone.page.evaluate(
        "document.querySelector('#chart-0 svg').getBoundingClientRect().width"
    )
    assert 250 < width <= 390
    assert phone.page.evaluate(COLOURS, "map-left") > 50


def test_one_ratio_draws_dots(browser: Any, open_report: Any, tmp_path: Path) -> None:
    """With one ratio there is a mark per policy instead of lines."""
    from isotherm.lab.report import write_report

    samples = load_samples()
    rows = samples.grid(workloads=("gups",), ratios=(0.2,))
    results, timelines = samples.report_input(rows)
    write_report(tmp_path / "one.html", results, timelines)
    opened = open_report(browser, tmp_path / "one.html", 390, 844)
    assert opened.page.evaluate(POINTS, "chart-0") == 4
    assert opened.said == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    opened.page.close()


def test_report_without_timelines(
    browser: Any, open_report: Any, tmp_path: Path
) -> None:
    """A report of results alone has its charts and no empty section."""
    from isotherm.lab.regret import judge
    from isotherm.lab.report import write_report

    write_report(tmp_path / "plain.html", judge(load_samples().grid()))
    opened = open_report(browser, tmp_path / "plain.html", 1280, 900)
    assert opened.said == []
    assert opened.page.query_selector("#map-left") is None
    assert opened.page.evaluate(POINTS, "chart-0") == 8
    opened.page.close()
