"""The command, run for its JSON document."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run(words: list[str]) -> dict[str, Any]:
    """Run a command of isotherm and return its document.

    Raises:
        SystemExit: It failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "isotherm", *words, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise SystemExit(f"isotherm {shlex.join(words)}: exit {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
