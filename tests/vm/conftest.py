"""The rule for tests that need a real kernel, and fixtures for them.

Tests in this folder run inside a vmtest guest, as root: ``make vm``. Outside
one they skip. Inside they run where their marks say:

    @pytest.mark.layout("two-tier", "cxl")   # default: two-tier
    @pytest.mark.kernel("6.12", "newer")     # default: 6.12
    @pytest.mark.slow_vm                     # only with make vm-all
    @pytest.mark.slow_vm("newer")            # there only with make vm-all
    @pytest.mark.outside                     # boots a guest of its own

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
from typing import TYPE_CHECKING

import pytest

from tests.vm.runs import HOT_AND_COLD, Isotherm, finish

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from isotherm.machine.linux.machine import LinuxMachine
    from isotherm.machine.linux.mappings import MappingPolicy
    from isotherm.machine.linux.spaces import SpaceMap
    from tests.vm.puppet import Puppet

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
    outside = {item for item in ours if item.get_closest_marker("outside")}
    ours = [item for item in ours if item not in outside]
    if LAYOUT is None:
        skip = pytest.mark.skip(reason="needs a vmtest guest: run make vm")
        for item in ours:
            item.add_marker(skip)
        return
    here = {"layout": LAYOUT, "kernel": KERNEL}
    elsewhere = outside | {
        item
        for item in ours
        for kind, default in DEFAULTS.items()
        if here[kind] not in _wanted(item, kind, default)
    }
    if not os.environ.get("VM_ALL"):
        elsewhere |= {item for item in ours if _is_long(item)}
    if os.environ.get("VM_PASSED"):  # before the guest before this one ended
        names = Path(os.environ["VMTEST_OUT"], os.environ["VM_PASSED"]).read_text()
        passed = frozenset(names.splitlines())
        elsewhere |= {item for item in ours if item.nodeid in passed}
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
def room() -> None:
    """Give the page cache back and gather free memory into large pieces.

    What was read before fills node 0: new memory then spills to the next node, and
    there is no frame for a huge page.
    """
    Path("/proc/sys/vm/drop_caches").write_text("1")
    Path("/proc/sys/vm/compact_memory").write_text("1")


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


@pytest.fixture
def target(
    start: Callable[..., subprocess.Popen[str]],
) -> Iterator[subprocess.Popen[str]]:
    """Start a process whose hot and cold memory is on the slow node.

    ``target.hot`` is where its 1024 hot pages begin, ``target.cold`` where its cold
    ones do, below, and ``target.end`` the end of the hot ones. If it is still there
    at the end, its memory must be whole.
    """
    words = [sys.executable, "-S", "-E", str(HOT_AND_COLD), "1", "4", "24"]
    child = start(words)
    assert child.stdout is not None
    ready, hot, cold = child.stdout.readline().split()
    assert "ready" == ready
    child.hot, child.cold = int(hot), int(cold)  # type: ignore[attr-defined]
    child.end = int(hot) + (4 << 20)  # type: ignore[attr-defined]
    yield child
    if child.poll() is None:
        assert "intact\n" == finish(child)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Return a configuration for a machine that runs code slowly.

    Emulation makes moves cost a hundred times what they cost elsewhere, and not
    moving nothing: the brake would rightly stop them.
    """
    path = tmp_path / "isotherm.toml"
    path.write_text("[budget]\ncpu_percent = 6400.0\n[brake]\nenabled = false\n")
    return path


@pytest.fixture
def isotherm(settings: Path, tmp_path: Path) -> Iterator[Callable[..., Isotherm]]:
    """Return a function that starts isotherm; it is killed with the test."""
    begun: list[Isotherm] = []

    def begin(*words: str, prefix: tuple[str, ...] = ()) -> Isotherm:
        log = tmp_path / f"log-{len(begun)}"
        if words[0] == "run" and not prefix:  # another user cannot read it
            words = ("run", "--config", str(settings), *words[1:])
        begun.append(Isotherm(words, prefix, log))
        return begun[-1]

    yield begin
    for one in begun:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


# What follows needs numpy, which takes seconds to import: not before it is used.


@pytest.fixture
def puppet(start: Callable[..., subprocess.Popen[str]]) -> "Puppet":
    """Return a process that does what it is told."""
    from tests.vm.puppet import CHILD, Puppet

    return Puppet(start(CHILD))


@pytest.fixture
def follow() -> "Iterator[Callable[..., LinuxMachine]]":
    """Return a function that makes a machine of some processes.

    However slow the guest is, it reads where all pages are.
    """
    from isotherm.machine.linux.machine import LinuxMachine
    from isotherm.machine.linux.nodes import HostNodes
    from isotherm.machine.linux.targets.follow import Follower

    made: list[LinuxMachine] = []

    def begin(
        *pids: int,
        policy: "MappingPolicy | None" = None,
        cgroups: tuple[Path, ...] = (),
        compressed: bool = False,
        move_all: bool = False,
    ) -> LinuxMachine:
        follower = Follower(pids, cgroups, policy=policy)
        nodes = HostNodes(compressed=compressed)
        made.append(
            LinuxMachine(follower, nodes, move_all=move_all, placement_budget_ns=60e9)
        )
        return made[-1]

    yield begin
    for machine in made:
        machine.close()


@pytest.fixture
def toucher(quiet_kernel: None) -> Iterator[tuple[int, int]]:
    """Give pid and first virtual page of a process that does as touching.py says."""
    from tests.vm.touching import CHILD

    child = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", CHILD], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    first = int(child.stdout.readline())
    yield child.pid, first
    child.stdout.close()
    child.kill()
    child.wait()


@pytest.fixture
def spaces(toucher: tuple[int, int]) -> "SpaceMap":
    """Return a map of the toucher's memory: its first page is flat page 0."""
    import numpy as np

    from isotherm.machine.linux.spaces import SpaceMap
    from tests.vm.touching import PAGES

    pid, first = toucher
    made = SpaceMap()
    made.update(pid, np.array([[first, first + PAGES]]))
    assert [[first, first + PAGES, 0]] == made.ranges(pid).tolist()
    return made


@pytest.fixture
def truth() -> "NDArray[np.bool_]":
    """Return which pages the toucher touches."""
    import numpy as np

    from tests.vm.touching import BLOCK, PAGES, SCATTERED

    touched = np.zeros(PAGES, np.bool_)
    touched[slice(*BLOCK)] = True
    touched[list(SCATTERED)] = True
    return touched
