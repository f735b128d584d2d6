"""The rule for tests that need a real kernel, and fixtures for them.

Tests in this folder run inside a vmtest guest, as root: ``make vm``. Outside
one they skip. Inside they run where their marks say:

    @pytest.mark.layout("two-tier", "cxl")   # default: two-tier
    @pytest.mark.kernel("6.12", "newer")     # default: 6.12
    @pytest.mark.slow_vm                     # only with make vm-all
    @pytest.mark.slow_vm("newer")            # there only with make vm-all

A test that is meant for another guest is deselected rather than skipped: the
guest it is meant for runs it, and a skip is to mean that something is missing.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LAYOUT = os.environ.get("VMTEST_LAYOUT")
KERNEL = os.environ.get("VMTEST_KERNEL", "6.12")
DEFAULTS = {"layout": ("two-tier",), "kernel": ("6.12",)}

NODES = Path("/sys/devices/system/node")
TIERS = Path("/sys/devices/virtual/memory_tiering")
QUIET = {
    Path("/proc/sys/kernel/numa_balancing"): "0",
    Path("/sys/kernel/mm/numa/demotion_enabled"): "false",
    Path("/sys/kernel/mm/transparent_hugepage/enabled"): "never",
}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Do not import what cannot have a test for this guest: imports are slow here.

    A module that is not for the default guest names its own in a string.
    """
    if LAYOUT is None or not collection_path.name.startswith("test_"):
        return None
    text = collection_path.read_text()
    for here, default in ((LAYOUT, "two-tier"), (KERNEL, "6.12")):
        if here != default and f'"{here}"' not in text and "LAYOUTS" not in text:
            return True
    return None


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Skip outside a guest; inside, keep what is meant for this one."""
    ours = [item for item in items if HERE in item.path.parents]
    if LAYOUT is None:
        skip = pytest.mark.skip(reason="needs a vmtest guest: run make vm")
        for item in ours:
            item.add_marker(skip)
        return
    here = {"layout": LAYOUT, "kernel": KERNEL}
    elsewhere = {
        item
        for item in ours
        for kind, default in DEFAULTS.items()
        if here[kind] not in _wanted(item, kind, default)
    }
    if not os.environ.get("VM_ALL"):
        elsewhere |= {item for item in ours if _is_long(item)}
    if elsewhere:
        config.hook.pytest_deselected(items=list(elsewhere))
        items[:] = [item for item in items if item not in elsewhere]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once why a test failed: a guest may not live to the end."""
    if LAYOUT is not None and report.failed:
        sys.stdout.write(f"\n{report.longreprtext}\n")
        sys.stdout.flush()


def _is_long(item: pytest.Item) -> bool:
    """Return whether only make vm-all runs a test in this guest."""
    return any(
        not mark.args or LAYOUT in mark.args or KERNEL in mark.args
        for mark in item.iter_markers("slow_vm")
    )


def _wanted(item: pytest.Item, kind: str, default: tuple[str, ...]) -> tuple[str, ...]:
    mark = item.get_closest_marker(kind)
    return default if mark is None else tuple(map(str, mark.args))


@pytest.fixture(scope="session")
def layout() -> str:
    """Return the guest's layout, such as ``two-tier``."""
    return LAYOUT or "none"


@pytest.fixture(scope="session")
def kernel() -> str:
    """Return which of vmtest's kernels runs: ``6.1``, ``6.12`` or ``newer``."""
    return KERNEL


@pytest.fixture
def tiers() -> list[list[int]]:
    """Return the kernel's tiers as lists of nodes, fastest first."""
    ranked = sorted(
        TIERS.glob("memory_tier[0-9]*"),
        key=lambda path: int(path.name.removeprefix("memory_tier")),
    )
    return [_parse_list((path / "nodelist").read_text()) for path in ranked]


def _parse_list(text: str) -> list[int]:
    numbers = []
    for part in text.split(",") if text.strip() else []:
        first, _, last = part.strip().partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


@pytest.fixture
def quiet_kernel() -> Iterator[None]:
    """Have the kernel move nothing by itself and make no huge pages."""
    before = {path: path.read_text() for path in QUIET if path.exists()}
    for path in before:
        path.write_text(QUIET[path])
    yield
    for path, text in before.items():
        # "always [madvise] never" is read, "madvise" is written.
        chosen = text.partition("[")[2].partition("]")[0] or text
        path.write_text(chosen)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a program which ends with the test.

    Its standard input and output are pipes for text. A sole string is a Python
    program.
    """
    started: list[subprocess.Popen[str]] = []

    def begin(command: str | Sequence[str]) -> subprocess.Popen[str]:
        words = (
            [sys.executable, "-S", "-E", "-c", command]
            if isinstance(command, str)
            else list(command)
        )
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture
def await_true() -> Callable[..., None]:
    """Return a function that waits for a condition, and fails without it.

    The guest is slow and shares its CPUs: ask often, allow long.
    """

    def wait(condition: Callable[[], object], what: str, limit_s: float = 240) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"not within {limit_s:g} s: {what}")
            time.sleep(0.05)

    return wait


@pytest.fixture
def cgroup(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return the folder of a new control group; it must be empty at the end."""
    path = Path("/sys/fs/cgroup") / f"test-{os.getpid()}-{abs(hash(request.node.name))}"
    path.mkdir()
    yield path
    kill = path / "cgroup.kill"
    if kill.exists():
        kill.write_text("1")
    end = time.monotonic() + 60
    while (path / "cgroup.procs").read_text() and time.monotonic() < end:
        time.sleep(0.02)
    path.rmdir()
