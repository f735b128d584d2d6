"""Promised and realised gain: followed, settled, sampled."""

import numpy as np
import pytest

from isotherm.migration import GainLedger

S = 1_000_000_000
LATENCY = np.array([[80.0, 250.0]])


def open_moves(ledger, page, *, up=True, promised=1000.0, now_ns=0):
    """Admit pages and follow those that are taken."""
    page = np.array(page, np.uint32)
    page = page[ledger.admit(page)]
    n = len(page)
    ledger.open(
        now_ns,
        page,
        np.full(n, 1 if up else 0, np.uint8),
        np.full(n, 0 if up else 1, np.uint8),
        np.full(n, promised, np.float32),
        np.full(n, 2500.0),
        np.full(n, not up),
    )


def ten_a_second(page):
    """Return ten accesses a second for every page."""
    return np.full(len(page), 10.0, np.float32)


def test_gain_is_saved_latency_less_cost():
    """10 accesses/s x 170 ns x 2 s - 2500 ns = 900 ns, settled at the horizon."""
    ledger = GainLedger(horizon_ns=2 * S)
    open_moves(ledger, [3])
    node = np.zeros(8, np.uint8)
    for now_ns in (S, 2 * S):
        ledger.account_epoch(now_ns, S, ten_a_second, node, LATENCY)
    account = ledger.account("promotion")
    assert (1, 1000.0, 900.0) == (
        account.entries, account.promised_ns, account.realised_ns
    )  # fmt: skip
    assert account.ratio == pytest.approx(0.9)
    assert 0 == len(ledger)


def test_accesses_in_flight_together_share_what_is_saved():
    """At a parallelism of 4 the same 3400 ns of latency save 850 ns of time."""
    ledger = GainLedger(horizon_ns=2 * S)
    open_moves(ledger, [3])
    node = np.zeros(8, np.uint8)
    for now_ns in (S, 2 * S):
        ledger.account_epoch(now_ns, S, ten_a_second, node, LATENCY, 4.0)
    assert 850.0 - 2500.0 == ledger.account("promotion").realised_ns


def test_entry_closes_when_the_page_is_elsewhere():
    """A page that left after one epoch earned one epoch: 1700 - 2500."""
    ledger = GainLedger()
    open_moves(ledger, [3])
    node = np.zeros(8, np.uint8)
    ledger.account_epoch(S, S, ten_a_second, node, LATENCY)
    node[3] = 1
    ledger.account_epoch(2 * S, S, ten_a_second, node, LATENCY)
    assert -800.0 == ledger.account("promotion").realised_ns


def test_entry_closes_when_the_page_moves_again():
    """The demotion of a followed page settles its promotion and is followed."""
    ledger = GainLedger()
    open_moves(ledger, [3])
    open_moves(ledger, [3], up=False, promised=-100.0)
    assert (1, 1) == (ledger.account("promotion").entries, len(ledger))
    ledger.account_epoch(S, S, ten_a_second, np.zeros(8, np.uint8), LATENCY)
    assert 1 == ledger.account("demotion").entries
    assert ledger.account("demotion").ratio is None


def test_moves_without_a_promise_are_not_followed():
    """NaN promises nothing and is not held to it."""
    ledger = GainLedger()
    open_moves(ledger, [1, 2, 3], promised=np.nan)
    assert 0 == len(ledger)


def test_sample_is_bounded_and_by_page():
    """100,000 moves leave at most 4096 entries, the same pages each time."""
    ledger = GainLedger(limit=4096)
    page = np.arange(100_000, dtype=np.uint32)
    open_moves(ledger, page)
    assert 1000 < len(ledger) <= 4096
    assert ledger.sampled_share == 1 / 32
    assert set(page[ledger.admit(page)]) == set(page[ledger.sampled(page)])


def test_sample_widens_again_when_few_live():
    """The share doubles with each quiet epoch until all pages are followed."""
    ledger = GainLedger(limit=8, horizon_ns=S)
    open_moves(ledger, np.arange(64))
    narrow = ledger.sampled_share
    node = np.ones(64, np.uint8)
    for second in range(1, 9):
        open_moves(ledger, [0], now_ns=second * S)
        ledger.account_epoch((second + 1) * S, S, ten_a_second, node, LATENCY)
    assert narrow < 1
    assert 1.0 == ledger.sampled_share


@pytest.mark.parametrize(
    ("promised", "expected"), [(800.0, 1.0), (1800.0, 2.0), (1e6, 4.0)]
)
def test_broken_promises_make_moves_dearer(promised, expected):
    """Realised 900: promised 800 is fine, 1800 doubles the cost, 1e6 is capped."""
    ledger = GainLedger(horizon_ns=2 * S)
    open_moves(ledger, np.arange(64), promised=promised)
    node = np.zeros(64, np.uint8)
    for now_ns in (S, 2 * S):
        assert 1.0 == ledger.dearness()
        ledger.account_epoch(now_ns, S, ten_a_second, node, LATENCY)
    assert ledger.dearness() == pytest.approx(expected)
