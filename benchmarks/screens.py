"""Pictures of ``isotherm top`` and ``isotherm serve`` for the docs.

    .venv/bin/python benchmarks/screens.py

Plays one recorded simulation (phases, seed 1) and writes ``docs/images/top.svg`` and
``docs/images/serve.png``; needs Chromium.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from isotherm.dashboard.feed import PlayedFeed
from isotherm.dashboard.top import Top

IMAGES: Final = Path(__file__).resolve().parents[1] / "docs" / "images"
COMMAND: Final = (sys.executable, "-m", "isotherm")
SIMULATE: Final = (
    "--policy isotherm --workload phases --pages 16384 --accesses 15000000"
)
AT_S: Final = 80.0


def picture_of_top(recording: Path) -> None:
    """Write the terminal at 100 by 30."""
    feed = PlayedFeed(recording)
    feed.paused = True
    feed.wind(AT_S)
    app = Top(feed, 3600.0)

    async def draw() -> None:
        async with app.run_test(size=(100, 30)) as pilot:
            await pilot.pause()
            (IMAGES / "top.svg").write_text(app.export_screenshot(title="isotherm top"))

    asyncio.run(draw())


def picture_of_page(recording: Path) -> None:
    """Write the page as a laptop shows it."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # for this alone

    words = [*COMMAND, "serve", "--port", "0", "--recording", str(recording)]
    found = os.environ.get("ISOTHERM_CHROMIUM") or shutil.which("chromium")
    with (
        subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server,
        sync_playwright() as play,
    ):
        try:
            assert server.stderr is not None  # noqa: S101  # a pipe was asked for
            address = server.stderr.readline().split()[1]
            chromium = play.chromium.launch(
                executable_path=found, args=["--no-sandbox"]
            )
            page = chromium.new_page(
                viewport={"width": 1100, "height": 1380}, color_scheme="light"
            )
            page.goto(address)
            page.wait_for_selector("html[data-state=live]")
            held = f'{{"time_s": {AT_S}, "paused": true}}'
            page.evaluate(f"fetch('api/wind', {{method: 'POST', body: '{held}'}})")
            page.wait_for_selector("#pause:has-text('Go on')")
            page.wait_for_timeout(1500)
            page.screenshot(path=IMAGES / "serve.png")
            chromium.close()
        finally:
            server.terminate()


def main() -> None:
    """Make both."""
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "run"
        words = [*COMMAND, "simulate", *SIMULATE.split(), "--record", str(recording)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        picture_of_top(recording)
        picture_of_page(recording)


if __name__ == "__main__":
    main()
