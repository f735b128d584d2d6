"""Implementations that the contract suites run on; add one here, it is held to all."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from isotherm.machine.protocol import Machine
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import BUILT_IN, load_machine
from isotherm.trace.stream import AccessChunk

PAGES = 515  # the last block of eight holds three
EPOCH_NS = 500_000_000


@dataclass
class MachineUnderTest:
    """A machine, and how to make something happen on it.

    Attributes:
        machine: At least 64 pages, some on the fastest tier, and room for one more
            page on every node.
        touch: Accesses pages and lets some time pass.
        is_exact: Whether the machine holds nothing but the managed pages, so that
            counts may be compared to the page. A host is not.
        close: Ends what the maker has started.
    """

    machine: Machine
    touch: Callable[[np.ndarray], None]
    is_exact: bool
    close: Callable[[], None] = field(default=lambda: None)


def make_simulated(name: str) -> MachineUnderTest:
    """Return a simulated machine with free pages on every node."""
    spec = load_machine(name)
    machine = SimMachine(spec, PAGES, 0.5)
    node = np.full(PAGES, len(spec.nodes) - 1, np.uint8)
    node[:64] = 0
    machine.place(node)

    def touch(page: np.ndarray) -> None:
        machine.advance(AccessChunk(page.astype(np.uint32)), EPOCH_NS)

    return MachineUnderTest(machine, touch, is_exact=True)


#: A process with pages of its own that writes to them when it is told to.
CHILD = """
import mmap, sys
memory = mmap.mmap(-1, {pages} * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
def touch():
    for at in range(0, len(memory), 4096):
        memory[at] = 1
touch()
print("ready", flush=True)
for line in sys.stdin:
    touch()
    print("done", flush=True)
"""


def make_linux() -> MachineUnderTest:
    """Return this host with a process whose memory is half on the slowest node."""
    from isotherm.machine.linux import moving
    from isotherm.machine.linux.machine import LinuxMachine
    from isotherm.machine.linux.nodes import HostNodes
    from isotherm.machine.linux.targets.follow import Follower

    if os.geteuid():
        pytest.skip("a live host needs root, to move the pages of a process")
    nodes = HostNodes(compressed=False)
    tiers = nodes.topology.tiers
    if len(tiers) < 2:
        pytest.skip("this host has one memory tier; make vm boots one with more")
    child = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", CHILD.format(pages=2048)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    follower = Follower([child.pid])
    # However slow the host is, it reads where all pages are.
    machine = LinuxMachine(follower, nodes, placement_budget_ns=60e9)
    largest = max(machine.spaces, key=lambda space: space.pages)
    half = np.arange(largest.pages // 2, dtype=np.uint64) + largest.start_page
    process = follower.targets[child.pid].process
    moving.move_to(process, half, tiers[-1].nodes[-1])
    ranges = [[largest.base, largest.base + largest.pages]]
    machine.reread(np.array(ranges, np.int64))

    def touch(page: np.ndarray) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("\n")
        child.stdin.flush()
        assert "done" == child.stdout.readline().strip()

    def close() -> None:
        machine.close()
        child.kill()
        child.communicate()

    return MachineUnderTest(machine, touch, is_exact=False, close=close)


def make_tensor() -> MachineUnderTest:
    """Return a tensor of a page a row, with slots for a fifth of them."""
    from isotherm.gpu import numpy_backend
    from isotherm.gpu.backend import Geometry
    from isotherm.gpu.machine import TensorMachine
    from isotherm.gpu.mover import Mover
    from isotherm.gpu.protocol import SlotProtocol

    shape = Geometry(PAGES, 32, "float32", 1, 100)
    device = numpy_backend.create(shape, np.zeros((PAGES, shape.page_bytes), np.uint8))
    mover = Mover(device, SlotProtocol(PAGES, 100, writable=True))
    machine = TensorMachine(mover, "table")

    def touch(page: np.ndarray) -> None:
        out = device.empty((len(page), 32))
        mover.launch(lambda launch: device.gather(page, out, launch))
        mover.pump()
        machine.advance(len(page))

    machine.move(np.arange(64, dtype=np.uint32), np.zeros(64, np.uint8))
    touch(np.arange(64))
    return MachineUnderTest(machine, touch, is_exact=True, close=device.close)


#: ``{name: maker}``. A host's machine goes here, with a maker that skips where
#: the host cannot.
MACHINES: dict[str, Callable[[], MachineUnderTest]] = {
    f"sim:{name}": lambda name=name: make_simulated(name)  # type: ignore[misc]  # bound
    for name in BUILT_IN
} | {"linux": make_linux, "tensor": make_tensor}


@pytest.fixture(params=MACHINES)
def bench(request: pytest.FixtureRequest) -> Iterator[MachineUnderTest]:
    """Return each machine in turn."""
    made = MACHINES[request.param]()
    yield made
    made.close()
