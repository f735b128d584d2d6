"""Held back and moved: drawn by chance alone, followed alike, compared."""

import numpy as np
import pytest

from isotherm.machine.protocol import NOT_PRESENT, SpacesChanged
from isotherm.migration import HoldBack, MigrationEngine
from isotherm.migration.holdback import HELD, MOVED
from isotherm.policy.plan import Moves, Reason

S = 1_000_000_000
LATENCY = np.array([[80.0, 250.0]])
COST_NS = 2500.0


def study(*, pages=4000, share=0.25, horizon_s=10, **rest):
    """Return a comparison with half of the pages followed: (study, held, moved)."""
    hold_back = HoldBack(share, horizon_ns=horizon_s * S, limit=1 << 20, **rest)
    page = np.arange(pages, dtype=np.uint32)
    held, beside = hold_back.arm(page, 0)
    return hold_back, page[held], page[beside]


def follow(hold_back, held, moved, *, promised=1000.0, down=False):
    """Begin to follow both arms."""
    for arm, page, cost in ((HELD, held, 0.0), (MOVED, moved, COST_NS)):
        n = len(page)
        hold_back.follow(
            0, page, arm, np.full(n, promised, np.float32), np.full(n, cost),
            np.full(n, down),
        )  # fmt: skip


def pass_time(hold_back, rate, node, seconds):
    """Let seconds pass."""
    for second in range(1, seconds + 1):
        hold_back.account_epoch(
            second * S, S, lambda page: rate[page].astype(np.float32), node, LATENCY
        )


def test_arms_are_drawn_by_chance():
    """Shares as asked for, no page in both, another draw for every batch."""
    hold_back = HoldBack(0.1)
    page = np.arange(200_000, dtype=np.uint32)
    held, beside = hold_back.arm(page, 7)
    assert held.mean() == pytest.approx(0.1, rel=0.05)
    assert beside.mean() == pytest.approx(0.1, rel=0.05)
    assert not (held & beside).any()
    again, _ = hold_back.arm(page[::-1].copy(), 7)
    assert held.tolist() == again[::-1].tolist()
    other, _ = hold_back.arm(page, 8)
    assert (held & other).mean() == pytest.approx(0.01, rel=0.1)


def test_nothing_is_held_back_at_a_share_of_nothing():
    """And too large a share is refused."""
    held, beside = HoldBack(0.0).arm(np.arange(1000, dtype=np.uint32), 0)
    assert not held.any()
    assert not beside.any()
    with pytest.raises(ValueError, match="share"):
        HoldBack(0.6)


def test_moves_that_pay_are_found_to_pay():
    """10 accesses/s x 170 ns x 10 s - 2500 ns = 14500 ns a move."""
    hold_back, held, moved = study()
    follow(hold_back, held, moved)
    node = np.ones(4000, np.uint8)
    node[moved] = 0
    pass_time(hold_back, np.full(4000, 10.0), node, 10)
    found = hold_back.compare()
    assert (len(held), len(moved)) == (
        pytest.approx(found.held, rel=0.05), pytest.approx(found.moved, rel=0.05)
    )  # fmt: skip
    assert found.realised_ns / found.moved == pytest.approx(14_500, rel=0.01)
    assert found.promised_ns / found.moved == pytest.approx(1000, rel=0.01)
    assert not found.is_loss
    assert 1.0 == hold_back.dearness()
    assert 0 == len(hold_back)


def test_belief_in_moved_pages_alone_does_not_count():
    """The pages went cold; the tracker has seen it where they are still looked at.

    Those that moved are thought to be as hot as ever, for nobody sees them now.
    """
    hold_back, held, moved = study()
    follow(hold_back, held, moved, promised=10_000.0)
    node = np.ones(4000, np.uint8)
    node[moved] = 0
    rate = np.full(4000, 10.0)
    pass_time(hold_back, rate, node, 1)
    rate[held] = 0.01
    pass_time(hold_back, rate, node, 10)
    found = hold_back.compare()
    assert found.realised_ns < 0
    assert found.is_loss
    assert 4.0 == hold_back.dearness()


def test_moves_in_vain_cost_their_cost():
    """No page is used any more: what is left is the cost."""
    hold_back, held, moved = study()
    follow(hold_back, held, moved)
    node = np.ones(4000, np.uint8)
    node[moved] = 0
    pass_time(hold_back, np.full(4000, 1e-6), node, 10)
    found = hold_back.compare()
    assert found.realised_ns / found.moved == pytest.approx(-COST_NS, rel=0.01)
    assert found.is_loss


def test_heavy_tails_are_told_from_gains():
    """Rates over four decades: the error is that of the arms alike, not of the rates.

    Without the regression it would be the spread of the rates themselves.
    """
    hold_back, held, moved = study(pages=8000)
    rate = 10.0 ** np.random.default_rng(1).uniform(-2, 2, 8000)
    follow(hold_back, held, moved)
    node = np.ones(8000, np.uint8)
    node[moved] = 0
    pass_time(hold_back, rate, node, 10)
    found = hold_back.compare()
    expected = float(rate[moved].mean()) * 170 * 10 - COST_NS
    a_move = found.realised_ns / found.moved
    assert a_move == pytest.approx(expected, rel=0.15)
    plain = float(rate.std()) * 250 * 10 * np.sqrt(1 / len(held) + 1 / len(moved))
    assert found.error_ns / found.moved < 0.5 * plain
    assert abs(a_move - expected) < 4 * found.error_ns / found.moved


def test_broken_promises_make_moves_dearer():
    """Half of what was promised: twice the cost."""
    hold_back, held, moved = study()
    follow(hold_back, held, moved, promised=29_000.0)
    node = np.ones(4000, np.uint8)
    node[moved] = 0
    pass_time(hold_back, np.full(4000, 10.0), node, 10)
    assert hold_back.dearness() == pytest.approx(2.0, rel=0.05)


def test_demotions_lose_what_promotions_gain():
    """Both directions together: here a swap of pages that are alike earns nothing."""
    hold_back, held, moved = study()
    half = len(moved) // 2, len(held) // 2
    follow(hold_back, held[: half[1]], moved[: half[0]])
    follow(hold_back, held[half[1] :], moved[half[0] :], promised=0.0, down=True)
    node = np.ones(4000, np.uint8)
    node[held[half[1] :]] = 0
    node[moved[: half[0]]] = 0
    pass_time(hold_back, np.full(4000, 10.0), node, 10)
    found = hold_back.compare()
    assert found.realised_ns / found.moved == pytest.approx(-COST_NS, rel=0.05)
    assert found.is_loss


def test_too_few_say_nothing():
    """Nothing is claimed before thirty of each arm have been settled."""
    hold_back, held, moved = study()
    follow(hold_back, held[:29], moved)
    node = np.ones(4000, np.uint8)
    pass_time(hold_back, np.full(4000, 10.0), node, 10)
    assert hold_back.compare() is None
    assert hold_back.dearness() is None
    assert {"share", "live_entries"} == set(hold_back.to_dict())


def test_vanished_and_renewed_pages():
    """A page without memory is settled; one with a new owner is let go."""
    hold_back, held, moved = study()
    follow(hold_back, held, moved)
    node = np.ones(4000, np.uint8)
    node[:1000] = NOT_PRESENT
    alive = len(hold_back)
    pass_time(hold_back, np.full(4000, 10.0), node, 1)
    gone = int((held < 1000).sum() + (moved < 1000).sum())
    assert alive - gone == len(hold_back)
    hold_back.renew(SpacesChanged(4000, np.array([[1000, 4000]], np.int64)))
    assert 0 == len(hold_back)


def test_the_number_followed_is_bounded():
    """The share halves as long as too many are followed, and comes back."""
    hold_back = HoldBack(0.1, horizon_ns=S, limit=64)
    page = np.arange(10_000, dtype=np.uint32)
    for batch in range(8):
        held, _ = hold_back.arm(page, batch)
        n = int(held.sum())
        hold_back.follow(
            0, page[held], HELD, np.ones(n, np.float32), np.zeros(n), held[held]
        )
    assert hold_back.share < 0.1 / 8
    pass_time(hold_back, np.ones(10_000), np.ones(10_000, np.uint8), 12)
    assert 0.1 == hold_back.share


def test_the_engine_leaves_held_pages_alone(fake_machine):
    """They are not moved, not failures, in no outcome, and refused while they rest."""
    machine = fake_machine([4000, 4000], np.ones(4000, np.uint8))
    hold_back = HoldBack(0.1, horizon_ns=20 * S)
    engine = MigrationEngine(machine, hold_back=hold_back, validate=True)
    page = np.arange(4000)
    outcome = engine.submit(Moves.to(page, 0, Reason.PAYS, 500.0), S)
    held = np.setdiff1d(page, outcome.page)
    assert 300 < len(held) < 500
    assert (machine.node[held] == 1).all()
    assert (machine.node[outcome.page] == 0).all()
    assert ({}, len(held)) == (engine.failures, engine.totals.held_back)
    machine.clock.advance(10 * S)
    again = Moves.to(held, 0, Reason.PAYS, 500.0)
    assert 0 == len(engine.submit(again, S).page)
    assert len(held) == engine.totals.rested
    machine.clock.advance(11 * S)
    assert len(held) * 0.8 < len(engine.submit(again, S).page)
    assert len(hold_back) > 500


@pytest.mark.parametrize("dear", [False, True])
def test_an_engine_makes_moves_dearer_where_it_is_told_to(fake_machine, dear):
    """What the policy reads is the cost times the dearness, or the plain cost."""

    class View:
        def stall_rate(self, page):
            return np.full(len(page), 1e-6, np.float32)

    machine = fake_machine([4000, 4000], np.ones(4000, np.uint8))
    hold_back = HoldBack(0.2, horizon_ns=2 * S)
    engine = MigrationEngine(machine, hold_back=hold_back, dear=dear)
    engine.submit(Moves.to(np.arange(4000), 0, Reason.PAYS, 500.0), S)
    assert 2500.0 == engine.move_cost_ns()[1, 0]
    for _ in range(3):
        machine.clock.advance(S)
        engine.account_epoch(View(), S)
    assert (10_000.0 if dear else 2500.0) == engine.move_cost_ns()[1, 0]
