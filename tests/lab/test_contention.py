"""Several workloads, initiators and neighbours on one machine, all the way through."""

import json
from pathlib import Path
from typing import Any

import pytest

from isotherm.lab.compare import compare
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.machine.sim.spec import parse_machine

CPU_AND_GPU = """
name = "cpu-gpu"
description = "HBM that a GPU owns and a CPU reaches; DRAM the other way round"
initiators = ["cpu", "gpu"]
initiator_parallelism = [4, 64]
reference_gib = 64
[[nodes]]
kind = "gpu"
tier = 0
read_latency_ns = [800, 400]
read_bandwidth_gb_s = 3000
initiators = [1]
[[nodes]]
kind = "dram"
tier = 1
read_latency_ns = [100, 1200]
read_bandwidth_gb_s = 200
initiators = [0]
[[nodes]]
kind = "cxl"
tier = 2
read_latency_ns = [250, 1400]
write_latency_ns = [300, 1500]
read_bandwidth_gb_s = 26
write_bandwidth_gb_s = 20
"""

TWO = """
[[part]]
name = "server"
kind = "zipf"
accesses = 0.4

[[part]]
name = "training"
kind = "gups"
initiator = 1
accesses = 0.6
"""

BUSY = """
[[background]]
node = 0
read_gb_s = 120
write_gb_s = 80
"""


def run(directory: Path, text: str, **rest: Any) -> dict[str, Any]:
    """Return a small run of a workload file."""
    path = directory / "w.toml"
    path.write_text(text)
    machine = rest.pop("machine_spec", None)
    figures = {"pages": 2000, "accesses": 200_000, "rate": 20.0, "hints": None}
    spec = SimulationSpec("isotherm", str(path), **(figures | rest))
    return simulate(spec, machine=machine)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["isotherm", "lru", "tpp", "static-oracle"])
def test_a_cpu_and_a_gpu_share_three_tiers(tmp_path: Path, policy: str) -> None:
    """Each workload has its own slowdown; weighed, they are the whole's."""
    path = tmp_path / "w.toml"
    path.write_text(TWO)
    machine = parse_machine(CPU_AND_GPU, "cpu-gpu")
    spec = SimulationSpec(policy, str(path), pages=2000, accesses=200_000, rate=20.0)
    result = simulate(spec, machine=machine)
    server, training = result["workloads"]
    assert ("server", "training") == (server["name"], training["name"])
    assert 200_000 == server["accesses"] + training["accesses"]
    assert 0.6 == pytest.approx(training["accesses"] / 200_000, abs=0.01)
    both = sum(w["slowdown"] * w["all_fast_ns"] for w in (server, training))
    fast = server["all_fast_ns"] + training["all_fast_ns"]
    assert result["slowdown"] == pytest.approx(both / fast)
    # The server's accesses come from the CPU, to which HBM is no gain.
    assert server["stall_ns"] < server["all_fast_ns"] * 2
    assert result == json.loads(json.dumps(result))


@pytest.mark.parametrize("machine", ["two-socket-cxl", "hbm-dram-cxl"])
def test_two_sockets_and_three_tiers(tmp_path: Path, machine: str) -> None:
    """A mixture runs there, its second part from the second socket if there is one."""
    text = TWO if machine == "two-socket-cxl" else TWO.replace("initiator = 1\n", "")
    result = run(tmp_path, text, machine=machine)
    assert ["server", "training"] == [w["name"] for w in result["workloads"]]
    assert all(w["slowdown"] > 0.9 for w in result["workloads"])


def test_a_noisy_neighbour_slows_the_fast_tier(tmp_path: Path) -> None:
    """Background traffic raises the latency that accesses meet there."""
    quiet = run(tmp_path, TWO.replace("initiator = 1\n", ""), machine="dram-cxl-fast")
    busy = run(
        tmp_path, TWO.replace("initiator = 1\n", "") + BUSY, machine="dram-cxl-fast"
    )
    assert quiet["mean_latency_ns"] * 1.5 < busy["mean_latency_ns"]


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    """Streams, background and all, but for the stopwatch."""
    runs = [run(tmp_path, TWO, machine="two-socket-cxl") for _ in range(2)]
    for result in runs:
        for key in ("wall_s", "setup_s", "accesses_per_wall_s"):
            result.pop(key)
    assert runs[0] == runs[1]


def test_compare_takes_machine_and_workload_files(tmp_path: Path) -> None:
    """A grid over files: every cell has its workloads' slowdowns."""
    (tmp_path / "m.toml").write_text(CPU_AND_GPU)
    (tmp_path / "w.toml").write_text(TWO)
    specs = [
        SimulationSpec(
            policy,
            str(tmp_path / "w.toml"),
            str(tmp_path / "m.toml"),
            pages=1000,
            accesses=50_000,
        )
        for policy in ("first-touch", "all-fast")
    ]
    results = compare(specs, jobs=1).results
    assert 2 == len(results)
    fast = next(r for r in results if r["policy"] == "all-fast")
    for workload in fast["workloads"]:
        assert workload["name"] in {"server", "training"}
        assert 1.0 == pytest.approx(workload["fast_share"])
