"""How well data compress: stated ratios, their drift, and what they mean for pages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.errors import UsageError
from isotherm.trace.compressibility import (
    Compressibility,
    Mix,
    parse_compressibility,
)

RATIOS = st.floats(1, 255)


@given(RATIOS)
def test_the_pages_of_a_ratio_have_that_ratio(ratio: float) -> None:
    """Incompressible pages and the others together give what was stated."""
    mix = Compressibility(ratio).at(23.0)
    assert mix.ratio == pytest.approx(ratio)
    assert 0 <= mix.incompressible <= 0.5
    assert 0 < mix.size <= 1


def test_two_to_one_is_a_quarter_that_does_not_compress_and_three_to_one() -> None:
    """The one pair of figures that is published."""
    mix = Compressibility(2.0).at(0.0)
    assert Mix(0.25, pytest.approx(1 / 3)) == mix


@given(RATIOS, RATIOS, st.floats(0, 300))
def test_a_drift_stays_between_its_ends(start: float, end: float, at_s: float) -> None:
    """At its start the first ratio, after its time the second, between them between."""
    drift = Compressibility(start, end, 100.0)
    assert drift.ratio_at(0.0) == pytest.approx(start)
    assert drift.ratio_at(-1.0) == pytest.approx(start)
    assert drift.ratio_at(100.0) == pytest.approx(end)
    low, high = sorted((start, end))
    assert low * 0.999999 <= drift.ratio_at(at_s) <= high * 1.000001


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", Compressibility(2.0)),
        ("3-1.5", Compressibility(3.0, 1.5, 120.0)),
        ("3-1.5/60", Compressibility(3.0, 1.5, 60.0)),
    ],
)
def test_as_text(text: str, expected: Compressibility) -> None:
    """A ratio, two of them, two and the time between them."""
    assert expected == parse_compressibility(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a ratio, or two with a dash, got ''"),
        ("lz4", "expected a ratio, or two with a dash, got 'lz4'"),
        ("3-", "expected a ratio, or two with a dash, got '3-'"),
        ("0.5", "ratio: expected 1 to 255, got 0.5"),
        ("nan", "ratio: expected 1 to 255, got nan"),
        ("3-300", "end_ratio: expected 1 to 255, got 300.0"),
        ("3-2/0", "over_s: expected > 0, got 0.0"),
        ("3/60", "seconds need two ratios"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    """With what was found and what was expected."""
    with pytest.raises(UsageError, match="compressibility") as error:
        parse_compressibility(text)
    assert words in str(error.value)
