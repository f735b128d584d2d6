"""Changes of page size kept for explain."""

import numpy as np

from isotherm.observability.sizes import MOST_CHANGES, SizeLog
from isotherm.policy.sizes import SizeChanges, SizeReason


def made(*page: int, huge: bool = False, gain: float = 2e6) -> SizeChanges:
    """Return changes of ranges."""
    n = len(page)
    reason = SizeReason.FEWER_MISSES if huge else SizeReason.SKEWED
    return SizeChanges(
        np.array(page, np.uint32),
        np.full(n, huge),
        np.full(n, gain, np.float32),
        np.full(n, int(reason), np.uint8),
    )


def test_a_range_tells_what_was_done_to_it_and_why() -> None:
    """Any page of it asks; others are not told of; oldest first."""
    log = SizeLog()
    log.keep(3, 1_500_000_000, made(512, 1024))
    log.keep(9, 4_500_000_000, made(512, huge=True))
    rows = log.about(np.array([700]))
    assert ["split", "collapsed"] == [row["what"] for row in rows]
    assert [[512, 1023], [512, 1023]] == [row["pages"] for row in rows]
    assert [(3, 1.5), (9, 4.5)] == [(row["epoch"], row["time_s"]) for row in rows]
    assert "worth more apart" in rows[0]["why"]
    assert "TLB misses" in rows[1]["why"]
    assert [] == log.about(np.array([0]))


def test_a_log_survives_a_recording() -> None:
    """Columns and back; a gain that nobody promised is null."""
    log = SizeLog()
    log.keep(1, 10, made(0, gain=np.nan))
    log.keep(2, 20, made(512, huge=True))
    again = SizeLog.of(log.columns())
    assert log.columns() == again.columns()
    assert [None, 2e6] == again.columns()["gain_ns"]
    assert log.about(np.arange(2048)) == again.about(np.arange(2048))


def test_the_oldest_changes_are_forgotten() -> None:
    """A run for months keeps so many."""
    log = SizeLog()
    for epoch in range(3):
        page = np.arange(MOST_CHANGES // 2, dtype=np.uint32) * 512
        log.keep(epoch, epoch, made(*page.tolist()))
    assert MOST_CHANGES == len(log)
    assert [1, 2] == [row["epoch"] for row in log.about(np.array([5]))]
