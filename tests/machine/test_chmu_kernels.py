"""Kernels of the simulated hotness unit equal their twins, and a plain model."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import BACKEND, TWINS
from isotherm.machine.sim import chmu_counters, llc
from isotherm.machine.sim.chmu_counters import BUCKET, FREE, HOT, ROWS, TAKEN, Counters
from isotherm.machine.sim.llc import LINES, NO_SLOT, LineCache

PAGES = 12


only_compiled = pytest.mark.skipif(
    BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: there is only the twin"
)


def both(function) -> list:
    """Return a kernel and its twin."""
    return list(TWINS[f"{function.__module__}.{function.__name__}"])


@only_compiled
@settings(deadline=None)  # the first call compiles
@given(
    st.lists(st.integers(0, PAGES - 1), max_size=150),
    st.lists(st.booleans(), min_size=PAGES, max_size=PAGES),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(0, 1 << 40),
    st.integers(0, 150),
)
def test_misses_equal_the_twin(page, held, sets, ways, first, cut) -> None:
    """Misses, addresses and the cache's state, with the state carried over a cut."""
    pages = np.array(page, np.uint32)
    slot = np.where(held, np.arange(PAGES), NO_SLOT).astype(np.uint32)
    results = []
    for function in both(llc.miss):
        state = np.full((sets, ways), FREE, np.uint64)
        got = []
        for begin, end in ((0, cut), (cut, len(pages))):
            part = pages[begin:end]
            at = np.zeros(len(part), np.int64)
            address = np.zeros(len(part), np.uint64)
            n = int(function(part, first + begin, slot, state, at, address))
            got += list(
                zip((at[:n] + begin).tolist(), address[:n].tolist(), strict=True)
            )
        results.append((got, state.tolist()))
    assert results[0] == results[1]


def textbook(pages: list[int], sets: int, ways: int) -> list[int]:
    """Return which accesses miss, by a dict a set."""
    number = np.arange(len(pages), dtype=np.uint64)
    line = np.array(pages, np.uint64) * LINES + llc.mix_array(number) % LINES
    home = (llc.mix_array(line) % np.uint64(sets)).tolist()
    cache: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(sets)]
    missed = []
    for i, (own, one) in enumerate(zip(home, line.tolist(), strict=True)):
        lines = cache[own]
        if one not in lines:
            missed.append(i)
            if len(lines) == ways:
                lines.popitem(last=False)
        lines[one] = None
        lines.move_to_end(one)
    return missed


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=300), st.integers(1, 3))
def test_misses_are_those_of_a_textbook_cache(page, sets) -> None:
    """Set-associative, the line that was used longest ago goes."""
    cache = LineCache(sets * 16 * 64)
    at, address = cache.filter(np.array(page, np.uint32), np.arange(4, dtype=np.uint32))
    assert textbook(page, sets, 16) == at.tolist()
    assert [page[i] for i in at.tolist()] == (address // 4096).tolist()


@only_compiled
@settings(deadline=None)
@given(
    st.lists(st.integers(0, 40), max_size=200),
    st.integers(1, 3),
    st.sampled_from([1, 3, 15, 255]),
    st.sampled_from([0, 1, 2, 3]),
    st.integers(0, 200),
)
def test_counts_equal_the_twin(unit, buckets, most, threshold, cut) -> None:
    """Counters, owners, what was listed and what was taken, over a cut."""
    units = np.array(unit, np.uint64)
    results = []
    for function in both(chmu_counters.count):
        tag = np.full(buckets * BUCKET, FREE, np.uint64)
        value = np.zeros(buckets * BUCKET, np.uint64)
        hot = np.zeros(len(units) + 1, np.uint64)
        tally = np.zeros(ROWS, np.int64)
        for part in (units[:cut], units[cut:]):
            function(part, tag, value, most, threshold, hot, tally)
        known = tag != FREE  # what nobody owns may hold anything
        results.append(
            (
                tag.tolist(),
                value[known].tolist(),
                hot[: tally[HOT]].tolist(),
                tally.tolist(),
            )
        )
    assert results[0] == results[1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), max_size=300), st.integers(8, 24))
def test_finite_counters_never_count_too_much(unit, number) -> None:
    """A unit's count is at most its accesses; what is missing was taken, twice each."""
    counters = Counters(number, 16)
    counters.count(np.array(unit, np.uint64))
    found, value = counters.above(1)
    true = np.bincount(np.array(unit, np.int64), minlength=61)
    assert (value.astype(np.int64) <= true[found.astype(np.int64)]).all()
    assert len(unit) - 2 * counters.taken == int(value.sum())


@pytest.mark.parametrize("buckets", [1, 2])
def test_units_that_fit_are_counted_exactly(buckets) -> None:
    """With no more units than a bucket holds nothing is taken."""
    unit = np.array([5, 5, 9, 5, 9, 1], np.uint64)
    tag = np.full(buckets * BUCKET, FREE, np.uint64)
    value = np.zeros(buckets * BUCKET, np.uint64)
    tally = np.zeros(ROWS, np.int64)
    chmu_counters.count(unit, tag, value, 255, 0, np.zeros(0, np.uint64), tally)
    known = tag != FREE
    counts = dict(zip(tag[known].tolist(), value[known].tolist(), strict=True))
    assert {5: 3, 9: 2, 1: 1} == counts
    assert 0 == tally[TAKEN]
