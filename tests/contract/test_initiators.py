"""Who accesses decides; where the scheduler put the threads does not."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from isotherm.daemon.sources_hardware import initiators_of_cpus
from isotherm.hints.batch import Mechanism
from isotherm.hints.live.perf_event_samples import Accesses, Translator
from isotherm.lab import simulate as lab
from isotherm.machine.linux.targets.discover import read_parents
from isotherm.machine.protocol import SpacesChanged
from isotherm.machine.sim.spec import load_machine, parse_machine
from isotherm.policy.plan import Epoch, Plan, Policy, Setup
from isotherm.policy.registry import POLICIES, make_policy
from isotherm.records.data_source import PhysicalNodes
from isotherm.topology.model import Topology

PAGES = 515
#: The fastest node has memory and no CPU; the CPUs are beside the slow one.
MEMORY_ONLY = """
name = "memory-only"
description = "a fast node without CPUs"
[[nodes]]
kind = "hbm"
tier = 0
read_latency_ns = [80]
[[nodes]]
kind = "dram"
tier = 1
read_latency_ns = [250]
initiators = [0]
"""
#: Peers that promote what is hot into a node of their choice.
PROMOTERS = [
    "isotherm",
    "numab2",
    "tpp",
    "hemem",
    "memtis",
    "arms",
    "colloid",
    "colloid-hemem",
]


def elsewhere(topology: Topology, seed: int) -> Topology:
    """Return the machine with its CPUs dealt to the nodes anew, or taken away."""
    rng = np.random.default_rng(seed)
    nodes = tuple(
        replace(node, cpus=tuple(rng.permutation(64)[: rng.integers(0, 9)].tolist()))
        for node in topology.nodes
    )
    return replace(topology, nodes=nodes)


def as_bytes(plan: Plan) -> tuple[Any, ...]:
    """Return all that a plan says, comparable."""
    m = plan.moves
    tables = [c.tobytes() for c in (m.page, m.node, m.gain_ns, m.reason)]
    return (*tables, plan.look, plan.birth, json.dumps(dict(plan.notes)))


class Twice:
    """A policy, and one made alike that is told of other CPUs every epoch."""

    def __init__(self, name: str, setup: Setup, future: Any) -> None:
        self._one = make_policy(name, setup, future)
        moved = replace(setup, topology=elsewhere(setup.topology, 1))
        self._other = make_policy(name, moved, future)
        self.name, self.wants = self._one.name, self._one.wants
        self.uses_tracker = self._one.uses_tracker
        self.moves = 0

    def start(self, node: np.ndarray) -> np.ndarray:
        """Start both alike."""
        first, second = self._one.start(node), self._other.start(node)
        assert first.tobytes() == second.tobytes()
        return first

    def renew(self, change: SpacesChanged) -> None:
        """Tell both, the other of its own CPUs."""
        self._one.renew(change)
        if change.topology is not None:
            change = replace(change, topology=elsewhere(change.topology, 0))
        self._other.renew(change)

    def decide(self, epoch: Epoch) -> Plan:
        """Hold the plans of both to one another."""
        plan = self._one.decide(epoch)
        moved = elsewhere(epoch.topology, epoch.index + 2)
        spaces = tuple(replace(s, owner="on another CPU") for s in epoch.spaces)
        again = self._other.decide(replace(epoch, topology=moved, spaces=spaces))
        assert as_bytes(plan) == as_bytes(again), "the plan depends on CPUs"
        self.moves += len(plan.moves)
        return plan


@pytest.mark.parametrize("machine", ["two-socket-cxl", "gpu-coherent"])
@pytest.mark.parametrize("policy", [p for p in POLICIES if p not in ("lru", "soar")])
def test_the_same_evidence_gives_the_same_plan(
    policy: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever CPUs the nodes are said to have, and whoever owns the spaces."""
    made: list[Twice] = []

    def make(name: str, setup: Setup, future: Any = None) -> Policy:
        made.append(Twice(name, setup, future))
        return made[-1]

    monkeypatch.setattr(lab, "make_policy", make)
    spec = lab.SimulationSpec(
        policy,
        "phases",
        machine=machine,
        pages=PAGES,
        accesses=20_000,
        rate=4.0,
        sampling_period=20,
        workload_options={"phase_s": 2.0},
    )
    lab.simulate(spec)
    if policy in ("isotherm", "tpp", "memtis", "clairvoyant"):
        assert made[-1].moves > 0, "nothing was compared"


@pytest.mark.parametrize("policy", PROMOTERS)
def test_a_node_without_cpus_receives_promotions(policy: str) -> None:
    """Hot pages go up to memory that no task could run beside."""
    machine = parse_machine(MEMORY_ONLY, "memory-only.toml")
    assert () == machine.topology([1, 1]).nodes[0].cpus
    spec = lab.SimulationSpec(
        policy,
        "zipf",
        pages=PAGES,
        accesses=120_000,
        rate=20.0,
        fast_ratio=0.25,
        sampling_period=20,
    )
    result = lab.simulate(spec, machine=machine)
    assert result["promoted_pages"] > 0


class OneProcess:
    """A process whose virtual pages are flat ones."""

    def pids(self) -> tuple[int, ...]:
        """Return the process."""
        return (7,)

    def flat_pages(self, pid: int, vpage: np.ndarray) -> np.ndarray:
        """Return the pages themselves."""
        assert pid == 7
        return vpage.astype(np.uint32)


def samples_on(cpu: np.ndarray) -> Any:
    """Return what samples of pages 0 to n are, made on these CPUs of two sockets."""
    spec = load_machine("two-socket-cxl")
    topology = spec.topology(spec.capacities(100, 0.5))
    cpus = {0: tuple(range(8)), 1: tuple(range(8, 16)), 2: ()}
    nodes = tuple(replace(n, cpus=cpus[n.id]) for n in topology.nodes)
    who = initiators_of_cpus(replace(topology, nodes=nodes))
    n = len(cpu)
    accesses = Accesses(
        np.full(n, 7, np.int32),
        (1 + np.arange(n, dtype=np.uint64)) << np.uint64(12),
        np.zeros(n, np.uint64),
        cpu.astype(np.int32),
        np.zeros(n, np.uint8),
        np.zeros(n, np.uint32),
        np.zeros(n, np.uint8),
    )
    nowhere = PhysicalNodes.of_blocks({}, 1 << 27)
    translate = Translator(OneProcess(), nowhere, initiator_of_cpu=who)
    return translate.samples(accesses, 100.0)[0]


def test_samples_know_initiators_not_cpus() -> None:
    """Threads that trade CPUs within their socket leave the evidence as it was."""
    rng = np.random.default_rng(3)
    socket = rng.integers(0, 2, 200)
    one = samples_on(8 * socket + rng.integers(0, 8, 200))
    other = samples_on(8 * socket + rng.integers(0, 8, 200))
    for name in ("page", "write", "initiator"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    assert socket.tolist() == one.initiator.tolist()


def test_what_is_read_of_a_process_is_not_where_it_runs(tmp_path) -> None:
    """Field 39 of /proc/PID/stat, the CPU, changes nothing that is read from it."""
    found = []
    for cpu, ticks in ((0, 5), (63, 900)):
        stat = tmp_path / str(cpu) / "proc/7/stat"
        stat.parent.mkdir(parents=True)
        rest = ["S", "1", *["0"] * 9, str(ticks), *["0"] * 24, str(cpu), *["0"] * 12]
        stat.write_text(f"7 (a task) {' '.join(rest)}\n")
        found.append(read_parents(tmp_path / str(cpu)))
    assert [{7: 1}, {7: 1}] == found


def test_hints_that_any_policy_takes_have_no_cpu_column() -> None:
    """An epoch has no task, no CPU and no CPU mask anywhere in its columns."""
    from isotherm.hints import batch

    names = {
        field
        for kind in vars(batch).values()
        for field in getattr(kind, "__dataclass_fields__", {})
    }
    assert not {n for n in (*names, *Epoch.__dataclass_fields__) if "cpu" in n}
    assert {"page", "initiator"} <= names
    assert Mechanism.SAMPLING in set(Mechanism)
