"""The tracker: estimates that converge to the truth, whatever the sources."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isotherm.hints.batch import AccessedBits, FaultDelays, HintBatch, Mechanism
from isotherm.hotness import evidence, regions
from isotherm.hotness import tracker as tracker_module
from isotherm.hotness.tracker import TURN_BLOCKS, GammaTracker, stretch

EPOCH_NS = 500_000_000
EPOCH_S = 0.5
ALL = frozenset(Mechanism)
SAMPLES = frozenset({Mechanism.SAMPLING})
BITS = frozenset({Mechanism.ACCESSED_BIT})
BOTH = SAMPLES | BITS
PERIOD = 25.0
WINDOW_S = 0.1
#: Four groups of neighbours, apart by a factor of three each.
RATES = np.repeat([1.0, 3.0, 9.0, 27.0], 512)


def run(tracker, mem, epochs, make, rate="counted"):
    """Feed epochs of batches made by ``make(memory, epoch)``; return the last view."""
    view = None
    for epoch in range(epochs):
        known = mem.mean if rate == "counted" else rate
        now_ns = (epoch + 1) * EPOCH_NS
        view = tracker.update(make(mem, epoch), now_ns, known)
    return view


def from_samples(mem, _):
    """Return what sampling sees."""
    return (mem.samples(PERIOD),)


def from_bits(mem, _):
    """Return what a windowed walk of everything sees."""
    return (mem.bits(WINDOW_S),)


def from_both(mem, epoch):
    """Return both."""
    return from_samples(mem, epoch) + from_bits(mem, epoch)


def from_faults(mem, _):
    """Return hint faults, everything poisoned once an epoch."""
    return (mem.faults(EPOCH_S),)


def page_rates(view):
    """Return the rate of every page."""
    return view.rate(np.arange(view.pages, dtype=np.uint32)).astype(float)


def group_rates(view):
    """Return the mean estimate of each group."""
    return page_rates(view).reshape(4, -1).mean(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mechanisms", "make"),
    [
        pytest.param(SAMPLES, from_samples, id="samples"),
        pytest.param(BITS, from_bits, id="bits"),
        pytest.param(BOTH, from_both, id="both"),
        pytest.param(frozenset({Mechanism.HINT_FAULT}), from_faults, id="faults"),
    ],
)
def test_estimates_converge_to_the_true_rates(memory, mechanisms, make):
    """After two half-lives the mean of a group is its rate to 20 %."""
    tracker = GammaTracker(len(RATES), EPOCH_NS, mechanisms)
    view = run(tracker, memory(RATES), 240, make)
    assert [1.0, 3.0, 9.0, 27.0] == pytest.approx(group_rates(view), rel=0.2)


@pytest.mark.slow
def test_both_sources_are_closer_than_either(memory):
    """Error of page rates, relative and squared: fused evidence is better."""
    error = {}
    for name, mechanisms, make in (
        ("samples", SAMPLES, from_samples),
        ("bits", BITS, from_bits),
        ("both", BOTH, from_both),
    ):
        tracker = GammaTracker(len(RATES), EPOCH_NS, mechanisms)
        view = run(tracker, memory(RATES), 120, make)
        error[name] = float(((page_rates(view) / RATES - 1.0) ** 2).mean())
    assert error["both"] < 0.95 * min(error["samples"], error["bits"])


def test_the_deviation_covers_the_error(memory):
    """About two thirds of pages lie within one posterior deviation."""
    tracker = GammaTracker(2048, EPOCH_NS, SAMPLES)
    view = run(tracker, memory(np.full(2048, 10.0)), 60, from_samples)
    every = np.arange(2048, dtype=np.uint32)
    z = np.abs(page_rates(view) - 10.0) / view.deviation(every)
    assert 0.5 < float((z < 1.0).mean()) < 0.9


@pytest.mark.parametrize("looks", [4])
def test_a_hot_region_shows_within_a_few_looks(memory, looks):
    """Bits of 64 hot pages tell their neighbourhood from the rest."""
    rate = np.full(2048, 2.0)
    rate[640:704] = 40.0
    tracker = GammaTracker(len(rate), EPOCH_NS, BITS)
    view = run(tracker, memory(rate), looks, from_bits)
    region = view.region_rate()
    hot = region[640 // 8 : 704 // 8]
    rest = np.delete(region, np.arange(640 // 8 - 8, 704 // 8 + 8))
    assert float(hot.min()) > 3.0 * float(np.median(rest))


def test_a_region_that_cools_is_forgotten_soon(memory):
    """Regions follow: a few looks after the heat has gone they say so."""
    rate = np.full(1024, 2.0)
    rate[512:640] = 40.0
    tracker = GammaTracker(len(rate), EPOCH_NS, BITS)
    before = run(tracker, memory(rate), 20, from_bits).region_rate().copy()
    after = run(tracker, memory(np.full(1024, 2.0)), 8, from_bits).region_rate()
    assert float(before[66:78].mean()) > 15.0
    assert float(after[66:78].mean()) < 5.0


def test_striped_looks_decay_each_block_by_its_own_age(memory):
    """Blocks are looked at in turn; what is known is the same everywhere."""
    tracker = GammaTracker(1024, EPOCH_NS, BITS)
    mem = memory(np.full(1024, 4.0))
    view = run(tracker, mem, 80, lambda m, e: (m.bits(0.2, 4, e % 4),))
    rate = page_rates(view).reshape(-1, 8).mean(1)
    each = [float(rate[i::4].mean()) for i in range(4)]
    assert [4.0] * 4 == pytest.approx(each, rel=0.15)


def test_without_evidence_all_pages_have_the_mean_rate():
    """The prior's mean is what the PMU counted."""
    tracker = GammaTracker(64, EPOCH_NS, BOTH)
    view = tracker.update((), EPOCH_NS, 7.0)
    assert np.full(64, 7.0) == pytest.approx(page_rates(view), rel=0.02)
    assert 7.0 == view.mean_rate


def test_all_is_forgotten_in_time(memory):
    """Sampling so rare that silence says nothing: heat decays to the mean."""
    rate = np.full(256, 2.0)
    rate[:64] = 60.0
    mem = memory(rate)
    tracker = GammaTracker(256, EPOCH_NS, SAMPLES, half_life_s=2.0)
    hot = page_rates(run(tracker, mem, 40, from_samples))[:64].mean()
    view = run(tracker, mem, 360, lambda m, _: (m.samples(1e12),))
    assert hot > 2.0 * mem.mean
    assert np.full(256, mem.mean) == pytest.approx(page_rates(view), rel=0.15)


def test_silence_under_sampling_is_evidence(memory):
    """A page that sampling never meets becomes colder than the mean."""
    rate = np.full(256, 20.0)
    rate[100] = 0.01
    view = run(GammaTracker(256, EPOCH_NS, SAMPLES), memory(rate), 60, from_samples)
    assert page_rates(view)[100] < 0.2 * view.mean_rate


@pytest.mark.parametrize(
    ("mechanisms", "make"),
    [
        pytest.param(SAMPLES, from_samples, id="samples"),
        pytest.param(BITS, from_bits, id="bits"),
        pytest.param(BOTH, from_both, id="both"),
    ],
)
def test_without_a_counter_the_mean_comes_from_the_evidence(memory, mechanisms, make):
    """No PMU rate: the mean rate is estimated to 30 %, and so are the groups' order."""
    mem = memory(RATES)
    tracker = GammaTracker(len(RATES), EPOCH_NS, mechanisms)
    view = run(tracker, mem, 60, make, rate=None)
    assert mem.mean == pytest.approx(view.mean_rate, rel=0.3)
    groups = group_rates(view).tolist()
    assert sorted(groups) == groups


def test_regions_checked_by_another_show_as_regions(memory):
    """Region counts give region rates: the hot one stands out."""
    rate = np.full(1024, 1.0)
    rate[256:320] = 40.0
    tracker = GammaTracker(1024, EPOCH_NS, frozenset({Mechanism.REGION}))
    mem = memory(rate)
    view = run(tracker, mem, 6, lambda m, _: (m.regions(64, 20, 0.005),))
    region = view.region_rate()
    assert float(region[33:39].mean()) > 4.0 * float(np.median(region))


def test_state_is_about_four_bytes_a_page():
    """All columns counted, with edges: at most 4.2 bytes a page."""
    tracker = GammaTracker(1 << 15, EPOCH_NS, BOTH)
    tracker.update((), EPOCH_NS, 10.0)
    columns = [v for v in vars(tracker).values() if isinstance(v, np.ndarray)]
    total = sum(c.nbytes for c in columns if len(c) >= tracker.blocks)
    assert total / tracker.pages <= 4.2
    assert total / tracker.pages == tracker.bytes_per_page


def test_same_evidence_same_state(memory):
    """Two trackers that see the same are the same to the bit; the seed matters."""
    states = []
    for seed in (1, 1, 2):
        tracker = GammaTracker(512, EPOCH_NS, BOTH, seed)
        run(tracker, memory(np.linspace(1, 30, 512)), 12, from_both)
        states.append((tracker.code.tolist(), tracker.region.tolist()))
    assert states[0] == states[1]
    assert states[0] != states[2]


def test_initiators_are_kept(memory):
    """Samples that name their initiator show in the view."""
    tracker = GammaTracker(512, EPOCH_NS, SAMPLES)
    mem = memory(np.full(512, 20.0))
    view = run(tracker, mem, 8, lambda m, _: (m.samples(2.0, 0), m.samples(2.0, 1)))
    share = view.initiator_share(0, 512)
    assert {0, 1} == set(share)
    assert 0.5 == pytest.approx(share[0], abs=0.1)


@settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # only a maker
)
@given(data=st.data())
def test_any_evidence_keeps_the_state_valid(memory, data):
    """Codes stay in range, rates finite and positive, whatever comes."""
    pages = data.draw(st.integers(1, 100))
    mem = memory(np.full(pages, data.draw(st.sampled_from([1e-6, 1.0, 1e4]))))
    mechanisms = data.draw(st.sampled_from([ALL, BITS, SAMPLES]))
    tracker = GammaTracker(pages, EPOCH_NS, mechanisms)
    kinds = {
        "none": lambda: (),
        "samples": lambda: (mem.samples(data.draw(st.sampled_from([1.0, 2000.0]))),),
        "bits": lambda: (mem.bits(data.draw(st.sampled_from([1e-4, 0.5, 100.0]))),),
        "opening": lambda: (mem.bits(3.0, opening=True), mem.bits(0.01)),
        "stripe": lambda: (mem.bits(0.5, 3, data.draw(st.integers(0, 2))),),
        "faults": lambda: (mem.faults(0.5),),
        "regions": lambda: (mem.regions(16, 20, 0.005),),
    }
    names = data.draw(st.lists(st.sampled_from(sorted(kinds)), max_size=8))
    rate = data.draw(st.sampled_from([None, 0.0, 1e-6, 10.0, 1e5]))
    for epoch, name in enumerate(names):
        view = tracker.update(kinds[name](), (epoch + 1) * EPOCH_NS, rate)
        found = page_rates(view)
        assert np.isfinite(found).all()
        assert (found > 0).all()
        assert np.isfinite(view.region_rate()).all()
        assert 0 < view.mean_rate < np.inf
        mean, b = evidence.unpack_array(tracker.code)
        repacked = evidence.pack_array(mean, b, np.zeros(pages, np.uint64))
        assert tracker.code.tolist() == repacked.tolist()
        assert (tracker.looked >> 12 <= 8).all()
        assert np.isfinite(regions.whole_array(tracker.samples)).all()


def test_the_reference_is_fixed_by_the_first_rate(memory):
    """Codes are relative to it, so it must not change."""
    tracker = GammaTracker(64, EPOCH_NS, BOTH)
    for epoch, rate in enumerate((5.0, 50.0, 0.5)):
        view = tracker.update((), (epoch + 1) * EPOCH_NS, rate)
        assert 5.0 == view.reference


def test_the_prior_is_half_an_access():
    """A page of unknown rate weighs as half an access at the mean rate."""
    tracker = GammaTracker(64, EPOCH_NS, BOTH)
    view = tracker.update((), EPOCH_NS, 10.0)
    page = np.arange(64, dtype=np.uint32)
    shape = (view.rate(page) / view.deviation(page)) ** 2
    assert np.full(64, tracker_module.PRIOR_SHAPE) == pytest.approx(shape, rel=0.2)


@pytest.mark.parametrize("checked", [False, True])
def test_region_counts_leave_the_exposure_of_samples_alone(memory, checked):
    """Sampled pages keep their rates when another source reports regions too."""
    rate = np.full(512, 10.0)
    mem = memory(rate)
    tracker = GammaTracker(512, EPOCH_NS, SAMPLES | {Mechanism.REGION})
    view = None
    for epoch in range(120):
        batches = (mem.samples(PERIOD),)
        if checked:
            batches += (mem.regions(64, 20, 0.005),)
        view = tracker.update(batches, (epoch + 1) * EPOCH_NS, 10.0)
    assert 10.0 == pytest.approx(float(page_rates(view).mean()), rel=0.2)


# ---- memory too large for one epoch


@given(blocks=st.integers(1, 5 * TURN_BLOCKS), epoch=st.integers(0, 1 << 20))
def test_stretches_cover_all_blocks_in_turns(blocks, epoch):
    """One after the other they are all blocks, each once; none is too long."""
    turns = max(1, -(-blocks // TURN_BLOCKS))
    begin = epoch // turns * turns
    found = [stretch(blocks, begin + turn) for turn in range(turns)]
    assert 0 == found[0][0]
    assert blocks == found[-1][1]
    assert [last for _, last in found[:-1]] == [first for first, _ in found[1:]]
    longest = max(last - first for first, last in found)
    assert longest <= min(TURN_BLOCKS, blocks // turns + 1)


def test_small_memory_is_worked_out_whole(memory):
    """While blocks are looked at often and are few, every epoch does all."""
    tracker = GammaTracker(515, EPOCH_NS, BITS)
    assert (0, 65) == tracker.fresh_blocks
    view = run(tracker, memory(np.full(515, 4.0)), 3, from_bits)
    assert (0, 65) == tracker.fresh_blocks == view.fresh_blocks


def test_only_fresh_blocks_have_new_regions(memory, monkeypatch):
    """In four turns a quarter of the regions changes an epoch."""
    monkeypatch.setattr(tracker_module, "TURN_BLOCKS", 32)
    tracker = GammaTracker(1024, EPOCH_NS, BITS)
    mem = memory(np.linspace(0.1, 20.0, 1024))
    tracker.update((), EPOCH_NS, 10.0)
    fresh = np.zeros(128, np.int64)
    for epoch in range(1, 65):
        before = tracker.region.copy()
        tracker.update((mem.bits(1.0, 32, epoch % 32),), (epoch + 1) * EPOCH_NS, 10.0)
        first, last = tracker.fresh_blocks
        assert before[:first].tolist() == tracker.region[:first].tolist()
        assert before[last:].tolist() == tracker.region[last:].tolist()
        fresh[first:last] += 1
    assert [16] * 128 == fresh.tolist()


# ---- what was not seen


def faults_of(delay_s, exposure_s, silent_s):
    """Return one page's report: a silence, then a fault."""
    one, none = np.zeros(1, np.uint32), np.zeros(0)
    silent = one if silent_s else one[:0]
    seen = FaultDelays(
        one if delay_s else one[:0],
        np.array([delay_s] if delay_s else none, np.float32),
        np.zeros(1 if delay_s else 0, np.uint8),
        np.zeros(1 if delay_s else 0, np.uint8),
        silent,
        np.array([silent_s] if silent_s else none, np.float32),
        None if exposure_s is None else np.array([exposure_s], np.float32),
    )
    return HintBatch("hint-fault", 0, EPOCH_NS, seen)


def test_a_fault_does_not_repeat_what_silences_told(memory):
    """Silent for 2 s, then a fault 0.5 s later: 2.5 s, however it was reported."""
    rates = []
    for reports in (
        [faults_of(None, None, 2.0), faults_of(2.5, 0.5, None)],
        [faults_of(0.5, None, 2.0)],
        [faults_of(2.5, 2.5, None)],
    ):
        tracker = GammaTracker(
            8, EPOCH_NS, BITS | {Mechanism.HINT_FAULT}, half_life_s=1e9
        )
        for epoch, report in enumerate(reports):
            view = tracker.update((report,), (epoch + 1) * EPOCH_NS, 1.0)
        rates.append(float(view.rate(np.zeros(1, np.uint32))[0]))
    assert [rates[2]] * 3 == pytest.approx(rates, rel=0.05)


def test_pages_that_were_not_looked_at_are_not_cold():
    """Of a block that is half on another node the bits speak of the other half."""
    bits = AccessedBits(
        np.array([0, 1, 2], np.uint32),
        np.array([0, 0, 0], np.uint8),
        np.full(3, 4.0, np.float32),
        np.array([0xFF, 0x0F, 0x07], np.uint8),
    )
    tracker = GammaTracker(19, EPOCH_NS, BITS)
    before = tracker.update((), EPOCH_NS, 2.0).rate(np.arange(19, dtype=np.uint32))
    view = tracker.update((HintBatch("test", 0, EPOCH_NS, bits),), 2 * EPOCH_NS, 2.0)
    after = page_rates(view)
    assert (after[:8] < 0.5 * before[:8]).all()
    assert (after[8:12] < 0.5 * before[8:12]).all()
    assert before[12:16].tolist() == after[12:16].tolist()
    assert (after[16:] < 0.5 * before[16:]).all()


def test_a_first_guess_leaves_out_what_was_not_seen():
    """The mean rate comes from whole blocks: half of their bits set in a second."""
    bits = AccessedBits(
        np.array([0, 1], np.uint32),
        np.array([0x0F, 0x00], np.uint8),
        np.ones(2, np.float32),
        np.array([0xFF, 0x00], np.uint8),
    )
    tracker = GammaTracker(16, EPOCH_NS, BITS)
    tracker.update((HintBatch("test", 0, EPOCH_NS, bits),), EPOCH_NS, None)
    assert np.log(2.0) == pytest.approx(tracker.reference)
