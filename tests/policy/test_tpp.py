"""TPP, step by step."""

from isotherm.hints.batch import Look, Mechanism
from isotherm.policy.tpp import DEFAULTS, Tpp

NO_BITS = frozenset({Mechanism.HINT_FAULT})


def table_of(bench, **rest):
    """Return four fast pages in a node of eight, and twelve slow ones."""
    return bench([0] * 4 + [1] * 12, [8, 16], hints=NO_BITS, **rest)


def test_second_fault_promotes(bench, hint):
    """The first fault makes a page active, the second promotes it."""
    table = table_of(bench)
    policy = Tpp(table.setup())
    assert [] == hint.moves(table.step(policy, hint.faults({9: 0.1})))
    assert [(9, 0)] == hint.moves(table.step(policy, hint.faults({9: 7.0})))


def test_two_marks_before_active(bench, hint):
    """With two marks it is the third fault: referenced, active, promoted."""
    table = table_of(bench)
    policy = Tpp(table.setup(marks_to_activate=2))
    found = [hint.moves(table.step(policy, hint.faults({9: 0.1}))) for _ in range(3)]
    assert [[], [], [(9, 0)]] == found


def test_no_latency_threshold(bench, hint):
    """However late the touch came, an active page goes up."""
    table = table_of(bench)
    policy = Tpp(table.setup())
    table.step(policy, hint.faults({9: 50.0}))
    assert [(9, 0)] == hint.moves(table.step(policy, hint.faults({9: 50.0})))


def test_keeps_two_percent_free(bench, hint):
    """1000 fast pages, 5 free: demotes 15 of the tail to have 20."""
    table = bench([0] * 995 + [1] * 5, [1000, 2000], hints=NO_BITS)
    plan = table.step(Tpp(table.setup()))
    assert [(p, 1) for p in range(15)] == hint.moves(plan)
    assert [] == hint.moves(table.step(Tpp(table.setup())))


def test_watermark_is_at_least_twice_high(bench, hint):
    """High 30 of 1000 pages: 60 are kept free, not 20."""
    table = bench([0] * 995 + [1] * 5, [1000, 2000], hints=NO_BITS, high=30)
    assert 55 == len(table.step(Tpp(table.setup())).moves)


def test_watermark_is_at_most_the_node(bench, hint):
    """A factor of 200 % empties the node, no more."""
    table = bench([0] * 4 + [1] * 12, [4, 16], hints=NO_BITS)
    plan = table.step(Tpp(table.setup(demote_scale_factor=20_000)))
    assert [(0, 1), (1, 1), (2, 1), (3, 1)] == hint.moves(plan)


def test_refused_when_the_node_is_full(bench, hint):
    """Nowhere to demote to: the active page stays."""
    table = bench([0, 0, 1, 1], [2, 2], hints=NO_BITS)
    policy = Tpp(table.setup())
    table.step(policy, hint.faults({3: 0.1}))
    plan = table.step(policy, hint.faults({3: 0.1}))
    assert [] == hint.moves(plan)
    assert 1 == plan.notes["no_room"]


def test_promotion_makes_room_for_itself_and_the_watermark(bench, hint):
    """Full node of 100, one active page: 2 + 1 pages leave, one comes."""
    table = bench([0] * 100 + [1] * 8, [100, 200], hints=NO_BITS)
    policy = Tpp(table.setup(demote_scale_factor=0))
    table.step(policy, hint.faults({104: 0.1}))
    policy._o["demote_scale_factor"] = 200.0
    plan = table.step(policy, hint.faults({104: 0.1}))
    assert [(0, 1), (1, 1), (2, 1), (104, 0)] == hint.moves(plan)


def test_promoted_pages_are_active(bench, hint):
    """Reclaim takes the inactive pages first, whatever came in."""
    table = bench([0] * 3 + [1] * 5, [4, 16], hints=NO_BITS)
    policy = Tpp(table.setup(demote_scale_factor=0))
    table.step(policy, hint.faults({7: 0.1}))
    table.step(policy, hint.faults({7: 0.1}))
    policy._o["demote_scale_factor"] = 7500.0
    assert [(0, 1), (1, 1), (2, 1)] == hint.moves(table.step(policy))


def test_counts_candidates_that_were_demoted(bench, hint):
    """A page that went down and comes back is ping-pong."""
    table = bench([0] * 4 + [1] * 4, [4, 16], hints=NO_BITS)
    policy = Tpp(table.setup(demote_scale_factor=2500))
    assert [(0, 1)] == hint.moves(table.step(policy))
    plan = table.step(policy, hint.faults({0: 0.1, 6: 0.1}))
    assert 0 == plan.notes["candidates_demoted_before"]
    plan = table.step(policy, hint.faults({0: 0.1, 6: 0.1}))
    assert 1 == plan.notes["candidates_demoted_before"]


def test_demoted_pages_are_poisoned(bench):
    """What goes down is poisoned at once: blocks of eight, runs merged."""
    table = bench([0] * 24 + [1] * 8, [24, 64], hints=NO_BITS)
    policy = Tpp(table.setup(demote_scale_factor=5000))
    assert (Look(Mechanism.HINT_FAULT, 0, 16, node=1),) == table.step(policy).look


def test_longest_runs_are_poisoned_first(bench):
    """With one look allowed, the longest run of demoted blocks gets it."""
    table = bench([0] + [1] * 15 + [0] * 9 + [1] * 7, [10, 64], hints=NO_BITS)
    policy = Tpp(table.setup(demote_scale_factor=10_000, demotion_looks=1))
    assert (Look(Mechanism.HINT_FAULT, 16, 32, node=1),) == table.step(policy).look


def test_published_defaults():
    """2 % of the node is kept free."""
    assert 200 == DEFAULTS["demote_scale_factor"]
