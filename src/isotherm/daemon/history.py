"""What a running daemon remembers for ``explain``: little, and of bounded size.

Heat is kept by regions of 512 pages in a dozen stretches of time that grow longer
as the run goes on; moves are kept one by one, the latest of them; where pages were
before the present epoch is kept as two bits a page. All together that is half a
byte a page.
"""

from dataclasses import dataclass, field
from threading import RLock
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, PAGES_PER_HUGE_PAGE
from isotherm.hotness.protocol import HotnessView
from isotherm.loop.epoch import Step
from isotherm.machine.protocol import NOT_PRESENT, Machine, SpacesChanged
from isotherm.migration.ranks import rank_column
from isotherm.observability.sizes import SizeLog
from isotherm.policy.plan import Moves
from isotherm.topology.model import Topology

#: Stretches of time that heat is kept in; when twice as many are full, pairs merge.
STRETCHES: Final = 12
#: A stretch is at least so long, and longer for more pages than this: working
#: through 16 Mi pages takes some 80 ms, which is 0.5 % of a core every 16 s.
LEAST_STRETCH_S: Final = 2.0
STRETCH_PAGES: Final = 1 << 21
#: Latest moves that are kept.
MAX_MOVES: Final = 1 << 16
#: Pages of a region, and how many of them are asked for their rate.
REGION_PAGES: Final = PAGES_PER_HUGE_PAGE
ASKED_PAGES: Final = 16
_NOWHERE: Final = 3  # a tier code: no memory, or slower than the third tier


class _Pages:
    """Two bits a page: the tier (0, 1, 2) or 3."""

    def __init__(self) -> None:
        self._packed: NDArray[np.uint8] = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return self._packed.nbytes

    def set_all(self, code: NDArray[np.uint8]) -> None:
        """Keep the codes of all pages, uint8[n], below 4."""
        padded = np.full(-(-len(code) // 4) * 4, _NOWHERE, np.uint8)
        padded[: len(code)] = code
        quads = padded.reshape(-1, 4)
        packed = quads[:, 0].copy()
        for column in range(1, 4):
            packed |= quads[:, column] << np.uint8(2 * column)
        self._packed = packed

    def set_some(self, page: NDArray[np.uint32], code: NDArray[np.uint8]) -> None:
        """Keep the codes of some pages; of those beyond the end, none."""
        known = page < 4 * len(self._packed)
        at = (page[known] >> 2).astype(np.int64)
        shift = ((page[known] & 3) << 1).astype(np.uint8)
        # Several pages may share a byte: one after the other.
        np.bitwise_and.at(self._packed, at, ~(np.uint8(3) << shift))
        np.bitwise_or.at(self._packed, at, code[known] << shift)

    def get(self, page: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return codes of pages; 3 for those not known."""
        code = np.full(len(page), _NOWHERE, np.uint8)
        known = page < 4 * len(self._packed)
        at = page[known].astype(np.int64)
        code[known] = self._packed[at >> 2] >> ((at & 3) << 1).astype(np.uint8) & 3
        return code


@dataclass(slots=True)
class Stretch:
    """Heat over some time.

    Attributes:
        from_ns: Machine's time.
        to_ns: Machine's time.
        rate: Estimated accesses per page and second of every region,
            float32[regions]; NaN: not known, or another owner's.
        fast_share: Share of the region's pages with memory that were in the
            fastest tier, float32[regions]; NaN: none had memory.
    """

    from_ns: int
    to_ns: int
    rate: NDArray[np.float32]
    fast_share: NDArray[np.float32]


@dataclass(slots=True)
class Kept:
    """Moves that were tried, columns in order of time."""

    time_ns: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    page: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    src: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    dst: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    reason: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    gain_ns: NDArray[np.float32] = field(
        default_factory=lambda: np.empty(0, np.float32)
    )
    errno: NDArray[np.int16] = field(default_factory=lambda: np.empty(0, np.int16))

    def take(self, row: NDArray[np.integer] | slice) -> "Kept":
        """Return some rows."""
        return Kept(*(getattr(self, name)[row] for name in _COLUMNS))

    def then(self, other: "Kept") -> "Kept":
        """Return these and later ones, the latest ``MAX_MOVES`` of them."""
        joined = Kept(
            *(
                np.concatenate([getattr(self, name), getattr(other, name)])
                for name in _COLUMNS
            )
        )
        return joined.take(slice(-MAX_MOVES, None))


_COLUMNS: Final = ("time_ns", "page", "src", "dst", "reason", "gain_ns", "errno")


class Costs(Protocol):
    """Says what moves cost: an engine."""

    def move_cost_ns(self) -> NDArray[np.float64]:
        """Return the expected cost of a page, float64[nodes, nodes]."""
        ...


class History:
    """Observes the epochs of a service.

    Answers come from another thread: hold ``lock`` while reading.

    Args:
        machine: Where pages live.
        engine: Says what moves cost; None: nobody does.
        unit_pages: Pages in what the machine calls a page.
    """

    def __init__(
        self, machine: Machine, engine: Costs | None = None, unit_pages: int = 1
    ) -> None:
        self.unit_pages = unit_pages
        self.lock = RLock()
        self.machine = machine
        self._engine = engine
        self.spaces = machine.spaces
        self.move_cost_ns: NDArray[np.float64] | None = None
        self.stretches: list[Stretch] = []
        self.moves = Kept()
        self.latest = Kept()  # of the last epoch, all of them
        self.sizes = SizeLog()
        self.dropped_moves = 0
        self.notes: dict[str, float] = {}
        self.epochs = 0
        self.epoch_ns = 0.0
        self.began_ns = machine.clock.now_ns()
        self._stretch_ns = round(LEAST_STRETCH_S * NS_PER_S)
        self._due_ns = self.began_ns
        self._last_ns = self.began_ns
        self._before = _Pages()
        self._pending = Moves.none()
        self._take_tiers(machine.topology)
        #: Where units are, as of a late epoch: the machine is asked by its own
        #: thread alone.
        self.node = machine.placement()
        self._remember(self.node)

    def _take_tiers(self, topology: Topology) -> None:
        self.rank = np.minimum(rank_column(topology, 256), np.uint8(_NOWHERE))
        self._first_node = np.array(
            [tier.nodes[0] for tier in topology.tiers][:_NOWHERE] + [NOT_PRESENT] * 4,
            np.uint8,
        )

    def observe(self, step: Step, wished: Moves | None = None) -> None:
        """Take in one epoch.

        Args:
            step: What the loop saw, decided and did.
            wished: The plan before anything was held back; None: as it is.
        """
        now_ns = self.machine.clock.now_ns()
        with self.lock:
            if step.change is not None:
                self._renew(step.change)
            if step.change is not None and step.change.topology is not None:
                self._take_tiers(step.change.topology)
                self._remember(self.machine.placement())
            if self.unit_pages == 1:  # a view; of larger units it is made each time
                self.node = self.machine.placement()
            self._keep_moves(now_ns, step, wished)
            self.sizes.keep(self.epochs, now_ns - self.began_ns, step.resized)
            self.spaces = self.machine.spaces
            self.notes = dict(step.plan.notes)
            self.epochs += 1
            self.epoch_ns = float(now_ns - self._last_ns)
            self._last_ns = now_ns
            if now_ns >= self._due_ns:
                self.node = node = self.machine.placement()
                self._keep_heat(now_ns, step, node)
                self._remember(node)

    @property
    def bytes(self) -> int:
        """Memory taken, all of it."""
        heat = sum(s.rate.nbytes + s.fast_share.nbytes for s in self.stretches)
        moves = sum(int(getattr(self.moves, name).nbytes) for name in _COLUMNS)
        return heat + moves + self._before.nbytes

    def source_node(self, page: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return where pages were after the last epoch: the first node of their tier.

        Our own moves are known at once, those of others within a stretch.
        ``NOT_PRESENT`` where they had no memory, or in a tier beyond the third.
        """
        return self._first_node[self._before.get(page)]

    # -- taking in ---------------------------------------------------------

    def _remember(self, node: NDArray[np.uint8]) -> None:
        self._before.set_all(self.rank[node])

    def _keep_moves(self, now_ns: int, step: Step, wished: Moves | None) -> None:
        """Join what was tried with what was promised for it."""
        self.latest = Kept()
        plan = step.plan.moves if wished is None else wished
        outcome = step.outcome
        if len(outcome.page):
            # The plan of this epoch rules; what ran beside the loop is of an older.
            reason, gain = _promised(outcome.page, (self._pending, plan))
            # Moves run beside the loop: each stands where its batch ended.
            ended_ns = outcome.time_ns
            if ended_ns is None:
                ended_ns = np.full(len(outcome.page), now_ns, np.int64)
            src = outcome.src
            if src is None:
                src = self.source_node(outcome.page)
            new = Kept(
                ended_ns.copy(),
                outcome.page.copy(),
                src.copy(),
                outcome.node.copy(),
                reason,
                gain,
                outcome.errno.copy(),
            )
            done = np.flatnonzero(outcome.errno == 0)[::-1]
            done = done[np.unique(outcome.page[done], return_index=True)[1]]
            self._before.set_some(outcome.page[done], self.rank[outcome.node[done]])
            self.latest = new
            before = len(self.moves.page) + len(new.page)
            self.moves = self.moves.then(new)
            self.dropped_moves += before - len(self.moves.page)
        if len(plan):
            self._pending = plan

    def _keep_heat(self, now_ns: int, step: Step, node: NDArray[np.uint8]) -> None:
        rate = _region_rates(step.hotness, node)
        starts = np.arange(0, len(node), REGION_PAGES)
        there = np.add.reduceat((node != NOT_PRESENT).astype(np.int32), starts)
        fast = np.add.reduceat((self.rank[node] == 0).astype(np.int32), starts)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (fast / there).astype(np.float32)
        if self._engine is not None:
            self.move_cost_ns = self._engine.move_cost_ns()
        from_ns = self.stretches[-1].to_ns if self.stretches else self.began_ns
        self.stretches.append(Stretch(from_ns, now_ns, rate, share))
        if len(self.stretches) >= 2 * STRETCHES:
            self.stretches = [
                _merged(a, b)
                for a, b in zip(self.stretches[::2], self.stretches[1::2], strict=True)
            ]
            self._stretch_ns *= 2
        much = max(1.0, len(node) / STRETCH_PAGES)
        self._due_ns = now_ns + max(
            self._stretch_ns, round(LEAST_STRETCH_S * much * NS_PER_S)
        )

    def _renew(self, change: SpacesChanged) -> None:
        """Forget pages that have a new owner or none."""
        if len(self.moves.page):
            self.moves = self.moves.take(np.flatnonzero(~change.holds(self.moves.page)))
        if len(self._pending):
            self._pending = self._pending.take(
                np.flatnonzero(~change.holds(self._pending.page))
            )
        for start, end in change.renewed.tolist():
            first, last = start // REGION_PAGES, -(-end // REGION_PAGES)
            for stretch in self.stretches:
                stretch.rate[first:last] = np.nan
                stretch.fast_share[first:last] = np.nan


def _region_rates(
    view: HotnessView | None, node: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the mean rate of every region's pages with memory, from some of them."""
    regions = -(-len(node) // REGION_PAGES)
    rate = np.full(regions, np.nan, np.float32)
    if view is None:
        return rate
    step = REGION_PAGES // ASKED_PAGES
    page = np.arange(step // 2, min(len(node), view.pages), step, dtype=np.uint32)
    page = page[node[page] != NOT_PRESENT]
    row = page // REGION_PAGES
    asked = np.bincount(row, minlength=regions)
    total = np.bincount(row, view.rate(page).astype(np.float64), regions)
    known = asked > 0
    rate[known] = total[known] / asked[known]
    return rate


def _merged(a: Stretch, b: Stretch) -> Stretch:
    """Return one stretch of two, weighted by their lengths; b has more regions."""
    whole = max(b.to_ns - a.from_ns, 1)
    weight = np.float32((b.to_ns - b.from_ns) / whole)

    def mean(
        early: NDArray[np.float32], late: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        padded = np.full(len(late), np.nan, np.float32)
        padded[: len(early)] = early[: len(late)]
        both = padded * (1 - weight) + late * weight
        return np.where(np.isnan(padded), late, np.where(np.isnan(late), padded, both))

    return Stretch(
        a.from_ns, b.to_ns, mean(a.rate, b.rate), mean(a.fast_share, b.fast_share)
    )


def _promised(
    page: NDArray[np.uint32], plans: tuple[Moves, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return reason and gain that plans gave pages, the last plan ruling."""
    reason = np.full(len(page), 255, np.uint8)
    gain = np.full(len(page), np.nan, np.float32)
    for plan in plans:
        if not len(plan):
            continue
        order = np.argsort(plan.page, kind="stable")
        at = order[np.minimum(np.searchsorted(plan.page[order], page), len(order) - 1)]
        same = plan.page[at] == page
        reason[same] = plan.reason[at[same]]
        gain[same] = plan.gain_ns[at[same]]
    return reason, gain
