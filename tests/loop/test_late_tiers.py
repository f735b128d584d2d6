"""The whole loop on a machine whose nodes arrive and leave."""

import numpy as np
import pytest

from isotherm.machine.protocol import NOT_PRESENT
from isotherm.migration import BackgroundEngine, MigrationEngine
from isotherm.policy.registry import make_policy
from tests.loop.late_tiers import LateTiers
from tests.loop.test_renew import DEADLINE_S, DT_NS, ONE, TWO, WHOLE, Bench

pytestmark = pytest.mark.slow
SLOW, FAST = 1, 0
BACKGROUND = {"engine": BackgroundEngine, "epoch_ns": DT_NS, "hold_back_share": 0.02}


def late(node):
    """Return a machine that hides a node at the start."""
    return type("Late", (LateTiers,), {"hidden": frozenset({node})})


def bench_of(node, rest):
    """Return a bench whose node is not there yet, and what steps it."""
    bench = Bench((ONE, TWO), shown=late(node), validate=True, **rest)
    engine = bench.loop.engine

    def run(epochs):
        for _ in range(epochs):
            step = bench.step()
            if isinstance(engine, BackgroundEngine):
                assert engine.finish(DEADLINE_S)
        return step

    return bench, run


@pytest.mark.parametrize("rest", [{"engine": MigrationEngine}, BACKGROUND])
def test_a_faster_node_arrives_leaves_and_returns(rest):
    """Hot pages go to it; without it the loop goes on; they go there again."""
    bench, run = bench_of(FAST, rest)
    bench.sim.place(np.full(WHOLE, SLOW, np.uint8))
    bench.hot_in((0, 256))
    assert [(SLOW,)] == [tier.nodes for tier in bench.machine.topology.tiers]
    run(10)
    assert 0 == bench.loop.engine.totals.tried
    bench.machine.hidden = frozenset()
    step = run(1)
    assert [(FAST,), (SLOW,)] == [tier.nodes for tier in step.change.topology.tiers]
    run(30)
    assert bench.fast_share() > 0.8

    bench.machine.hidden = frozenset({FAST})
    bench.sim.place(np.full(WHOLE, SLOW, np.uint8))  # as the kernel does
    applied = bench.loop.engine.totals.applied
    run(5)
    assert applied == bench.loop.engine.totals.applied
    assert {SLOW} == set(bench.machine.placement()[: ONE.pages].tolist())

    bench.machine.hidden = frozenset()
    bench.hot_in((512, 768))
    run(40)
    assert bench.fast_share() > 0.7
    bench.loop.engine.close()


@pytest.mark.parametrize("rest", [{"engine": MigrationEngine}, BACKGROUND])
def test_a_slower_node_arrives(rest):
    """Cold pages go down to it for hot ones that were born there."""
    bench, run = bench_of(SLOW, rest)
    node = np.full(WHOLE, SLOW, np.uint8)
    node[:1024] = FAST  # it is full
    bench.sim.place(node)
    bench.hot_in((1024, 1280))
    run(5)
    assert NOT_PRESENT == bench.machine.placement()[1024]
    bench.machine.hidden = frozenset()
    run(80)  # nothing was to be won until now, and hardly anything was looked at
    assert bench.fast_share() > 0.8
    totals = bench.loop.engine.totals
    assert totals.demoted > 150
    node = bench.machine.placement()
    assert int((node[:1024] == SLOW).sum()) > 150
    assert len(bench.loop.engine.move_cost_ns()) == 2
    bench.loop.engine.close()


def test_pages_of_a_node_that_left_are_nobodys_to_move():
    """Until they are seen elsewhere no page is planned for, and nothing breaks."""
    bench, run = bench_of(SLOW, BACKGROUND)
    bench.machine.hidden = frozenset()
    bench.hot_in((0, 256))
    run(20)
    # The kernel has not said yet where they went: the table still names the node.
    bench.machine.hidden = frozenset({SLOW})
    bench.machine.placement = bench.sim.placement
    run(5)
    planned = bench.step().plan.moves
    assert 0 == len(planned)
    bench.loop.engine.close()


@pytest.mark.parametrize("name", ["first-touch", "reclaim"])
def test_other_policies_that_live_go_on(name):
    """They take the change, or have no use for it."""
    bench = Bench(
        (ONE, TWO),
        shown=late(SLOW),
        policy=lambda setup: make_policy(name, setup),
    )
    bench.hot_in((0, 256))
    bench.step()
    bench.machine.hidden = frozenset()
    bench.run(3)
    bench.machine.hidden = frozenset({SLOW})
    assert 0 == len(bench.run(3).plan.moves)
