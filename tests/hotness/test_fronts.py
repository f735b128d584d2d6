"""Fronts: sweeps are found, followed round the corner, and left alone if too big."""

import numpy as np
import pytest

from isotherm.hotness.fronts import FASTEST, Fronts

PAGES = 1 << 15
SPEED = 1200.0  # pages per epoch


def sweep(epoch, *, start=0, end=PAGES // 2, speed=SPEED, samples=60, noise=20, seed=1):
    """Return the samples of an epoch: a sweep round and round, and strays."""
    rng = np.random.default_rng([seed, epoch])
    time = np.sort(rng.random(samples)) + epoch
    along = (abs(speed) * time) % (end - start)
    page = start + along if speed > 0 else end - 1 - along
    stray = rng.random(samples) < noise / samples
    page[stray] = rng.integers(0, PAGES, int(stray.sum()))
    return page.astype(np.uint32)


def follow(epochs, **how):
    """Return fronts after so many epochs, and what they said last."""
    fronts = Fronts(PAGES, 1)
    blocks = np.empty((0, 2), np.int64)
    for epoch in range(epochs):
        fronts.add(sweep(epoch, **how))
        blocks = fronts.advance()
    return fronts, blocks


def marked(blocks):
    """Return the set of marked blocks."""
    return {b for first, last in blocks.tolist() for b in range(first, last)}


@pytest.mark.parametrize("speed", [SPEED, -SPEED])
@pytest.mark.parametrize("samples", [30, 400])
def test_what_a_sweep_passes_next_is_marked(speed, samples):
    """Most of the pages of the next epoch, and few others."""
    epochs = 120
    _, blocks = follow(epochs, speed=speed, samples=samples, noise=samples / 4)
    coming = sweep(epochs, speed=speed, samples=4000, noise=0) // 8
    slack = 1.0 + 2.0 / samples**0.5  # few samples tell less of where it is
    assert np.isin(coming, list(marked(blocks))).mean() > 2.0 - slack
    assert len(marked(blocks)) < slack * 1.2 * len(np.unique(coming))


def test_a_sweep_that_turns_is_met_where_it_begins():
    """Where the last sweeps ended and began is where this one will."""
    quarter = PAGES // 4
    round_trip = quarter / SPEED
    epochs = int(9 * round_trip)  # the front is just before its end
    _, blocks = follow(epochs, start=1000, end=1000 + quarter)
    coming = sweep(epochs, start=1000, end=1000 + quarter, samples=4000, noise=0)
    assert coming.min() < 1100
    assert coming.max() > 900 + quarter
    assert np.isin(coming // 8, list(marked(blocks))).mean() > 0.85


def test_a_sweep_over_everything_is_left_alone():
    """It leaves nothing that would be better kept."""
    fronts, blocks = follow(120, end=PAGES)
    assert fronts.are_about
    assert 0 == len(blocks)


@pytest.mark.parametrize("spot", [64, 256, 1024])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_hot_spot_that_stays_is_no_sweep(spot, share):
    """Points on a line through it are no more than there are beside it."""
    rng = np.random.default_rng(spot)
    fronts = Fronts(PAGES, 1)
    found = 0
    for _ in range(300):
        page = rng.integers(0, PAGES, 82)
        hot = rng.random(82) < share
        page[hot] = rng.integers(5000, 5000 + spot, int(hot.sum()))
        fronts.add(page.astype(np.uint32))
        fronts.advance()
        found += fronts.are_about and fronts._quiet == 0
    assert found < 0.05 * 300


@pytest.mark.parametrize("seed", range(5))
def test_scattered_accesses_have_no_front(seed):
    """Uniform samples are no sweep, but for chance."""
    rng = np.random.default_rng(seed)
    fronts = Fronts(PAGES, 1)
    found = 0
    for _ in range(100):
        fronts.add(rng.integers(0, PAGES, 100).astype(np.uint32))
        fronts.advance()
        found += fronts.are_about and fronts._quiet == 0
    assert found < 10


def test_a_front_grows_old_without_samples():
    """Epochs without any are epochs too."""
    fronts, blocks = follow(60)
    assert len(blocks)
    for _ in range(30):
        fronts.add()
        blocks = fronts.advance()
    assert 0 == len(blocks)
    assert not fronts.are_about


def test_a_sweep_too_fast_to_follow_is_not_followed():
    """What passes a quarter of the memory in an epoch is beyond any mover."""
    _, blocks = follow(60, end=PAGES // 2, speed=1.9 * FASTEST * PAGES)
    assert 0 == len(blocks)


def test_no_samples_no_front():
    """Empty epochs are nothing to fail on."""
    fronts = Fronts(PAGES, 1)
    for _ in range(5):
        fronts.add(np.empty(0, np.uint32))
        assert 0 == len(fronts.advance())
    assert not fronts.are_about


def test_a_front_is_forgotten_when_it_is_gone():
    """Nothing is marked any more."""
    fronts, blocks = follow(60)
    assert len(blocks)
    rng = np.random.default_rng(2)
    for _ in range(30):
        fronts.add(rng.integers(0, PAGES, 60).astype(np.uint32))
        blocks = fronts.advance()
    assert 0 == len(blocks)


def test_ranges_are_ascending_apart_and_inside():
    """Whatever the fronts, a kernel may walk the ranges once."""
    fronts = Fronts(PAGES, 1)
    for epoch in range(60):
        both = sweep(epoch, end=PAGES // 4), sweep(epoch, start=PAGES // 2, end=PAGES)
        fronts.add(np.stack(both, axis=1).ravel())
        blocks = fronts.advance()
        assert (np.diff(blocks.ravel()) > 0).all()
        assert ((blocks >= 0) & (blocks <= PAGES // 8)).all()


def test_a_longer_index_is_taken_up():
    """What swept all of the memory sweeps half of twice as much."""
    fronts = Fronts(PAGES // 2, 1)
    for epoch in range(60):
        fronts.add(sweep(epoch))
        assert 0 == len(fronts.advance())
    fronts.renew(PAGES)
    for epoch in range(60, 120):
        fronts.add(sweep(epoch))
        blocks = fronts.advance()
    assert len(blocks)


def test_a_sweep_over_everything_is_futile_one_over_half_is_not():
    """What it carries of the accesses is no heat that could be kept."""
    everything, _ = follow(120, end=PAGES, noise=6)
    half, _ = follow(120, noise=6)
    assert everything.futile_share > 0.8
    assert not everything.are_worth_watching
    assert 0.0 == half.futile_share
    assert half.are_worth_watching
