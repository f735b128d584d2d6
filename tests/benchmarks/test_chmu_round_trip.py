"""From a known pattern through a device's registers back to its hottest pages."""

from dataclasses import replace

import pytest

import chmu_round_trip
from chmu_round_trip import BAR, CASES, HOT_SHARE, PAGES, Case, hot_pages, play

FREE = [case for case in CASES if not case.why]
LIMITED = [case for case in CASES if case.why]


def named(case: Case) -> str:
    """Return the name of a case for the test's own."""
    return case.name


def test_a_fast_tier_holds_just_the_hot_pages() -> None:
    """As many are called as are hot, so that precision and recall are one figure."""
    assert int(HOT_SHARE * PAGES) == len(hot_pages(CASES[0]))
    assert len(FREE) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("case", FREE, ids=named)
def test_the_hottest_pages_come_back(case: Case) -> None:
    """Registers or AUX bytes, driver, tracker: 0.95 of the hot pages are called."""
    assert play(case).precision >= BAR


@pytest.mark.slow
@pytest.mark.parametrize("case", LIMITED, ids=named)
def test_a_limit_of_the_device_is_no_excuse_for_nothing(case: Case) -> None:
    """Where the device cannot tell pages apart it still beats a guess, and not 0.95."""
    assert 1.5 * HOT_SHARE < play(case).precision < BAR


@pytest.mark.slow
def test_both_ways_give_the_same() -> None:
    """Packets of an AUX ring lose nothing that the registers tell."""
    registers, ring = CASES[0], CASES[1]
    assert replace(registers, name=ring.name, aux=True) == ring
    assert play(registers) == play(ring)


def test_the_table_of_the_docs_is_of_these_cases() -> None:
    """Every case stands in the reference, with its limit."""
    text = chmu_round_trip.PAGE.read_text()
    for case in CASES:
        assert f"| {case.name} | {case.why or '-'} |" in text
