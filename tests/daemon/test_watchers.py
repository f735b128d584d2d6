"""Who watches a daemon is killed: the daemon goes on, and keeps nothing of theirs."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from isotherm.daemon.answers import Answers
from isotherm.daemon.socket import Question, ask
from tests.daemon.test_live_feed import announce

pytest.importorskip("textual")
pytest.importorskip("uvicorn")

LIMIT_S = 120.0


def poll(holds: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
    """Return whether something comes true in time."""
    end_s = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


def held() -> tuple[int, int]:
    """Return descriptors and threads of this process."""
    fds = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # numbers
    return fds, threading.active_count()


@contextmanager
def watcher(directory: Path, *words: str, **streams: Any) -> Iterator[Any]:
    """Give an isotherm that watches the daemon of a directory; it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "isotherm", *words],
        env=os.environ
        | {"ISOTHERM_RUN_DIRECTORY": str(directory), "TERM": "xterm-256color"},
        start_new_session=True,
        **streams,
    )
    try:
        yield process
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert -signal.SIGKILL == process.returncode


@contextmanager
def top(directory: Path) -> Iterator[None]:
    """Have ``isotherm top`` watch, in a terminal of its own, until it is killed."""
    master, slave = pty.openpty()
    shown = bytearray()

    def draws() -> bool:
        while select.select([master], [], [], 0)[0]:
            shown.extend(os.read(master, 1 << 16))
        return b"pid 4242" in shown  # what the daemon says that it manages

    try:
        with watcher(directory, "top", stdin=slave, stdout=slave, stderr=slave):
            assert poll(draws), bytes(shown[-2000:])
            yield
    finally:
        os.close(master)
        os.close(slave)


@contextmanager
def serve(directory: Path) -> Iterator[None]:
    """Have ``isotherm serve`` watch, and a page it, until it is killed."""
    words = "serve", "--port", "0"
    with watcher(directory, *words, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        assert "serving http://" in line
        address = f"{line.split()[1]}api/events"
        with urllib.request.urlopen(address, timeout=LIMIT_S) as events:  # noqa: S310  # ours
            while not (data := events.readline()).startswith(b"data:"):
                assert data
            assert json.loads(data[5:])["view"]["live"]
            yield


@pytest.mark.slow
def test_watchers_that_are_killed_leave_nothing(playing: Any, tmp_path: Path) -> None:
    """No descriptor, no thread and no wait of theirs stays with the daemon."""
    played, over = playing(), threading.Event()
    runs = announce(tmp_path, tmp_path / "s")

    def wait(seconds: float) -> bool:
        return played.wait(seconds) or over.wait(0.05)

    daemon = threading.Thread(target=lambda: played.service.run(wait))
    with Answers(played.service, tmp_path / "s", "pid 4242"):
        daemon.start()
        try:
            assert poll(lambda: len(played.waits) > 1)
            assert poll(lambda: held() == held())
            before = held()
            for watch in (top, serve):
                with suppress(ConnectionError), watch(tmp_path):
                    pass
                assert poll(lambda: held() == before), (before, held())
                epochs = len(played.waits)
                assert poll(lambda past=epochs: len(played.waits) > past)
                found = ask(tmp_path / "s", Question("view", most_ranges=0))
                assert found["epochs"] >= epochs
        finally:
            over.set()
            daemon.join(60)
            runs.close()
    assert not daemon.is_alive()
