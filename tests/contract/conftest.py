"""Implementations that the contract suites run on; add one here, it is held to all."""

from collections.abc import Callable
from dataclasses import dataclass

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
    """

    machine: Machine
    touch: Callable[[np.ndarray], None]
    is_exact: bool


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


#: ``{name: maker}``. A host's machine goes here, with a maker that skips where
#: the host cannot.
MACHINES: dict[str, Callable[[], MachineUnderTest]] = {
    f"sim:{name}": lambda name=name: make_simulated(name)  # type: ignore[misc]  # bound
    for name in BUILT_IN
}


@pytest.fixture(params=MACHINES)
def bench(request: pytest.FixtureRequest) -> MachineUnderTest:
    """Return each machine in turn."""
    return MACHINES[request.param]()
