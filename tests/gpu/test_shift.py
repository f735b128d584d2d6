"""When the hit rate says that the hot set has changed."""

from isotherm.gpu.shift import IN_A_ROW, PAUSE_EPOCHS, ShiftDetector


def settled(rate: float = 0.8, rows: int = 10_000) -> ShiftDetector:
    """Return a detector that has seen a steady hit rate."""
    detector = ShiftDetector()
    for _ in range(60):
        hits = int(rate * rows)
        assert detector.follow(hits, rows - hits) is None
    return detector


def test_a_lasting_fall_is_a_change() -> None:
    """The second low epoch in a row says so, and how much is left to believe."""
    detector = settled()
    assert detector.follow(2000, 8000) is None
    trust = detector.follow(2000, 8000)
    assert trust is not None
    assert 0.24 < trust < 0.26
    assert 1 == detector.shifts
    assert 2 == IN_A_ROW


def test_a_scan_that_passes_is_none() -> None:
    """Every tenth epoch far below the usual changes nothing."""
    detector = settled()
    for epoch in range(100):
        hits = 1000 if epoch % 10 == 9 else 8000
        assert detector.follow(hits, 10_000 - hits) is None
    assert 0 == detector.shifts


def test_chance_is_none() -> None:
    """Few rows that happen to miss are no change."""
    detector = settled(0.5, rows=40)
    for _ in range(4):
        assert detector.follow(16, 24) is None


def test_after_a_change_placement_has_time_to_follow() -> None:
    """Low epochs that come at once after a change are part of it."""
    detector = settled()
    detector.follow(1000, 9000)
    assert detector.follow(1000, 9000) is not None
    for _ in range(PAUSE_EPOCHS):
        assert detector.follow(500, 9500) is None
    assert 1 == detector.shifts


def test_nothing_read_says_nothing() -> None:
    """An epoch without reads is not a low one."""
    detector = settled()
    for _ in range(5):
        assert detector.follow(0, 0) is None
    assert detector.follow(8000, 2000) is None
