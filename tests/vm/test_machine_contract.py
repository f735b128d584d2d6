"""The contract of every machine, held to a live one: same tests, real kernel."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

CONTRACT = Path(__file__).parent.parent / "contract"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.layout("two-tier", "three-tier"),
    pytest.mark.usefixtures("quiet_kernel"),
]


def load(name: str) -> ModuleType:
    """Return a module of the contract suite."""
    spec = importlib.util.spec_from_file_location(name, CONTRACT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SUITE = load("test_machine")
globals().update({name: test for name, test in vars(SUITE).items() if "test_" in name})


@pytest.fixture
def bench() -> Iterator[object]:
    """Return this host as a machine under test."""
    made = load("conftest").make_linux()
    yield made
    made.close()
