"""From sampled accesses, whatever sampled them, to what the tracker takes.

IBS, PEBS and SPE differ in how their records are opened and read; from then on they
are the same: who accessed which address, where it was found, how long it took.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import Samples
from isotherm.hints.live.frame_map import FrameMap
from isotherm.machine.linux.spaces import NO_PAGE
from isotherm.records.data_source import PhysicalNodes, Where

Words = NDArray[np.uint64]

#: Nobody knows whose access it was.
NO_PID: Final = -1
_PAGE_SHIFT: Final = np.uint64(12)
_KERNEL: Final = np.uint64(1 << 63)
#: Pages of the frame map that are read anew at every drain: some 8 ms of pagemap.
REFRESH_PAGES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Accesses:
    """Sampled accesses, one row each, in order of time.

    Attributes:
        pid: Process, NO_PID unknown, int32[n].
        address: Virtual address, 0 unknown, uint64[n].
        physical: Physical address, 0 unknown, uint64[n].
        cpu: Which CPU accessed, -1 unknown, int32[n].
        write: 1 for a store, uint8[n].
        cycles: Cycles of latency, 0 unknown, uint32[n].
        where: What the PMU says of the memory, a `Where`, uint8[n].
        tid: Thread, -1 unknown, int32[n]; None: not known of any.
    """

    pid: NDArray[np.int32]
    address: Words
    physical: Words
    cpu: NDArray[np.int32]
    write: NDArray[np.uint8]
    cycles: NDArray[np.uint32]
    where: NDArray[np.uint8]
    tid: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.pid)

    def rows(self, row: NDArray[np.bool_] | NDArray[np.int64]) -> "Accesses":
        """Return some of them."""
        return Accesses(
            self.pid[row],
            self.address[row],
            self.physical[row],
            self.cpu[row],
            self.write[row],
            self.cycles[row],
            self.where[row],
            None if self.tid is None else self.tid[row],
        )

    @staticmethod
    def joined(parts: "list[Accesses]", times: list[Words]) -> "Accesses":
        """Return accesses of several rings in order of time.

        Args:
            parts: Accesses of each ring; their own order is not minded.
            times: Time of each of them, any unit, uint64[n].
        """
        nothing = np.empty(0, np.uint64)
        order = np.argsort(np.concatenate([nothing, *times]), kind="stable")
        return Accesses(
            np.concatenate([nothing.astype(np.int32), *(p.pid for p in parts)])[order],
            np.concatenate([nothing, *(p.address for p in parts)])[order],
            np.concatenate([nothing, *(p.physical for p in parts)])[order],
            np.concatenate([nothing.astype(np.int32), *(p.cpu for p in parts)])[order],
            np.concatenate([nothing.astype(np.uint8), *(p.write for p in parts)])[
                order
            ],
            np.concatenate([nothing.astype(np.uint32), *(p.cycles for p in parts)])[
                order
            ],
            np.concatenate([nothing.astype(np.uint8), *(p.where for p in parts)])[
                order
            ],
            _joined_threads(parts, order),
        )


def _joined_threads(
    parts: list[Accesses], order: NDArray[np.intp]
) -> NDArray[np.int32] | None:
    tids = [part.tid for part in parts if part.tid is not None]
    if not tids or len(tids) < len(parts):
        return None
    every: NDArray[np.int32] = np.concatenate(tids)[order]
    return every


class Processes(Protocol):
    """Whose pages there are: a `SpaceMap`, or the processes of a recording."""

    def pids(self) -> tuple[int, ...]:
        """Return the managed processes."""
        ...

    def flat_pages(self, pid: int, vpage: Words) -> NDArray[np.uint32]:
        """Return the flat page of each virtual one, NO_PAGE where there is none."""
        ...


class Translator:
    """Finds flat pages of accesses, and counts what it cannot.

    Args:
        spaces: Which flat page is whose.
        nodes: Which node a physical address is of.
        frames: Which flat page is on a frame; None: only virtual addresses of
            known processes are translated.
        initiator_of_cpu: Initiator of every CPU, uint8; None: unknown.
        cycles_per_ns: How fast the latency's cycles are; None: latencies are unknown.
        owner: Returns the process that a thread belongs to.
    """

    def __init__(
        self,
        spaces: Processes,
        nodes: PhysicalNodes,
        *,
        frames: FrameMap | None = None,
        initiator_of_cpu: NDArray[np.uint8] | None = None,
        cycles_per_ns: float | None = None,
        owner: Callable[[int], int] | None = None,
    ) -> None:
        self._spaces = spaces
        self._nodes = nodes
        self._frames = frames
        self._initiator = initiator_of_cpu
        self._cycles_per_ns = cycles_per_ns
        self._owner = owner
        #: Accesses of managed or unknown processes that no flat page was found for;
        #: of other processes; to addresses that are no memory of a node.
        self.unknown = self.foreign = self.devices = 0

    @property
    def knows_initiator(self) -> bool:
        """Whether samples name who accessed."""
        return self._initiator is not None

    @property
    def knows_latency(self) -> bool:
        """Whether samples tell how long an access took."""
        return self._cycles_per_ns is not None

    @property
    def frames(self) -> FrameMap | None:
        """The map of frames; None where there is none."""
        return self._frames

    def take_nodes(self, nodes: PhysicalNodes) -> None:
        """Go on with these ranges of physical memory: some have come or gone."""
        self._nodes = nodes

    def refresh(self) -> None:
        """Read some more of the frame map, where there is one."""
        if self._frames is not None:
            self._frames.refresh(REFRESH_PAGES)

    def samples(self, accesses: Accesses, period: float) -> tuple[Samples, int]:
        """Return the accesses of flat pages, and how many could not be translated."""
        device = self._nodes.node_of(accesses.physical) < 0
        device &= (accesses.physical != 0) & (len(self._nodes.start) > 0)
        self.devices += int(device.sum())
        page, foreign = self._pages(accesses)
        self.foreign += int(foreign.sum())
        found = (page != NO_PAGE) & ~device
        unknown = int((~found & ~device & ~foreign).sum())
        self.unknown += unknown
        latency = None
        if self._cycles_per_ns is not None:
            latency = (accesses.cycles[found] / self._cycles_per_ns).astype(np.float32)
        seen = Samples(
            page[found],
            accesses.write[found],
            self._who(accesses.cpu[found]),
            period,
            latency,
            thread=None
            if accesses.tid is None
            else accesses.tid[found].astype(np.int64),
        )
        return seen, unknown

    def _who(self, cpu: NDArray[np.int32]) -> NDArray[np.uint8] | None:
        if self._initiator is None:
            return None
        who = np.full(len(cpu), 255, np.uint8)
        inside = (cpu >= 0) & (cpu < len(self._initiator))
        who[inside] = self._initiator[cpu[inside]]
        return who

    def _pages(
        self, accesses: Accesses
    ) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """Return flat pages, NO_PAGE unknown, and what other processes accessed."""
        page = np.full(len(accesses), NO_PAGE, np.uint32)
        foreign = np.zeros(len(accesses), np.bool_)
        managed = set(self._spaces.pids())
        for pid in np.unique(accesses.pid).tolist():
            if pid == NO_PID:
                continue
            mine = accesses.pid == pid
            owner = pid
            if pid not in managed and self._owner is not None:
                owner = self._owner(pid)
            if owner not in managed:
                foreign |= mine
                continue
            mine &= (accesses.address != 0) & (accesses.address < _KERNEL)
            vpage = accesses.address[mine] >> _PAGE_SHIFT
            page[mine] = self._spaces.flat_pages(owner, vpage)
        if self._frames is not None:
            rest = (page == NO_PAGE) & ~foreign & (accesses.physical != 0)
            frame = accesses.physical[rest] >> _PAGE_SHIFT
            page[rest] = self._frames.flat_pages(frame)
        return page, foreign


def only_memory(where: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which accesses may have gone to memory: no cache or device answered."""
    found: NDArray[np.bool_] = (where != Where.CACHE) & (where != Where.OTHER)
    return found
