"""What accesses stall, by region: from samples that tell it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import BACKEND, TWINS
from isotherm.hints.batch import HintBatch, Mechanism, Samples
from isotherm.hotness import stall
from isotherm.hotness.latency import sample_weights
from isotherm.hotness.stall import (
    MOST_SHIFT,
    StallView,
    StallWeights,
    ratio_of,
    shift_of,
)
from isotherm.hotness.tracker import GammaTracker
from isotherm.machine.protocol import SpacesChanged

numba_only = pytest.mark.skipif(
    BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: there is only the twin"
)
EPOCH_NS = 500_000_000


def samples(
    page: list[int] | np.ndarray,
    latency: list[float] | np.ndarray | None = None,
    waited: list[float] | np.ndarray | None = None,
    period: float = 10.0,
) -> Samples:
    """Return samples that tell latency and stall, or not."""
    return Samples(
        np.asarray(page, np.uint32),
        None,
        None,
        period,
        None if latency is None else np.asarray(latency, np.float32),
        None if waited is None else np.asarray(waited, np.float32),
    )


# ---- twins


@numba_only
def test_every_kernel_here_is_compared() -> None:
    """A new kernel without a comparison is a failure."""
    mine = {n.rsplit(".", 1)[1] for n in TWINS if n.startswith(stall.__name__ + ".")}
    assert {"add_weights", "region_shifts"} == mine


@numba_only
@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(0, 99), st.floats(1, 1e6))
def test_kernels_equal_their_twins(blocks: int, seed: int, grown: float) -> None:
    """Sums and shifts agree bit by bit."""
    rng = np.random.default_rng(seed)
    page = rng.integers(0, 8 * blocks, 500).astype(np.uint32)
    weight = rng.choice([0.0, 1 / 7, 1.0, 0.3], 500)
    found = []
    names = [f"{stall.__name__}.{n}" for n in ("add_weights", "region_shifts")]
    for which in (0, 1):
        add, work_out = (TWINS[name][which] for name in names)
        sums = np.zeros((-(-blocks // 8), 2), np.float32)
        shift = np.zeros(blocks, np.int8)
        add(page, weight, grown, sums)
        add(page[:100], weight[:100], grown * 1.01, sums)
        work_out(sums, 1 / grown, 0.2, 0, -(-blocks // 64), shift)
        found.append((sums.tolist(), shift.tolist()))
    assert found[1] == found[0]


# ---- shifts


@given(st.floats(2.0**-11, 2.0**11))
def test_a_shift_keeps_a_ratio_to_a_sixteenth(ratio: float) -> None:
    """Three bits of mantissa, rounded; and shifts come back exactly."""
    shift = shift_of(np.array([ratio]))
    back = ratio_of(shift)
    assert ratio == pytest.approx(back[0], rel=1 / 16)
    assert shift.tolist() == shift_of(back).tolist()


def test_shifts_are_bounded() -> None:
    """Twelve octaves either way."""
    found = shift_of(np.array([1e-9, 1e9]))
    assert [-MOST_SHIFT, MOST_SHIFT] == found.tolist()


# ---- weights of samples


def test_stall_over_latency_is_a_weight() -> None:
    """A hit waits for nothing, a miss of seven in flight for a seventh."""
    seen = samples([0, 1, 2, 3], [250, 250, 4, 0], [250, 250 / 7, 0, 9])
    weight = sample_weights(seen)
    assert weight is not None
    assert [1.0, 1 / 7, 0.0] == pytest.approx(weight[:3].tolist())
    assert np.isnan(weight[3])  # a latency of 0 is unknown


def test_a_stall_that_is_unknown_is_no_weight() -> None:
    """NaN is not zero."""
    weight = sample_weights(samples([0, 1], [250, 250], [np.nan, 100]))
    assert weight is not None
    assert [True, False] == np.isnan(weight).tolist()


def test_latency_alone_tells_misses_from_hits() -> None:
    """What took longer than a cache does counts, the rest does not, 0 is unknown."""
    weight = sample_weights(samples([0, 1, 2], [4, 90, 0]))
    assert weight is not None
    assert [0.0, 1.0] == weight[:2].tolist()
    assert np.isnan(weight[2])


def test_a_source_that_does_not_tell_leaves_everything_alone() -> None:
    """No latency, no weights, no memory."""
    weights = StallWeights(100)
    weights.add(samples([1, 2]))
    weights.refresh(0, 100)
    assert weights.view is None
    assert 0 == weights.nbytes


# ---- regions


def test_regions_find_their_weight() -> None:
    """Half of memory stalls a seventh of the other: so say their regions."""
    weights = StallWeights(256)  # 2048 pages
    rng = np.random.default_rng(1)
    page = rng.integers(0, 2048, 8000)
    waited = np.where(page < 1024, 100 / 7, 100)
    weights.add(samples(page, np.full(8000, 100), waited))
    weights.refresh(0, 256)
    view = weights.view
    assert view is not None
    assert (1 + 1 / 7) / 2 == pytest.approx(view.mean, rel=0.02)
    low, high = view.relative(np.array([100, 2000]))
    assert high / low == pytest.approx(7, rel=0.15)


def test_few_samples_say_little_and_neighbours_help() -> None:
    """One sample hardly moves a region; where its huge page agrees, it is believed."""
    told = np.concatenate([np.arange(0, 512, 4), [1000], np.arange(2048, 3072)])
    waited = np.where(told < 512, 10.0, np.where(told == 1000, 10.0, 100.0))
    weights = StallWeights(512)
    weights.add(samples(told, np.full(len(told), 100), waited))
    weights.refresh(0, 512)
    view = weights.view
    assert view is not None
    sure, unsure, heavy = view.relative(np.array([30, 1000, 2500])).tolist()
    assert sure < 0.25
    assert 0.7 < unsure < 1.0
    assert heavy > 1.0


def test_old_evidence_fades() -> None:
    """What a region does now outweighs what it did long ago."""
    weights = StallWeights(64)
    page = np.arange(512)
    for waited in (100.0, 10.0):
        for _ in range(3):
            for _ in range(60):
                weights.fade(0.9)
            stalled = np.where(page < 64, waited, 50.0)
            weights.add(samples(page, np.full(512, 100), stalled))
    weights.refresh(0, 64)
    view = weights.view
    assert view is not None
    assert view.relative(np.array([0]))[0] < 0.4


def test_evidence_keeps_the_rate_and_spreads_like_a_count() -> None:
    """Counts over exposure is in accesses of mean weight; variance is the mean."""
    rng = np.random.default_rng(2)
    weight = rng.choice([0.0, 1 / 7, 1.0], 50_000, p=[0.6, 0.2, 0.2])
    mean, square = float(weight.mean()), float((weight**2).mean())
    view = StallView(np.zeros(1, np.int8), mean, square / mean)
    count, exposure = view.evidence(weight, 50_000 / 10.0)
    assert 10.0 == pytest.approx(count.sum() / exposure)
    sums = rng.permutation(count)[:49_000].reshape(-1, 49).sum(1)
    # A fixed number of samples spreads a little less than a Poisson number does.
    assert float(sums.var() / sums.mean()) == pytest.approx(1.0, abs=0.3)


# ---- the tracker


def tracker_of(pages: int, **rest: bool) -> GammaTracker:
    """Return a tracker of samples."""
    return GammaTracker(pages, EPOCH_NS, frozenset({Mechanism.SAMPLING}), **rest)


def run(tracker: GammaTracker, *seen: Samples):
    """Return the view after an epoch for each."""
    view = None
    for at, one in enumerate(seen, 1):
        batch = HintBatch("sampling", 0, at * EPOCH_NS, one)
        view = tracker.update((batch,), at * EPOCH_NS, 10.0)
    return view


def half_and_half(pages: int) -> Samples:
    """Return samples of all pages alike, of which half stall a tenth."""
    page = np.tile(np.arange(pages), 4)
    return samples(
        page, np.full(len(page), 100), np.where(page < pages // 2, 10.0, 100.0)
    )


def test_the_view_tells_rates_by_stall() -> None:
    """Equal rates, unequal stall."""
    view = run(tracker_of(2048), *[half_and_half(2048)] * 4)
    page = np.array([200, 1800], np.uint32)
    assert view.rate(page)[0] == pytest.approx(view.rate(page)[1], rel=0.2)
    stalled = view.stall_rate(page)
    assert stalled[1] / stalled[0] == pytest.approx(10, rel=0.3)


def test_without_it_rates_are_rates() -> None:
    """A tracker that is told not to weigh keeps nothing, nor one that is not told."""
    page = np.arange(2048, dtype=np.uint32)
    for view in (
        run(tracker_of(2048, weigh_stall=False), half_and_half(2048)),
        run(tracker_of(2048), samples(page)),
    ):
        assert view.stall is None
        assert view.rate(page).tolist() == view.stall_rate(page).tolist()


def test_weights_take_memory_once_they_are_told() -> None:
    """An eighth of a byte a page for sums, and as much for shifts."""
    tracker = tracker_of(4096)
    run(tracker, samples(np.arange(4096)))
    before = tracker.bytes_per_page
    run(tracker, half_and_half(4096))
    assert 0.25 == pytest.approx(tracker.bytes_per_page - before)


def test_a_new_owner_begins_anew() -> None:
    """Renewed pages forget their weight; more pages have room."""
    tracker = tracker_of(2048)
    run(tracker, *[half_and_half(2048)] * 4)
    tracker.renew(SpacesChanged(4096, np.array([[0, 1024]])))
    assert tracker.stall is not None
    view = tracker.stall.view
    assert view is not None
    assert 1.0 == view.relative(np.array([500]))[0]
    assert 1.0 < view.relative(np.array([1500]))[0]
    assert 512 == len(view.shift)
