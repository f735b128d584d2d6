"""The synchronous executor: carries out one epoch's plan, and learns from it."""

from isotherm.machine.protocol import Machine, SpacesChanged, Usage
from isotherm.migration.accounts import Accounts
from isotherm.migration.books import Books, Ended, move_batch
from isotherm.migration.cost import CostPrior
from isotherm.migration.events import (
    BatchDone,
    PlanArrived,
    Renewed,
    Throttled,
    Tick,
)
from isotherm.migration.holdback import DEFAULT_HOLD_NS, HoldBack
from isotherm.migration.ranks import derive_tier_rank
from isotherm.migration.state import MigrationState
from isotherm.policy.plan import Moves, Outcome

__all__ = ["NO_LIMIT_PAGES", "MigrationEngine", "derive_tier_rank"]

#: ``Epoch.move_limit_pages`` without a quota.
NO_LIMIT_PAGES = 1 << 31


class MigrationEngine(Accounts):
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
        hold_back: Moves held back at random, for comparison; None: none.
        dear: Whether moves get dearer when promises fail.
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
        hold_back: HoldBack | None = None,
        dear: bool = False,
        validate: bool = False,
        log_events: int = 0,
    ) -> None:
        self._machine = machine
        self._validate = validate
        self.books = Books(machine, batch_pages, prior_cost, hold_back, dear=dear)
        self.state = MigrationState(
            machine.pages,
            self.books.rank.tolist(),
            start_ns=machine.clock.now_ns(),
            quota_pages_per_s=quota_pages_per_s,
            quota_burst_s=quota_burst_s,
            batch_pages=batch_pages,
            ping_pong_ns=ping_pong_ns,
            backoff_ns=backoff_ns,
            max_tries=max_tries,
            hold_ns=DEFAULT_HOLD_NS if hold_back is None else hold_back.horizon_ns,
            log_events=log_events,
        )

    # -- one epoch --------------------------------------------------------

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that have a new owner or none; make room for new ones."""
        self.state.handle(Renewed(self._machine.clock.now_ns(), change))
        self.books.renew(change)

    def collect(self) -> Outcome:
        """Return what ended since the last call, beyond what ``submit`` returned.

        Nothing here: ``submit`` carries out all that it can.
        """
        return Outcome.none()

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
        ended: list[Ended] = []
        while todo:
            if self._validate:
                state.validate()
            wave: list[BatchDone] = []
            for batch in todo:
                errno, cost_ns = move_batch(machine, batch, self.books.hold_back)
                wave.append(BatchDone(now_ns, batch.id, errno, cost_ns))
                ended.append(Ended(batch, wave[-1]))
            todo = state.handle(*wave)
        if self._validate:
            state.validate()
        return self.books.settle(now_ns, [moves], ended)

    # -- what the loop and reports read -----------------------------------

    def usable(self, usage: Usage) -> Usage:
        """Return the usage as it is: the simulated machine allocates nothing else."""
        return usage

    def move_limit_pages(self) -> int:
        """Return how many pages the quota lets go now, for ``Epoch``."""
        allowed = self.state.allowance_pages(self._machine.clock.now_ns())
        return min(allowed, NO_LIMIT_PAGES)

    def throttle(self, share: float) -> None:
        """Go on at a share of the quota; 0: plans wait."""
        self.state.handle(Throttled(self._machine.clock.now_ns(), share))

    def close(self) -> bool:
        """Return True: nothing is on the way between two calls."""
        return True
