"""The page with ten thousand ranges: it stays live, and what it is sent stays small."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is missing")
pytest.importorskip("uvicorn", reason="uvicorn, which serves the page, is missing")

from tests.browser.pages import Many, await_drawn, drawn, serving, visit

pytestmark = [pytest.mark.browser, pytest.mark.slow]

RANGES = 10_000
#: An event is at most so large, whatever is managed: pixels, not pages.
MOST_BYTES = 256 << 10
BUSY = (
    "() => { const end = performance.now() + 3000; while (performance.now() < end); }"
)


def fetch(address: str) -> Any:
    """Return a JSON document."""
    with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310  # ours
        return json.load(answer)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return a page of a run with so many ranges."""
    with serving(Many(RANGES)) as found:
        yield found


def test_updates_go_on_arriving_and_drawing(browser: Any, address: str) -> None:
    """Title, heat and the hottest ranges change with every view."""
    opened = visit(browser, address)
    page = opened.page
    assert f"1 to 50 of {RANGES}" == page.text_content("#rows")
    seen = set()
    for _ in range(3):
        seen.add(
            (
                page.text_content("#title"),
                page.text_content("#ranges tbody"),
                page.evaluate("document.getElementById('heat').toDataURL()"),
            )
        )
        await_drawn(page, 1)
    assert 3 == len({title for title, _, _ in seen})
    assert 3 == len({ranges for _, ranges, _ in seen})
    assert 3 == len({heat for _, _, heat in seen})
    assert [] == opened.said
    page.close()


def test_any_of_them_can_be_looked_at_live(browser: Any, address: str) -> None:
    """By place and by order; the rows shown go on changing, the view does, too."""
    opened = visit(browser, address)
    page = opened.page
    page.select_option("#order", "address")
    page.click("#after")
    page.wait_for_selector(f"#rows:has-text('51 to 100 of {RANGES}')")
    starts = page.locator("#ranges tbody tr td:nth-child(2)").all_text_contents()
    found = [int(text, 16) for text in starts]
    assert (1 << 40) + 50 * 64 * (2 << 20) == found[0]
    assert sorted(found) == found
    assert 50 == len(found)
    before = page.text_content("#ranges tbody")
    page.wait_for_function(
        "before => document.querySelector('#ranges tbody').textContent !== before",
        arg=before,
        timeout=60_000,
    )
    page.select_option("#order", "size")
    page.wait_for_selector(f"#rows:has-text('1 to 50 of {RANGES}')")
    page.wait_for_selector("#ranges tbody tr:first-child td:has-text('126 MiB')")
    await_drawn(page, 2)
    assert [] == opened.said
    page.close()


def test_what_is_sent_is_bounded(address: str) -> None:
    """An event of ten thousand ranges; a window of them on request."""
    with urllib.request.urlopen(address + "api/events", timeout=60) as events:  # noqa: S310
        line = b""
        while not line.startswith(b"data: "):
            line = events.readline()
    view = json.loads(line.removeprefix(b"data: "))["view"]
    assert (50, RANGES) == (len(view["ranges"]), view["nr_ranges"])
    assert len(line) < MOST_BYTES
    path = "api/ranges?order=size&first=9990&count=50"
    found = fetch(address + path)
    assert (10, RANGES) == (len(found["ranges"]), found["nr_ranges"])


def test_a_page_that_is_slow_skips_views(browser: Any, address: str) -> None:
    """It draws the latest, and does not fall behind further and further."""
    opened = visit(browser, address)
    page = opened.page
    # A busy tab: nothing is drawn for a while.
    page.evaluate(BUSY)
    before = drawn(page)
    await_drawn(page, 2)
    shown = page.text_content("#title").rsplit("·", 1)[1].strip()
    minutes, seconds = map(int, shown.split(":"))
    now_s = fetch(address + "api/view?ranges=0")["time_s"]
    assert drawn(page) > before
    # Three seconds are fifteen views; what waits in buffers is drawn in between.
    assert now_s - (60 * minutes + seconds) < 30
    page.close()
