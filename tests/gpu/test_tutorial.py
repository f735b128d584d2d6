"""The chapter on tensors: every block runs, in order, without a GPU."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.conftest import TORCH

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial-gpu.md"


#: A block of Python, up to the output that may follow it.
OUTPUT = re.compile(r"```python\n.*?```\n", re.DOTALL)


def numbers(text: str) -> list[float]:
    """Return the numbers in a text."""
    return [float(found) for found in re.findall(r"\d+(?:\.\d+)?", text)]


def blocks() -> list[str]:
    """Return the blocks of Python."""
    return re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)


@pytest.mark.slow
def test_every_block_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """What follows the first use of torch is left out where it is not installed."""
    names: dict[str, Any] = {}
    found = blocks()
    assert len(found) >= 8
    first = next(i for i, block in enumerate(found) if "import torch" in block)
    for block in found if TORCH else found[:first]:
        exec(compile(block, TUTORIAL.name, "exec"), names)  # noqa: S102  # the page
    said = capsys.readouterr().out
    # What the page shows is what was printed before torch, but for a rate's last digit.
    shown = re.findall(r"```text\n([^`]*?)```", OUTPUT.sub("", TUTORIAL.read_text()))
    expected, printed = (numbers(text) for text in ("".join(shown), said))
    assert len(expected) >= 10
    assert expected == pytest.approx(printed[: len(expected)], abs=0.04)
    if not TORCH:
        for name in ("tensor", "weights", "cache"):
            names[name].close()
