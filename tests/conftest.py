"""Fixtures that tests of several packages share."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Deadlines time the machine, not the code: a busy one would fail good tests.
settings.register_profile("isotherm", deadline=None)
settings.load_profile("isotherm")

# A shell that starts pytest in the background has it ignore interrupts, and every
# program that a test starts would ignore them too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the one switch that rewrites golden files."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite golden files with what the code gives now; review the diff",
    )


@pytest.fixture(scope="session")
def update_golden(pytestconfig: pytest.Config) -> bool:
    """Return whether golden files are to be rewritten."""
    return bool(pytestconfig.getoption("--update-golden"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the directory of recorded traces and machines that are not shipped.

    ``ISOTHERM_SHARED`` names it; else it stands beside the checkout.
    """
    given = os.environ.get("ISOTHERM_SHARED")
    beside = Path(__file__).resolve().parents[2] / "shared"
    path = Path(given) if given else beside
    if not path.is_dir():
        pytest.skip(f"no recorded machines and traces at {path}; set ISOTHERM_SHARED")
    return path
