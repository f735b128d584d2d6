"""Two bytes a page: direction and time of the last move."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.migration.stamps import STEPS, LastMove

WINDOW_NS = STEPS * 10


@given(
    moves=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 2 * STEPS), st.integers(0, 1 << 17)),
            st.integers(0, 2),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_equals_a_plain_dictionary(moves):
    """However long between moves, the count is that of full time stamps."""
    stamps, last, step = LastMove(3, WINDOW_NS), {}, 0
    for wait, page, up in moves:
        step += wait
        before = last.get(page)
        # Step 0 of each turn of the clock is written as step 1.
        written = step + (step % (1 << 15) == 0)
        expected = (
            before is not None and before[1] != up and written - before[0] <= STEPS
        )
        last[page] = (written, up)
        found = stamps.record(
            step * 10, np.array([page], np.uint32), np.array([up], np.bool_)
        )
        assert int(expected) == found


def test_window_shorter_than_its_steps_is_refused():
    """Sixty-four steps need at least so many nanoseconds."""
    with pytest.raises(ValueError, match="window_ns"):
        LastMove(1, STEPS - 1)
