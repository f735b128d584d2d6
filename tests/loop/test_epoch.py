"""run_epoch: what each part is handed, and in which order."""

import numpy as np
import pytest

from isotherm.hints.accessed_bit import AccessedBitSource
from isotherm.hints.batch import Look, Mechanism
from isotherm.hotness.tracker import GammaTracker
from isotherm.loop.epoch import Loop, run_epoch
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.mechanisms import SimPageTable
from isotherm.machine.sim.spec import load_machine
from isotherm.migration import MigrationEngine
from isotherm.policy.plan import Epoch, Moves, Outcome, Plan, Reason
from isotherm.trace.stream import AccessChunk

DT_NS = 500_000_000
PAGES = 64
BITS = Mechanism.ACCESSED_BIT


class Scripted:
    """A policy that plays back plans and keeps the epochs that it saw."""

    name = "scripted"
    wants = frozenset({BITS})

    def __init__(self, *plans: Plan, uses_tracker: bool = False) -> None:
        self.plans = list(plans)
        self.uses_tracker = uses_tracker
        self.seen: list[Epoch] = []

    def start(self, node: np.ndarray) -> np.ndarray:
        """Start from where the pages are."""
        return node

    def decide(self, epoch: Epoch) -> Plan:
        """Return the next plan."""
        self.seen.append(epoch)
        return self.plans.pop(0) if self.plans else Plan()


def loop_of(policy: Scripted, *, tracked: bool = False) -> tuple[Loop, SimMachine]:
    """Return a loop over a small machine with an accessed-bit scanner."""
    machine = SimMachine(load_machine("dram-cxl"), PAGES, 0.5)
    machine.place((np.arange(PAGES) >= PAGES // 2).astype(np.uint8))
    table = SimPageTable(machine, faults=False, bits=True)
    source = AccessedBitSource(table, 30.0, DT_NS)
    tracker = GammaTracker(PAGES, DT_NS, policy.wants) if tracked else None
    engine = MigrationEngine(machine)
    return Loop(machine, (source,), tracker, policy, engine, Outcome.none()), machine


def play(loop: Loop, machine: SimMachine, index: int, *pages: int):
    """Let an epoch pass and run the loop at its end."""
    machine.advance(AccessChunk(np.array(pages, np.uint32)), DT_NS)
    return run_epoch(loop, index, DT_NS)


def test_looks_of_a_plan_rule_the_next_epoch() -> None:
    """What was asked for at the end of one epoch is seen at the end of the next."""
    policy = Scripted(Plan(look=(Look(BITS, 0, PAGES),)))
    loop, machine = loop_of(policy)
    assert () == play(loop, machine, 0, 1, 2).hints
    (batch,) = play(loop, machine, 1, 3, 4).hints
    assert [0b00011110] == batch.seen.bits[:1].tolist()
    assert () == play(loop, machine, 2).hints
    assert [(), (batch,), ()] == [epoch.hints for epoch in policy.seen]


def test_a_policy_learns_what_became_of_its_moves() -> None:
    """The outcome of a plan is in the next epoch, and the page is where it went."""
    moves = Moves.to(np.array([40, 41], np.uint32), 0, Reason.PAYS, 9.0)
    down = Moves.to(np.array([1], np.uint32), 1, Reason.MAKES_ROOM)
    policy = Scripted(Plan(Moves.concat(down, moves)))
    loop, machine = loop_of(policy)
    step = play(loop, machine, 0)
    assert 3 == len(step.plan.moves)
    play(loop, machine, 1)
    first, second = policy.seen
    assert 0 == len(first.outcome.page)
    errno = dict(zip(second.outcome.page, second.outcome.errno, strict=True))
    assert 0 == errno[1] == errno[40]
    assert [1, 0] == second.node[[1, 40]].tolist()
    assert step.outcome is second.outcome
    assert 2 * 2500.0 == step.outcome.cost_ns


def test_what_an_epoch_holds() -> None:
    """Index, time, rate, latency and costs are those of the epoch that ended."""
    policy = Scripted()
    loop, machine = loop_of(policy)
    play(loop, machine, 0, 1, 2)
    play(loop, machine, 1, *range(64))
    first, second = policy.seen
    assert (0, DT_NS, DT_NS) == (first.index, first.now_ns, first.dt_ns)
    assert (1, 2 * DT_NS, DT_NS) == (second.index, second.now_ns, second.dt_ns)
    assert (2 / 64 / 0.5, 2.0) == (first.access_rate, second.access_rate)
    assert [[80.0, 250.0]] == second.latency_ns.tolist()
    assert (2, 2) == second.move_cost_ns.shape
    assert [32, 32] == second.usage.used_pages.tolist()
    assert machine.topology is second.topology


@pytest.mark.parametrize("tracked", [False, True])
def test_the_tracker_is_updated_where_there_is_one(tracked: bool) -> None:
    """A policy that reads raw hints gets no view; another one gets this epoch's."""
    look = Plan(look=(Look(BITS, 0, PAGES, window_s=0.25),))
    policy = Scripted(look, uses_tracker=tracked)
    loop, machine = loop_of(policy, tracked=tracked)
    play(loop, machine, 0, *[5] * 32)
    step = play(loop, machine, 1, *[5] * 32)
    assert tracked == (step.hotness is not None)
    assert step.hotness is policy.seen[1].hotness
    if step.hotness is not None:
        assert 5 == step.hotness.hottest(1)[0]


def test_the_order_in_which_parts_are_called() -> None:
    """Spaces first, then what ended, then what was seen: of the same pages."""
    policy = Scripted(uses_tracker=True)
    loop, machine = loop_of(policy, tracked=True)
    called: list[str] = []

    def note(part: object, name: str, shown: str) -> None:
        plain = getattr(part, name)

        def call(*given: object) -> object:
            called.append(shown)
            return plain(*given)

        setattr(part, name, call)

    note(machine, "refresh", "refresh")
    note(loop.sources[0], "drain", "drain")
    note(loop.sources[0], "look", "look")
    note(policy, "decide", "decide")
    for name in ("collect", "account_epoch", "submit"):
        note(loop.engine, name, name)
    note(loop.tracker, "update", "update")
    play(loop, machine, 0)
    order = ["refresh", "collect", "drain", "update", "account_epoch", "decide"]
    assert [*order, "submit", "look"] == called


def test_what_ended_beside_the_loop_is_told_once() -> None:
    """A policy learns of it with the next epoch; the step says it at once."""
    policy = Scripted(Plan(Moves.to(np.array([1], np.uint32), 1, Reason.COLD)))
    loop, machine = loop_of(policy)
    late = [
        Outcome(
            np.array([7], np.uint32), np.zeros(1, np.uint8), np.zeros(1, np.int16), 5.0
        )
    ]
    loop.engine.collect = lambda: late.pop() if late else Outcome.none()
    step = play(loop, machine, 0)
    play(loop, machine, 1)
    first, second = policy.seen
    assert [7] == first.outcome.page.tolist()
    assert [1] == second.outcome.page.tolist()
    assert [7, 1] == step.outcome.page.tolist()
    assert 5.0 < step.outcome.cost_ns
