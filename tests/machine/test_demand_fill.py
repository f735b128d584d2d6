"""The demand-filled LRU: exact, and equal to two other implementations."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.kernels import TWINS
from isotherm.machine.sim.demand_fill import DemandFillLru, access_lru, access_lru_twin

PAGES = 12
ACCESSES = st.lists(st.integers(0, PAGES - 1), max_size=60)


def in_chunks(cache: DemandFillLru, pages: list[int], size: int) -> list[int]:
    """Return hits, promotions and evictions of accesses handed over in chunks."""
    total = np.zeros(3, np.int64)
    for at in range(0, len(pages), size):
        total += cache.access(np.array(pages[at : at + size], np.uint32))
    return total.tolist()


def test_hits_promotions_evictions() -> None:
    """Two slots, five accesses: one hit, four pages in, two pages out."""
    cache = DemandFillLru(4, 2)
    hit = np.full(5, 2, np.uint8)
    assert (1, 4, 2) == cache.access(np.array([0, 1, 0, 2, 1], np.uint32), hit)
    assert [0, 0, 1, 0, 0] == hit.tolist()
    assert [0, 1, 1, 0] == cache.resident.tolist()
    assert 2 == cache.nr_resident


def test_starts_empty() -> None:
    """Before the first access no page is in the fast tier."""
    assert [0, 0, 0] == DemandFillLru(3, 2).resident.tolist()


def test_without_room_all_misses() -> None:
    """A tier of no pages promotes nothing and evicts nothing."""
    cache = DemandFillLru(3, 0)
    assert (0, 0, 0) == cache.access(np.array([1, 1, 2], np.uint32))
    assert [0, 0, 0] == cache.resident.tolist()


def test_room_for_all_misses_once() -> None:
    """With room for the footprint only first touches miss; nothing leaves."""
    cache = DemandFillLru(3, 5)
    assert (3, 3, 0) == cache.access(np.array([0, 1, 2, 2, 1, 0], np.uint32))


@pytest.mark.parametrize(("pages", "capacity"), [(-1, 1), (1, -1), (1 << 32, 1)])
def test_figures_out_of_range(pages: int, capacity: int) -> None:
    """Negative figures, and more pages than a node can name, are refused."""
    with pytest.raises(ValueError, match="expected"):
        DemandFillLru(pages, capacity)


@given(pages=ACCESSES, capacity=st.integers(1, PAGES + 2), size=st.integers(1, 61))
def test_equals_an_ordered_dictionary(
    pages: list[int], capacity: int, size: int
) -> None:
    """Counts and residents are those of an ordered dictionary, however chunked."""
    lru: OrderedDict[int, None] = OrderedDict()
    hits = evicted = 0
    for page in pages:
        if page in lru:
            hits += 1
            lru.move_to_end(page)
            continue
        if len(lru) == capacity:
            evicted += 1
            lru.popitem(last=False)
        lru[page] = None
    cache = DemandFillLru(PAGES, capacity)
    assert [hits, len(pages) - hits, evicted] == in_chunks(cache, pages, size)
    assert sorted(lru) == np.flatnonzero(cache.resident).tolist()
    assert len(lru) == cache.nr_resident


@given(first=ACCESSES, second=ACCESSES, capacity=st.integers(0, PAGES + 2))
def test_kernel_equals_twin(first: list[int], second: list[int], capacity: int) -> None:
    """Kernel and twin leave the same ring and the same counts behind."""
    fast, plain = TWINS.get(
        "isotherm.machine.sim.demand_fill.access_lru", (access_lru, access_lru_twin)
    )
    rings = DemandFillLru(PAGES, capacity)._ring, DemandFillLru(PAGES, capacity)._ring
    states = np.zeros(4, np.int64), np.zeros(4, np.int64)
    for pages in (first, second):
        hits = np.full(len(pages), 2, np.uint8), np.full(len(pages), 2, np.uint8)
        for function, ring, state, hit in zip(
            (fast, plain), rings, states, hits, strict=True
        ):
            function(ring, np.array(pages, np.uint32), capacity, state, hit)
        assert hits[1].tolist() == hits[0].tolist()
    assert states[1].tolist() == states[0].tolist()
    linked = rings[1][0::2] != 0xFFFFFFFF  # what an absent page keeps is no matter
    assert (rings[1][0::2]).tolist() == (rings[0][0::2]).tolist()
    assert rings[1][1::2][linked].tolist() == rings[0][1::2][linked].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [1, 37, 400])
def test_equals_libcachesim(tmp_path: Path, capacity: int) -> None:
    """On a shared trace the hits are exactly those of libCacheSim's LRU."""
    libcachesim = pytest.importorskip(
        "libcachesim", reason="libcachesim is missing: pip install libcachesim"
    )
    rng = np.random.default_rng(7)
    page = (rng.pareto(0.6, 20_000) * 3).clip(0, 999).astype(np.uint32)
    trace = tmp_path / "shared.oracleGeneral.bin"
    row = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
    rows = np.zeros(len(page), row)
    rows["id"], rows["size"], rows["next"] = page, 1, -1
    rows.tofile(trace)
    reader = libcachesim.TraceReader(
        str(trace),
        libcachesim.TraceType.ORACLE_GENERAL_TRACE,
        libcachesim.ReaderInitParam(ignore_obj_size=True),
    )
    miss_ratio, _ = libcachesim.LRU(capacity).process_trace(reader)
    hits, promoted, _ = DemandFillLru(1000, capacity).access(page)
    assert round(miss_ratio * len(page)) == promoted
    assert len(page) - promoted == hits
