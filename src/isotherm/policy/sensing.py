"""Where and how to look next: accessed bits within a budget, where they tell most."""

import math

from isotherm.hints.batch import BLOCK_PAGES, Look, Mechanism

ENTRY_NS = 30.0  # of a page-table read, until a source has said
DEAR = 1.5  # times the known cost of an entry: once may be chance
DEAR_WALKS = 8  # in a row are not
BUDGET = 0.04  # of the time that memory accesses take on the fast tier
PAYBACK_GAIN = 0.05  # full budget once so much of the time is recoverable
LEAST_BUDGET = 0.05  # of the budget, however little is recoverable
#: lambda T of the threshold page. A single bit tells most about a Poisson rate at
#: 1.6; shallower looks tell the hot end apart, which decides who moves first.
BEST_DEPTH = 0.7
WINDOW_GAIN = 2.3  # a window costs two walks; worth it when bits else saturate so far
FAULT_NS = 1030.0  # a poisoned entry and, sooner or later, its fault
KNOWN_ROUNDS = 15  # looks at every page, before looking may become rarer
ACTIVE_MOVES = 1e-3  # of the pages, in an epoch: what is hot changes
IDLE = 0.25  # of the budget, while it does not
CALM_GAIN = 0.04  # how fast no moves are taken for calm, per epoch
ALARM_GAIN = 0.5  # how fast moves end it
HOT_END = 6.0  # without samples, every second round looks at the hot end


class PoisonPlanner:
    """Poisons a stretch of memory an epoch, as long as the faults stay in budget.

    Args:
        pages: Length of the flat page index.
        epoch_s: Length of an epoch.
    """

    def __init__(self, pages: int, epoch_s: float) -> None:
        self._pages = pages
        self._epoch_s = epoch_s
        self._next = 0
        self._end = 0  # of what has been poisoned at least once

    @property
    def covered(self) -> float:
        """Share of the pages that has been poisoned at least once, (0, 1]."""
        return max(self._end, BLOCK_PAGES) / max(self._pages, BLOCK_PAGES)

    def renew(self, pages: int) -> None:
        """Take the flat index for so long."""
        self._pages = pages

    def repace(self, epoch_s: float) -> None:
        """Take epochs to be so long."""
        self._epoch_s = epoch_s

    def plan(
        self, mean_rate: float, fast_ns: float, recoverable: float
    ) -> tuple[Look, ...]:
        """Return the stretch to poison next.

        Args:
            mean_rate: Accesses per page per second.
            fast_ns: Latency of the fast tier.
            recoverable: Share of the memory time that known heat could save.
        """
        share = min(1.0, max(LEAST_BUDGET, recoverable / PAYBACK_GAIN))
        budget_ns = BUDGET * share * mean_rate * fast_ns * self._pages * self._epoch_s
        count = max(BLOCK_PAGES, int(budget_ns / FAULT_NS))
        start = self._next
        end = min(self._pages, start + -(-count // BLOCK_PAGES) * BLOCK_PAGES)
        self._next = 0 if end >= self._pages else end
        self._end = max(self._end, end)
        return (Look(Mechanism.HINT_FAULT, start, end),)


class SamplePlanner:
    """Samples more rarely while nothing is to be gained from knowing more.

    Args:
        period: Accesses per sample that were asked for; never more often.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._now = period

    def plan(self, pages: int, recoverable: float) -> tuple[Look, ...]:
        """Return a look where the period is to change, in powers of two."""
        share = min(1.0, max(LEAST_BUDGET, recoverable / PAYBACK_GAIN))
        wanted = self._period * 2 ** round(math.log2(1.0 / share))
        if wanted == self._now:
            return ()
        self._now = wanted
        return (Look(Mechanism.SAMPLING, 0, pages, period=wanted),)


class EntryCost:
    """What reading an entry costs; a dear walk now and then is no price.

    Attributes:
        ns: Of an entry.
    """

    def __init__(self) -> None:
        self.ns = ENTRY_NS
        self._dear_walks = 0  # in a row

    def learn(self, entry_ns: float) -> None:
        """Follow what the entries of a walk have cost."""
        if entry_ns >= DEAR * self.ns:
            self._dear_walks += 1
            if self._dear_walks < DEAR_WALKS:  # the first walk of all bills for more
                return
        self._dear_walks = 0
        if entry_ns > 0:
            self.ns = entry_ns


class ScanPlanner:
    """Plans striped walks of the page tables.

    Args:
        pages: Length of the flat page index.
        epoch_s: Length of an epoch.
        has_samples: Whether another source can tell hot pages apart.
    """

    def __init__(self, pages: int, epoch_s: float, *, has_samples: bool) -> None:
        self._pages = pages
        self._epoch_s = epoch_s
        self._has_samples = has_samples
        self._round = 0
        self._activity = 1.0
        self._stripe = 0
        self._depth_s: float | None = None

    def renew(self, pages: int) -> None:
        """Take the flat index for so long."""
        self._pages = pages

    def repace(self, epoch_s: float) -> None:
        """Take epochs to be so long."""
        self._epoch_s = epoch_s

    def follow_moves(self, share: float, informed: float) -> None:
        """Follow whether what is hot changes: looking is rarer where it does not.

        Args:
            share: Of the pages, that the last plan moved.
            informed: How much has been seen, [0, 1].
        """
        now = min(1.0, share / ACTIVE_MOVES)
        gain = ALARM_GAIN if now > self._activity else CALM_GAIN
        self._activity += gain * informed * (now - self._activity)

    def learn(self, threshold_rate: float, set_share: float, interval_s: float) -> None:
        """Choose the interval at which the threshold page is best told apart.

        Args:
            threshold_rate: Rate of the coldest page that deserves the fast tier.
            set_share: Share of bits that were set in the last look.
            interval_s: What that look covered.
        """
        depth_s = BEST_DEPTH / max(threshold_rate, 1e-9)
        if not self._has_samples and (
            threshold_rate * interval_s > 3 or set_share > 0.97
        ):
            depth_s = min(depth_s, 0.6 * (self._depth_s or interval_s))
        self._depth_s = depth_s

    def plan(
        self, mean_rate: float, fast_ns: float, entry_ns: float, recoverable: float
    ) -> tuple[Look, ...]:
        """Return the looks of the next epoch.

        Args:
            mean_rate: Accesses per page per second.
            fast_ns: Latency of the fast tier.
            entry_ns: Cost of reading an entry.
            recoverable: Share of the memory time that known heat could save; 0 where
                no move could pay.
        """
        share = min(1.0, max(LEAST_BUDGET, recoverable / PAYBACK_GAIN))
        known = self._round >= KNOWN_ROUNDS
        activity = self._activity if known else 1.0
        activity = activity if recoverable > 0 else 0.0
        budget = BUDGET * (IDLE + (1.0 - IDLE) * activity)
        budget *= share * max(mean_rate, 1e-9) * fast_ns  # ns per page per s
        period_s = entry_ns / budget
        depth_s = self._depth_s or BEST_DEPTH / max(mean_rate, 1e-9)
        if not self._has_samples and self._round % 2:
            depth_s /= HOT_END
        windowed = depth_s < max(self._epoch_s, period_s) / WINDOW_GAIN
        if windowed:
            period_s *= 2
        stripes = max(1, math.ceil(period_s / self._epoch_s - 1e-9))
        self._stripe = (self._stripe + 1) % stripes
        if self._stripe == 0 or stripes == 1:
            self._round += 1
        return (
            Look(
                Mechanism.ACCESSED_BIT,
                0,
                self._pages,
                stripes,
                self._stripe,
                min(depth_s, self._epoch_s) if windowed else None,
            ),
        )
