"""Whether bits show where accesses go: bursts are noticed, hot pages excused."""

import numpy as np

from isotherm.hints.batch import AccessedBits
from isotherm.hotness import evidence
from isotherm.hotness.bursts import BurstGuard

PAGES = 4096
INTERVAL_S = 0.2


def watch(shown, *, real, looks=40, hot=0.0, seed=1):
    """Return the trust in bits after some looks.

    Args:
        shown: Rate that the bits of an ordinary page show, per second.
        real: Accesses per page per second, as counted; None: not counted.
        looks: How many.
        hot: Share of the pages whose bit is always set.
        seed: For the bits.
    """
    rng = np.random.default_rng(seed)
    guard = BurstGuard()
    code = np.full(PAGES, 300 << 6, np.uint16)
    history = np.zeros(PAGES, np.uint8)
    always = rng.random(PAGES) < hot
    code[always] = 600 << 6
    for _ in range(looks):
        bit = (rng.random(PAGES) < -np.expm1(-shown * INTERVAL_S)) | always
        bits = np.packbits(bit.reshape(-1, 8), axis=1, bitorder="little").ravel()
        blocks = np.arange(PAGES // 8, dtype=np.uint32)
        interval = np.full(len(blocks), INTERVAL_S, np.float32)
        guard.follow(AccessedBits(blocks, bits, interval), code, history, real)
        history = ((history << 1) & evidence.HISTORY_MASK).astype(np.uint8) | bit
    return guard.trust


def test_bits_that_show_the_accesses_are_trusted():
    """One access a bit, more or less."""
    assert 1.0 == watch(5.0, real=5.0)


def test_bursts_are_noticed():
    """A page touched 64 times at once sets one bit."""
    assert 0.0 == watch(5.0 / 64, real=5.0)


def test_hot_pages_may_hold_what_is_unexplained():
    """A bit that is always set hides any number of accesses."""
    assert 1.0 == watch(0.1, real=10.0, hot=0.02)


def test_between_is_between():
    """Trust falls by and by, not at a point."""
    assert 0.1 < watch(5.0 * 0.22, real=5.0) < 0.9


def test_without_a_count_nothing_is_said():
    """No counting PMU: bits are all there is."""
    assert 1.0 == watch(0.01, real=None)


def test_it_begins_with_trust():
    """Before every page was looked at once there is no reason to doubt."""
    assert 1.0 == watch(0.01, real=5.0, looks=0)
