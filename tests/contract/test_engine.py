"""What every executor keeps, at once or beside the loop."""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from isotherm.machine.protocol import SpacesChanged
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import load_machine
from isotherm.machine.sim.trouble import Faults
from isotherm.migration import BackgroundEngine, Engine, MigrationEngine
from isotherm.policy.plan import Moves, Outcome, Reason
from isotherm.trace.stream import AccessChunk

PAGES = 512
EPOCH_NS = 500_000_000
DEADLINE_S = 20.0
NOBODY = np.empty(0, np.uint32)


@dataclass
class EngineUnderTest:
    """An engine on a simulated machine, a quarter of whose pages are fast.

    Attributes:
        machine: Room for a quarter more on the fast node.
        engine: What is held to the contract.
        settle: Lets time pass until all is done that can be.
    """

    machine: SimMachine
    engine: Engine
    settle: Callable[[], None]

    def carry_out(self, moves: Moves) -> Outcome:
        """Submit a plan; return what became of it, at once and later."""
        outcome = self.engine.submit(moves, EPOCH_NS)
        self.settle()
        return outcome.then(self.engine.collect())


def make_machine(faults: Faults) -> SimMachine:
    """Return the machine."""
    machine = SimMachine(load_machine("dram-cxl"), PAGES, 0.5, faults=faults)
    machine.place((np.arange(PAGES) % 4 > 0).astype(np.uint8))
    return machine


def make_synchronous(faults: Faults) -> EngineUnderTest:
    """Return the simulator's."""
    machine = make_machine(faults)
    engine = MigrationEngine(machine, validate=True, log_events=99)
    return EngineUnderTest(machine, engine, lambda: None)


def make_background(faults: Faults) -> EngineUnderTest:
    """Return a host's."""
    machine = make_machine(faults)
    engine = BackgroundEngine(
        machine, epoch_ns=EPOCH_NS, batch_pages=32, hold_back_share=0.0, validate=True
    )

    def settle() -> None:
        assert engine.finish(DEADLINE_S)

    return EngineUnderTest(machine, engine, settle)


#: ``{name: maker}``; another executor goes here.
ENGINES: dict[str, Callable[[Faults], EngineUnderTest]] = {
    "synchronous": make_synchronous,
    "background": make_background,
}


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., EngineUnderTest]]:
    """Return a maker of each engine in turn."""
    made: list[EngineUnderTest] = []

    def build(**faults: float) -> EngineUnderTest:
        made.append(ENGINES[request.param](Faults(**faults)))
        return made[-1]

    yield build
    for one in made:
        assert one.engine.close()


def up(page: Any) -> Moves:
    """Return promotions."""
    return Moves.to(np.asarray(page), 0, Reason.PAYS, 100.0)


def slow(machine: SimMachine, count: int) -> np.ndarray:
    """Return some slow pages."""
    return np.flatnonzero(machine.placement() == 1)[:count]


def test_every_page_is_answered_once(make: Any) -> None:
    """Moved or not, with its errno; nothing comes a second time."""
    bench = make(busy=0.2, pinned=0.1, vanished=0.1)
    page = slow(bench.machine, 100)
    outcome = bench.carry_out(up(page))
    assert sorted(page.tolist()) == sorted(outcome.page.tolist())
    assert (outcome.node == 0).all()
    went = bench.machine.placement()[outcome.page] == 0
    assert went.tolist() == (outcome.errno == 0).tolist()
    assert {errno.EBUSY, errno.ENOENT} == set(outcome.errno[~went].tolist())
    assert outcome.cost_ns > 0
    assert 0 == len(bench.engine.collect().page)


def test_an_empty_plan(make: Any) -> None:
    """Nothing happens, and it costs nothing."""
    bench = make()
    before = bench.machine.placement().copy()
    outcome = bench.carry_out(Moves.none())
    assert (0, 0.0) == (len(outcome.page), outcome.cost_ns)
    assert (before == bench.machine.placement()).all()


def test_no_node_overflows(make: Any) -> None:
    """Wishes beyond the room wait; the pages that have room go first."""
    bench = make()
    outcome = bench.carry_out(up(slow(bench.machine, 400)))
    usage = bench.machine.usage()
    assert (usage.used_pages <= usage.capacity_pages).all()
    assert 100 < len(outcome.page) <= 128
    assert not outcome.errno.any()


def test_what_may_be_counted_on_is_there(make: Any) -> None:
    """The usable part of a node is no more than the node."""
    bench = make()
    usage = bench.machine.usage()
    usable = bench.engine.usable(usage)
    assert (usable.capacity_pages <= usage.capacity_pages).all()
    assert (usable.used_pages == usage.used_pages).all()


def test_costs_are_known(make: Any) -> None:
    """A figure for every path, before and after the first move; 0 for none."""
    bench = make()
    for _ in range(2):
        cost = bench.engine.move_cost_ns()
        assert (2, 2) == cost.shape
        assert [0.0, 0.0] == cost.diagonal().tolist()
        assert cost[0, 1] > 0
        assert cost[1, 0] > 0
        bench.carry_out(up(slow(bench.machine, 64)))
    assert 2500.0 == pytest.approx(cost[1, 0], rel=0.2)


def test_the_brake(make: Any) -> None:
    """At 0 nothing may be planned and nothing starts; then it goes on."""
    bench = make()
    page = slow(bench.machine, 20)
    bench.engine.throttle(0.0)
    assert 0 == bench.engine.move_limit_pages()
    before = bench.machine.placement().copy()
    outcome = bench.engine.submit(up(page), EPOCH_NS)
    assert 0 == len(outcome.then(bench.engine.collect()).page)
    assert (before == bench.machine.placement()).all()
    bench.engine.throttle(1.0)
    assert bench.engine.move_limit_pages() >= 20
    assert 20 == len(bench.carry_out(up(page)).page)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_share(make: Any, share: float) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="share"):
        make().engine.throttle(share)


def test_renewed_pages_are_forgotten(make: Any) -> None:
    """A page at rest for its old owner's sake is moved for its new one."""
    bench = make(pinned=1.0)
    page = slow(bench.machine, 8)
    for _ in range(6):
        bench.carry_out(up(page))
        bench.machine.advance(AccessChunk(NOBODY), 4 * EPOCH_NS)
    assert 0 == len(bench.carry_out(up(page)).page), "at rest"
    ranges = np.array([[page[0], page[3] + 1]], np.int64)
    bench.engine.renew(SpacesChanged(PAGES, ranges))
    renewed = page[(page >= page[0]) & (page <= page[3])]
    assert sorted(renewed.tolist()) == sorted(bench.carry_out(up(page)).page.tolist())


def test_a_change_without_pages(make: Any) -> None:
    """As where only nodes have come: nothing is lost."""
    bench = make()
    bench.engine.renew(SpacesChanged(PAGES, np.empty((0, 2), np.int64)))
    page = slow(bench.machine, 10)
    assert 10 == len(bench.carry_out(up(page)).page)


def test_closing(make: Any) -> None:
    """Nothing is on the way afterwards; once more is no harm."""
    bench = make()
    bench.carry_out(up(slow(bench.machine, 10)))
    assert bench.engine.close()
    assert bench.engine.close()
    assert 0 == len(bench.engine.collect().page)
