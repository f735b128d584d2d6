"""Spaces that come and go, long runs, and what only a live host sees."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.hints.batch import (
    AccessedBits,
    FaultDelays,
    HintBatch,
    LiveMechanism,
    Mechanism,
    RegionCounts,
    Samples,
)
from isotherm.hotness import tracker as tracker_module
from isotherm.hotness.initiators import InitiatorShares
from isotherm.hotness.tracker import OLDEST, GammaTracker
from isotherm.machine.protocol import SpacesChanged

EPOCH_NS = 500_000_000
BITS = frozenset({Mechanism.ACCESSED_BIT})
COLUMNS = ("code", "history", "looked", "samples", "region", "stamp", "edge")


def change(pages, *ranges):
    """Return a change of spaces."""
    return SpacesChanged(pages, np.array(ranges, np.int64).reshape(-1, 2))


def bits(block, found, interval_s=1.0, *, source="accessed-bit", **rest):
    """Return a batch of accessed bits, the same for all blocks."""
    n = len(block)
    seen = AccessedBits(
        np.array(block, np.uint32),
        np.full(n, found, np.uint8),
        np.full(n, interval_s, np.float32),
        **rest,
    )
    return HintBatch(source, 0, EPOCH_NS, seen)


def used(pages, epochs=20, mechanisms=BITS):
    """Return a tracker that has seen every page accessed all the time."""
    tracker = GammaTracker(pages, EPOCH_NS, mechanisms)
    blocks = np.arange(-(-pages // 8))
    for epoch in range(epochs):
        tracker.update((bits(blocks, 0xFF),), (epoch + 1) * EPOCH_NS, 0.5)
    return tracker


def rates(tracker):
    """Return every page's rate now."""
    view = tracker.update((), 10**12, None)
    return view.rate(np.arange(tracker.pages, dtype=np.uint32))


def columns(tracker):
    """Return copies of all columns."""
    return {name: getattr(tracker, name).copy() for name in COLUMNS}


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 200),
    st.integers(0, 100),
    st.tuples(st.integers(0, 299), st.integers(1, 300)),
)
def test_renewed_and_new_pages_are_at_the_prior_and_no_others(pages, more, where):
    """Columns grow; a renewed range is as if never seen; the rest is as it was."""
    tracker = used(pages, 3)
    before = columns(tracker)
    after = pages + more
    start = min(where[0], after - 1)
    end = min(start + where[1], after)
    tracker.renew(change(after, (start, end)))
    code, region = tracker._prior()
    assert (after, -(-after // 8)) == (tracker.pages, tracker.blocks)
    page = np.arange(after)
    new = (page >= pages) | ((page >= start) & (page < end))
    assert (tracker.code[new] == code).all()
    assert (tracker.history[new] == 0).all()
    assert before["code"][~new[:pages]].tolist() == tracker.code[~new].tolist()
    block = np.arange(tracker.blocks)
    touched = (block >= -(-pages // 8)) | ((8 * block < end) & (8 * block + 8 > start))
    assert (tracker.looked[touched] == 0).all()
    assert (tracker.samples[touched] == 0).all()
    assert (tracker.region[touched] == region).all()
    for name in ("looked", "samples", "region", "edge"):
        old = before[name][~touched[: len(before[name])]]
        assert old.tolist() == getattr(tracker, name)[~touched].tolist()
    assert np.isfinite(rates(tracker)).all()


def test_time_of_renewed_pages_begins_now():
    """A new owner's pages are not taken for long unseen: nothing has been missed.

    They get no exposure of sampling from before.
    """
    hints = BITS | {Mechanism.SAMPLING}
    tracker = GammaTracker(64, EPOCH_NS, hints)
    empty = Samples(np.empty(0, np.uint32), None, None, 10.0)
    for epoch in range(50):
        batch = HintBatch("sampling", 0, EPOCH_NS, empty)
        tracker.update((batch,), (epoch + 1) * EPOCH_NS, 4.0)
    tracker.renew(change(64, (0, 32)))
    tracker.update((bits(range(8), 0, 1e-6),), 51 * EPOCH_NS, 4.0)
    found = tracker.update((), 52 * EPOCH_NS, 4.0).rate(np.arange(64, dtype=np.uint32))
    assert found[:32].mean() > 5 * found[32:].mean()


NONE = np.empty(0, np.uint32)
BEYOND = np.array([3, 64], np.uint32)


@pytest.mark.parametrize(
    "seen",
    [
        Samples(BEYOND, None, None, 10.0),
        FaultDelays(
            BEYOND, np.ones(2, np.float32), *np.zeros((2, 2), np.uint8), NONE, NONE
        ),
        FaultDelays(NONE, NONE, NONE, NONE, BEYOND, np.ones(2, np.float32)),
        AccessedBits(BEYOND // 8, np.ones(2, np.uint8), np.ones(2, np.float32)),
        RegionCounts(BEYOND, BEYOND + 8, *np.ones((2, 2), np.uint32), 20, 0.005),
    ],
)
def test_evidence_of_a_page_that_is_not_there_is_refused(seen):
    """By the name of its source, before anything is written."""
    tracker = used(64)
    before = columns(tracker)
    with pytest.raises(ValueError, match=r"wild: page 64, expected below 64"):
        tracker.update((HintBatch("wild", 0, EPOCH_NS, seen),), 10**12, 1.0)
    assert before["code"].tolist() == tracker.code.tolist()


def test_nothing_yet():
    """A tracker without pages grows when they come."""
    tracker = GammaTracker(0, EPOCH_NS, BITS)
    tracker.update((), EPOCH_NS, None)
    tracker.renew(change(20, (0, 20)))
    view = tracker.update((bits([0, 1, 2], 0xFF),), 2 * EPOCH_NS, None)
    assert 20 == view.pages == len(view.rate(np.arange(20, dtype=np.uint32)))
    assert 0 < tracker.bytes_per_page < 16


@pytest.mark.slow
def test_a_block_not_looked_at_for_nine_hours_is_not_fresh():
    """Its stamp of 16 bits would come round; its age stays at the oldest there is."""
    tracker = used(256)
    tracker._epoch = first = 1000
    tracker.stamp[:] = first
    ages = []
    for epoch in range(first + 1, first + 70_000, 1):
        tracker._epoch = epoch
        tracker._keep_ages()
        if epoch % 997 == 0:
            ages.append((epoch - tracker.stamp.astype(np.int64)) & 0xFFFF)
    young, old = ages[: (OLDEST - 1000) // 997], ages[-1]
    assert all(np.ptp(age) == 0 for age in young)
    assert (old > OLDEST - 1).all()
    assert all(
        (age >= before).all() or (age >= OLDEST - 1).all()
        for before, age in itertools.pairwise(ages)
    )


def test_a_page_of_a_part_of_a_block_decays_like_any_other():
    """Blocks of which a page cannot be looked at: the others follow what is seen."""
    tracker = GammaTracker(64, EPOCH_NS, BITS)
    observed = np.full(8, 0xFE, np.uint8)
    for epoch in range(400):
        found = 0xFE if epoch < 200 else 0
        batch = bits(range(8), found, 0.5, observed=observed)
        view = tracker.update((batch,), (epoch + 1) * EPOCH_NS, 2.0)
        if epoch == 199:
            hot = view.rate(np.arange(64, dtype=np.uint32)).reshape(8, 8)
    cold = view.rate(np.arange(64, dtype=np.uint32)).reshape(8, 8)
    assert (hot[:, 1:] > 2 * hot[:, :1]).all()
    assert (cold[:, 1:] < 0.2 * hot[:, 1:]).all()
    assert hot[:, 0] == pytest.approx(2.0, rel=0.3)
    assert cold[:, 0] == pytest.approx(2.0, rel=0.3)
    assert (tracker.history.reshape(8, 8)[:, 1:] == 0).all()


@pytest.mark.parametrize("source", list(LiveMechanism))
def test_looks_at_a_few_pages_change_no_others(source):
    """Nor how often blocks are thought to be looked at."""
    tracker = used(512)
    before, revisit = columns(tracker), tracker._revisit_epochs
    tracker.update((bits([3], 0, 30.0, source=source.value),), 10**10, 0.5)
    page = np.arange(512)
    inside = (page >= 24) & (page < 32)
    assert before["code"][~inside].tolist() == tracker.code[~inside].tolist()
    assert revisit == tracker._revisit_epochs
    found = rates(tracker)
    assert found[inside].max() < 0.5 * found[~inside].min()


def test_where_only_a_few_pages_are_looked_at_the_rest_decays():
    """No look at memory will come: what was seen once is not believed for ever."""
    tracker = GammaTracker(512, EPOCH_NS, BITS)
    for epoch in range(600):
        found = 0xFF if epoch < 100 else 0
        block = [0, 1] if epoch < 100 else [40]
        batch = bits(block, found, 0.5, source=LiveMechanism.PAGE_OUT.value)
        view = tracker.update((batch,), (epoch + 1) * EPOCH_NS, 1.0)
        if epoch == 99:
            hot = float(view.rate(np.arange(16, dtype=np.uint32)).mean())
    assert hot > 3.0
    assert view.rate(np.arange(16, dtype=np.uint32)).mean() < 0.5 * hot


def test_writes_are_a_share_of_the_accesses():
    """Pages of which one access in three writes are put about right, not too hot."""
    rng = np.random.default_rng(1)
    true = np.repeat([1.0, 8.0], 1024)
    tracker = GammaTracker(2048, EPOCH_NS, frozenset({LiveMechanism.WRITE}))
    for epoch in range(240):
        written = rng.random(2048) < -np.expm1(-0.3 * true * 0.5)
        seen = AccessedBits(
            np.arange(256, dtype=np.uint32),
            np.packbits(written, bitorder="little"),
            np.full(256, 0.5, np.float32),
            writes_only=True,
        )
        batch = HintBatch(LiveMechanism.WRITE.value, 0, EPOCH_NS, seen)
        tracker.update((batch,), (epoch + 1) * EPOCH_NS, float(true.mean()))
    found = rates(tracker)
    assert found[:1024].mean() == pytest.approx(1.0, rel=0.3)
    assert found[1024:].mean() == pytest.approx(8.0, rel=0.3)


def test_who_accesses_fades_and_is_forgotten_with_the_space():
    """Shares follow the present; a new owner's pages start from nothing."""
    shares = InitiatorShares(64)
    page = np.arange(512, dtype=np.uint32)
    shares.add(page, np.zeros(512, np.uint8))
    shares.add(page, np.ones(512, np.uint8))
    assert {0, 1} == set(shares.share(0, 512))
    for _ in range(40):
        shares.fade(0.5)
        shares.add(page, np.ones(512, np.uint8))
    assert shares.share(0, 512)[1] == pytest.approx(1.0, abs=1e-6)
    shares.renew(72, change(576, (64, 128), (512, 576)))
    assert {255: 1.0} == shares.share(64, 128) == shares.share(512, 576)
    assert shares.share(128, 192)[1] == pytest.approx(1.0, abs=1e-6)


def test_a_first_initiator_weighs_what_it_weighed():
    """The table is made when a second one is seen, however late that is."""
    shares = InitiatorShares(8)
    shares.add(np.zeros(4, np.uint32), np.zeros(4, np.uint8))
    for _ in range(10):
        shares.fade(0.5)
    shares.add(np.zeros(1, np.uint32), np.ones(1, np.uint8))
    share = shares.share(0, 64)
    assert share[0] == pytest.approx(share[1])
    assert 1.0 == sum(share.values())


def test_prior_constants_hold_after_growth():
    """A grown page weighs as half an access at the mean rate of now."""
    tracker = used(64)
    tracker.mean_rate = 3.0
    tracker.renew(change(128))
    view = tracker.update((), 10**12, 3.0)
    page = np.arange(64, 128, dtype=np.uint32)
    shape = (view.rate(page) / view.deviation(page)) ** 2
    assert np.full(64, tracker_module.PRIOR_SHAPE) == pytest.approx(shape, rel=0.3)
    assert view.rate(page) == pytest.approx(3.0, rel=0.1)
