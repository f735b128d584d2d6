"""The trial: moved and held-back pages compared."""

import numpy as np
import pytest

from isotherm.core.units import NS_PER_S
from isotherm.daemon.trial import LEAST_SETTLED, Trial
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.plan import Moves, Reason

PAGES = 1 << 16
RANK = np.array([0, 1], np.uint8)
LATENCY = np.array([[100.0, 400.0]])


def play(rate_if_moved, rate_if_held, cost_ns=0.0, share=0.1, horizon_s=10.0):
    """Promote pages 0.. that are accessed at given rates; return the trial."""
    trial = Trial(share, RANK, horizon_s)
    node = np.ones(PAGES, np.uint8)
    now_ns = 5 * horizon_s * NS_PER_S
    now_ns = round(now_ns)
    wished = Moves.to(np.arange(20000), 0, Reason.PAYS, 1.0)
    allowed = trial.choose(wished, node, now_ns)
    moved = wished.page[allowed]
    trial.moved(
        moved, np.zeros(len(moved), np.uint8), node[moved].copy(), cost_ns, now_ns
    )
    node[moved] = 0
    rates = np.full(PAGES, rate_if_held, np.float32)
    rates[moved] = rate_if_moved
    rates += np.random.default_rng(1).normal(0, 0.1, PAGES).astype(np.float32)
    for second in range(1, round(horizon_s) + 1):
        trial.account_epoch(
            now_ns + second * NS_PER_S,
            NS_PER_S,
            lambda page: rates[page],
            node,
            LATENCY,
            1.0,
        )
    return trial


def test_the_share_asked_for_is_held_back():
    """One in a hundred is held back, the same pages until the next draw."""
    trial = Trial(0.01, RANK)
    page = np.arange(PAGES, dtype=np.uint32)
    first = trial.held(page, 0)
    assert 0.008 < first.mean() < 0.012
    assert np.array_equal(first, trial.held(page, 59 * NS_PER_S))
    assert not np.array_equal(first, trial.held(page, 61 * NS_PER_S))


def test_moves_that_pay_are_seen_to_pay():
    """Ten accesses a second, 300 ns saved each, ten seconds: 30 us a page."""
    verdict = play(10.0, 10.0).verdict()
    assert 30_000 == pytest.approx(verdict.gain_ns, rel=0.02)
    assert verdict.in_errors > 10


def test_moves_that_cost_more_than_they_save_lose():
    """The same moves at 100 us each lose 70 us a page."""
    verdict = play(10.0, 10.0, cost_ns=100_000.0).verdict()
    assert -70_000 == pytest.approx(verdict.gain_ns, rel=0.02)
    assert verdict.in_errors < -10


def test_pages_that_cool_whatever_is_done_are_no_gain():
    """What both arms share cancels: pages nobody touches earn nothing."""
    verdict = play(0.0, 0.0).verdict()
    assert abs(verdict.in_errors) < 3


def test_without_a_share_there_is_no_trial():
    """Nothing is held back, nothing is said."""
    trial = play(10.0, 10.0, share=0.0)
    assert trial.verdict() is None
    assert 0 == trial.held_back


def test_too_few_settled_pages_say_nothing():
    """Before pages have been followed to the end there is no verdict."""
    trial = Trial(0.1, RANK, horizon_s=1000.0)
    node = np.ones(PAGES, np.uint8)
    trial.choose(Moves.to(np.arange(1000), 0, Reason.PAYS), node, 0)
    assert trial.verdict() is None


def test_a_new_owner_ends_following():
    """Pages that were given to somebody else are let go, uncounted."""
    trial = play(10.0, 10.0)
    settled = trial.verdict().held
    node = np.ones(PAGES, np.uint8)
    trial.choose(Moves.to(np.arange(20000), 0, Reason.PAYS), node, 0)
    trial.renew(SpacesChanged(PAGES, np.array([[0, PAGES]])))
    trial.account_epoch(
        10**15, NS_PER_S, lambda page: np.ones(len(page)), node, LATENCY, 1.0
    )
    assert settled >= LEAST_SETTLED
    assert settled == trial.verdict().held
