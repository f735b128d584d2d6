"""Every command of the tutorial runs, in order, in one directory."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def commands() -> list[str]:
    """Return the commands of the console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    return [
        line[2:]
        for block in blocks
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


@pytest.mark.slow
def test_commands_run(tmp_path: Path) -> None:
    """Each command ends with 0; what needs valgrind is left out without it."""
    pytest.importorskip("vl_convert", reason="the report's JavaScript is missing")
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "isotherm"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m isotherm "$@"\n')
    script.chmod(0o755)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    found = commands()
    assert len(found) > 12
    if shutil.which("valgrind") is None:
        found = [command for command in found if "sort.parquet" not in command]
    for command in found:
        run = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert run.returncode == 0, f"{command}\n{run.stderr}"
    report = (tmp_path / "report.html").read_text()
    assert "<title>" in report
