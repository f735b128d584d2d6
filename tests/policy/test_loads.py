"""What the load of a tier adds to an access and to a move."""

from dataclasses import replace

import numpy as np
import pytest

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.machine.sim.queueing import latency_factor
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.loads import (
    ALONE,
    FIRST,
    FOLLOW,
    HEADROOM,
    MOST_LOAD,
    PAGE_LINES,
    SATURATED,
    SURPLUS,
    TierLoads,
    _unloaded,
    load_of,
    queueing_of,
    waiting_of,
)
from isotherm.policy.plan import Moves, Outcome, Reason

PAGES = 1000
IDLE_NS = np.array([114.0, 271.0])


@pytest.fixture
def world(bench):
    """Return loads of a machine that states its latencies, and its epoch."""
    table = bench([0] * 200 + [1] * 800, [200, 1000])
    told = load_machine("dram-cxl-fast").topology([200, 1000])
    tier = np.full(256, 2, np.uint8)
    tier[:2] = 0, 1
    return TierLoads(told, tier), replace(table.epoch(), topology=told)


def follow(world, load, rate=(1e6, 1e6), moved: int = 0) -> TierLoads:
    """Have the loads see an epoch in which the tiers were loaded so much."""
    loads, epoch = world
    loaded = IDLE_NS * (1 + waiting_of(np.array(load)))
    page = np.arange(moved, dtype=np.uint32)
    outcome = Outcome(
        page,
        np.zeros(moved, np.uint8),
        np.zeros(moved, np.int16),
        0.0,
        np.ones(moved, np.uint8),
    )
    epoch = replace(epoch, latency_ns=loaded[None, :], outcome=outcome, parallelism=4.0)
    loads.follow(epoch, loaded / 4, np.array(rate))
    return loads


def test_the_curve_is_the_simulators() -> None:
    """Load from latency and back, as the machine's own model has it."""
    load = np.array([0.0, 0.1, 0.5, 0.9])
    none = np.zeros_like(load)
    factor = latency_factor(load, none, none + 1, none + 1)
    assert factor.tolist() == pytest.approx((1 + waiting_of(load)).tolist())
    assert load.tolist() == pytest.approx(load_of(factor).tolist())


def test_what_an_access_makes_others_wait_is_the_curves_slope() -> None:
    """Load times slope, by differences."""
    load, step = np.array([0.2, 0.5, 0.8]), 1e-6
    slope = (waiting_of(load + step) - waiting_of(load - step)) / (2 * step)
    assert (load * slope).tolist() == pytest.approx(
        queueing_of(load).tolist(), rel=1e-5
    )


def test_without_load_latencies_and_moves_cost_what_they_cost(world) -> None:
    """An idle machine: nothing is added, and nothing holds moves back."""
    loads = follow(world, [0.0, 0.0])
    epoch = world[1]
    assert (IDLE_NS / 4).tolist() == loads.quiet_ns.tolist()
    assert (IDLE_NS / 4).tolist() == loads.marginal_ns.tolist()
    assert loads.price(epoch) is epoch
    assert 12345 == loads.pace(12345)


def test_a_loaded_tier_is_priced_at_the_margin(world) -> None:
    """At half load an access waits 1/8 and makes others wait 3/8 of a latency."""
    loads = follow(world, [0.0, 0.5])
    assert [114 / 4, 271 / 4 * 1.125] == pytest.approx(loads.quiet_ns.tolist())
    assert 271 / 4 * 1.5 == pytest.approx(loads.marginal_ns[1])
    epoch = world[1]
    dearer = loads.price(epoch).move_cost_ns - epoch.move_cost_ns
    assert PAGE_LINES * 271 / 4 * 0.375 == pytest.approx(dearer[0, 1])


def test_load_of_our_own_moves_is_told_apart(world) -> None:
    """Half of the lines are those of moves: half of the load is not the program's."""
    moved = int(1e6 * world[1].dt_ns / 1e9 / PAGE_LINES)
    loads = follow(world, [0.0, 0.8], moved=moved)
    assert 0.4 == pytest.approx(loads.load[1], rel=0.01)


def test_moves_leave_a_tier_open(world) -> None:
    """The more a tier is loaded, the fewer pages move; from `BURST` on any."""
    paces = [follow(world, [0.0, load]).pace(1 << 30) for load in (0.3, 0.5, 0.75)]
    assert sorted(paces, reverse=True) == paces
    assert paces[0] > paces[-1] > 0
    room = 1e6 / 0.75 * world[1].dt_ns / 1e9 / PAGE_LINES
    assert paces[-1] < HEADROOM * room
    assert 1 << 30 == follow(world, [0.0, SATURATED]).pace(1 << 30)


def test_the_first_moves_are_few(world) -> None:
    """What a moved line loads a tier with has not been seen: a quarter goes first."""
    room = 1e6 / 0.5 * world[1].dt_ns / 1e9 / PAGE_LINES
    first = follow(world, [0.0, 0.5]).pace(1 << 30)
    assert first == pytest.approx(FIRST * HEADROOM * 0.5 * room, rel=0.02)
    for _ in range(40):
        loads = follow(world, [0.0, 0.5], rate=(1e6, 5e5), moved=2 * first)
    assert loads.pace(1 << 30) > 2 * first


def test_what_a_moved_line_weighs_is_learnt(world) -> None:
    """Of the accesses one in eight is a line: a moved one loads eight times as much."""
    follow(world, [0.0, 0.2])  # 5e6 accesses a second, which are 6.25e5 lines
    lines = 0.3 * 6.25e5
    moved = int(lines * world[1].dt_ns / 1e9 / PAGE_LINES)
    for _ in range(60):
        follow(world, [0.0, 0.2])
        loads = follow(world, [0.0, 0.5], moved=moved)
    assert 8.0 == pytest.approx(loads._weight.now[1], rel=0.1)
    assert 0.2 == pytest.approx(loads.load[1], rel=0.1)


def test_a_page_in_a_burst_pays_its_share_of_a_saturated_epoch(world) -> None:
    """As many pages as an epoch carries pay for what all accesses wait in it."""
    loads, epoch = follow(world, [0.0, 0.9]), world[1]
    dearer = float((loads.price(epoch).move_cost_ns - epoch.move_cost_ns)[0, 1])
    dt_s = epoch.dt_ns / 1e9
    carried = 1e6 / 0.9 * dt_s / PAGE_LINES
    waits = waiting_of(np.array([MOST_LOAD, 0.9])) @ [1.0, -1.0]
    assert 1e6 * dt_s * 271 / 4 * waits == pytest.approx(dearer * carried, rel=1e-3)
    full = follow(world, [0.0, 0.99])
    assert full.price(epoch) is epoch


def test_a_burst_is_worth_a_saturated_epoch(world) -> None:
    """Few pages do not pay for it, unless they promise what is left to pay."""
    loads, epoch = follow(world, [0.0, 0.9]), world[1]
    share_ns = float((loads.price(epoch).move_cost_ns - epoch.move_cost_ns)[0, 1])
    carried = 1e6 / 0.9 * epoch.dt_ns / 1e9 / PAGE_LINES

    def kept(loads: TierLoads, pages: int, gain_ns: float) -> bool:
        moves = Moves.to(np.arange(pages), 0, Reason.PAYS, gain_ns / pages)
        return len(loads.worth_it(moves)) == pages

    more_ns = SURPLUS * share_ns * carried
    assert not kept(loads, 100, share_ns * (carried - 100))
    assert kept(loads, 100, 1.01 * (share_ns * (carried - 100) + more_ns))
    assert not kept(loads, int(carried) + 1, 0.99 * more_ns)
    assert kept(loads, int(carried) + 1, 1.01 * more_ns)
    assert kept(follow(world, [0.0, 0.5]), 1, 0.0)
    assert kept(follow(world, [0.99, 0.1]), 1, 0.0)  # pages leave what is busy


def test_what_saturated_a_tier_is_asked_of_what_it_carried(world) -> None:
    """Moves that fill a tier up do not count as the program's load."""
    loads = follow(world, [0.0, 0.5])  # it carries two million lines a second
    moved = int(2e6 * world[1].dt_ns / 1e9 / PAGE_LINES)
    assert moved * PAGE_LINES > ALONE * 1e6
    loads = follow(world, [0.0, 0.99], moved=moved)
    assert loads.load[1] < 0.6
    assert 0 < FOLLOW < 1


def test_load_that_stays_when_we_leave_is_others(world) -> None:
    """Our lines fall to a tenth and the load by little: hardly any of it was ours."""
    for ours in np.linspace(1e6, 1e5, 10):
        loads = follow(world, [0.6 + 1e-8 * ours, 0.6e-6 * ours], rate=(ours, ours))
    assert loads._ours.share[0] < 0.05
    assert 1.0 == pytest.approx(loads._ours.share[1], abs=0.05)


def test_without_balance_load_does_not_count(world) -> None:
    """``balance`` 0: latencies are the unloaded ones."""
    loads, epoch = world
    idle = TierLoads(epoch.topology, loads._tier, balances=False)
    follow((idle, epoch), [0.9, 0.9])
    assert (IDLE_NS / 4).tolist() == pytest.approx(idle.marginal_ns.tolist())


def test_a_host_whose_latencies_stay_has_no_load(bench) -> None:
    """Nobody states unloaded latencies: the least seen stands for them."""
    table = bench([0] * 200 + [1] * 800, [200, 1000])
    epoch = table.epoch()
    tier = np.full(256, 2, np.uint8)
    tier[:2] = 0, 1
    loads = TierLoads(epoch.topology, tier)
    for _ in range(3):
        loads.follow(epoch, np.array([80.0, 250.0]), np.array([1e9, 1e9]))
    assert [0.0, 0.0] == loads.load.tolist()
    assert [80.0, 250.0] == loads.marginal_ns.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["uniform", "stream"])
def test_memory_without_heat_is_left_alone_on_a_narrow_link(workload) -> None:
    """Half of the accesses nearly fill the link: moves for nothing saturate it."""
    runs = [
        simulate(
            SimulationSpec(
                policy, workload, "dram-cxl-fast", fast_ratio=0.5, pages=4096,
                accesses=4096 * 600,
            )
        )
        for policy in ("isotherm", "first-touch")
    ]  # fmt: skip
    assert runs[0]["slowdown"] < 1.01 * runs[1]["slowdown"]


@pytest.mark.slow
def test_moves_do_not_feed_themselves() -> None:
    """Chasing a sweep through a narrow link must not look worth its own congestion."""
    result = simulate(
        SimulationSpec(
            "isotherm", "cold-on-dram", "dram-cxl-fast", fast_ratio=1 / 9, pages=4096,
            accesses=4096 * 600, options={"stall": 0.0},
        )
    )  # fmt: skip
    assert result["slowdown"] < 1.35 * 271 / 114


def test_a_machine_without_initiators_states_no_latencies() -> None:
    """A table in a benchmark: nobody is known to access it, nothing is made up."""
    stated = load_machine("dram-cxl").topology([10, 20])
    assert _unloaded(stated) is not None
    assert _unloaded(replace(stated, performance=())) is None
    assert _unloaded(replace(stated, performance=(), initiators=())) is None
