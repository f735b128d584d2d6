"""Changes of page size that were made, kept for ``explain``."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, PAGES_PER_HUGE_PAGE
from isotherm.policy.sizes import SizeChanges, SizeReason

#: Most changes kept; the oldest are forgotten.
MOST_CHANGES: Final = 1 << 14

#: Reasons in words.
REASONS: Final = {
    int(SizeReason.FEWER_MISSES): "its TLB misses have cost what the collapse costs",
    int(SizeReason.SKEWED): "its pages have been worth more apart, by what the split"
    " and their moves cost",
    int(SizeReason.ALWAYS): "the mode prices nothing",
}


class SizeLog:
    """The latest changes of page size, as columns."""

    def __init__(self) -> None:
        self.time_ns = np.empty(0, np.int64)
        self.epoch = np.empty(0, np.int64)
        self.made = SizeChanges.none()

    def __len__(self) -> int:
        return len(self.made)

    def keep(self, epoch: int, now_ns: int, made: SizeChanges) -> None:
        """Add the changes of one epoch."""
        if len(made) == 0:
            return
        n, old = len(made), self.made
        last = slice(-MOST_CHANGES, None)
        self.time_ns = np.concatenate([self.time_ns, np.full(n, now_ns)])[last]
        self.epoch = np.concatenate([self.epoch, np.full(n, epoch)])[last]
        self.made = SizeChanges(
            np.concatenate([old.page, made.page])[last],
            np.concatenate([old.huge, made.huge])[last],
            np.concatenate([old.gain_ns, made.gain_ns])[last],
            np.concatenate([old.reason, made.reason])[last],
        )

    def about(self, page: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return the changes of ranges that hold some pages, oldest first.

        Args:
            page: Flat pages, any order, int64[n].
        """
        first = self.made.page.astype(np.int64)
        asked = np.unique(page // PAGES_PER_HUGE_PAGE) * PAGES_PER_HUGE_PAGE
        return [self._row(i) for i in np.flatnonzero(np.isin(first, asked)).tolist()]

    def columns(self) -> dict[str, Any]:
        """Return all of it as JSON columns, for a recording."""
        made = self.made
        gain = made.gain_ns.astype(np.float64)
        return {
            "time_ns": self.time_ns.tolist(),
            "epoch": self.epoch.tolist(),
            "page": made.page.tolist(),
            "huge": made.huge.tolist(),
            "gain_ns": [None if np.isnan(g) else g for g in gain.tolist()],
            "reason": made.reason.tolist(),
        }

    @staticmethod
    def of(columns: dict[str, Any]) -> "SizeLog":
        """Return the log that `columns` has made columns of."""
        log = SizeLog()
        log.time_ns = np.array(columns["time_ns"], np.int64)
        log.epoch = np.array(columns["epoch"], np.int64)
        gain = [np.nan if g is None else g for g in columns["gain_ns"]]
        log.made = SizeChanges(
            np.array(columns["page"], np.uint32),
            np.array(columns["huge"], np.bool_),
            np.array(gain, np.float32),
            np.array(columns["reason"], np.uint8),
        )
        return log

    def _row(self, i: int) -> dict[str, Any]:
        made = self.made
        first, gain = int(made.page[i]), float(made.gain_ns[i])
        return {
            "time_s": float(self.time_ns[i]) / NS_PER_S,
            "epoch": int(self.epoch[i]),
            "pages": [first, first + PAGES_PER_HUGE_PAGE - 1],
            "what": "collapsed" if made.huge[i] else "split",
            "gain_ns": None if np.isnan(gain) else gain,
            "why": REASONS[int(made.reason[i])],
        }
