"""Tests of the guest itself: it is what its layout says."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vmtest.layout import LAYOUTS

NODES = Path("/sys/devices/system/node")
EVERY = pytest.mark.layout(*LAYOUTS)


def read_meminfo_mib(node: int, key: str = "MemTotal") -> int:
    """Return a line of a node's meminfo."""
    for line in (NODES / f"node{node}" / "meminfo").read_text().splitlines():
        if f" {key}:" in line:
            return int(line.split()[3]) // 1024
    raise AssertionError(key)


@EVERY
def test_nodes_have_the_memory_of_the_layout(layout: str) -> None:
    """Each node has what was asked for, less what the kernel keeps."""
    for number, node in enumerate(LAYOUTS[layout].nodes):
        total = read_meminfo_mib(number)
        assert node.memory_mib * 0.85 <= total <= node.memory_mib


@EVERY
def test_distances_are_those_of_the_layout(layout: str) -> None:
    """The SLIT arrives in sysfs."""
    rows = tuple(
        tuple(map(int, (NODES / f"node{n}" / "distance").read_text().split()))
        for n in range(len(LAYOUTS[layout].nodes))
    )
    assert LAYOUTS[layout].distances == rows


@EVERY
def test_cpus_are_on_the_nodes_of_the_layout(layout: str) -> None:
    """Nodes without CPUs have none."""
    with_cpus = tuple(
        n
        for n in range(len(LAYOUTS[layout].nodes))
        if (NODES / f"node{n}" / "cpulist").read_text().strip()
    )
    assert LAYOUTS[layout].initiators == with_cpus


@pytest.mark.layout("two-tier", "three-tier", "memory-only", "two-socket")
def test_latencies_are_those_of_the_layout(layout: str) -> None:
    """The HMAT arrives in sysfs, as the nearest initiator sees each node."""
    for number, node in enumerate(LAYOUTS[layout].nodes):
        access = NODES / f"node{number}" / "access0" / "initiators"
        nearest = min(node.access, key=lambda seen: seen.latency_ns)
        assert nearest.latency_ns == int((access / "read_latency").read_text())
        assert nearest.bandwidth_mib_s == int((access / "read_bandwidth").read_text())


@EVERY
def test_tiers_are_in_the_order_of_the_layout(
    layout: str, tiers: list[list[int]]
) -> None:
    """The kernel ranks the nodes as the layout means them to be."""
    expected = {
        "two-tier": [[0], [1]],
        "three-tier": [[1], [0], [2]],
        "memory-only": [[1], [0]],
        "two-socket": [[0, 1], [2]],
        "cxl": [[0], [1]],
        "flat": [[0]],
    }
    assert expected[layout] == tiers


@pytest.mark.kernel("6.1")
def test_an_old_kernel_has_one_tier(tiers: list[list[int]]) -> None:
    """Linux 6.1 makes no tiers of the HMAT: demotion finds nowhere to go."""
    assert [[0, 1]] == tiers


@pytest.mark.kernel("6.12", "newer")
def test_quiet_kernel_sets_and_restores(request: pytest.FixtureRequest) -> None:
    """Demotion is off with the fixture."""
    request.getfixturevalue("quiet_kernel")
    switch = Path("/sys/kernel/mm/numa/demotion_enabled")
    assert switch.read_text().strip() == "false"


def test_leftovers_are_reaped(
    start: Callable[..., object], await_true: Callable[..., None]
) -> None:
    """An orphan that ends leaves no zombie: the guest's first process reaps it."""
    program = "import os; p = os.fork(); print(p or '') if p else os._exit(0)"
    parent = start(program)
    orphan = parent.stdout.readline().strip()  # type: ignore[attr-defined]
    assert orphan
    await_true(lambda: not Path(f"/proc/{orphan}").exists(), "the orphan is reaped")


@EVERY
def test_isotherm_sees_the_tiers(tiers: list[list[int]]) -> None:
    """Second path: isotherm's own reading of the guest ends at the kernel's tiers."""
    done = subprocess.run(
        ["isotherm", "topology", "--json"], capture_output=True, check=True
    )
    seen = json.loads(done.stdout)["tiers"]
    assert tiers == [sorted(tier["nodes"]) for tier in seen]
