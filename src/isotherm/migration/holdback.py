"""Moves held back at random, and what their pages did compared with those moved.

A tracker that believes in a page goes on believing in it after the move: what it
says of moved pages alone cannot show that the moves were in vain. So of every
batch that is about to go a small random share is not moved and left where it is,
and as many of those that go are followed beside them. Chance alone tells the two
arms apart. What a move has realised is the memory time of the pages held back
less that of the pages moved, the cost of the move among it.

A move that was tried counts as moved, whatever became of it; both arms are
followed for the same time, wherever their pages are then. The pages' own rates at
the start explain most of the spread; their part is taken out of the comparison by
regression, which a random choice of arms allows (analysis of covariance; as CUPED:
Deng, Xu, Kohavi and Walker, WSDM 2013).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, PAGES_PER_HUGE_PAGE
from isotherm.machine.protocol import SpacesChanged

#: In the errno column of a batch that is done: not tried, held back.
HELD_BACK = -1
#: How long a page is followed, and one that was held back left alone.
DEFAULT_HOLD_NS = 30 * NS_PER_S
#: Batches over which a huge page's arm stays.
HUGE_BATCHES = 8
#: Arms: columns of the sums.
HELD, MOVED = 0, 1
#: Settled pages of each arm and direction before they are compared.
LEAST_ENTRIES = 30
#: Sums of an arm: pages, promise, y, x, y y, x y, x x.
_N, _PROMISE, _Y, _X, _YY, _XY, _XX = range(7)
# Odd multipliers of the splitmix64 generator (Steele, Lea and Flood, OOPSLA 2014).
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = 0x9E3779B97F4A7C15

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What moves promised and what they realised, against those held back.

    Attributes:
        held: Settled pages that were held back.
        moved: Settled pages that were moved and followed.
        promised_ns: Promised for those moved, all together.
        realised_ns: Memory time that they saved, the cost of moves taken off.
        error_ns: Standard error of that.
    """

    held: int
    moved: int
    promised_ns: float
    realised_ns: float
    error_ns: float

    @property
    def ratio(self) -> float | None:
        """Realised over promised; None while nothing positive was promised."""
        return self.realised_ns / self.promised_ns if self.promised_ns > 0 else None

    @property
    def is_loss(self) -> bool:
        """Whether moves cost more than they save, beyond two standard errors."""
        return self.realised_ns + 2.0 * self.error_ns < 0


class HoldBack:
    """Draws the arms, follows both, compares them.

    ``arm`` may be called by another thread than the rest.

    Args:
        share: Of the moves, held back; as many that go are followed.
        horizon_ns: How long a page is followed, and a held one left alone.
        limit: Most pages followed; the share halves as long as there are more.
        half_life_ns: Of what has been settled.
        seed: For the draw.
    """

    def __init__(
        self,
        share: float = 0.01,
        *,
        horizon_ns: int = DEFAULT_HOLD_NS,
        limit: int = 4096,
        half_life_ns: int = 300 * NS_PER_S,
        seed: int = 1,
    ) -> None:
        if not 0 <= share <= 0.5:
            raise ValueError(f"share: expected 0 to 0.5, got {share}")
        self.horizon_ns = horizon_ns
        self._share = share
        self._limit = limit
        self._half_life_ns = half_life_ns
        self._seed = np.uint64(seed)
        self._shift = 0
        self._page = np.empty(0, np.uint32)
        self._arm = np.empty(0, np.uint8)
        self._down = np.empty(0, np.uint8)
        self._promise = np.empty(0, np.float64)
        self._spent_ns = np.empty(0, np.float64)
        self._expected_ns = np.empty(0, np.float64)  # NaN before the first epoch
        self._opened_ns = np.empty(0, np.int64)
        #: float64[direction, arm, sums]
        self._sums = np.zeros((2, 2, 7))
        #: Which ranges of 512 pages are huge, as last seen, bool[n]: they move whole.
        self.huge = np.empty(0, np.bool_)

    def __len__(self) -> int:
        return len(self._page)

    @property
    def share(self) -> float:
        """Share of moves that is held back now."""
        return self._share / (1 << self._shift)

    def arm(
        self, page: NDArray[np.uint32], batch: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which pages of a batch are held back, and which are followed.

        The same batch is drawn alike whenever it is asked for, while the share
        stays. Pages of a huge page are drawn as one, over a few batches, of which
        they may be in two.

        Args:
            page: Flat pages, uint32[n].
            batch: Number of the batch.
        """
        salt = np.uint64((batch + 1) * _GOLDEN & 0xFFFFFFFFFFFFFFFF)
        x = page.astype(np.uint64) + salt
        huge, block = self.huge, page.astype(np.int64) // PAGES_PER_HUGE_PAGE
        inside = block < len(huge)
        inside[inside] = huge[block[inside]]
        if inside.any():
            some = (batch // HUGE_BATCHES + 1) * _GOLDEN & 0xFFFFFFFFFFFFFFFF
            x[inside] = block[inside].astype(np.uint64) + np.uint64(some)
        x = (x ^ (x >> np.uint64(30)) ^ self._seed) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
        draw = (x ^ (x >> np.uint64(31))) >> np.uint64(11)
        u = draw.astype(np.float64) / float(1 << 53)
        share = self.share
        return u < share, (u >= share) & (u < 2.0 * share)

    def follow(
        self,
        now_ns: int,
        page: NDArray[np.uint32],
        arm: int,
        promised_ns: NDArray[np.float32],
        cost_ns: Floats,
        down: NDArray[np.bool_],
    ) -> None:
        """Begin to follow pages of one arm; those that are followed stay as they are.

        Args:
            now_ns: When.
            page: Flat pages, uint32[n], none twice.
            arm: ``HELD`` or ``MOVED``.
            promised_ns: Gain promised, float32[n]; NaN: not followed.
            cost_ns: What trying each cost, float64[n].
            down: True for a demotion, bool[n].
        """
        pick = np.flatnonzero(~np.isnan(promised_ns) & ~np.isin(page, self._page))
        n = len(pick)
        if n == 0:
            return
        self._page = np.concatenate([self._page, page[pick]])
        self._arm = np.concatenate([self._arm, np.full(n, arm, np.uint8)])
        self._down = np.concatenate([self._down, down[pick].astype(np.uint8)])
        promise = promised_ns[pick].astype(np.float64)
        self._promise = np.concatenate([self._promise, promise])
        self._spent_ns = np.concatenate([self._spent_ns, cost_ns[pick]])
        self._expected_ns = np.concatenate([self._expected_ns, np.full(n, np.nan)])
        opened = np.full(n, now_ns, np.int64)
        self._opened_ns = np.concatenate([self._opened_ns, opened])
        if len(self._page) > self._limit:
            self._shift += 1

    def account_epoch(
        self,
        now_ns: int,
        dt_ns: int,
        rate: Callable[[NDArray[np.uint32]], NDArray[np.float32]],
        node: NDArray[np.uint8],
        latency_ns: Floats,
        parallelism: float = 1.0,
    ) -> None:
        """Charge one epoch's memory time to the pages that are followed.

        Args:
            now_ns: End of the epoch.
            dt_ns: Its length.
            rate: Gives accesses per second of pages.
            node: Placement of all flat pages, uint8[pages].
            latency_ns: float64[initiators, nodes].
            parallelism: Accesses in flight that share a latency, >= 1.
        """
        self._sums *= 0.5 ** (dt_ns / self._half_life_ns)
        if self._shift and len(self._page) < self._limit >> 3:
            self._shift -= 1
        if len(self._page) == 0:
            return
        here = node[self._page]
        gone = here >= len(latency_ns[0])  # without memory, or nobody knows where
        latency = latency_ns.mean(axis=0) / parallelism
        per_s = rate(self._page).astype(np.float64)
        spent = per_s * latency[np.where(gone, 0, here)]
        self._spent_ns += np.where(gone, 0.0, spent * (dt_ns / NS_PER_S))
        # Where a page is tells its arm: what is expected must not know it.
        flat = per_s * (float(latency.mean()) * self.horizon_ns / NS_PER_S)
        new = np.isnan(self._expected_ns)
        self._expected_ns[new] = flat[new]
        self._settle(gone | (now_ns - self._opened_ns >= self.horizon_ns))

    def renew(self, change: SpacesChanged) -> None:
        """Let go of followed pages that have a new owner or none, uncounted."""
        if len(self._page):
            self._keep(~change.holds(self._page))

    def let_go(self) -> None:
        """Let go of all pages that are followed, uncounted."""
        self._keep(np.zeros(len(self._page), np.bool_))

    def compare(self, least_entries: int = LEAST_ENTRIES) -> Comparison | None:
        """Return what moves have realised; None while too few are settled."""
        held = moved = 0.0
        promised = realised = variance = 0.0
        for direction in range(2):
            sums = self._sums[direction]
            if sums[:, _N].sum() == 0:
                continue
            if sums[:, _N].min() < least_entries:
                # A direction that hardly occurs may be left out, not one that does.
                if sums[:, _N].sum() * 20 < self._sums[..., _N].sum():
                    continue
                return None
            saved, error2 = _difference(sums)
            n = sums[MOVED, _N]
            held += sums[HELD, _N]
            moved += n
            promised += sums[MOVED, _PROMISE]
            realised += n * saved
            variance += n * n * error2
        if moved == 0:
            return None
        return Comparison(
            round(held), round(moved), promised, realised, float(np.sqrt(variance))
        )

    def dearness(self) -> float | None:
        """Return by how much to raise the cost of moves; None: not known yet.

        1 while what was realised is not below what was promised by more than a
        standard error; else the inverse of their ratio, at most 4.
        """
        found = self.compare()
        if found is None or found.promised_ns <= 0:
            return None
        ratio = (found.realised_ns + found.error_ns) / found.promised_ns
        return min(4.0, 1.0 / ratio) if ratio > 0 and ratio < 1 else _end(ratio)

    def to_dict(self) -> dict[str, object]:
        """Return the comparison in plain numbers."""
        found = self.compare()
        out: dict[str, object] = {"share": self.share, "live_entries": len(self._page)}
        if found is not None:
            out |= {
                "held": found.held,
                "moved": found.moved,
                "promised_ns": found.promised_ns,
                "realised_ns": found.realised_ns,
                "error_ns": found.error_ns,
            }
        return out

    def _settle(self, over: NDArray[np.bool_]) -> None:
        if not over.any():
            return
        x, y = self._expected_ns[over], self._spent_ns[over]
        one = np.ones(len(x))
        rows = np.stack([one, self._promise[over], y, x, y * y, x * y, x * x], axis=1)
        np.add.at(self._sums, (self._down[over], self._arm[over]), rows)
        self._keep(~over)

    def _keep(self, mask: NDArray[np.bool_]) -> None:
        self._page = self._page[mask]
        self._arm = self._arm[mask]
        self._down = self._down[mask]
        self._promise = self._promise[mask]
        self._spent_ns = self._spent_ns[mask]
        self._expected_ns = self._expected_ns[mask]
        self._opened_ns = self._opened_ns[mask]


def _end(ratio: float) -> float:
    """Return the dearness beyond the ratios that have an inverse."""
    return 1.0 if ratio >= 1 else 4.0


def _difference(sums: Floats) -> tuple[float, float]:
    """Return what a move saves, held less moved, and the square of its error.

    One slope for both arms (their covariances pooled), so that the difference of
    what was expected of the arms is taken out.
    """
    n = sums[:, _N]
    mean_y, mean_x = sums[:, _Y] / n, sums[:, _X] / n
    var_y = np.maximum(sums[:, _YY] / n - mean_y**2, 0.0)
    var_x = np.maximum(sums[:, _XX] / n - mean_x**2, 0.0)
    both = sums[:, _XY] / n - mean_x * mean_y
    spread = float((n * var_x).sum())
    slope = float((n * both).sum()) / spread if spread > 0 else 0.0
    left = np.maximum(var_y - 2.0 * slope * both + slope**2 * var_x, 0.0)
    saved = float(mean_y[HELD] - mean_y[MOVED])
    saved -= slope * float(mean_x[HELD] - mean_x[MOVED])
    return saved, float((left / np.maximum(n - 2.0, 1.0)).sum())
