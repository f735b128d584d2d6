"""Minifloats, mixing, logarithm and power: exact where they must be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from isotherm.hotness import arithmetic as ar

SHAPES = [
    pytest.param(ar.RATE_SHIFT, ar.RATE_OFFSET, ar.RATE_CODES, id="rate"),
    pytest.param(
        ar.EXPOSURE_SHIFT, ar.EXPOSURE_OFFSET, ar.EXPOSURE_CODES, id="exposure"
    ),
]
POSITIVE = st.floats(1e-30, 1e30)
POWERS = st.floats(-990.0, 990.0)
WORDS = st.integers(0, 2**63 - 1)


def exactly(expected, actual):
    """Return whether two arrays of floats have the same bits."""
    a = np.asarray(expected, np.float64).view(np.int64)
    b = np.asarray(actual, np.float64).view(np.int64)
    return a.tolist() == b.tolist()


def flips(a, b):
    """Return how many bits differ on average."""
    return float(np.bitwise_count(a ^ b).mean())


@settings(deadline=None)  # the first call may compile
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20), WORDS)
def test_mix_of_a_page_is_that_of_the_array(page, salt):
    """Scalar and array give the same 64 bits."""
    pages = np.array(page, np.uint64)
    with np.errstate(over="ignore"):  # plain Python warns that words wrap
        expected = [int(ar.mix(p, salt)) for p in page]
    assert expected == ar.mix_array(pages, salt).tolist()


@settings(deadline=None)
@given(npst.arrays(np.float64, st.integers(1, 20), elements=POSITIVE))
def test_log2_of_a_number_is_that_of_the_array(x):
    """Scalar and array agree to the last bit."""
    assert exactly([ar.log2(v) for v in x.tolist()], ar.log2_array(x))


@settings(deadline=None)
@given(npst.arrays(np.float64, st.integers(1, 20), elements=POWERS))
def test_exp2_of_a_number_is_that_of_the_array(x):
    """Scalar and array agree to the last bit."""
    assert exactly([ar.exp2(v) for v in x.tolist()], ar.exp2_array(x))


@pytest.mark.parametrize(("shift", "offset", "codes"), SHAPES)
@settings(deadline=None)
@given(data=st.data())
def test_encode_of_a_number_is_that_of_the_array(shift, offset, codes, data):
    """Scalar and array round alike, whatever the noise."""
    value = data.draw(st.lists(POSITIVE, min_size=1, max_size=20))
    noise = data.draw(
        st.lists(
            st.integers(0, (1 << shift) - 1), min_size=len(value), max_size=len(value)
        )
    )
    expected = [
        int(ar.encode(v, shift, offset, codes, n))
        for v, n in zip(value, noise, strict=True)
    ]
    actual = ar.encode_array(
        np.array(value), shift, offset, codes, np.array(noise, np.int64)
    )
    assert expected == actual.tolist()


@pytest.mark.parametrize(("shift", "offset", "codes"), SHAPES)
def test_decode_of_a_code_is_that_of_the_array(shift, offset, codes):
    """Every code has one value, by either way."""
    code = np.arange(codes)
    expected = [float(ar.decode(c, shift, offset)) for c in code.tolist()]
    assert exactly(expected, ar.decode_array(code, shift, offset))


def test_log2_is_accurate():
    """Relative to numpy 1e-9 over sixty octaves, also close to one."""
    x = np.concatenate(
        [np.logspace(-9, 9, 50_001), 1.0 + np.logspace(-12, -0.01, 5_001)]
    )
    expected = np.log2(x)
    error = np.abs(ar.log2_array(x) - expected)
    assert 0.0 == float(ar.log2(1.0))
    assert (error <= 1e-9 * np.abs(expected)).all()


def test_exp2_is_accurate():
    """Relative to numpy 1e-8: the series ends with the seventh power."""
    x = np.linspace(-60.0, 60.0, 100_001)
    error = np.abs(ar.exp2_array(x) / np.exp2(x) - 1.0)
    assert float(error.max()) <= 1e-8


def test_whole_powers_of_two_are_exact():
    """2^n for whole n has no error, so a half-life is one half."""
    n = np.arange(-900.0, 901.0)
    assert exactly(np.exp2(n), ar.exp2_array(n))


@pytest.mark.parametrize(("shift", "offset", "codes"), SHAPES)
def test_every_code_survives_a_round_trip(shift, offset, codes):
    """A value that a code stands for is encoded as that code, whatever the noise."""
    code = np.arange(codes)
    value = ar.decode_array(code, shift, offset)
    for noise in (0, 1 << (shift - 1), (1 << shift) - 1):
        back = ar.encode_array(
            value, shift, offset, codes, np.full(codes, noise, np.int64)
        )
        assert code.tolist() == back.tolist()


@pytest.mark.parametrize(("shift", "offset", "codes"), SHAPES)
def test_codes_are_ordered_like_values(shift, offset, codes):
    """Larger code, larger value, in steps of at most one part of the mantissa."""
    value = ar.decode_array(np.arange(codes), shift, offset)
    step = value[1:] / value[:-1] - 1.0
    assert (step > 0).all()
    assert float(step.max()) <= 2.0 ** -(23 - shift) + 1e-12


@pytest.mark.parametrize(("shift", "offset", "codes"), SHAPES)
def test_values_out_of_range_are_clipped(shift, offset, codes):
    """Too small is the first code, too large the last."""
    noise = np.zeros(2, np.int64)
    found = ar.encode_array(np.array([1e-30, 1e30]), shift, offset, codes, noise)
    assert [0, codes - 1] == found.tolist()


@pytest.mark.parametrize(("shift", "offset", "codes"), SHAPES)
@pytest.mark.parametrize("value", [0.037, 0.3, 0.999, 1.01, 7.7])
def test_rounding_is_unbiased(shift, offset, codes, value):
    """The mean over all noises is the value itself, so small updates add up."""
    noise = np.arange(1 << min(shift, 18), dtype=np.int64)
    noise <<= shift - min(shift, 18)
    code = ar.encode_array(np.full(len(noise), value), shift, offset, codes, noise)
    mean = float(ar.decode_array(code, shift, offset).mean())
    assert value == pytest.approx(mean, rel=2e-6)
    assert 2 == len(set(code.tolist()))


def test_mixed_bits_are_even():
    """Consecutive pages fill 1024 bins evenly, at both ends of the word."""
    x = ar.mix_array(np.arange(1 << 17, dtype=np.uint64), 12345)
    for bins in (x & np.uint64(1023), x >> np.uint64(54)):
        have = np.bincount(bins.astype(np.int64), minlength=1024)
        chi2 = float(((have - 128.0) ** 2 / 128.0).sum())
        # 1023 degrees of freedom: mean 1023, deviation 45
        assert 1023 - 6 * 45 < chi2 < 1023 + 6 * 45


@pytest.mark.parametrize("bit", [0, 1, 7, 16, 31])
def test_one_bit_of_the_page_changes_half_of_the_word(bit):
    """Neighbours round independently."""
    page = np.arange(4096, dtype=np.uint64)
    other = page ^ np.uint64(1 << bit)
    assert 24 <= flips(ar.mix_array(page, 99), ar.mix_array(other, 99)) <= 40


@pytest.mark.parametrize("bit", [0, 1, 7, 16, 31])
def test_one_bit_of_the_salt_changes_half_of_the_word(bit):
    """Consecutive looks round independently."""
    page = np.arange(4096, dtype=np.uint64)
    one = ar.mix_array(page, 99)
    assert 24 <= flips(one, ar.mix_array(page, 99 ^ (1 << bit))) <= 40
