"""Do moves earn anything? A randomised trial: some are held back.

A page that is about to move is held back with a chance of 1 %, by a hash of its
number and the time, so that neither policy nor page has a say. Pages of both arms
are followed for the same time. The arms were alike when they were drawn: what
differs later is what moving did. Regression to the mean (hot pages cool, whatever
is done) is in both arms and cancels.

For each direction, promotion and demotion::

    gain a page = mean memory time of the held back - mean of the moved - cost

where memory time is the sum over epochs of rate x latency of the page's node /
parallelism x epoch. Means are compared with Welch's standard error; directions
are added, weighted by how many moves were made. Nothing is counted of a page
whose memory has a new owner.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.machine.protocol import NOT_PRESENT, SpacesChanged
from isotherm.policy.plan import Moves

#: Pages followed in each arm and direction.
MOST_FOLLOWED: Final = 2048
#: Settled pages of each arm before anything is said.
LEAST_SETTLED: Final = 32
#: Half-life of what has settled, in settled pages of an arm.
MEMORY: Final = 256
#: Held back at most so much longer than followed: a new draw, for fairness.
DRAW_S: Final = 60.0

Floats = NDArray[np.float64]
Rates = Callable[[NDArray[np.uint32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the moves have earned, net, against those held back.

    Attributes:
        gain_ns: A page moved, mean over both directions, cost taken off.
        error_ns: Its standard error.
        moved: Pages settled in the arm that moved.
        held: Pages settled in the arm that was held back.
    """

    gain_ns: float
    error_ns: float
    moved: int
    held: int

    @property
    def in_errors(self) -> float:
        """The gain in standard errors."""
        return self.gain_ns / max(self.error_ns, 1e-9)


class _Arm:
    """Pages followed, and the moments of what has settled."""

    def __init__(self) -> None:
        self.page = np.empty(0, np.uint32)
        self.time_ns: Floats = np.empty(0)
        self.since_ns = np.empty(0, np.int64)
        self.moments = np.zeros(3)  # count, sum, sum of squares
        self.settled = 0

    def admit(
        self, page: NDArray[np.uint32], cost_ns: float | Floats, now_ns: int
    ) -> None:
        room = MOST_FOLLOWED - len(self.page)
        page = page[~np.isin(page, self.page)][: max(0, room)]
        if len(page) == 0:
            return
        cost = np.broadcast_to(np.asarray(cost_ns, np.float64), len(page))
        self.page = np.concatenate([self.page, page])
        self.time_ns = np.concatenate([self.time_ns, cost])
        self.since_ns = np.concatenate(
            [self.since_ns, np.full(len(page), now_ns, np.int64)]
        )

    def keep(self, mask: NDArray[np.bool_]) -> None:
        self.page = self.page[mask]
        self.time_ns = self.time_ns[mask]
        self.since_ns = self.since_ns[mask]

    def settle(self, now_ns: int, horizon_ns: int) -> None:
        """Close what was followed long enough; what was closed before fades."""
        over = now_ns - self.since_ns >= horizon_ns
        count = int(np.count_nonzero(over))
        if count:
            time = self.time_ns[over]
            self.moments *= 0.5 ** (count / MEMORY)
            self.moments += (count, time.sum(), np.square(time).sum())
            self.settled += count
            self.keep(~over)

    @property
    def mean(self) -> float:
        return float(self.moments[1] / self.moments[0])

    @property
    def variance_of_mean(self) -> float:
        n, total, squares = self.moments
        spread = max(0.0, squares / n - (total / n) ** 2) * n / max(1.0, n - 1)
        return float(spread / n)


class Trial:
    """Holds back a share of the moves and compares.

    Args:
        share: Of the moves to hold back, in [0, 0.5]; 0: no trial.
        rank: Tier of every node, 0 the fastest.
        horizon_s: How long a page is followed.
        seed: Of the draw.
    """

    def __init__(
        self,
        share: float,
        rank: NDArray[np.integer],
        horizon_s: float = DRAW_S,
        seed: int = 1,
    ) -> None:
        self._share = share
        self._rank = np.full(256, 255, np.int64)
        self._rank[: len(rank)] = rank
        self._horizon_ns = round(horizon_s * NS_PER_S)
        self._seed = seed
        self._arms = {down: (_Arm(), _Arm()) for down in (False, True)}
        self._made = {False: 0.0, True: 0.0}
        self.held_back = 0

    def choose(
        self, moves: Moves, node: NDArray[np.uint8], now_ns: int
    ) -> NDArray[np.bool_]:
        """Return which moves may be made, bool[n]; begin to follow the others.

        A page is held back for one draw of the lots, however often it is wished
        for in that time.

        Args:
            moves: The plan's.
            node: Placement of all flat pages.
            now_ns: When.
        """
        if self._share <= 0 or len(moves) == 0:
            return np.ones(len(moves), np.bool_)
        held = self.held(moves.page, now_ns)
        row = np.flatnonzero(held)
        page = moves.page[row]
        down = self._rank[moves.node[row]] > self._rank[node[page]]
        present = node[page] != NOT_PRESENT
        for direction in (False, True):
            arm = self._arms[direction][1]
            before = len(arm.page)
            arm.admit(page[present & (down == direction)], 0.0, now_ns)
            self.held_back += len(arm.page) - before
        return ~held

    def held(self, page: NDArray[np.uint32], now_ns: int) -> NDArray[np.bool_]:
        """Return which pages the present draw holds back, bool[n]."""
        draw = now_ns // self._horizon_ns * 0x9E3779B9 + self._seed * 0x85EBCA6B
        return _mixed(page, draw & 0xFFFFFFFF) < np.uint64(self._share * 2**32)

    def moved(
        self,
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        src: NDArray[np.uint8],
        cost_ns: float,
        now_ns: int,
    ) -> None:
        """Begin to follow moves that were made, a sample of the size of the other.

        Args:
            page: Flat pages that moved.
            node: Where they are.
            src: Where they were.
            cost_ns: What each cost.
            now_ns: When.
        """
        if self._share <= 0 or len(page) == 0:
            return
        down = self._rank[node] > self._rank[src]
        lot = _mixed(page, 0x51ED270B ^ self._seed)
        chosen = lot < np.uint64(min(1.0, 4 * self._share) * 2**32)
        for direction in (False, True):
            mine = down == direction
            self._made[direction] += int(np.count_nonzero(mine))
            self._arms[direction][0].admit(page[mine & chosen], cost_ns, now_ns)

    def account_epoch(
        self,
        now_ns: int,
        dt_ns: int,
        rate: Rates,
        node: NDArray[np.uint8],
        latency_ns: NDArray[np.float64],
        parallelism: float,
    ) -> None:
        """Add one epoch's memory time to the pages of both arms.

        Args:
            now_ns: End of the epoch.
            dt_ns: Its length.
            rate: Accesses per second of pages.
            node: Placement of all flat pages.
            latency_ns: float64[initiators, nodes].
            parallelism: Accesses that share a latency.
        """
        latency = np.zeros(256)
        mean = latency_ns.mean(0) / parallelism
        latency[: len(mean)] = mean
        for moved, held in self._arms.values():
            for arm in (moved, held):
                if len(arm.page):
                    arm.keep(node[arm.page] != NOT_PRESENT)
                    rates = rate(arm.page).astype(np.float64)
                    arm.time_ns = arm.time_ns + rates * latency[node[arm.page]] * (
                        dt_ns / NS_PER_S
                    )
                arm.settle(now_ns, self._horizon_ns)
        for down in self._made:
            self._made[down] *= 0.5 ** (dt_ns / (4 * self._horizon_ns))

    def renew(self, change: SpacesChanged) -> None:
        """Let go of pages that have a new owner or none."""
        for arms in self._arms.values():
            for arm in arms:
                if len(arm.page):
                    arm.keep(~change.holds(arm.page))

    def verdict(self) -> Verdict | None:
        """Return what moving earns; None while too little has settled.

        A direction of which too little is known is left out only where few moves
        go that way.
        """
        total = sum(self._made.values())
        gain = variance = 0.0
        counts = [0, 0]
        for down, (moved, held) in self._arms.items():
            weight = self._made[down] / max(total, 1e-9)
            if min(moved.moments[0], held.moments[0]) < LEAST_SETTLED:
                if weight > 0.1:
                    return None
                continue
            gain += weight * (held.mean - moved.mean)
            variance += weight**2 * (moved.variance_of_mean + held.variance_of_mean)
            counts[0] += moved.settled
            counts[1] += held.settled
        if not counts[1]:
            return None
        return Verdict(gain, variance**0.5, counts[0], counts[1])


def _mixed(page: NDArray[np.uint32], salt: int) -> NDArray[np.uint64]:
    """Return 32 well mixed bits of each page (finaliser of MurmurHash3, Appleby)."""
    x = (page.astype(np.uint64) ^ np.uint64(salt)) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    x = x * np.uint64(0x85EBCA6B) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(13)
    x = x * np.uint64(0xC2B2AE35) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    return x
