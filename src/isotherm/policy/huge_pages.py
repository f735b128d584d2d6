"""When a range should be one huge page, and when 512 small ones.

A range is in one of two states, and what the other would save an epoch is known:

    flow = what its pages gain in tiers of their own - what their TLB misses cost more

It changes when what the other state would have saved, added up, has reached what the
change costs: a split the split itself and the moves of the pages that would go, a
collapse its copy. The sum starts at nothing, and again whenever it falls below
(Page, "Continuous inspection schemes", Biometrika 41, 1954). So a change is made
when not having made it has cost as much, as one buys skis when the hire has cost
their price (Karlin, Manasse, Rudolph and Sleator, Algorithmica 3, 1988): there is no
horizon to be set.

What somebody else changes back is left alone for a time that doubles; what the
kernel's own thread would collapse is left to it until it has come by twice.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.columns import grown
from isotherm.core.errors import UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.core.units import NS_PER_S, PAGES_PER_HUGE_PAGE
from isotherm.machine.protocol import HugePages, SpacesChanged
from isotherm.policy.huge_ranges import APART, MISSES, RATE, TRAVELLERS
from isotherm.policy.huge_tlb import misses_per_s
from isotherm.policy.sizes import SizeChanges, SizeReason

#: ``--huge-pages``: who decides about page sizes.
MODES: Final = {
    "priced": "collapse and split where it pays",
    "never-split": "huge pages stay huge, nothing is collapsed",
    "always-split": "every huge page is split at once",
    "always-huge": "every range is collapsed as soon as it can be",
}
#: Of an epoch that changes of size may take.
BUDGET: Final = 0.05
#: A range that somebody else changed back rests so long; twice as long each time.
REST_S: Final = 30.0
MOST_RESTS: Final = 8
#: Times that the kernel's own thread comes by before a range is no more its own.
ROUNDS: Final = 2.0

Floats = NDArray[np.float64]


def check_mode(mode: str) -> None:
    """Raise UsageError for a mode that nobody knows."""
    if mode not in MODES:
        raise UsageError(
            f"huge pages: expected {', '.join(MODES)}, got {mode!r}"
            f"{did_you_mean(mode, list(MODES))}"
        )


@dataclass(frozen=True, slots=True)
class Weighed:
    """What `huge_ranges.weigh` found, and what it was found with.

    Attributes:
        column: float64[ranges, 4].
        best: Tier that is best for the whole range, uint8[ranges].
        have: Pages in each tier, and in none, int32[ranges, tiers + 1].
        stays_s: How long an unused translation stays.
        page_ns: What moving a small page costs.
        room: Free pages of each tier, int64[tiers + 1].
        parallelism: Accesses in flight that share a walk.
        dt_s: Length of the epoch.
    """

    column: Floats
    best: NDArray[np.uint8]
    have: NDArray[np.int32]
    stays_s: float
    page_ns: float
    room: NDArray[np.int64]
    parallelism: float
    dt_s: float


class PageSizes:
    """Decides about page sizes; remembers flows and what others undid.

    Args:
        pages: Length of the flat page index.
        mode: One of ``MODES``.
    """

    def __init__(self, pages: int, mode: str = "priced") -> None:
        check_mode(mode)
        self.mode = mode
        n = pages // PAGES_PER_HUGE_PAGE
        self._flow_ns = np.zeros(n)  # what the other size would have saved
        self._was_huge = np.zeros(n, np.bool_)
        self._ours = np.zeros(n, np.int8)  # our last change: 1 collapse, -1 split
        self._undone = np.zeros(n, np.uint8)
        self._rest_ns = np.zeros(n, np.int64)  # until when
        self._wanted_ns = np.full(n, -1, np.int64)  # huge since, by our reckoning
        self.undone = 0

    def renew(self, change: SpacesChanged) -> None:
        """Forget ranges that have a new owner or none; make room for new ones."""
        n = max(len(self._flow_ns), change.pages // PAGES_PER_HUGE_PAGE)
        self._flow_ns = grown(self._flow_ns, n)
        self._was_huge = grown(self._was_huge, n)
        self._ours = grown(self._ours, n)
        self._undone = grown(self._undone, n)
        self._rest_ns = grown(self._rest_ns, n)
        self._wanted_ns = grown(self._wanted_ns, n, -1)
        for start, end in change.renewed.tolist():
            rows = slice(start // PAGES_PER_HUGE_PAGE, -(-end // PAGES_PER_HUGE_PAGE))
            for column in (self._flow_ns, self._ours, self._undone, self._rest_ns):
                column[rows] = 0
            self._wanted_ns[rows] = -1

    def leaning(self, ranges: int) -> NDArray[np.bool_]:
        """Return which ranges are on their way to a change, bool[ranges]."""
        leaning: NDArray[np.bool_] = self._flow_ns[:ranges] > 0
        return leaning

    def observe(self, found: HugePages, made: SizeChanges, now_ns: int) -> None:
        """See which ranges are huge now; note what somebody else changed back.

        Args:
            found: What is huge.
            made: What of the last plan was made.
            now_ns: The machine's time.
        """
        n = len(found.huge)
        rows = made.page // PAGES_PER_HUGE_PAGE
        rows, huge = rows[rows < n], made.huge[rows < n]
        self._ours[rows] = np.where(huge, 1, -1)
        self._was_huge[rows] = huge
        self._flow_ns[rows] = 0.0
        self._wanted_ns[rows] = -1
        ours = self._ours[:n]
        back = (found.huge != self._was_huge[:n]) & (ours != 0)
        back &= found.huge != (ours > 0)
        at = np.flatnonzero(back)
        self.undone += len(at)
        times = self._undone[at] = np.minimum(self._undone[at] + 1, MOST_RESTS)
        rest_ns = REST_S * NS_PER_S * np.exp2(times.astype(np.float64) - 1.0)
        self._rest_ns[at] = now_ns + rest_ns.astype(np.int64)
        self._flow_ns[at] = 0.0
        self._ours[at] = 0
        self._was_huge[:n] = found.huge

    def decide(
        self, found: HugePages, weighed: Weighed, now_ns: int
    ) -> tuple[SizeChanges, dict[str, float]]:
        """Return the changes that are due, best first, and figures behind them."""
        if self.mode != "priced":
            return self._always(found, weighed), self._notes(found)
        flow = self._flow(found, weighed)
        n = len(flow)
        page_ns = weighed.page_ns
        split_ns = found.split_ns + page_ns * weighed.column[:, TRAVELLERS]
        collapse_ns = np.full(n, found.collapse_ns)
        sum_ns = self._flow_ns[:n]
        wish = np.where(found.huge, flow, -flow)
        np.maximum(sum_ns + wish, 0.0, out=sum_ns)
        rests = self._rest_ns[:n] > now_ns
        split = found.huge & (sum_ns >= split_ns) & (flow > 0) & ~rests
        collapse = ~found.huge & (sum_ns >= collapse_ns) & (flow < 0) & ~rests
        collapse &= self._gathered(weighed) & ~self._the_kernels(
            found, collapse, now_ns, weighed.dt_s
        )
        gain_ns = np.abs(flow)
        changes = _best(split, collapse, gain_ns, found, weighed)
        notes = self._notes(found) | {
            "tlb_stays_ms": min(weighed.stays_s * 1e3, 1e9),
            "skew_ns": float(weighed.column[:, APART].sum()),
            "flow_ns": float(flow.sum()),
        }
        return changes, notes

    def _flow(self, found: HugePages, weighed: Weighed) -> Floats:
        """Return what each range would save an epoch as small pages."""
        column = weighed.column
        small = column[:, MISSES] * found.walk_ns
        huge = misses_per_s(column[:, RATE], weighed.stays_s) * found.huge_walk_ns
        walks_ns = (small - huge) * weighed.dt_s / weighed.parallelism
        flow: Floats = column[:, APART] - walks_ns
        return flow

    def _gathered(self, weighed: Weighed) -> NDArray[np.bool_]:
        """Return which ranges a collapse would put where they should be.

        The kernel collapses where most of the pages are: in the tier that is best
        for the whole, with room for the rest, and all of it in memory.
        """
        tiers = weighed.have.shape[1] - 1
        rows = np.arange(len(weighed.best))
        there = weighed.have[rows, weighed.best]
        missing = PAGES_PER_HUGE_PAGE - there
        most = weighed.have[:, :tiers].max(1)
        fits = missing <= np.maximum(weighed.room[weighed.best], 0)
        good: NDArray[np.bool_] = (
            (there == most) & (there > missing) & fits & (weighed.have[:, tiers] == 0)
        )
        return good

    def _the_kernels(
        self,
        found: HugePages,
        collapse: NDArray[np.bool_],
        now_ns: int,
        dt_s: float,
    ) -> NDArray[np.bool_]:
        """Return which ranges the kernel's own thread may still come to."""
        wanted = self._wanted_ns[: len(collapse)]
        wanted[~collapse] = -1
        wanted[collapse & (wanted < 0)] = now_ns
        waited_s = (now_ns - wanted) / NS_PER_S
        if np.isinf(found.kernel_round_s):
            return np.zeros_like(collapse)
        left: NDArray[np.bool_] = waited_s < ROUNDS * found.kernel_round_s
        return left & found.kernel_would

    def _always(self, found: HugePages, weighed: Weighed) -> SizeChanges:
        n = len(found.huge)
        none = np.zeros(n, np.bool_)
        split = found.huge if self.mode == "always-split" else none
        collapse = none
        if self.mode == "always-huge":
            tiers = weighed.have.shape[1] - 1
            most = weighed.have[:, :tiers].argmax(1)
            missing = PAGES_PER_HUGE_PAGE - weighed.have[np.arange(n), most]
            collapse = ~found.huge & (missing <= np.maximum(weighed.room[most], 0))
            collapse &= weighed.have[:, tiers] == 0
        gain_ns = np.full(n, np.nan)
        return _best(split, collapse, gain_ns, found, weighed, SizeReason.ALWAYS)

    def _notes(self, found: HugePages) -> dict[str, float]:
        return {
            "huge_ranges": float(np.count_nonzero(found.huge)),
            "sizes_undone": float(self.undone),
        }


def _best(
    split: NDArray[np.bool_],
    collapse: NDArray[np.bool_],
    gain_ns: Floats,
    found: HugePages,
    weighed: Weighed,
    reason: SizeReason | None = None,
) -> SizeChanges:
    """Return as many changes as the epoch has time for, best first."""
    row = np.flatnonzero(split | collapse)
    row = row[np.argsort(-gain_ns[row], kind="stable")]
    cost_ns = np.where(collapse[row], found.collapse_ns, found.split_ns)
    if found.split_ns > 0 or found.collapse_ns > 0:
        allowed = max(BUDGET * weighed.dt_s * NS_PER_S, float(cost_ns[:1].sum()))
        row = row[np.cumsum(cost_ns) <= allowed]
    huge = collapse[row]
    why = np.where(huge, SizeReason.FEWER_MISSES, SizeReason.SKEWED)
    if reason is not None:
        why = np.full(len(row), reason)
    return SizeChanges(
        (row * PAGES_PER_HUGE_PAGE).astype(np.uint32),
        huge,
        gain_ns[row].astype(np.float32),
        why.astype(np.uint8),
    )
