"""Accessed bits are set again after they were cleared, as on a real CPU."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PAGES = 64

# Pinned and alone on a CPU, touching the same few pages for ever: an emulated
# CPU would never look at their page-table entries again.
SPINNER = f"""
import mmap, os
os.sched_setaffinity(0, {{1}})
area = mmap.mmap(-1, {PAGES} * 4096)  # shared: a mapping that merges with no other
for page in range({PAGES}):
    area[page * 4096] = 1
print("up", flush=True)
while True:
    for page in range({PAGES}):
        area[page * 4096]
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs in the guest")
def test_a_busy_process_alone_on_its_cpu_is_seen(
    start: Callable[[str], "subprocess.Popen[str]"],
    await_true: Callable[..., None],
) -> None:
    """Cleared, the accessed bits of all its pages come back within seconds."""
    spinner = start(SPINNER)
    assert spinner.stdout is not None
    assert "up\n" == spinner.stdout.readline()
    process = Path(f"/proc/{spinner.pid}")

    def referenced_kib() -> int:
        best = 0
        size = 0
        for line in (process / "smaps").read_text().splitlines():
            if line.startswith("Size:"):
                size = int(line.split()[1])
            if line.startswith("Referenced:") and size == PAGES * 4:
                best = max(best, int(line.split()[1]))
        return best

    for _ in range(3):
        (process / "clear_refs").write_text("1")
        await_true(lambda: referenced_kib() == PAGES * 4, "all pages referenced")
