"""The page of ``isotherm serve`` in a real headless Chromium."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.observability.recorder import Recorder

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing")
pytest.importorskip("pyarrow", reason="pyarrow, which recordings need, is missing")
pytest.importorskip("uvicorn", reason="uvicorn, which serves the page, is missing")

pytestmark = [pytest.mark.browser, pytest.mark.slow]

COLORS = """() => {
  const canvas = document.getElementById('heat');
  const paint = canvas.getContext('2d');
  const data = paint.getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let at = 0; at < data.length; at += 4) seen.add(data.slice(at, at + 3).join());
  return seen.size;
}"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recorded run."""
    directory = tmp_path_factory.mktemp("serve") / "run"
    spec = SimulationSpec("isotherm", "gups-shift", pages=4096, accesses=400_000)
    with Recorder(directory) as recorder:
        simulate(spec, recorder=recorder)
    return directory


class Serve:
    """``isotherm serve`` as a user starts it; it can be ended and started again."""

    def __init__(self, recording: Path, how: str = "--control") -> None:
        self._recording, self._how, self.port = recording, how, 0
        self.address = ""
        self._running: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, on the port of before where there was one."""
        words = [sys.executable, "-m", "isotherm", "serve", self._how, "--recording"]
        words += [str(self._recording), "--port", str(self.port), "--speed", "1"]
        self._running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert self._running.stderr is not None
        line = self._running.stderr.readline()
        assert "serving http://" in line, line
        self.address = line.split()[1]
        self.port = int(self.address.split(":")[2].split("/")[0])

    def end(self) -> None:
        """End it."""
        if self._running is not None:
            self._running.terminate()
            self._running.communicate(timeout=60)
            self._running = None


@pytest.fixture
def serve(recording: Path) -> Iterator[Serve]:
    """Return a server that runs."""
    made = Serve(recording)
    made.start()
    yield made
    made.end()


def visit(browser: Any, address: str, width: int = 1280, **options: Any) -> Any:
    """Open the page, wait for its first view; gather what it complains of."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    page.wait_for_selector("html[data-state=live]", timeout=60_000)
    return SimpleNamespace(page=page, said=said)


def wind(page: Any, time_s: float) -> None:
    """Hold the recording at a time."""
    page.evaluate(
        "body => fetch('api/wind', {method: 'POST', body})",
        json.dumps({"time_s": time_s, "paused": True}),
    )
    page.wait_for_selector("#pause:has-text('Go on')")
    page.wait_for_selector(f"#title:has-text('0:{time_s:02.0f} of')")


def test_it_loads_and_draws(browser: Any, serve: Serve) -> None:
    """Title, figures, tiers with flows, the line, both maps, and no complaint."""
    opened = visit(browser, serve.address)
    page = opened.page
    wind(page, 9.0)
    assert "gups-shift on dram-cxl · isotherm" in page.text_content("#title")
    assert 2 == page.locator("#picture rect.box").count()
    assert 2 == page.locator("#picture line.flow").count()
    assert page.locator("#share polyline").get_attribute("points").count(",") > 5
    assert page.evaluate(COLORS) > 5
    assert page.locator("#ranges tbody tr").count() > 3
    assert page.locator("#moves tbody tr").count() > 3
    assert "Tier 0, dram" in page.text_content("#tiers-words")
    assert [] == opened.said
    page.close()


def test_a_private_page_needs_its_key(browser: Any, recording: Path) -> None:
    """With it the page is live; without it is empty, and says where to look."""
    serve = Serve(recording, "--private")
    serve.start()
    try:
        opened = visit(browser, serve.address)
        assert [] == opened.said
        opened.page.close()
        page = browser.new_page()
        page.goto(serve.address.partition("#")[0])
        page.wait_for_selector("html[data-state=gone]", timeout=60_000)
        assert "--private" in page.text_content("#state")
        assert "gups" not in page.content()
        page.close()
    finally:
        serve.end()


def test_it_updates_by_itself(browser: Any, serve: Serve) -> None:
    """Time goes on without anybody asking, and the maps grow."""
    opened = visit(browser, serve.address)
    page = opened.page
    before = page.text_content("#title")
    page.wait_for_function(
        "before => document.getElementById('title').textContent !== before",
        arg=before,
        timeout=30_000,
    )
    assert [] == opened.said
    page.close()


def test_it_comes_back_after_the_server_did(browser: Any, serve: Serve) -> None:
    """It says that the connection is lost, keeps what it showed, and goes on."""
    opened = visit(browser, serve.address)
    page = opened.page
    serve.end()
    page.wait_for_selector("html[data-state=lost]", timeout=60_000)
    assert "connection lost" in page.text_content("#state")
    assert page.locator("#ranges tbody tr").count() > 0
    serve.start()
    page.wait_for_selector("html[data-state=live]", timeout=60_000)
    assert all("ERR_" in words for words in opened.said)  # of the time without server
    page.close()


def test_keys_walk_the_heat_map_and_ask_why(browser: Any, serve: Serve) -> None:
    """Arrows name a cell, Enter opens its reasons, Escape closes them."""
    opened = visit(browser, serve.address)
    page = opened.page
    wind(page, 9.0)
    page.focus("#heat")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    cell = page.text_content("#cell")
    assert "accesses per page and second" in cell
    page.keyboard.press("Enter")
    page.wait_for_selector("#why-words strong", timeout=30_000)
    assert "pages" in page.text_content("#why-words")
    assert page.text_content("#why-title").split()[1][:4] in cell
    page.keyboard.press("Escape")
    assert not page.is_visible("#why")
    assert [] == opened.said
    page.close()


def test_every_control_is_reached_by_tab(browser: Any, serve: Serve) -> None:
    """And every one of them has a name."""
    opened = visit(browser, serve.address)
    page = opened.page
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"pause", "time", "speed", "heat", "order"} <= reached
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('button, select, input')].filter(e =>"
        " !(e.textContent.trim() || e.labels?.length || e.ariaLabel)).length"
    )
    assert 0 == unnamed
    page.close()


def test_what_if_answers_in_a_table(browser: Any, serve: Serve) -> None:
    """With the token of the address; without it the button is dead."""
    opened = visit(browser, serve.address)
    page = opened.page
    wind(page, 9.0)
    page.click("#whatif")
    page.wait_for_selector("#answers:not([hidden])", timeout=120_000)
    assert "isotherm" in page.text_content("#answers")
    assert 3 + 1 == page.locator("#answers thead th").count()
    page.close()
    opened = visit(browser, serve.address.split("#")[0])
    assert opened.page.is_disabled("#whatif")
    opened.page.close()


def test_it_fits_a_phone(browser: Any, serve: Serve) -> None:
    """No sideways scrolling at 360 pixels; wide tables scroll by themselves."""
    opened = visit(browser, serve.address, 360)
    page = opened.page
    wind(page, 9.0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert [] == opened.said
    page.close()


def test_it_reads_without_colour(browser: Any, serve: Serve) -> None:
    """Hotter cells are darker on light paper and lighter on dark paper."""
    script = """() => {
      const canvas = document.getElementById('heat');
      const paint = canvas.getContext('2d');
      const data = paint.getImageData(0, 0, canvas.width, canvas.height).data;
      let low = 255, high = 0;
      for (let at = 0; at < data.length; at += 4) {
        const light = 0.2126 * data[at] + 0.7152 * data[at + 1] + 0.0722 * data[at + 2];
        low = Math.min(low, light); high = Math.max(high, light);
      }
      return high - low;
    }"""
    for scheme in ("light", "dark"):
        opened = visit(browser, serve.address, color_scheme=scheme)
        wind(opened.page, 9.0)
        assert opened.page.evaluate(script) > 60
        opened.page.close()
