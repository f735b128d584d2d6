"""The pages' commands for a GPU, as they stand, where there is one."""

import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, command_blocks
from tests.docs.surroundings import surroundings
from tests.gpu.conftest import TORCH


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", command_blocks("gpu"), ids=lambda block: block.name)
def test_commands_run(block: Block, tmp_path: Path) -> None:
    """Each ends with 0."""
    if not TORCH:
        pytest.skip("no torch here; make gpu has it")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch sees")
    assert (ROOT / ".venv-gpu").exists()
    with surroundings(block.page, tmp_path) as environment:
        done = subprocess.run(
            ["bash", "-eu", "-c", block.text],
            cwd=tmp_path,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
    assert 0 == done.returncode, done.stderr
