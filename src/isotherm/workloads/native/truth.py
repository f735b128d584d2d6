"""What each node really served: counts of the workload joined with placement.

A window lies between two snapshots, each the counts and the node of every page.
A page that changed its node between them served its accesses from both, nobody
knows in which shares: the fast share is therefore told with the two limits that
hold for certain, and half of what is uncertain is added to the lower one.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import TargetGoneError, UsageError
from isotherm.core.units import NS_PER_S
from isotherm.workloads.native.layout import State, open_truth
from isotherm.workloads.native.memory import query_nodes
from isotherm.workloads.native.process import start_ticks

#: Node of a page that has no memory now (swapped out).
ABSENT = -1
_PFN = np.uint64((1 << 55) - 1)
_PRESENT = np.uint64(1 << 63)
#: Pages asked for at once.
_BATCH = 1 << 15


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counts and placement at one moment.

    Attributes:
        time_ns: CLOCK_MONOTONIC.
        phase: Changes of the hot set before it.
        phase_began_ns: When the present one began.
        counts: Accesses of every page so far, int64[pages].
        node: Where every page is, int16[pages]; ``ABSENT`` where it has no memory.
    """

    time_ns: int
    phase: int
    phase_began_ns: int
    counts: NDArray[np.int64]
    node: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two snapshots.

    Attributes:
        from_s: Since the first access.
        to_s: Since the first access.
        phase: At the end.
        phase_s: How long the phase had lasted at the end.
        accesses: Made in the window.
        accesses_per_s: Throughput.
        fast_share: Of the accesses, served by the fast nodes.
        fast_share_low: The least that it can have been.
        fast_share_high: The most.
        fast_pages: On the fast nodes at the end.
        absent_pages: Without memory at the end.
        changed_pages: On another node than at the window's beginning.
        best_share: Of the best placement of ``capacity_pages`` that does not
            change, judged by the counts of the phase so far. It knows which pages
            chance favoured, so that with few counts a page it is a little too
            high.
        capacity_pages: Fast pages that the best placement may have.
    """

    from_s: float
    to_s: float
    phase: int
    phase_s: float
    accesses: int
    accesses_per_s: float
    fast_share: float
    fast_share_low: float
    fast_share_high: float
    fast_pages: int
    absent_pages: int
    changed_pages: int
    best_share: float
    capacity_pages: int


class TruthReader:
    """Reads a native workload's truth file and asks the kernel where its pages are.

    Args:
        path: The truth file.
        fast_nodes: Nodes of the fastest tier.
        root: Of ``/proc`` and ``/sys``.

    Raises:
        UsageError: No truth file.
        NotPermittedError: Its placement may not be asked for.
    """

    def __init__(
        self, path: Path, fast_nodes: tuple[int, ...] = (0,), root: Path = Path("/")
    ) -> None:
        self._path = path
        self._file = open_truth(path)
        self.fast_nodes = fast_nodes
        self._root = root
        self.pid = self._file.get("pid")
        self.pages = self._file.get("pages")
        self.address = self._file.get("address")
        self._blocks = _node_of_blocks(root)
        self._by_frame = bool(len(self._blocks[1]))
        self._phase_start: tuple[int, NDArray[np.int64]] = (
            0,
            np.zeros(self.pages, np.int64),
        )
        self.first_capacity_pages: int | None = None

    @property
    def state(self) -> State:
        """What the workload is doing."""
        return State(self._file.get("state"))

    @property
    def alive(self) -> bool:
        """Whether the process that made the file still runs."""
        ticks = start_ticks(self.pid)
        return ticks != 0 and ticks == self._file.get("start_ticks")

    def wait_until_running(self, timeout_s: float = 60.0) -> None:
        """Return when the first access has been made.

        Raises:
            TargetGoneError: The workload ended, or does not start in time.
        """
        deadline = time.monotonic() + timeout_s
        while self.state is State.PREPARING:
            if not self.alive or time.monotonic() > deadline:
                raise TargetGoneError(
                    f"{self._path}: the workload of pid {self.pid} did not begin"
                )
            time.sleep(0.01)

    def snapshot(self) -> Snapshot:
        """Return counts and placement now.

        Raises:
            TargetGoneError: The process has ended.
        """
        if not self.alive:
            raise TargetGoneError(f"{self._path}: pid {self.pid} has ended")
        node = self._nodes()
        phase = self._file.get("phase")
        counts = self._file.counts.sum(axis=0, dtype=np.int64)
        began = self._file.get("phase_began_ns")
        if phase != self._phase_start[0]:
            self._phase_start = (phase, counts)
        return Snapshot(time.monotonic_ns(), phase, began, counts, node)

    def window(
        self, before: Snapshot, after: Snapshot, capacity_pages: int | None = None
    ) -> Window:
        """Return what happened between two snapshots.

        Args:
            before: The earlier one.
            after: The later one, of the same phase or a later one.
            capacity_pages: Fast pages that the best placement may have; None:
                what the workload had and could have had at the first window:
                its pages on fast nodes and what was free there above the high
                watermark.
        """
        if capacity_pages is None:
            if self.first_capacity_pages is None:
                self.first_capacity_pages = self._capacity(before)
            capacity_pages = self.first_capacity_pages
        made = after.counts - before.counts
        total = max(int(made.sum()), 1)
        first, last = (
            np.isin(snapshot.node, self.fast_nodes) for snapshot in (before, after)
        )
        low = int(made[first & last].sum()) / total
        high = int(made[first | last].sum()) / total
        seconds = (after.time_ns - before.time_ns) / NS_PER_S
        began = self._file.get("began_ns")
        phase_start, start_counts = self._phase_start
        in_phase = after.counts - start_counts if phase_start == after.phase else made
        return Window(
            from_s=(before.time_ns - began) / NS_PER_S,
            to_s=(after.time_ns - began) / NS_PER_S,
            phase=after.phase,
            phase_s=(after.time_ns - after.phase_began_ns) / NS_PER_S,
            accesses=int(made.sum()),
            accesses_per_s=int(made.sum()) / max(seconds, 1e-9),
            fast_share=(low + high) / 2,
            fast_share_low=low,
            fast_share_high=high,
            fast_pages=int(last.sum()),
            absent_pages=int((after.node == ABSENT).sum()),
            changed_pages=int((before.node != after.node).sum()),
            best_share=best_share(in_phase, capacity_pages),
            capacity_pages=capacity_pages,
        )

    def close(self) -> None:
        """Unmap the file."""
        self._file.close()

    def _capacity(self, snapshot: Snapshot) -> int:
        own = int(np.isin(snapshot.node, self.fast_nodes).sum())
        room = sum(room_above_high(self._root, node) for node in self.fast_nodes)
        return min(self.pages, own + room)

    def _nodes(self) -> NDArray[np.int16]:
        """Return the node of every page: by frame numbers, else by move_pages."""
        if self._by_frame:
            frames = self._frames()
            if frames is not None:
                return self._node_of(frames)
            self._by_frame = False
        try:
            parts = [
                query_nodes(
                    self.pid,
                    self.address + start * 4096,
                    min(_BATCH, self.pages - start),
                )
                for start in range(0, self.pages, _BATCH)
            ]
        except ProcessLookupError:
            raise TargetGoneError(f"{self._path}: pid {self.pid} has ended") from None
        return np.maximum(np.concatenate(parts), ABSENT).astype(np.int16)

    def _frames(self) -> NDArray[np.uint64] | None:
        """Return pagemap's entries; None where frame numbers are hidden from us."""
        try:
            with (self._root / f"proc/{self.pid}/pagemap").open("rb", 0) as file:
                file.seek(self.address // 4096 * 8)
                entries = np.frombuffer(file.read(8 * self.pages), np.uint64)
        except OSError:
            return None
        there = (entries & _PRESENT) != 0
        if len(entries) < self.pages or (
            there.any() and not (entries[there] & _PFN).any()
        ):
            return None
        return entries

    def _node_of(self, entries: NDArray[np.uint64]) -> NDArray[np.int16]:
        block_pages, node_of = self._blocks
        block = ((entries & _PFN) // np.uint64(block_pages)).astype(np.int64)
        node = node_of[np.minimum(block, len(node_of) - 1)]
        return np.where((entries & _PRESENT) != 0, node, ABSENT).astype(np.int16)


def best_share(counts: NDArray[np.int64], capacity_pages: int) -> float:
    """Return the share of accesses to the ``capacity_pages`` hottest pages.

    >>> best_share(np.array([5, 1, 3, 1]), 2)
    0.8
    """
    total = int(counts.sum())
    if not total or capacity_pages <= 0:
        return 0.0
    if capacity_pages >= len(counts):
        return 1.0
    top = np.partition(counts, len(counts) - capacity_pages)[-capacity_pages:]
    return int(top.sum()) / total


def room_above_high(root: Path, node: int) -> int:
    """Return a node's free pages above its high watermark, from ``/proc/zoneinfo``.

    Unknown is 0.
    """
    try:
        text = (root / "proc/zoneinfo").read_text()
    except OSError:
        return 0
    room = 0
    for part in re.split(r"^Node ", text, flags=re.MULTILINE)[1:]:
        number = int(part.split(",", 1)[0])
        free = re.search(r"pages free +(\d+)", part)
        high = re.search(r"^ +high +(\d+)", part, flags=re.MULTILINE)
        if number == node and free and high:
            room += max(0, int(free[1]) - int(high[1]))
    return room


def _node_of_blocks(root: Path) -> tuple[int, NDArray[np.int16]]:
    """Return the pages of a memory block, and the node of every block.

    A block that two nodes share (firmware that splits them so is rare) would be
    told wrongly; then nothing is returned, and move_pages is asked instead.
    """
    none = (1, np.empty(0, np.int16))
    base = root / "sys/devices/system"
    try:
        size = int((base / "memory/block_size_bytes").read_text(), 16)
        found: dict[int, int] = {}
        for directory in sorted((base / "node").glob("node[0-9]*")):
            for block in directory.glob("memory[0-9]*"):
                if int(block.name[6:]) in found:
                    return none
                found[int(block.name[6:])] = int(directory.name[4:])
    except (OSError, ValueError):
        return none
    if not found:
        return none
    node_of = np.full(max(found) + 2, ABSENT, np.int16)
    for block_number, node in found.items():
        node_of[block_number] = node
    return size // 4096, node_of


def parse_nodes(text: str) -> tuple[int, ...]:
    """Return node numbers of a comma list.

    Raises:
        UsageError: It is none.
    """
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"fast nodes: expected 0 or 0,1, got {text!r}") from None
