"""A headless Chromium, and a report opened in it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return a headless Chromium: ISOTHERM_CHROMIUM, or the one on the path."""
    found = os.environ.get("ISOTHERM_CHROMIUM") or shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium on the path, and ISOTHERM_CHROMIUM is not set")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing"
    )
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


def _open_report(
    browser: Any, path: Path, width: int, height: int, scheme: str = "light"
) -> SimpleNamespace:
    """Open a report and wait until its charts are drawn."""
    size = {"width": width, "height": height}
    page = browser.new_page(viewport=size, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn=all]", timeout=30_000)
    return SimpleNamespace(page=page, said=said, asked=asked)


@pytest.fixture(scope="session")
def open_report() -> Callable[..., SimpleNamespace]:
    """Return what opens a report: browser, path, width, height, light or dark."""
    return _open_report
