"""Attending a guest that is none: a program that writes to the guest's ports."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vmtest.attend import Outcome, Streams, attend
from vmtest.errors import TIMED_OUT

#: Writes its pid to a file, 4 MiB to the port of stdout, and does not end.
TALKER = """
import os, re, signal, sys
open(sys.argv[1], "w").write(str(os.getpid()))
words = " ".join(sys.argv[2:])
number = re.search(r"id=stdout,path=/dev/fdset/([0-9]+)", words)[1]
port = int(re.search(rf"fd=([0-9]+),set={number}", words)[1])
for _ in range(64):
    os.write(port, bytes(range(256)) * 256)
signal.pause()
"""
LIMIT_S = 5.0

pytestmark = pytest.mark.slow


@pytest.fixture
def attended(tmp_path: Path) -> Callable[[int], tuple[Outcome, float]]:
    """Return a function that attends a talker, with a descriptor as its stdout."""

    def run(stdout: int) -> tuple[Outcome, float]:
        found: list[Outcome] = []

        def work() -> None:
            said = (tmp_path / "said").open("wb")
            with said, os.fdopen(stdout, "wb", closefd=False) as out:
                found.append(
                    attend(
                        [sys.executable, "-S", "-E", "-c", TALKER, str(tmp_path / "p")],
                        dict(os.environ),
                        b"",
                        Streams(out, said),
                        console=None,
                        limit_s=LIMIT_S,
                        verbose=False,
                    )
                )

        began = time.monotonic()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(60)
        assert found, "not back after 60 s"
        return found[0], time.monotonic() - began

    return run


def test_the_limit_holds_where_nobody_reads(
    attended: Callable[[int], tuple[Outcome, float]], tmp_path: Path
) -> None:
    """A full pipe does not keep the guest, nor who attends it."""
    reader, writer = os.pipe()
    try:
        outcome, took_s = attended(writer)
    finally:
        os.close(reader)
        os.close(writer)
    assert TIMED_OUT == outcome.exit_status
    assert took_s >= LIMIT_S
    guest = int((tmp_path / "p").read_text())
    assert not Path(f"/proc/{guest}").exists()


def test_what_is_read_arrives(
    attended: Callable[[int], tuple[Outcome, float]], tmp_path: Path
) -> None:
    """Output before the limit is passed on, in order and unchanged."""
    file = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        outcome, _ = attended(file)
    finally:
        os.close(file)
    assert TIMED_OUT == outcome.exit_status
    assert bytes(range(256)) * 16384 == (tmp_path / "out").read_bytes()
    assert b"vmtest: no end within 5 s" in (tmp_path / "said").read_bytes()
