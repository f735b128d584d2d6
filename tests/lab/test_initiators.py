"""A GPU and a CPU on one machine: pages go where the summed saving is larger."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.machine.sim.spec import load_machine, parse_machine
from isotherm.trace.stream import AccessChunk, AccessStream, Pace

GPU, CPU = 0, 1  # as gpu-coherent numbers them
PART = 1024  # pages of each part of the memory

STREAMS = (
    AccessStream("gpu", initiator=GPU),
    AccessStream("cpu", initiator=CPU),
    AccessStream("mostly-gpu by gpu", initiator=GPU),
    AccessStream("mostly-gpu by cpu", initiator=CPU),
    AccessStream("mostly-cpu by gpu", initiator=GPU),
    AccessStream("mostly-cpu by cpu", initiator=CPU),
)
#: Part of the memory that each stream accesses, and its share of the accesses. An
#: access of the GPU saves (900 - 400) / 64 = 7.8 ns in HBM, one of the CPU
#: (700 - 110) / 8 = 73.8 ns in DRAM: 9.4 to 1 is where it turns.
PARTS = np.array([0, 1, 2, 2, 3, 3])
SHARE = np.array([0.30, 0.20, 0.24, 0.01, 0.20, 0.05])


SOCKETS = """
name = "sockets"
description = "a GPU with its memory, and two sockets with theirs"
initiators = ["gpu", "cpu", "cpu"]
initiator_parallelism = [64, 8, 8]
[[nodes]]
kind = "gpu"
tier = 0
read_latency_ns = [400, 700, 900]
read_bandwidth_gb_s = 3400
initiators = [0]
[[nodes]]
kind = "dram"
tier = 1
read_latency_ns = [900, 110, 190]
read_bandwidth_gb_s = 400
initiators = [1]
[[nodes]]
kind = "dram"
tier = 1
read_latency_ns = [1100, 190, 110]
read_bandwidth_gb_s = 400
initiators = [2]
"""


@dataclass
class Owned:
    """Pages that a GPU reads, and others that their owner's thread uses."""

    owner: int
    name: str = "owned"
    pages: int = 2 * PART

    @property
    def streams(self) -> tuple[AccessStream, ...]:
        """Return the GPU's kernel and the owner's thread."""
        return (
            AccessStream("gpu", initiator=0),
            AccessStream("owner", initiator=self.owner),
        )

    def epochs(self, pace: Pace) -> Iterator[AccessChunk]:
        """Yield accesses, as many of the GPU as of the owner."""
        rng = np.random.default_rng(9)
        size = int((pace.rate or 10.0) * self.pages * pace.epoch_ns / 1e9)
        for _ in range((pace.accesses or 0) // size):
            stream = rng.integers(0, 2, size).astype(np.uint8)
            page = stream.astype(np.int64) * PART + rng.integers(0, PART, size)
            who = np.where(stream > 0, self.owner, 0).astype(np.uint8)
            yield AccessChunk(page.astype(np.uint32), None, who, None, stream)


@dataclass
class Mixed:
    """Four parts of memory: the GPU's, the CPU's, and two of both."""

    name: str = "mixed"
    pages: int = 4 * PART
    streams: tuple[AccessStream, ...] = STREAMS

    def epochs(self, pace: Pace) -> Iterator[AccessChunk]:
        """Yield accesses, uniform within each part."""
        rng = np.random.default_rng(5)
        size = int((pace.rate or 10.0) * self.pages * pace.epoch_ns / 1e9)
        for _ in range((pace.accesses or 0) // size):
            stream = rng.choice(len(STREAMS), size, p=SHARE).astype(np.uint8)
            page = PARTS[stream] * PART + rng.integers(0, PART, size)
            who = np.array([s.initiator for s in STREAMS], np.uint8)[stream]
            yield AccessChunk(page.astype(np.uint32), None, who, None, stream)


def run(policy: str, **rest: Any) -> dict[str, Any]:
    """Return a run of 40 s on the coherent machine, half of the memory fast."""
    spec = SimulationSpec(
        policy,
        "mixed",
        machine="gpu-coherent",
        fast_ratio=0.5,
        accesses=40 * 20 * 4 * PART,
        rate=20.0,
        sampling_period=200,
        **rest,
    )
    return simulate(spec, workload=Mixed())


def shares(result: dict[str, Any]) -> dict[str, float]:
    """Return each stream's share of accesses in the fastest tier."""
    return {row["name"]: row["fast_share"] for row in result["streams"]}


@pytest.mark.slow
@pytest.mark.parametrize("hints", [None, ("sampling",)])
def test_pages_go_where_the_summed_saving_is_larger(hints) -> None:
    """What the GPU uses most goes to HBM; a fifth of CPU accesses keeps it in DRAM."""
    result = run("isotherm", hints=hints)
    share = shares(result)
    assert share["gpu"] > 0.8
    assert share["mostly-gpu by gpu"] > 0.7
    assert share["cpu"] < 0.3
    assert share["mostly-cpu by gpu"] < 0.3
    assert result["slowdown"] < run("first-touch")["slowdown"]


@pytest.mark.slow
@pytest.mark.parametrize("owner", [1, 2])
def test_what_a_gpu_reads_goes_to_hbm_wherever_its_owner_runs(owner: int) -> None:
    """On either socket: pages that only the GPU reads move, the owner's stay."""
    spec = SimulationSpec(
        "isotherm",
        "owned",
        fast_ratio=0.5,
        accesses=30 * 20 * 2 * PART,
        rate=20.0,
        sampling_period=200,
    )
    machine = parse_machine(SOCKETS, "sockets.toml")
    share = shares(simulate(spec, workload=Owned(owner), machine=machine))
    assert share["gpu"] > 0.8
    assert share["owner"] < 0.3


@pytest.mark.slow
def test_near_the_best_fixed_placement() -> None:
    """The static oracle leaves HBM free rather than put the CPU's pages there."""
    oracle = run("static-oracle")
    share = shares(oracle)
    assert 1.0 == share["gpu"] == share["mostly-gpu by gpu"]
    assert 0.0 == share["cpu"] == share["mostly-cpu by cpu"]
    assert run("isotherm")["slowdown"] < 1.4 * oracle["slowdown"]


def test_unnamed_accesses_are_the_first_initiators() -> None:
    """Without samples nobody is named, and memory is tiered as the GPU sees it."""
    machine = load_machine("gpu-coherent")
    assert machine.initiators[0].value == "gpu"
    spec = SimulationSpec(
        "isotherm",
        "zipf",
        machine="gpu-coherent",
        pages=2048,
        accesses=400_000,
        hints=("accessed-bit",),
    )
    got = simulate(spec)
    still = simulate(
        SimulationSpec(
            "first-touch", "zipf", machine="gpu-coherent", pages=2048, accesses=400_000
        )
    )
    assert got["fast_share"] > still["fast_share"]
