"""The migration state machine, step by step, with small known numbers."""

import errno

import numpy as np
import pytest

from isotherm.migration import BatchDone, MigrationState, MoveBatch, PlanArrived, Tick
from isotherm.policy.plan import Moves, Reason

S = 1_000_000_000


def wishes(*pairs):
    """Return moves of (page, node) pairs."""
    return Moves.concat(
        Moves.none(),
        *(Moves.to(np.array([page]), node, Reason.PAYS) for page, node in pairs),
    )


def done(batch: MoveBatch, *failed, now_ns=0):
    """Return the end of a batch in which (page, errno) pairs failed."""
    codes = np.zeros(len(batch), np.int16)
    for page, code in failed:
        codes[batch.page.tolist().index(page)] = code
    return BatchDone(now_ns, batch.id, codes, 2500.0 * len(batch))


def told(batches):
    """Return instructions as (pages, from, to)."""
    return [(b.page.tolist(), int(b.src[0]), int(b.node[0])) for b in batches]


class Steps:
    """A state that is validated after every event."""

    def __init__(self, placement, capacity, usage_of, **options):
        self.node = np.array(placement, np.uint8)
        self.capacity = capacity
        self.usage_of = usage_of
        self.state = MigrationState(
            len(placement), list(range(len(capacity))), **options
        )

    def plan(self, moves, now_ns=0):
        """Hand in a plan."""
        usage = self.usage_of(self.capacity, self.node)
        return self.handle(PlanArrived(now_ns, moves, usage, self.node))

    def handle(self, *events):
        """Hand in events and validate."""
        out = self.state.handle(*events)
        self.state.validate()
        return out


def test_promotion_goes_into_room_that_exists(make_usage):
    """Two free pages in the fast node take the two best of three promotions."""
    steps = Steps([0, 1, 1, 1], [3, 9], make_usage)
    assert [([3, 1], 1, 0)] == told(steps.plan(wishes((3, 0), (1, 0), (2, 0))))


def test_demotes_before_it_promotes_when_full(make_usage):
    """A full fast node first loses its page; the promotion follows when it has."""
    steps = Steps([0, 0, 1, 1], [2, 3], make_usage)
    (demotion,) = steps.plan(wishes((2, 0), (0, 1)))
    assert [([0], 0, 1)] == told([demotion])
    (promotion,) = steps.handle(done(demotion))
    assert [([2], 1, 0)] == told([promotion])
    assert [] == steps.handle(done(promotion))
    assert (1, 1) == (steps.state.totals.promoted, steps.state.totals.demoted)


def test_no_promotion_into_room_that_was_not_made(make_usage):
    """A demotion that fails makes no room, so the promotion waits."""
    steps = Steps([0, 0, 1, 1], [2, 3], make_usage)
    (demotion,) = steps.plan(wishes((2, 0), (0, 1)))
    assert [] == steps.handle(done(demotion, (0, errno.EBUSY)))
    assert {"1->0": 1} == steps.state.to_dict()["queued"]


def test_full_everywhere_moves_nothing(make_usage):
    """Without one free page anywhere nothing can start."""
    steps = Steps([0, 1], [1, 1], make_usage)
    assert [] == steps.plan(wishes((1, 0), (0, 1)))


def test_quota_is_split_between_room_and_its_use(make_usage):
    """Six tokens on a full node are three demotions and three promotions."""
    steps = Steps([0] * 8 + [1] * 8, [8, 20], make_usage, quota_pages_per_s=6)
    moves = wishes(*((8 + i, 0) for i in range(8)), *((i, 1) for i in range(8)))
    (demotions,) = steps.plan(moves, now_ns=S)
    assert [([0, 1, 2], 0, 1)] == told([demotions])
    (promotions,) = steps.handle(done(demotions, now_ns=S))
    assert [([8, 9, 10], 1, 0)] == told([promotions])
    assert [] == steps.handle(done(promotions, now_ns=S))


def test_quota_fills_with_time(make_usage):
    """Two pages a second: one after half a second, never more than the burst."""
    steps = Steps([1] * 9, [9, 9], make_usage, quota_pages_per_s=2)
    assert [] == steps.plan(wishes(*((i, 0) for i in range(9))))
    (first,) = steps.handle(Tick(S // 2))
    assert [([0], 1, 0)] == told([first])
    (second,) = steps.handle(Tick(100 * S))
    assert [([1, 2], 1, 0)] == told([second])


def test_newer_plan_replaces_what_has_not_started(make_usage):
    """Of three wishes one started; the next plan voids two and keeps the one."""
    steps = Steps([1] * 4, [4, 4], make_usage, quota_pages_per_s=1)
    (first,) = steps.plan(wishes((0, 0), (1, 0), (2, 0)), now_ns=S)
    assert [([0], 1, 0)] == told([first])
    (second,) = steps.plan(wishes((0, 0), (3, 0)), now_ns=2 * S)
    assert [([3], 1, 0)] == told([second])
    totals = steps.state.totals
    assert (2, 1) == (totals.superseded, totals.in_flight)


def test_retry_backs_off_and_then_rests(make_usage):
    """EBUSY: tries at 0, 1 and 3 s, then rest for 10 s, then a new wish may."""
    steps = Steps([1], [1, 1], make_usage, backoff_ns=S, max_tries=3, rest_ns=10 * S)
    (batch,) = steps.plan(wishes((0, 0)))
    for now_ns, tries_again in ((0, S), (S, 3 * S), (3 * S, None)):
        assert [] == steps.handle(done(batch, (0, errno.EBUSY), now_ns=now_ns))
        if tries_again is not None:
            assert [] == steps.handle(Tick(tries_again - 1))
            (batch,) = steps.handle(Tick(tries_again))
    totals = steps.state.totals
    assert (3, 1, {errno.EBUSY: 3}) == (totals.tried, totals.gave_up, totals.errno)
    assert [] == steps.plan(wishes((0, 0)), now_ns=4 * S)
    assert 1 == totals.rested
    assert [([0], 1, 0)] == told(steps.plan(wishes((0, 0)), now_ns=13 * S))


def test_retry_follows_the_newer_wish(make_usage):
    """A waiting page that a new plan names keeps its back-off, not its target."""
    steps = Steps([2, 2], [4, 4, 4], make_usage, backoff_ns=S)
    (batch,) = steps.plan(wishes((0, 1)))
    steps.handle(done(batch, (0, errno.EAGAIN)))
    assert [] == steps.plan(wishes((0, 0)), now_ns=S // 2)
    assert [([0], 2, 0)] == told(steps.handle(Tick(S)))


def test_retry_that_could_not_start_waits_on(make_usage):
    """Queued again but out of quota, then a newer plan: the retry is not lost."""
    steps = Steps([1, 1], [4, 4], make_usage, quota_pages_per_s=1, backoff_ns=S // 8)
    (batch,) = steps.plan(wishes((0, 0)), now_ns=S)
    steps.handle(done(batch, (0, errno.EBUSY), now_ns=S))
    assert [] == steps.handle(Tick(S + S // 4))
    assert {"1->0": 1} == steps.state.to_dict()["queued"]
    assert [] == steps.plan(wishes((0, 0)), now_ns=S + S // 2)
    assert [([0], 1, 0)] == told(steps.handle(Tick(2 * S)))
    assert 1 == steps.state.totals.superseded


def test_retry_ends_when_the_page_is_there(make_usage):
    """A waiting page that somebody else moved needs no second try."""
    steps = Steps([1], [4, 4], make_usage, backoff_ns=S)
    (batch,) = steps.plan(wishes((0, 0)))
    steps.handle(done(batch, (0, errno.EBUSY)))
    steps.node[0] = 0
    assert [] == steps.plan(Moves.none(), now_ns=2 * S)
    assert 1 == steps.state.totals.already_there


@pytest.mark.parametrize(
    "code", [errno.EFAULT, errno.ENOENT, errno.EPERM, errno.EINVAL]
)
def test_permanent_error_is_dropped_and_counted(make_usage, code):
    """What will not pass is never tried again."""
    steps = Steps([1], [4, 4], make_usage)
    (batch,) = steps.plan(wishes((0, 0)))
    assert [] == steps.handle(done(batch, (0, code)))
    assert [] == steps.handle(Tick(1000 * S))
    assert (1, {code: 1}) == (steps.state.totals.dropped, steps.state.totals.errno)
    assert steps.state.idle


def test_enomem_closes_the_node_until_its_usage_is_known(make_usage):
    """A node that had no page gets no more until somebody has counted again."""
    steps = Steps([1] * 4, [4, 4], make_usage, batch_pages=1, max_in_flight_pages=1)
    (batch,) = steps.plan(wishes((0, 0), (1, 0)))
    assert [] == steps.handle(done(batch, (0, errno.ENOMEM)))
    usage = make_usage([4, 4], steps.node)
    assert [([1], 1, 0)] == told(steps.handle(Tick(1, usage)))


def test_wishes_that_need_no_move_are_counted(make_usage):
    """Already there, without memory, named twice: counted, never started."""
    steps = Steps([0, 255, 1], [4, 4], make_usage)
    (batch,) = steps.plan(wishes((0, 0), (1, 0), (2, 0), (2, 0)))
    assert [([2], 1, 0)] == told([batch])
    totals = steps.state.totals
    assert (1, 1, 1) == (totals.already_there, totals.not_present, totals.duplicate)


def test_batches_follow_one_path_and_keep_their_size(make_usage):
    """Five promotions from two nodes in batches of two keep the plan's order."""
    steps = Steps([1, 2, 1, 1, 2], [9, 9, 9], make_usage, batch_pages=2)
    batches = steps.plan(wishes(*((i, 0) for i in range(5))))
    assert [([0, 2], 1, 0), ([3], 1, 0), ([1, 4], 2, 0)] == told(batches)


def test_room_goes_to_the_best_wishes_of_all_paths(make_usage):
    """Three free pages take the plan's first three, wherever they come from."""
    steps = Steps([1, 2, 2, 1], [3, 9, 9], make_usage)
    batches = steps.plan(wishes((1, 0), (0, 0), (2, 0), (3, 0)))
    assert [([0], 1, 0), ([1, 2], 2, 0)] == sorted(told(batches))


def test_room_is_made_down_a_chain_of_tiers(make_usage):
    """With two full tiers the demotion of the middle one comes first."""
    steps = Steps([0, 1, 2], [1, 1, 2], make_usage)
    (first,) = steps.plan(wishes((2, 0), (0, 1), (1, 2)))
    assert [([1], 1, 2)] == told([first])
    (second,) = steps.handle(done(first))
    assert [([0], 0, 1)] == told([second])
    assert [([2], 2, 0)] == told(steps.handle(done(second)))


@pytest.mark.parametrize(("back_s", "expected"), [(10, 1), (11, 0)])
def test_ping_pong_is_a_move_back_in_time(make_usage, back_s, expected):
    """A page demoted 10 s after its promotion counts, after 11 s it does not."""
    steps = Steps([1], [1, 1], make_usage)
    (up,) = steps.plan(wishes((0, 0)))
    steps.handle(done(up))
    steps.node[0] = 0
    (down,) = steps.plan(wishes((0, 1)), now_ns=back_s * S)
    steps.handle(done(down, now_ns=back_s * S))
    assert expected == steps.state.totals.ping_pong


def test_lateral_move_is_neither_promotion_nor_demotion(make_usage):
    """Nodes of one tier: moved, counted apart."""
    state = MigrationState(2, [0, 0])
    node = np.array([0, 1], np.uint8)
    (batch,) = state.handle(
        PlanArrived(0, wishes((0, 1)), make_usage([2, 2], node), node)
    )
    state.handle(done(batch))
    state.validate()
    assert (1, 0, 0) == (
        state.totals.lateral, state.totals.promoted, state.totals.demoted
    )  # fmt: skip


def test_contradictions_are_refused(make_usage):
    """An unknown batch, a short column and time running backwards."""
    steps = Steps([1, 1], [4, 4], make_usage)
    (batch,) = steps.plan(wishes((0, 0), (1, 0)), now_ns=5)
    for event in (
        BatchDone(5, 99, np.zeros(1, np.int16), 0.0),
        BatchDone(5, batch.id, np.zeros(1, np.int16), 0.0),
        Tick(4),
    ):
        with pytest.raises(ValueError, match=r"99|rows|before"):
            steps.state.handle(event)
    assert [] == steps.handle(done(batch, now_ns=5))
    with pytest.raises(ValueError, match="not in flight"):
        steps.state.handle(done(batch, now_ns=5))
    with pytest.raises(ValueError, match="beyond"):
        steps.plan(wishes((7, 0)), now_ns=6)


def test_log_replays_to_the_same_instructions(make_usage):
    """The events of a run, given to a fresh state, end in the same snapshot."""
    steps = Steps([0, 0, 1, 1], [2, 3], make_usage, log_events=100)
    todo = steps.plan(wishes((2, 0), (0, 1)))
    while todo:
        for batch in todo:
            steps.node[batch.page] = batch.node
        todo = steps.handle(*[done(b) for b in todo])
    again = MigrationState(4, [0, 1])
    for events in steps.state.log:
        again.handle(*events)
    assert steps.state.to_dict() == again.to_dict()
    assert 2 == again.totals.applied


def test_a_node_that_came_later_is_left_alone(make_usage):
    """A page on a node beyond those of the start is not moved, like one without."""
    steps = Steps([0, 1, 3, 255], [4, 4], lambda *_: make_usage([4, 4], steps_node))
    steps_node = np.array([0, 1], np.uint8)
    assert [([1], 1, 0)] == told(steps.plan(wishes((1, 0), (2, 0), (3, 0))))
    assert 2 == steps.state.totals.not_present
