"""Regions: edges learnt from looks, and rates pooled as far as bonds reach."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import BACKEND, TWINS
from isotherm.hotness import arithmetic as ar
from isotherm.hotness import regions as rg

SEEDS = st.integers(0, 2**32 - 1)
REACH, SCALE = 0.9, 1.0
numba_only = pytest.mark.skipif(
    BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: there is only the twin"
)


def both(name):
    """Return the compiled kernel and its twin."""
    return TWINS[f"{rg.__name__}.{name}"]


def halves(rng, n):
    """Return random positive halves over forty octaves."""
    noise = np.zeros(n, np.uint64)
    return rg.half_array(2.0 ** rng.uniform(-20, 20, n), noise)


def looks(rng, n):
    """Return codes of looks, some blocks not looked at."""
    code = rg.look_code_array(rng.integers(0, 9, n), rng.choice([0.1, 0.11, 3.0], n))
    return np.where(rng.random(n) < 0.2, rg.NO_LOOK, code).astype(np.uint16)


def brute_force(own, tie, prior, prior_rate, sampled):
    """Return region rates from their definition, one pair of blocks at a time.

    The bond of two blocks is the product of the ties at the edges between them.
    """
    blocks = len(own)
    out = np.empty(blocks)
    for j in range(blocks):
        k = n = t = s = m = 0.0
        for i in range(blocks):
            bond = np.prod(tie[min(i, j) + 1 : max(i, j) + 1])
            k += bond * own[i][0]
            n += bond * own[i][1]
            t += bond * own[i][2]
            s += bond * own[i][3]
            m += bond * 8.0
        n, t = max(n, 1e-9), max(t, 1e-12)
        q = (k + rg.KAPPA) / (n + 2 * rg.KAPPA)
        x = -np.log1p(-q)
        told = t * x * (1 - q) / q  # Fisher information, as counted exposure
        rate = x / (t / n)
        out[j] = (rate * told + s + prior * prior_rate) / (told + m * sampled + prior)
    return out


# ---- twins


@numba_only
def test_every_kernel_here_is_compared():
    """A new kernel without a comparison is a failure."""
    mine = {n.rsplit(".", 1)[1] for n in TWINS if n.startswith(rg.__name__ + ".")}
    assert {"look_blocks", "add_to_blocks", "region_rates"} == mine


@numba_only
@settings(deadline=None)
@given(st.integers(1, 200), SEEDS)
def test_look_blocks_equals_its_twin(blocks, seed):
    """Looks, samples, edges and class sums agree bit by bit."""
    rng = np.random.default_rng(seed)
    now = int(rng.integers(0, 1 << 17))
    block = np.flatnonzero(rng.random(blocks) < 0.8).astype(np.uint32)
    stamp = ((now - rng.integers(0, 3, blocks)) & 0xFFFF).astype(np.uint16)
    n = len(block)
    state = (
        looks(rng, blocks),
        halves(rng, blocks),
        rng.integers(0, 256, blocks).astype(np.uint8),
    )
    rest = (
        stamp,
        now,
        block,
        rng.integers(0, 256, n).astype(np.uint8),
        rng.choice([0.0, 0.1, 0.11, 3.0], n),
        rng.random(n),
    )
    salt = int(rng.integers(0, 2**40))
    found = []
    for run in both("look_blocks"):
        mine = tuple(s.copy() for s in state)
        unlike = np.zeros((2, rg.CLASSES))
        run(*mine, *rest, unlike, salt)
        found.append([s.tolist() for s in mine] + [unlike.view(np.int64).tolist()])
    assert found[1] == found[0]


@numba_only
@settings(deadline=None)
@given(st.integers(1, 100), st.integers(0, 50), SEEDS)
def test_add_to_blocks_equals_its_twin(pages, count, seed):
    """Sample counts agree bit by bit, with pages repeated."""
    rng = np.random.default_rng(seed)
    samples = halves(rng, -(-pages // 8))
    page = rng.integers(0, pages, count).astype(np.uint32)
    rng_counts = rng.uniform(0.5, 4.0, count)
    found = []
    for run in both("add_to_blocks"):
        mine = samples.copy()
        run(mine, page, rng_counts, seed)
        found.append(mine.tolist())
    assert found[1] == found[0]


@numba_only
@settings(deadline=None)
@given(st.integers(1, 150), SEEDS)
def test_region_rates_equals_its_twin(blocks, seed):
    """Region codes agree bit by bit."""
    rng = np.random.default_rng(seed)
    now = int(rng.integers(0, 1 << 17))
    stamp = ((now - rng.integers(0, 40, blocks)) & 0xFFFF).astype(np.uint16)
    args = (
        looks(rng, blocks),
        halves(rng, blocks),
        rng.integers(0, 256, blocks).astype(np.uint8),
        stamp,
        now,
        np.exp2(-np.arange(30) / 4.0),
        np.exp2(-np.arange(30) / 9.0),
        float(rng.choice([0.0, 0.02])),
        rng.random((rg.CLASSES, 256)),
        0.5,
        1.0,
    )
    first, last = sorted(rng.integers(0, blocks + 1, 2).tolist())
    found = []
    for run in both("region_rates"):
        rate = np.full(blocks, 77, np.uint8)
        run(*args, first, last, rate)
        found.append(rate.tolist())
    assert found[1] == found[0]
    assert [77] * (blocks - last + first) == found[0][:first] + found[0][last:]


@settings(deadline=None)
@given(st.lists(st.floats(1e-25, 1e25), min_size=1, max_size=20), SEEDS)
def test_half_of_a_number_is_that_of_the_array(values, seed):
    """Scalar and array round alike."""
    noise = ar.mix_array(np.arange(len(values), dtype=np.uint64), seed)
    pairs = zip(values, noise, strict=True)
    expected = [int(rg.half(v, n)) for v, n in pairs]
    assert expected == rg.half_array(np.array(values), noise).tolist()


def test_region_codes_survive_a_round_trip():
    """Every code stands for a rate that has that code; larger code, larger rate."""
    code = np.arange(rg.REGION_CODES, dtype=np.uint8)
    rate = rg.region_rate_array(code)
    assert (np.diff(rate) > 0).all()
    assert code.tolist() == rg.region_code_array(rate).tolist()


@settings(deadline=None)
@given(st.integers(0, 8), st.floats(1e-6, 1e6))
def test_a_look_keeps_its_count_and_its_interval(k, interval):
    """The count exactly, the interval to a 32nd; never the code of no look."""
    code = rg.look_code_array(np.array([k]), np.array([interval]))
    assert [int(rg.look_code(k, interval))] == code.tolist()
    kept = float(ar.decode_array(code & 0xFFF, rg.INTERVAL_SHIFT, 0)[0])
    assert k == int(code[0]) >> 12
    assert interval == pytest.approx(kept, rel=1 / 32 + 1e-6)
    assert rg.NO_LOOK != int(code[0])


# ---- region rates


@pytest.mark.parametrize("seed", range(5))
def test_region_rates_are_those_of_their_definition(seed):
    """Two recursive passes give what the sum over all pairs gives."""
    rng = np.random.default_rng(seed)
    blocks, now = 23, 1000
    age = rng.integers(0, 10, blocks)
    looked, samples = looks(rng, blocks), halves(rng, blocks)
    edge = rng.integers(0, 256, blocks).astype(np.uint8)
    bit_weight, sample_weight = np.exp2(-np.arange(6) / 3.0), np.exp2(-np.arange(6))
    bond = rng.random((rg.CLASSES, 256))
    rate = np.zeros(blocks, np.uint8)
    rg.region_rates(
        looked,
        samples,
        edge,
        (now - age).astype(np.uint16),
        now,
        bit_weight,
        sample_weight,
        0.01,
        bond,
        0.5,
        1.5,
        0,
        blocks,
        rate,
    )
    w = np.where(looked == rg.NO_LOOK, 0.0, bit_weight[np.minimum(age, 5)])
    interval = ar.decode_array(looked & 0xFFF, rg.INTERVAL_SHIFT, 0)
    own = np.stack(
        [
            w * (looked >> 12),
            8 * w,
            8 * w * interval,
            rg.whole_array(samples) * sample_weight[np.minimum(age, 5)],
        ],
        1,
    )
    tie = bond[np.arange(blocks) % rg.CLASSES, edge]
    expected = brute_force(own, tie, 0.5, 1.5, 0.01)
    # codes keep three bits of mantissa, rounded to nearest, of what is in range
    every = rg.region_rate_array(np.array([0, rg.REGION_CODES - 1], np.uint8))
    expected = np.clip(expected, *every)
    assert expected == pytest.approx(rg.region_rate_array(rate), rel=1 / 15)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(1, 5), SEEDS)
def test_stretches_give_what_one_pass_gives(blocks, turns, seed):
    """Worked out piece by piece: within a step of the code, the margin is enough."""
    rng = np.random.default_rng(seed)
    args = (
        looks(rng, blocks),
        rg.half_array(rng.uniform(0, 5, blocks), np.zeros(blocks, np.uint64)),
        rng.integers(0, 256, blocks).astype(np.uint8),
        np.full(blocks, 100, np.uint16),
        100,
        np.ones(1),
        np.ones(1),
        0.02,
        np.full((rg.CLASSES, 256), 0.7),
        0.5,
        1.0,
    )
    whole, pieces = np.zeros((2, blocks), np.uint8)
    rg.region_rates(*args, 0, blocks, whole)
    for turn in range(turns):
        rg.region_rates(
            *args, blocks * turn // turns, blocks * (turn + 1) // turns, pieces
        )
    apart = np.abs(whole.astype(int) - pieces.astype(int))
    assert int(apart.max()) <= 1


def look_often(share, looks_made, seed=1, interval=1.0):
    """Look at blocks whose bits are set with these probabilities; return the state."""
    rng = np.random.default_rng(seed)
    blocks = len(share)
    looked, samples = np.zeros(blocks, np.uint16), np.zeros(blocks, np.uint16)
    stamp, edge = np.zeros(blocks, np.uint16), np.zeros(blocks, np.uint8)
    unlike = np.zeros((2, rg.CLASSES))
    block = np.arange(blocks, dtype=np.uint32)
    for now in range(1, looks_made + 1):
        hit = rng.random((blocks, 8)) < share[:, None]
        bits = np.packbits(hit, axis=1, bitorder="little").ravel()
        stamp[:] = now
        rg.look_blocks(
            looked,
            samples,
            edge,
            stamp,
            now,
            block,
            bits,
            np.full(blocks, interval),
            np.ones(blocks),
            unlike,
            now,
        )
    bond = rg.bonds(unlike, unlike[1].sum() / blocks, REACH, SCALE)
    return edge, unlike, bond[np.arange(blocks) % rg.CLASSES, edge]


def test_unlikeness_of_like_blocks_is_one():
    """Sixteen times the squared difference of angles is about 1 (eight pages)."""
    _, unlike, _ = look_often(np.full(256, 0.4), 60)
    assert 1.0 == pytest.approx(unlike[0].sum() / unlike[1].sum(), rel=0.25)


def test_edge_between_two_rates_gets_a_weak_bond():
    """Blocks of one rate hold together; where the rate changes they let go."""
    share = np.where(np.arange(256) // 8 % 2 == 0, 0.1, 0.9)
    _, _, tie = look_often(share, 60)
    at_edge = (np.arange(256) % 8 == 0) & (np.arange(256) > 0)
    assert float(tie[at_edge].max()) < 0.25 * REACH
    assert float(np.median(tie[~at_edge])) > 0.8 * REACH


def test_one_rate_everywhere_holds_together():
    """Without edges the bond stays near its reach."""
    _, _, tie = look_often(np.full(256, 0.4), 60)
    assert float(np.median(tie[1:])) > 0.7 * REACH


def test_a_lone_edge_shows_where_its_class_does_not():
    """One edge at an alignment without others is found by its own history."""
    share = np.where(np.arange(1024) < 515, 0.05, 0.95)
    _, _, tie = look_often(share, 60)
    assert float(tie[515]) < 0.25 * REACH
    assert float(np.median(np.delete(tie, [0, 515]))) > 0.7 * REACH


def test_old_or_unlike_looks_are_not_compared():
    """A neighbour looked at long ago, or over another interval, says nothing."""
    blocks = np.arange(2, dtype=np.uint32)
    for left_stamp, interval in ((90, 1.0), (100, 9.0)):
        looked = rg.look_code_array(np.array([8, 0]), np.array([1.0, 1.0]))
        edge, unlike = np.zeros(2, np.uint8), np.zeros((2, rg.CLASSES))
        rg.look_blocks(
            looked,
            np.zeros(2, np.uint16),
            edge,
            np.array([left_stamp, 100], np.uint16),
            100,
            blocks[1:],
            np.zeros(1, np.uint8),
            np.full(1, interval),
            np.ones(1),
            unlike,
            1,
        )
        assert [0, 0] == edge.tolist()
        assert 0.0 == float(unlike[1].sum())


def test_bonds_without_comparisons_are_the_reach():
    """Before anything is known, neighbours are one region."""
    bond = rg.bonds(np.zeros((2, rg.CLASSES)), 0.0, REACH, SCALE)
    assert np.full((rg.CLASSES, 256), REACH).tolist() == bond.tolist()


@settings(deadline=None)
@given(SEEDS, st.floats(0.0, 500.0))
def test_bonds_fall_with_unlikeness(seed, compared):
    """In [0, reach] and never higher for a block that was less alike."""
    rng = np.random.default_rng(seed)
    n = rng.integers(0, 3000, rg.CLASSES).astype(float)
    unlike = np.stack([n * rng.uniform(0.2, 9.0, rg.CLASSES), n])
    bond = rg.bonds(unlike, compared, REACH, SCALE)
    assert (rg.CLASSES, 256) == bond.shape
    assert (bond >= 0).all()
    assert (bond <= REACH).all()
    assert (np.diff(bond, axis=1) <= 1e-12).all()


def test_an_alignment_full_of_edges_is_suspected():
    """A new block there is trusted less than one at a quiet alignment."""
    n = np.full(rg.CLASSES, 5000.0)
    mean = np.ones(rg.CLASSES)
    mean[8] = 3.0
    bond = rg.bonds(np.stack([n * mean, n]), 16.0, REACH, SCALE)
    like = int(rg.EDGE_UNIT)  # unlikeness 1: what two blocks of one rate show
    assert bond[8, like] < bond[7, like]
