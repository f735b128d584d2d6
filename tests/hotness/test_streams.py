"""How many of the accesses a counter sees is learnt from what others saw."""

import numpy as np
import pytest

from isotherm.hints.batch import AccessedBits, HintBatch, Samples
from isotherm.hints.capability import PLAIN, Capability
from isotherm.hotness.streams import StreamShare, is_plain

PAGES = 2048
T_S = 0.5
CACHED = Capability(post_cache=True)


def samples(count, rng, period):
    """Return samples of accesses."""
    kept = rng.binomial(count, 1.0 / period)
    page = np.repeat(np.arange(len(count)), kept).astype(np.uint32)
    return HintBatch("sampling", 0, 1, Samples(page, None, None, period))


def bits(count, rng, part, **given):
    """Return the accessed bits of a part of the time."""
    hit = rng.binomial(count, part) > 0
    block = np.arange(len(count) // 8, dtype=np.uint32)
    interval = np.full(len(block), part * T_S, np.float32)
    packed = np.packbits(hit, bitorder="little")
    return HintBatch("bits", 0, 1, AccessedBits(block, packed, interval, **given))


def learnt(make, share, capability=CACHED, epochs=60):
    """Return the share that is learnt when a device counts so much of everything."""
    rng = np.random.default_rng(4)
    stream = StreamShare(capability)
    page = np.arange(PAGES)
    rate = rng.gamma(2.0, 5.0, PAGES)
    for _ in range(epochs):
        count = rng.poisson(rate * T_S)
        seen = rng.binomial(count, share).astype(np.float64)
        stream.learn(page, seen, T_S, [make(count, rng)])
    return stream.share


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_samples_tell_what_a_cache_keeps_from_a_device(share):
    """Samples see all accesses, the device some: their ratio is found."""
    found = learnt(lambda c, r: samples(c, r, 50.0), share)
    assert share == pytest.approx(found, rel=0.08)


def test_accessed_bits_tell_it_too():
    """A window of a tenth of the time, on the pages that were counted."""
    found = learnt(lambda c, r: bits(c, r, 0.1), 0.5)
    assert 0.5 == pytest.approx(found, rel=0.25)


def test_bits_without_a_cache_between_show_no_ratio():
    """Bits of the very accesses that are counted: exactly explained."""
    assert 1.0 == pytest.approx(learnt(lambda c, r: bits(c, r, 0.1), 1.0), rel=0.05)


def test_a_source_that_sees_what_all_see_is_not_judged():
    """Where streams are declared alike a difference is chance."""
    found = learnt(lambda c, r: samples(c, r, 50.0), 0.2, PLAIN)
    assert 1.0 == found


@pytest.mark.parametrize(
    ("capability", "first"),
    [
        (Capability(sees_reads=False), 0.3),
        (Capability(sees_writes=False), 0.7),
        (Capability(post_cache=True), 1.0),
    ],
)
def test_what_is_not_seen_has_a_first_guess(capability, first):
    """Writes are three accesses in ten, until something is known."""
    assert first == pytest.approx(StreamShare(capability).share)
    assert not is_plain(capability)


def test_nothing_to_compare_with_changes_nothing():
    """Bits of writes alone, walks that open windows, pages that nobody looked at."""
    rng = np.random.default_rng(1)
    stream = StreamShare(CACHED)
    count = rng.poisson(5.0, PAGES)
    page, seen = np.arange(PAGES), count.astype(float)
    others = [
        bits(count, rng, 0.1, writes_only=True),
        bits(count, rng, 0.1, opening=True),
        bits(count, rng, 0.1, observed=np.zeros(PAGES // 8, np.uint8)),
    ]
    stream.learn(page, seen, T_S, others)
    stream.learn(page[:0], seen[:0], T_S, [samples(count, rng, 50.0)])
    assert 1.0 == stream.share
