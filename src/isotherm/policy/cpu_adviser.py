"""The adviser of CPU placement: gathers who accesses what, advises once a window.

The memory plan does not know of it. Both look at the same evidence, and one of them
acts in a window of it: where threads were moved, who accesses what is gathered anew,
and pages cross between nodes of a tier only after a whole window (`Homes`); where pages
have crossed in a window the adviser leaves threads alone. If it would have moved some
it has the next window for itself, and moves them at its end if that still pays.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.hints.batch import HintBatch, Samples
from isotherm.machine.protocol import NOT_PRESENT, SpacesChanged
from isotherm.policy.cpus import Accesses, Placed, Prices, Threads, place_threads
from isotherm.policy.homes import STAY_NS, WINDOW_S
from isotherm.topology.model import Topology

#: Of what accesses cost, the least that moving threads has to save; and of that
#: part of it which near memory and no moves would save.
LEAST_GAIN: Final = 0.01
LEAST_PART: Final = 0.1
#: Of what was gathered, kept from one window to the next.
KEPT: Final = 0.5
#: Regions that threads' accesses are told apart by, and threads, at most.
MOST_REGIONS: Final = 1024
MOST_THREADS: Final = 512
#: Of a thread that moves: it fills the caches of another socket, some 4 MiB of them
#: at 10 GB/s.
THREAD_NS: Final = 400_000.0
#: Of a region no more than 2 ** 10 pages are asked for their node.
ASKED_SHIFT: Final = 10
#: Column of a node whose pages do not count.
NOWHERE: Final = 255


@dataclass(frozen=True, slots=True)
class CpuAdvice:
    """Threads that would better run elsewhere.

    Attributes:
        time_ns: When.
        id: Threads, or processes where nobody tells threads apart, int64[n].
        source: Initiator that each runs on, int64[n].
        target: Initiator that it had better run on, int64[n].
        gain: Share of what accesses cost that this saves.
        error: Standard error of that share.
        fewer_pages: Pages that need not move if threads do.
    """

    time_ns: int
    id: NDArray[np.int64]
    source: NDArray[np.int64]
    target: NDArray[np.int64]
    gain: float
    error: float
    fewer_pages: float

    def __len__(self) -> int:
        return len(self.id)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        rows = zip(self.id, self.source, self.target, strict=True)
        return {
            "time_s": self.time_ns / 1e9,
            "gain": self.gain,
            "error": self.error,
            "fewer_pages": self.fewer_pages,
            "threads": [
                {"id": int(who), "from": int(here), "to": int(there)}
                for who, here, there in rows
            ],
        }


class CpuAdviser:
    """Advises where threads should run.

    Args:
        topology: Nodes, tiers, initiators.
        pages: Length of the flat page index.
        acts: What it advises is carried out; else it advises in every window.
        thread_ns: What moving a thread costs.
    """

    def __init__(
        self,
        topology: Topology,
        pages: int,
        *,
        acts: bool,
        thread_ns: float = THREAD_NS,
    ) -> None:
        self._acts, self._thread_ns = acts, thread_ns
        fast = topology.tiers[0].nodes
        self._nodes = np.array(fast if len(fast) > 1 else (), np.int64)
        self._width = 1 + max((n.id for n in topology.nodes), default=0)
        self._column: dict[int, int] = {}
        self._window_s = 0.0
        self._crossed = 0
        self._grow(pages)
        #: Windows that have ended, and those in which pages had crossed.
        self.windows = self.busy_windows = 0
        #: Who accesses what should be gathered anew: no page is to cross meanwhile.
        self.wants_quiet = False

    def _grow(self, pages: int) -> None:
        """Make room for so many pages; what was gathered begins anew."""
        self._shift = 6
        while -(-pages >> self._shift) > MOST_REGIONS:
            self._shift += 1
        self._pages = pages
        regions = max(1, -(-pages >> self._shift))
        self._near = np.zeros((2, 0, regions))
        self._far = np.zeros((0, self._width))
        self._column.clear()
        self._elapsed_s = self._weight = self._square = 0.0
        self._half = 0
        self.untold = 0

    def renew(self, change: SpacesChanged) -> None:
        """Forget renewed pages; make room for new ones."""
        if change.pages > self._pages:
            self._grow(2 * change.pages)
        for start, end in change.renewed.tolist():
            self._near[:, :, start >> self._shift : -(-end >> self._shift)] = 0

    # ---- evidence

    def see(
        self,
        hints: tuple[HintBatch, ...],
        node: NDArray[np.uint8],
        passed_s: float,
        crossed_pages: int,
    ) -> None:
        """Take an epoch's evidence.

        Args:
            hints: What the sources saw.
            node: Placement.
            passed_s: Seconds.
            crossed_pages: Pages that moved between nodes of a tier.
        """
        self._window_s += passed_s
        self._elapsed_s += passed_s
        self._crossed += crossed_pages
        for batch in hints:
            seen = batch.seen
            if isinstance(seen, Samples) and seen.thread is not None:
                weight = np.full(len(seen.page), seen.period)
                self._add(seen.page, seen.thread, node, weight)

    def take_rates(
        self,
        page: NDArray[np.uint32],
        owner: NDArray[np.int64],
        rate: NDArray[np.floating],
        node: NDArray[np.uint8],
    ) -> None:
        """Take rates for the accesses of who owns the pages: nobody names threads.

        They take the place of what was taken before.

        Args:
            page: Flat pages, uint32[n].
            owner: Process of each, -1 unknown.
            rate: Accesses per second that each stands for.
            node: Placement.
        """
        self._near[:], self._far[:] = 0, 0
        self._weight = self._square = 0.0
        self._elapsed_s = 1.0
        self._add(page, owner, node, rate.astype(np.float64))

    def _add(
        self,
        page: NDArray[np.uint32],
        thread: NDArray[np.int64],
        node: NDArray[np.uint8],
        weight: NDArray[np.float64],
    ) -> None:
        where = node[page]
        known = (thread >= 0) & (where != NOT_PRESENT) & (where < self._width)
        self.untold += int(len(page) - known.sum())
        page, thread, where = page[known], thread[known], where[known]
        weight = weight[known]
        if len(page) == 0:
            return
        row = self._rows(thread)
        kept = row >= 0
        page, row, where, weight = page[kept], row[kept], where[kept], weight[kept]
        near = np.isin(where, self._nodes)
        half = (self._half + np.arange(len(page))) & 1
        self._half = (self._half + len(page)) & 1
        at = (half[near], row[near], page[near].astype(np.int64) >> self._shift)
        np.add.at(self._near, at, weight[near])
        np.add.at(self._far, (row[~near], where[~near].astype(np.int64)), weight[~near])
        self._weight += float(weight.sum())
        self._square += float((weight * weight).sum())

    def _rows(self, thread: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each thread, -1 where there are too many."""
        who, at = np.unique(thread, return_inverse=True)
        for one in who.tolist():
            if one not in self._column and len(self._column) < MOST_THREADS:
                self._column[one] = len(self._column)
        more = len(self._column) - len(self._far)
        if more:
            regions = self._near.shape[2]
            self._near = np.concatenate(
                [self._near, np.zeros((2, more, regions))], axis=1
            )
            self._far = np.concatenate([self._far, np.zeros((more, self._width))])
        rows = np.array([self._column.get(one, -1) for one in who.tolist()])
        found: NDArray[np.int64] = rows[at]
        return found

    # ---- advice

    @property
    def is_due(self) -> bool:
        """Whether a window has ended: `advise` is to be called."""
        return self._window_s >= WINDOW_S * (1 - 1e-9)

    def advise(
        self,
        threads: Threads,
        node: NDArray[np.uint8],
        latency_ns: NDArray[np.float64],
        move_cost_ns: NDArray[np.float64],
        parallelism: float,
        now_ns: int,
    ) -> CpuAdvice | None:
        """End a window; return who should run elsewhere, None where all is well.

        Args:
            threads: Who could be moved.
            node: Placement.
            latency_ns: Loaded, float64[initiators, nodes].
            move_cost_ns: Of a page, float64[nodes, nodes].
            parallelism: Accesses that share a latency.
            now_ns: The machine's time.
        """
        crossed, self._crossed, self._window_s = self._crossed, 0, 0.0
        self.windows += 1
        advice = self._judge(
            threads, node, latency_ns / parallelism, move_cost_ns, now_ns
        )
        self._fade()
        is_busy = self._acts and crossed > 0
        self.busy_windows += is_busy
        self.wants_quiet = is_busy and advice is not None
        return None if is_busy else advice

    def _judge(
        self,
        threads: Threads,
        node: NDArray[np.uint8],
        latency_ns: NDArray[np.float64],
        move_cost_ns: NDArray[np.float64],
        now_ns: int,
    ) -> CpuAdvice | None:
        row = np.array([self._column.get(who, -1) for who in threads.id.tolist()])
        if self._weight == 0 or len(row) == 0 or (row < 0).all():
            return None
        if len(latency_ns) < 2:
            return None
        silent = row < 0
        near = self._near[:, row] / self._elapsed_s
        far = self._far[row] / self._elapsed_s
        near[:, silent], far[silent] = 0, 0
        width = latency_ns.shape[1]
        cost_ns = move_cost_ns[np.ix_(self._nodes, self._nodes)]
        placed = place_threads(
            threads,
            Accesses(
                near,
                _padded(far, width),
                self.pages_on(node),
                self._nodes,
                self._square / self._weight / self._elapsed_s,
            ),
            Prices(
                latency_ns,
                float(cost_ns.max()) if cost_ns.size else 0.0,
                self._thread_ns,
                STAY_NS / 1e9,
            ),
        )
        return _advice(placed, threads, now_ns)

    def pages_on(self, node: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return about how many pages of each region are on each fast node.

        Args:
            node: Placement, uint8[pages].

        Returns:
            float64[regions, fast nodes].
        """
        regions = self._near.shape[2]
        column = np.full(256, NOWHERE, np.uint8)
        column[self._nodes] = np.arange(len(self._nodes))
        pages = np.zeros((regions, len(self._nodes)), np.int64)
        skip = max(0, self._shift - ASKED_SHIFT)  # of large regions some pages stand
        some = np.ascontiguousarray(node[: regions << self._shift : 1 << skip])
        count_regions(some, column, self._shift - skip, pages)
        return (pages << skip).astype(np.float64)

    def _fade(self) -> None:
        self._near *= KEPT
        self._far *= KEPT
        self._elapsed_s *= KEPT
        self._weight *= KEPT
        self._square *= KEPT
        if len(self._column) == MOST_THREADS:
            self._forget()

    def _forget(self) -> None:
        """Make room for new threads: forget of whom less than a sample is left."""
        seen = self._near.sum((0, 2)) + self._far.sum(1)
        one = self._square / self._weight if self._weight > 0 else 0.0
        kept = np.flatnonzero((seen >= one) & (seen > 0))
        who = np.array(list(self._column), np.int64)[kept]  # in the order of rows
        self._near, self._far = self._near[:, kept], self._far[kept]
        self._column = {thread: row for row, thread in enumerate(who.tolist())}


def _advice(placed: Placed, threads: Threads, now_ns: int) -> CpuAdvice | None:
    other = np.flatnonzero(placed.socket != threads.socket)
    gain = placed.gain_ns / max(placed.cost_ns, 1e-9)
    least_ns = LEAST_PART * (placed.cost_ns - placed.near_ns)
    if not len(other) or gain < LEAST_GAIN or placed.gain_ns < least_ns:
        return None
    if not placed.is_sure:
        return None
    return CpuAdvice(
        now_ns,
        threads.id[other],
        threads.socket[other],
        placed.socket[other],
        gain,
        placed.error_ns / max(placed.cost_ns, 1e-9),
        placed.moved_pages,
    )


def _padded(far: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return columns for as many nodes as latencies are known of."""
    if far.shape[1] >= width:
        return far[:, :width]
    more = np.zeros((len(far), width - far.shape[1]))
    return np.concatenate([far, more], axis=1)


def count_regions_twin(
    node: NDArray[np.uint8],
    column: NDArray[np.uint8],
    shift: int,
    out: NDArray[np.int64],
) -> None:
    """Numpy twin of `count_regions`."""
    for one in range(out.shape[1]):
        at = np.flatnonzero(column[node] == one) >> shift
        out[:, one] += np.bincount(at, minlength=len(out))


@kernel(twin=count_regions_twin)
def count_regions(
    node: NDArray[np.uint8],
    column: NDArray[np.uint8],
    shift: int,
    out: NDArray[np.int64],
) -> None:
    """Count the pages of each region on some nodes.

    Args:
        node: Placement, uint8[pages].
        column: Column of each node, uint8[256]; ``NOWHERE``: it does not count.
        shift: A region has 2 ** shift pages.
        out: int64[regions, nodes], added to.
    """
    for p in range(node.size):
        at = column[node[p]]
        if at != NOWHERE:
            out[p >> shift, at] += 1
