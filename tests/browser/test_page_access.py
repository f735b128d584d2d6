"""The page for everybody: axe, no colour, keys alone, a phone."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is missing")
pytest.importorskip("uvicorn", reason="uvicorn, which serves the page, is missing")

from tests.browser.pages import Many, await_drawn, serving, visit

pytestmark = [pytest.mark.browser, pytest.mark.slow]

#: Rules of WCAG 2.2, levels A and AA, and what axe thinks good practice.
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
}
#: How many steps of lightness each map has.
SHADES = """() => ['heat', 'placed'].map((id) => {
  const canvas = document.getElementById(id);
  const paint = canvas.getContext('2d');
  const data = paint.getImageData(0, 0, canvas.width, canvas.height).data;
  const light = new Set();
  for (let at = 0; at < data.length; at += 4) {
    const [red, green, blue] = data.slice(at, at + 3);
    light.add(Math.round(0.2126 * red + 0.7152 * green + 0.0722 * blue));
  }
  return light.size;
})"""
#: What reaches beyond the right edge of a phone, but for what scrolls by itself.
OUTSIDE = """() => [...document.querySelectorAll('main *')].filter((e) =>
  !e.closest('.wide') && !e.closest('svg') && e.getBoundingClientRect().right > 361
).map((e) => e.id || e.tagName)"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return a page with everything on it: tenants, moves, flows, heat."""
    with serving(Many(500), 1.0) as found:
        yield found


def complaints(opened: Any) -> list[str]:
    """Return what the page complains of, but that nobody here can explain a range."""
    return [words for words in opened.said if "400 (Bad Request)" not in words]


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
def test_axe_finds_nothing(browser: Any, address: str, scheme: str, width: int) -> None:
    """No rule is broken, light or dark, on a desk and a phone, with the dialog too."""
    axe_module = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="axe-playwright-python is missing",
    )
    # axe-core is put into the page by a script, which the page's policy forbids.
    opened = visit(browser, address, width, color_scheme=scheme, bypass_csp=True)
    axe = axe_module.Axe()
    found = axe.run(opened.page, options=RULES)
    assert found.violations_count == 0, found.generate_report()
    opened.page.locator("#moves tbody button").first.click()
    opened.page.wait_for_selector("#why[open]")
    found = axe.run(opened.page, options=RULES)
    assert found.violations_count == 0, found.generate_report()
    assert [] == complaints(opened)
    opened.page.close()


def test_keys_alone_do_everything(browser: Any, address: str) -> None:
    """By Tab from the top: skip, walk the map, ask, come back, choose an order."""
    opened = visit(browser, address)
    page, keys = opened.page, opened.page.keyboard

    def focused() -> str:
        return page.evaluate(
            "document.activeElement.id || document.activeElement.className"
        )

    keys.press("Tab")
    assert "skip" == focused()
    keys.press("Enter")
    keys.press("Tab")
    assert "heat" == focused()
    style = page.evaluate(
        "(({outlineStyle, outlineWidth}) => outlineStyle + outlineWidth)"
        "(getComputedStyle(document.activeElement))"
    )
    assert "solid3px" == style  # where one is can be seen
    keys.press("PageDown")
    keys.press("Home")
    assert "0:00 to" in page.text_content("#cell")
    keys.press("End")
    keys.press("ArrowUp")
    keys.press("Enter")
    page.wait_for_selector("#why[open]")
    keys.press("Escape")
    page.wait_for_selector("#why:not([open])", state="attached")
    assert "heat" == focused()  # where one was
    keys.press("Tab")
    assert "order" == focused()
    keys.press("ArrowDown")
    page.wait_for_function("document.getElementById('order').value === 'size'")
    keys.press("Tab")
    assert "after" == focused()  # there is nothing before
    keys.press("Enter")
    page.wait_for_selector("#rows:has-text('51 to 100 of 500')")
    await_drawn(page, 2)
    assert "after" == focused()  # what is drawn takes the focus from nobody
    assert "51 to 100 of 500" == page.text_content("#rows")
    assert [] == complaints(opened)
    page.close()


def test_no_colour_is_needed(browser: Any, address: str) -> None:
    """With colours of the reader's own, and with none: text, hatches and shades say it.

    What is managed is told from what is used by its hatch; both maps have a scale in
    words; figures stand as text beside every picture.
    """
    opened = visit(browser, address, forced_colors="active")
    page = opened.page
    for name in (".used", ".ours", ".box"):
        shape = page.locator(f"#picture {name}").first
        assert "none" != shape.evaluate("shape => getComputedStyle(shape).stroke")
    assert "url(" in page.get_attribute("#picture .ours", "fill")
    assert page.locator("#hatch line").count() == 1
    page.close()
    opened = visit(browser, address)
    page = opened.page
    words = page.text_content("main")
    for said in (
        "Tier 0, DRAM",
        "have moved from tier 1 to 0",
        "cold to",
        "none to all",
    ):
        assert said in words
    shades = page.evaluate(SHADES)
    assert min(shades) > 20  # lightness alone tells many steps apart
    up = page.locator("#moves tbody td:nth-child(2)").all_text_contents()
    assert {"up ↑", "down ↓"} == set(up)
    page.close()


def test_a_phone_shows_all_of_it(browser: Any, address: str) -> None:
    """At 360 pixels nothing but wide tables scrolls sideways; buttons fit fingers."""
    opened = visit(browser, address, 360, has_touch=True, is_mobile=True)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert [] == page.evaluate(OUTSIDE)
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, select')].filter((e) => {
          const { width, height } = e.getBoundingClientRect();
          return e.checkVisibility() && (width < 24 || height < 24);
        }).length"""
    )
    assert 0 == small
    page.tap("#moves tbody button >> nth=0")
    page.wait_for_selector("#why[open]")
    box = page.locator("#why").bounding_box()
    assert box["width"] <= 360
    assert [] == complaints(opened)
    page.close()
