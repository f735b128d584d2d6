"""Fronts: places where accesses sweep through memory at a steady speed.

A scan, a merge, a copy: page after page is touched for a moment and not again
for long. Heat comes too late for them; where a front will be in the next epoch
is known. Sampled accesses of the last epochs are points in time and page; a
front is a line through many of them, found by trying pairs of points (RANSAC:
Fischler and Bolles, CACM 24(6), 1981). What comes ahead of fronts gets is
marked; whether that is worth a move is for policies to learn.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import BLOCK_PAGES

KEPT_EPOCHS = 3
PAIRS = 96  # lines tried
MOST_EVENTS = 512  # looked at, per epoch
LEAST_SPAN = 0.5  # epochs between the two points of a pair
SLACK_PAGES = 32.0  # how far from its line a point may be, at least
LEAST_EVENTS = 6.0  # on a line
LEAST_SHARE = 0.1  # of all points
LEAST_RECENT = 3  # in the last epoch
CONTRAST = 3.0  # times as many as a line through nowhere would have
FASTEST = 0.25  # of the memory per epoch: nothing can be moved out of its way
MOST_FRONTS = 3
SHARE_GAIN = 0.2
COASTING = 2  # epochs that a front is believed in unseen
REMEMBERED = 20  # epochs after which no front is a thing of the past
STRETCHES = 64  # of memory, for what fronts have passed
REST = 0.25  # of the memory that fronts must leave alone
TRAVEL = 1.2  # times the memory: how far fronts are remembered

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Front:
    """A front at the end of an epoch.

    Attributes:
        page: Where it is.
        speed: Pages per epoch, negative downwards.
        slack: How far from it accesses may be.
        first: Where it came from, as far as seen.
        last: How far it has been seen.
        unseen: Epochs since it was seen.
    """

    page: float
    speed: float
    slack: float
    first: float
    last: float
    unseen: int = 0

    def next(self) -> "Front":
        """Return where it is an epoch later, if nothing changes."""
        return replace(self, page=self.page + self.speed, unseen=self.unseen + 1)

    def continues(self, other: "Front") -> bool:
        """Return whether this front is that one an epoch later."""
        miss = abs(self.page - other.page - other.speed)
        return miss < 3 * self.slack + 0.2 * abs(self.speed)


class Fronts:
    """Finds fronts in sampled accesses and says what they will pass next.

    Args:
        pages: Length of the flat page index.
        seed: For the choice of pairs.
    """

    def __init__(self, pages: int, seed: int) -> None:
        self._pages = pages
        self._rng = np.random.default_rng(seed)
        self._time: list[Floats] = []
        self._page: list[Floats] = []
        self._now: list[Front] = []
        self._turn: dict[bool, tuple[float, float]] = {}  # by direction: end, begin
        self._quiet = REMEMBERED
        self._share = 0.0  # of the accesses, on fronts
        self._travel = 0.0
        self._passed = np.full(STRETCHES, -np.inf)

    def add(self, page: NDArray[np.uint32]) -> None:
        """Add the samples of one epoch, in order of time."""
        n = len(page)
        few = slice(None, None, max(1, n // MOST_EVENTS))
        at = (np.arange(n) + 0.5) / max(n, 1) - 1.0
        older = [t - 1.0 for t in self._time[-KEPT_EPOCHS + 1 :]]
        self._time = [*older, at[few]]
        self._page = [*self._page[-KEPT_EPOCHS + 1 :], page[few].astype(np.float64)]

    def renew(self, pages: int) -> None:
        """Go on with a longer flat index."""
        self._pages = pages

    def find(self) -> list[Front]:
        """Return the fronts that are there now, seen or believed in."""
        time = np.concatenate(self._time) if self._time else np.empty(0)
        page = np.concatenate(self._page) if self._page else np.empty(0)
        total = len(time)
        least = max(LEAST_EVENTS, LEAST_SHARE * total)
        found: list[Front] = []
        for _ in range(MOST_FRONTS):
            line = self._line(time, page, least)
            if line is None:
                break
            front, on = line
            found.append(front)
            time, page = time[~on], page[~on]
        on_fronts = 1.0 - len(time) / max(1, total)
        self._share += SHARE_GAIN * (on_fronts - self._share)
        self._follow(found)
        return self._now

    def _line(
        self, time: Floats, page: Floats, least: float
    ) -> tuple[Front, Flags] | None:
        """Return the line through most points, and the points; None: no line."""
        n = len(time)
        recent = np.flatnonzero(time > -1.0)
        if n < least or len(recent) < LEAST_RECENT:
            return None
        i = recent[self._rng.integers(0, len(recent), PAIRS)]
        j = self._rng.integers(0, n, PAIRS)
        apart = time[i] - time[j]
        far = np.abs(apart) > LEAST_SPAN
        i, j, apart = i[far], j[far], apart[far]
        speed = (page[i] - page[j]) / apart
        pace = np.abs(speed)
        moves = (pace > 2 * SLACK_PAGES) & (pace < FASTEST * self._pages)
        i, speed = i[moves], speed[moves]
        if not len(i):
            return None
        # The n-th of so many samples comes at n on average, give or take a root.
        slack = SLACK_PAGES + 0.5 / np.sqrt(n / len(self._time)) * np.abs(speed)
        expected = page[i][:, None] + speed[:, None] * (time - time[i][:, None])
        on = np.abs(page - expected) < slack[:, None]
        score = on.sum(1) - CONTRAST * n * 2 * slack / self._pages
        best = int(np.argmax(score))
        mine = on[best]
        late = int(np.count_nonzero(mine & (time > -1.0)))
        if (
            score[best] < LEAST_EVENTS
            or late < LEAST_RECENT
            or np.count_nonzero(mine) < least
        ):
            return None
        slope, now = np.polyfit(time[mine], page[mine], 1)
        if abs(slope) < 2 * SLACK_PAGES:
            return None
        low, high = float(page[mine].min()), float(page[mine].max())
        first, last = (low, high) if slope > 0 else (high, low)
        front = Front(float(now), float(slope), float(slack[best]), first, last)
        return front, mine

    def _follow(self, found: list[Front]) -> None:
        """Join what is seen to what was there; learn where fronts turn."""
        for old in self._now:
            if any(new.continues(old) for new in found):
                continue
            up = old.speed > 0
            fresh = [f for f in found if (f.speed > 0) == up]
            for new in fresh:
                back = (old.page - new.page) * np.sign(old.speed)
                if back > 0 and abs(new.speed - old.speed) < 0.3 * abs(old.speed):
                    # It turned where it was last seen, and began where this one did.
                    self._turn[up] = (old.last, new.first)
        seen = [
            replace(f, first=o.first)
            if (o := next((o for o in self._now if f.continues(o)), None))
            else f
            for f in found
        ]
        unseen = [
            o.next()
            for o in self._now
            if o.unseen < COASTING and not any(f.continues(o) for f in found)
        ]
        self._now = seen + ([] if seen else unseen)

    def ahead(self) -> NDArray[np.int64]:
        """Return the blocks of eight pages that fronts will pass in the next epoch.

        Only of fronts that leave enough of the memory alone: one that passes
        over everything leaves nothing that is better kept, and to follow it
        would be to move memory without end.

        Returns:
            Ranges [first, last), ascending, apart, int64[n, 2].
        """
        fronts = self.find()
        self._quiet = 0 if fronts else self._quiet + 1
        if not self._leave_enough(fronts):
            return np.empty((0, 2), np.int64)
        ranges: list[tuple[float, float]] = []
        for f in fronts:
            step = 1.0 if f.speed > 0 else -1.0
            start, end = f.page - step * f.slack / 2, f.page + f.speed
            ranges.append((start, end))
            turn = self._turn.get(f.speed > 0)
            if turn is None:
                continue
            over = (end - turn[0]) * step
            if 0 < over < abs(f.speed) + f.slack:
                ranges.append((turn[1], turn[1] + step * over))
        return self._blocks(ranges)

    def _blocks(self, ranges: list[tuple[float, float]]) -> NDArray[np.int64]:
        """Return the blocks of ranges of pages, joined where they meet."""
        joined: list[list[int]] = []
        inside = [(max(0.0, min(r)), min(float(self._pages), max(r))) for r in ranges]
        for low, high in sorted(r for r in inside if r[0] < r[1]):
            first, last = int(low) // BLOCK_PAGES, -(-int(high) // BLOCK_PAGES)
            if joined and first <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], last)
            else:
                joined.append([first, last])
        return np.array(joined, np.int64).reshape(-1, 2)

    @property
    def are_about(self) -> bool:
        """Whether there has been a front lately."""
        return self._quiet < REMEMBERED

    @property
    def are_worth_watching(self) -> bool:
        """Whether there are fronts that may leave enough of the memory alone."""
        far = TRAVEL * self._pages
        return self.are_about and (
            self._travel <= far or self._share_passed() < 1.0 - REST
        )

    @property
    def futile_share(self) -> float:
        """Share of the accesses that fronts make which are left alone, [0, 1]."""
        return self._share if self.are_about and not self.are_worth_watching else 0.0

    def _share_passed(self) -> float:
        far = TRAVEL * self._pages
        return float(np.mean(self._passed > self._travel - far))

    def _leave_enough(self, fronts: list[Front]) -> bool:
        size = self._pages / STRETCHES
        for f in fronts:
            low, high = sorted((f.page, f.page - KEPT_EPOCHS * f.speed))
            first, last = int(max(0.0, low) // size), int(max(0.0, high) // size)
            self._passed[first : last + 1] = self._travel
        seen = [abs(f.speed) for f in fronts if f.unseen == 0]
        self._travel += max(seen, default=0.0)
        far = TRAVEL * self._pages
        return self._travel > far and self._share_passed() < 1.0 - REST
