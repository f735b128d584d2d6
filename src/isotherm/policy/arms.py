"""ARMS (2025): a ranking by two moving averages, and moves that must pay.

Steps as in the authors' library (tiering_solutions, src/pebs.c, src/pebs.h), which
builds on HeMem's: no threshold says what is hot, the size of the fast tier does.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import Look, Mechanism, Samples
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.options import read_options
from isotherm.policy.paths import TierPaths, moves_to
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup
from isotherm.policy.spaces import reborn

DEFAULTS: Mapping[str, float] = {
    "short_s": 1.0,  # SHORT_TERM_WND_PERIOD_MS
    "long_s": 10.0,  # LONG_TERM_WND_PERIOD_MS
    "history_bias": 0.4,  # weight of the short average, HIST_BIAS_RECN
    "recency_bias": 0.731,  # RECN_BIAS_RECN
    "cost_multiplier": 1.5,  # CB_MULTIPLIER
    "rate_weight": 0.3,  # HCD_EWMA_ALPHA
    "deviation_weight": 0.1,  # HCD_STD_ALPHA
    "drift": 0.1,  # HCD_PH_DRIFT, in deviations
    "change_threshold": 3.0,  # HCD_PH_THRESHOLD, in deviations
    "recency_periods": 20.0,  # HCD_RECN_MAX_PERIODS
    "migration_threads": 8.0,  # NUM_MIGRATION_THREADS
}


class ChangeDetector:
    """Page and Hinkley's test on the slow tier's traffic: has the hot set moved?

    Args:
        options: Values of ``DEFAULTS``.

    Attributes:
        recent: Recency counts more: a change was seen lately.
    """

    def __init__(self, options: Mapping[str, float]) -> None:
        self._o = options
        self._mean = 0.0
        self._deviation = 0.0
        self._sum = 0.0
        self._periods = 0
        self.recent = False

    def see(self, rate: float) -> None:
        """Take the slow tier's accesses of one period (a second)."""
        o = self._o
        self._mean += o["rate_weight"] * (rate - self._mean)
        off = rate - self._mean
        keep = 1 - o["deviation_weight"]
        variance = keep * self._deviation**2 + o["deviation_weight"] * off * off
        self._deviation = math.sqrt(max(variance, 1e-12))
        self._sum = max(0.0, self._sum + off - o["drift"] * self._deviation)
        if self._sum > o["change_threshold"] * self._deviation:
            self._sum = 0.0
            if not self.recent:
                self.recent, self._periods = True, 0
        elif self.recent:
            self._periods += 1
            if self._periods >= o["recency_periods"] and self._sum <= 0:
                self.recent = False


class Arms:
    """The best-ranked pages belong in the fast tier, if the move pays."""

    name = "arms"
    wants = frozenset({Mechanism.SAMPLING})
    uses_tracker = False

    def __init__(self, setup: Setup) -> None:
        o = self._o = read_options(self.name, setup, DEFAULTS)
        self._paths = TierPaths(setup.topology)
        self._fast_nodes = np.array(self._paths.fast_nodes)
        interval_s = setup.epoch_ns / NS_PER_S
        self._alpha = [2 / (o[w] / interval_s + 1) for w in ("short_s", "long_s")]
        self._average = np.zeros((setup.pages, 2), np.float32)  # accesses an interval
        self._score = np.zeros(setup.pages, np.float32)
        self._hot_age = np.zeros(setup.pages, np.int32)
        self._change = ChangeDetector(o)
        self._period = setup.sampling_period
        self._samples = Mechanism.SAMPLING in setup.hints
        self._accesses_slow = 0.0
        self._since_ns = 0

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the machine's own placement."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that are new memory; the footprint must stay as it is."""
        page = reborn(self.name, change, len(self._score))
        self._average[page], self._score[page], self._hot_age[page] = 0, 0, 0

    def decide(self, epoch: Epoch) -> Plan:
        """Rank pages anew; return the exchanges that pay, best first."""
        self._count(epoch)
        self._watch(epoch)
        before = self._score
        bias = self._o["recency_bias" if self._change.recent else "history_bias"]
        self._score = (
            bias * self._average[:, 0] + (1 - bias) * self._average[:, 1]
        ).astype(np.float32)
        rank = np.argsort(-self._score, kind="stable")
        fits = int(epoch.usage.capacity_pages[self._fast_nodes].sum())
        top = rank[:fits]
        top = top[self._score[top] > 0]
        age = np.zeros_like(self._hot_age)
        age[top] = self._hot_age[top] + 1
        self._hot_age = age
        stays_hot = (age > 1) & (self._score >= before)
        looks: tuple[Look, ...] = ()
        if self._samples:
            # A change has it sample twice as often (5003 instead of 10007).
            period = max(1, self._period // (2 if self._change.recent else 1))
            looks = (Look(Mechanism.SAMPLING, 0, len(epoch.node), period=period),)
        return Plan(
            self._moves(epoch, rank, fits, stays_hot),
            looks,
            notes={
                "recency": float(self._change.recent),
                "ranked": len(top),
                "may_promote": int(np.count_nonzero(stays_hot)),
            },
        )

    def _count(self, epoch: Epoch) -> None:
        """Fold this interval's samples, as accesses, into both averages."""
        count = np.zeros(len(self._average), np.float64)
        for batch in epoch.hints:
            if isinstance(batch.seen, Samples):
                some = np.bincount(batch.seen.page, minlength=len(count))
                count += some * batch.seen.period
        for k, alpha in enumerate(self._alpha):
            self._average[:, k] += alpha * (count - self._average[:, k])
        slow = self._paths.is_lower(epoch.node)
        self._accesses_slow += float(count[slow].sum())

    def _watch(self, epoch: Epoch) -> None:
        """Hand a second's traffic of the slow tier to the change detector."""
        self._since_ns += epoch.dt_ns
        if self._since_ns >= NS_PER_S:
            self._change.see(self._accesses_slow)
            self._since_ns, self._accesses_slow = 0, 0.0

    def _moves(
        self,
        epoch: Epoch,
        rank: NDArray[np.intp],
        fits: int,
        stays_hot: NDArray[np.bool_],
    ) -> Moves:
        """Pair the hottest slow pages with the coldest fast ones while it pays.

        Benefit: difference of the scores, in accesses an interval, times the
        intervals that the page has been hot, taken to be those that it will be,
        times the difference of the latencies. Cost: both moves, times 1.5.
        """
        paths, o = self._paths, self._o
        head, tail = rank[:fits], rank[fits:][::-1]
        hot = head[paths.is_lower(epoch.node[head]) & stays_hot[head]]
        cold = tail[paths.is_fast(epoch.node[tail])]
        free = epoch.usage.free_pages.copy()
        spare = max(0, int(free[self._fast_nodes].sum()))
        lower = np.array(paths.lower_nodes)
        fast_ns = float(epoch.latency_ns[:, self._fast_nodes].mean())
        gain_ns = float(epoch.latency_ns[:, lower].mean()) - fast_ns
        cost = epoch.move_cost_ns
        pair_ns = float(
            cost[np.ix_(lower, self._fast_nodes)].mean()
            + cost[np.ix_(self._fast_nodes, lower)].mean()
        )
        batch = self._batch_size()
        most = int(epoch.dt_ns / max(pair_ns, 1.0) * batch)
        n = min(len(hot), spare + len(cold), most)
        hot = hot[:n]
        partner = np.concatenate([np.full(spare, -1), cold])[:n]
        displaces = partner >= 0
        lost = np.where(displaces, self._score[np.maximum(partner, 0)], 0.0)
        benefit = (self._score[hot] - lost) * self._hot_age[hot] * gain_ns
        pays = benefit >= o["cost_multiplier"] * pair_ns
        least = self._average[hot].min(axis=1)
        worst = self._average[np.maximum(partner, 0)].max(axis=1)
        pays &= ~displaces | (least >= worst)
        # The first pair that does not pay ends it.
        n = int(np.argmin(pays)) if not pays.all() else n
        down = partner[:n][displaces[:n]].astype(np.uint32)
        to = paths.below(0, len(down), free)
        down = down[: len(to)]
        free[self._fast_nodes] += np.bincount(epoch.node[down], minlength=256)[
            self._fast_nodes
        ]
        at = paths.spread(n, self._fast_nodes, free)
        return Moves.concat(
            moves_to(down, to, Reason.COLD), moves_to(hot[: len(at)], at, Reason.HOT)
        )

    def _batch_size(self) -> float:
        """Return how many pages are moved side by side.

        All threads: the simulated slow tier's headroom below the knee of its
        bandwidth is part of the machine's move cost, not known to a policy.
        """
        return self._o["migration_threads"]
