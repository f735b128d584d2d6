"""Hotness of running processes over time, as a trace that simulations accept.

A host does not tell single accesses: sources see bits, faults and regions, and the
tracker turns them into rates. So a trace of a live process is *synthesised*: in an
interval of ``dt`` seconds a page of rate r gets ``r dt`` accesses, whole ones; what
is left over is carried to the next interval, from a random beginning, so that a
page of 0.1 accesses a second has one every ten seconds and not all such pages have
it at once. Which accesses write is not known, nor is their order within an
interval: a page's accesses of one interval come as one row with a count.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.columns import grown
from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import Look, Mechanism
from isotherm.hotness.protocol import HotnessView
from isotherm.machine.protocol import NOT_PRESENT, Space, SpacesChanged
from isotherm.trace.format import TraceWriter

#: An interval is cut into so many moments, by a hash of the page: a simulated
#: epoch that is shorter than the interval still sees accesses in each.
MOMENTS: Final = 16
#: Pages asked for their rate at once.
AT_ONCE: Final = 1 << 18
#: Accessed bits are read once more so long before the end of an interval, as shares
#: of it, one interval after the other: a bit tells rates apart up to some three
#: accesses of a page between two readings.
GLANCES: Final = (1 / 4, None, 1 / 16, None)
#: Poisoned for hint faults at once: all memory in so many intervals.
FAULT_TURNS: Final = 16
#: Multiplier of Fibonacci hashing: 2**32 / golden ratio, odd (Knuth, TAOCP 6.4).
_GOLDEN: Final = np.uint32(2654435769)
#: A raw page is the virtual page number, below 2^48, and above it the process:
#: 0 for the first that was seen.
PROCESS_SHIFT: Final = 48
MOST_PROCESSES: Final = 1 << 15


def plan_glance(index: int, interval_s: float) -> float | None:
    """Return how long before its end bits are read within an interval, in seconds.

    Args:
        index: Intervals so far.
        interval_s: Length of an interval.

    Returns:
        Seconds; None: they are read at its end only.
    """
    share = GLANCES[index % len(GLANCES)]
    return None if share is None else share * interval_s


def plan_looks(index: int, pages: int) -> tuple[Look, ...]:
    """Return where and how to look in an interval: at everything alike.

    Args:
        index: Intervals so far.
        pages: Length of the flat page index.
    """
    turn = index % FAULT_TURNS
    step = -(-pages // (8 * FAULT_TURNS)) * 8
    looks = [Look(Mechanism.ACCESSED_BIT, 0, pages), Look(Mechanism.REGION, 0, pages)]
    if turn * step < pages:
        looks.append(
            Look(Mechanism.HINT_FAULT, turn * step, min(pages, (turn + 1) * step))
        )
    return tuple(looks)


class HotnessTrace:
    """Turns rates into rows of a trace, interval by interval.

    Args:
        writer: An open trace.
        pages: Length of the flat page index.
        seed: Decides when pages of less than an access an interval have theirs.
    """

    def __init__(self, writer: TraceWriter, pages: int, seed: int = 1) -> None:
        self._writer = writer
        self._rng = np.random.default_rng([seed, 0x7ACE])
        self._carry: NDArray[np.float32] = np.empty(0, np.float32)
        self._grow(pages)
        self._time_ns = 0
        self._raw: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._spaces: tuple[Space, ...] | None = None
        self._process: dict[str, int] = {}
        self.intervals = 0

    @property
    def owners(self) -> list[str]:
        """Processes seen so far, in the order of their number in raw pages."""
        return list(self._process)

    def renew(self, change: SpacesChanged) -> None:
        """Begin anew for pages that have a new owner or none; make room."""
        self._grow(change.pages)
        for start, end in change.renewed.tolist():
            self._carry[start:end] = self._rng.random(end - start, np.float32)

    def add(
        self,
        view: HotnessView,
        node: NDArray[np.uint8],
        spaces: tuple[Space, ...],
        dt_ns: int,
    ) -> int:
        """Write the accesses of one interval; return how many.

        Args:
            view: What is known of rates at its end.
            node: Placement; pages without memory have no accesses.
            spaces: Who owns which pages; what nobody owns has no accesses.
            dt_ns: Length of the interval.
        """
        self._grow(len(node))
        self._number(spaces, len(node))
        pages, counts = [], []
        for first in range(0, min(len(node), view.pages), AT_ONCE):
            part = np.arange(
                first, min(first + AT_ONCE, len(node), view.pages), dtype=np.uint32
            )
            part = part[(node[part] != NOT_PRESENT) & (self._raw[part] != 0)]
            due = self._carry[part] + view.rate(part) * np.float32(dt_ns / NS_PER_S)
            whole = np.floor(due)
            self._carry[part] = due - whole
            some = np.flatnonzero(whole >= 1)
            pages.append(part[some])
            counts.append(whole[some].astype(np.uint32))
        page = np.concatenate(pages) if pages else np.empty(0, np.uint32)
        count = np.concatenate(counts) if counts else np.empty(0, np.uint32)
        moment = (page * _GOLDEN) >> np.uint32(28)  # 16 moments: four bits
        order = np.argsort(moment, kind="stable")
        page, count, moment = page[order], count[order], moment[order]
        self._writer.append(
            self._raw[page],
            time_ns=self._time_ns + moment.astype(np.int64) * (dt_ns // MOMENTS),
            count=count,
        )
        self._time_ns += dt_ns
        self.intervals += 1
        return int(count.sum(dtype=np.uint64))

    def _grow(self, pages: int) -> None:
        had = len(self._carry)
        if pages > had:
            self._carry = grown(self._carry, pages, 0)
            self._carry[had:] = self._rng.random(pages - had, np.float32)

    def _number(self, spaces: tuple[Space, ...], pages: int) -> None:
        """Know the raw page of every flat page; 0 where nobody owns it."""
        if spaces is self._spaces and len(self._raw) >= pages:
            return
        self._spaces = spaces
        self._raw = np.zeros(pages, np.uint64)
        for space in spaces:
            process = self._process.setdefault(space.owner, len(self._process))
            first = process % MOST_PROCESSES << PROCESS_SHIFT
            first += space.start_page
            end = min(space.base + space.pages, pages)
            self._raw[space.base : end] = np.arange(
                first, first + max(0, end - space.base), dtype=np.uint64
            )
