"""Columns of ranges."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.columns import joined


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20)), max_size=20))
def test_joined_ranges_hold_the_same_numbers_and_do_not_touch(pairs):
    """Nothing is lost or added; neighbours that touch have become one."""
    rows = sorted((start, start + size) for start, size in pairs)
    ends = np.maximum.accumulate(np.array([end for _, end in rows] or [0]))
    ranges = np.array([r[0] for r in rows], np.int64)
    given_ = np.stack([ranges, ends[: len(ranges)]], axis=1)
    held = {i for start, end in rows for i in range(start, end)}
    found = joined(given_)
    assert held == {i for start, end in found.tolist() for i in range(start, end)}
    assert (found[1:, 0] > found[:-1, 1]).all()
