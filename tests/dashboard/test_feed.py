"""Where views come from: a recording under a clock that tests move."""

from pathlib import Path

import pytest

from isotherm.core.errors import TargetGoneError, UsageError
from isotherm.dashboard.feed import PlayedFeed, live_feed


class Clock:
    """Seconds that only tests move."""

    now_s = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def played(recording: Path) -> tuple[PlayedFeed, Clock]:
    """Return a recording at its start, twice as fast as it ran."""
    clock = Clock()
    return PlayedFeed(recording, 2.0, clock), clock


@pytest.mark.slow
def test_time_passes_by_the_speed(played: tuple[PlayedFeed, Clock]) -> None:
    """Up to the end of the run, and no further."""
    feed, clock = played
    clock.now_s += 2.0
    assert 4.0 == feed.time_s
    assert 4.0 == feed.view().time_s
    clock.now_s += 1000.0
    assert feed.played.end_s == feed.view().time_s


@pytest.mark.slow
def test_a_paused_recording_stands_still(played: tuple[PlayedFeed, Clock]) -> None:
    """And goes on from where it stood; at the end it begins anew."""
    feed, clock = played
    clock.now_s += 1.0
    feed.pause()
    clock.now_s += 50.0
    assert 2.0 == feed.time_s
    feed.pause()
    clock.now_s += 1.0
    assert 4.0 == feed.time_s
    clock.now_s += 1000.0
    feed.pause()
    assert 0.0 == feed.time_s
    assert not feed.paused


@pytest.mark.slow
def test_winding_stays_within_the_run(played: tuple[PlayedFeed, Clock]) -> None:
    """To either side."""
    feed, _ = played
    feed.wind(-3.0)
    assert 0.0 == feed.time_s
    feed.wind(1e9)
    assert feed.played.end_s == feed.time_s


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(tmp_path: Path, speed: float) -> None:
    """Before the recording is read."""
    with pytest.raises(UsageError, match="speed: expected"):
        PlayedFeed(tmp_path, speed)


def test_without_a_daemon_there_is_what_to_do(tmp_path: Path) -> None:
    """In one message."""
    with pytest.raises(TargetGoneError, match="no isotherm runs"):
        live_feed(None, tmp_path)
