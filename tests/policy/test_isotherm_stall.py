"""Isotherm values a page by what its accesses stall, where a source tells."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.mechanisms import SimSampling
from isotherm.machine.sim.spec import MachineSpec, load_machine
from isotherm.trace.stream import AccessChunk, AccessStream

#: Two threads with as many accesses and pages each: only their misses in flight
#: tell them apart.
EVEN = """
[[part]]
name = "stream"
kind = "uniform"
parallelism = 8

[[part]]
name = "chase"
kind = "uniform"
parallelism = 1
"""

WALL = ("wall_s", "setup_s", "accesses_per_wall_s", "options")


def told() -> MachineSpec:
    """Return the reference machine, misses in flight told apart."""
    return msgspec.structs.replace(load_machine("dram-cxl"), uniform_stall=False)


def run(workload: str, machine: MachineSpec, policy: str = "isotherm", **rest: Any):
    """Return a run of 40 s."""
    figures = {"pages": 2048, "accesses": 2048 * 400, "fast_ratio": 0.4}
    spec = SimulationSpec(policy, workload, **(figures | rest))
    return simulate(spec, machine=machine)


def shares(result: dict[str, Any]) -> dict[str, float]:
    """Return the fast share of each workload."""
    return {w["name"]: w["fast_share"] for w in result["workloads"]}


@pytest.mark.slow
def test_a_pointer_chase_outranks_a_stream_of_equal_rate(tmp_path: Path) -> None:
    """Fast memory goes to the thread that waits; without stall, to neither."""
    path = tmp_path / "even.toml"
    path.write_text(EVEN)
    aware = run(str(path), told(), sampling_period=200)
    blind = run(str(path), told(), sampling_period=200, options={"stall": 0.0})
    assert shares(aware)["chase"] > 0.6
    assert shares(aware)["stream"] < 0.2
    assert abs(shares(blind)["chase"] - shares(blind)["stream"]) < 0.15
    assert aware["slowdown"] < blind["slowdown"]


@pytest.mark.slow
def test_the_colder_half_is_put_on_dram() -> None:
    """On cold-on-dram counts alone keep the wrong half; the bound knows as well."""
    options = {"pages": 4096, "accesses": 4096 * 600, "fast_ratio": 0.5}
    aware = run("cold-on-dram", told(), **options)
    blind = run("cold-on-dram", told(), options={"stall": 0.0}, **options)
    best = run("cold-on-dram", told(), "static-oracle", **options)
    assert aware["slowdown"] < blind["slowdown"]
    assert best["slowdown"] < aware["slowdown"]
    # Of 0.195 and 0.805 of the stall, the sweep's is slow: 250 of 80 ns.
    assert 0.195 * 250 / 80 + 0.805 == pytest.approx(best["slowdown"], abs=0.01)


@pytest.mark.parametrize("workload", ["zipf", "cold-on-dram"])
def test_where_accesses_stall_alike_it_makes_no_difference(workload: str) -> None:
    """On the reference machine the option changes nothing, bit for bit."""
    machine = load_machine("dram-cxl")
    options = {"pages": 1024, "accesses": 1024 * 100, "sampling_period": 200}
    runs = [
        run(workload, machine, options=wish, **options)
        for wish in ({}, {"stall": 0.0}, {"stall": 1.0})
    ]
    for result in runs:
        for key in WALL:
            result.pop(key)
    assert runs[0] == runs[1] == runs[2]


def test_samples_tell_latency_where_streams_differ() -> None:
    """A miss takes what its node takes; a hit nothing; the stall is a share of it."""
    streams = (AccessStream("sweep", 5.0, 0.5), AccessStream("chase", 1.0))
    machine = SimMachine(told(), 100, 0.5, streams=streams)
    machine.place(np.repeat([0, 1], 50).astype(np.uint8))
    pmu = SimSampling(machine, 1, 1, 0.0)
    page = np.tile(np.arange(100, dtype=np.uint32), 20)
    machine.advance(AccessChunk(page, stream=(page % 2).astype(np.uint8)), 1000)
    seen = pmu.drain_samples()
    latency, waited = seen.latency_ns, seen.stall_ns
    assert latency is not None
    assert waited is not None
    chase = seen.page % 2 == 1
    unloaded = np.where(seen.page < 50, 80.0, 250.0)
    assert unloaded[chase].tolist() == latency[chase].tolist()
    assert unloaded[chase].tolist() == waited[chase].tolist()
    hit = latency < 10
    assert 0.5 == pytest.approx(hit[~chase].mean(), abs=0.1)
    assert not waited[hit].any()
    missed = ~chase & ~hit
    assert (unloaded[missed] / 5).tolist() == pytest.approx(waited[missed].tolist())


def test_samples_tell_nothing_more_where_streams_are_alike() -> None:
    """A machine whose accesses all stall alike has samplers as before."""
    machine = SimMachine(load_machine("dram-cxl"), 100, 0.5)
    pmu = SimSampling(machine, 1, 1, 0.0)
    machine.advance(AccessChunk(np.arange(100, dtype=np.uint32)), 1000)
    assert pmu.drain_samples().latency_ns is None
