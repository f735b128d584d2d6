"""New memory on a real kernel: born in the fast tier where room is kept for it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from isotherm.core.errors import IsothermError
from isotherm.daemon.asking import list_managed
from tests.vm.puppet import counter
from tests.vm.runs import LIMIT_S, RUN, Isotherm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("quiet_kernel"),
]

GROWING: Final = Path(__file__).parent / "growing.py"
NODE0: Final = Path("/sys/devices/system/node/node0")
HUGE: Final = NODE0 / "hugepages/hugepages-2048kB/nr_hugepages"
#: Of node 0, for the process that grows; what it has at first is more than that.
FREE_MIB: Final = 32
COLD_MIB: Final = 40
#: Pages of a block, more than what page cache and other processes take and give back
#: in a second; of the blocks, the last are judged: births are known by then.
PAGES: Final = 768
BLOCKS, JUDGED = 30, 15


@pytest.fixture
def scarce(room: None) -> Iterator[None]:
    """Leave little of node 0: huge pages take the rest."""
    for line in (NODE0 / "meminfo").read_text().splitlines():
        if "MemFree:" in line:
            spare_mib = int(line.split()[3]) // 1024 - FREE_MIB
    HUGE.write_text(str(max(0, spare_mib // 2)))
    yield
    HUGE.write_text("0")


@pytest.fixture
def growing(
    scarce: None, start: Callable[..., subprocess.Popen[str]]
) -> subprocess.Popen[str]:
    """Start the process that grows; it has filled node 0."""
    words = [sys.executable, "-S", "-E", str(GROWING), str(COLD_MIB)]
    child = start([*words, str(BLOCKS), str(PAGES)])
    assert child.stdout is not None
    assert "ready\n" == child.stdout.readline()
    return child


def born_fast(child: subprocess.Popen[str]) -> float:
    """Let it grow; return the share of the last blocks' pages born on node 0."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    fast = []
    for block in range(BLOCKS):
        said, number, count = child.stdout.readline().split()
        assert ("born", block) == (said, int(number))
        fast.append(int(count))
    return sum(fast[-JUDGED:]) / (JUDGED * PAGES)


@pytest.fixture
def managed(
    growing: subprocess.Popen[str],
    isotherm: Callable[..., Isotherm],
    settings: Path,
    await_true: Callable[..., None],
) -> Callable[[bool], Isotherm]:
    """Return a function that has isotherm manage it, with headroom or without."""

    def begin(headroom: bool) -> Isotherm:
        text = f"\n[loop]\nepoch_s = 0.5\nheadroom = {str(headroom).lower()}\n"
        settings.write_text(settings.read_text() + text)
        run = isotherm("run", "--pid", str(growing.pid), "--json")

        def settled() -> bool:
            assert run.process.poll() is None, run.said
            try:
                return any(daemon["epochs"] >= 8 for daemon in list_managed(RUN))
            except IsothermError:
                return False

        await_true(settled, "eight epochs", LIMIT_S)
        return run

    return begin


def test_new_memory_is_born_fast_where_room_is_kept(
    growing: subprocess.Popen[str], managed: Callable[[bool], Isotherm]
) -> None:
    """The fast tier is full of cold memory; demotion goes ahead of what is born."""
    run = managed(True)
    fast = born_fast(growing)
    sys.stdout.write(f"born fast with headroom: {fast:.1%}\n")
    assert fast >= 0.8
    run.process.terminate()
    code, out = run.end()
    assert 0 == code, run.said
    assert json.loads(out)["demoted_pages"] >= JUDGED * PAGES


@pytest.mark.slow_vm
def test_without_room_new_memory_is_born_slow(
    growing: subprocess.Popen[str], managed: Callable[[bool], Isotherm]
) -> None:
    """The same run without headroom: what is young comes up later, if at all."""
    run = managed(False)
    fast = born_fast(growing)
    sys.stdout.write(f"born fast without headroom: {fast:.1%}\n")
    assert fast < 0.5
    run.process.terminate()
    assert 0 == run.end()[0], run.said


@pytest.mark.slow_vm
def test_the_kernels_watermarks_beside_it(growing: subprocess.Popen[str]) -> None:
    """TPP's way, as Linux has it: hint faults promote, and wake reclaim that demotes.

    Watermarks are 2 % apart. How much is born fast is told, not judged: without a
    promotion nobody wakes reclaim, new memory goes to the next node instead.
    """
    knobs = {
        Path("/sys/kernel/mm/numa/demotion_enabled"): "true",
        Path("/proc/sys/vm/watermark_scale_factor"): "200",
        Path("/proc/sys/kernel/numa_balancing"): "2",
    }
    before = {path: path.read_text() for path in knobs}
    faults = counter("numa_hint_faults")
    for path, text in knobs.items():
        path.write_text(text)
    try:
        fast = born_fast(growing)
    finally:
        for path, text in before.items():
            path.write_text(text)
    sys.stdout.write(f"born fast by the kernel's own tiering: {fast:.1%}\n")
    assert counter("numa_hint_faults") > faults
