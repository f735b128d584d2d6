"""Colloid (SOSP 2024) on hint faults: balance the latencies, not the hits.

The authors' kernel on NUMA balancing (colloid-mon, kernel/sched/fair.c): while the
fast tier answers slower than the slow one, because it is the busy one, nothing is
promoted, and hot pages of the fast tier are moved out until the two are even.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.numab2 import Numab2, faults_of
from isotherm.policy.paths import TierPaths, moves_to
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup
from isotherm.policy.whose import unnamed_latency

#: Weight of a new reading of the latency every 10 ms (colloid-mon without a core
#: of its own): of 50 readings in half a second the first is forgotten.
READING_WEIGHT, READING_NS = 0.5, 10_000_000


class LoadedLatency:
    """Latency of the fastest tier and of those below it, smoothed.

    Args:
        paths: Tiers.
        weight: Weight of a reading against all that came before.
        reading_ns: Time between two readings.
    """

    def __init__(
        self,
        paths: TierPaths,
        weight: float = READING_WEIGHT,
        reading_ns: int = READING_NS,
    ) -> None:
        self._paths = paths
        self._weight = weight
        self._reading_ns = reading_ns
        self.fast_ns = 0.0
        self.slow_ns = 0.0

    def read(self, epoch: Epoch) -> None:
        """Take an epoch's latencies: means over a tier's nodes, unnamed accesses."""
        by_node = unnamed_latency(epoch.topology, epoch.latency_ns)
        fast = float(by_node[self._paths.fast_nodes].mean())
        slow = float(by_node[self._paths.lower_nodes].mean())
        readings = max(1, epoch.dt_ns // self._reading_ns)
        keep = (1 - self._weight) ** readings if self.fast_ns else 0.0
        self.fast_ns += (1 - keep) * (fast - self.fast_ns)
        self.slow_ns += (1 - keep) * (slow - self.slow_ns)

    @property
    def fast_is_slower(self) -> bool:
        """Whether an access to the fast tier takes longer."""
        return self.fast_ns > self.slow_ns


class Colloid(Numab2):
    """Promote as NUMA balancing does while that lowers the latency, else drain."""

    name = "colloid"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._latency = LoadedLatency(self._paths)

    def decide(self, epoch: Epoch) -> Plan:
        """Return promotions, or hot pages that leave the busy fast tier."""
        self._latency.read(epoch)
        self._lru.see(epoch.hints)
        self._lru.moved(epoch.outcome)
        page, delay_s = faults_of(epoch.hints)
        slow = self._paths.is_lower(epoch.node[page])
        drain = self._latency.fast_is_slower
        up = page[slow][:0] if drain else page[slow]
        dst = self._paths.freest_fast_node(epoch.usage.free_pages)
        up = self._hot_enough(epoch, dst, up, delay_s[slow][: len(up)])
        wanted = np.zeros_like(epoch.usage.free_pages)
        wanted[dst] = len(up)
        demotions, room, looks = self._kswapd.run(
            epoch, epoch.usage.low_pages, epoch.usage.promo_pages, wanted
        )
        promoted = up[: int(room[dst])]
        self._scan.feedback(len(promoted), len(up) - len(promoted))
        drained = Moves.none()
        if drain:
            hot = self._hot_fast(epoch, page[~slow], delay_s[~slow], demotions.page)
            below = epoch.usage.free_pages.copy()
            below -= np.bincount(demotions.node, minlength=len(below))[: len(below)]
            to = self._paths.below(0, len(hot), below)
            drained = moves_to(hot[: len(to)], to, Reason.HOT)
        if self._sees_faults:
            # Mode 4: pages of the top tier get hint faults, too.
            every = [*self._paths.fast_nodes, *self._paths.lower_nodes]
            looks += self._scan.next_looks(epoch.now_ns, epoch.dt_ns, every)
        return Plan(
            Moves.concat(drained, demotions, Moves.to(promoted, dst, Reason.HOT)),
            looks,
            notes={
                "fast_latency_ns": self._latency.fast_ns,
                "slow_latency_ns": self._latency.slow_ns,
                "drained": len(drained),
                "threshold_ms": self._threshold_ms or self._default_ms,
            },
        )

    def _hot_fast(
        self,
        epoch: Epoch,
        page: NDArray[np.uint32],
        delay_s: NDArray[np.float32],
        leaving: NDArray[np.uint32],
    ) -> NDArray[np.uint32]:
        """Return pages of the fast tier that faulted sooner than the threshold."""
        threshold_ms = self._threshold_ms or self._default_ms
        soon = self._latency_ms(delay_s) < threshold_ms
        soon &= self._paths.is_fast(epoch.node[page]) & ~np.isin(page, leaving)
        return page[soon]
