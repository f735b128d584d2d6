"""Tenants on a real kernel: a guarantee holds beside a scan, cpusets are respected."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import IsothermError
from isotherm.daemon.asking import list_tenants
from isotherm.workloads.native.truth import Snapshot, TruthReader, Window
from tests.vm.runs import HOT_AND_COLD, LIMIT_S, RUN, Isotherm, finish, pages_on

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("quiet_kernel"),
]
Await = Callable[..., None]

NODE0 = Path("/sys/devices/system/node/node0")
HUGE = NODE0 / "hugepages/hugepages-2048kB/nr_hugepages"
FREE_MIB = 32  # of node 0, for tenants; about 10 of it the kernel keeps
GUARANTEE_MIB = 12
SLOTS = GUARANTEE_MIB * 256
#: 1,600 hot pages of 4.5 accesses a second each.
GOOD = ("gups", "--pages", "8000", "--rate", "1", "--set", "hot_pages=0.2")
#: More pages than are free of the fast node, swept eight times a second.
SCAN = ("stream", "--pages", "12000", "--rate", "8", "--set", "burst=1")
TAKEN = 2500  # of them fast by then
ACCESSES = 16000  # of the tenant, in a window
KEPT = 0.95

TENANTS = """
sharing = "{sharing}"

[[tenant]]
name = "good"
guarantee = "{guarantee}"
cgroup = "{good}"

[[tenant]]
name = "scan"
cgroup = "{scan}"
"""

#: Prefers memory of the slow node for whom it starts: set_mempolicy(2).
ELSEWHERE = (
    "import ctypes, os, sys;"
    " ctypes.CDLL(None).syscall(238, 1, (ctypes.c_ulong * 2)(2, 0), 64);"
    " os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture
def groups(cgroup: Path) -> Iterator[tuple[Path, Path]]:
    """Give two control groups with memory and cpusets of their own."""
    for folder in (cgroup.parent, cgroup):
        (folder / "cgroup.subtree_control").write_text("+memory +cpuset")
    made = (cgroup / "good", cgroup / "scan")
    for path in made:
        path.mkdir()
    yield made
    for path in made:
        (path / "cgroup.kill").write_text("1")
    for path in made:
        while (path / "cgroup.procs").read_text():
            pass
        path.rmdir()


@pytest.fixture
def scarce(room: None) -> Iterator[Callable[[], None]]:
    """Return a function that leaves little of node 0: huge pages take the rest."""

    def reserve() -> None:
        for line in (NODE0 / "meminfo").read_text().splitlines():
            if "MemFree:" in line:
                spare_mib = int(line.split()[3]) // 1024 - FREE_MIB
        HUGE.write_text(str(max(0, spare_mib // 2)))

    yield reserve
    HUGE.write_text("0")


@pytest.fixture
def member(tmp_path: Path, await_true: Await) -> Iterator[Callable[..., TruthReader]]:
    """Return a function that runs a native workload in a group, on the slow node."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(group: Path, *words: str) -> TruthReader:
        path = tmp_path / group.name
        native = (sys.executable, "-m", "isotherm.workloads.native", *words)
        rest = ("--duration", "0", "--place", "bind:1", "--huge", "never")
        enter = 'echo $$ > "$0"/cgroup.procs && exec "$@"'
        begun.append(
            subprocess.Popen(
                ["sh", "-c", enter, str(group), *native, *rest, "--truth", str(path)],
                stdout=subprocess.DEVNULL,
                env={**os.environ, "ISOTHERM_KERNELS": "numpy"},
            )
        )
        await_true(path.exists, "the workload makes its truth file")
        reader = TruthReader(path)
        reader.wait_until_running(240)
        return reader

    yield begin
    for process in begun:
        process.terminate()
    assert [0] * len(begun) == [process.wait(240) for process in begun]


def write_tenants(
    path: Path, groups: tuple[Path, Path], guarantee: str, sharing: str = "price"
) -> Path:
    """Write the file of two tenants."""
    good, scan = groups
    path.write_text(
        TENANTS.format(good=good, scan=scan, guarantee=guarantee, sharing=sharing)
    )
    return path


def rows_of(run: Isotherm) -> dict[str, dict[str, Any]]:
    """Return what a running daemon says of its tenants, by name."""
    assert run.process.poll() is None, run.said
    try:
        return {row["name"]: row for d in list_tenants(RUN) for row in d["tenants"]}
    except IsothermError:  # it does not answer yet
        return {}


def epochs_of(run: Isotherm) -> int:
    """Return how many epochs a running daemon has run."""
    assert run.process.poll() is None, run.said
    return max((int(daemon["epochs"]) for daemon in list_tenants(RUN)), default=0)


class Beside:
    """A well-behaved tenant beside a sweep, under one sharing after another.

    Attributes:
        good: What the tenant's accesses met.
        scan: What its neighbour's met.
    """

    def __init__(
        self,
        readers: tuple[TruthReader, TruthReader],
        start: Callable[[str], Isotherm],
        await_true: Await,
    ) -> None:
        self.good, self.scan = readers
        self._start, self._await = start, await_true

    def run(self, sharing: str, is_there: Callable[[Window], bool]) -> Isotherm:
        """Return a run under which the tenant gets somewhere, and stays ten epochs.

        By then its neighbour has slots, too: without them there would be no test.
        """
        run = self._start(sharing)
        self._await(lambda: rows_of(run), "the daemon answers", LIMIT_S)
        self._await(
            lambda: self._taken() >= TAKEN and is_there(self._next()),
            f"it is, by {sharing}",
            LIMIT_S,
        )
        before, epochs = self.snapshots(), epochs_of(run)
        self._await(lambda: epochs_of(run) >= epochs + 10, "ten epochs more", LIMIT_S)
        windows = [
            reader.window(begin, end, SLOTS)
            for reader, begin, end in zip(
                (self.good, self.scan), before, self.snapshots(), strict=True
            )
        ]
        self._write(sharing, *windows, rows_of(run))
        assert is_there(windows[0]), windows[0]
        return run

    def _write(
        self, sharing: str, good: Window, scan: Window, rows: dict[str, Any]
    ) -> None:
        """Leave what a sharing came to for those who collect it."""
        if "VMTEST_OUT" not in os.environ:
            return
        found = {
            "sharing": sharing,
            "kept": good.fast_share / good.best_share,
            "fast_share": good.fast_share,
            "best_share": good.best_share,
            "fast_pages": good.fast_pages,
            "neighbour_share": scan.fast_share,
            "neighbour_pages": scan.fast_pages,
            "paid_moves": {name: row["paid_moves"] for name, row in rows.items()},
        }
        out = Path(os.environ["VMTEST_OUT"], f"beside-{sharing}.json")
        out.write_text(json.dumps([found]))

    def snapshots(self) -> tuple[Snapshot, Snapshot]:
        """Return counts and placement of both, now."""
        return self.good.snapshot(), self.scan.snapshot()

    def _taken(self) -> int:
        """Return the neighbour's pages on the fast node."""
        return int(np.count_nonzero(self.scan.snapshot().node == 0))

    def _next(self) -> Window:
        """Return a window of the tenant, judged by the guarantee's slots."""
        before = after = self.good.snapshot()

        def enough() -> bool:
            nonlocal after
            after = self.good.snapshot()
            return int((after.counts - before.counts).sum()) >= ACCESSES

        self._await(enough, f"{ACCESSES} accesses", LIMIT_S)
        return self.good.window(before, after, SLOTS)


def is_kept(window: Window) -> bool:
    """Return whether a tenant surely gets 95 % of what it could have alone."""
    return window.fast_share_low >= KEPT * window.best_share


def is_lost(window: Window) -> bool:
    """Return whether it surely gets less."""
    return window.fast_share_high < KEPT * window.best_share


@pytest.fixture
def beside(
    groups: tuple[Path, Path],
    member: Callable[..., TruthReader],
    scarce: Callable[[], None],
    isotherm: Callable[..., Isotherm],
    settings: Path,
    tmp_path: Path,
    await_true: Await,
) -> Beside:
    """Give a tenant and a neighbour that sweeps over more than the fast node holds.

    Both begin on the slow node. Each page of the neighbour is accessed more often than
    the tenant's hot ones: one price gives it the fast node. Weights are the same.
    """
    readers = member(groups[0], *GOOD), member(groups[1], *SCAN)
    scarce()

    def start(sharing: str) -> Isotherm:
        path = tmp_path / "t.toml"
        write_tenants(path, groups, f"{GUARANTEE_MIB}MiB", sharing)
        return isotherm(
            *("run", "--tenants", str(path), "--config", str(settings), "--json"),
            prefix=(sys.executable, "-S", "-E", "-c", ELSEWHERE),
        )

    return Beside(readers, start, await_true)


def test_a_guarantee_holds_beside_a_scan(beside: Beside) -> None:
    """The tenant gets 95 % of what the best placement in its guarantee would.

    That placement does not change and knows the future: what the tenant has alone,
    with that much fast memory, is at most as much. Before, with one global price for
    the same two processes, the tenant gets less while its neighbour gets slots. The
    kernel gives page cache of the node back meanwhile, so there may be more room for
    both in the end than at first.
    """
    run = beside.run("none", is_lost)
    run.process.terminate()
    assert 0 == run.end()[0], run.said
    run = beside.run("price", is_kept)
    rows = rows_of(run)
    assert 0 < rows["good"]["fast_bytes"]
    assert GUARANTEE_MIB << 20 == rows["good"]["guarantee_bytes"]
    assert 0 == rows["scan"]["guarantee_bytes"]
    pids = [beside.good.pid], [beside.scan.pid]
    assert pids == (rows["good"]["pids"], rows["scan"]["pids"])
    on_nodes = {int(n): b for n, b in rows["good"]["node_bytes"].items()}
    assert 0 < on_nodes[0] < sum(on_nodes.values())
    assert rows["good"]["paid_moves"] > 0
    assert rows["good"]["cpu_ns"] > 0
    assert rows["scan"]["cpu_ns"] > 0
    run.process.terminate()
    code, out = run.end()
    assert 0 == code, run.said
    result = json.loads(out)
    assert {"good", "scan"} <= {row["name"] for row in result["tenants"]}


def test_a_cpuset_is_respected(
    groups: tuple[Path, Path],
    isotherm: Callable[..., Isotherm],
    start: Callable[..., Any],
    tmp_path: Path,
    await_true: Await,
) -> None:
    """A tenant bound to the slow node stays there while the other's hot pages go up."""
    words = [sys.executable, "-S", "-E", str(HOT_AND_COLD), "1", "4", "8"]
    (groups[1] / "cpuset.mems").write_text("1")
    targets = []
    for group in groups:
        child = start(words)
        hot = int(child.stdout.readline().split()[1])
        (group / "cgroup.procs").write_text(str(child.pid))
        targets.append((child, hot))
    path = write_tenants(tmp_path / "t.toml", groups, "50%")
    run = isotherm("run", "--tenants", str(path), "--json")
    (free, hot), (bound, other_hot) = targets
    await_true(
        lambda: (
            pages_on(free.pid, hot, 0) >= 0.95 * 1024 or run.process.poll() is not None
        ),
        "the free tenant's hot pages are on node 0",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    assert 0 == pages_on(bound.pid, other_hot, 0)
    await_true(lambda: "scan" in rows_of(run), "the daemon answers", LIMIT_S)
    assert 0 == rows_of(run)["scan"]["promoted_pages"]
    shown = isotherm("tenants")
    code, out = shown.end()
    assert 0 == code, shown.said
    assert "good" in out
    assert "scan" in out
    run.process.terminate()
    assert 0 == run.end()[0], run.said
    assert ["intact\n"] * 2 == [finish(child) for child, _ in targets]


def test_a_guarantee_that_a_cpuset_forbids_is_refused(
    groups: tuple[Path, Path], isotherm: Callable[..., Isotherm], tmp_path: Path
) -> None:
    """Nothing is begun, and the message names the cpuset and the tier."""
    (groups[0] / "cpuset.mems").write_text("1")
    path = write_tenants(tmp_path / "t.toml", groups, "10%")
    run = isotherm("run", "--tenants", str(path))
    assert 2 == run.end()[0]
    assert "the fastest tier is node 0, and cpuset.mems" in run.said
    assert not RUN.exists()
