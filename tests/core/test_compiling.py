"""Seconds of compilation, and the first start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isotherm.core.compiling import Stopwatch


def test_one_within_another_counts_once() -> None:
    """The time runs from the first to begin to the last to end."""
    watch = Stopwatch()
    watch.begin()
    watch.begin()
    watch.end()
    assert 0.0 == watch.total_s
    watch.end()
    once = watch.total_s
    assert once > 0.0
    watch.begin()
    watch.end()
    assert watch.total_s > once


@pytest.mark.slow
def test_a_first_start_is_known_and_timed(tmp_path: Path) -> None:
    """With an empty cache; what has been compiled is on disk for the next start."""
    pytest.importorskip("numba", reason="numba is not installed")
    (tmp_path / "tiny_kernels.py").write_text(
        "from isotherm.core.kernels import kernel\n"
        "@kernel(lambda x: x + 1)\n"
        "def more(x):\n    return x + 1\n"
    )
    code = (
        "import isotherm.core.kernels as k; from tiny_kernels import more;"
        "first = k.is_first_start(); more(1);"
        "print(first, k.is_first_start(), k.COMPILING.total_s > 0)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ISOTHERM_KERNELS"}
    environment |= {
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(tmp_path),
    }
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        ).stdout
        for _ in range(2)
    ]
    assert ["True False True\n", "False False False\n"] == said
