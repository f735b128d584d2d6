"""Colloid on hint faults and on samples, step by step."""

import pytest

from isotherm.hints.batch import Mechanism
from isotherm.policy.colloid import Colloid
from isotherm.policy.colloid_hemem import ColloidHeMem

NO_BITS = frozenset({Mechanism.HINT_FAULT})
BUSY = (400.0, 250.0)  # the fast tier answers slower


def table_of(bench, **rest):
    """Return four fast pages, full, and twelve slow ones."""
    return bench([0] * 4 + [1] * 12, [4, 16], **rest)


def test_unloaded_it_promotes_like_numa_balancing(bench, hint):
    """Below the threshold, up; a cold page makes room."""
    table = table_of(bench, hints=NO_BITS)
    plan = table.step(Colloid(table.setup()), hint.faults({9: 0.9, 5: 1.0}))
    assert [(0, 1), (9, 0)] == hint.moves(plan)


def test_a_busy_fast_tier_gets_nothing_and_gives_its_hot_pages(bench, hint):
    """Soon touched after poisoning: out. Later touched, or slow: stays."""
    table = table_of(bench, hints=NO_BITS, latency_ns=BUSY)
    plan = table.step(Colloid(table.setup()), hint.faults({9: 0.1, 1: 0.2, 2: 1.5}))
    assert [(1, 1)] == hint.moves(plan)
    assert 1 == plan.notes["drained"]


def test_pages_of_the_fast_tier_are_poisoned_too(bench):
    """Mode 4 scans every node."""
    table = table_of(bench, hints=NO_BITS)
    policy = Colloid(table.setup(reference_gib=0))
    plans = [table.step(policy) for _ in range(3)]
    assert {0, 1} == {look.node for plan in plans for look in plan.look}


def test_what_was_read_before_weighs_next_to_nothing(bench):
    """After half a second of readings each 10 ms the new latency holds."""
    table = table_of(bench, hints=NO_BITS)
    policy = Colloid(table.setup())
    table.step(policy)
    table.latency_ns = BUSY
    plan = table.step(policy)
    assert (400.0, 250.0) == pytest.approx(
        (plan.notes["fast_latency_ns"], plan.notes["slow_latency_ns"])
    )


def test_the_imbalance_evens_out_occupancy(bench, hint):
    """Nothing fast is accessed, 80 and 250 ns: 250 / 330 of the accesses go up."""
    table = table_of(bench)
    policy = ColloidHeMem(table.setup())
    table.step(policy, hint.samples([9] * 8), apply=False)
    assert 250 / 330 == pytest.approx(policy.imbalance())


def test_pages_are_exchanged_within_the_imbalance(bench, hint):
    """Shares 0.5, 0.25, 0.25: the second fits no more after the first."""
    table = table_of(bench)
    policy = ColloidHeMem(table.setup())
    plan = table.step(policy, hint.samples([9] * 4 + [7] * 2 + [5] * 2))
    assert [(0, 1), (1, 1), (9, 0), (5, 0)] == hint.moves(plan)


def test_an_overloaded_fast_tier_gives_its_hottest(bench, hint):
    """Everything on the fast tier at 400 against 250 ns: 400 / 650 may leave."""
    table = bench([0] * 4 + [1] * 12, [4, 20], latency_ns=BUSY)
    policy = ColloidHeMem(table.setup())
    plan = table.step(policy, hint.samples([0] * 4 + [1] * 4))
    assert [(0, 1)] == hint.moves(plan)[:1]
    assert policy.imbalance() < 0


def test_no_samples_no_moves(bench, hint):
    """Without evidence nothing is balanced."""
    table = table_of(bench)
    assert [] == hint.moves(table.step(ColloidHeMem(table.setup())))


def test_the_paper_evens_out_latencies(bench, hint):
    """As above, of latencies: (250 - 80) / 330; 248 against 250 ns is even."""
    table = table_of(bench)
    policy = ColloidHeMem(table.setup(balance_latency=1))
    table.step(policy, hint.samples([9] * 8), apply=False)
    assert 170 / 330 == pytest.approx(policy.imbalance())
    policy._latency.fast_ns, policy._latency.slow_ns = 248.0, 250.0
    assert 0.0 == policy.imbalance()
