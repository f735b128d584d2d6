"""The executor on a machine that keeps count."""

import errno
import math
import time

import numpy as np
import pytest

from isotherm.migration import CostPrior, MigrationEngine, derive_tier_rank
from isotherm.migration.engine import NO_LIMIT_PAGES
from isotherm.policy.plan import Moves, Reason

S = 1_000_000_000


def up(page, gain_ns=math.nan):
    """Return promotions to node 0."""
    return Moves.to(np.array(page), 0, Reason.PAYS, gain_ns)


def down(page):
    """Return demotions to node 1."""
    return Moves.to(np.array(page), 1, Reason.MAKES_ROOM)


def column(*nodes):
    """Return a placement."""
    return np.array(nodes, np.uint8)


def test_swap_on_a_full_node(fake_machine):
    """Two pages change places through the slow node's free page, one by one."""
    machine = fake_machine([2, 3], column(0, 0, 1, 1))
    engine = MigrationEngine(machine, validate=True)
    outcome = engine.submit(Moves.concat(down([0, 1]), up([2, 3])), S)
    assert [1, 1, 0, 0] == machine.node.tolist()
    assert [([0], 1), ([2], 0), ([1], 1), ([3], 0)] == machine.moved
    assert ([0, 2, 1, 3], [0, 0, 0, 0], 10_000.0) == (
        outcome.page.tolist(), outcome.errno.tolist(), outcome.cost_ns
    )  # fmt: skip
    assert (2, 2, 0, 4 * 4096, 10_000.0) == (
        engine.promoted_pages, engine.demoted_pages, engine.ping_pong_pages,
        engine.migrated_bytes, engine.migration_time_ns,
    )  # fmt: skip


def test_outcome_and_failures_name_every_errno(fake_machine):
    """Busy, no memory and vanished pages stand in the outcome; the rest move."""
    machine = fake_machine([9, 9], column(1, 1, 1, 1))
    machine.faults = {0: errno.EBUSY, 1: errno.ENOMEM, 2: errno.ENOENT}
    engine = MigrationEngine(machine, validate=True)
    outcome = engine.submit(up([0, 1, 2, 3]), S)
    assert [errno.EBUSY, errno.ENOMEM, errno.ENOENT, 0] == outcome.errno.tolist()
    assert {errno.EBUSY: 1, errno.ENOMEM: 1, errno.ENOENT: 1} == engine.failures
    assert 4096 == engine.migrated_bytes


def test_retries_while_plans_are_empty(fake_machine):
    """A busy page is tried again after the back-off although no plan names it."""
    machine = fake_machine([9, 9], column(1))
    machine.faults = {0: errno.EBUSY}
    engine = MigrationEngine(machine, backoff_ns=S, validate=True)
    engine.submit(up([0]), S)
    machine.faults = {}
    machine.clock.advance(S - 1)
    assert 0 == len(engine.submit(Moves.none(), S).page)
    machine.clock.advance(1)
    assert [0] == engine.submit(Moves.none(), S).page.tolist()
    assert [0] == machine.node.tolist()


def test_quota_is_per_second_of_the_machine(fake_machine):
    """Ten pages a second over half a second are five."""
    machine = fake_machine([99, 99], np.ones(40, np.uint8))
    engine = MigrationEngine(machine, quota_pages_per_s=10.0, validate=True)
    machine.clock.advance(S // 2)
    assert 5 == engine.move_limit_pages()
    assert 5 == len(engine.submit(up(range(40)), S // 2).page)
    assert 0 == engine.move_limit_pages()
    assert NO_LIMIT_PAGES == MigrationEngine(machine).move_limit_pages()


def test_cost_is_learnt_from_the_machine(fake_machine):
    """A machine at 900 ns a page and 30 us a call is known after a few plans."""
    machine = fake_machine([600, 600], np.ones(600, np.uint8), 900.0, 30_000.0)
    engine = MigrationEngine(
        machine, prior_cost=CostPrior(page_ns=2500.0), batch_pages=64
    )
    for at in range(30):
        page = np.arange(20 * at, 20 * at + 1 + (at * 7) % 20)
        engine.submit(up(page), S)
    cost = engine.move_cost_ns()
    assert cost[1, 0] == pytest.approx(900 + 30_000 / 64, rel=0.1)
    assert 2500.0 == cost[0, 1]


def test_promises_are_followed(fake_machine):
    """A promoted page with 10 accesses/s earns 1700 ns a second, less 2500."""

    class View:
        def stall_rate(self, page):
            return np.full(len(page), 10.0, np.float32)

    machine = fake_machine([4, 4], column(1, 1))
    engine = MigrationEngine(machine)
    engine.submit(up([0, 1], gain_ns=500.0), S)
    for _ in range(60):
        machine.clock.advance(S)
        engine.account_epoch(View(), S)
    account = engine.ledger.account("promotion")
    assert (2, 1000.0) == (account.entries, account.promised_ns)
    assert account.realised_ns == pytest.approx(2 * (60 * 1700 - 2500))


def test_tier_rank_is_by_tier_not_by_node(fake_machine):
    """Node 1 faster than node 0: moving to 1 is the promotion."""
    machine = fake_machine([4, 4], column(0))
    topology = machine.topology
    object.__setattr__(topology, "tiers", topology.tiers[::-1])
    assert [1, 0] == derive_tier_rank(topology)
    engine = MigrationEngine(machine)
    engine.submit(Moves.to(np.array([0]), 1, Reason.PAYS), S)
    assert (1, 0) == (engine.promoted_pages, engine.demoted_pages)


@pytest.mark.slow
def test_a_million_moves_and_none(fake_machine):
    """No object a page: a million moves well below a second, none in no time."""
    pages = 2_000_000

    class Quick(type(fake_machine([1], column(0)))):
        def move(self, page, node):
            self.node[page] = node
            from isotherm.machine.protocol import MoveResult

            return MoveResult(np.zeros(len(page), np.int16), 1.0 * len(page))

    placement = (np.arange(pages) % 2).astype(np.uint8)
    machine = Quick([pages // 2, pages], placement)
    engine = MigrationEngine(machine)
    page = np.arange(pages // 2)
    moves = Moves.concat(down(page[page % 2 == 0]), up(page[page % 2 == 1]))
    start_ns = time.process_time_ns()
    engine.submit(moves, S)
    # 45 ms alone on one core of 2024; ten times that still tells an object a page.
    assert time.process_time_ns() - start_ns < 500_000_000
    assert pages // 2 == engine.totals.applied
    start_ns = time.process_time_ns()
    for _ in range(100):
        engine.submit(Moves.none(), S)
    assert time.process_time_ns() - start_ns < 100 * 200_000
