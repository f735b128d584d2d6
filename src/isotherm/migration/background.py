"""The asynchronous executor: one thread moves while the loop looks and decides.

The state machine is the same as the simulator's; here its events come from two
sides, so a lock guards it. The thread holds the lock between batches only. Bulk
moves release the interpreter's lock inside the system call.

Moves are spread over the epoch: the quota fills all the time and lets go in an
eighth of an epoch's moves, so that neither memory bandwidth nor the target's page
table lock is taken in one go. Little is on the way at a time: a newer plan voids
what has not started, and the brake works after one batch.
"""

import errno
import threading
from collections import deque
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError, TargetGoneError
from isotherm.core.units import NS_PER_S
from isotherm.machine.protocol import Machine, SpacesChanged, Usage
from isotherm.migration.accounts import Accounts
from isotherm.migration.books import Books, Ended, move_batch
from isotherm.migration.cost import CostPrior
from isotherm.migration.engine import NO_LIMIT_PAGES
from isotherm.migration.events import (
    BatchDone,
    Event,
    Limited,
    MoveBatch,
    PlanArrived,
    Renewed,
    Throttled,
    Tick,
)
from isotherm.migration.holdback import DEFAULT_HOLD_NS, HoldBack
from isotherm.migration.state import MigrationState
from isotherm.policy.plan import Moves, Outcome

#: The quota of an epoch is let go in so many slices.
SLICES = 8
#: Batches of so many pages: what move_pages() is given at a time on a host. A
#: batch is as long as the brake waits (1 to 2 ms).
BATCH_PAGES = 512
#: Batches that are done and kept for ``collect``; should nobody collect, the oldest
#: are forgotten.
MOST_ENDED = 1 << 14


class BackgroundEngine(Accounts):
    """Carries out plans in a thread of its own; for hosts.

    ``submit`` returns at once; ``collect`` gives what has ended since. All methods
    belong to one thread, the loop's. ``close`` ends the thread; the engine is a
    context manager that does.

    Args:
        machine: Where pages move; its ``move`` and ``clock`` are used in the thread.
        epoch_ns: Length of an epoch: what a quota is spread over.
        quota_pages_per_s: Pages tried per second; None: no quota.
        batch_pages: Most pages in one call of ``machine.move``.
        prior_cost: What a move is believed to cost before the first.
        ping_pong_ns: A page moved back within this time counts as ping-pong.
        backoff_ns: Wait before the second try of a page; doubles with each.
        max_tries: Tries of a page in all.
        hold_back_share: Of the moves, held back at random for comparison; 0: none.
        seed: For their draw.
        dear: Whether moves get dearer when promises fail.
        validate: Check the state's invariants after every event (tests).
        log_events: Keep so many of the latest events in ``state.log``.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        epoch_ns: int,
        quota_pages_per_s: float | None = None,
        batch_pages: int = BATCH_PAGES,
        prior_cost: CostPrior | None = None,
        ping_pong_ns: int = 10 * NS_PER_S,
        backoff_ns: int = NS_PER_S // 2,
        max_tries: int = 4,
        hold_back_share: float = 0.01,
        seed: int = 1,
        dear: bool = True,
        validate: bool = False,
        log_events: int = 0,
    ) -> None:
        self._machine = machine
        self._epoch_ns = epoch_ns
        self._quota = quota_pages_per_s
        self._validate = validate
        self._slice_s = epoch_ns / NS_PER_S / SLICES
        hold_back = HoldBack(hold_back_share, seed=seed) if hold_back_share else None
        self.books = Books(machine, batch_pages, prior_cost, hold_back, dear=dear)
        least, burst_s = batch_pages, 2 * self._slice_s
        if quota_pages_per_s:
            least = max(1, min(batch_pages, int(quota_pages_per_s * self._slice_s)))
            burst_s = max(burst_s, least / quota_pages_per_s)
        self.state = MigrationState(
            machine.pages,
            self.books.rank.tolist(),
            start_ns=machine.clock.now_ns(),
            quota_pages_per_s=quota_pages_per_s,
            quota_burst_s=burst_s,
            batch_pages=batch_pages,
            least_pages=least,
            max_in_flight_pages=batch_pages,
            ping_pong_ns=ping_pong_ns,
            backoff_ns=backoff_ns,
            max_tries=max_tries,
            hold_ns=DEFAULT_HOLD_NS if hold_back is None else hold_back.horizon_ns,
            log_events=log_events,
        )
        # What both threads use, under the lock: the state and all that follows.
        self._changed = threading.Condition()
        self._todo: deque[MoveBatch] = deque()
        self._ended: list[Ended] = []
        #: ``{id of a batch on the way: rows that are still ours}``
        self._ours: dict[int, NDArray[np.bool_]] = {}
        self._share = 1.0
        self._pause_until_ns = 0
        self._closing = self._halted = False
        self._runs = True
        self._error: BaseException | None = None
        # The loop's alone.
        self._plans: list[Moves] = []
        self._thread = threading.Thread(
            target=self._work, name="isotherm-migration", daemon=True
        )
        self._thread.start()

    # -- the loop's side --------------------------------------------------

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that have a new owner or none; make room for new ones."""
        with self._changed:
            self._handle(Renewed(self._machine.clock.now_ns(), change))
            for batch_id, batch in self.state.batches_in_flight.items():
                lost = change.holds(batch.page)
                if lost.any():
                    kept = self._ours.get(batch_id, np.ones(len(batch), np.bool_))
                    self._ours[batch_id] = kept & ~lost
            self._ended = [_without(ended, change) for ended in self._ended]
        self._plans = [_forget(moves, change) for moves in self._plans]
        self.books.renew(change)

    def collect(self) -> Outcome:
        """Return the moves that ended since the last call.

        Raises:
            BaseException: What ended the thread, once; it was no error of a move.
        """
        with self._changed:
            ended, self._ended = self._ended, []
            error, self._error = self._error, None
        if error is not None:
            raise error
        return self.books.settle(self._machine.clock.now_ns(), self._plans, ended)

    def submit(self, moves: Moves, dt_ns: int) -> Outcome:
        """Take a plan and return at once; once closed, do nothing. See ``Engine``."""
        machine = self._machine
        if self._closing:
            return Outcome.none()
        with self._changed:
            # Read under the lock: no batch ends between the count and the plan.
            usage, node = self.usable(machine.usage()), machine.placement()
            event = PlanArrived(machine.clock.now_ns(), moves, usage, node)
            # What promised the moves that are still on the way, and those to come.
            ended = [e.batch.page for e in self._ended]
            flying = np.concatenate([self.state.in_flight, *ended])
            self._epoch_ns = dt_ns
            self._todo += self._handle(event)
            self._changed.notify_all()
        older = [_only(plan, flying) for plan in self._plans]
        self._plans = [*(plan for plan in older if len(plan)), moves]
        return Outcome.none()

    def usable(self, usage: Usage) -> Usage:
        """Return the usage without what stays free: up to the high watermark.

        Moves into the last free pages would have the kernel reclaim for them, and
        take the room in which new memory is born.
        """
        capacity = np.maximum(usage.capacity_pages - usage.high_pages, 0)
        return replace(usage, capacity_pages=capacity)

    def move_limit_pages(self) -> int:
        """Return how many moves an epoch's quota lets go, less those on the way."""
        with self._changed:
            if self._share == 0:
                return 0
            if self._quota is None:
                return NO_LIMIT_PAGES
            now_ns = self._machine.clock.now_ns()
            held = self.state.allowance_pages(now_ns)
        gained = self._quota * self._share * self._epoch_ns / NS_PER_S
        return min(int(held + gained), NO_LIMIT_PAGES)

    def throttle(self, share: float) -> None:
        """Go on at a share of the quota: 1 all of it, 0 nothing starts.

        Without a quota the thread rests between batches, so that it works a share
        of the time. A batch that is on the way goes on.

        Raises:
            ValueError: The share is outside [0, 1].
        """
        with self._changed:
            self._handle(Throttled(self._machine.clock.now_ns(), share))
            self._share = share
            self._pause_until_ns = 0
            self._changed.notify_all()

    def halt(self) -> None:
        """Begin no further batch, from now on; a batch that is on the way ends.

        Takes no lock and does nothing else: for a signal handler, which may have
        interrupted anything. ``close`` clears up.
        """
        self._halted = True

    def limit(self, pages_per_s: float) -> None:
        """Go on with another quota.

        Raises:
            ValueError: There was none, or it is not above 0.
        """
        with self._changed:
            self._handle(Limited(self._machine.clock.now_ns(), pages_per_s))
            self._quota = pages_per_s
            self._changed.notify_all()

    @property
    def share(self) -> float:
        """Share of the quota that movement goes at."""
        return self._share

    def finish(self, timeout_s: float) -> bool:
        """Wait until all that can be done of the plan is; return whether it is.

        Wishes may be left for which there is no room. Waiting ends early where
        nothing goes on: throttled to 0, halted, or closed.

        Args:
            timeout_s: Longest wait.
        """
        with self._changed:
            return (
                self._changed.wait_for(
                    lambda: (
                        self._is_done
                        or self._share == 0
                        or self._halted
                        or not self._runs
                    ),
                    timeout_s,
                )
                and self._is_done
            )

    def close(self, timeout_s: float | None = 10.0) -> bool:
        """Start nothing more; return whether nothing is on the way any more.

        The batch that is being moved ends; those that wait are cancelled, and stand
        in the next ``collect`` with ECANCELED if they had been handed out. May be
        called again.

        Args:
            timeout_s: Longest wait for the batch; None: as long as it takes.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- the thread's side ------------------------------------------------

    @property
    def _is_done(self) -> bool:
        if self._todo or len(self.state.in_flight):
            return False
        return not self.state.queued or self.state.is_blocked

    def _handle(self, *events: Event) -> list[MoveBatch]:
        """Hand events to the state; the lock is held."""
        todo = self.state.handle(*events)
        if self._validate:
            self.state.validate()
        return todo

    def _work(self) -> None:
        try:
            while (batch := self._next()) is not None:
                self._end(batch, *self._move(batch))
        except BaseException as error:  # noqa: BLE001  # handed to the loop's thread
            with self._changed:
                self._error = error
        finally:
            with self._changed:
                self._runs = False
                self._changed.notify_all()

    def _next(self) -> MoveBatch | None:
        """Return the next batch, when there is one; None: the end."""
        clock = self._machine.clock
        with self._changed:
            while not self._closing:
                now_ns = clock.now_ns()
                pause_s = (self._pause_until_ns - now_ns) / NS_PER_S
                if self._halted:
                    self._changed.wait()
                elif self._todo and pause_s <= 0:
                    return self._todo.popleft()
                elif pause_s > 0:
                    self._changed.wait(min(pause_s, self._slice_s))
                elif self._share > 0 and not self._is_done:
                    self._changed.wait(self._slice_s)
                    waits = not self._todo and not self._closing and not self._halted
                    if self.state.queued and waits:
                        self._todo += self._handle(Tick(clock.now_ns()))
                else:
                    self._changed.wait()
            self._cancel()
            return None

    def _cancel(self) -> None:
        """End what was handed out and has not begun; the lock is held."""
        now_ns = self._machine.clock.now_ns()
        done = [
            BatchDone(now_ns, b.id, np.full(len(b), errno.ECANCELED, np.int16), 0.0)
            for b in self._todo
        ]
        for batch, end in zip(self._todo, done, strict=True):
            self._ended.append(Ended(batch, end, self._ours.pop(batch.id, None)))
        self._todo.clear()
        self._handle(Throttled(now_ns, 0.0), *done)
        self._changed.notify_all()

    def _move(self, batch: MoveBatch) -> tuple[NDArray[np.int16], float]:
        """Move a batch; what goes wrong with all of it is each page's errno."""
        clock = self._machine.clock
        start_ns = clock.now_ns()
        try:
            code, cost_ns = move_batch(self._machine, batch, self.books.hold_back)
        except TargetGoneError:
            code, cost_ns = np.full(len(batch), errno.ESRCH, np.int16), 0.0
        except OSError as error:
            code = np.full(len(batch), error.errno or errno.EIO, np.int16)
            cost_ns = 0.0
        except IsothermError:
            code, cost_ns = np.full(len(batch), errno.EIO, np.int16), 0.0
        # The machine times the call; where it does not, the thread has.
        return code, cost_ns or float(clock.now_ns() - start_ns)

    def _end(self, batch: MoveBatch, code: NDArray[np.int16], cost_ns: float) -> None:
        """Tell the state; take what it starts next."""
        with self._changed:
            now_ns = self._machine.clock.now_ns()
            done = BatchDone(now_ns, batch.id, code, cost_ns)
            self._ended.append(Ended(batch, done, self._ours.pop(batch.id, None)))
            del self._ended[:-MOST_ENDED]
            self._todo += self._handle(done)
            if self._quota is None and 0 < self._share < 1:
                rest_ns = cost_ns * (1.0 - self._share) / self._share
                self._pause_until_ns = now_ns + int(rest_ns)
            self._changed.notify_all()


def _without(ended: Ended, change: SpacesChanged) -> Ended:
    """Return a batch that ended, its renewed pages marked."""
    lost = change.holds(ended.batch.page)
    if not lost.any():
        return ended
    ours = ~lost if ended.ours is None else ended.ours & ~lost
    return Ended(ended.batch, ended.done, ours)


def _forget(moves: Moves, change: SpacesChanged) -> Moves:
    """Return the moves whose pages are not renewed."""
    lost = change.holds(moves.page)
    return moves.take(np.flatnonzero(~lost)) if lost.any() else moves


def _only(moves: Moves, page: NDArray[np.uint32]) -> Moves:
    """Return the moves of some pages."""
    if len(page) == 0:
        return Moves.none()
    return moves.take(np.flatnonzero(np.isin(moves.page, page)))
