"""What bounds know of a workload: enough that nobody does better with what they may."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.machine.sim.spec import MachineSpec, load_machine
from isotherm.trace.stream import AccessChunk, Pace


class Told:
    """The same accesses in each of a few epochs."""

    name = "told"

    def __init__(
        self,
        reads: list[int],
        writes: list[int],
        initiator: list[int] | None = None,
        epochs: int = 4,
    ) -> None:
        self.pages = len(reads)
        times = np.array([reads, writes]).T.ravel()
        at = np.repeat(np.arange(2 * self.pages), times)
        who = None
        if initiator is not None:
            who = np.array(initiator, np.uint8)[at // 2]
        write = (at % 2).astype(np.uint8)
        self.chunk = AccessChunk((at // 2).astype(np.uint32), write, who)
        self.count = epochs

    def epochs(self, pace: Pace) -> Iterator[AccessChunk]:
        """Yield them."""
        yield from [self.chunk] * self.count


def slowdown(
    policy: str, workload: Told, machine: MachineSpec, ratio: float = 0.25
) -> float:
    """Return what a policy's run takes over all memory fast."""
    spec = SimulationSpec(
        policy, "zipf", fast_ratio=ratio, placement="first-access", rate=None
    )
    result = simulate(spec, workload=workload, machine=machine)
    found: float = result["slowdown"]
    return found


def test_pages_of_many_accesses_are_told_apart() -> None:
    """The best fixed placement holds the hotter of two that both exceed 65,535."""
    work = Told([70_000, 200_000, 10, 10], [0, 0, 0, 0])
    best = slowdown("static-oracle", work, load_machine("dram-cxl"))
    assert best < slowdown("first-touch", work, load_machine("dram-cxl"))
    served = 70_020 / 270_020 * 250 + 200_000 / 270_020 * 80
    assert served / 80 == pytest.approx(best)


def slow_writes() -> MachineSpec:
    """Return a machine whose slow tier takes 20 times as long to write."""
    machine = load_machine("dram-cxl")
    slow = msgspec.structs.replace(machine.nodes[1], write_latency_ns=[5000.0])
    return msgspec.structs.replace(machine, nodes=[machine.nodes[0], slow])


@pytest.mark.parametrize("bound", ["static-oracle", "clairvoyant"])
def test_a_write_that_waits_longer_is_worth_more(bound: str) -> None:
    """The page that is written goes to fast memory, not the one that is read more."""
    work = Told([10, 900, 0, 0] * 16, [500, 0, 1, 1] * 16, epochs=40)
    never = slowdown("first-touch", work, slow_writes())
    assert slowdown(bound, work, slow_writes()) <= never
    work = Told([900, 10, 0, 0] * 16, [0, 500, 1, 1] * 16, epochs=40)
    never = slowdown("first-touch", work, slow_writes())
    assert slowdown(bound, work, slow_writes()) < 0.5 * never


def test_all_fast_is_the_least_with_two_sockets() -> None:
    """Every page is near the socket that accesses it: slowdown 1, and none below."""
    machine = load_machine("two-socket-cxl")
    unloaded = msgspec.structs.replace(
        machine,
        nodes=[
            msgspec.structs.replace(node, read_bandwidth_gb_s=None)
            for node in machine.nodes
        ],
    )
    work = Told([50] * 8, [5] * 8, [0, 0, 1, 1, 1, 0, 1, 0])
    assert 1.0 == pytest.approx(slowdown("all-fast", work, unloaded))
    first = slowdown("first-touch", work, unloaded, 0.5)
    oracle = slowdown("static-oracle", work, unloaded, 0.5)
    assert 1.0 < oracle <= first
