"""What tenants cause: moves by payer, looking by evidence, CPU by both."""

import numpy as np
import pytest

from isotherm.hints.batch import AccessedBits, HintBatch, RegionCounts, Samples
from isotherm.policy.plan import Outcome
from isotherm.policy.tenant_ledger import (
    TenantLedger,
    count_held,
    count_held_twin,
    looked_at,
)

LABEL = np.repeat([0, 1, 2], [8, 8, 16]).astype(np.uint8)
RANK = np.array([0, 1] + [2] * 254)


class Payers:
    """One who has tenant 1 pay for everything."""

    def payers(self, page, label):
        """Return 1s."""
        return np.ones(len(page), np.uint8)


def outcome() -> Outcome:
    """Return two pages that went up, one that went down, one that failed."""
    return Outcome(
        np.array([0, 1, 9, 20], np.uint32),
        np.array([0, 0, 1, 0], np.uint8),
        np.array([0, 0, 0, 16], np.int16),
        4000.0,
        np.array([1, 1, 0, 1], np.uint8),
    )


def samples(*page: int) -> HintBatch:
    """Return samples that took 30 ns from programs and 10 elsewhere."""
    seen = Samples(np.array(page, np.uint32), None, None, 2000.0)
    return HintBatch("s", 0, 1, seen, application_ns=30.0, background_ns=10.0)


def test_moves_are_charged_to_their_payer() -> None:
    """Without payers it is whose page moved; what moved is its owner's either way."""
    own = TenantLedger(3, RANK, unit_pages=2)
    own.moved(outcome(), LABEL, None)
    assert [2000.0, 1000.0, 1000.0] == [b.migration_ns for b in own.bills()]
    assert [4, 2, 2] == [b.paid_moves for b in own.bills()]
    assert [4, 0, 0] == [b.promoted_pages for b in own.bills()]
    assert [0, 2, 0] == [b.demoted_pages for b in own.bills()]
    paid = TenantLedger(3, RANK)
    paid.moved(outcome(), LABEL, Payers())
    assert [0.0, 4000.0, 0.0] == [b.migration_ns for b in paid.bills()]
    assert [2, 0, 0] == [b.promoted_pages for b in paid.bills()]


def test_looking_is_charged_to_what_was_seen() -> None:
    """Samples go by their pages; reading bits goes by accesses where they are known."""
    ledger = TenantLedger(3, RANK)
    ledger.looked((samples(0, 1, 2, 9),), LABEL)
    assert [30.0, 10.0, 0.0] == [b.looking_ns for b in ledger.bills()]
    blocks = np.arange(4, dtype=np.uint32)
    seen = AccessedBits(blocks, np.zeros(4, np.uint8), np.ones(4, np.float32))
    bits = HintBatch("b", 0, 1, seen, background_ns=40.0)
    assert [0.25, 0.25, 0.5] == looked_at(bits, LABEL, 3).tolist()
    ledger.looked((bits,), LABEL, np.array([1.0, 0.0, 3.0]))
    assert [40.0, 10.0, 30.0] == [b.looking_ns for b in ledger.bills()]


def test_ranges_count_by_their_length() -> None:
    """A region of 24 pages is three times one of 8."""
    one = np.array([0, 8], np.uint32)
    seen = RegionCounts(one, np.array([8, 32], np.uint32), one, one, 20, 0.005)
    batch = HintBatch("r", 0, 1, seen)
    assert [0.25, 0.75, 0.0] == looked_at(batch, LABEL, 3).tolist()


def test_nothing_seen_is_everybodys() -> None:
    """An empty batch is charged by memory; without memory to the rest."""
    assert [0.25, 0.25, 0.5] == looked_at(samples(), LABEL, 3).tolist()
    assert [0.0, 0.0, 1.0] == looked_at(samples(), LABEL[:0], 3).tolist()


def test_cpu_time_adds_up() -> None:
    """Moving is its payers', the rest follows looking; nothing is lost or doubled."""
    ledger = TenantLedger(3, RANK)
    ledger.moved(outcome(), LABEL, Payers())
    ledger.looked((samples(0),), LABEL)
    ledger.spent(10_000.0, LABEL)
    assert [6000.0, 4000.0, 0.0] == [b.cpu_ns for b in ledger.bills()]
    ledger.looked((), LABEL)
    ledger.spent(400.0, LABEL)
    assert [6100.0, 4100.0, 200.0] == [b.cpu_ns for b in ledger.bills()]


def test_what_is_held_is_counted_by_node() -> None:
    """Every page once, those that are nowhere too; kernel and twin agree."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 1009, np.uint8)
    node = rng.choice(np.array([0, 1, 255], np.uint8), 1009)
    found = [np.zeros((3, 256), np.int64) for _ in range(2)]
    count_held(label, node, found[0])
    count_held_twin(label, node, found[1])
    assert found[0].tolist() == found[1].tolist()
    assert 1009 == found[0].sum()
    assert int(((label == 2) & (node == 255)).sum()) == found[0][2, 255]


def test_looking_at_nothing_is_charged_by_memory() -> None:
    """As is the CPU time of an epoch in which nothing was looked at."""
    sizes = np.bincount(LABEL, minlength=3) / len(LABEL)
    assert sizes.tolist() == looked_at(samples(), LABEL, 3).tolist()
    ledger = TenantLedger(3, RANK)
    ledger.spent(100.0, LABEL)
    assert (100.0 * sizes).tolist() == pytest.approx(
        [bill.cpu_ns for bill in ledger.bills()]
    )
