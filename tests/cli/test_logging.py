"""Logs: lines for people, and one JSON document a line where journald reads them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import pathlib
from isotherm.cli.output import start_logging
import structlog
start_logging()
log = structlog.get_logger()
log.warning("tiers", nodes=[[0], [1]], share=0.5, path=pathlib.Path("/a"))
"""


def run(stream: str | None, tmp_path: Path) -> str:
    """Return what a program logs to a file that JOURNAL_STREAM names, or does not.

    Args:
        stream: Put into the variable; None: the file's own device and inode.
        tmp_path: Where the file is.
    """
    path = tmp_path / "stderr"
    with path.open("w") as file:
        found = os.fstat(file.fileno())
        name = f"{found.st_dev}:{found.st_ino}" if stream is None else stream
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            check=True,
            stderr=file,
            env=os.environ | {"JOURNAL_STREAM": name, "NO_COLOR": "1"},
        )
    return path.read_text()


@pytest.mark.slow
def test_journald_gets_json(tmp_path: Path) -> None:
    """The level in front, as journald takes it off; fields as they are."""
    said = run(None, tmp_path)
    assert said.startswith("<4>")
    assert 1 == said.count("\n")
    event = {"event": "tiers", "level": "warning", "nodes": [[0], [1]], "share": 0.5}
    assert event | {"path": "/a"} == json.loads(said[3:])


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["", "1:2"])
def test_others_get_lines(stream: str, tmp_path: Path) -> None:
    """Also a program that a service has started with its own stderr."""
    said = run(stream, tmp_path)
    assert said.startswith("[warning")
    assert "nodes=[[0], [1]]" in said
