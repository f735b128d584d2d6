"""The machine: what a host, a simulator or a replay offers to the loop."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.clock import Clock
from isotherm.topology.model import Topology

#: Placement of a page that has no memory now.
NOT_PRESENT = 255


@dataclass(frozen=True, slots=True)
class Space:
    """One contiguous page-numbered range of one owner.

    Pages of all spaces are numbered in one flat index: page ``i`` of a space is
    flat page ``base + i``. Every page column of the project holds flat pages.

    Attributes:
        base: First flat page.
        pages: Length.
        owner: Who owns it, for people: ``pid 4242``, ``gups``.
        start_page: Virtual page number of page 0 where there is one;
            ``base % 512 == start_page % 512``, so that huge pages and blocks of
            eight pages align.
    """

    base: int
    pages: int
    owner: str
    start_page: int = 0


@dataclass(frozen=True, slots=True)
class SpacesChanged:
    """Spaces or nodes have come, grown or gone since the last refresh.

    The flat index only grows: what a space gave up is handed out again, and a
    page number that nobody holds stays without memory (``NOT_PRESENT``).

    Attributes:
        pages: Length of the flat index now; never less than before.
        renewed: Flat ranges [start, end) whose history is void, because they were
            given to a new owner or given up, int64[n, 2], ascending, not
            overlapping, not empty. Pages beyond the old length need not be in it.
        topology: Nodes and tiers as they are now, where a node or a tier has come
            or gone; None: they are as they were. A node keeps its number while it
            is away; a page on it is in no tier until it is seen elsewhere.
    """

    pages: int
    renewed: NDArray[np.int64]
    topology: Topology | None = None

    def holds(self, page: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return whether each page, in any order, is in a renewed range, bool[n]."""
        if len(self.renewed) == 0:
            return np.zeros(len(page), np.bool_)
        at = np.searchsorted(self.renewed[:, 0], page, side="right") - 1
        inside: NDArray[np.bool_] = (at >= 0) & (page < self.renewed[at, 1])
        return inside


@dataclass(frozen=True, slots=True)
class Usage:
    """Pages per node, as columns indexed by node id, int64.

    Watermarks are free pages (mm/page_alloc.c): reclaim wakes below ``low`` and
    works until ``high``; in tiering mode until ``promo``.

    Attributes:
        fill: Share of a node's media that is taken where its capacity depends on
            the data (a compressing device), NaN elsewhere, float64[nodes]; None
            where no node's does. Such a node's ``capacity_pages`` is what would fit
            if further data compressed as what is there does: it may shrink below
            ``used_pages``.
    """

    capacity_pages: NDArray[np.int64]
    used_pages: NDArray[np.int64]
    min_pages: NDArray[np.int64]
    low_pages: NDArray[np.int64]
    high_pages: NDArray[np.int64]
    promo_pages: NDArray[np.int64]
    fill: NDArray[np.float64] | None = field(default=None, kw_only=True)

    @property
    def free_pages(self) -> NDArray[np.int64]:
        """Free pages per node."""
        return self.capacity_pages - self.used_pages


@dataclass(frozen=True, slots=True)
class MoveResult:
    """What became of a batch of moves.

    Attributes:
        errno: 0 where the page moved, else a positive errno, int16[n].
        cost_ns: Time that the batch took, all of it.
        huge: Huge pages that moved, each as one.
    """

    errno: NDArray[np.int16]
    cost_ns: float
    huge: int = 0


@dataclass(frozen=True, slots=True)
class HugePages:
    """Which memory is mapped by huge pages, and what that saves and costs.

    A range is 512 pages, aligned: range ``i`` is flat pages ``[512 i, 512 i + 512)``.

    Attributes:
        huge: Whether each whole range is one huge page, bool[pages // 512].
        kernel_round_s: Seconds in which the kernel's own thread (khugepaged) comes
            by all of the memory once; infinite: it does not run.
        kernel_would: Ranges that it may collapse, bool[pages // 512].
        entries: Translations that the TLB holds, of either size.
        walk_ns: What a miss costs whose page is small.
        huge_walk_ns: What one costs whose page is huge.
        move_ns: What moving a huge page as one costs.
        split_ns: What making small pages of it costs.
        collapse_ns: What making a huge page of 512 small ones costs.
    """

    huge: NDArray[np.bool_]
    kernel_round_s: float
    kernel_would: NDArray[np.bool_]
    entries: int
    walk_ns: float
    huge_walk_ns: float
    move_ns: float
    split_ns: float
    collapse_ns: float


@dataclass(frozen=True, slots=True)
class ResizeResult:
    """What became of changes of page size.

    Attributes:
        errno: 0 where the range has the size asked for now, int16[n].
        cost_ns: What each took, float64[n].
    """

    errno: NDArray[np.int16]
    cost_ns: NDArray[np.float64]


class Machine(Protocol):
    """Somewhere pages live and can be moved."""

    @property
    def clock(self) -> Clock:
        """The only clock."""
        ...

    @property
    def topology(self) -> Topology:
        """Nodes, tiers, initiators."""
        ...

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The managed spaces, ascending by base, not overlapping."""
        ...

    @property
    def pages(self) -> int:
        """Length of the flat page index: no space reaches beyond it."""
        ...

    def refresh(self) -> SpacesChanged | None:
        """See which spaces have come and gone; None if nothing has changed.

        Called once, first thing in an epoch. Between two calls spaces, the length
        of the flat index and what a flat page stands for stay as they are.
        """
        ...

    def usage(self) -> Usage:
        """Return capacity, use and watermarks per node."""
        ...

    def placement(self) -> NDArray[np.uint8]:
        """Return the node of every flat page (a view: do not write); 255 if none."""
        ...

    def latency_ns(self) -> NDArray[np.float64]:
        """Return the loaded read latency, float64[initiators, nodes]."""
        ...

    def access_rate(self) -> float | None:
        """Return accesses per page per second of the last epoch, None if unknown.

        A counting PMU knows the total without knowing a single page; it is divided
        among the pages that have memory.
        """
        ...

    @property
    def parallelism(self) -> float:
        """Memory-level parallelism: accesses in flight that share a latency."""
        ...

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Move pages, each to its node; a page that cannot move is an errno.

        On a host the engine calls this from a thread of its own while the loop
        calls the rest: such a machine guards what both use. A page that changed
        its owner since it was planned is not moved: ENOENT.
        """
        ...


class HugeMachine(Protocol):
    """What also says which memory is huge, and changes it."""

    @property
    def clock(self) -> Clock:
        """The machine's clock."""
        ...

    def placement(self) -> NDArray[np.uint8]:
        """Return the node of every flat page (a view: do not write); 255 if none."""
        ...

    def huge_pages(self) -> HugePages:
        """Return which ranges are huge, and the costs as the machine has them."""
        ...

    def resize(self, page: NDArray[np.uint32], huge: NDArray[np.bool_]) -> ResizeResult:
        """Collapse or split ranges, in order.

        A range is collapsed on the node that has most of its pages
        (hpage_collapse_find_target_node() in mm/khugepaged.c).

        Args:
            page: First page of each range, a multiple of 512, uint32[n].
            huge: True: make it one huge page; False: make it small ones, bool[n].
        """
        ...
