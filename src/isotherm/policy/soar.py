"""SOAR (OSDI 2025): profile once, rank objects by what their misses stall, place them.

Steps as in the paper (sections 3.3, 4.1 to 4.3) and the authors' script that scores
objects (run/proc_obj_e.py); a hot object is taken to overlap its misses, a cold one
to wait for them, when the program as a whole is seen to overlap.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import Look, Mechanism, Samples
from isotherm.hotness.latency import CACHE_NS, sample_weights
from isotherm.machine.protocol import Space, SpacesChanged
from isotherm.policy.options import read_options
from isotherm.policy.paths import TierPaths, moves_to
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup
from isotherm.policy.spaces import refuse_renewal
from isotherm.policy.whose import unnamed_latency

DEFAULTS: Mapping[str, float] = {
    "profile_s": 20.0,  # the authors': a run of its own
    "interval_s": 1.0,  # of the counters, `interval`
    "object_pages": 0.0,  # 0: what is told of objects, or all memory as one
    "aol_overlaps": 80.0,  # cycles; below, misses overlap
    "slowdown_base": 0.87,  # a of K = 1 / (a + b / AOL)
    "slowdown_slope": 24.67,  # b
}
#: AOL of the two ends, in cycles on their Skylake: misses waited for one by one, and
#: seven of them in flight.
CHASE_AOL, SWEEP_AOL = 100.0, 40.0
SWEEP_PARALLELISM = 7.0
#: By AOL, from above: what hot and cold objects' scores are scaled by, and the shares
#: of the misses that make one cold (below the first) or hot (from the second on).
STEPS = (
    (60.0, 2.0, 0.4, 0.6),
    (45.0, 4.0, 0.03, 0.7),
    (40.0, 8.0, 0.03, 0.7),
    (-1.0, 12.0, 0.03, 0.7),
)
#: Samples are not needed any more: one in so many is as good as none.
NEVER = 1 << 30

Floats = NDArray[np.float64]


def amortised_latency(share: float) -> float:
    """Return the AOL, latency over misses in flight, of a program, in cycles.

    The authors measure it: cycles with a miss in flight over misses. Here it is the
    line through their two ends.

    Args:
        share: What a miss stalls over its latency, the mean of all, (0, 1].

    >>> amortised_latency(1.0), round(amortised_latency(1 / 7), 6)
    (100.0, 40.0)
    """
    slope = (CHASE_AOL - SWEEP_AOL) / (1 - 1 / SWEEP_PARALLELISM)
    return CHASE_AOL - slope * (1 - share)


def score(share: Floats, slowdown: float, aol: float, overlaps: float) -> Floats:
    """Return the scores of objects in one interval (algorithm 1), float64[objects].

    Args:
        share: Of the misses, per object, float64[objects].
        slowdown: That is predicted, of the whole program.
        aol: Of the whole program, cycles.
        overlaps: AOL from which on nothing overlaps.

    >>> score(np.array([0.63, 0.37]), 1.0, 62.0, 80.0).round(3).tolist()
    [0.315, 0.74]
    """
    even = share * slowdown
    if aol > overlaps:
        return even
    _, factor, cold, hot = next(step for step in STEPS if aol > step[0])
    scaled: Floats = np.where(share >= hot, even / factor, even)
    return np.where(share < cold, even * factor, scaled)


class Soar:
    """Objects by score over size, the best of them in fast memory, once and for all."""

    name = "soar"
    wants = frozenset({Mechanism.SAMPLING})
    uses_tracker = False

    def __init__(self, setup: Setup) -> None:
        self._o = read_options(self.name, setup, DEFAULTS)
        self._paths = TierPaths(setup.topology)
        self._samples = Mechanism.SAMPLING in setup.hints
        starts = _objects(setup.spaces, setup.pages, int(self._o["object_pages"]))
        self._object = np.repeat(
            np.arange(len(starts)), np.diff([*starts, setup.pages])
        )
        self._size = np.bincount(self._object).astype(np.float64)
        self.score: Floats = np.zeros(len(starts))
        self._misses: Floats = np.zeros(len(starts))
        self._waited = self._counted = self._stall_ns = 0.0
        self._profiled_ns = self._interval_ns = 0
        self._wanted: NDArray[np.bool_] | None = None

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the machine's own placement."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Refuse: its state is for one footprint."""
        refuse_renewal(self.name)

    def decide(self, epoch: Epoch) -> Plan:
        """Profile; then rank, and move what is not where it is to stay."""
        looks: tuple[Look, ...] = ()
        if self._wanted is None:
            self._profile(epoch)
            if self._profiled_ns < self._o["profile_s"] * NS_PER_S:
                return Plan(notes={"profiled_s": self._profiled_ns / NS_PER_S})
            fast = epoch.usage.capacity_pages[self._paths.tiers[0]].sum()
            self._wanted = self._place(epoch.node, int(fast))
            if self._samples:
                pages = len(epoch.node)
                looks = (Look(Mechanism.SAMPLING, 0, pages, period=NEVER),)
        return Plan(
            self._moves(epoch, self._wanted),
            looks,
            notes={"objects": len(self.score), "wanted": int(self._wanted.sum())},
        )

    # ---- the profile

    def _profile(self, epoch: Epoch) -> None:
        """Fold an epoch's samples into the interval, and that into the scores."""
        for batch in epoch.hints:
            if isinstance(batch.seen, Samples):
                self._take(batch.seen, epoch)
        self._profiled_ns += epoch.dt_ns
        self._interval_ns += epoch.dt_ns
        if self._interval_ns >= self._o["interval_s"] * NS_PER_S:
            self._end_interval()

    def _take(self, seen: Samples, epoch: Epoch) -> None:
        """Count misses by object; follow what they stall.

        Where samples tell no latency all are misses, each waits for its node's
        latency, and the machine's parallelism divides it.
        """
        page = seen.page
        weight = sample_weights(seen)
        if weight is None or seen.latency_ns is None:
            by_node = unnamed_latency(epoch.topology, epoch.latency_ns)
            page = page[epoch.node[page] < len(by_node)]  # those that have memory
            latency_ns = by_node[epoch.node[page]]
            weight = np.full(len(page), 1.0 / epoch.parallelism)
        else:
            latency_ns = seen.latency_ns.astype(np.float64)
            missed = (latency_ns > CACHE_NS) & ~np.isnan(weight)
            page, weight, latency_ns = page[missed], weight[missed], latency_ns[missed]
        self._misses += np.bincount(self._object[page], minlength=len(self.score))
        self._waited += float(weight.sum())
        self._counted += len(page)
        self._stall_ns += float(weight @ latency_ns) * seen.period

    def _end_interval(self) -> None:
        if self._counted:
            o = self._o
            aol = amortised_latency(self._waited / self._counted)
            pressure = self._stall_ns / self._interval_ns
            slowdown = pressure / (o["slowdown_base"] + o["slowdown_slope"] / aol)
            share = self._misses / self._counted
            self.score += score(share, slowdown, aol, o["aol_overlaps"])
        self._misses[:] = 0
        self._waited = self._counted = self._stall_ns = 0.0
        self._interval_ns = 0

    # ---- the placement

    def _place(self, node: NDArray[np.uint8], room: int) -> NDArray[np.bool_]:
        """Return which pages belong in fast memory (section 4.3), bool[pages].

        Objects by falling unit score as long as they fit; of the first that does
        not, what is there already, then what comes first.
        """
        wanted = np.zeros(len(node), np.bool_)
        unit = self.score / self._size
        for at in np.argsort(-unit, kind="stable"):
            if unit[at] <= 0:
                break
            mine = np.flatnonzero(self._object == at)
            if len(mine) > room:
                there = self._paths.is_fast(node[mine])
                mine = np.concatenate([mine[there], mine[~there]])[:room]
            wanted[mine] = True
            room -= len(mine)
            if room == 0:
                break
        if room:  # nothing is known of the rest: it stays, as far as there is room
            stays = np.flatnonzero(self._paths.is_fast(node) & ~wanted)
            wanted[stays[:room]] = True
        return wanted

    def _moves(self, epoch: Epoch, wanted: NDArray[np.bool_]) -> Moves:
        """Return what still has to go, demotions first, each side as far as it fits."""
        paths, free = self._paths, epoch.usage.free_pages.copy()
        fast = np.array(paths.fast_nodes)
        up = np.flatnonzero(wanted & paths.is_lower(epoch.node))
        spare = max(0, int(free[fast].sum()))
        down = np.flatnonzero(~wanted & paths.is_fast(epoch.node))
        down = down[: max(0, len(up) - spare)]
        to = paths.below(0, len(down), free)
        down = down[: len(to)]
        free[fast] += np.bincount(epoch.node[down], minlength=256)[fast]
        at = paths.spread(len(up), paths.tiers[0], free)
        return Moves.concat(
            moves_to(down, to, Reason.COLD), moves_to(up[: len(at)], at, Reason.HOT)
        )


def _objects(spaces: tuple[Space, ...], pages: int, size: int) -> list[int]:
    """Return the first page of every object, ascending from 0.

    Args:
        spaces: What is told of who owns what.
        pages: Length of the flat index.
        size: Pages of an object; 0: as told, or all one.
    """
    if size:
        return list(range(0, pages, size))
    starts = {0, *(space.base for space in spaces if 0 < space.base < pages)}
    return sorted(starts)
