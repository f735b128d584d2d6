"""Nodes arrive and leave under the migration state machine."""

import errno

import numpy as np

from isotherm.machine.protocol import SpacesChanged
from isotherm.migration import BatchDone, MigrationState, PlanArrived, Renewed, Tick
from isotherm.migration.ranks import NO_TIER, rank_column
from isotherm.policy.plan import Moves, Reason
from isotherm.topology.model import MemoryKind, Node, Source, Tier, Topology

S = 1_000_000_000


def topology(*tiers, nodes=3):
    """Return a topology of these tiers, each a tuple of nodes."""
    return Topology(
        tuple(Node(n, MemoryKind.DRAM, Source.CONFIGURED, None) for n in range(nodes)),
        tuple(Tier(at, None, ids, Source.CONFIGURED) for at, ids in enumerate(tiers)),
        (),
        (),
        {},
    )


def retiered(now_ns, *tiers, nodes=3, pages=6):
    """Return the event of other tiers."""
    none = np.empty((0, 2), np.int64)
    return Renewed(now_ns, SpacesChanged(pages, none, topology(*tiers, nodes=nodes)))


def up(*page, to=0):
    """Return moves to a node."""
    return Moves.to(np.array(page, np.uint32), to, Reason.PAYS)


def test_ranks_keep_their_length():
    """A column by node never gets shorter; a node without a tier is last."""
    assert [0, 1, NO_TIER] == rank_column(topology((0,), (1,))).tolist()
    shrunk = rank_column(topology((0,), nodes=1), 3)
    assert [0, NO_TIER, NO_TIER] == shrunk.tolist()


def test_wishes_that_were_not_started_are_void(make_usage):
    """What is on its way ends as it may; the rest was meant for other tiers."""
    node = np.array([1, 1, 1, 1, 1, 1], np.uint8)
    state = MigrationState(6, [0, 1, NO_TIER], max_in_flight_pages=2, batch_pages=2)
    usage = make_usage([9, 9, 0], node)
    (batch,) = state.handle(PlanArrived(0, up(0, 1, 2, 3), usage, node))
    assert [] == state.handle(retiered(1, (0,)))
    assert 0 == state.queued
    assert 2 == state.totals.superseded
    gone = np.full(2, errno.ENODEV, np.int16)
    assert [] == state.handle(BatchDone(2, batch.id, gone, 1.0))
    assert 2 == state.totals.dropped
    state.validate()


def test_a_new_node_takes_pages_once_it_was_counted(make_usage):
    """A node beyond those known at the start has a rank, and room when told."""
    node = np.zeros(6, np.uint8)
    state = MigrationState(6, [0, 1])
    state.handle(retiered(0, (0,), (1,), (2,)))
    three = make_usage([9, 9, 9], node)
    (batch,) = state.handle(PlanArrived(1, up(0, 1, to=2), three, node))
    assert [2, 2] == batch.node.tolist()
    state.handle(BatchDone(2, batch.id, np.zeros(2, np.int16), 1.0))
    assert 2 == state.totals.demoted
    # It goes, and so does its column: usage gets narrower.
    state.handle(retiered(3, (0,), (1,), nodes=2))
    node[:2] = 2
    two = make_usage([9, 9], np.zeros(6, np.uint8))
    state.handle(PlanArrived(4, up(0), two, node))
    state.validate()


def test_a_try_at_a_node_that_left_is_not_repeated(make_usage):
    """What waits for room in it ends; what waits for another node waits on."""
    node = np.array([1, 1, 0, 0, 0, 0], np.uint8)
    state = MigrationState(6, [0, 1, 2])
    usage = make_usage([9, 9, 9], node)
    todo = state.handle(
        PlanArrived(0, Moves.concat(up(0, 1), up(2, to=2)), usage, node)
    )
    busy = [BatchDone(0, b.id, np.full(len(b), errno.EBUSY, np.int16), 1.0)
            for b in todo]  # fmt: skip
    state.handle(*busy)
    state.handle(retiered(1, (0,), (1,)))
    assert 1 == state.totals.not_present
    again = state.handle(Tick(S))
    assert [0, 1] == [p for b in again for p in b.page.tolist()]
    state.validate()
