"""What moves cost and what they earned: what every executor keeps of its batches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isotherm.hotness.protocol import HotnessView
from isotherm.machine.protocol import Machine, SpacesChanged
from isotherm.migration.cost import CostModel, CostPrior
from isotherm.migration.events import BatchDone, MoveBatch
from isotherm.migration.holdback import HELD, HELD_BACK, MOVED, HoldBack
from isotherm.migration.ledger import GainLedger
from isotherm.migration.ranks import rank_column
from isotherm.policy.plan import Moves, Outcome
from isotherm.policy.whose import unnamed_rows

#: Pages in a batch when the cost of one is asked for (kmigrated's batch).
TYPICAL_BATCH = 512


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """A batch and its end.

    Attributes:
        batch: What was to move.
        done: What became of it.
        ours: Rows whose page still has the owner that it had, bool[n]; None: all.
    """

    batch: MoveBatch
    done: BatchDone
    ours: NDArray[np.bool_] | None = None


class Books:
    """Cost model, ledger and held-back moves of one executor.

    Args:
        machine: Where pages move.
        batch_pages: Most pages in a batch.
        prior_cost: What a move is believed to cost before the first.
        hold_back: Moves held back for comparison; None: none.
        dear: Whether moves get dearer when promises fail.
    """

    def __init__(
        self,
        machine: Machine,
        batch_pages: int,
        prior_cost: CostPrior | None,
        hold_back: HoldBack | None,
        *,
        dear: bool,
    ) -> None:
        self._machine = machine
        self._batch_pages = batch_pages
        self._dear = dear
        self.rank = rank_column(machine.topology)
        self.cost = CostModel(len(self.rank), prior_cost)
        self.ledger = GainLedger()
        self.hold_back = hold_back

    def settle(self, now_ns: int, plans: list[Moves], ended: list[Ended]) -> Outcome:
        """Feed cost model, ledger and comparison; return what was tried.

        Args:
            now_ns: The machine's time.
            plans: What promised the moves, newest last.
            ended: Batches that are done, in order.
        """
        if not ended:
            return Outcome.none()
        page = np.concatenate([e.batch.page for e in ended])
        node = np.concatenate([e.batch.node for e in ended])
        src = np.concatenate([e.batch.src for e in ended])
        errno = np.concatenate([e.done.errno for e in ended])
        size = np.array([len(e.batch) for e in ended])
        cost_ns = np.array([e.done.cost_ns for e in ended])
        ok = errno == 0
        # What failed tries cost is part of what a page that moved has cost.
        starts = np.concatenate([[0], np.cumsum(size)[:-1]])
        moved = np.add.reduceat(ok, starts, dtype=np.int64)
        path = np.array(
            [(int(e.batch.src[0]) << 8) | int(e.batch.node[0]) for e in ended]
        )
        for key in sorted(set(path.tolist())):
            on = path == key
            self.cost.observe(key >> 8, key & 255, moved[on], cost_ns[on])
        each_ns = np.repeat(cost_ns / size, size)
        ours = self._ours(ended)
        if ours is not None:
            ok &= ours
        self._open_ledger(now_ns, plans, page[ok], src[ok], node[ok], each_ns[ok])
        keep = ours
        if self.hold_back is not None:
            held = errno == HELD_BACK
            self._follow(self.hold_back, now_ns, plans, ended, held, each_ns, ours)
            keep = ~held if ours is None else ours & ~held
        done_ns = np.array([e.done.now_ns for e in ended], np.int64)
        tried = Outcome(
            page, node, errno, float(cost_ns.sum()), src, np.repeat(done_ns, size)
        )
        return tried if keep is None or keep.all() else tried.take(keep)

    @staticmethod
    def _ours(ended: list[Ended]) -> NDArray[np.bool_] | None:
        if all(e.ours is None for e in ended):
            return None
        return np.concatenate(
            [
                np.ones(len(e.batch), np.bool_) if e.ours is None else e.ours
                for e in ended
            ]
        )

    def _open_ledger(
        self,
        now_ns: int,
        plans: list[Moves],
        page: NDArray[np.uint32],
        src: NDArray[np.uint8],
        node: NDArray[np.uint8],
        cost_ns: NDArray[np.float64],
    ) -> None:
        """Enter the sampled moves with what the plan promised for them."""
        rank = self.rank
        rows = self.ledger.admit(page)
        if len(rows) == 0:
            return
        page, src, node, cost_ns = page[rows], src[rows], node[rows], cost_ns[rows]
        promised = _promised(plans, page, self.ledger.sampled)
        self.ledger.open(
            now_ns, page, src, node, promised, cost_ns, rank[node] > rank[src]
        )

    def _follow(
        self,
        hold_back: HoldBack,
        now_ns: int,
        plans: list[Moves],
        ended: list[Ended],
        held: NDArray[np.bool_],
        each_ns: NDArray[np.float64],
        ours: NDArray[np.bool_] | None,
    ) -> None:
        """Follow those held back, and as many of those that went."""
        page = np.concatenate([e.batch.page for e in ended])
        down = np.concatenate(
            [self.rank[e.batch.node] > self.rank[e.batch.src] for e in ended]
        )
        beside = [hold_back.arm(e.batch.page, e.batch.id)[1] for e in ended]
        went = np.concatenate(beside) & ~held
        for arm, rows, cost in ((HELD, held, 0.0), (MOVED, went, 1.0)):
            at = np.flatnonzero(rows if ours is None else rows & ours)
            if len(at):
                promised = _promised(plans, page[at])
                hold_back.follow(
                    now_ns, page[at], arm, promised, cost * each_ns[at], down[at]
                )

    def account_epoch(self, view: HotnessView, dt_ns: int) -> None:
        """Credit an epoch to the moves that are followed; costs known fade a little."""
        machine = self._machine
        self.cost.fade(dt_ns)
        latency_ns = unnamed_rows(machine.topology, machine.latency_ns())
        followers = [f for f in (self.ledger, self.hold_back) if f is not None]
        for follower in followers:
            if len(follower) or follower is self.hold_back:
                follower.account_epoch(
                    machine.clock.now_ns(),
                    dt_ns,
                    view.stall_rate,
                    machine.placement(),
                    latency_ns,
                    machine.parallelism,
                )

    def renew(self, change: SpacesChanged) -> None:
        """Let go of pages that have a new owner or none; take up other nodes.

        Where nodes have changed, moves that are followed are let go, uncounted:
        what they promised held for other tiers. What paths cost stays known.
        """
        if change.topology is not None:
            self.rank = rank_column(change.topology, len(self.rank))
            self.cost.grow(len(self.rank))
            self.ledger.let_go()
            if self.hold_back is not None:
                self.hold_back.let_go()
        self.ledger.renew(change)
        if self.hold_back is not None:
            self.hold_back.renew(change)

    @property
    def dearness(self) -> float:
        """By how much failed promises make moves dearer; 1: not at all.

        Judged by moves held back as soon as enough are settled, else by what the
        tracker says of the pages that were moved.
        """
        if not self._dear:
            return 1.0
        found = None if self.hold_back is None else self.hold_back.dearness()
        return self.ledger.dearness() if found is None else found

    def move_cost_ns(self) -> NDArray[np.float64]:
        """Return the expected cost of a page in a typical batch, [from, to]."""
        batch_pages = min(self._batch_pages, TYPICAL_BATCH)
        cost = self.cost.expected_ns_per_page(batch_pages)
        dearness = self.dearness
        return cost if dearness == 1.0 else cost * dearness


def move_batch(
    machine: Machine, batch: MoveBatch, hold_back: HoldBack | None
) -> tuple[NDArray[np.int16], float]:
    """Move a batch but for what is held back; return errno and cost.

    Returns:
        errno int16[n], ``HELD_BACK`` where a page was not tried; nanoseconds.
    """
    held = None if hold_back is None else hold_back.arm(batch.page, batch.id)[0]
    if held is None or not held.any():
        result = machine.move(batch.page, batch.node)
        return result.errno, float(result.cost_ns)
    errno = np.full(len(batch), HELD_BACK, np.int16)
    cost_ns = 0.0
    if not held.all():
        result = machine.move(batch.page[~held], batch.node[~held])
        errno[~held], cost_ns = result.errno, float(result.cost_ns)
    return errno, cost_ns


def _promised(
    plans: list[Moves],
    page: NDArray[np.uint32],
    among: Callable[[NDArray[np.uint32]], NDArray[np.bool_]] | None = None,
) -> NDArray[np.float32]:
    """Return what plans promised for pages, the newest ruling; NaN: nothing.

    Args:
        plans: Oldest first.
        page: uint32[n], none twice.
        among: Says which pages can be among them, to spare a search.
    """
    promised = np.full(len(page), np.nan, np.float32)
    order = np.argsort(page)
    ordered = page[order]
    for moves in plans:
        row = np.arange(len(moves)) if among is None else among(moves.page).nonzero()[0]
        if len(row) == 0 or len(page) == 0:
            continue
        at = np.minimum(np.searchsorted(ordered, moves.page[row]), len(ordered) - 1)
        same = ordered[at] == moves.page[row]
        promised[order[at[same]]] = moves.gain_ns[row[same]]
    return promised
