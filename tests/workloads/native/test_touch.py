"""Touched memory: twins agree, counts are exact, damage is noticed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import BACKEND, TWINS
from isotherm.workloads.native import touch as touching
from isotherm.workloads.native.touch import PAGE_WORDS, prepare, touch, verify


def memory(pages: int) -> np.ndarray:
    """Return prepared memory of some pages."""
    words = np.zeros(pages * PAGE_WORDS, np.uint64)
    prepare(words)
    return words


@pytest.mark.skipif(
    BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: there is only the twin"
)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    pages=st.integers(1, 40),
    count=st.integers(0, 3000),
    first=st.integers(0, 2**44),
    writes=st.booleans(),
    lanes=st.sampled_from([1, 2, 8, 64]),
    damaged=st.integers(0, 20),
)
def test_touch_equals_its_twin(
    seed: int,
    pages: int,
    count: int,
    first: int,
    writes: bool,
    lanes: int,
    damaged: int,
) -> None:
    """Memory, counts, damage and writes are the same to the bit."""
    rng = np.random.default_rng(seed)
    page = rng.integers(0, pages, count).astype(np.uint32)
    write = rng.integers(0, 2, count if writes else 0).astype(np.uint8)
    harm = rng.integers(0, pages * PAGE_WORDS, damaged)
    results = []
    for function in TWINS[f"{touching.__name__}.touch"]:
        words = memory(pages)
        words[harm] += np.uint64(1)
        counts = np.zeros(pages, np.uint64)
        said = function(words, page, write, counts, first, lanes - 1, lanes)
        results.append((words.tolist(), counts.tolist(), tuple(map(int, said))))
    assert results[1] == results[0]


def test_counts_and_writes_are_those_of_the_accesses() -> None:
    """4099 accesses on 23 pages: each is counted, each write is in the memory."""
    words, counts = memory(23), np.zeros(23, np.uint64)
    page = (np.arange(4099) % 23).astype(np.uint32)
    write = (np.arange(4099) % 3 == 0).astype(np.uint8)
    said = touch(words, page, write, counts, 0, 0, 1)
    assert tuple(map(int, said)) == (0, int(write.sum()))
    assert np.bincount(page).tolist() == counts.tolist()
    assert verify(words) == (0, int(write.sum()))


def test_every_line_of_a_page_is_touched() -> None:
    """A page's accesses spread over its 64 lines, so that caches cannot hide it."""
    words, counts = memory(1), np.zeros(1, np.uint64)
    page, write = np.zeros(512, np.uint32), np.ones(512, np.uint8)
    touch(words, page, write, counts, 0, 0, 1)
    assert (words.reshape(64, 8)[:, 0] > 0).all()


def test_threads_have_lines_of_their_own() -> None:
    """Lane 1 of 4 writes lines 1, 5, 9... and no other."""
    words, counts = memory(2), np.zeros(2, np.uint64)
    page, write = np.zeros(500, np.uint32), np.ones(500, np.uint8)
    touch(words, page, write, counts, 0, 1, 4)
    written = np.flatnonzero(words.reshape(-1, 8)[:, 0])
    assert set((written % 4).tolist()) == {1}


@pytest.mark.parametrize("harm", ["zeroed", "swapped", "old", "beside"])
def test_harm_is_noticed(harm: str) -> None:
    """A page lost, exchanged, brought from the past or scribbled on shows."""
    words, counts = memory(4), np.zeros(4, np.uint64)
    page = (np.arange(2000) % 4).astype(np.uint32)
    pages = words.reshape(4, -1)
    past = pages[1].copy()
    written = touch(words, page, np.ones(2000, np.uint8), counts, 0, 0, 1)[1]
    if harm == "zeroed":
        pages[1] = 0
    elif harm == "swapped":
        pages[[1, 2]] = pages[[2, 1]]
    elif harm == "old":
        pages[1] = past
    else:
        words[PAGE_WORDS + 5] = 1
    damaged, total = verify(words)
    assert damaged > 0 or total != written
