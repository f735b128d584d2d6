"""Compaction of raw page numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import TWINS
from isotherm.trace import pages as module
from isotherm.trace.pages import PageIndex

RAW = st.lists(
    st.one_of(st.integers(0, 40), st.sampled_from([0, 2**63, 2**64 - 1])), max_size=60
)


def intern(index: PageIndex, raw: list[int]) -> tuple[list[int], list[int]]:
    """Return (page, fresh) of raw pages."""
    page, fresh = np.empty(len(raw), np.uint32), np.empty(len(raw), np.uint8)
    index.intern(np.array(raw, np.uint64), page, fresh)
    return page.tolist(), fresh.tolist()


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(RAW, max_size=4))
def test_first_seen_order(chunks: list[list[int]]) -> None:
    """Indices are dense in first-seen order, over any cut into chunks."""
    index, seen = PageIndex(), dict[int, int]()
    for chunk in chunks:
        fresh = []
        for raw in chunk:
            fresh.append(int(raw not in seen))
            seen.setdefault(raw, len(seen))
        assert ([seen[raw] for raw in chunk], fresh) == intern(index, chunk)
    assert len(seen) == len(index)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4096, 1 << 32, 0x9E3779B97F4A7C15])
def test_grows(step: int) -> None:
    """Many more pages than the first table holds, at any stride, stay distinct."""
    raw = np.arange(20_011, dtype=np.uint64) * np.uint64(step)
    index = PageIndex()
    page, fresh = np.empty(len(raw), np.uint32), np.empty(len(raw), np.uint8)
    for _ in range(2):
        index.intern(raw, page, fresh)
        assert (np.arange(20_011) == page).all()
    assert 20_011 == len(index)
    assert not fresh.any()


@pytest.mark.slow
@settings(deadline=None)
@given(RAW, st.integers(0, 8))
def test_twins_agree(raw: list[int], limit: int) -> None:
    """Compiled loop and numpy twin give the same rows, and stop at the same one."""
    pair = TWINS.get(f"{module.__name__}.intern", (module.intern, module._intern_numpy))
    answers = []
    for twin in pair:
        keys, ids = np.zeros(16, np.uint64), np.zeros(16, np.uint32)
        page, fresh = np.zeros(len(raw), np.uint32), np.zeros(len(raw), np.uint8)
        done, known = twin(
            np.array(raw, np.uint64), keys, ids, 60, 0, limit, page, fresh
        )
        table = {int(k): int(i) for k, i in zip(keys, ids, strict=True) if i}
        answers.append(
            (done, known, page[:done].tolist(), fresh[:done].tolist(), table)
        )
    assert answers[0] == answers[1]


@settings(deadline=None)
@given(st.sets(st.integers(0, 2**64 - 1), max_size=8))
def test_rehash_twins_agree(raw: set[int]) -> None:
    """A larger table holds the same pages with the same indices, by either twin."""
    ordered = sorted(raw)
    pair = TWINS.get(f"{module.__name__}.rehash", (module.rehash, module._rehash_numpy))
    old_keys, old_ids = np.zeros(16, np.uint64), np.zeros(16, np.uint32)
    page, fresh = np.zeros(len(raw), np.uint32), np.zeros(len(raw), np.uint8)
    module.intern(
        np.array(ordered, np.uint64), old_keys, old_ids, 60, 0, 8, page, fresh
    )
    for twin in pair:
        keys, ids = np.zeros(32, np.uint64), np.zeros(32, np.uint32)
        twin(old_keys, old_ids, keys, ids, 59)
        found = {int(k): int(i) - 1 for k, i in zip(keys, ids, strict=True) if i}
        assert {raw: place for place, raw in enumerate(ordered)} == found
