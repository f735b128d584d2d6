"""How much of the memory time what is known saves, or still may.

It decides how much looking may cost, and whether moves are made at all.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.cells import CELLS

FIRST_HOPE: Final = 0.3  # share of the memory time thought recoverable before any look
HOPE_GAIN: Final = 0.2  # how fast that thought follows the estimates, per epoch
LEAST_GAIN: Final = 0.02  # of the memory time: where less is promised no move is made
PATIENCE_GAIN: Final = 0.2  # per epoch with moves, of what it lacks
PATIENCE_KEPT: Final = 0.95  # of the hope beyond what is held, per epoch without moves

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Spread:
    """Accesses over tiers: as they are, as they could be, as chance would have them.

    A figure is a share of the accesses in the fastest tier; those of a tier between
    count for as much of the way from the slowest latency to the fastest as it is.

    Args:
        rate: Rate of every cell.
        population: Pages by cell and tier, int64[CELLS, tiers].
        reach: Pages that each tier and all above it may hold, int64[tiers].
        tier_ns: Latency of each tier.

    Attributes:
        threshold: Rate of the coldest page that would fit into the fastest tier.
        held: Where pages are.
        best: Hottest pages first.
        blind: Pages at random.
    """

    def __init__(
        self, rate: Floats, population: Ints, reach: Ints, tier_ns: Floats
    ) -> None:
        total = population.sum(1)
        present = int(total.sum())
        gap_ns = float(tier_ns[-1] - tier_ns[0])
        way = np.zeros(len(tier_ns))
        way[0] = 1.0
        if gap_ns > 0:
            way[1:-1] = (tier_ns[-1] - tier_ns[1:-1]) / gap_ns
        order = np.argsort(-rate, kind="stable")
        inside = np.cumsum(total[order])
        work = rate[order] * total[order]
        all_work = max(float(work.sum()), 1e-9)

        def above(slots: int) -> tuple[float, float]:
            """Return the rate of the slots-th hottest page and the share above it."""
            at = min(int(np.searchsorted(inside, slots)), CELLS - 1)
            before = int(inside[at - 1]) if at else 0
            found = float(work[:at].sum())
            found += float(rate[order[at]]) * max(0, slots - before)
            return float(rate[order[at]]), found / all_work

        self.threshold, self.best = above(int(reach[0]))
        self.held = float(rate @ population[:, 0]) / max(float(rate @ total), 1e-9)
        self.blind = min(1.0, float(reach[0]) / present)
        higher, slots = self.best, min(int(reach[0]), present)
        for rank in range(1, len(tier_ns) - 1):
            share = float(way[rank])
            upto = min(int(reach[rank]), present)
            _, found = above(upto)
            self.best += share * (found - higher)
            self.held += share * float(rate @ population[:, rank]) / all_work
            self.blind += share * (upto - slots) / present
            higher, slots = found, upto


class Hope:
    """Follows the share of memory time that what is known saves, or still may.

    Attributes:
        recoverable: What the placement holds already counts in full; what knowledge
            promises beyond it counts as long as moves are made: heat that no move
            can catch is not worth looking at. 0 where nothing would be.
        promised: The same with all that knowledge promises: whether moves are made
            is to be judged by it. Where pages are worse placed than by chance, as
            beside free slots of a faster tier, to place them by chance counts, too.
        most: What would be saved if no access went to a slower tier.
    """

    def __init__(self) -> None:
        self.recoverable = self.promised = FIRST_HOPE
        self.most = 0.0
        self._begun = False
        self._patience = 1.0

    @property
    def pays(self) -> bool:
        """Whether perfect knowledge would be worth moves."""
        return not self._begun or self.most > LEAST_GAIN

    def follow(
        self,
        spread: Spread,
        tier_ns: Floats,
        *,
        moves: bool,
        trust: float,
        told: float,
        apart_ns: Floats | None = None,
    ) -> None:
        """Follow an epoch.

        Args:
            spread: Accesses over tiers.
            tier_ns: Latency of each tier.
            apart_ns: The same if no page were accessed by two initiators; None: they
                are not told apart.
            moves: Whether more pages moved than next to none.
            trust: Share of what is found that counts: without accesses of sweeps
                that are left alone, and for more where little has been seen yet.
            told: How much of what an epoch tells there is, in [0, 1].
        """
        self._patience += (1.0 - self._patience) * PATIENCE_GAIN if moves else 0.0
        self._patience *= 1.0 if moves else PATIENCE_KEPT
        worth = _worth(tier_ns, spread.blind)
        base = min(spread.blind, spread.held)
        most = worth if apart_ns is None else max(worth, _worth(apart_ns, spread.blind))
        self._bound(most * (1.0 - base))
        hope = spread.held + max(0.0, spread.best - spread.held) * self._patience
        gain = trust * worth * max(0.0, hope - spread.blind)
        self.recoverable += told * HOPE_GAIN * (gain - self.recoverable)
        if not self.pays:
            self.recoverable = 0.0
        promised = trust * worth * (max(spread.best, spread.held) - base)
        self.promised += told * HOPE_GAIN * (promised - self.promised)

    def _bound(self, most: float) -> None:
        """Follow what can be saved at all; nothing more is hoped for at first."""
        if not self._begun:
            self.recoverable = self.promised = min(FIRST_HOPE, most)
            self.most = most
        self._begun = True
        self.most += HOPE_GAIN * (most - self.most)


def _worth(tier_ns: Floats, blind: float) -> float:
    """Return what the way from the slowest tier to the fastest is, of the memory time.

    Args:
        tier_ns: Latency of each tier.
        blind: Share of accesses in the fastest where pages are placed by chance.
    """
    gap_ns = float(tier_ns[-1] - tier_ns[0])
    return abs(gap_ns) / max(float(tier_ns[0]) + gap_ns * (1 - blind), 1e-9)
