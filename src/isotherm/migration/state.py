"""The migration state machine: events in, instructions out; no I/O, no clock.

A wish is in exactly one place:

* queued: in ``PathQueues``, not started; void when a newer plan arrives.
* in flight: in a ``MoveBatch`` whose ``BatchDone`` has not come.
* waiting: failed for a reason that may pass; a row of ``RetryTable``.
* ended: applied, or counted in ``Totals`` with the reason why it was not.

Order of work at every event: promotions into room that exists; demotions out of
nodes that have no room for the promotions that wait, at most half of what the
quota leaves, so that the promotions they make room for fit in the other half;
then the remaining demotions. Room that a demotion will make counts when its
batch is done, not before.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.machine.protocol import SpacesChanged
from isotherm.migration.checks import broken_rules
from isotherm.migration.events import (
    BatchDone,
    Event,
    Limited,
    MoveBatch,
    PlanArrived,
    Renewed,
    Throttled,
    Tick,
    frozen,
)
from isotherm.migration.flights import Flights
from isotherm.migration.holdback import DEFAULT_HOLD_NS, HELD_BACK
from isotherm.migration.queue import Path, PathQueues, has_duplicates
from isotherm.migration.quota import UNLIMITED, Quota
from isotherm.migration.ranks import NO_TIER, rank_column
from isotherm.migration.retry import TRANSIENT, RetryTable
from isotherm.migration.room import NodeRoom
from isotherm.migration.stamps import LastMove
from isotherm.migration.totals import Totals
from isotherm.topology.model import Topology

#: Events that hand out no moves by themselves.
QUIET: Final = Renewed | Throttled | Limited


class MigrationState:
    """Decides what to move now, given what is wished for and what came of it.

    The same events give the same instructions.

    Args:
        pages: Length of the flat page index.
        tier_rank: Rank of every node's tier, 0 for the fastest, indexed by node.
        start_ns: The machine's time; the quota starts empty.
        quota_pages_per_s: Pages tried per second; None: no quota.
        quota_burst_s: How many seconds of unused quota may be saved.
        batch_pages: Most pages in one batch.
        least_pages: Nothing starts before the quota lets so many go, or all that
            wait: small batches cost as much as large ones.
        max_in_flight_pages: Most pages on the way; None: no bound.
        ping_pong_ns: A page moved back within this time counts as ping-pong.
        backoff_ns: Wait before the second try; doubles with each.
        max_tries: Tries of a page in all.
        rest_ns: How long a page is left alone that failed every time.
        hold_ns: How long one that was held back.
        log_events: Keep so many of the latest calls, for replay; 0 keeps none.
    """

    def __init__(
        self,
        pages: int,
        tier_rank: Sequence[int],
        *,
        start_ns: int = 0,
        quota_pages_per_s: float | None = None,
        quota_burst_s: float = 1.0,
        batch_pages: int = 512,
        least_pages: int = 1,
        max_in_flight_pages: int | None = None,
        ping_pong_ns: int = 10 * NS_PER_S,
        backoff_ns: int = NS_PER_S // 2,
        max_tries: int = 4,
        rest_ns: int = 10 * NS_PER_S,
        hold_ns: int = DEFAULT_HOLD_NS,
        log_events: int = 0,
    ) -> None:
        if batch_pages < 1:
            raise ValueError(f"batch_pages: expected >= 1, got {batch_pages}")
        self._pages = pages
        self._rank = np.array(tier_rank, np.uint8)
        self._quota = Quota(quota_pages_per_s, quota_burst_s, start_ns)
        self._batch_pages = batch_pages
        self._max_in_flight = max_in_flight_pages or UNLIMITED
        self._least = least_pages
        self._hold_ns = hold_ns
        self._room = NodeRoom(self._rank)
        self._queue = PathQueues.empty()
        self._flights = Flights()
        self._retry = RetryTable(backoff_ns, max_tries, rest_ns)
        self._last_move = LastMove(pages, ping_pong_ns, start_ns)
        self._totals = Totals()
        #: The latest calls of ``handle``, oldest first.
        self.log: deque[tuple[Event, ...]] = deque(maxlen=log_events)

    @property
    def totals(self) -> Totals:
        """What became of all wishes (live: do not write)."""
        return self._totals

    @property
    def queued(self) -> int:
        """Wishes that have not started."""
        return len(self._queue)

    @property
    def is_blocked(self) -> bool:
        """Whether no wish that waits has room, until usage is told or a batch ends."""
        return not any(self._room.free(path[1]) for path in self._queue.waiting)

    @property
    def batches_in_flight(self) -> Mapping[int, MoveBatch]:
        """Batches on the way, ``{id: batch}`` (live: do not write)."""
        return self._flights.batches

    @property
    def in_flight(self) -> NDArray[np.uint32]:
        """Pages on the way, uint32[n]."""
        return self._flights.page

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, in flight, waiting or resting."""
        return not (len(self._queue) or len(self._flights) or len(self._retry))

    @property
    def _now_ns(self) -> int:
        """The machine's time, as of the latest event."""
        return self._quota.now_ns

    def allowance_pages(self, now_ns: int) -> int:
        """Return how many pages the quota would let go at ``now_ns``."""
        return self._quota.allowance_pages(now_ns)

    def handle(self, *events: Event) -> list[MoveBatch]:
        """Take events in order; return the batches to start now.

        Batches that are done at the same time belong in one call: each call
        hands out work once, at its end; one with nothing but ``Renewed`` or
        ``Throttled`` or ``Limited`` hands out none: work begins with what is known by
        then.

        Raises:
            ValueError: An event contradicts the state: an unknown batch, a
                column of the wrong length, time that runs backwards.
        """
        done: list[BatchDone] = []
        for event in events:
            if event.now_ns < self._now_ns:
                raise ValueError(f"now_ns: {event.now_ns} is before {self._now_ns}")
            if isinstance(event, BatchDone):
                done.append(event)
            else:
                self._batches_done(done)
                done = []
                self._pass_time(event.now_ns)
                if isinstance(event, PlanArrived):
                    self._plan_arrived(event)
                elif isinstance(event, Renewed):
                    self._renewed(event.change)
                elif isinstance(event, Throttled):
                    self._quota.throttle(event.share)
                elif isinstance(event, Limited):
                    self._quota.change(event.pages_per_s)
                else:
                    self._tick(event)
        self._batches_done(done)
        if self.log.maxlen and events:
            self.log.append(tuple(frozen(event) for event in events))
        quiet = all(isinstance(event, QUIET) for event in events)
        if quiet or not len(self._queue):
            return []
        return self._dispatch()

    # -- events -----------------------------------------------------------

    def _pass_time(self, now_ns: int) -> None:
        self._quota.pass_time(now_ns)
        if len(self._retry):
            self._retry.forget_rested(now_ns)

    def _tick(self, event: Tick) -> None:
        if event.usage is not None:
            self._room.learn(event.usage)
        self._requeue(self._retry.release_due(event.now_ns))

    def _renewed(self, change: SpacesChanged) -> None:
        """Forget pages that have a new owner or none; make room for new ones.

        Wishes for them end. What is on the way goes on, but its result says nothing
        of the page as it is now.
        """
        if change.topology is not None:
            self._retier(change.topology)
        self._pages = max(self._pages, change.pages)
        self._last_move.renew(change)
        if len(change.renewed) == 0:
            return
        if len(self._queue):
            page, node, src = self._queue.columns()
            keep = ~change.holds(page)
            if not keep.all():
                self._totals.renewed += int(np.count_nonzero(~keep))
                self._queue = PathQueues(page[keep], node[keep], src[keep])
        self._totals.renewed += self._retry.renew(change)
        self._flights.renew(change)

    def _retier(self, topology: Topology) -> None:
        """Take up other tiers: wishes that were not started are void.

        What waits for another try goes on waiting, unless its node has left.
        """
        self._rank = rank_column(topology, len(self._rank))
        self._room.retier(self._rank)
        self._void_queue()
        retry = self._retry
        gone = retry.waiting & (self._rank[retry.node] == NO_TIER)
        self._totals.not_present += int(np.count_nonzero(gone))
        retry.keep(~gone)

    def _requeue(self, row: NDArray[np.intp]) -> None:
        """Put retried pages in front of what is queued."""
        if len(row):
            retry = self._retry
            page, node, src = self._queue.columns()
            self._queue = PathQueues(
                np.concatenate([retry.page[row], page]),
                np.concatenate([retry.node[row], node]),
                np.concatenate([retry.src[row], src]),
            )

    def _plan_arrived(self, event: PlanArrived) -> None:
        self._room.learn(event.usage)
        self._void_queue()
        self._refresh_retries(event.node)
        moves = event.moves
        page, node = moves.page, moves.node
        if len(page):
            self._totals.planned += len(page)
            if int(page.max()) >= self._pages or int(node.max()) >= len(self._rank):
                raise ValueError("moves: a page or node is beyond the machine's")
            page, node, src = self._accept(page, node, event.node)
            self._queue = PathQueues(page, node, src)
        self._requeue(self._retry.release_due(event.now_ns))

    def _void_queue(self) -> None:
        """Drop what was not started; retries go back to waiting."""
        if len(self._queue):
            self._totals.superseded += len(self._queue)
            self._queue = PathQueues.empty()
        retry = self._retry
        if retry.out.any():
            flying = np.zeros(len(retry), np.bool_)
            for batch in self._flights.batches.values():
                at, found = retry.find(batch.page)
                flying[at[found]] = True
            returned = retry.out & ~flying
            self._totals.superseded -= int(np.count_nonzero(returned))
            retry.out[returned] = False

    def _refresh_retries(self, placement: NDArray[np.uint8]) -> None:
        """See where waiting pages are now; drop those that need no move."""
        retry = self._retry
        if len(retry) == 0:
            return
        waiting = retry.waiting
        retry.src[waiting] = placement[retry.page[waiting]]
        gone = waiting & (retry.src >= len(self._rank))
        there = waiting & (retry.src == retry.node)
        self._totals.not_present += int(np.count_nonzero(gone))
        self._totals.already_there += int(np.count_nonzero(there))
        if gone.any() or there.any():
            retry.keep(~(gone | there))

    def _accept(
        self,
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        placement: NDArray[np.uint8],
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint8]]:
        """Return pages, destinations and sources of the wishes that can start."""
        totals = self._totals
        src = placement[page]
        # 255 without memory; between that and the last node one that came later.
        refuse = src >= len(self._rank)
        totals.not_present += int(np.count_nonzero(refuse))
        there = src == node
        totals.already_there += int(np.count_nonzero(there))
        refuse |= there
        if has_duplicates(page, self._pages):
            first = np.ones(len(page), np.bool_)
            first[np.unique(page, return_index=True)[1]] = False
            totals.duplicate += int(np.count_nonzero(first & ~refuse))
            refuse |= first
        if len(self._flights):
            flying = np.isin(page, self._flights.page)
            totals.in_flight += int(np.count_nonzero(flying & ~refuse))
            refuse |= flying
        if len(self._retry):
            at, found = self._retry.find(page)
            found &= ~refuse
            waits = found & self._retry.waiting[at]
            totals.superseded += int(np.count_nonzero(waits))
            self._retry.retarget(at[waits], node[waits])
            totals.rested += int(np.count_nonzero(found & ~waits))
            refuse |= found
        if refuse.any():
            keep = ~refuse
            return page[keep], node[keep], src[keep]
        return page, node, src

    def _batches_done(self, events: list[BatchDone]) -> None:
        if not events:
            return
        self._pass_time(events[-1].now_ns)
        batches = [self._flights.end(event) for event in events]
        page = np.concatenate([b.page for b in batches])
        errno = np.concatenate([e.errno for e in events])
        size = np.array([len(b.page) for b in batches])
        node = np.array([b.node[0] for b in batches])
        src = np.array([b.src[0] for b in batches])
        totals = self._totals
        totals.batches += len(batches)
        totals.tried += len(page)
        totals.cost_ns += sum(e.cost_ns for e in events)
        ok = errno == 0
        counted = went = size
        if self._flights.has_overtaken or not ok.all():
            lost = self._flights.take_overtaken(batches)
            totals.overtaken += int(np.count_nonzero(lost))
            held = (errno == HELD_BACK) & ~lost
            if held.any():
                self._held_back(page, np.repeat(node, size), np.repeat(src, size), held)
            bad = ~ok & ~lost & ~held
            to, of = np.repeat(node, size)[bad], np.repeat(src, size)[bad]
            self._failed(page[bad], to, of, errno[bad])
            starts = np.concatenate([[0], np.cumsum(size)[:-1]])
            went = np.add.reduceat(ok, starts, dtype=np.int64)
            ok &= ~lost
            page = page[ok]
            counted = np.add.reduceat(ok, starts, dtype=np.int64)
        self._retry.forget(page)
        self._room.end(src, node, size, went)
        up, lateral = (
            self._rank[node] < self._rank[src],
            self._rank[node] == self._rank[src],
        )
        promoted, same = int(counted[up].sum()), int(counted[lateral].sum())
        totals.applied += len(page)
        totals.promoted += promoted
        totals.lateral += same
        totals.demoted += len(page) - promoted - same
        went_up = np.repeat(up, counted)
        if same:
            crossed = ~np.repeat(lateral, counted)
            page, went_up = page[crossed], went_up[crossed]
        totals.ping_pong += self._last_move.record(self._now_ns, page, went_up)

    def _held_back(
        self,
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        src: NDArray[np.uint8],
        held: NDArray[np.bool_],
    ) -> None:
        self._totals.held_back += int(np.count_nonzero(held))
        self._retry.rest(
            page[held], node[held], src[held], self._now_ns + self._hold_ns
        )

    def _failed(
        self,
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        src: NDArray[np.uint8],
        errno: NDArray[np.int16],
    ) -> None:
        totals = self._totals
        for code, count in zip(*np.unique(errno, return_counts=True), strict=True):
            totals.errno[int(code)] = totals.errno.get(int(code), 0) + int(count)
        passes = np.isin(errno, TRANSIENT)
        self._room.close(node[errno == TRANSIENT[2]])
        totals.dropped += int(np.count_nonzero(~passes))
        self._retry.forget(page[~passes])
        if passes.any():
            totals.gave_up += self._retry.failed(
                self._now_ns, page[passes], node[passes], src[passes]
            )

    # -- instructions -----------------------------------------------------

    def _budget(self) -> int:
        room = self._max_in_flight - self._flights.pages
        budget = min(self._quota.allowed(), room)
        enough = min(self._least, len(self._queue), self._max_in_flight)
        return budget if self._quota.share > 0 and budget >= enough else 0

    def _dispatch(self) -> list[MoveBatch]:
        budget = self._budget()
        if budget <= 0:
            return []
        queue = self._queue
        waiting = queue.waiting
        rank = self._rank
        down = [p for p in waiting if rank[p[1]] > rank[p[0]]]
        up = [p for p in waiting if rank[p[1]] <= rank[p[0]]]
        instructions: list[MoveBatch] = []
        promote = queue.pick(up, budget, self._room.into(up))
        self._start(promote, instructions)
        budget -= sum(promote.values())
        if not down or budget <= 0:
            return instructions
        need, promised = self._room.shortage(queue.waiting, up, down)
        # What demotions in flight make room for is to be tried out of this budget.
        budget -= min(promised, budget)
        make_room = queue.pick(down, budget // 2, self._room.into(down), need)
        self._start(make_room, instructions)
        budget -= 2 * sum(make_room.values())
        if budget > 0:
            self._start(queue.pick(down, budget, self._room.into(down)), instructions)
        return instructions

    def _start(self, count: Mapping[Path, int], out: list[MoveBatch]) -> None:
        """Turn the heads of queues into batches."""
        for (src, node), total in count.items():
            self._room.start((src, node), total)
            page, to, of = self._queue.take((src, node), total)
            for at in range(0, total, self._batch_pages):
                to_at = slice(at, at + self._batch_pages)
                out.append(self._flights.start(page[to_at], to[to_at], of[to_at]))
            self._quota.take(total)

    # -- looking ----------------------------------------------------------

    def validate(self) -> None:
        """Check all invariants.

        Raises:
            AssertionError: One does not hold.
        """
        broken = broken_rules(
            self._queue,
            self._flights,
            self._retry,
            self._room,
            self._quota,
            self._totals,
        )
        if broken:
            raise AssertionError(f"migration state: broken: {', '.join(broken)}")

    def to_dict(self) -> dict[str, object]:
        """Return a snapshot in plain numbers, for ``explain`` and for people."""
        return {
            "now_ns": self._now_ns,
            "tokens_pages": self._quota.tokens,
            "queued": {f"{a}->{b}": n for (a, b), n in self._queue.waiting.items()},
            "in_flight_batches": sorted(self._flights.batches),
            "in_flight_pages": self._flights.pages,
            "waiting_pages": int(np.count_nonzero(self._retry.waiting)),
            "resting_pages": int(
                np.count_nonzero(~self._retry.waiting & ~self._retry.out)
            ),
            "room_pages": [self._room.free(n) for n in range(len(self._rank))],
            "moved_bytes": self._totals.applied * PAGE_BYTES,
            "totals": asdict(self._totals),
        }
