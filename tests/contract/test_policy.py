"""What every policy keeps, on every kind of machine and with any hints."""

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.hints.batch import BLOCK_PAGES, Mechanism
from isotherm.hotness.tracker import GammaTracker
from isotherm.lab import simulate as lab
from isotherm.machine.protocol import NOT_PRESENT, SpacesChanged
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.bounds import KnownFuture
from isotherm.policy.plan import Epoch, Plan, Policy, Reason, Setup
from isotherm.policy.registry import AT_BIRTH, BOUNDS, POLICIES, make_policy

PAGES = 515  # the last block of eight holds three
MACHINES = (
    "dram-cxl",
    "hbm-dram-cxl",
    "two-socket-cxl",
    "dram-pmem",
    "gpu-coherent",
)
#: A tier of two nodes is not filled on demand.
REFUSED = {("lru", "two-socket-cxl")}
#: Those that plan moves in such a run.
MOVERS = {"isotherm", "numab2", "tpp", "hemem", "memtis", "clairvoyant"}
#: Those that follow spaces that come and go.
FOLLOWERS = {"isotherm", "first-touch"}
SUBSETS = [
    frozenset(subset)
    for n in range(len(Mechanism) + 1)
    for subset in itertools.combinations(Mechanism, n)
]


def as_bytes(plan: Plan) -> tuple[Any, ...]:
    """Return all that a plan says, comparable."""
    moves = plan.moves
    columns = (moves.page, moves.node, moves.gain_ns, moves.reason)
    notes = json.dumps(dict(plan.notes), sort_keys=True)
    tables = [column.tobytes() for column in columns]
    return (*tables, plan.look, plan.birth, notes)


def check_moves(plan: Plan, epoch: Epoch) -> None:
    """Hold a plan's moves to the contract."""
    moves = plan.moves
    n = len(moves)
    assert (np.uint32, np.uint8) == (moves.page.dtype, moves.node.dtype)
    assert (np.float32, np.uint8) == (moves.gain_ns.dtype, moves.reason.dtype)
    assert (n, n, n) == (len(moves.node), len(moves.gain_ns), len(moves.reason))
    if n == 0:
        return
    assert moves.page.max() < PAGES
    assert len(np.unique(moves.page)) == n, "a page twice"
    in_a_tier = [node for tier in epoch.topology.tiers for node in tier.nodes]
    assert set(moves.node.tolist()) <= set(in_a_tier)
    assert (epoch.node[moves.page] != moves.node).all(), "moved to where it is"
    assert (epoch.node[moves.page] != NOT_PRESENT).all(), "nothing there to move"
    assert set(moves.reason.tolist()) <= {int(reason) for reason in Reason}
    assert not np.isinf(moves.gain_ns).any()


def check_looks(plan: Plan, hints: frozenset[Mechanism], nodes: int) -> None:
    """Hold a plan's looks to the contract."""
    for look in plan.look:
        assert look.mechanism in hints
        assert 0 <= look.start_page < look.end_page <= PAGES
        assert 0 == look.start_page % BLOCK_PAGES
        assert 0 <= look.stripe < look.stripes
        assert look.window_s is None or 0 < look.window_s < math.inf
        assert look.node is None or 0 <= look.node < nodes
        assert look.period is None or look.period >= 1


class Held:
    """Two policies made alike; every decision of both is held to the contract."""

    def __init__(self, one: Policy, other: Policy, setup: Setup) -> None:
        self.name, self.wants = one.name, one.wants
        self.uses_tracker = one.uses_tracker
        self._both = (one, other)
        self._setup = setup
        self.decided = 0
        self.moves = 0

    def start(self, node: np.ndarray) -> np.ndarray:
        """Hold where the policy starts from."""
        before = node.copy()
        first, second = (policy.start(node) for policy in self._both)
        assert first.tobytes() == second.tobytes()
        assert (before == node).all()
        assert (np.uint8, (PAGES,)) == (first.dtype, first.shape)
        if self.name not in BOUNDS | AT_BIRTH:
            assert first.tobytes() == before.tobytes(), "starts elsewhere"
        nodes = [n for tier in self._setup.topology.tiers for n in tier.nodes]
        assert set(first.tolist()) <= set(nodes)
        return first

    def renew(self, change: SpacesChanged) -> None:
        """Tell both; a policy that refuses one refuses the other."""
        for policy in self._both:
            policy.renew(change)

    def decide(self, epoch: Epoch) -> Plan:
        """Hold a plan."""
        node = epoch.node.copy()
        used = epoch.usage.used_pages.copy()
        first, second = (policy.decide(epoch) for policy in self._both)
        assert as_bytes(first) == as_bytes(second), "same epochs, another plan"
        assert (node == epoch.node).all(), "the epoch was written to"
        assert (used == epoch.usage.used_pages).all(), "the epoch was written to"
        check_moves(first, epoch)
        check_looks(first, self._setup.hints, len(used))
        assert all(math.isfinite(value) for value in first.notes.values())
        self.decided += 1
        self.moves += len(first.moves)
        return first


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[Held]:
    """Let the lab make held policies; return those that it made."""
    made: list[Held] = []

    def make(name: str, setup: Setup, future: Any = None) -> Policy:
        both = (make_policy(name, setup, future) for _ in range(2))
        made.append(Held(*both, setup))
        return made[-1]

    monkeypatch.setattr(lab, "make_policy", make)
    return made


def run(policy: str, **rest: Any) -> dict[str, Any]:
    """Run a policy on a small footprint whose hot set changes."""
    figures = {"accesses": 20 * 1000, "rate": 4.0, "sampling_period": 20} | rest
    spec = lab.SimulationSpec(
        policy, "phases", pages=PAGES, workload_options={"phase_s": 2.0}, **figures
    )
    return lab.simulate(spec)


@pytest.mark.parametrize(
    ("policy", "machine"),
    [
        (policy, machine)
        for policy, machine in itertools.product(POLICIES, MACHINES)
        if (policy, machine) not in REFUSED
    ],
)
def test_plans(policy: str, machine: str, held: list[Held]) -> None:
    """Deterministic, no page twice, only to nodes there are, never to where it is."""
    result = run(policy, machine=machine)
    assert result["epochs"] == held[-1].decided > 15
    if policy in MOVERS:
        assert held[-1].moves > 0, "nothing was held to anything"


@pytest.mark.parametrize("policy", [p for p in POLICIES if p not in BOUNDS])
def test_any_subset_of_hints(policy: str, held: list[Held]) -> None:
    """A policy works with whatever a host offers, down to nothing at all."""
    for hints in SUBSETS:
        run(policy, hints=tuple(sorted(hints)), accesses=5000)
        assert held[-1].decided > 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("ratio", [1.0, 0.002])
def test_any_capacity(policy: str, ratio: float, held: list[Held]) -> None:
    """With room for everything, and for a single page."""
    run(policy, fast_ratio=ratio, accesses=5000)
    assert held[-1].decided > 0


@pytest.mark.parametrize("policy", [p for p in POLICIES if p not in BOUNDS])
def test_trouble(policy: str, held: list[Held]) -> None:
    """Moves that fail do not upset a policy."""
    faults = {"busy": 0.3, "no_memory": 0.1, "vanished": 0.1, "pinned": 0.1}
    run(policy, faults=faults)
    assert held[-1].decided > 15


class Holey(SimMachine):
    """A machine on which one page in seven has no memory."""

    def placement(self) -> np.ndarray:
        """Return the placement, with holes."""
        node = super().placement().copy()
        node[3::7] = NOT_PRESENT
        return node


@pytest.mark.parametrize("policy", [p for p in POLICIES if p not in BOUNDS])
def test_pages_without_memory(
    policy: str, held: list[Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in no tier: no plan names them (see `check_moves`)."""
    monkeypatch.setattr(lab, "machine_class", lambda huge: Holey)
    run(policy)
    assert held[-1].decided > 15
    if policy in MOVERS:
        assert held[-1].moves > 0, "nothing was held to anything"


@pytest.mark.parametrize("policy", POLICIES)
def test_spaces_that_change(policy: str) -> None:
    """A policy goes on with new pages, or says that it does not."""
    machine = SimMachine(load_machine("dram-cxl"), PAGES + 513, 0.25)
    machine.place((np.arange(PAGES + 513) % 4 > 0).astype(np.uint8))
    setup = Setup(
        PAGES, machine.topology, machine.capacity, 500_000_000, 1, frozenset()
    )
    future = KnownFuture(np.ones((4, PAGES), np.uint16))
    made = make_policy(policy, setup, future)
    change = SpacesChanged(PAGES + 513, np.array([[0, 64]], np.int64))
    if policy not in FOLLOWERS:
        with pytest.raises(UnsupportedError, match=policy):
            made.renew(change)
        return
    made.renew(change)
    tracker = GammaTracker(PAGES + 513, 500_000_000, frozenset())
    plan = made.decide(
        Epoch(
            0, 0, 500_000_000, machine.topology, machine.usage(), machine.placement(),
            machine.latency_ns(), np.full((2, 2), 2500.0), tracker.update((), 0, 1.0),
        )
    )  # fmt: skip
    assert len(plan.moves) == len(set(plan.moves.page.tolist()))


@pytest.mark.parametrize("policy", POLICIES)
def test_idle_epochs(policy: str, held: list[Held]) -> None:
    """So few accesses that most epochs have none."""
    run(policy, rate=0.002, accesses=20)
    assert held[-1].decided > 15


@pytest.mark.parametrize("policy", POLICIES)
def test_name_and_wants(policy: str, held: list[Held]) -> None:
    """The name is the registry's, the mechanisms are known ones."""
    run(policy, accesses=2000)
    assert policy == held[-1].name
    assert held[-1].wants <= frozenset(Mechanism)
    assert held[-1].uses_tracker in (True, False)


@pytest.mark.parametrize("policy", POLICIES)
def test_unknown_options_are_refused(policy: str) -> None:
    """By name, before the first epoch."""
    with pytest.raises(UsageError, match="no_such_option"):
        run(policy, options={"no_such_option": 1.0})
