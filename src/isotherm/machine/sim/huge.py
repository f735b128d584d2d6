"""Huge pages of the simulated machine: the TLB, whole moves, collapse and split."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, PAGES_PER_HUGE_PAGE
from isotherm.machine.protocol import HugePages, ResizeResult
from isotherm.machine.sim import huge_kernels, play
from isotherm.machine.sim.huge_spec import HugeSpec

EBUSY, ENOMEM, EINVAL = 16, 12, 22

Ints = NDArray[np.int64]


@dataclass(slots=True)
class HugeTally:
    """What huge pages did since the start.

    Attributes:
        missed: TLB misses of small and of huge pages, int64[2].
        walk_ns: Time of their walks, before it is divided by accesses in flight.
        whole_moves: Huge pages moved as one.
        by_kernel: Ranges that the kernel's own thread made huge.
    """

    missed: Ints = field(default_factory=lambda: np.zeros(2, np.int64))
    walk_ns: float = 0.0
    whole_moves: int = 0
    by_kernel: int = 0


class HugeMemory:
    """Which ranges of 512 pages are huge, and the TLB in front of all.

    Args:
        spec: What it saves and costs.
        flags: The machine's page flags, uint8; shared.
        pages: Footprint; a range that is not whole is never huge.
        used: Pages per node, the machine's own column.
        capacity: Likewise.
        page_ns: What moving a small page costs.
        scale: Of the machine that this is a model of.

    Attributes:
        huge: Whether each whole range is huge, bool[pages // 512].
        tally: What happened so far.
    """

    def __init__(
        self,
        spec: HugeSpec,
        flags: NDArray[np.uint8],
        pages: int,
        used: Ints,
        capacity: Ints,
        page_ns: float,
        scale: float = 1.0,
    ) -> None:
        self.spec = spec
        self._flags, self._used, self._capacity = flags, used, capacity
        self.huge = np.zeros(pages // PAGES_PER_HUGE_PAGE, np.bool_)
        self._entries = spec.entries_of(scale)
        self._tlb = np.zeros((self._entries // spec.ways, spec.ways), np.uint32)
        self._missed = np.zeros(2, np.int64)
        self.move_ns = spec.move_of(page_ns)
        self._scanned = 0  # the kernel's thread: the range it comes to next
        self._owed = 0.0  # pages that it may scan
        self.tally = HugeTally()

    def begin(self, share: float, seed: int) -> None:
        """Make a share of the ranges huge that lie whole on one node, at no cost.

        Args:
            share: In [0, 1].
            seed: For the draw.
        """
        draw = np.random.default_rng([seed, 0x2B]).random(len(self.huge))
        self.huge[:] = self._whole() & (draw < share)

    def _ranges(self) -> NDArray[np.uint8]:
        """Return the flags by range, uint8[ranges, 512] (a view)."""
        n = len(self.huge)
        return self._flags[: n * PAGES_PER_HUGE_PAGE].reshape(n, PAGES_PER_HUGE_PAGE)

    def _whole(self) -> NDArray[np.bool_]:
        node = self._ranges() & play.NODE_MASK
        whole: NDArray[np.bool_] = (node == node[:, :1]).all(1)
        return whole

    # ---- accesses

    def look_up(self, page: NDArray[np.uint32]) -> None:
        """Translate accesses in order."""
        huge_kernels.look_up(page, self.huge, self._tlb, self._missed)

    def epoch_ns(self) -> float:
        """Return what the walks since the last call took, one after the other."""
        spec, missed = self.spec, self._missed
        walk_ns = missed[0] * spec.walk_ns + missed[1] * spec.huge_walk_ns
        self.tally.missed += missed
        self.tally.walk_ns += float(walk_ns)
        missed[:] = 0
        return float(walk_ns)

    def fold_bits(
        self, first: int, last: int, step: int, bit: int, node: int
    ) -> tuple[NDArray[np.bool_], int]:
        """Read and clear the one bit of each huge page among blocks looked at.

        Returns:
            Blocks in huge pages that were accessed, bool[n]: nothing is known of
            their pages one by one; and the entries that are not there to be read,
            because huge pages have one.
        """
        touched = np.zeros(max(0, -(-(last - first) // step)), np.bool_)
        out = np.zeros(2, np.int64)
        huge_kernels.fold_bits(
            self._flags, self.huge, first, last, step, bit, node, touched, out
        )
        return touched, int(8 * out[0] - out[1])

    # ---- moves and changes of size

    def place(
        self,
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        moved: Ints,
        errno: NDArray[np.int16],
    ) -> Ints:
        """Move pages; return the huge pages that moved, int64[nodes, nodes].

        Args:
            page: Flat pages.
            node: Where to.
            moved: Small pages moved, int64[nodes, nodes], added to.
            errno: As for `play.place`.
        """
        whole = np.zeros_like(moved)
        huge_kernels.place(
            self._flags,
            self.huge,
            page,
            node,
            self._used,
            self._capacity,
            moved,
            whole,
            errno,
        )
        self.tally.whole_moves += int(whole.sum())
        return whole

    def resize(
        self, page: NDArray[np.uint32], huge: NDArray[np.bool_]
    ) -> tuple[ResizeResult, Ints]:
        """Collapse and split in order; see ``HugeMachine``.

        Returns:
            What became of it, and bytes copied, in pages, int64[nodes, nodes].
        """
        errno = np.zeros(len(page), np.int16)
        cost_ns = np.zeros(len(page), np.float64)
        copied = np.zeros((len(self._used), len(self._used)), np.int64)
        for i, (first, to_huge) in enumerate(
            zip(page.tolist(), huge.tolist(), strict=True)
        ):
            block, offset = divmod(first, PAGES_PER_HUGE_PAGE)
            if offset or block >= len(self.huge):
                errno[i] = EINVAL
            elif self.huge[block] == to_huge:
                continue
            elif to_huge:
                errno[i] = self._collapse(block, copied)
                cost_ns[i] = self.spec.collapse_ns if errno[i] == 0 else 0.0
            else:
                self.huge[block] = False
                cost_ns[i] = self.spec.split_ns
        return ResizeResult(errno, cost_ns), copied

    def _collapse(self, block: int, copied: Ints) -> int:
        """Make a range huge on the node that has most of it; return an errno."""
        pages = self._ranges()[block]
        if (pages & play.UNMOVABLE).any():
            return EBUSY
        have = np.bincount(pages & play.NODE_MASK, minlength=len(self._used))
        there = int(np.argmax(have))
        if (
            self._used[there] + PAGES_PER_HUGE_PAGE - have[there]
            > self._capacity[there]
        ):
            return ENOMEM
        self._used -= have
        self._used[there] += PAGES_PER_HUGE_PAGE
        copied[:, there] += have
        pages &= np.uint8(0xFF ^ play.NODE_MASK)
        pages |= np.uint8(there)
        self.huge[block] = True
        return 0

    def let_kernel(self, dt_ns: int) -> float:
        """Let the kernel's own thread scan for an epoch; return what it took.

        It makes a range huge wherever there is room, as khugepaged does where huge
        pages are always wanted; a range that is huge costs it one entry.
        """
        self._owed += self.spec.khugepaged_pages_per_s * dt_ns / NS_PER_S
        took_ns = 0.0
        copied = np.zeros((len(self._used), len(self._used)), np.int64)
        for _ in range(len(self.huge)):
            block = self._scanned
            need = 1 if self.huge[block] else PAGES_PER_HUGE_PAGE
            if self._owed < need:
                break
            self._owed -= need
            self._scanned = (block + 1) % len(self.huge)
            if not self.huge[block] and self._collapse(block, copied) == 0:
                self.tally.by_kernel += 1
                took_ns += self.spec.collapse_ns
        return took_ns

    # ---- what is told

    def told(self) -> HugePages:
        """Return which ranges are huge, and the costs."""
        spec, kernel = self.spec, self.spec.khugepaged_pages_per_s
        round_s = np.inf
        if kernel > 0:
            round_s = len(self.huge) * PAGES_PER_HUGE_PAGE / kernel
        return HugePages(
            self.huge.copy(),
            float(round_s),
            np.full(len(self.huge), kernel > 0),
            self._entries,
            spec.walk_ns,
            spec.huge_walk_ns,
            self.move_ns,
            spec.split_ns,
            spec.collapse_ns,
        )

    def report(self) -> dict[str, float | int]:
        """Return the figures for a result."""
        tally = self.tally
        return {
            "huge_share": float(self.huge.mean()) if len(self.huge) else 0.0,
            "misses": int(tally.missed[0]),
            "huge_misses": int(tally.missed[1]),
            "walk_ns": tally.walk_ns,
            "whole_moves": tally.whole_moves,
            "by_kernel": tally.by_kernel,
        }
