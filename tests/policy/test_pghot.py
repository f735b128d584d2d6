"""pghot and kmigrated, step by step."""

from isotherm.hints.batch import Mechanism
from isotherm.policy.pghot import PgHot, PgHotSampled

NO_BITS = frozenset({Mechanism.HINT_FAULT, Mechanism.SAMPLING})


def table_of(bench, **rest):
    """Return four fast pages, full, and twelve slow ones."""
    return bench([0] * 4 + [1] * 12, [4, 16], hints=NO_BITS, **rest)


def test_the_second_fault_within_the_window_promotes(bench, hint):
    """One fault is a record; the next makes the page ready."""
    table = table_of(bench)
    policy = PgHot(table.setup())
    assert [] == hint.moves(table.step(policy, hint.faults({9: 0.1})))
    plan = table.step(policy, hint.faults({9: 0.1}))
    assert [(0, 1), (9, 0)] == hint.moves(plan)
    assert 1 == plan.notes["ready"]


def test_beyond_the_window_it_is_the_first_again(bench, hint):
    """3.5 s between two faults is more than the window of 3 s."""
    table = table_of(bench)
    policy = PgHot(table.setup())
    table.step(policy, hint.faults({9: 0.1}))
    for _ in range(6):
        table.step(policy)
    assert [] == hint.moves(table.step(policy, hint.faults({9: 0.1})))
    assert 1 == policy._frequency[9]


def test_five_bits_of_time_wrap(bench, hint):
    """4.5 s later looks like half a second to the small record, not to the precise."""
    for precise, moves in ((0, [(0, 1), (9, 0)]), (1, [])):
        table = table_of(bench)
        policy = PgHot(table.setup(precise=precise, window_ms=3000))
        table.step(policy, hint.faults({9: 0.1}))
        for _ in range(8):
            table.step(policy)
        assert moves == hint.moves(table.step(policy, hint.faults({9: 0.1})))


def test_the_precise_record_has_a_window_of_five_seconds(bench, hint):
    """4.5 s between two faults are within it, 5.5 s are not; an option has its way."""
    for steps, options, moves in (
        (8, {}, [(0, 1), (9, 0)]),
        (10, {}, []),
        (8, {"window_ms": 3000}, []),
    ):
        table = table_of(bench)
        policy = PgHot(table.setup(precise=1, **options))
        table.step(policy, hint.faults({9: 0.1}))
        for _ in range(steps):
            table.step(policy)
        assert moves == hint.moves(table.step(policy, hint.faults({9: 0.1})))


def test_kmigrated_clears_the_record_and_walks_in_page_order(bench, hint):
    """Whatever the order of faults, pages go by number; then they start anew."""
    table = table_of(bench)
    policy = PgHot(table.setup())
    table.step(policy, hint.faults({9: 0.1, 5: 0.1}))
    plan = table.step(policy, hint.faults({9: 0.1, 5: 0.1}))
    assert [(0, 1), (1, 1), (5, 0), (9, 0)] == hint.moves(plan)
    assert [0, 0] == policy._frequency[[5, 9]].tolist()


def test_fast_pages_are_not_recorded(bench, hint):
    """pghot_record_access() drops what is on the top tier."""
    table = table_of(bench)
    policy = PgHot(table.setup())
    table.step(policy, hint.faults({0: 0.1}))
    assert 0 == policy._frequency[0]


def test_samples_of_one_epoch_count_each(bench, hint):
    """With hardware hints two samples are enough; one is not."""
    table = table_of(bench)
    policy = PgHotSampled(table.setup())
    plan = table.step(policy, hint.samples([9, 7, 9]))
    assert [(0, 1), (9, 0)] == hint.moves(plan)
    assert Mechanism.HINT_FAULT not in {look.mechanism for look in plan.look}


def test_the_frequency_saturates(bench, hint):
    """Two bits hold three."""
    table = bench([0, 0, 1, 1], [2, 2], hints=NO_BITS)
    policy = PgHotSampled(table.setup(freq_threshold=5))
    table.step(policy, hint.samples([2] * 40))
    assert 3 == policy._frequency[2]
