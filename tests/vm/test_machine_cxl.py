"""A node that arrives and leaves while a machine looks on."""

import errno
import subprocess
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.nodes import HostNodes
from isotherm.machine.linux.targets.follow import Follower

pytestmark = [
    pytest.mark.slow,
    pytest.mark.layout("cxl"),
    pytest.mark.usefixtures("quiet_kernel"),
]

CHILD = """
import ctypes, mmap, sys
memory = mmap.mmap(-1, 4099 << 12, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
ctypes.memset(start, 1, len(memory))
print(start >> 12, flush=True)
sys.stdin.readline()
"""


def cxl(verb: str) -> str:
    """Have the guest's CXL memory come or go."""
    done = subprocess.run(["vmtest-cxl", verb], check=True, stdout=subprocess.PIPE)
    return done.stdout.decode().strip()


@pytest.fixture
def machine(
    start: Callable[..., subprocess.Popen[str]],
) -> Iterator[tuple[LinuxMachine, np.ndarray]]:
    """Return a machine whose CXL node is not there yet, and a process's pages."""
    cxl("leave")
    child = start(CHILD)
    assert child.stdout is not None
    page = int(child.stdout.readline())
    nodes = HostNodes(compressed=False)
    made = LinuxMachine(Follower([child.pid]), nodes, placement_budget_ns=60e9)
    vpage = np.arange(page, page + 4099, dtype=np.uint64)
    yield made, made.space_map.flat_pages(child.pid, vpage)
    made.close()
    cxl("arrive")


def test_a_node_arrives_and_leaves(
    machine: tuple[LinuxMachine, np.ndarray], await_true: Callable[..., None]
) -> None:
    """Tiers follow, pages go there and are found again when the kernel moves them."""
    host, ours = machine
    there = np.full(len(ours), 1, np.uint8)
    assert [(0,)] == [tier.nodes for tier in host.topology.tiers]
    width = len(host.usage().capacity_pages)
    assert {errno.ENODEV} == set(host.move(ours, there).errno.tolist())

    def tiers() -> list[tuple[int, ...]]:
        host.refresh()
        return [tier.nodes for tier in host.topology.tiers]

    cxl("arrive")
    await_true(lambda: [(0,), (1,)] == tiers(), "news of a node")

    def whole() -> bool:
        host.refresh()
        return bool(host.usage().capacity_pages[1] > 200_000)

    await_true(whole, "all blocks of the node")
    assert width == len(host.usage().capacity_pages)
    assert host.latency_ns()[0, 1] > host.latency_ns()[0, 0]
    host.refresh()
    assert {0} == set(host.move(ours, there).errno.tolist())
    host.reread(np.array([[0, host.pages]]))
    assert {1} == set(host.placement()[ours].tolist())

    cxl("offline")
    await_true(lambda: [(0,)] == tiers(), "news of a node that left")
    assert 0 == host.usage().capacity_pages[1]

    def home() -> bool:
        host.refresh()
        return {0} == set(host.placement()[ours].tolist())

    await_true(home, "the pages on node 0")
    assert {errno.ENODEV} == set(host.move(ours, there).errno.tolist())
