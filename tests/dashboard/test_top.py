"""``isotherm top`` at 80 by 24, driven by keys, and in a real terminal."""

import asyncio
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("textual")

from textual.pilot import Pilot
from textual.widgets import DataTable, Static, TabbedContent

from isotherm.core.errors import TargetGoneError
from isotherm.dashboard.feed import PlayedFeed
from isotherm.dashboard.top import Help, Top
from isotherm.observability.view import View

pytestmark = pytest.mark.slow
Steps = Callable[[Pilot[int]], Awaitable[None]]


class Still:
    """A feed that stands at the end of a recording and can fail."""

    live = True

    def __init__(self, recording: Path) -> None:
        self._feed = PlayedFeed(recording)
        self._feed.paused = True
        self._feed.wind(1e9)
        self.gone = False
        self.asked = 0

    def view(self, most_ranges: int = 64, *, heat: bool = False) -> View:
        """Return the last moment."""
        self.asked += 1
        if self.gone:
            raise TargetGoneError("no daemon answers here")
        return self._feed.view(most_ranges, heat=heat)


def drive(app: Top, steps: Steps, size: tuple[int, int] = (80, 24)) -> None:
    """Run an application without a terminal and press keys."""

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(pilot)

    # In a thread: the browser's tests leave a loop that runs in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()


def text(app: Top, name: str) -> str:
    """Return what a line shows."""
    return str(app.query_one(f"#{name}", Static).render())


def rows(app: Top, name: str) -> list[list[str]]:
    """Return what a table shows."""
    table = app.query_one(f"#{name}-table", DataTable)
    return [table.get_row_at(at) for at in range(table.row_count)]


def test_everything_is_there_at_80_by_24(recording: Path) -> None:
    """Head, tiers and a table with room for rows; no line is cut."""
    feed = Still(recording)
    app = Top(feed, 1e9)

    async def steps(pilot: Pilot[int]) -> None:
        view = feed.view()
        assert f"gups-shift on dram-cxl · {view.policy}" in text(app, "head")
        assert f"fast {view.fast_share:.0%}" in text(app, "line")
        tiers = text(app, "tiers").splitlines()
        assert 2 == len(tiers)
        for line in [*tiers, *text(app, "line").splitlines(), text(app, "head")]:
            assert len(line) <= 78
        assert len(view.ranges) == len(rows(app, "heat"))
        table = app.query_one("#heat-table", DataTable)
        assert table.size.height >= 8
        assert table.virtual_size.width <= 80

    drive(app, steps)


def test_keys_choose_tables_and_order(recording: Path) -> None:
    """1 to 5 the tables, o what ranges are ordered by."""
    feed = Still(recording)
    app = Top(feed, 1e9)

    async def steps(pilot: Pilot[int]) -> None:
        tabs = app.query_one("#tabs", TabbedContent)
        for key, name in zip(
            "23451",
            ("processes", "moves", "hints", "tenants", "heat"),
            strict=True,
        ):
            await pilot.press(key)
            assert name == tabs.active
        assert [["gups-shift"]] == [row[:1] for row in rows(app, "processes")]
        view = feed.view()
        assert len(view.moves) == len(rows(app, "moves")) > 0
        assert {"pays", "makes_room"} == {row[4] for row in rows(app, "moves")}
        await pilot.press("o", "o")
        starts = [int(row[4], 16) for row in rows(app, "heat")]
        assert sorted(starts) == starts

    drive(app, steps)


def test_tenants_are_shown(tmp_path: Path) -> None:
    """Of a simulation: who holds what, meets what and pays, in 80 columns."""
    from isotherm.lab.simulate import SimulationSpec, simulate
    from isotherm.observability.recorder import Recorder

    mix, terms = tmp_path / "mix.toml", tmp_path / "tenants.toml"
    mix.write_text(
        '[[part]]\nname = "db"\nkind = "zipf"\n'
        '[[part]]\nname = "scan"\nkind = "stream"\n'
    )
    terms.write_text(
        '[[tenant]]\nname = "a-name-of-more-than-eighteen-letters"\nworkload = "db"\n'
        'guarantee = "50%"\n[[tenant]]\nname = "scan"\nworkload = "scan"\n'
    )
    spec = SimulationSpec(
        "isotherm", str(mix), pages=2048, accesses=200_000, tenants=str(terms)
    )
    with Recorder(tmp_path / "run") as recorder:
        result = simulate(spec, recorder=recorder)
    app = Top(Still(tmp_path / "run"), 1e9)

    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("5")
        shown = rows(app, "tenants")
        assert "…ighteen-letters" == shown[0][0]
        assert ["scan"] == [row[0] for row in shown[1:]]
        slow = [f"{row['slowdown']:.2f}" for row in result["tenants"]]
        assert slow == [row[5] for row in shown]
        assert app.query_one("#tenants-table", DataTable).virtual_size.width <= 80

    drive(app, steps)


def test_help_opens_and_any_key_closes_it(recording: Path) -> None:
    """Even q, which does not end then."""
    app = Top(Still(recording), 1e9)

    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help)
        await pilot.press("q")
        assert not isinstance(app.screen, Help)
        await pilot.press("q")
        await pilot.pause()
        assert 0 == app.return_value

    drive(app, steps)


def test_a_held_screen_asks_nothing(recording: Path) -> None:
    """Until it is let go."""
    feed = Still(recording)
    app = Top(feed, 0.01)

    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("space")
        asked = feed.asked
        await pilot.pause(0.1)
        assert asked == feed.asked
        assert "held" in text(app, "head")
        await pilot.press("space")
        assert asked < feed.asked

    drive(app, steps)


def test_a_run_that_ends_stays_on_the_screen(recording: Path) -> None:
    """With a line that says so; when it is back the line goes."""
    feed = Still(recording)
    app = Top(feed, 1e9)

    async def steps(pilot: Pilot[int]) -> None:
        shown = rows(app, "heat")
        feed.gone = True
        app.look()
        assert "no daemon answers here" in text(app, "said")
        assert shown == rows(app, "heat")
        feed.gone = False
        app.look()
        assert not app.query_one("#said", Static).display

    drive(app, steps)


def test_a_recording_is_wound_and_played_faster(recording: Path) -> None:
    """Arrows wind by ten seconds, plus and minus change the speed."""
    feed = PlayedFeed(recording, 4.0)
    feed.pause()
    app = Top(feed, 1e9)

    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("right")
        assert min(10.0, feed.played.end_s) == feed.time_s
        await pilot.press("left", "left")
        assert 0.0 == feed.time_s
        await pilot.press("plus", "plus", "minus")
        assert 8.0 == feed.speed
        assert "held" in text(app, "head")

    drive(app, steps)


@pytest.mark.parametrize("size", [(40, 12), (200, 60)])
def test_other_sizes_are_drawn_too(recording: Path, size: tuple[int, int]) -> None:
    """Small ones and large ones."""
    app = Top(Still(recording), 1e9)

    async def steps(pilot: Pilot[int]) -> None:
        assert rows(app, "heat")

    drive(app, steps, size)


def test_in_a_real_terminal(recording: Path) -> None:
    """It draws on a pseudo-terminal of 80 by 24, q ends it with 0 and puts it back."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(side)
    words = [sys.executable, "-m", "isotherm", "top", "--recording", str(recording)]
    environment = os.environ | {
        "TERM": "xterm-256color",
        "COLUMNS": "80",
        "LINES": "24",
    }
    drawn = b""
    with subprocess.Popen(
        words,
        stdin=side,
        stdout=side,
        stderr=side,
        env=environment,
        start_new_session=True,
    ) as running:
        end_s = time.monotonic() + 120
        while b"gups-shift" not in drawn and time.monotonic() < end_s:
            if select.select([main], [], [], 1.0)[0]:
                drawn += os.read(main, 1 << 16)
        assert b"gups-shift" in drawn, drawn[-2000:]
        os.write(main, b"q")
        while running.poll() is None and time.monotonic() < end_s:
            if select.select([main], [], [], 0.1)[0]:
                drawn += os.read(main, 1 << 16)
        assert 0 == running.poll()
    assert before == termios.tcgetattr(side)
    assert b"\x1b[?1049l" in drawn  # the screen of before is back
    os.close(main)
    os.close(side)
