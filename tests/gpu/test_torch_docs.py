"""Examples in the docstrings of modules that need torch."""

import doctest
import importlib

import pytest

MODULES = (
    "embedding",
    "kv_blocks",
    "torch_backend",
    "torch_device",
    "torch_steps",
    "triton_backend",
    "triton_kernels",
    "triton_mover",
    "triton_steps",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    """Every ``>>>`` of a module gives what stands below it."""
    failed, _ = doctest.testmod(importlib.import_module(f"isotherm.gpu.{name}"))
    assert 0 == failed
