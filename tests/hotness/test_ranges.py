"""Counts of ranges in the tracker: alone, cut off, and beside other sources."""

from dataclasses import replace

import numpy as np
import pytest

from isotherm.hints.batch import (
    AccessedBits,
    HintBatch,
    Mechanism,
    RangeCounts,
    Samples,
)
from isotherm.hints.capability import Capability
from isotherm.hotness.tracker import GammaTracker

EPOCH_S = 0.5
EPOCH_NS = 500_000_000
NONE = frozenset[Mechanism]()
BITS = frozenset({Mechanism.ACCESSED_BIT})
#: Four groups of neighbours.
RATES = np.repeat([1.0, 4.0, 16.0, 64.0], 256)
DEVICE = Capability(post_cache=True, sees_prefetch=True, thresholded=True)


def listed(
    count,
    *,
    threshold=0.0,
    unit=1,
    watched=None,
    complete=True,
    share=1.0,
    magnitude=True,
    source="device",
    capability=None,
    seconds=EPOCH_S,
):
    """Return the batch of a device that counted so many accesses of each page."""
    pages = len(count)
    ranges = np.array([[0, pages]]) if watched is None else np.asarray(watched)
    inside = np.zeros(pages, np.bool_)
    for low, high in ranges:
        inside[low:high] = True
    start = np.arange(0, pages, unit)
    total = np.add.reduceat(np.where(inside, count, 0), start)
    row = np.flatnonzero(total >= max(1.0, threshold * share))
    seen = RangeCounts(
        start[row].astype(np.uint32),
        np.minimum(start[row] + unit, pages).astype(np.uint32),
        (total[row] / share).astype(np.float32),
        np.full(len(row), seconds, np.float32),
        ranges.astype(np.int64),
        threshold,
        complete,
        share,
        magnitude,
    )
    given = {} if capability is None else {"capability": capability}
    return HintBatch(source, 0, EPOCH_NS, seen, **given)


def run(make, epochs, *, rates=RATES, mechanisms=NONE, seed=1, counted=True):
    """Return tracker and rates after epochs of ``make(counts, rng, epoch)``."""
    rng = np.random.default_rng(seed)
    tracker = GammaTracker(len(rates), EPOCH_NS, mechanisms)
    every = np.arange(len(rates), dtype=np.uint32)
    view = None
    for epoch in range(epochs):
        count = rng.poisson(rates * EPOCH_S)
        batches = tuple(
            replace(b, start_ns=epoch * EPOCH_NS, end_ns=(epoch + 1) * EPOCH_NS)
            for b in make(count, rng, epoch)
        )
        rate = float(rates.mean()) if counted else None
        view = tracker.update(batches, (epoch + 1) * EPOCH_NS, rate)
    return tracker, view, view.rate(every).astype(float)


def groups(rate, of=4):
    """Return the mean of each group."""
    return rate.reshape(of, -1).mean(1)


def test_counts_of_pages_give_their_rates():
    """Every access counted: a few epochs tell all groups to some per cent."""
    tracker, _, rate = run(lambda c, *_: (listed(c),), 20)
    assert [1.0, 4.0, 16.0, 64.0] == pytest.approx(groups(rate), rel=0.12)
    assert tracker.bytes_per_page <= 4.0


def test_without_a_counting_pmu_the_first_list_gives_the_mean():
    """Nobody counts accesses but the device itself."""
    _, view, rate = run(lambda c, *_: (listed(c),), 20, counted=False)
    assert [4.0, 16.0, 64.0] == pytest.approx(groups(rate)[1:], rel=0.12)
    assert float(RATES.mean()) == pytest.approx(view.mean_rate, rel=0.25)


@pytest.mark.parametrize("threshold", [2.0, 6.0, 20.0])
def test_what_a_complete_list_leaves_out_is_cold(threshold):
    """Absence is an upper bound: the cold are found below the threshold's rate."""
    _, _, rate = run(lambda c, *_: (listed(c, threshold=threshold),), 60)
    found = groups(rate)
    assert 64.0 == pytest.approx(found[3], rel=0.1)
    assert found[0] < threshold / EPOCH_S * 0.8
    assert found[1] < max(4.6, threshold / EPOCH_S * 0.8)
    assert (np.diff(found[1:]) > 0).all()


def test_what_an_incomplete_list_leaves_out_is_not():
    """Nothing follows from absence: the rest stays at the mean of all."""
    mean = float(RATES.mean())
    _, _, rate = run(lambda c, *_: (listed(c, threshold=20.0, complete=False),), 40)
    found = groups(rate)
    assert found[3] > 45.0
    assert [mean] * 2 == pytest.approx(found[:2], rel=0.05)


def test_what_is_not_watched_is_not_judged():
    """Pages of another tier, which the device does not hold, keep their estimate."""
    mean = float(RATES.mean())
    _, _, rate = run(lambda c, *_: (listed(c, watched=[[0, 512]]),), 20)
    assert [1.0, 4.0] == pytest.approx(groups(rate)[:2], rel=0.15)
    assert [mean] * 2 == pytest.approx(groups(rate)[2:], rel=0.02)


@pytest.mark.parametrize("unit", [2, 4, 16])
def test_units_of_several_pages_share_their_counts(unit):
    """Where a unit's pages are alike each gets its part, and no more."""
    _, _, rate = run(lambda c, *_: (listed(c, unit=unit),), 30)
    assert [1.0, 4.0, 16.0, 64.0] == pytest.approx(groups(rate), rel=0.15)


def test_a_unit_does_not_tell_its_pages_apart():
    """However often it is counted: a page of a unit stays as unsure as it was."""
    every = np.arange(len(RATES), dtype=np.uint32)
    alone = run(lambda c, *_: (listed(c),), 40)[1]
    shared = run(lambda c, *_: (listed(c, unit=4),), 40)[1]
    assert float((shared.deviation(every) / shared.rate(every))[768:].min()) > 0.7
    assert float((alone.deviation(every) / alone.rate(every))[768:].max()) < 0.1


def test_samples_tell_the_pages_of_a_unit_apart():
    """A hot page beside seven cold ones: the unit's count goes where samples are."""
    rates = np.tile([57.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 64)

    def samples(count, rng):
        kept = rng.binomial(count, 1 / 20.0)
        page = np.repeat(np.arange(len(count)), kept).astype(np.uint32)
        return HintBatch("sampling", 0, EPOCH_NS, Samples(page, None, None, 20.0))

    both = run(lambda c, r, _: (listed(c, unit=8), samples(c, r)), 40, rates=rates)[
        2
    ].reshape(-1, 8)
    few = run(lambda c, r, _: (samples(c, r),), 40, rates=rates)[2].reshape(-1, 8)
    assert 57.0 == pytest.approx(float(both[:, 0].mean()), rel=0.15)
    assert float(both[:, 0].std()) < 0.75 * float(few[:, 0].std())
    assert float(both[:, 1:].mean()) < 1.1 * float(few[:, 1:].mean())


def test_coarse_units_are_evidence_of_neighbourhoods():
    """Units of 256 pages name no page: the regions know, the pages do not."""
    _, view, rate = run(lambda c, *_: (listed(c, unit=256),), 12)
    region = groups(view.region_rate().astype(float))
    assert (np.diff(region) > 0).all()
    assert region[3] > 8.0 * region[0]
    assert [float(RATES.mean())] * 4 == pytest.approx(groups(rate), rel=0.1)


def test_counts_of_pages_show_in_their_neighbourhoods():
    """Regions follow counts without any accessed bit."""
    _, view, _ = run(lambda c, *_: (listed(c),), 12)
    region = groups(view.region_rate().astype(float))
    assert [4.0, 16.0, 64.0] == pytest.approx(region[1:], rel=0.5)


def test_down_sampling_is_less_exposure():
    """One access in eight counted: the same rates, with more doubt."""
    every = np.arange(len(RATES), dtype=np.uint32)

    def make(count, rng, _):
        return (listed(rng.binomial(count, 0.125), share=0.125),)

    _, view, rate = run(make, 40)
    assert [4.0, 16.0, 64.0] == pytest.approx(groups(rate)[1:], rel=0.15)
    full = run(lambda c, *_: (listed(c),), 40)[1]
    ratio = view.deviation(every) / full.deviation(every)
    assert 2.0 < float(ratio[512:].mean()) < 3.6


def test_crossings_alone_say_how_often_the_threshold_was_crossed():
    """Always-on mode: a row a crossing, and its count is the threshold."""
    held = np.zeros(len(RATES), np.int64)

    def make(count, _rng, _epoch):
        nonlocal held
        held += count
        times = held // 4
        held -= 4 * times
        page = np.repeat(np.arange(len(count)), times).astype(np.uint32)
        seen = RangeCounts(
            page,
            page + np.uint32(1),
            np.full(len(page), 4.0, np.float32),
            np.full(len(page), EPOCH_S, np.float32),
            np.array([[0, len(count)]]),
            4.0,
            magnitude=False,
        )
        return (HintBatch("device", 0, EPOCH_NS, seen),)

    _, _, rate = run(make, 40)
    assert [16.0, 64.0] == pytest.approx(groups(rate)[2:], rel=0.1)
    assert (groups(rate)[:2] < 6.0).all()


def bits_of(count, rng, interval_s, part=1.0):
    """Return the accessed bits of the last part of an epoch's accesses."""
    hit = rng.binomial(count, part) > 0
    block = np.arange(len(count) // 8, dtype=np.uint32)
    seen = AccessedBits(
        block,
        np.packbits(hit, bitorder="little"),
        np.full(len(block), interval_s, np.float32),
    )
    return HintBatch("accessed-bit", 0, EPOCH_NS, seen)


def test_bits_of_counted_accesses_are_not_evidence_again():
    """With every access counted, bits of the same change no page's estimate."""
    every = np.arange(len(RATES), dtype=np.uint32)
    alone = run(lambda c, *_: (listed(c),), 12, mechanisms=BITS)
    both = run(
        lambda c, r, _: (listed(c), bits_of(c, r, 0.1, 0.2)), 12, mechanisms=BITS
    )
    doubled = run(
        lambda c, r, _: (listed(c, source="a"), listed(c, source="b")),
        12,
        mechanisms=BITS,
    )
    deviation = [float(v.deviation(every).mean()) for _, v, _ in (alone, both, doubled)]
    assert [deviation[0]] * 2 == pytest.approx(deviation[1:], rel=0.05)


def test_bits_count_where_nobody_has_counted():
    """Half of the memory is on the device: the other half lives by its bits."""
    both = run(
        lambda c, r, _: (listed(c, watched=[[512, 1024]]), bits_of(c, r, 0.1, 0.2)),
        60,
        mechanisms=BITS,
    )[2]
    assert [1.0, 4.0] == pytest.approx(groups(both)[:2], rel=0.3)
    assert [16.0, 64.0] == pytest.approx(groups(both)[2:], rel=0.1)


def test_two_weak_sources_are_closer_than_either():
    """A hot list of one tier and few samples: squared error of the log rate."""

    def few(count, rng):
        kept = rng.binomial(count, 1 / 50.0)
        page = np.repeat(np.arange(len(count)), kept).astype(np.uint32)
        return HintBatch("sampling", 0, EPOCH_NS, Samples(page, None, None, 50.0))

    def device(count):
        return listed(count, threshold=6.0, watched=[[128, 384], [640, 1024]])

    error = {}
    for name, make in (
        ("samples", lambda c, r, _: (few(c, r),)),
        ("device", lambda c, *_: (device(c),)),
        ("both", lambda c, r, _: (device(c), few(c, r))),
    ):
        rate = run(make, 60)[2]
        error[name] = float((np.log(rate / RATES) ** 2).mean())
    assert error["both"] < 0.7 * min(error["samples"], error["device"])


def test_pages_beyond_the_index_are_refused():
    """A range that ends beyond the last page is a fault of its source."""
    tracker = GammaTracker(64, EPOCH_NS, NONE)
    seen = listed(np.ones(72, np.int64))
    with pytest.raises(ValueError, match="device: page 71, expected below 64"):
        tracker.update((seen,), EPOCH_NS, 4.0)


def test_an_empty_list_of_watched_memory_says_that_it_is_idle():
    """No row at all, complete: everything was below the threshold."""
    _, _, rate = run(lambda c, *_: (listed(np.zeros_like(c)),), 20)
    assert float(rate.max()) < 2.0
