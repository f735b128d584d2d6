"""The asynchronous executor: a thread that moves, held to the same books."""

import errno
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isotherm.core.errors import TargetGoneError
from isotherm.machine.protocol import NOT_PRESENT, SpacesChanged
from isotherm.migration import BackgroundEngine
from isotherm.migration.background import SLICES
from isotherm.migration.engine import NO_LIMIT_PAGES
from isotherm.policy.plan import Moves, Outcome, Reason

S = 1_000_000_000
DEADLINE_S = 20.0


def up(page, gain_ns=100.0):
    """Return promotions to node 0."""
    return Moves.to(np.array(page), 0, Reason.PAYS, gain_ns)


def column(*nodes):
    """Return a placement."""
    return np.array(nodes, np.uint8)


def given_up(start, end, pages):
    """Return the change that a range has a new owner."""
    return SpacesChanged(pages, np.array([[start, end]], np.int64))


def until(condition):
    """Wait until a condition holds; fail after a deadline."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "not in time"
        threading.Event().wait(0.001)


class View:
    """Ten accesses a second on every page."""

    def stall_rate(self, page):
        """Return rates."""
        return np.full(len(page), 10.0, np.float32)


@pytest.fixture
def make(fake_machine):
    """Return a maker of (machine, engine); engines are closed in the end."""
    engines = []

    def build(capacity, node, *, gate=False, **rest):
        machine = fake_machine(capacity, node)
        machine.gate = threading.Event()
        machine.entered = threading.Event()
        plain = machine.move

        def move(page, to):
            machine.entered.set()
            assert machine.gate.wait(DEADLINE_S)
            return plain(page, to)

        if not gate:
            machine.gate.set()
        machine.move = move
        options = {"epoch_ns": S, "hold_back_share": 0.0, "validate": True} | rest
        engines.append(BackgroundEngine(machine, **options))
        engines[-1].gate = machine.gate
        return machine, engines[-1]

    yield build
    for engine in engines:
        engine.gate.set()
        assert engine.close(DEADLINE_S)


def test_a_halt_begins_nothing_more(make):
    """The batch on the way ends; what was planned before and after stays where it is.

    From a signal handler: it may come while the lock is held.
    """
    node = column(*[1] * 64)
    machine, engine = make([64, 64], node, gate=True, batch_pages=8)
    engine.submit(up(range(64)), S)
    assert machine.entered.wait(DEADLINE_S)
    with engine._changed:
        engine.halt()
    machine.gate.set()
    until(lambda: 8 == int(np.count_nonzero(machine.placement() == 0)))
    engine.submit(up(range(32, 64)), S)
    assert not engine.finish(DEADLINE_S)
    assert engine.close()
    assert 8 == int(np.count_nonzero(machine.placement() == 0))


def test_moves_are_made_beside_the_loop(make):
    """A plan returns at once; what became of it is collected, once."""
    machine, engine = make([8, 8], column(1, 1, 1, 1), gate=True)
    assert 0 == len(engine.submit(up([0, 2]), S).page)
    assert machine.entered.wait(DEADLINE_S)
    assert 0 == len(engine.collect().page)
    assert [1, 1, 1, 1] == machine.node.tolist()
    machine.gate.set()
    assert engine.finish(DEADLINE_S)
    outcome = engine.collect()
    assert ([0, 2], [0, 0], [0, 0], 5000.0) == (
        outcome.page.tolist(), outcome.node.tolist(), outcome.errno.tolist(),
        outcome.cost_ns,
    )  # fmt: skip
    assert [0, 1, 0, 1] == machine.node.tolist()
    assert 0 == len(engine.collect().page)


def test_an_outcome_says_where_pages_were_and_when_their_batch_ended(make):
    """Each row has its source and the time of its batch, not that of the call."""
    machine, engine = make([9, 9], column(1, 1, 0, 0), batch_pages=2)
    engine.submit(up([0, 1]), S)
    assert engine.finish(DEADLINE_S)
    machine.clock.advance(S)
    down = Moves.to(np.array([2, 3]), 1, Reason.COLD)
    engine.submit(down, S)
    assert engine.finish(DEADLINE_S)
    machine.clock.advance(S)
    outcome = engine.collect().without(given_up(1, 2, 4))
    assert [0, 2, 3] == outcome.page.tolist()
    assert [1, 0, 0] == outcome.src.tolist()
    assert [0, S, S] == outcome.time_ns.tolist()
    assert outcome.then(Outcome.none()).src is outcome.src


def test_a_swap_on_a_full_node(make):
    """Demotions make the room that promotions wait for, batch by batch."""
    machine, engine = make([2, 3], column(0, 0, 1, 1))
    down = Moves.to(np.array([0, 1]), 1, Reason.MAKES_ROOM)
    engine.submit(Moves.concat(down, up([2, 3])), S)
    assert engine.finish(DEADLINE_S)
    assert [1, 1, 0, 0] == machine.node.tolist()
    assert (2, 2) == (engine.totals.promoted, engine.totals.demoted)


def test_failed_pages_are_data_and_tried_again(make):
    """Each page has its errno; a busy one is tried again after the back-off."""
    machine, engine = make([8, 8], column(1, 1, 1), backoff_ns=S)
    machine.faults = {0: errno.EBUSY, 1: errno.ENOENT}
    engine.submit(up([0, 1, 2]), S)
    assert engine.finish(DEADLINE_S)
    codes = engine.collect().errno.tolist()
    assert [errno.EBUSY, errno.ENOENT, 0] == codes
    machine.faults = {}
    machine.clock.advance(S)
    engine.submit(Moves.none(), S)
    assert engine.finish(DEADLINE_S)
    assert [0] == engine.collect().page.tolist()
    assert [0, NOT_PRESENT, 0] == machine.node.tolist()


def test_a_newer_plan_voids_what_has_not_started(make):
    """What is on the way ends; the rest of the old plan is gone."""
    machine, engine = make([9, 9], np.ones(8, np.uint8), gate=True, batch_pages=2)
    engine.submit(up(range(6)), S)
    assert machine.entered.wait(DEADLINE_S)
    engine.submit(up([7]), S)
    machine.gate.set()
    assert engine.finish(DEADLINE_S)
    assert [0, 1, 7] == sorted(engine.collect().page.tolist())
    assert 4 == engine.totals.superseded


def test_the_brake_stops_after_a_batch_and_lets_go_again(make):
    """At a share of 0 nothing starts and nothing may be planned; at 1 it goes on."""
    machine, engine = make([99, 99], np.ones(64, np.uint8), gate=True, batch_pages=4)
    engine.submit(up(range(64)), S)
    assert machine.entered.wait(DEADLINE_S)
    engine.throttle(0.0)
    machine.gate.set()
    until(lambda: 4 == engine.totals.applied)
    assert not engine.finish(0.01)
    assert (4, 0, 0.0) == (
        engine.totals.applied, engine.move_limit_pages(), engine.share
    )  # fmt: skip
    engine.submit(up(range(4, 64)), S)
    assert not engine.finish(0.01)
    assert 4 == engine.totals.applied
    engine.throttle(1.0)
    engine.submit(up(range(4, 64)), S)
    assert engine.finish(DEADLINE_S)
    assert 64 == engine.totals.applied
    with pytest.raises(ValueError, match="share"):
        engine.throttle(1.5)


def test_the_quota_is_spread_over_the_epoch(make):
    """In each eighth of a second an eighth of a second's pages, half when braked."""
    machine, engine = make(
        [999, 999], np.ones(900, np.uint8), quota_pages_per_s=800.0, epoch_ns=S
    )
    assert 800 == engine.move_limit_pages()
    engine.submit(up(range(900)), S)
    for eighth in range(1, 4):
        machine.clock.advance(S // SLICES)
        until(lambda: 100 * eighth == engine.totals.applied)  # noqa: B023  # at once
    engine.throttle(0.5)
    assert 400 == engine.move_limit_pages()
    machine.clock.advance(2 * S // SLICES)
    until(lambda: 400 == engine.totals.applied)
    machine.clock.advance(10 * S)  # the bucket holds a quarter of a second
    until(lambda: 600 == engine.totals.applied)


def test_the_limit_follows_the_length_of_an_epoch(make):
    """Once epochs are eight times as long, so are plans."""
    _, engine = make([9, 9], column(1, 1), quota_pages_per_s=80.0, epoch_ns=S)
    assert 80 == engine.move_limit_pages()
    engine.submit(up([]), 8 * S)
    assert 640 == engine.move_limit_pages()


@pytest.mark.parametrize("quota", [0.5, 3.0, 1e9])
def test_any_quota_lets_something_go(make, quota):
    """Less than a page a slice is saved up; more than any plan is no obstacle."""
    machine, engine = make([9, 9], column(1, 1), quota_pages_per_s=quota)
    engine.submit(up([0, 1]), S)
    machine.clock.advance(2 * S)
    until(lambda: engine.totals.applied >= 1)
    machine.clock.advance(2 * S)
    until(lambda: 2 == engine.totals.applied)


def test_what_is_kept_free_stays_free(make):
    """Up to the high watermark of a node nothing is moved there, nor may be planned."""
    machine, engine = make([8, 8], column(1, 1, 1, 1, 1, 1, 1, 1))
    plain = machine.usage
    machine.usage = lambda: replace(plain(), high_pages=np.array([5, 9]))
    assert [3, 0] == engine.usable(machine.usage()).capacity_pages.tolist()
    engine.submit(up(range(8)), S)
    assert engine.finish(DEADLINE_S)
    assert [0, 0, 0, 1, 1, 1, 1, 1] == machine.node.tolist()


def test_without_a_quota(make):
    """There is no limit; braked by half the thread rests as long as it worked."""
    machine, engine = make([99, 99], np.ones(32, np.uint8), batch_pages=8)
    assert NO_LIMIT_PAGES == engine.move_limit_pages()
    engine.throttle(0.5)
    engine.submit(up(range(32)), S)
    until(lambda: 8 == engine.totals.applied)
    assert not engine.finish(0.01)
    assert 8 == engine.totals.applied
    for batches in range(2, 5):
        machine.clock.advance(8 * 2500)
        until(lambda: 8 * batches == engine.totals.applied)  # noqa: B023  # at once


def test_a_page_renewed_on_the_way_is_nobodys(make):
    """Its end stands in no outcome and no ledger, and its wish is a thing of the past.

    Whether it ended before it was collected or after it was renewed.
    """
    machine, engine = make([9, 9], np.ones(8, np.uint8), gate=True, batch_pages=4)
    engine.submit(up(range(8)), S)
    assert machine.entered.wait(DEADLINE_S)
    engine.renew(given_up(1, 3, 12))
    engine.renew(given_up(6, 7, 12))
    machine.gate.set()
    assert engine.finish(DEADLINE_S)
    engine.renew(given_up(4, 5, 12))
    assert [0, 3, 5, 7] == sorted(engine.collect().page.tolist())
    assert 4 == len(engine.ledger)
    totals = engine.totals
    assert (2, 1, 5) == (totals.overtaken, totals.renewed, totals.applied)


def test_new_pages_can_be_moved(make):
    """After the index has grown, pages beyond its old end are as good as any."""
    machine, engine = make([9, 12], np.ones(4, np.uint8))
    machine.node = np.ones(12, np.uint8)
    engine.renew(SpacesChanged(12, np.empty((0, 2), np.int64)))
    engine.submit(up([3, 11]), S)
    assert engine.finish(DEADLINE_S)
    assert [3, 11] == engine.collect().page.tolist()


def test_close_ends_the_batch_and_cancels_the_rest(make):
    """The thread is gone, nothing else was moved, and the books add up."""
    machine, engine = make([9, 9, 9], column(1, 1, 2, 2, 1), gate=True, batch_pages=4)
    engine.submit(up(range(5)), S)
    assert machine.entered.wait(DEADLINE_S)
    assert not engine.close(0.01)
    machine.gate.set()
    assert engine.close(DEADLINE_S)
    assert engine.close()
    outcome = engine.collect()
    codes = dict(zip(outcome.page.tolist(), outcome.errno.tolist(), strict=True))
    assert {0, errno.ECANCELED} == set(codes.values())
    assert sorted(p for p, code in codes.items() if code == 0) == sorted(
        p for call, _ in machine.moved for p in call
    )
    engine.state.validate()
    moved = len(machine.moved)
    assert 0 == len(engine.submit(up([4]), S).page)
    assert (0, moved) == (len(engine.collect().page), len(machine.moved))


def test_closing_is_part_of_the_context(make):
    """A context manager leaves no thread behind."""
    before = threading.active_count()
    _, engine = make([9, 9], column(1))
    with engine:
        assert before + 1 == threading.active_count()
    assert before == threading.active_count()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TargetGoneError("pid 7: gone"), errno.ESRCH),
        (PermissionError(errno.EPERM, "no"), errno.EPERM),
        (OSError("no number"), errno.EIO),
    ],
)
def test_what_goes_wrong_with_a_batch_is_every_pages_errno(make, error, code):
    """And the next batch is tried."""
    machine, engine = make([9, 9], column(1, 1, 1))
    plain, machine.move = machine.move, lambda page, node: (_ for _ in ()).throw(error)
    engine.submit(up([0, 1]), S)
    assert engine.finish(DEADLINE_S)
    assert [code, code] == engine.collect().errno.tolist()
    machine.move = plain
    engine.submit(up([2]), S)
    assert engine.finish(DEADLINE_S)
    assert [0] == engine.collect().errno.tolist()


def test_a_defect_reaches_the_loop(make):
    """What is no error of a move is raised where somebody can see it."""
    machine, engine = make([9, 9], column(1))
    machine.move = lambda page, node: 1 // 0
    engine.submit(up([0]), S)
    assert not engine.finish(DEADLINE_S)
    with pytest.raises(ZeroDivisionError):
        engine.collect()
    assert 0 == len(engine.collect().page)


def test_costs_and_promises_are_those_of_the_plan_that_made_the_move(make):
    """Though a newer plan has come since: 10 accesses/s x 170 ns x 60 s - 2500."""
    machine, engine = make([9, 9], column(1, 1), gate=True)
    engine.submit(up([0], gain_ns=700.0), S)
    assert machine.entered.wait(DEADLINE_S)
    engine.submit(up([1], gain_ns=900.0), S)
    machine.gate.set()
    assert engine.finish(DEADLINE_S)
    engine.collect()
    for _ in range(60):
        machine.clock.advance(S)
        engine.account_epoch(View(), S)
    account = engine.ledger.account("promotion")
    assert (2, 1600.0) == (account.entries, account.promised_ns)
    assert account.realised_ns == pytest.approx(2 * (60 * 1700 - 2500))


def test_cost_is_learnt(make):
    """900 ns a page instead of the 2500 that were believed."""
    machine, engine = make([600, 600], np.ones(600, np.uint8))
    machine.page_ns = 900.0
    for at in range(20):
        engine.submit(up(range(30 * at, 30 * at + 30)), S)
        assert engine.finish(DEADLINE_S)
    engine.collect()
    assert engine.move_cost_ns()[1, 0] == pytest.approx(900, rel=0.1)


# ---- whatever happens in whatever order

PAGES = 48
CODES = (0, 0, 0, errno.EBUSY, errno.ENOMEM, errno.EAGAIN, errno.ENOENT, errno.ESRCH)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.lists(
                st.tuples(st.integers(0, PAGES - 1), st.integers(0, 2)), max_size=30
            ),
        ),
        st.tuples(st.just("advance"), st.integers(0, S)),
        st.tuples(st.just("throttle"), st.sampled_from([0.0, 0.5, 1.0])),
        st.tuples(st.just("renew"), st.tuples(*[st.integers(0, PAGES)] * 2)),
        st.tuples(st.just("collect"), st.none()),
        st.tuples(st.just("yield"), st.none()),
    ),
    max_size=25,
)


class Faulty:
    """A machine on which pages fail at random, and no node overflows."""

    def __init__(self, make, seed):
        machine = make([20, 20, PAGES], np.repeat([0, 1, 2], PAGES // 3))
        machine.node = machine.node.astype(np.uint8)
        self.rng = np.random.default_rng(seed)
        self.asked = []
        plain = machine.move

        def move(page, node):
            self.asked.append(page.copy())
            draw = self.rng.choice(CODES, len(page)).tolist()
            faults = zip(page.tolist(), draw, strict=True)
            machine.faults = {p: code for p, code in faults if code}
            return plain(page, node)

        machine.move = move
        self.machine = machine


def apply(engine, machine, action, argument):
    """Do one thing; return what it collected."""
    if action == "submit":
        wishes = np.array(argument, np.int64).reshape(-1, 2)
        n = len(wishes)
        moves = Moves(
            wishes[:, 0].astype(np.uint32), wishes[:, 1].astype(np.uint8),
            np.full(n, 50.0, np.float32), np.zeros(n, np.uint8),
        )  # fmt: skip
        engine.submit(moves, S)
    elif action == "advance":
        machine.clock.advance(argument)
    elif action == "throttle":
        engine.throttle(argument)
    elif action == "renew":
        start, end = sorted(argument)
        if start < end:
            engine.renew(given_up(start, end, PAGES))
    elif action == "yield":
        threading.Event().wait(0.002)
    else:
        return engine.collect()
    return Outcome.none()


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    actions=ACTIONS,
    quota=st.sampled_from([None, 5.0, 200.0]),
    share=st.sampled_from([0.0, 0.2]),
    batch_pages=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
def test_the_books_add_up(fake_machine, actions, quota, share, batch_pages, seed):
    """Every page that the machine was asked to move is in one outcome, or renewed.

    The state's invariants are checked after every event; no node overflows; no
    page is on the way twice.
    """
    faulty = Faulty(fake_machine, seed)
    machine = faulty.machine
    with BackgroundEngine(
        machine, epoch_ns=S, quota_pages_per_s=quota, batch_pages=batch_pages,
        hold_back_share=share, backoff_ns=S // 10, validate=True,
    ) as engine:  # fmt: skip
        outcome = Outcome.none()
        for action, argument in actions:
            outcome = outcome.then(apply(engine, machine, action, argument))
        engine.throttle(1.0)
        if quota is None:
            assert engine.finish(DEADLINE_S)
    outcome = outcome.then(engine.collect())
    engine.state.validate()
    totals = engine.totals
    asked = np.concatenate([*faulty.asked, np.empty(0, np.uint32)])
    cancelled = outcome.errno == errno.ECANCELED
    tried = np.sort(outcome.page[~cancelled]).tolist()
    assert (outcome.errno >= 0).all()
    if any(action == "renew" for action, _ in actions):
        assert set(tried) <= set(asked.tolist())
    else:
        assert np.sort(asked).tolist() == tried
        assert len(outcome.page) + totals.held_back == totals.tried
        assert int((outcome.errno == 0).sum()) == totals.applied
    assert share > 0 or 0 == totals.held_back
