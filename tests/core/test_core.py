"""Clocks, units, suggestions and errors."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core import errors, suggest, units
from isotherm.core.clock import MonotonicClock, VirtualClock


@pytest.mark.parametrize("module", [units, suggest])
def test_examples_in_docstrings_run(module: object) -> None:
    """Every >>> in these modules gives what it says."""
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]  # a module
    assert 0 == failed
    assert tried > 0


@given(st.lists(st.integers(0, 10**15)), st.integers(0, 10**15))
def test_a_virtual_clock_goes_where_it_is_sent(steps: list[int], start: int) -> None:
    """Time is the start plus every step, exactly."""
    clock = VirtualClock(start)
    for step in steps:
        clock.advance(step)
    assert start + sum(steps) == clock.now_ns()


def test_time_does_not_run_backwards() -> None:
    """A negative step is refused; a real clock never decreases."""
    clock = VirtualClock(7)
    with pytest.raises(ValueError, match="expected >= 0, got -1"):
        clock.advance(-1)
    assert 7 == clock.now_ns()
    real = MonotonicClock()
    assert real.now_ns() <= real.now_ns()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("8MiB", 8 << 20),
        (" 2 g ", 2 << 30),
        ("64GB", 64 << 30),
        ("0.5k", 512),
        ("3T", 3 << 40),
        ("1P", 1 << 50),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    """Units are powers of 1024, whatever their spelling."""
    assert expected == units.parse_size(text)


@pytest.mark.parametrize("text", ["", "fast", "-1", "1e3", "8 Mib s", "1..5G"])
def test_what_is_no_size(text: str) -> None:
    """The text is quoted, and an example given."""
    with pytest.raises(errors.UsageError, match="expected a number and a unit") as got:
        units.parse_size(text)
    assert "try 8MiB" == got.value.hint


@given(st.integers(0, 1 << 20))
def test_rendered_sizes_parse_back(count: int) -> None:
    """To three significant digits."""
    rendered = units.render_bytes(count)
    assert count == pytest.approx(units.parse_size(rendered), rel=0.006, abs=1)


@pytest.mark.parametrize(
    ("duration_ns", "expected"),
    [(0, "0.00 ns"), (999, "999 ns"), (1e12, "1000 s"), (-2500, "-2.50 µs")],
)
def test_rendered_times(duration_ns: float, expected: str) -> None:
    """The unit fits, also at the ends and below zero."""
    assert expected == units.render_ns(duration_ns)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.IsothermError, 1),
        (errors.UsageError, 2),
        (errors.ConfigError, 2),
        (errors.TraceFormatError, 2),
        (errors.TopologyError, 2),
        (errors.UnsupportedError, 3),
        (errors.NotPermittedError, 4),
        (errors.TargetGoneError, 5),
    ],
)
def test_exit_codes(error: type[errors.IsothermError], code: int) -> None:
    """The codes that scripts rely on, with message and hint kept."""
    raised = error("what", hint="how")
    assert (code, "what", "how") == (raised.exit_code, raised.message, raised.hint)
