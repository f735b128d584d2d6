"""Where every page is: a byte a page, kept up to date in turns."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import NotPermittedError, TargetGoneError
from isotherm.machine.linux import moving
from isotherm.machine.linux.intervals import EMPTY, Ranges, normalised
from isotherm.machine.linux.pagemap import FrameNodes, nodes_of_entries
from isotherm.machine.linux.process import NoDescriptorError, Process
from isotherm.machine.linux.sharing import mirrors
from isotherm.machine.linux.spaces import GRANULE, SpaceMap
from isotherm.machine.protocol import NOT_PRESENT

#: Pages read at once: 512 KiB of entries, 1 to 3 ms.
CHUNK_PAGES: Final = 1 << 16
#: In the first turn new pages are read for so long, whatever the budget.
FIRST_NS: Final = 50_000_000
#: Later they may take so many times the budget.
_URGENT: Final = 5


class Seen(Protocol):
    """What a placement table wants to know of the host."""

    @property
    def frames(self) -> FrameNodes | None:
        """Nodes of frames, None where frames cannot be seen."""
        ...

    @property
    def swap_node(self) -> int | None:
        """The pseudo node of what is swapped out, None if that is no memory."""
        ...


@dataclass(slots=True)
class Turns:
    """What reading placement has come to.

    Attributes:
        pages: Pages read.
        cost_ns: Time it took.
        passes: Times that every page was read.
        pass_ns: When the last pass ended; 0: none has.
        foreign: Pages found on another node than expected: somebody else moves.
    """

    pages: int = 0
    cost_ns: int = 0
    passes: int = 0
    pass_ns: int = 0
    foreign: int = 0


class PlacementTable:
    """The node of every flat page, read from page tables a stretch at a time.

    New pages are read first, then all others in turn, as far as the budget goes.
    By frames (pagemap) where they can be seen, else by asking move_pages(2).

    Args:
        spaces: Which flat page is whose.
        host: Frames and the pseudo node.
    """

    def __init__(self, spaces: SpaceMap, host: Seen) -> None:
        self._spaces = spaces
        self._host = host
        self._node = np.full(1024, NOT_PRESENT, np.uint8)
        self._pages = 0
        self._urgent: Ranges = EMPTY
        self._cursor = 0
        #: What reading a page has cost of late.
        self._page_ns = 50.0
        self.turns = Turns()

    @property
    def node(self) -> NDArray[np.uint8]:
        """The table, uint8[pages]: a view."""
        return self._node[: self._pages]

    def renew(self, pages: int, renewed: Ranges) -> None:
        """Take in a changed index: renewed pages are unknown, and read first."""
        if pages > len(self._node):
            grown = np.full(max(pages, len(self._node) * 3 // 2), NOT_PRESENT, np.uint8)
            grown[: self._pages] = self._node[: self._pages]
            self._node = grown
        self._pages = pages
        for start, end in renewed.tolist():
            self._node[start:end] = NOT_PRESENT
        self._urgent = normalised(np.concatenate([self._urgent, renewed]))

    def enter(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> None:
        """Note where our own moves have put pages.

        A turn that came between a move and this has taken it for somebody else's.
        """
        seen = int(np.count_nonzero(self._node[page] == node))
        self.turns.foreign = max(self.turns.foreign - seen, 0)
        self._node[page] = node

    def look_at(self, ranges: Ranges) -> None:
        """Have flat ranges read at the next turn."""
        self._urgent = normalised(np.concatenate([self._urgent, ranges]))

    def turn(
        self, processes: Mapping[int, Process], budget_ns: float, now_ns: int
    ) -> None:
        """Read as much as the budget allows; new pages may take five times as much.

        A granule is read in any case: every page has its turn.

        Args:
            processes: Followed processes by pid.
            budget_ns: Time to spend, about.
            now_ns: For ``turns.pass_ns``.
        """
        began = time.perf_counter_ns()
        urgent_ns = _URGENT * budget_ns if self.turns.pages else FIRST_NS
        self._read_urgent(processes, began + urgent_ns)
        base, end, start_vpage, owner = self._spaces.extents()
        spent = time.perf_counter_ns() - began
        left = self._pages if len(base) else 0
        first = self.turns.pages
        while left > 0 and (spent < budget_ns or self.turns.pages == first):
            at = int(np.searchsorted(end, self._cursor, side="right"))
            if at == len(base):
                left -= self._pages - self._cursor
                self._cursor = 0
                self.turns.passes += 1
                self.turns.pass_ns = now_ns
                continue
            low = max(int(base[at]), self._cursor)
            fits = max(512, int((budget_ns - spent) / self._page_ns))
            high = min(int(end[at]), low + min(CHUNK_PAGES, fits))
            vpage = int(start_vpage[at] + low - base[at])
            self._read(processes.get(int(owner[at])), low, high, vpage, processes)
            left -= high - self._cursor
            self._cursor = high
            spent = time.perf_counter_ns() - began
        self.turns.cost_ns += time.perf_counter_ns() - began

    def reread(self, processes: Mapping[int, Process], ranges: Ranges) -> None:
        """Read flat ranges now, whatever it takes."""
        began = time.perf_counter_ns()
        self.look_at(ranges)
        self._read_urgent(processes, float("inf"))
        self.turns.cost_ns += time.perf_counter_ns() - began

    def _read_urgent(self, processes: Mapping[int, Process], late: float) -> None:
        """Read what is urgent until a time of ``perf_counter_ns``; keep the rest."""
        base, end, start_vpage, owner = self._spaces.extents()
        urgent, self._urgent = self._urgent, EMPTY
        for row, (first, last) in enumerate(urgent.tolist()):
            at = int(np.searchsorted(end, first, side="right"))
            low = first
            while low < last and at < len(base) and base[at] < last:
                if time.perf_counter_ns() > late:
                    self._urgent = urgent[row:].copy()
                    self._urgent[0, 0] = low
                    break
                low = max(int(base[at]), low)
                high = min(int(end[at]), last, low + CHUNK_PAGES)
                vpage = int(start_vpage[at] + low - base[at])
                whose = processes.get(int(owner[at]))
                self._read(whose, low, high, vpage, processes)
                low = high
                at += high == end[at]
            if len(self._urgent):
                break

    def _through_others(
        self,
        keeper: int,
        processes: Mapping[int, Process],
        vpage: int,
        node: NDArray[np.uint8],
    ) -> None:
        """Find shared pages that the keeper has not touched itself, but others have.

        Args:
            keeper: Whose pages are read.
            processes: All.
            vpage: First virtual page.
            node: Nodes from there on, completed.
        """
        aliases = self._spaces.aliases
        if not aliases:
            return
        span = np.array([[vpage, vpage + len(node)]], np.int64)
        for pid, start, low, high in mirrors(aliases, keeper, span):
            part = node[low - vpage : high - vpage]
            other = processes.get(pid)
            if other is not None and (part == NOT_PRESENT).any():
                seen = self._nodes_of(other, start, start + high - low)
                part[:] = np.where(part == NOT_PRESENT, seen, part)

    def _read(
        self,
        process: Process | None,
        low: int,
        high: int,
        vpage: int,
        processes: Mapping[int, Process],
    ) -> None:
        """Read flat pages ``[low, high)``, which begin at a virtual page."""
        if process is None:
            return
        began = time.perf_counter_ns()
        try:
            new = self._nodes_of(process, vpage, vpage + high - low)
            self._through_others(process.pid, processes, vpage, new)
        except (TargetGoneError, NotPermittedError, NoDescriptorError):
            return
        old = self._node[low:high]
        both = (old != new) & (old != NOT_PRESENT) & (new != NOT_PRESENT)
        self.turns.foreign += int(np.count_nonzero(both))
        self.turns.pages += high - low
        old[:] = new
        if high - low >= GRANULE:
            cost = (time.perf_counter_ns() - began) / (high - low)
            self._page_ns += 0.2 * (cost - self._page_ns)

    def _nodes_of(self, process: Process, start: int, end: int) -> NDArray[np.uint8]:
        """Return the nodes of virtual pages ``[start, end)``."""
        frames, swap = self._host.frames, self._host.swap_node
        if frames is None and swap is None:
            every = np.arange(start, end, dtype=np.uint64)
            return self._ask(process, every)
        entries = process.pagemap(start, end)
        out_to = NOT_PRESENT if swap is None else swap
        if frames is not None:
            node = frames.placement(entries, out_to)
        else:
            no_blocks = np.full(1, FrameNodes.UNKNOWN, np.uint8)
            node = np.empty(len(entries), np.uint8)
            nodes_of_entries(entries, no_blocks, 0, 0, out_to, node)
        unknown = node == FrameNodes.UNKNOWN
        if unknown.any():
            page = np.flatnonzero(unknown)
            node[page] = self._ask(process, (page + start).astype(np.uint64))
        return node

    def _ask(self, process: Process, vpage: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Return nodes as move_pages(2) says them."""
        found = moving.where(process, vpage)
        found[(found < 0) | (found >= FrameNodes.UNKNOWN)] = NOT_PRESENT
        return found.astype(np.uint8)
