"""Which node of a tier pages go to: who accesses them decides, and nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from isotherm.hints.batch import HintBatch, Mechanism, Samples
from isotherm.hotness.initiators import REGION_PAGES
from isotherm.hotness.tracker import GammaTracker
from isotherm.machine.protocol import Usage
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.homes import WINDOW_S, Homes
from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.policy.terms import Terms

PAGES = 512
EPOCH_NS = 500_000_000
LATENCY = np.array([[80.0, 140.0, 250.0], [140.0, 80.0, 310.0]])
RATE = np.full(4, 50.0)
KIND = np.zeros(PAGES, np.uint16)


def tracker_of(initiator: Any, seconds: float) -> GammaTracker:
    """Return a tracker that has seen every page sampled by these initiators."""
    tracker = GammaTracker(PAGES, EPOCH_NS, frozenset({Mechanism.SAMPLING}), seed=1)
    page = np.arange(PAGES, dtype=np.uint32)
    seen = Samples(page, None, np.asarray(initiator, np.uint8), 2000.0)
    for k in range(round(seconds / 0.5)):
        tracker.update((HintBatch("sampling", 0, 1, seen),), k * EPOCH_NS, 10.0)
    return tracker


def epoch_of(
    initiator: Any, node: Any, free: int = 64, seconds: float = WINDOW_S + 0.5
) -> Epoch:
    """Return an epoch on two sockets and an expander, with so many free pages each."""
    node = np.asarray(node, np.uint8)
    used = np.bincount(node, minlength=3)
    spec = load_machine("two-socket-cxl")
    none = np.zeros(3, np.int64)
    usage = Usage(used + free, used, none, none, none, none)
    view = tracker_of(initiator, seconds).update((), 1 << 40, 10.0)
    return Epoch(
        index=9,
        now_ns=0,
        dt_ns=EPOCH_NS,
        topology=spec.topology((used + free).tolist()),
        usage=usage,
        node=node,
        latency_ns=LATENCY,
        move_cost_ns=np.full((3, 3), 2500.0),
        hotness=view,
    )


LOWER = np.arange(PAGES) < PAGES // 2
SPLIT = np.where(LOWER, 0, 1)


def test_memory_follows_its_accessors_both_ways() -> None:
    """Pages on the other socket's node cross, within the room that there is."""
    epoch = epoch_of(SPLIT, 1 - SPLIT, free=PAGES)
    moves, notes = Homes(epoch.topology).settle(Moves.none(), epoch, RATE, KIND)
    assert PAGES == len(moves) == notes["crossing_pages"]
    assert SPLIT[moves.page].tolist() == moves.node.tolist()
    assert (moves.gain_ns > 0).all()


def test_nothing_crosses_within_a_window_of_new_evidence() -> None:
    """Threads may just have been moved: who accesses what is gathered first."""
    epoch = epoch_of(SPLIT, 1 - SPLIT, seconds=WINDOW_S - 0.5)
    moves, notes = Homes(epoch.topology).settle(Moves.none(), epoch, RATE, KIND)
    assert 0 == len(moves)
    assert {} == notes


def test_what_both_sockets_access_stays() -> None:
    """Every region sampled by both alike gives no reason to move."""
    both = np.arange(PAGES) % 2
    epoch = epoch_of(both, SPLIT)
    moves, _ = Homes(epoch.topology).settle(Moves.none(), epoch, RATE, KIND)
    assert 0 == len(moves)


def test_of_a_large_memory_the_best_regions_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two regions of either node, an epoch."""
    monkeypatch.setattr("isotherm.policy.homes.MOST_REGIONS", 2)
    epoch = epoch_of(SPLIT, 1 - SPLIT, free=PAGES)
    moves, _ = Homes(epoch.topology).settle(Moves.none(), epoch, RATE, KIND)
    assert 2 * 2 * REGION_PAGES == len(moves)
    assert [2 * REGION_PAGES] * 2 == np.bincount(moves.node).tolist()


def test_a_promotion_goes_to_the_near_node_while_it_has_room() -> None:
    """The rest goes to the other node of the tier; demotions are left as they are."""
    epoch = epoch_of(SPLIT, np.full(PAGES, 2), free=100, seconds=2)
    page = np.arange(0, 200)  # all are accessed by socket 0
    wished = Moves.concat(
        Moves.to(page, 1, Reason.PAYS, 5.0), Moves.to(np.array([300]), 2, Reason.COLD)
    )
    moves, _ = Homes(epoch.topology).settle(wished, epoch, RATE, KIND)
    assert [0] * 100 + [1] * 100 + [2] == moves.node.tolist()
    assert wished.page.tolist() == moves.page.tolist()


def test_full_nodes_exchange_through_a_little_room() -> None:
    """The coldest pages make room below, and the room is kept from other moves."""
    epoch = epoch_of(SPLIT, 1 - SPLIT, free=0)
    homes = Homes(epoch.topology)
    kept = epoch.usage.capacity_pages - homes.reserve(epoch).usage.capacity_pages
    assert [1, 1, 0] == kept.tolist()
    cold = np.ones(PAGES, np.uint16)
    cold[[3, 400]] = 0
    moves, _ = homes.settle(Moves.none(), epoch, np.array([0.0, 50.0, 0, 0]), cold)
    down = moves.take(np.flatnonzero(moves.node == 2))
    assert [3, 400] == sorted(down.page.tolist())
    assert {int(Reason.MAKES_ROOM)} == set(down.reason.tolist())


def terms_of(
    epoch: Epoch, label: np.ndarray, floor: int = 0, barred: int | None = None
) -> Terms:
    """Return the terms of two tenants; the first may not be on a node, or is owed."""
    fast = np.zeros(256, np.bool_)
    fast[:2] = True
    allowed = np.ones((2, 256), np.bool_)
    if barred is not None:
        allowed[0, barred] = False
    held = np.bincount(label[fast[epoch.node]], minlength=2)
    most = np.full(2, PAGES)
    return Terms(
        label, epoch.node, allowed, fast, held, np.array([floor, 0]), most,
        np.ones(2), most,
    )  # fmt: skip


def test_no_page_crosses_to_a_node_its_tenant_may_not_use() -> None:
    """Pages of the first tenant stay off node 0, whoever accesses them."""
    epoch = epoch_of(np.zeros(PAGES), np.ones(PAGES), free=PAGES)
    label = (np.arange(PAGES) % 2).astype(np.uint8)
    terms = terms_of(epoch, label, barred=0)
    moves, _ = Homes(epoch.topology).settle(Moves.none(), epoch, RATE, KIND, terms)
    assert PAGES // 2 == len(moves)
    assert {1} == set(label[moves.page].tolist())


def test_a_promotion_keeps_to_the_nodes_its_tenant_may_use() -> None:
    """The near node is barred to half of them: these go to the other."""
    epoch = epoch_of(np.zeros(PAGES), np.full(PAGES, 2), free=PAGES, seconds=2)
    label = (np.arange(PAGES) % 2).astype(np.uint8)
    wished = Moves.to(np.arange(100), 1, Reason.PAYS, 5.0)
    terms = terms_of(epoch, label, barred=0)
    moves, _ = Homes(epoch.topology).settle(wished, epoch, RATE, KIND, terms)
    assert (1 - label[moves.page]).tolist() == moves.node.tolist()


def test_room_for_crossing_is_nobodys_guarantee() -> None:
    """The coldest pages are owed to their tenant: the next coldest make room."""
    epoch = epoch_of(SPLIT, 1 - SPLIT, free=0)
    label = np.ones(PAGES, np.uint8)
    kind = np.full(PAGES, 2, np.uint16)
    kind[[3, 400]], label[[3, 400]] = 0, 0
    kind[[9, 300]] = 1
    rate = np.array([0.0, 1.0, 50.0])
    terms = terms_of(epoch, label, floor=2)
    homes = Homes(epoch.topology)
    moves, _ = homes.settle(Moves.none(), epoch, rate, kind, terms)
    down = moves.take(np.flatnonzero(moves.node == 2))
    assert [9, 300] == sorted(down.page.tolist())
    assert {1} == {int(p) for _, payer in terms.charges for p in payer}


def test_who_has_no_moves_left_crosses_no_more() -> None:
    """A tenant's share of the moves counts for pages that cross as well."""
    epoch = epoch_of(SPLIT, 1 - SPLIT, free=PAGES)
    label = (np.arange(PAGES) % 2).astype(np.uint8)
    terms = replace(terms_of(epoch, label), moves_left=np.array([3, PAGES]))
    moves, _ = Homes(epoch.topology).settle(Moves.none(), epoch, RATE, KIND, terms)
    assert [3, PAGES // 2] == np.bincount(label[moves.page]).tolist()


def test_without_named_initiators_nothing_changes() -> None:
    """Unknown is no ground to choose a node by."""
    epoch = epoch_of(np.full(PAGES, 255), SPLIT)
    wished = Moves.to(np.arange(4), 1, Reason.PAYS)
    moves, notes = Homes(epoch.topology).settle(wished, epoch, RATE, KIND)
    assert wished is moves
    assert {} == notes
    assert epoch is Homes(epoch.topology).reserve(epoch)


def test_all_accesses_of_one_initiator_bring_memory_to_it() -> None:
    """Where nobody else accesses there is nothing to tell apart, and no doubt."""
    epoch = epoch_of(np.ones(PAGES), np.zeros(PAGES), free=PAGES)
    moves, _ = Homes(epoch.topology).settle(Moves.none(), epoch, RATE, KIND)
    assert PAGES == len(moves)
    assert {1} == set(moves.node.tolist())


def test_a_move_that_does_not_pay_is_not_made() -> None:
    """Cold pages stay, however far they are."""
    epoch = epoch_of(SPLIT, 1 - SPLIT, free=PAGES)
    moves, _ = Homes(epoch.topology).settle(Moves.none(), epoch, np.full(4, 1e-3), KIND)
    assert 0 == len(moves)


def test_moves_keep_to_the_limit() -> None:
    """What crosses is what the trades between tiers have left, best first."""
    epoch = replace(epoch_of(SPLIT, 1 - SPLIT, free=PAGES), move_limit_pages=10)
    moves, _ = Homes(epoch.topology).settle(Moves.none(), epoch, RATE, KIND)
    assert 10 == len(moves)


def test_a_region_is_that_of_the_tracker() -> None:
    """Pages of a region cross together: it is by region that who accesses is known."""
    one = SPLIT.copy()
    one[:REGION_PAGES] = 1
    epoch = epoch_of(one, np.zeros(PAGES), free=PAGES)
    moves, _ = Homes(epoch.topology).settle(Moves.none(), epoch, RATE, KIND)
    assert set(np.flatnonzero(one).tolist()) == set(moves.page.tolist())


@pytest.mark.parametrize("nodes", [1])
def test_a_tier_of_one_node_needs_no_choice(nodes: int) -> None:
    """On a machine of one fast node nothing is asked, whoever accesses."""
    topology = load_machine("dram-cxl").topology([PAGES, PAGES])
    epoch = replace(epoch_of(SPLIT, SPLIT), topology=topology)
    assert epoch is Homes(topology).reserve(epoch)


@pytest.mark.slow
def test_room_is_made_once() -> None:
    """Where nothing is to be gained, pages that cross drain no tier."""
    from isotherm.lab.simulate import SimulationSpec, simulate

    found = simulate(
        SimulationSpec(
            "isotherm",
            "uniform",
            "two-socket-cxl",
            pages=4096,
            fast_ratio=0.5,
            accesses=4_915_200,
        )
    )
    assert found["demoted_pages"] <= 4096 / 100
    assert found["fast_share"] > 0.49
