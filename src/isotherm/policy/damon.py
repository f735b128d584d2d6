"""DAMON's tiering schemes: hot regions go up, cold ones down, each under a quota.

DAMOS ``migrate_hot`` and ``migrate_cold`` (mm/damon/core.c, ops-common.c) as two
people configure them: ``damon`` is damo's scripts/mem_tier.sh, quotas that follow
goals for the fast node's use; ``hmsdk`` is HMSDK 4's tools/gen_migpol.py, fixed
quotas and a least age of cold regions.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.hints.batch import (
    BLOCK_PAGES,
    AccessedBits,
    Look,
    Mechanism,
    RegionCounts,
)
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.options import REFERENCE_GIB, read_options, scale_of
from isotherm.policy.paths import TierPaths, moves_to
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup
from isotherm.policy.spaces import reborn

#: damo's scripts/mem_tier.sh.
MEM_TIER: Mapping[str, float] = {
    "reference_gib": REFERENCE_GIB,
    "apply_interval_s": 1.0,
    "promote_min_access": 0.05,  # of the checks of an aggregation
    "demote_min_age_s": 0.0,
    "promote_mb": 200.0,  # in every quota interval
    "demote_mb": 200.0,
    "quota_interval_s": 1.0,
    "used_goal": 0.997,  # node_mem_used_bp of the fast node; 0: no goal
    "free_goal": 0.005,  # node_mem_free_bp
    "young_filter": 1.0,  # promote what is young, demote what is not
    "access_weight": 1.0,  # DAMOS' defaults: both count alike
    "age_weight": 1.0,
}
#: HMSDK's tools/gen_migpol.py: 50 GB in 20 s, cold for 30 s, only age weighs.
GEN_MIGPOL: Mapping[str, float] = {
    **MEM_TIER,
    "apply_interval_s": 2.0,
    "demote_min_age_s": 30.0,
    "promote_mb": 51_200.0,
    "demote_mb": 51_200.0,
    "quota_interval_s": 20.0,
    "used_goal": 0.0,
    "free_goal": 0.0,
    "young_filter": 0.0,
    "access_weight": 0.0,
}
GOAL = 10_000  #: DAMOS scores are shares of the goal in 1/10000
MAX_AGE_LOG, MAX_SCORE = 32, 99  # DAMON_MAX_AGE_IN_LOG, DAMOS_MAX_SCORE
#: Bytes: 10000, and the largest unsigned long, in the kernel's unit.
LEAST_QUOTA, MOST_QUOTA = 1.0, float(1 << 64) / 10_000


def next_quota(last_bytes: float, score: float) -> float:
    """Return the next quota of a goal (damon_feed_loop_next_input()).

    Up by the share that is missing of the goal, at most doubled; down by the share
    that is too much, at least to one byte. It stays in what a long of the kernel holds.

    Args:
        last_bytes: The quota before.
        score: 10000 is the goal reached.

    >>> next_quota(100.0, 5_000), next_quota(100.0, 10_000), next_quota(100.0, 12_500)
    (150.0, 100.0, 75.0)
    """
    change = last_bytes * min(abs(GOAL - score), GOAL) / GOAL
    if score < GOAL:
        return min(last_bytes + change, MOST_QUOTA)
    return max(last_bytes - change, LEAST_QUOTA)


def hot_scores(
    seen: RegionCounts, access_weight: float, age_weight: float, age_s: float
) -> NDArray[np.int64]:
    """Return the hotness of every region, 0 to 99 (damon_hot_score()).

    Args:
        seen: Regions.
        access_weight: Weight of how often.
        age_weight: Weight of for how long; what is not accessed gets colder by it.
        age_s: Seconds of one aggregation.
    """
    frequency = 100 * seen.nr_accesses.astype(np.int64) // max(seen.checks, 1)
    seconds = (seen.age * age_s).astype(np.int64)
    log = np.where(seconds > 0, np.frexp(seconds)[1], 0)  # floor(log2) + 1
    log = np.minimum(log, MAX_AGE_LOG)
    log = np.where(frequency == 0, -log, log)
    age = (log + MAX_AGE_LOG) * 100 // (2 * MAX_AGE_LOG)
    both = max(access_weight + age_weight, 1e-9)
    score = (access_weight * frequency + age_weight * age) / both
    scores: NDArray[np.int64] = np.minimum(score * MAX_SCORE / 100, MAX_SCORE).astype(
        np.int64
    )
    return scores


class Quota:
    """Bytes that a scheme may try in an interval.

    Args:
        limit_bytes: Fixed limit.
        interval_s: Of one quota.
        goal: Whether the limit is approached by a goal, from one byte up.
    """

    def __init__(self, limit_bytes: float, interval_s: float, *, goal: bool) -> None:
        self._limit = limit_bytes
        self._interval_ns = int(interval_s * NS_PER_S)
        self._goal = goal
        self._tuned = LEAST_QUOTA
        self._until_ns = 0
        self.left_bytes = 0.0

    def renew(self, now_ns: int, score: float) -> None:
        """Begin the next interval if it is time; tune by the goal's score."""
        if now_ns < self._until_ns:
            return
        self._until_ns = now_ns + self._interval_ns
        self.left_bytes = self._limit
        if self._goal:
            self._tuned = next_quota(self._tuned, score)
            self.left_bytes = min(self._limit, self._tuned)


class Damon:
    """Two schemes on DAMON's regions, as damo's script sets them up."""

    name = "damon"
    wants = frozenset({Mechanism.REGION, Mechanism.ACCESSED_BIT})
    uses_tracker = False
    defaults: Mapping[str, float] = MEM_TIER

    def __init__(self, setup: Setup) -> None:
        o = self._o = read_options(self.name, setup, self.defaults)
        self._paths = TierPaths(setup.topology)
        self._pages = setup.pages
        self._byte = scale_of(setup.pages, o["reference_gib"]) / PAGE_BYTES
        self._up = Quota(
            o["promote_mb"] * (1 << 20), o["quota_interval_s"], goal=o["used_goal"] > 0
        )
        self._down = Quota(
            o["demote_mb"] * (1 << 20), o["quota_interval_s"], goal=o["free_goal"] > 0
        )
        self._filter = o["young_filter"] > 0 and Mechanism.ACCESSED_BIT in setup.hints
        self._due_ns = 0
        self._regions: RegionCounts | None = None
        self._aggregation_s = 0.1
        none = np.empty(0, np.uint32)
        self._chosen = (none, none)  # pages to promote and demote, if the filter lets

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the machine's own placement."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Go on: regions know no pages. The footprint must stay as it is."""
        reborn(self.name, change, self._pages)

    def decide(self, epoch: Epoch) -> Plan:
        """Apply both schemes once per apply interval.

        A young filter needs each page's accessed bit: the pages are chosen in one
        epoch and looked at, and what passes moves in the next.
        """
        for batch in epoch.hints:
            if isinstance(batch.seen, RegionCounts):
                self._regions = batch.seen
                self._aggregation_s = batch.seen.checks * batch.seen.interval_s
        if self._filter:
            up, down = self._filtered(epoch)
        else:
            up = down = np.empty(0, np.uint32)
        looks: tuple[Look, ...] = ()
        if self._regions is not None and epoch.now_ns >= self._due_ns:
            self._due_ns = epoch.now_ns + int(self._o["apply_interval_s"] * NS_PER_S)
            chosen = self._choose(epoch, self._regions)
            if self._filter:
                self._chosen = chosen
                looks = self._look_at(np.concatenate(chosen))
            else:
                up, down = chosen
        return Plan(
            self._moves(epoch, up, down),
            looks,
            notes={
                "promote_quota_pages": self._up.left_bytes * self._byte,
                "demote_quota_pages": self._down.left_bytes * self._byte,
            },
        )

    def _choose(
        self, epoch: Epoch, seen: RegionCounts
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return the pages that each scheme tries, best regions first."""
        o = self._o
        usage, fast = epoch.usage, self._paths.fast_nodes
        capacity = max(int(usage.capacity_pages[fast].sum()), 1)
        free = int(usage.free_pages[fast].sum()) / capacity
        used_score = GOAL * (1 - free) / max(o["used_goal"], 1e-9)
        free_score = GOAL * max(free, 0.0) / max(o["free_goal"], 1e-9)
        self._up.renew(epoch.now_ns, used_score)
        self._down.renew(epoch.now_ns, free_score)
        score = hot_scores(
            seen, o["access_weight"], o["age_weight"], self._aggregation_s
        )
        often = seen.nr_accesses >= max(1, o["promote_min_access"] * seen.checks)
        never = seen.nr_accesses == 0
        never &= seen.age * self._aggregation_s >= o["demote_min_age_s"]
        hot = np.flatnonzero(often)
        hot = hot[np.argsort(-score[hot], kind="stable")]
        cold = np.flatnonzero(never)
        cold = cold[np.argsort(score[cold], kind="stable")]
        lower = self._paths.is_lower(epoch.node)
        upper = self._paths.is_fast(epoch.node)
        return (
            self._within(self._up, seen, hot, lower),
            self._within(self._down, seen, cold, upper),
        )

    def _within(
        self,
        quota: Quota,
        seen: RegionCounts,
        region: NDArray[np.intp],
        member: NDArray[np.bool_],
    ) -> NDArray[np.uint32]:
        """Return the scheme's pages in the order of regions, as the quota lets.

        Each context watches one node, so only its pages count; what is tried is
        charged, whether it moves or not.
        """
        most = int(quota.left_bytes * self._byte)
        found = [np.empty(0, np.uint32)]
        for r in region.tolist():
            if most <= 0:
                break
            start = int(seen.start[r])
            page = np.flatnonzero(member[start : int(seen.end[r])])[:most] + start
            most -= len(page)
            found.append(page.astype(np.uint32))
        pages = np.concatenate(found)
        quota.left_bytes -= len(pages) / self._byte
        return pages

    def _look_at(self, page: NDArray[np.uint32]) -> tuple[Look, ...]:
        """Return looks at the blocks of pages, joined where they are near."""
        if len(page) == 0:
            return ()
        block = np.unique(page // BLOCK_PAGES).astype(np.int64)
        first = np.flatnonzero(np.diff(block, prepend=block[0] - BLOCK_PAGES) > 1)
        last = np.append(first[1:] - 1, len(block) - 1)
        return tuple(
            Look(
                Mechanism.ACCESSED_BIT,
                int(block[a]) * BLOCK_PAGES,
                min((int(block[b]) + 1) * BLOCK_PAGES, self._pages),
            )
            for a, b in zip(first, last, strict=True)
        )

    def _filtered(self, epoch: Epoch) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return the chosen pages that their accessed bits let pass."""
        up, down = self._chosen
        none = np.empty(0, np.uint32)
        self._chosen = (none, none)
        young = np.zeros(self._pages + BLOCK_PAGES, np.bool_)
        looked = np.zeros(self._pages + BLOCK_PAGES, np.bool_)
        for batch in epoch.hints:
            if isinstance(batch.seen, AccessedBits):
                page = batch.seen.block.astype(np.int64)[:, None] * BLOCK_PAGES
                page = page + np.arange(BLOCK_PAGES)
                bits = np.unpackbits(batch.seen.bits, bitorder="little")
                young[page.ravel()] |= bits > 0
                looked[page.ravel()] = True
        return up[looked[up] & young[up]], down[looked[down] & ~young[down]]

    def _moves(
        self, epoch: Epoch, up: NDArray[np.uint32], down: NDArray[np.uint32]
    ) -> Moves:
        """Return the moves that have room; demotions do not wait for promotions."""
        up = up[self._paths.is_lower(epoch.node[up])]
        down = down[self._paths.is_fast(epoch.node[down])]
        room = epoch.usage.free_pages.copy()
        to = self._paths.below(0, len(down), room)
        down = down[: len(to)]
        at = self._paths.spread(len(up), np.array(self._paths.fast_nodes), room)
        return Moves.concat(
            moves_to(down, to, Reason.COLD), moves_to(up[: len(at)], at, Reason.HOT)
        )


class Hmsdk(Damon):
    """The same schemes as HMSDK sets them up."""

    name = "hmsdk"
    wants = frozenset({Mechanism.REGION})
    defaults = GEN_MIGPOL
