"""Fronts: places where accesses sweep through memory at a steady speed.

A table scanned again and again: page after page is touched for a moment and not
again for long. Heat comes too late for them; where a front will be in the next epoch
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
LEAST_AGE = 2  # epochs that a front must have been seen in
CONTRAST = 2.0  # times as many as a line through evenly spread points has
CANDIDATES = 8  # lines looked at closely
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
        page: Where it is, a flat page.
        speed: Pages per epoch, negative downwards.
        slack: How far from it accesses may be, pages.
        first: Where it came from, as far as seen, a flat page.
        last: How far it has been seen, a flat page.
        unseen: Epochs since it was seen.
        age: Epochs in which it was seen: a line of one may be chance.
    """

    page: float
    speed: float
    slack: float
    first: float
    last: float
    unseen: int = 0
    age: int = 1

    def next(self) -> "Front":
        """Return where it is an epoch later, if nothing changes."""
        return replace(self, page=self.page + self.speed, unseen=self.unseen + 1)

    def continues(self, other: "Front") -> bool:
        """Return whether this front is that one an epoch later."""
        miss = abs(self.page - other.page - other.speed)
        return miss < 3 * self.slack + 0.2 * abs(self.speed)

    def follows(self, other: "Front") -> bool:
        """Return whether this front is that one, after it has turned."""
        behind = (other.page - self.page) * other.speed > 0
        return behind and abs(self.speed - other.speed) < 0.3 * abs(other.speed)


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

    def add(self, *batches: NDArray[np.uint32]) -> None:
        """Add the samples of one epoch; call it for an epoch without any, too.

        Args:
            batches: Sampled flat pages, uint32[n] each, in order of time, taken
                to be spread evenly over the epoch.
        """
        n = sum(map(len, batches))
        few = slice(None, None, max(1, -(-n // MOST_EVENTS)))
        at = [(np.arange(len(b)) + 0.5) / max(len(b), 1) - 1.0 for b in batches]
        time = np.concatenate([np.empty(0), *at])[few]
        page = np.concatenate([np.empty(0), *batches])[few]
        older = [t - 1.0 for t in self._time[-KEPT_EPOCHS + 1 :]]
        self._time = [*older, time]
        self._page = [*self._page[-KEPT_EPOCHS + 1 :], page]

    def renew(self, pages: int) -> None:
        """Begin anew on a flat index of another length or with other owners."""
        self._pages = pages
        self._time, self._page = [], []
        self._now, self._turn = [], {}
        self._passed[:] = -np.inf
        self._travel = self._share = 0.0
        self._quiet = REMEMBERED

    def _find(self) -> list[Front]:
        """Go on by an epoch; return the fronts that are there, seen or believed in."""
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
        best = self._densest(page, on, slack)
        if best is None:
            return None
        mine = on[best]
        late = int(np.count_nonzero(mine & (time > -1.0)))
        if late < LEAST_RECENT or np.count_nonzero(mine) < least:
            return None
        slope, now = np.polyfit(time[mine], page[mine], 1)
        if abs(slope) < 2 * SLACK_PAGES:
            return None
        low, high = float(page[mine].min()), float(page[mine].max())
        first, last = (low, high) if slope > 0 else (high, low)
        front = Front(float(now), float(slope), float(slack[best]), first, last)
        return front, mine

    def _densest(
        self, page: Floats, on: NDArray[np.bool_], slack: Floats
    ) -> int | None:
        """Return the line that stands out most from the pages that it crosses.

        A spot that is hot and stays where it is has many points on any slow line
        through it, and as many beside.

        Args:
            page: Of every point, float64[n].
            on: Which points are on which line, bool[lines, n].
            slack: Of every line, pages.
        """
        for best in np.argsort(-on.sum(1), kind="stable")[:CANDIDATES].tolist():
            mine = page[on[best]]
            low, high = float(mine.min()), float(mine.max())
            about = np.count_nonzero((page >= low) & (page <= high))
            share = min(1.0, 2 * float(slack[best]) / max(high - low, 1.0))
            if len(mine) - CONTRAST * about * share >= LEAST_EVENTS:
                return int(best)
        return None

    def _follow(self, found: list[Front]) -> None:
        """Join what is seen to what was there; learn where fronts turn."""
        for old in self._now:
            if any(new.continues(old) for new in found):
                continue
            for new in found:
                if old.age >= LEAST_AGE and new.follows(old):
                    # It turned where it was last seen, and began where this one did.
                    self._turn[old.speed > 0] = (old.last, new.first)
        seen = [self._joined(f) for f in found]
        unseen = [
            o.next()
            for o in self._now
            if o.unseen < COASTING
            and not any(f.continues(o) or f.follows(o) for f in found)
        ]
        self._now = seen + unseen

    def _joined(self, new: Front) -> Front:
        """Return a front with what is known of it from before."""
        for old in self._now:
            if new.continues(old):
                return replace(new, first=old.first, age=old.age + 1)
            if new.follows(old):
                return replace(new, age=old.age + 1)
        return new

    def advance(self) -> NDArray[np.int64]:
        """Go on by an epoch; return the blocks that fronts will pass in the next one.

        Only of fronts that leave enough of the memory alone: one that passes
        over everything leaves nothing that is better kept, and to follow it
        would be to move memory without end.

        Returns:
            Ranges [first, last), ascending, apart, int64[n, 2].
        """
        fronts = [f for f in self._find() if f.age >= LEAST_AGE]
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
