"""How soon nothing moves any more, once somebody has asked for the end."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from isotherm.daemon.waiting import STOP_SIGNAL
from tests.vm.kills import read_moved
from tests.vm.runs import LIMIT_S, RUN, Isotherm

PAGES: Final = 24000
#: Two batches: one that was on the way, one that had been begun before the handler.
MOST_PAGES: Final = 2 * 512

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("quiet_kernel"),
]


class Counter:
    """Samples of how many pages have moved, taken in a thread of its own."""

    def __init__(self) -> None:
        self.samples = [(time.monotonic(), read_moved())]
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ends.wait(0.005):
            now = read_moved()
            self.samples.append((time.monotonic(), now))

    def end(self) -> None:
        """Take no more."""
        self._ends.set()
        self._thread.join()

    def after(self, at: float) -> tuple[int, float]:
        """Return how many pages have moved since then, and how long after the last."""
        before = max(n for t, n in self.samples if t <= at)
        last = next(t for t, n in self.samples if n == self.samples[-1][1])
        return self.samples[-1][1] - before, max(0.0, last - at)


@pytest.fixture
def busy(tmp_path: Path, await_true: Callable[..., None]) -> Iterator[int]:
    """Start a workload whose hot pages change all the time; give its pid."""
    truth = tmp_path / "truth"
    words = ["gups-shift", "--set", "shift_s=2", "--pages", str(PAGES), "--rate", "20"]
    words += ["--duration", "0", "--place", "bind:1", "--huge", "never"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "isotherm.workloads.native"),
            *(*words, "--truth", str(truth), "--json"),
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, "ISOTHERM_KERNELS": "numpy"},
    )
    await_true(truth.exists, "the workload runs")
    yield process.pid
    process.kill()
    process.communicate()


@pytest.mark.parametrize("how", ["the signal", "stop --all"])
def test_nothing_moves_after_the_signal(
    how: str,
    busy: int,
    isotherm: Callable[..., Isotherm],
    await_true: Callable[..., None],
) -> None:
    """At most the batches that had begun; the command itself takes Python's start."""
    # So slow that moves wait for each other all the time.
    run = isotherm("run", "--pid", str(busy), "--limit", "2")
    before = read_moved()

    def moves() -> bool:
        assert run.process.poll() is None, run.said
        return read_moved() > before + 512

    await_true(moves, "pages move", LIMIT_S)
    counter = Counter()
    asked = time.monotonic()
    if how == "the signal":
        run.process.send_signal(STOP_SIGNAL)
    else:
        command = isotherm("stop", "--all", "--wait", str(LIMIT_S))
        code, _ = command.end()
        assert 0 == code, command.said
    code, _ = run.end()
    ended = time.monotonic()
    time.sleep(0.5)  # what moves now would be counted
    counter.end()
    assert 0 == code, run.said
    assert not RUN.exists()
    pages, last_s = counter.after(asked)
    if how == "the signal":
        assert pages <= MOST_PAGES, f"{pages} pages, the last after {last_s:.3f} s"
    # The end of the run is the end of its moves, whoever asked.
    assert last_s <= ended - asked
    figures = {"pages": pages, "last_s": last_s, "ended_s": ended - asked}
    out = os.environ.get("VMTEST_OUT")
    if out:
        name = f"stop-{how.replace(' ', '-')}.json"
        Path(out, name).write_text(json.dumps(figures) + "\n")
