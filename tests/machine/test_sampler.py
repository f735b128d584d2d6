"""The simulated PMU: as many samples as the period says, of every page alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.machine.sim.sampler import RING_SAMPLES, Sampler
from isotherm.trace.stream import AccessChunk


def chunk_of(n: int, pages: int = 1000) -> AccessChunk:
    """Return accesses that go through the pages in order, round after round."""
    return AccessChunk((np.arange(n) % pages).astype(np.uint32))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 300), st.integers(0, 99), st.lists(st.integers(0, 9000), max_size=9)
)
def test_accesses_over_period(period: int, seed: int, sizes: list[int]) -> None:
    """However the stream is cut, samples come with gaps of half to 1.5 periods."""
    sampler = Sampler(period, seed)
    at = 0
    for n in sizes:
        sampler.observe(AccessChunk(np.arange(at, at + n).astype(np.uint32)))
        at += n
    page = sampler.drain().page.astype(np.int64)
    gaps = np.diff(page)
    assert (gaps >= max(1, period // 2)).all()
    assert (gaps <= period + period - period // 2).all()
    if at > 2 * period:
        assert len(page) > 0
        assert page[0] < period
        assert at - page[-1] <= 2 * period


@pytest.mark.parametrize("period", [1, 2, 3, 7, 200])
def test_the_mean_gap_is_the_period(period: int) -> None:
    """Samples times period is the number of accesses, within four deviations."""
    sampler = Sampler(period, 1)
    n = 10_000
    sampler.observe(chunk_of(n * period))
    got = sampler.drain()
    # Gaps are uniform over [period/2, 3 period/2]: their deviation is below
    # 0.3 period, that of the count 0.3 sqrt(n).
    slack = 0 if period == 1 else 4 * 0.41 * n**0.5
    assert abs(len(got.page) - n) <= slack + 1
    assert float(period) == got.period
    assert 0 == got.lost


def test_no_page_is_favoured() -> None:
    """A loop whose length divides the period is sampled evenly all the same."""
    pages = 20
    sampler = Sampler(200, 3)
    sampler.observe(chunk_of(4_000_000, pages))
    counts = np.bincount(sampler.drain().page, minlength=pages)
    expected = counts.sum() / pages
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 < 43.8  # 0.999 quantile with 19 degrees of freedom


def test_what_the_hardware_drops_is_counted() -> None:
    """Lost samples are told, and the period grows to what a kept one stands for."""
    sampler = Sampler(10, 1, loss=0.5)
    sampler.observe(chunk_of(200_000))
    got = sampler.drain()
    assert 19_900 < len(got.page) + got.lost < 20_100
    assert 9_500 < got.lost < 10_500
    assert 200_000 == pytest.approx(got.period * len(got.page), rel=0.01)


def test_what_the_ring_cannot_hold_is_counted() -> None:
    """Beyond 65536 samples between two drains the rest is lost, and said so."""
    sampler = Sampler(1, 1)
    sampler.observe(chunk_of(RING_SAMPLES - 23))
    sampler.observe(chunk_of(4099))
    got = sampler.drain()
    assert RING_SAMPLES == len(got.page)
    assert 4099 - 23 == got.lost
    assert (RING_SAMPLES + 4076) / RING_SAMPLES == got.period
    sampler.observe(chunk_of(23))
    assert (23, 0) == (len(sampler.drain().page), sampler.drain().lost)


def test_write_and_initiator_come_along() -> None:
    """Each sample says what its access was."""
    n = 997
    page = np.arange(n, dtype=np.uint32)
    chunk = AccessChunk(page, (page % 2).astype(np.uint8), (page % 3).astype(np.uint8))
    sampler = Sampler(7, 1)
    sampler.observe(chunk)
    got = sampler.drain()
    assert (got.page % 2).tolist() == got.write.tolist()
    assert (got.page % 3).tolist() == got.initiator.tolist()
