"""The kernel's two LRU lists and kswapd, for the peers that demote with them.

mm/vmscan.c (6.3), anonymous memory. A page is born at the head of the inactive
list. Reclaim walks that list from its tail: a page that was touched since it was
last looked at goes back to the head (the first time) or to the active list (the
second time); an untouched one is the victim. When the inactive list has become
short, the tail of the active list is moved to its head and the accessed bits are
cleared.

Accessed bits come from looks at the node that reclaims, and only while it does.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import AccessedBits, HintBatch, Look, Mechanism
from isotherm.policy.paths import TierPaths, moves_to
from isotherm.policy.plan import Epoch, Moves, Outcome, Reason

YOUNG = 1  #: touched since reclaim last looked at the page
REFERENCED = 2  #: PG_referenced: was found young once on the inactive list
ACTIVE = 4  #: PG_active
PAGES_PER_GIB = 1 << 18


class KernelLru:
    """Active and inactive list of every node; nine bytes a page.

    A list is the node's pages ordered by stamp; the tail has the lowest. Before
    anything is known a list is in page order.

    Args:
        pages: Length of the flat page index.
        scale: What absolute sizes are multiplied by.
    """

    def __init__(self, pages: int, scale: float) -> None:
        self._scale = scale
        self.flags = np.zeros(pages, np.uint8)
        self._stamp = np.zeros(pages, np.int64)
        self._next = 1

    def see(self, hints: Iterable[HintBatch]) -> None:
        """Remember which pages were touched."""
        for batch in hints:
            seen = batch.seen
            if isinstance(seen, AccessedBits):
                set_bits = np.unpackbits(seen.bits, bitorder="little")
                at = np.flatnonzero(set_bits)
                page = seen.block[at >> 3].astype(np.int64) * 8 + (at & 7)
                self.flags[page[page < len(self.flags)]] |= YOUNG

    def moved(self, outcome: Outcome) -> None:
        """Put pages that moved at the head of their new list, in order."""
        self._to_head(outcome.page[outcome.errno == 0])

    def born(self, page: NDArray[np.integer]) -> None:
        """Put new memory at the head of the inactive list."""
        self.flags[page] = 0
        self._to_head(page)

    def activate(self, page: NDArray[np.uint32]) -> None:
        """Mark pages active (mark_page_accessed(), workingset_activation())."""
        self.flags[page] = (self.flags[page] | ACTIVE) & ~np.uint8(REFERENCED)

    def inactive_ratio(self, count: int) -> int:
        """Return how many active pages there may be per inactive one.

        ``int_sqrt(10 * GiB)`` of both lists, at least 1 (inactive_is_low()).
        """
        gib = int(count / self._scale) // PAGES_PER_GIB
        return math.isqrt(10 * gib) if gib else 1

    def reclaim(self, member: NDArray[np.bool_], need: int) -> NDArray[np.uint32]:
        """Return at most ``need`` victims, coldest first; age the lists.

        One pass at most over the inactive list: kswapd's priorities 12 to 1 add
        up to that.

        Args:
            member: Pages of the node, bool[pages].
            need: Victims wanted, >= 0.
        """
        if need <= 0:
            return np.empty(0, np.uint32)
        page = np.flatnonzero(member)
        page = page[np.argsort(self._stamp[page], kind="stable")]
        is_active = (self.flags[page] & ACTIVE) != 0
        inactive, active = page[~is_active], page[is_active]
        self._deactivate(len(inactive), active)
        flags = self.flags[inactive]
        old = (flags & YOUNG) == 0
        found = np.cumsum(old)
        scanned = len(inactive)
        if scanned and found[-1] >= need:
            scanned = int(np.searchsorted(found, need)) + 1
        inactive, flags, old = inactive[:scanned], flags[:scanned], old[:scanned]
        victims = inactive[old]
        twice = ~old & ((flags & REFERENCED) != 0)
        once = ~old & ~twice
        self.flags[victims] = 0
        self.flags[inactive[once]] = REFERENCED
        self.flags[inactive[twice]] = ACTIVE
        self._to_head(inactive[~old])
        coldest: NDArray[np.uint32] = victims.astype(np.uint32)
        return coldest

    def _deactivate(self, nr_inactive: int, active: NDArray[np.intp]) -> None:
        """Move the active tail to the inactive head until that is long enough.

        These pages are not scanned in the same pass: they get an epoch to be
        touched again.
        """
        ratio = self.inactive_ratio(nr_inactive + len(active))
        short = len(active) - nr_inactive * ratio
        if short > 0:
            # Smallest k with (inactive + k) * ratio >= active - k.
            tail = active[: -(-short // (ratio + 1))]
            self.flags[tail] = 0
            self._to_head(tail)

    def _to_head(self, page: NDArray[np.integer]) -> None:
        self._stamp[page] = np.arange(self._next, self._next + len(page))
        self._next += len(page)


class Kswapd:
    """Background reclaim of every node that can demote.

    It wakes below one watermark, or when promotions find no room, and works up to
    another. Promotions and reclaim run side by side through an epoch: kswapd
    keeps up as far as it finds victims, so what bounds the promotions of an epoch
    is free memory above the high watermark, and victims.

    Args:
        lru: The lists.
        paths: Tiers.
        pages: Length of the flat page index.
        sees_bits: Whether accessed bits can be had; without, the lists are FIFO.
    """

    def __init__(
        self, lru: KernelLru, paths: TierPaths, pages: int, *, sees_bits: bool
    ) -> None:
        self._lru = lru
        self._paths = paths
        self._pages = pages
        self._sees_bits = sees_bits
        self._looked: set[int] = set()  # nodes whose bits this epoch brought

    def run(
        self,
        epoch: Epoch,
        wake_below: NDArray[np.int64],
        until: NDArray[np.int64],
        wanted: NDArray[np.int64],
        *,
        makes_room: bool = True,
    ) -> tuple[Moves, NDArray[np.int64], tuple[Look, ...]]:
        """Reclaim for one epoch.

        A node whose bits were not looked at yet only asks for that: its victims
        come an epoch later.

        Args:
            epoch: Placement and usage.
            wake_below: Free pages below which kswapd wakes, per node.
            until: Free pages at which it goes back to sleep, per node.
            wanted: Promotions to each node that wait for room.
            makes_room: Whether it makes room for them; not where it stops at the
                high watermark, above which they need free pages.

        Returns:
            Demotions; how many promotions have room, int64 per node; looks.
        """
        free = epoch.usage.free_pages
        room = free - epoch.usage.high_pages
        below = free.copy()
        moves = [Moves.none()]
        awake = []
        for node in self._paths.upper_nodes:
            # Once awake it works up to its mark: a promotion that comes back only
            # after the rate limit's window must not find it asleep again.
            at_work = node in self._looked and free[node] < until[node]
            needless = free[node] >= wake_below[node] and wanted[node] <= room[node]
            if needless and not at_work:
                continue
            awake.append(node)
            if self._sees_bits and node not in self._looked:
                continue
            asked = int(wanted[node]) if makes_room else 0
            need = int(until[node] - free[node]) + asked
            rank = int(self._paths.rank[node])
            lower = [n for tier in self._paths.tiers[rank + 1 :] for n in tier]
            need = min(need, int(np.maximum(below[lower], 0).sum()))
            victims = self._lru.reclaim(epoch.node == node, need)
            to = self._paths.below(rank, len(victims), below)
            moves.append(moves_to(victims, to, Reason.WATERMARK))
            room[node] += len(victims)
        looks: tuple[Look, ...] = ()
        if self._sees_bits:
            self._looked = set(awake)
            looks = tuple(
                Look(Mechanism.ACCESSED_BIT, 0, self._pages, node=node)
                for node in awake
            )
        return Moves.concat(*moves), np.clip(room, 0, wanted), looks
