"""The guest's lines are understood however they arrive."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vmtest.control import Progress


@given(st.lists(st.integers(0, 26), max_size=5))
def test_lines_in_pieces(cuts: list[int]) -> None:
    """Where the bytes are cut does not matter."""
    said = b"started 2.46\nnoise\nexit 139\n"
    progress = Progress()
    places = [0, *sorted(cuts), len(said)]
    for begin, end in pairwise(places):
        progress.hear(said[begin:end])
    assert (2.46, 139, None) == (
        progress.started_s,
        progress.exit_status,
        progress.failure,
    )


def test_half_a_line_says_nothing() -> None:
    """``exit 13`` may still become ``exit 139``."""
    progress = Progress()
    progress.hear(b"exit 13")
    assert progress.exit_status is None


def test_a_failure_keeps_its_words() -> None:
    """What could not be done in the guest."""
    progress = Progress()
    progress.hear(b"failed the CXL memory did not come on line\n")
    assert "the CXL memory did not come on line" == progress.failure
