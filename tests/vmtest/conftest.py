"""A guest to run things in, or a skip that says why there is none."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vmtest.cache import Cache
from vmtest.errors import NO_GUEST, FetchError, GuestError

ROOT = Path(__file__).resolve().parents[2]

Guest = Callable[..., subprocess.CompletedProcess[bytes]]


def fetch_or_skip(
    layout: str = "two-tier",
    system: str | None = None,
    offered: tuple[str, ...] = (),
) -> None:
    """Fill the cache for a layout, and a system of the guest's own, or skip."""
    cache = Cache()
    try:
        cache.kernel("6.12")
        cache.qemu("newer" if layout == "cxl" else "own")
        if system is not None:
            cache.system(system, offered)
    except (FetchError, GuestError) as error:
        if os.environ.get("ISOTHERM_REQUIRE_VM"):
            raise
        pytest.skip(f"no packages for the guest: {error}")


@pytest.fixture(scope="session")
def guest() -> Guest:
    """Return a function that runs a shell command in a guest.

    Options of vmtest may come before it. Boots take 3 s on an idle machine;
    under load ten times that. An emulated CPU may run an instruction that the kernel
    has just patched, and the kernel panics: a guest that ends without an answer is
    booted once more.
    """
    fetch_or_skip()

    def run(*options: str, command: str) -> subprocess.CompletedProcess[bytes]:
        words = [sys.executable, "-m", "vmtest", "--limit", "120", *options]
        for _ in range(2):
            done = subprocess.run(
                [*words, "--", "sh", "-c", command],
                cwd=ROOT,
                capture_output=True,
                check=False,
                timeout=250,
            )
            if NO_GUEST != done.returncode or "sysrq" in command:
                break
        return done

    return run
