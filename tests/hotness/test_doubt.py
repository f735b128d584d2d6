"""What the tracker believes after it was told that a pattern has ended."""

import numpy as np
import pytest

from isotherm.hints.batch import HintBatch, Mechanism, Samples
from isotherm.hotness.evidence import doubted, unpack_array
from isotherm.hotness.tracker import GammaTracker

EPOCH_NS = 500_000_000
HOT = np.arange(8, dtype=np.uint32)


def sampled(tracker: GammaTracker, page: np.ndarray, epoch: int) -> None:
    """Let a tracker see every access of an epoch."""
    batch = HintBatch(
        "test",
        epoch * EPOCH_NS,
        (epoch + 1) * EPOCH_NS,
        Samples(page.astype(np.uint32), None, None, 1.0),
    )
    tracker.update((batch,), (epoch + 1) * EPOCH_NS, len(page) / 64 / 0.5)


def followed() -> GammaTracker:
    """Return a tracker that has seen eight of 64 pages hot for a long time."""
    tracker = GammaTracker(64, EPOCH_NS, frozenset({Mechanism.SAMPLING}))
    for epoch in range(60):
        sampled(tracker, np.repeat(HOT, 4), epoch)
    return tracker


def rates(tracker: GammaTracker) -> np.ndarray:
    """Return the rates of all pages over the reference rate."""
    return unpack_array(tracker.code)[0]


def test_rates_go_half_way_to_the_mean() -> None:
    """Trust one half leaves about the root of a page's rate over the prior's."""
    tracker = followed()
    before = rates(tracker)
    prior = float(unpack_array(np.array([tracker._prior()[0]], np.uint16))[0][0])
    tracker.doubt(0.5)
    np.testing.assert_allclose(np.sqrt(before * prior), rates(tracker), rtol=0.08)


def test_full_trust_leaves_rates_alone() -> None:
    """Trust 1 keeps every rate; only its weight is lost."""
    tracker = followed()
    before = rates(tracker)
    tracker.doubt(1.0)
    np.testing.assert_array_equal(before, rates(tracker))
    assert float(unpack_array(tracker.code)[1].max()) <= 1.0


@pytest.mark.parametrize("trust", [0.0, 0.3])
def test_what_comes_next_is_believed_sooner(trust: float) -> None:
    """After a change the new hot pages overtake the old ones within a few epochs."""
    plain, told = followed(), followed()
    told.doubt(trust)
    for epoch in range(60, 64):
        for tracker in (plain, told):
            sampled(tracker, np.repeat(HOT + 16, 4), epoch)
    assert rates(told)[16:24].min() > rates(told)[:8].max()
    assert rates(plain)[16:24].max() < rates(plain)[:8].min()


def test_codes_stay_codes() -> None:
    """Every code there is has an answer that is a code, and doubt twice is no error."""
    every = np.arange(1 << 16, dtype=np.uint16)
    once = doubted(every, 0x8123, 0.25)
    assert every.shape == once.shape
    assert np.uint16 == once.dtype
    again = doubted(once, 0x8123, 0.0)
    assert {0x8123 >> 6} == set((again >> 6).tolist())
