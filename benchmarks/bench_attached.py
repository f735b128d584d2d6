"""What watching costs: the daemon scraped, with top and the page open, and without.

Usage: bench_attached.py [--gib N] [--seconds S] [--live GiB] [--page] [--publish]

The daemon's loop in real time over a table of N GiB (64): a column says where pages
are, a source answers looks (bench_daemon.py), regions of 16 MiB are hot and cold in
turn: 4,096 ranges, with --gib 160 ten thousand. It answers on its socket and serves
metrics as ``isotherm run`` does. First nobody watches; then, at once, metrics are read
every 5 s, ``isotherm top`` runs in a terminal of 80 by 24, and ``isotherm serve`` has
a client of its events. CPU time is that of the processes, all threads, user and
kernel. With ``--live`` the daemon is ``isotherm run --pid`` on a process of so many
GiB, with a tier in compressed swap (root; daemon_live.py). ``--page`` opens the page
in Chromium for the second half: how long a view takes to be drawn. Exit code 1: the
daemon, watched, takes more than 3 % of a core.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from bench_daemon import Bits, Table
from daemon_live import cpu_s
from isotherm.core.clock import MonotonicClock
from isotherm.core.errors import IsothermError
from isotherm.daemon.answers import Answers
from isotherm.daemon.budget import choose_unit
from isotherm.daemon.coarse import CoarseMachine, CoarseSource
from isotherm.daemon.config import Config
from isotherm.daemon.metrics import Meter
from isotherm.daemon.rundir import RunDirectory, RunRecord, start_ticks
from isotherm.daemon.service import Service
from isotherm.dashboard.feed import live_feed
from isotherm.hints.batch import AccessedBits, HintBatch
from isotherm.machine.protocol import Machine, Space
from isotherm.migration.engine import MigrationEngine
from isotherm.observability.metrics import MetricsServer
from publish import markdown, publish

BAR: Final = 0.03
SCRAPE_S: Final = 5.0
START_S: Final = 120.0
SETTLE_S: Final = 30.0
RANGES_S: Final = 300.0
#: Of the table's regions: so many must be told apart before anything is counted.
TOLD_APART: Final = 0.9
#: Before a view is parsed, and when it is drawn and painted.
WATCH: Final = """
  window.views = [];
  const parse = JSON.parse;
  let began = 0, size = 0;
  JSON.parse = (text) => {
    if (text.startsWith('{"view"')) { began = performance.now(); size = text.length; }
    return parse(text);
  };
  new MutationObserver(() => {
    const at = performance.now(), from = began, long = size;
    requestAnimationFrame(() => setTimeout(() => window.views.push(
      { size: long, drawn: at - from, painted: performance.now() - from, at })));
  }).observe(document, { attributes: true, attributeFilter: ['data-drawn'],
                         subtree: true });
"""


class Stripes(Bits):
    """Looks at memory of which regions are hot and cold in turn.

    Args:
        pages: Of the table.
        unit: Pages of what the daemon follows as one; a region is 512 of them.
        clock: The table's.
    """

    def __init__(self, pages: int, unit: int, clock: Any) -> None:
        super().__init__(pages, clock)
        self._region_blocks = 64 * unit

    def drain(self) -> tuple[HintBatch, ...]:
        """Return bits of as many blocks as the budget allows."""
        batches = super().drain()
        for batch in batches:
            seen = batch.seen
            assert isinstance(seen, AccessedBits)  # noqa: S101  # it is ours
            hot = seen.block // self._region_blocks % 2 == 0
            seen.bits[:] = np.where(hot, 255, seen.bits & 1)
        return batches


def play(gib: int, directory: Path) -> None:
    """Be a daemon on a table until killed; write where metrics are."""
    pages = gib << 18
    table = Table(pages)
    table.clock = MonotonicClock()  # type: ignore[assignment]  # real time here
    table.spaces = (Space(0, pages, f"pid {os.getpid()} table"),)
    config = Config()
    budget = config.budget
    unit = choose_unit(pages, budget.memory_permille, budget.memory_floor_mib * 2**20)
    machine: Machine = table if unit == 1 else CoarseMachine(table, unit)
    bits = Stripes(pages, unit, table.clock)
    service = Service(
        machine,
        (bits if unit == 1 else CoarseSource(bits, unit),),
        config,
        lambda m: MigrationEngine(m, quota_pages_per_s=51200.0 / unit),
        lambda: True,
        unit_pages=unit,
    )
    meter = Meter()
    marks = (directory / "epochs").open("w", buffering=1)
    service.observers += [
        meter,
        lambda *_: print(time.monotonic(), time.process_time(), file=marks),
    ]
    runs = RunDirectory(directory)
    runs.announce(
        RunRecord(
            pid=os.getpid(),
            start_ticks=start_ticks(os.getpid()) or 0,
            since_s=time.time(),
            mover="isotherm",
            targets=f"a table of {gib} GiB",
            pids=(os.getpid(),),
            command=tuple(sys.argv),
            socket=str(runs.socket),
        )
    )

    def wait(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    with MetricsServer("127.0.0.1:0", meter.figures) as server:
        (directory / "metrics").write_text("{}:{}".format(*server.address))
        with Answers(service, runs.socket, f"a table of {gib} GiB"):
            service.run(wait)


class Watchers:
    """A scraper, top, serve with a client; a context manager.

    Attributes:
        scrape_s: How long each scrape took.
        scrape_bytes: Size of the last.
        events: Size of each event that came.
        screen: Bytes that top has drawn.
        top, serve: Their processes.
        address: Of the page.
    """

    def __init__(self, directory: Path, metrics: str) -> None:
        self._environment = {
            **os.environ,
            "ISOTHERM_RUN_DIRECTORY": str(directory),
            "TERM": "xterm-256color",
        }
        self._metrics, self._over = metrics, threading.Event()
        self.scrape_s: list[float] = []
        self.scrape_bytes = 0
        self.events: list[int] = []
        self.screen = 0

    def __enter__(self) -> Self:
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        isotherm = [sys.executable, "-m", "isotherm"]
        self.top = subprocess.Popen(
            [*isotherm, "top"],
            stdin=side,
            stdout=side,
            stderr=side,
            env=self._environment,
            start_new_session=True,
        )
        os.close(side)
        self.serve = subprocess.Popen(
            [*isotherm, "serve", "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        assert self.serve.stderr is not None  # noqa: S101  # asked for above
        found = re.search(r"http://\S+", self.serve.stderr.readline())
        assert found is not None  # noqa: S101  # it says where it is
        self.address = found[0]
        for work in (self._read_screen, self._scrape, self._listen):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        self._over.set()
        for process in (self.top, self.serve):
            process.terminate()
            process.wait(30)

    def _read_screen(self) -> None:
        while not self._over.is_set():
            if select.select([self._main], [], [], 0.5)[0]:
                try:
                    self.screen += len(os.read(self._main, 1 << 16))
                except OSError:
                    return

    def _scrape(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            with urllib.request.urlopen(f"http://{self._metrics}/metrics") as page:
                self.scrape_bytes = len(page.read())
            self.scrape_s.append(time.monotonic() - began)
            self._over.wait(SCRAPE_S)

    def _listen(self) -> None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{self.address}api/events") as events,  # noqa: S310  # ours
        ):
            for line in events:
                if line.startswith(b"data: "):
                    self.events.append(len(line))
                if self._over.is_set():
                    return


def spent(pids: dict[str, int], seconds: float, directory: Path) -> dict[str, float]:
    """Return the share of a core that processes take over some time.

    The daemon's is of whole epochs where it has marked them: part of one would count
    a decision too many or too few.
    """
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    began = time.monotonic()
    time.sleep(seconds)
    ended = time.monotonic()
    took = {
        name: (cpu_s(pid) - before[name]) / (ended - began)
        for name, pid in pids.items()
    }
    with contextlib.suppress(FileNotFoundError):
        marks = np.loadtxt(directory / "epochs", ndmin=2)
        marks = marks[(marks[:, 0] >= began) & (marks[:, 0] <= ended)]
        if len(marks) > 2:
            passed, cpu = marks[-1] - marks[0]
            took["daemon"] = float(cpu / passed)
    return took


def regions(gib: int) -> int:
    """Return how many regions of a table are enough."""
    budget = Config().budget
    floor = budget.memory_floor_mib * 2**20
    unit = choose_unit(gib << 18, budget.memory_permille, floor)
    return int(TOLD_APART * (gib << 18) / 512 / unit)


def await_ranges(directory: Path, least: int) -> None:
    """Wait until the daemon tells so many ranges apart; look seldom."""
    end_s = time.monotonic() + RANGES_S
    seen = -1
    while seen < least and time.monotonic() < end_s:
        time.sleep(5)
        with contextlib.suppress(IsothermError):
            seen = live_feed(directory=directory).view(0).nr_ranges


def watch_page(address: str, seconds: float) -> list[dict[str, float]]:
    """Open the page in Chromium; return how long its views took."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # only here

    flags = ["--headless", "--no-sandbox", "--disable-gpu"]
    with sync_playwright() as play_:
        browser = play_.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(WATCH)
        page.goto(address)
        page.wait_for_selector("html[data-state=live]", timeout=60_000)
        page.wait_for_timeout(1000 * seconds)
        views: list[dict[str, float]] = page.evaluate("window.views")
        browser.close()
    return views


@contextmanager
def table_daemon(gib: int, directory: Path) -> Iterator[tuple[int, str]]:
    """Give pid and metrics address of a daemon on a table."""
    words = [sys.executable, __file__, "--play", str(directory), "--gib", str(gib)]
    with subprocess.Popen(words) as daemon:
        try:
            end_s = time.monotonic() + START_S
            while not (directory / "metrics").exists():
                if daemon.poll() is not None or time.monotonic() > end_s:
                    raise RuntimeError("the daemon did not start")
                time.sleep(0.1)
            yield daemon.pid, (directory / "metrics").read_text()
        finally:
            daemon.terminate()


@contextmanager
def live_daemon(gib: float, directory: Path) -> Iterator[tuple[int, str]]:
    """Give pid and metrics address of ``isotherm run`` on a process of so many GiB."""
    from bench_zram import workload  # noqa: PLC0415  # numba
    from daemon_live import said  # noqa: PLC0415  # likewise
    from zram_swap import zram_swap  # noqa: PLC0415  # likewise

    with ExitStack() as stack:
        stack.enter_context(zram_swap(1 << 30))
        load = stack.enter_context(workload(round(gib * (1 << 18)), None, 1))
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        words = ["run", "--pid", str(load.pid), "--with-other-movers"]
        words += ["--metrics", "127.0.0.1:0"]
        daemon = subprocess.Popen(
            [sys.executable, "-m", "isotherm", *words],
            stderr=log,
            env={**os.environ, "ISOTHERM_RUN_DIRECTORY": str(directory)},
        )
        try:
            end_s = time.monotonic() + START_S
            while "hints=" not in said(log) or "/metrics" not in said(log):
                if daemon.poll() is not None or time.monotonic() > end_s:
                    raise RuntimeError(f"the daemon did not start: {said(log)}")
                time.sleep(0.1)
            found = re.search(r"http://([^/\s]+)/metrics", said(log))
            assert found is not None  # noqa: S101  # waited for above
            yield daemon.pid, found[1]
        finally:
            daemon.terminate()
            daemon.wait(60)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run a daemon without watchers, then with them; return what they took."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        run = (
            live_daemon(given.live, directory)
            if given.live
            else table_daemon(given.gib, directory)
        )
        with run as (pid, metrics):
            await_ranges(directory, 0 if given.live else regions(given.gib))
            time.sleep(SETTLE_S)  # at its pace
            alone = spent({"daemon": pid}, given.seconds, directory)["daemon"]
            with Watchers(directory, metrics) as watchers:
                time.sleep(10)
                pids = {
                    "daemon": pid,
                    "top": watchers.top.pid,
                    "serve": watchers.serve.pid,
                }
                before = len(watchers.events), watchers.screen
                took = spent(pids, given.seconds, directory)
                events = watchers.events[before[0] :]
                with urllib.request.urlopen(f"{watchers.address}api/view") as page:  # noqa: S310  # ours
                    view = json.load(page)
                views = []
                if given.page:
                    views = watch_page(watchers.address, given.seconds / 2)
                return {
                    "alone": alone,
                    **took,
                    "ranges": view["nr_ranges"],
                    "epoch_s": view["epoch_s"],
                    "managed_gib": sum(t["managed_bytes"] for t in view["tiers"])
                    / 2**30,
                    "events_per_s": len(events) / given.seconds,
                    "event_bytes": max(events, default=0),
                    "scrape_ms": 1e3 * statistics.median(watchers.scrape_s),
                    "scrape_bytes": watchers.scrape_bytes,
                    "screen_bytes_per_s": (watchers.screen - before[1]) / given.seconds,
                    "views": views[2:],
                }


def render(found: dict[str, Any]) -> str:
    """Return what was measured as a table."""
    rows = [
        ["managed", f"{found['managed_gib']:.0f} GiB, {found['ranges']:,} ranges"],
        ["the daemon, nobody watching, of a core", f"{found['alone']:.2%}"],
        ["the daemon, watched", f"{found['daemon']:.2%}"],
        ["seconds between its decisions", f"{found['epoch_s']:g}"],
        ["`isotherm top`", f"{found['top']:.2%}"],
        ["`isotherm serve`, one page open", f"{found['serve']:.2%}"],
        ["events a second", f"{found['events_per_s']:.2f}"],
        ["largest event", f"{found['event_bytes'] / 1024:.0f} KiB"],
        [
            "a scrape, median",
            f"{found['scrape_ms']:.0f} ms, {found['scrape_bytes'] / 1024:.0f} KiB",
        ],
    ]
    if views := found["views"]:
        gaps = np.diff([view["at"] for view in views])
        for name, text in (("drawn", "drawn"), ("painted", "in a frame")):
            times = np.array([view[name] for view in views])
            rows.append(
                [
                    f"a view {text} after it came, median (most), {len(times)} views",
                    f"{np.median(times):.0f} ms ({times.max():.0f})",
                ]
            )
        rows.append(
            [
                "between two views drawn, median (most)",
                f"{np.median(gaps) / 1e3:.2f} s ({gaps.max() / 1e3:.2f})",
            ]
        )
    return markdown(["watched", "Linux " + os.uname().release], rows)


def main() -> None:
    """Measure, print, publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--live", type=float)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play is not None:
        play(given.gib, given.play)
        return
    found = measure(given)
    text = render(found)
    print(json.dumps(found) if given.json else text)
    if given.publish:
        publish("attached-live" if given.live else "attached", text)
    if found["daemon"] > BAR:
        print(f"bar: the daemon, watched, {found['daemon']:.2%} > {BAR:.0%}")
        sys.exit(1)


if __name__ == "__main__":
    main()
