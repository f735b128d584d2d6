"""Moving pages of many processes, in whatever thread: screen, move, learn."""

import errno
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.clock import Clock
from isotherm.machine.linux import advice, moving, pagemap, syscalls
from isotherm.machine.linux.intervals import EMPTY, Ranges, normalised
from isotherm.machine.linux.moving import FORBIDDEN
from isotherm.machine.linux.nodes import HostNodes
from isotherm.machine.linux.placement import PlacementTable
from isotherm.machine.linux.sharing import mirrors
from isotherm.machine.linux.spaces import GRANULE, NO_PID, SpaceMap
from isotherm.machine.linux.targets.target import Target
from isotherm.machine.linux.unmovable import ERRNO, Reason, Unmovable
from isotherm.machine.protocol import NOT_PRESENT, MoveResult

#: Pages of a batch whose frames are looked up when they would not move.
_MOST_FLAGS: Final = 64


@dataclass(frozen=True, slots=True)
class Landed:
    """Where pages came to be, still to be entered in the placement table.

    Attributes:
        version: Of the space map, when they were found in it.
        page: Flat pages.
        node: Where they are; 255: nowhere.
        pid: Whose they were then.
        vpage: Their virtual pages then.
        whole: Flat granules to be read again: more than what was asked for moved.
    """

    version: int
    page: NDArray[np.uint32]
    node: NDArray[np.uint8]
    pid: NDArray[np.int32]
    vpage: NDArray[np.uint64]
    whole: Ranges


class Mover:
    """Carries out moves; what it finds out is left in ``landed``.

    It reads the tables of the machine and writes none but ``unmovable``, which
    guards itself; so another thread may use the machine meanwhile.

    Args:
        targets: Followed processes.
        nodes: The host's nodes.
        spaces: Which flat page is whose.
        table: Where pages are.
        unmovable: Pages that are left alone.
        clock: The machine's.
        move_all: As for the machine.
    """

    def __init__(
        self,
        targets: Mapping[int, Target],
        nodes: HostNodes,
        spaces: SpaceMap,
        table: PlacementTable,
        unmovable: Unmovable,
        clock: Clock,
        *,
        move_all: bool = False,
    ) -> None:
        self._targets = targets
        self._nodes = nodes
        self._spaces = spaces
        self._table = table
        self._unmovable = unmovable
        self._clock = clock
        self._move_all = move_all
        self._flags = syscalls.MPOL_MF_MOVE_ALL if move_all else syscalls.MPOL_MF_MOVE
        self.landed: deque[Landed] = deque()

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Move pages, each to its node; see ``LinuxMachine.move``."""
        if len(page) == 0:
            return MoveResult(np.empty(0, np.int16), 0.0)
        began = time.perf_counter_ns()
        version = self._spaces.version
        pid, vpage = self._spaces.locate(page)
        code = self.screen(page, node, pid, vpage)
        tried = np.flatnonzero(code == 0)
        whole: list[Ranges] = [EMPTY]
        for owner in np.unique(pid[tried]).tolist():
            rows = tried[pid[tried] == owner]
            target = self._targets.get(owner)
            if target is None:
                code[rows] = errno.ESRCH
                continue
            for goal in np.unique(node[rows]).tolist():
                to = rows[node[rows] == goal]
                code[to] = self._move_to(target, page[to], vpage[to], goal)
                whole.append(self._moved_along(target, vpage[to[code[to] == 0]], goal))
        self._through_others(page, node, pid, vpage, code, tried)
        code[tried] = self._learn(page[tried], pid[tried], vpage[tried], code[tried])
        known = tried[np.isin(code[tried], (0, errno.ENOENT, errno.EFAULT))]
        if len(known):
            here = np.where(code[known] == 0, node[known], NOT_PRESENT)
            self.landed.append(
                Landed(
                    version,
                    page[known],
                    here.astype(np.uint8),
                    pid[known],
                    vpage[known],
                    np.concatenate(whole),
                )
            )
        return MoveResult(code, float(time.perf_counter_ns() - began))

    def _through_others(
        self,
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        pid: NDArray[np.int32],
        vpage: NDArray[np.uint64],
        code: NDArray[np.int16],
        tried: NDArray[np.intp],
    ) -> None:
        """Try shared pages that their keeper has not touched where others map them."""
        aliases = self._spaces.aliases
        if not aliases:
            return
        missing = tried[np.isin(code[tried], (errno.ENOENT, errno.EFAULT))]
        for keeper in np.unique(pid[missing]).tolist():
            rows = missing[pid[missing] == keeper]
            there = vpage[rows].astype(np.int64)
            span = np.stack([there, there + 1], axis=1)
            for other, start, low, high in mirrors(aliases, keeper, normalised(span)):
                target = self._targets.get(other)
                mine = rows[(there >= low) & (there < high)]
                mine = mine[code[mine] != 0]
                if target is None or len(mine) == 0:
                    continue
                at = vpage[mine].astype(np.int64) - low + start
                for goal in np.unique(node[mine]).tolist():
                    to = node[mine] == goal
                    code[mine[to]] = self._move_to(
                        target, page[mine[to]], at[to].astype(np.uint64), goal
                    )

    def screen(
        self,
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        pid: NDArray[np.int32],
        vpage: NDArray[np.uint64],
    ) -> NDArray[np.int16]:
        """Return why pages are not even tried, 0 where they are; int16[n].

        Args:
            page: Flat pages.
            node: Where they should go.
            pid: Whose they are.
            vpage: Their virtual pages.
        """
        code = np.zeros(len(page), np.int16)
        reason = self._unmovable.reasons(page)
        aside = reason < len(Reason)
        code[aside] = ERRNO[reason[aside]]
        swap = self._nodes.swap_node
        for owner in np.unique(pid).tolist():
            target = self._targets.get(owner)
            rows = np.flatnonzero((pid == owner) & (code == 0))
            if target is not None and len(rows):
                fine = target.allows(vpage[rows], node[rows])
                if swap is not None:
                    fine |= node[rows] == swap
                code[rows[~fine]] = FORBIDDEN
        tiers = self._nodes.topology.tiers
        there = np.array([n for tier in tiers for n in tier.nodes], np.uint8)
        code[~np.isin(node, there)] = errno.ENODEV
        code[pid == NO_PID] = errno.ENOENT
        code[page >= self._spaces.pages] = errno.EFAULT
        return code

    # -- one process, one node --------------------------------------------

    def _move_to(
        self,
        target: Target,
        page: NDArray[np.uint32],
        vpage: NDArray[np.uint64],
        node: int,
    ) -> NDArray[np.int16]:
        """Move pages of one process to one node, through swap where that is it."""
        process, swap = target.process, self._nodes.swap_node
        if swap is None:
            return moving.move_to(process, vpage, node, self._flags)
        once, first, again = np.unique(vpage, return_index=True, return_inverse=True)
        if node == swap:
            return advice.page_out(process, once)[again]
        code = np.zeros(len(once), np.int16)
        out = self._table.node[page[first]] == swap
        if out.any():
            code[out] = advice.bring_in(process, once[out])
        here = code == 0
        code[here] = moving.move_to(process, once[here], node, self._flags)
        return code[again]

    def _moved_along(
        self, target: Target, vpage: NDArray[np.uint64], node: int
    ) -> Ranges:
        """Return flat granules of which more moved than was asked for.

        A page of a huge page takes all of it along. In each granule one page that
        was not asked for, as near as can be, is looked at.
        """
        if len(vpage) == 0 or node == self._nodes.swap_node:
            return EMPTY
        moved = np.unique(vpage)
        first = moved[np.unique(moved // GRANULE, return_index=True)[1]]
        chosen = np.zeros(len(first), np.uint64)
        undecided = np.ones(len(first), np.bool_)
        table = self._table.node
        for bit in range(9):
            rows = np.flatnonzero(undecided)
            if len(rows) == 0:
                break
            near = first[rows] ^ np.uint64(1 << bit)
            at = np.minimum(np.searchsorted(moved, near), len(moved) - 1)
            flat = self._spaces.flat_pages(target.pid, near)
            fits = (moved[at] != near) & (flat < len(table))
            there = np.full(len(rows), NOT_PRESENT, np.uint8)
            there[fits] = table[flat[fits]]
            fits &= (there != NOT_PRESENT) & (there != node)
            chosen[rows[fits]] = near[fits]
            undecided[rows[fits]] = False
        near = chosen[~undecided]
        if len(near) == 0:
            return EMPTY
        along = near[moving.where(target.process, near) == node]
        flat = self._spaces.flat_pages(target.pid, along).astype(np.int64)
        flat -= flat % GRANULE
        return np.stack([flat, flat + GRANULE], axis=1)

    # -- what does not move -----------------------------------------------

    def _learn(
        self,
        page: NDArray[np.uint32],
        pid: NDArray[np.int32],
        vpage: NDArray[np.uint64],
        code: NDArray[np.int16],
    ) -> NDArray[np.int16]:
        """Set aside pages that will not move; return the errno of each, corrected."""
        now_ns = self._clock.now_ns()
        if not self._move_all:
            self._unmovable.set_aside(page[code == errno.EACCES], Reason.SHARED, now_ns)
        stuck = np.flatnonzero(code == errno.EBUSY)
        if len(stuck) == 0:
            return code
        code = code.copy()
        some = stuck[:_MOST_FLAGS]
        bad = some[self._poisoned(pid[some], vpage[some])]
        self._unmovable.set_aside(page[bad], Reason.POISONED, now_ns)
        code[bad] = ERRNO[Reason.POISONED]
        stuck = np.setdiff1d(stuck, bad)
        pinned = stuck[self._unmovable.strike(page[stuck], now_ns)]
        code[pinned] = ERRNO[Reason.PINNED]
        return code

    def _poisoned(
        self, pid: NDArray[np.int32], vpage: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Return whether the frame of each page is broken, as the kernel says."""
        frame = np.zeros(len(pid), np.uint64)
        for owner in np.unique(pid).tolist():
            target = self._targets.get(owner)
            if target is not None:
                rows = np.flatnonzero(pid == owner)
                rows = rows[np.argsort(vpage[rows])]
                entries = advice.read_entries(target.process, vpage[rows])
                frame[rows] = entries & pagemap.FRAME
        broken = np.zeros(len(pid), np.bool_)
        seen = frame > 0
        flags = pagemap.read_page_flags(frame[seen])
        if flags is not None:
            broken[seen] = flags >> np.uint64(pagemap.KPF_HWPOISON) & np.uint64(1) > 0
        return broken
