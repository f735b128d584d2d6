"""Colloid (SOSP 2024) on samples: even out what waits in the tiers' queues.

The authors' HeMem (hemem, branch colloid; SCAN_AND_SORT): by Little's law a tier's
occupancy is its rate of accesses times its latency. Pages change places between the
tiers, largest difference first, until the occupancies are even. The paper evens out
the latencies instead: the option ``balance_latency``.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import Samples
from isotherm.policy.colloid import LoadedLatency
from isotherm.policy.hemem import DEFAULTS as HEMEM_DEFAULTS
from isotherm.policy.hemem import HeMem
from isotherm.policy.paths import moves_to
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup

#: Weight of a round's reading of the counters.
ROUND_WEIGHT = 0.0625
#: Latencies that differ by less, relatively, are even: epsilon of the paper, from
#: memory.
EVEN = 0.01


class ColloidHeMem(HeMem):
    """HeMem's counts decide which pages, the occupancies how many."""

    name = "colloid-hemem"
    defaults: Mapping[str, float] = {
        **HEMEM_DEFAULTS,
        "beta": 1.0,
        "balance_latency": 0.0,
    }

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        round_ns = max(1, int(self._o["round_ms"] * 1e6))
        self._latency = LoadedLatency(self._paths, ROUND_WEIGHT, round_ns)
        self._rounds = max(1, setup.epoch_ns // round_ns)
        self._share = 0.0  # of accesses that the fast tier serves, smoothed
        self._seen = False

    def decide(self, epoch: Epoch) -> Plan:
        """Return the exchanges that even out the occupancies."""
        self._latency.read(epoch)
        self._read_share(epoch)
        plan = super().decide(epoch)
        return Plan(
            plan.moves,
            plan.look,
            notes={
                **plan.notes,
                "fast_latency_ns": self._latency.fast_ns,
                "slow_latency_ns": self._latency.slow_ns,
                "fast_share": self._share,
            },
        )

    def _read_share(self, epoch: Epoch) -> None:
        """Take the share of this epoch's samples that were on the fast tier."""
        node = [
            epoch.node[b.seen.page] for b in epoch.hints if isinstance(b.seen, Samples)
        ]
        all_nodes = np.concatenate([np.empty(0, np.uint8), *node])
        if len(all_nodes) == 0:
            return
        now = float(self._paths.is_fast(all_nodes).mean())
        keep = (1 - ROUND_WEIGHT) ** self._rounds if self._seen else 0.0
        self._share += (1 - keep) * (now - self._share)
        self._seen = True

    def imbalance(self) -> float:
        """Return the share of accesses that should change tiers, up positive.

        ``(beta Or - Ol) / ((Il + Ir) (beta Or / Ir + Ol / Il))`` with occupancies
        O and rates I of the local and the remote tier, and O / I the latency. With
        ``balance_latency`` the difference of the latencies over their sum, or 0 if
        they differ by less than `EVEN`.
        """
        beta = self._o["beta"]
        fast, slow = self._latency.fast_ns, self._latency.slow_ns
        if self._o["balance_latency"] > 0:
            apart = (slow - fast) / (slow + fast)
            return apart if abs(slow - fast) > EVEN * fast else 0.0
        waits = beta * (1 - self._share) * slow - self._share * fast
        return waits / (beta * slow + fast)

    def _moves(self, epoch: Epoch) -> Moves:
        """Exchange the hottest of the overloaded tier for the coldest of the other.

        Every exchange moves the difference of the two pages' shares of the
        samples; it is made if that is positive and no more than what is left.
        """
        count = self._counts.sum(axis=1).astype(np.float64)
        total = float(count.sum())
        delta = self.imbalance() if self._seen else 0.0
        if total == 0 or delta == 0:
            return Moves.none()
        share = count / total
        of_unit = epoch.node[np.arange(self._units) * self._unit_pages]
        fast = np.flatnonzero(self._paths.is_fast(of_unit))
        slow = np.flatnonzero(self._paths.is_lower(of_unit))
        loaded, other = (slow, fast) if delta > 0 else (fast, slow)
        loaded = loaded[np.argsort(-share[loaded], kind="stable")]
        other = other[np.argsort(share[other], kind="stable")]
        free = epoch.usage.free_pages
        nodes = self._paths.fast_nodes if delta > 0 else self._paths.lower_nodes
        spare = max(int(free[nodes].sum()), 0) // self._unit_pages
        # Free pages first: there the other side has nothing to give back.
        other = np.concatenate([np.full(spare, -1), other])
        n = min(len(loaded), len(other), self._move_pages)
        loaded, other = loaded[:n], other[:n]
        back = np.where(other >= 0, share[np.maximum(other, 0)], 0.0)
        gain = share[loaded] - back
        fits = (gain > 0) & (gain <= abs(delta))
        chosen = np.flatnonzero(fits)
        chosen = chosen[np.cumsum(gain[chosen]) <= abs(delta)]
        give = other[chosen]
        give = give[give >= 0]
        up, down = (loaded[chosen], give) if delta > 0 else (give, loaded[chosen])
        return self._exchange(epoch, up, down)

    def _exchange(
        self, epoch: Epoch, up: NDArray[np.intp], down: NDArray[np.intp]
    ) -> Moves:
        """Return the moves of whole units in both directions."""
        fast_nodes = np.array(self._paths.fast_nodes)
        free = epoch.usage.free_pages.copy()
        demote = self._pages_of(down, self._paths.is_fast(epoch.node))
        promote = self._pages_of(up, self._paths.is_lower(epoch.node))
        to = self._paths.below(0, len(demote), free)
        demote = demote[: len(to)]
        free[fast_nodes] += np.bincount(epoch.node[demote], minlength=256)[fast_nodes]
        at = self._paths.spread(len(promote), fast_nodes, free)
        self._to_tail(np.concatenate([down, up]))
        return Moves.concat(
            moves_to(demote, to, Reason.COLD),
            moves_to(promote[: len(at)], at, Reason.HOT),
        )
