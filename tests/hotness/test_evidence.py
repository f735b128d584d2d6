"""The kernels that fuse evidence: equal to their twins, and to the mathematics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special

from isotherm.core.kernels import BACKEND, TWINS
from isotherm.hotness import arithmetic as ar
from isotherm.hotness import evidence as ev

KINDS = [ev.NO_BITS, ev.BITS, ev.OPENING]
SALTS = st.integers(0, 2**40)
numba_only = pytest.mark.skipif(
    BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: there is only the twin"
)


def both(name):
    """Return the compiled kernel and its twin."""
    return TWINS[f"{ev.__name__}.{name}"]


def filters(rng, pages):
    """Return random filters and histories."""
    code = rng.integers(0, 1 << 16, pages).astype(np.uint16)
    return code, rng.integers(0, 256, pages).astype(np.uint8)


def one_look(mean, exposure, *, bit=0, kind=ev.BITS, history=0, **change):
    """Return (mean, exposure, history) after one look, averaged over roundings."""
    n = 4096
    noise = ar.mix_array(np.arange(n, dtype=np.uint64), 1)
    code = ev.pack_array(np.full(n, mean), np.full(n, exposure), noise)
    past = np.full(n, history, np.uint8)
    block = np.arange(n // 8, dtype=np.uint32)
    given = {"interval": 0.0, "rho": 1.0, "sampled": 0.0, "a0": 0.5, "b0": 0.5}
    given |= change
    ev.look(
        code,
        past,
        block,
        np.full(n // 8, 255 * bit, np.uint8),
        np.full(n // 8, given["interval"]),
        np.full(n // 8, given["rho"]),
        np.full(n // 8, given["sampled"]),
        kind,
        given["a0"],
        given["b0"],
        7,
    )
    found, b = ev.unpack_array(code)
    assert 1 == len(set(past.tolist()))
    return float(found.mean()), float(b.mean()), int(past[0])


def exact_moments(a, b, interval):
    """Return mean and variance of Gamma(a, b) after a set bit, by integration."""

    # with u = F(rate): integrals over the prior become integrals over (0, 1)
    def moment(k):
        def integrand(u):
            rate = special.gammaincinv(a, u) / b
            return rate**k * -np.expm1(-rate * interval)

        return integrate.quad(integrand, 0.0, 1.0, limit=400, epsrel=1e-8)[0]

    z = moment(0)
    mean = moment(1) / z
    return mean, moment(2) / z - mean**2


# ---- twins


@numba_only
def test_every_kernel_here_is_compared():
    """A new kernel without a comparison is a failure."""
    mine = {n.rsplit(".", 1)[1] for n in TWINS if n.startswith(ev.__name__ + ".")}
    assert {"look", "add_events", "see"} == mine


@numba_only
@settings(deadline=None)
@given(st.integers(1, 70), st.sampled_from(KINDS), SALTS, st.integers(0, 2**32 - 1))
def test_look_equals_its_twin(pages, kind, salt, seed):
    """Filters and histories agree bit by bit, also in a last block cut short."""
    rng = np.random.default_rng(seed)
    code, history = filters(rng, pages)
    blocks = -(-pages // 8)
    block = np.flatnonzero(rng.random(blocks) < 0.7).astype(np.uint32)
    n = len(block)
    rest = (
        block,
        rng.integers(0, 256, n).astype(np.uint8),
        rng.choice([0.0, 1e-3, 0.3, 5.0, 400.0], n),
        rng.random(n),
        rng.random(n) * 10.0,
        kind,
        0.5,
        float(10.0 ** rng.uniform(-4, 2)),
        salt,
    )
    found = []
    for run in both("look"):
        state = code.copy(), history.copy()
        run(*state, *rest)
        found.append([s.tolist() for s in state])
    assert found[1] == found[0]


@numba_only
@settings(deadline=None)
@given(st.integers(1, 40), st.sampled_from([0.0, 1.0, 2.5]), SALTS, SALTS)
def test_add_events_equals_its_twin(pages, count, salt, seed):
    """Filters and histories agree bit by bit, with pages repeated."""
    rng = np.random.default_rng(seed)
    code, history = filters(rng, pages)
    n = int(rng.integers(0, 30))
    page = rng.integers(0, pages, n).astype(np.uint32)
    seconds = rng.choice([0.0, 1e-3, 1.0, 50.0], n)
    found = []
    for run in both("add_events"):
        state = code.copy(), history.copy()
        run(*state, page, count, seconds, salt)
        found.append([s.tolist() for s in state])
    assert found[1] == found[0]


@numba_only
@settings(deadline=None)
@given(st.integers(1, 40), st.sampled_from([0, 1]), SALTS, st.integers(0, 2**32 - 1))
def test_see_equals_its_twin(pages, looks, salt, seed):
    """Filters and histories agree bit by bit, whichever pages were seen."""
    rng = np.random.default_rng(seed)
    code, history = filters(rng, pages)
    page = np.flatnonzero(rng.random(pages) < 0.6).astype(np.uint32)
    bit = rng.integers(0, 2, len(page)).astype(np.uint8)
    interval = rng.choice([1e-3, 0.3, 5.0, 400.0], len(page))
    found = []
    for run in both("see"):
        state = code.copy(), history.copy()
        run(*state, page, bit, interval, looks, salt)
        found.append([s.tolist() for s in state])
    assert found[1] == found[0]


@pytest.mark.parametrize("bit", [0, 1])
def test_a_page_is_seen_as_in_a_block(bit):
    """One page's bit says what the same bit says in a look that decays nothing."""
    code, history = (column[:64] for column in filters(np.random.default_rng(2), 64))
    alone, past = code.copy(), history.copy()
    page = np.arange(64, dtype=np.uint32)
    ev.see(alone, past, page, np.full(64, bit, np.uint8), np.full(64, 2.0), 1, 5)
    ev.look(
        code, history, np.arange(8, dtype=np.uint32), np.full(8, 255 * bit, np.uint8),
        np.full(8, 2.0), np.ones(8), np.zeros(8), ev.BITS, 0.5, 0.5, 5,
    )  # fmt: skip
    assert code.tolist() == alone.tolist()
    assert history.tolist() == past.tolist()


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(1e-3, 1e3)] * 3), min_size=1, max_size=20))
def test_set_bit_of_a_page_is_that_of_the_array(rows):
    """Scalar and array agree to the last bit."""
    a, b, t = np.array(rows).T
    scalar = np.array([ev.set_bit(*row) for row in rows])
    array = np.stack(ev.set_bit_array(a, b, t), 1)
    assert scalar.view(np.int64).tolist() == array.view(np.int64).tolist()


# ---- mathematics


@pytest.mark.parametrize("a", [0.3, 0.5, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("depth", [0.02, 0.3, 1.0, 4.0])
def test_set_bit_has_the_moments_of_the_exact_posterior(a, depth):
    """Mean and variance as by numeric integration over P(1) times the prior."""
    b = 0.7
    interval = depth * b / a  # depth: expected accesses in the interval
    if (b / (b + interval)) ** a <= ev.CERTAIN:
        pytest.skip("a certain bit is skipped")
    mean, variance = exact_moments(a, b, interval)
    a1, b1 = ev.set_bit(a, b, interval)
    assert mean == pytest.approx(a1 / b1, rel=1e-3)
    assert variance == pytest.approx(a1 / b1**2, rel=1e-3)


def test_a_certain_bit_says_nothing():
    """Where P(0) is below CERTAIN, shape and exposure stay as they are."""
    a, b = 8.0, 1.0
    longest = ev.CERTAIN ** (-1.0 / a) - 1.0  # P(0) = (b / (b + T))^a
    assert (a, b) == ev.set_bit(a, b, longest * 1.01)
    assert (a, b) != ev.set_bit(a, b, longest * 0.99)


def test_a_set_bit_raises_the_mean_a_clear_one_lowers_it():
    """Whatever the prior, the two answers lie on either side of it."""
    for a in (0.2, 1.0, 5.0):
        for interval in (0.01, 0.3, 1.0):
            a1, b1 = ev.set_bit(a, 1.0, interval)
            assert a / (1.0 + interval) < a < a1 / b1


@pytest.mark.parametrize("interval", [0.05, 1.0, 20.0])
def test_a_clear_bit_is_exact(interval):
    """The shape stays, the exposure grows by the interval."""
    mean, exposure, _ = one_look(1.5, 2.0, bit=0, interval=interval)
    assert 2.0 + interval == pytest.approx(exposure, rel=0.02)
    assert 3.0 / (2.0 + interval) == pytest.approx(mean, rel=0.02)


def test_sampling_adds_its_exposure_to_silent_pages():
    """What sampling covered since the last look counts as clear."""
    mean, exposure, _ = one_look(1.5, 2.0, kind=ev.NO_BITS, sampled=0.5)
    assert 2.5 == pytest.approx(exposure, rel=0.02)
    assert 3.0 / 2.5 == pytest.approx(mean, rel=0.02)


def test_all_evidence_decays_to_the_prior():
    """With nothing left of the old evidence the filter is the prior."""
    mean, exposure, _ = one_look(40.0, 30.0, kind=ev.NO_BITS, rho=0.0, a0=0.5, b0=0.25)
    assert 0.25 == pytest.approx(exposure, rel=0.01)
    assert 2.0 == pytest.approx(mean, rel=0.01)


def test_half_of_the_evidence_decays_in_a_half_life():
    """Shape and exposure are the means of what was and of the prior."""
    mean, exposure, _ = one_look(4.0, 3.0, kind=ev.NO_BITS, rho=0.5, a0=0.5, b0=1.0)
    assert 2.0 == pytest.approx(exposure, rel=0.02)
    assert (12.0 + 0.5) / 2.0 / 2.0 == pytest.approx(mean, rel=0.02)


def test_bits_of_an_unknown_interval_only_make_history():
    """Interval 0 says that nobody knows what the bits cover."""
    mean, exposure, past = one_look(1.5, 2.0, bit=1, interval=0.0)
    assert 1.5 == pytest.approx(mean, rel=0.01)
    assert 2.0 == pytest.approx(exposure, rel=0.01)
    assert 1 == past


@pytest.mark.parametrize(
    ("kind", "bit", "before", "after"),
    [
        (ev.BITS, 1, 0b000101, 0b001011),
        (ev.BITS, 0, 0b000101, 0b001010),
        (ev.BITS, 1, 0b111111, 0b111111),
        (ev.OPENING, 1, 0b000101, 0b000101),
        (ev.NO_BITS, 0, ev.SAMPLED | 0b000101, 0b001011),
        (ev.NO_BITS, 0, 0b000101, 0b001010),
        (ev.BITS, 0, ev.SAMPLED | 0b000101, 0b001010),
    ],
)
def test_history_remembers_the_last_six_looks(kind, bit, before, after):
    """Newest in bit 0; an opening walk leaves it; samples stand in for bits."""
    assert after == one_look(1.0, 1.0, bit=bit, kind=kind, history=before)[2]


def test_an_opening_walk_is_evidence_too():
    """It changes the filter as a closing one does."""
    assert (
        one_look(1.0, 1.0, bit=1, kind=ev.BITS, interval=0.5)[:2]
        == one_look(1.0, 1.0, bit=1, kind=ev.OPENING, interval=0.5)[:2]
    )


@pytest.mark.parametrize(("count", "seconds"), [(1.0, 0.0), (1.0, 0.4), (0.0, 0.4)])
def test_events_add_accesses_and_exposure(count, seconds):
    """A sample, a hint fault after a delay, a page that stayed silent."""
    n = 4096
    noise = ar.mix_array(np.arange(n, dtype=np.uint64), 1)
    code = ev.pack_array(np.full(n, 2.0), np.full(n, 1.5), noise)
    past = np.zeros(n, np.uint8)
    page = np.arange(n, dtype=np.uint32)
    ev.add_events(code, past, page, count, np.full(n, seconds), 3)
    mean, b = ev.unpack_array(code)
    assert 1.5 + seconds == pytest.approx(float(b.mean()), rel=0.02)
    assert (3.0 + count) / (1.5 + seconds) == pytest.approx(
        float(mean.mean()), rel=0.02
    )
    assert {ev.SAMPLED if count else 0} == set(past.tolist())


def test_repeated_events_add_up():
    """Thirty samples of one page in one call count thirty times."""
    code = ev.pack_array(
        np.array([1.0]), np.array([4.0]), np.array([1 << 17], np.uint64)
    )
    page = np.zeros(30, np.uint32)
    ev.add_events(code, np.zeros(1, np.uint8), page, 1.0, np.zeros(30), 3)
    mean, b = ev.unpack_array(code)
    assert 34.0 == pytest.approx(float(mean[0] * b[0]), rel=0.15)
