"""A guest to run things in, or a skip that says why there is none."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vmtest.cache import Cache
from vmtest.errors import FetchError, GuestError

ROOT = Path(__file__).resolve().parents[2]

Guest = Callable[..., subprocess.CompletedProcess[bytes]]


def fetch_or_skip(layout: str = "two-tier") -> None:
    """Fill the cache for a layout, or skip."""
    cache = Cache()
    try:
        cache.kernel("6.12")
        cache.qemu("newer" if layout == "cxl" else "own")
    except (FetchError, GuestError) as error:
        if os.environ.get("ISOTHERM_REQUIRE_VM"):
            raise
        pytest.skip(f"no packages for the guest: {error}")


@pytest.fixture(scope="session")
def guest() -> Guest:
    """Return a function that runs a shell command in a guest.

    Options of vmtest may come before it. Boots take 3 s on an idle machine;
    under load ten times that.
    """
    fetch_or_skip()

    def run(*options: str, command: str) -> subprocess.CompletedProcess[bytes]:
        words = [sys.executable, "-m", "vmtest", "--limit", "120", *options]
        return subprocess.run(
            [*words, "--", "sh", "-c", command],
            cwd=ROOT,
            capture_output=True,
            check=False,
            timeout=250,
        )

    return run
