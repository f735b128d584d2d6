"""Reclaim: memory that nobody misses goes to the compressed tier.

A compressed tier below plenty of memory is no place for pages that lost a trade
for a slot: slots are free. What it saves is memory, and what that may cost is
given: a share of time that the application may wait for pages that it wants back.
Within this stall budget as many pages as possible go out, coldest first.

Rates are learnt by runs of 64 pages: Gamma, from the bits that sources report and,
once those have said something, from the silence of pages that are out, which costs
nothing to see. Where nobody has looked yet the policy asks for a look. What comes
back was missed: it stays for a time that doubles with every return.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.columns import grown
from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import (
    BLOCK_PAGES,
    AccessedBits,
    HintBatch,
    LiveMechanism,
    Look,
    Mechanism,
)
from isotherm.machine.protocol import NOT_PRESENT, SpacesChanged
from isotherm.policy.options import read_options
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup
from isotherm.policy.whose import unnamed_latency
from isotherm.topology.model import Topology

RUN_PAGES: Final = 64
#: Share of one CPU's time that the application may wait for what is out.
STALL_SHARE: Final = 0.005
#: Of a run's evidence.
HALF_LIFE_S: Final = 120.0
#: Touches taken for granted in a run that nobody has seen touched: half a touch,
#: the shape of the tracker's prior (docs/reference/hotness.md).
PRIOR_TOUCHES: Final = 0.5
#: Page-seconds that a source must have looked at a run before it is believed: a
#: block of eight for 2 s.
LEAST_LOOKED_S: Final = 16.0
#: A page that is wanted back sooner, on average, is not worth the two moves. It is
#: also what keeps hot pages in: bits cannot tell how hot a page is that is touched
#: within every window.
LEAST_AWAY_S: Final = 30.0
#: Runs asked to be looked at in a second, each for so long: a block of each.
LOOKS_PER_S: Final = 64.0
WINDOW_S: Final = 4.0
#: A run that was asked for is not asked for again so soon, whatever came of it: of
#: pages that come back before a source can look it says nothing.
ASK_AGAIN_S: Final = 60.0
#: A page that came back stays so long, doubled with every return up to 64 times.
STAY_S: Final = 30.0
MOST_RETURNS: Final = 6

Floats = NDArray[np.float64]


class Reclaim:
    """Moves the coldest pages to the last tier, within a stall budget.

    Options: ``stall_share``, the budget as a share of one CPU's time.

    Args:
        setup: Pages, topology, capacities, hints.

    Raises:
        UsageError: The setup names an option that it does not have.
    """

    name = "reclaim"
    wants = frozenset({Mechanism.ACCESSED_BIT})
    accepts = frozenset(Mechanism)
    uses_tracker = False

    def __init__(self, setup: Setup) -> None:
        options = read_options(self.name, setup, {"stall_share": STALL_SHARE})
        self._budget = options["stall_share"]
        self._epoch_s = setup.epoch_ns / NS_PER_S
        self._take_tiers(setup.topology)
        runs = -(-setup.pages // RUN_PAGES)
        self._touches: Floats = np.zeros(runs)
        self._looked_s: Floats = np.zeros(runs)  # by sources, page-seconds
        self._quiet_s: Floats = np.zeros(runs)  # of it, without a touch
        self._silent_s: Floats = np.zeros(runs)  # of pages that are out
        self._asked = np.zeros(runs, np.uint32)  # epoch of the last look asked for
        self._rng = np.random.default_rng(setup.seed)
        self._sent = np.zeros(setup.pages, np.bool_)  # out, and by our own moves
        self._returns = np.zeros(setup.pages, np.uint8)
        self._stays = np.zeros(setup.pages, np.uint32)  # until this epoch
        self._stall_share = 0.0  # measured

    def _take_tiers(self, topology: Topology) -> None:
        """Let the last tier be the lower one; a sole tier has none below it."""
        tiers = topology.tiers
        self._lower = list(tiers[-1].nodes) if len(tiers) > 1 else []
        self._is_lower = np.zeros(256, np.bool_)
        self._is_lower[self._lower] = True

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Start from where the pages are."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that have a new owner or none; make room for new ones."""
        if change.topology is not None:
            self._take_tiers(change.topology)
        pages = change.pages
        self._sent = grown(self._sent, pages)
        self._returns = grown(self._returns, pages)
        self._stays = grown(self._stays, pages)
        runs = -(-pages // RUN_PAGES)
        self._touches = grown(self._touches, runs)
        self._looked_s = grown(self._looked_s, runs)
        self._quiet_s = grown(self._quiet_s, runs)
        self._silent_s = grown(self._silent_s, runs)
        self._asked = grown(self._asked, runs)
        for start, end in change.renewed.tolist():
            self._sent[start:end] = False
            self._returns[start:end] = 0
            self._stays[start:end] = 0
            first, last = start // RUN_PAGES, -(-end // RUN_PAGES)
            self._touches[first:last] = 0
            self._looked_s[first:last] = 0
            self._quiet_s[first:last] = 0
            self._silent_s[first:last] = 0
            self._asked[first:last] = 0

    def repace(self, epoch_ns: int) -> None:
        """Go on with epochs of another length; pages that stay do so as many epochs."""
        self._epoch_s = epoch_ns / NS_PER_S

    def decide(self, epoch: Epoch) -> Plan:
        """Return the pages to put out; none where there is nowhere to put them."""
        if not self._lower:
            return Plan()
        node = epoch.node
        dt_s = epoch.dt_ns / NS_PER_S
        out = self._is_lower[node]
        stall_ns = self._stall_ns(epoch)
        fade = 2.0 ** (-dt_s / HALF_LIFE_S)
        self._touches *= fade
        self._looked_s *= fade
        self._quiet_s *= fade
        self._silent_s *= fade
        self._learn(epoch.hints)
        done = epoch.outcome
        went = done.page[(done.errno == 0) & self._is_lower[done.node]]
        self._sent[went] = True  # though it may have come back meanwhile
        returned = self._follow(node, out, dt_s, epoch.index)
        share = returned * stall_ns / max(epoch.dt_ns, 1)
        self._stall_share += 0.2 * (share - self._stall_share)
        seconds = np.maximum(self._quiet_s + self._silent_s, 1e-9)
        rate = (self._touches + PRIOR_TOUCHES) / seconds
        moves, expected = self._choose(epoch, out, rate, stall_ns)
        notes = {
            "stall_share": self._stall_share,
            "expected_stall_share": expected,
            "pages_out": float(np.count_nonzero(out)),
        }
        return Plan(moves, self._looks(epoch, out), notes=notes)

    def _looks(self, epoch: Epoch, out: NDArray[np.bool_]) -> tuple[Look, ...]:
        """Return looks at runs of which nobody knows anything yet, at random."""
        there = self._by_run(~out & (epoch.node != NOT_PRESENT)) >= BLOCK_PAGES
        patience = int(ASK_AGAIN_S / self._epoch_s)
        waits = (self._asked > 0) & (self._asked + patience > epoch.index)
        run = np.flatnonzero(there & ~waits & (self._looked_s < LEAST_LOOKED_S))
        looks = max(1, round(LOOKS_PER_S * self._epoch_s))
        run = np.sort(self._rng.permutation(run)[:looks])
        self._asked[run] = epoch.index + 1
        return tuple(
            Look(
                LiveMechanism.PAGE_OUT,
                RUN_PAGES * r,
                RUN_PAGES * (r + 1),
                window_s=WINDOW_S,
            )
            for r in run.tolist()
        )

    def _stall_ns(self, epoch: Epoch) -> float:
        """Return what a touch of a page that is out costs."""
        by_node = unnamed_latency(epoch.topology, epoch.latency_ns)
        return float(by_node[self._lower].mean())

    def _learn(self, batches: tuple[HintBatch, ...]) -> None:
        for batch in batches:
            seen = batch.seen
            if not isinstance(seen, AccessedBits) or seen.writes_only:
                continue
            watched = np.full(len(seen.block), BLOCK_PAGES, np.int64)
            if seen.observed is not None:
                watched = np.bitwise_count(seen.observed).astype(np.int64)
            touched = np.bitwise_count(seen.bits).astype(np.int64)
            run = seen.block // (RUN_PAGES // BLOCK_PAGES)
            known = (run < len(self._touches)) & (seen.interval_s > 0)
            # When a touched page was touched is not known: half the time was quiet.
            quiet = (watched - 0.5 * touched) * seen.interval_s
            np.add.at(self._touches, run[known], touched[known])
            np.add.at(self._quiet_s, run[known], quiet[known])
            looked = watched * seen.interval_s
            np.add.at(self._looked_s, run[known], looked[known])

    def _follow(
        self,
        node: NDArray[np.uint8],
        out: NDArray[np.bool_],
        dt_s: float,
        index: int,
    ) -> int:
        """Count silence of what was sent; note what has come back; return how many.

        Pages that a source puts out and brings back do not count: it reports them.
        """
        back = np.flatnonzero(self._sent & ~out & (node != NOT_PRESENT))
        if len(back):
            times = self._returns[back]
            self._returns[back] = np.minimum(times + 1, MOST_RETURNS)
            stay = np.round(STAY_S / self._epoch_s * 2.0**times)
            self._stays[back] = index + stay.astype(np.uint32)
            np.add.at(self._touches, back // RUN_PAGES, 1.0)
        self._sent &= out
        self._silent_s += dt_s * self._by_run(self._sent)
        return len(back)

    def _by_run(self, pages: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return how many pages of each run are set."""
        begin = np.arange(0, len(pages), RUN_PAGES)
        return np.add.reduceat(pages, begin, dtype=np.int64)

    def _choose(
        self, epoch: Epoch, out: NDArray[np.bool_], rate: Floats, stall_ns: float
    ) -> tuple[Moves, float]:
        """Return moves of whole runs, coldest first, and the stall they may cost."""
        able = ~out & (epoch.node != NOT_PRESENT) & (self._stays <= epoch.index)
        count_out, count = self._by_run(out), self._by_run(able)
        per_page = rate * stall_ns / NS_PER_S
        spent = max(float(per_page @ count_out), self._stall_share)
        known = (self._looked_s >= LEAST_LOOKED_S) & (rate * LEAST_AWAY_S <= 1.0)
        candidate = np.flatnonzero((count > 0) & known)
        order = candidate[np.argsort(rate[candidate], kind="stable")]
        total = spent + np.cumsum(per_page[order] * count[order])
        run = order[: int(np.searchsorted(total, self._budget))]
        free = int(epoch.usage.free_pages[self._lower].clip(0).sum())
        room = min(free, epoch.move_limit_pages)
        run = run[: int(np.searchsorted(np.cumsum(count[run]), room, side="right"))]
        if not len(run):
            return Moves.none(), spent
        page = (run[:, None] * RUN_PAGES + np.arange(RUN_PAGES)).ravel()
        page = page[page < len(able)]
        page = page[able[page]]
        expected = float(total[len(run) - 1])
        return Moves.to(page, self._lower[0], Reason.COLD), expected
