"""Progress of a sweep where there is no terminal."""

import io

from isotherm.cli.sweep_progress import ProgressLines


def test_lines_say_pace_and_time_left() -> None:
    """A line every half minute; runs of before do not count for the pace."""
    now = [0.0]
    out = io.StringIO()
    tell = ProgressLines("comparing", out, lambda: now[0])
    tell(400, 1000)
    now[0] = 10.0
    tell(450, 1000)
    assert out.getvalue() == ""
    now[0] = 30.0
    tell(700, 1000)
    now[0] = 31.0
    tell(710, 1000)
    assert "comparing: 700 of 1000 runs, 10 a second, 30 s left\n" == out.getvalue()


def test_nothing_made_has_no_pace() -> None:
    """While the first run is under way nobody knows how long it will take."""
    now = [0.0]
    out = io.StringIO()
    tell = ProgressLines("comparing", out, lambda: now[0])
    tell(0, 10)
    now[0] = 60.0
    tell(0, 10)
    assert out.getvalue() == "comparing: 0 of 10 runs\n"
