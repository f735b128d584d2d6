"""Figures as words of a terminal."""

import pytest

from isotherm.dashboard import words


@pytest.mark.parametrize("width", [1, 7, 40])
def test_a_bar_is_as_wide_as_asked(width: int) -> None:
    """Whatever the share; a larger share is never a shorter bar."""
    drawn = [words.bar(share / 50, width) for share in range(-5, 60)]
    assert {width} == {len(bar) for bar in drawn}
    filled = [len(bar.rstrip()) for bar in drawn]
    assert sorted(filled) == filled


def test_a_line_shows_the_last_values() -> None:
    """The lowest at the bottom, the highest at the top, gaps as gaps."""
    assert "▁█" == words.line([9.0, 0.0, 1.0], 2)
    assert "▁▁" == words.line([3.0, 3.0], 8)
    assert "" == words.line([], 8)
    assert " " == words.line([None], 8)
