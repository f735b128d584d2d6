"""What moves were said to earn, and what they earned: a sample, followed.

A page is followed if its hash is below a threshold, so that the sample does not
depend on when or how often it moves. When more than ``limit`` entries live, the
threshold halves and the entries above it are let go, uncounted; when fewer than
an eighth live it doubles again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.machine.protocol import SpacesChanged

#: Multiplier of Fibonacci hashing: 2**32 / golden ratio, odd (Knuth, TAOCP 6.4).
_GOLDEN = np.uint32(2654435769)

Direction = str
DIRECTIONS: tuple[Direction, Direction] = ("promotion", "demotion")


@dataclass(frozen=True, slots=True)
class Account:
    """Closed entries of one direction.

    Attributes:
        entries: Followed moves that have ended.
        promised_ns: Sum of what was promised for them.
        realised_ns: Sum of what they earned, their cost taken off.
    """

    entries: int
    promised_ns: float
    realised_ns: float

    @property
    def ratio(self) -> float | None:
        """Realised over promised; None while nothing positive was promised."""
        return self.realised_ns / self.promised_ns if self.promised_ns > 0 else None


class GainLedger:
    """Follows at most ``limit`` moves from promise to result.

    An entry closes when its page is found elsewhere, is moved again, or after
    ``horizon_ns``. Gain is what the page's accesses save against its old node:
    rate * time * (latency there - latency here) / parallelism; for a demotion it
    is a loss, and what the freed slot earned is in the promotion that took it.
    Moves whose policy promises nothing (NaN) are not followed.

    Args:
        limit: Most live entries.
        horizon_ns: A followed move is settled after this time.
    """

    def __init__(self, limit: int = 1024, horizon_ns: int = 60 * NS_PER_S) -> None:
        self._limit = limit
        self._horizon_ns = horizon_ns
        #: Pages whose hash is below ``2**32 >> shift`` are followed.
        self._shift = 0
        self._page = np.empty(0, np.uint32)
        self._src = np.empty(0, np.uint8)
        self._node = np.empty(0, np.uint8)
        self._down = np.empty(0, np.uint8)
        self._promised_ns = np.empty(0, np.float64)
        self._realised_ns = np.empty(0, np.float64)
        self._opened_ns = np.empty(0, np.int64)
        self._entries = np.zeros(2, np.int64)
        self._promised = np.zeros(2, np.float64)
        self._realised = np.zeros(2, np.float64)

    def __len__(self) -> int:
        return len(self._page)

    @property
    def sampled_share(self) -> float:
        """Share of pages that are followed when they move."""
        return 1.0 / (1 << self._shift)

    def admit(self, page: NDArray[np.uint32]) -> NDArray[np.intp]:
        """Return which of the pages that moved are to be followed: their rows.

        Entries of pages that moved again close. The threshold is lowered until
        those that live and those that are new fit.

        Args:
            page: Flat pages that have moved, uint32[n], none twice.
        """
        while len(page) >> self._shift > 4 * self._limit:
            self._shift += 1
        rows = np.flatnonzero(self.sampled(page))
        if len(self._page) and len(rows):
            again = np.sort(page[rows])
            at = np.searchsorted(again, self._page)
            np.minimum(at, len(again) - 1, out=at)
            self._close(again[at] == self._page)
        while len(rows) + len(self._page) > self._limit:
            self._shift += 1
            self._keep(self.sampled(self._page))
            rows = rows[self.sampled(page[rows])]
        return rows

    def open(
        self,
        now_ns: int,
        page: NDArray[np.uint32],
        src: NDArray[np.uint8],
        node: NDArray[np.uint8],
        promised_ns: NDArray[np.float32],
        cost_ns: NDArray[np.float64],
        down: NDArray[np.bool_],
    ) -> None:
        """Begin to follow moves that were just made and admitted.

        Args:
            now_ns: When.
            page: Flat pages, uint32[n], none twice.
            src: Where they were, uint8[n].
            node: Where they are, uint8[n].
            promised_ns: Gain promised, net of cost, float32[n]; NaN: none.
            cost_ns: What each move cost, float64[n].
            down: True for a demotion, bool[n].
        """
        pick = np.flatnonzero(~np.isnan(promised_ns))
        if len(pick) == 0:
            return
        self._page = np.concatenate([self._page, page[pick]])
        self._src = np.concatenate([self._src, src[pick]])
        self._node = np.concatenate([self._node, node[pick]])
        self._down = np.concatenate([self._down, down[pick].astype(np.uint8)])
        self._promised_ns = np.concatenate(
            [self._promised_ns, promised_ns[pick].astype(np.float64)]
        )
        self._realised_ns = np.concatenate([self._realised_ns, -cost_ns[pick]])
        self._opened_ns = np.concatenate(
            [self._opened_ns, np.full(len(pick), now_ns, np.int64)]
        )

    def account_epoch(
        self,
        now_ns: int,
        dt_ns: int,
        rate: Callable[[NDArray[np.uint32]], NDArray[np.float32]],
        node: NDArray[np.uint8],
        latency_ns: NDArray[np.float64],
        parallelism: float = 1.0,
    ) -> None:
        """Credit one epoch to the pages that are followed, close what is over.

        Args:
            now_ns: End of the epoch.
            dt_ns: Its length.
            rate: Gives accesses per second of pages: ``HotnessView.rate``.
            node: Placement of all flat pages, uint8[pages].
            latency_ns: float64[initiators, nodes]; the mean over initiators
                counts, since most sources cannot name who accesses.
            parallelism: Accesses in flight that share a latency, >= 1: what an
                access saves is the difference of latencies over it.
        """
        if len(self._page) == 0:
            return
        stays = node[self._page] == self._node
        latency = latency_ns.mean(axis=0)
        saved_ns = (latency[self._src] - latency[self._node]) / parallelism
        accesses = rate(self._page).astype(np.float64) * (dt_ns / NS_PER_S)
        self._realised_ns += np.where(stays, saved_ns * accesses, 0.0)
        over = now_ns - self._opened_ns >= self._horizon_ns
        over |= ~stays
        self._close(over)
        if self._shift and len(self._page) < self._limit >> 3:
            self._shift -= 1

    def renew(self, change: SpacesChanged) -> None:
        """Let go of followed pages that have a new owner or none, uncounted."""
        if len(self._page):
            self._keep(~change.holds(self._page))

    def let_go(self) -> None:
        """Let go of all moves that are followed, uncounted."""
        self._keep(np.zeros(len(self._page), np.bool_))

    def account(self, direction: Direction) -> Account:
        """Return the closed entries of ``promotion`` or ``demotion``."""
        at = DIRECTIONS.index(direction)
        return Account(
            int(self._entries[at]), float(self._promised[at]), float(self._realised[at])
        )

    @property
    def both(self) -> Account:
        """Closed entries of both directions together."""
        return Account(
            int(self._entries.sum()),
            float(self._promised.sum()),
            float(self._realised.sum()),
        )

    def dearness(self, least_entries: int = 64) -> float:
        """Return by how much to raise the cost of moves whose promises fail.

        1 while promises hold or too few are settled; the inverse of the ratio
        of realised to promised gain where that is below 1, at most 4.
        """
        both = self.both
        if both.entries < least_entries or both.ratio is None or both.ratio >= 1:
            return 1.0
        return 4.0 if both.ratio <= 0.25 else 1.0 / both.ratio

    def to_dict(self) -> dict[str, object]:
        """Return the aggregates in plain numbers."""
        return {
            "live_entries": len(self._page),
            "sampled_share": self.sampled_share,
            **{
                name: {
                    "entries": account.entries,
                    "promised_ns": account.promised_ns,
                    "realised_ns": account.realised_ns,
                    "ratio": account.ratio,
                }
                for name in DIRECTIONS
                for account in (self.account(name),)
            },
        }

    def sampled(self, page: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Return whether a page is followed when it moves, bool[n]."""
        limit = np.uint32((1 << (32 - self._shift)) - 1)
        return page * _GOLDEN <= limit

    def _close(self, over: NDArray[np.bool_]) -> None:
        if not over.any():
            return
        down = self._down[over]
        self._entries += np.bincount(down, minlength=2)
        self._promised += np.bincount(down, self._promised_ns[over], minlength=2)
        self._realised += np.bincount(down, self._realised_ns[over], minlength=2)
        self._keep(~over)

    def _keep(self, mask: NDArray[np.bool_]) -> None:
        self._page = self._page[mask]
        self._src = self._src[mask]
        self._node = self._node[mask]
        self._down = self._down[mask]
        self._promised_ns = self._promised_ns[mask]
        self._realised_ns = self._realised_ns[mask]
        self._opened_ns = self._opened_ns[mask]
