"""The modelled last-level cache."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.errors import UsageError
from isotherm.core.kernels import BACKEND, TWINS
from isotherm.trace.llc import WAYS, LastLevelCache

#: (first byte, write, bytes touched); addresses crowd into few sets.
References = list[tuple[int, int, int]]
references = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 1 << 14), st.integers(2**64 - 9000, 2**64 - 1000)),
        st.integers(0, 1),
        st.integers(1, 600),
    ),
    max_size=60,
)


def model(sets: int, given_references: References) -> list[tuple[int, int, int]]:
    """Return (page, write, source) of the textbook cache, one dict per set."""
    cache: list[OrderedDict[int, bool]] = [OrderedDict() for _ in range(sets)]
    sent = []
    for source, (address, write, size) in enumerate(given_references):
        for line in range(address // 64, (address + size - 1) // 64 + 1):
            lines = cache[line % sets]
            if line not in lines:
                sent.append((line // 64, 0, source))
                if len(lines) == 16:
                    victim, dirty = lines.popitem(last=False)
                    if dirty:
                        sent.append((victim // 64, 1, source))
            lines[line] = lines.get(line, False) or bool(write)
            lines.move_to_end(line)
    return sent


def run(cache: LastLevelCache, block: References) -> list[tuple[int, int, int]]:
    """Return (page, write, source) of one block."""
    columns = zip(*block, strict=True) if block else ([], [], [])
    address, write, size = columns
    out = cache.filter(np.array(address, np.uint64), write, size)
    return list(
        zip(out.page.tolist(), out.write.tolist(), out.source.tolist(), strict=True)
    )


@settings(deadline=None)  # the first call compiles
@given(references, st.integers(1, 3))
def test_equals_the_textbook_model(block: References, sets: int) -> None:
    """Every fill and write-back, in order, as one dict per set gives them."""
    assert model(sets, block) == run(LastLevelCache(sets * 1024), block)


@settings(deadline=None)  # the first call compiles
@given(references, st.integers(0, 60))
def test_blocks_cut_anywhere_give_the_same_misses(block: References, cut: int) -> None:
    """The state carries over from block to block."""
    whole = [row[:2] for row in run(LastLevelCache(2048), block)]
    cache = LastLevelCache(2048)

    cut_rows = run(cache, block[:cut]) + run(cache, block[cut:])

    assert whole == [row[:2] for row in cut_rows]


@settings(deadline=None)  # the first call compiles
@given(references)
def test_kernel_and_twin_agree(block: References) -> None:
    """Both send the same rows and leave the same state."""
    if BACKEND == "numpy":
        pytest.skip("the numpy backend has only the twin")
    begin = np.array([a >> 6 for a, _, _ in block], np.uint64)
    end = np.array([(a + s - 1) >> 6 for a, _, s in block], np.uint64)
    write = np.array([w for _, w, _ in block], np.uint8)
    room = 2 * (int(np.sum(end - begin)) + len(block))
    results = []
    for function in TWINS["isotherm.trace.llc._filter"]:
        ways = np.full((3, WAYS), 2**64 - 1, np.uint64)
        out = [np.zeros(room, kind) for kind in (np.uint64, np.uint8, np.int64)]
        rows = function(begin, end, write, ways, *out)
        results.append([rows, ways.tolist(), *(column.tolist() for column in out)])

    assert results[0] == results[1]


def test_no_cache_lets_every_page_touched_through() -> None:
    """Size 0: a reference across a page boundary is one access of each page."""
    rows = run(LastLevelCache(0), [(4095, 1, 2), (4096, 0, 8), (4096, 1, 8192)])

    assert rows == [(0, 1, 0), (1, 1, 0), (1, 0, 1), (1, 1, 2), (2, 1, 2)]


def test_a_working_set_that_fits_misses_once() -> None:
    """1024 lines in 64 KiB, read five times: 1024 fills, no write-back."""
    addresses = np.tile(np.arange(1024, dtype=np.uint64) * 64, 5)
    out = LastLevelCache(1 << 16).filter(addresses, np.ones(len(addresses), np.uint8))

    assert (len(out.page), int(out.write.sum())) == (1024, 0)


def test_a_cyclic_scan_one_line_too_long_never_hits() -> None:
    """LRU's worst case: 17 written lines in 16 ways, each miss writes one back."""
    addresses = np.tile(np.arange(17, dtype=np.uint64) * 64, 3)
    out = LastLevelCache(1024).filter(addresses, np.ones(len(addresses), np.uint8))

    assert (int(np.sum(out.write == 0)), int(out.write.sum())) == (51, 51 - 16)


@pytest.mark.parametrize("size_bytes", [-1024, 1, 1000, 1025])
def test_a_size_that_is_no_cache_is_refused(size_bytes: int) -> None:
    """Only whole sets make a cache."""
    with pytest.raises(UsageError, match="expected a multiple of"):
        LastLevelCache(size_bytes)


def test_a_reference_past_the_end_of_addresses_is_refused() -> None:
    """It would wrap round to page 0."""
    with pytest.raises(ValueError, match="below 2"):
        LastLevelCache(0).filter(np.array([2**64 - 1], np.uint64), [0], [2])
