"""The executor: carries out one epoch's plan on a machine, and learns from it."""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGE_BYTES
from isotherm.hotness.protocol import HotnessView
from isotherm.machine.protocol import Machine, SpacesChanged
from isotherm.migration.cost import CostModel, CostPrior
from isotherm.migration.events import BatchDone, MoveBatch, PlanArrived, Renewed, Tick
from isotherm.migration.ledger import GainLedger
from isotherm.migration.state import MigrationState
from isotherm.migration.totals import Totals
from isotherm.policy.plan import Moves, Outcome
from isotherm.topology.model import Topology

#: Pages in a batch when the cost of one is asked for (kmigrated's batch).
TYPICAL_BATCH = 512
#: ``Epoch.move_limit_pages`` without a quota.
NO_LIMIT_PAGES = 1 << 31


def derive_tier_rank(topology: Topology) -> list[int]:
    """Return the tier rank of every node, 0 the fastest, indexed by node id.

    A node that is in no tier gets 255: slower than all.
    """
    rank = [255] * (max(node.id for node in topology.nodes) + 1)
    for at, tier in enumerate(topology.tiers):
        for node in tier.nodes:
            rank[node] = at
    return rank


class MigrationEngine:
    """Carries out plans, synchronously: what a simulated epoch needs.

    Args:
        machine: Where pages move.
        quota_pages_per_s: Pages tried per second of the machine's clock; None:
            no quota. The lab gives 0.2 * pages per second to every policy.
        quota_burst_s: How many seconds of unused quota may be saved.
        batch_pages: Most pages in one call of ``machine.move``.
        prior_cost: What a move is believed to cost before the first.
        ping_pong_ns: A page moved back within this time counts as ping-pong.
        backoff_ns: Wait before the second try of a page; doubles with each.
        max_tries: Tries of a page in all.
        validate: Check the state's invariants after every event (tests).
        log_events: Keep so many of the latest events in ``state.log``.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        quota_pages_per_s: float | None = None,
        quota_burst_s: float = 1.0,
        batch_pages: int = 512,
        prior_cost: CostPrior | None = None,
        ping_pong_ns: int = 10_000_000_000,
        backoff_ns: int = 500_000_000,
        max_tries: int = 4,
        validate: bool = False,
        log_events: int = 0,
    ) -> None:
        self._machine = machine
        self._validate = validate
        self._batch_pages = batch_pages
        self._rank = np.array(derive_tier_rank(machine.topology), np.uint8)
        self.state = MigrationState(
            machine.pages,
            self._rank.tolist(),
            start_ns=machine.clock.now_ns(),
            quota_pages_per_s=quota_pages_per_s,
            quota_burst_s=quota_burst_s,
            batch_pages=batch_pages,
            ping_pong_ns=ping_pong_ns,
            backoff_ns=backoff_ns,
            max_tries=max_tries,
            log_events=log_events,
        )
        self.cost = CostModel(len(self._rank), prior_cost)
        self.ledger = GainLedger()

    # -- one epoch --------------------------------------------------------

    def submit(self, moves: Moves, dt_ns: int) -> Outcome:
        """Carry out a plan as far as room and quota go; return what became of it.

        Args:
            moves: The plan's wishes; they replace what is left of the last plan.
            dt_ns: Length of the epoch. The quota fills with the machine's
                clock; this is kept for executors that spread moves over it.

        Returns:
            Every page that was tried, in order, with its errno.
        """
        state, machine = self.state, self._machine
        now_ns = machine.clock.now_ns()
        if len(moves) == 0 and state.idle:
            state.handle(Tick(now_ns))
            return Outcome.none()
        todo = state.handle(
            PlanArrived(now_ns, moves, machine.usage(), machine.placement())
        )
        batches: list[MoveBatch] = []
        done: list[BatchDone] = []
        while todo:
            if self._validate:
                state.validate()
            wave: list[BatchDone] = []
            for batch in todo:
                result = machine.move(batch.page, batch.node)
                wave.append(
                    BatchDone(now_ns, batch.id, result.errno, float(result.cost_ns))
                )
            batches += todo
            done += wave
            todo = state.handle(*wave)
        if self._validate:
            state.validate()
        return self._settle(now_ns, moves, batches, done)

    def collect(self) -> Outcome:
        """Return what ended since the last call, beyond what ``submit`` returned.

        Nothing here: ``submit`` carries out all that it can.
        """
        return Outcome.none()

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that have a new owner or none; make room for new ones."""
        self.state.handle(Renewed(self._machine.clock.now_ns(), change))
        self.ledger.renew(change)

    def _settle(
        self,
        now_ns: int,
        moves: Moves,
        batches: list[MoveBatch],
        done: list[BatchDone],
    ) -> Outcome:
        """Feed cost model and ledger; return the outcome."""
        if not batches:
            return Outcome.none()
        page = np.concatenate([b.page for b in batches])
        node = np.concatenate([b.node for b in batches])
        src = np.concatenate([b.src for b in batches])
        errno = np.concatenate([d.errno for d in done])
        size = np.array([len(b) for b in batches])
        cost_ns = np.array([d.cost_ns for d in done])
        ok = errno == 0
        # What failed tries cost is part of what a page that moved has cost.
        starts = np.concatenate([[0], np.cumsum(size)[:-1]])
        moved = np.add.reduceat(ok, starts, dtype=np.int64)
        path = np.array([(int(b.src[0]) << 8) | int(b.node[0]) for b in batches])
        for key in sorted(set(path.tolist())):
            on = path == key
            self.cost.observe(key >> 8, key & 255, moved[on], cost_ns[on])
        self._open_ledger(
            now_ns,
            moves,
            page[ok],
            src[ok],
            node[ok],
            np.repeat(cost_ns / size, size)[ok],
        )
        return Outcome(page, node, errno, float(cost_ns.sum()))

    def _open_ledger(
        self,
        now_ns: int,
        moves: Moves,
        page: NDArray[np.uint32],
        src: NDArray[np.uint8],
        node: NDArray[np.uint8],
        cost_ns: NDArray[np.float64],
    ) -> None:
        """Enter the sampled moves with what the plan promised for them."""
        rank = self._rank
        rows = self.ledger.admit(page)
        if len(rows) == 0:
            return
        page, src, node, cost_ns = page[rows], src[rows], node[rows], cost_ns[rows]
        from_plan = self.ledger.sampled(moves.page)
        planned, gain = moves.page[from_plan], moves.gain_ns[from_plan]
        order = np.argsort(planned)
        planned, gain = planned[order], gain[order]
        promised = np.full(len(page), np.nan, np.float32)
        if len(planned):
            at = np.minimum(np.searchsorted(planned, page), len(planned) - 1)
            same = planned[at] == page
            promised[same] = gain[at[same]]
        self.ledger.open(
            now_ns, page, src, node, promised, cost_ns, rank[node] > rank[src]
        )

    def account_epoch(self, view: HotnessView, dt_ns: int) -> None:
        """Credit an epoch to the moves that are followed; call before ``submit``."""
        if len(self.ledger):
            machine = self._machine
            self.ledger.account_epoch(
                machine.clock.now_ns(),
                dt_ns,
                view.rate,
                machine.placement(),
                machine.latency_ns(),
                machine.parallelism,
            )

    # -- what the loop and reports read -----------------------------------

    def move_cost_ns(self) -> NDArray[np.float64]:
        """Return the expected cost of a page in a batch of 512, for ``Epoch``.

        Of fewer where batches are kept smaller.
        """
        return self.cost.expected_ns_per_page(min(self._batch_pages, TYPICAL_BATCH))

    def move_limit_pages(self) -> int:
        """Return how many pages the quota lets go now, for ``Epoch``."""
        allowed = self.state.allowance_pages(self._machine.clock.now_ns())
        return min(allowed, NO_LIMIT_PAGES)

    @property
    def totals(self) -> Totals:
        """What became of all wishes, with failures by errno."""
        return self.state.totals

    @property
    def promoted_pages(self) -> int:
        """Pages moved to a faster tier."""
        return self.totals.promoted

    @property
    def demoted_pages(self) -> int:
        """Pages moved to a slower tier."""
        return self.totals.demoted

    @property
    def ping_pong_pages(self) -> int:
        """Pages moved back within the window."""
        return self.totals.ping_pong

    @property
    def migrated_bytes(self) -> int:
        """Bytes of all pages that moved."""
        return self.totals.applied * PAGE_BYTES

    @property
    def migration_time_ns(self) -> float:
        """Time of all batches, tried pages included."""
        return self.totals.cost_ns

    @property
    def failures(self) -> dict[int, int]:
        """Pages that did not move, per try, as ``{errno: pages}``."""
        return dict(self.totals.errno)
