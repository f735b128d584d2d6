"""HeMem (SOSP 2021): counts of sampled accesses, a fixed threshold, cooling.

Steps as in the authors' src/pebs.c; constants differ between their branches, so
each is an option.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.core.units import HUGE_PAGE_BYTES, PAGE_BYTES
from isotherm.hints.batch import Mechanism, Samples
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.options import REFERENCE_GIB, read_options, scale_of
from isotherm.policy.paths import TierPaths, moves_to
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup
from isotherm.policy.spaces import reborn

DEFAULTS: Mapping[str, float] = {
    "reference_gib": REFERENCE_GIB,
    "unit_pages": 1.0,
    "hot_read": 8.0,
    "hot_write": 4.0,
    "cooling_threshold": 18.0,
    "cooling_pages": 8192.0,
    "round_ms": 10.0,
    "round_gib": 10.0,
}
Column = NDArray[np.int32]


def count_samples_twin(
    unit: NDArray[np.int64],
    write: NDArray[np.uint8],
    counts: Column,
    cooled: Column,
    hot: NDArray[np.uint8],
    stamp: NDArray[np.int64],
    clock: NDArray[np.int64],
    hot_read: int,
    hot_write: int,
    cooling: int,
) -> None:
    """Twin of `count_samples`."""
    for i in range(len(unit)):
        u = int(unit[i])
        counts[u, 1 if len(write) and write[i] else 0] += 1
        is_hot = counts[u, 0] >= hot_read or counts[u, 1] >= hot_write
        if is_hot != bool(hot[u]):
            hot[u] = is_hot
            stamp[u] = clock[1]
            clock[1] += 1
        missed = min(int(clock[0]) - int(cooled[u]), 31)
        counts[u] >>= missed
        cooled[u] = clock[0]
        if counts[u].max() > cooling:
            clock[0] += 1


@kernel(twin=count_samples_twin)
def count_samples(
    unit: NDArray[np.int64],
    write: NDArray[np.uint8],
    counts: Column,
    cooled: Column,
    hot: NDArray[np.uint8],
    stamp: NDArray[np.int64],
    clock: NDArray[np.int64],
    hot_read: int,
    hot_write: int,
    cooling: int,
) -> None:
    """Take samples in order: count, judge, cool (docs/reference/policies.md, HeMem).

    Args:
        unit: Page units sampled, int64[n].
        write: 1 for a store, uint8[n]; empty: all loads.
        counts: Loads and stores per unit, int32[units, 2], changed.
        cooled: Value of the cooling clock at the unit's last visit, int32[units].
        hot: Whether the unit is on a hot list, uint8[units], changed.
        stamp: Order of joining the list, int64[units], changed.
        clock: int64[2], changed: cooling clock, next stamp.
        hot_read: Loads that make a unit hot.
        hot_write: Stores that make a unit hot.
        cooling: A count above this advances the cooling clock.
    """
    for i in range(unit.size):
        u = unit[i]
        if write.size > 0 and write[i] > 0:
            counts[u, 1] += 1
        else:
            counts[u, 0] += 1
        is_hot = np.uint8(0)
        if counts[u, 0] >= hot_read or counts[u, 1] >= hot_write:
            is_hot = np.uint8(1)
        if is_hot != hot[u]:
            hot[u] = is_hot
            stamp[u] = clock[1]
            clock[1] += 1
        missed = min(clock[0] - np.int64(cooled[u]), 31)
        counts[u, 0] >>= missed
        counts[u, 1] >>= missed
        cooled[u] = clock[0]
        if counts[u, 0] > cooling or counts[u, 1] > cooling:
            clock[0] += 1


class HeMem:
    """Hot is what was sampled often enough since the last coolings."""

    name = "hemem"
    wants = frozenset({Mechanism.SAMPLING})
    uses_tracker = False
    defaults = DEFAULTS

    def __init__(self, setup: Setup) -> None:
        o = self._o = read_options(self.name, setup, self.defaults)
        self._paths = TierPaths(setup.topology)
        self._unit_pages = max(1, int(o["unit_pages"]))
        self._pages = setup.pages
        units = self._units = -(-setup.pages // self._unit_pages)
        self._counts = np.zeros((units, 2), np.int32)
        self._cooled = np.zeros(units, np.int32)
        self._hot = np.zeros(units, np.uint8)
        self._stamp = np.zeros(units, np.int64)
        self._clock = np.array([0, 1], np.int64)
        self._walked = 0  # cooling clock that a whole walk has caught up with
        scale = scale_of(setup.pages, o["reference_gib"])
        rounds = setup.epoch_ns / max(o["round_ms"] * 1e6, 1)
        # One of their 2 MiB pages at this scale, in units.
        huge = scale * HUGE_PAGE_BYTES / PAGE_BYTES / self._unit_pages
        self._walk_units = max(1, int(o["cooling_pages"] * huge * rounds))
        gib = o["round_gib"] * scale * rounds
        self._move_pages = max(1, int(gib * (1 << 30) / PAGE_BYTES))

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the machine's own placement."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Forget units that are new memory, all of it; the footprint must stay."""
        page = reborn(self.name, change, self._pages)
        unit, count = np.unique(page // self._unit_pages, return_counts=True)
        self._counts[unit[count == self._unit_pages]] = 0

    def decide(self, epoch: Epoch) -> Plan:
        """Return promotions of hot slow units, and the cold units they displace."""
        o = self._o
        none = np.empty(0, np.uint8)
        for batch in epoch.hints:
            if isinstance(batch.seen, Samples):
                count_samples(
                    batch.seen.page.astype(np.int64) // self._unit_pages,
                    none if batch.seen.write is None else batch.seen.write,
                    self._counts,
                    self._cooled,
                    self._hot,
                    self._stamp,
                    self._clock,
                    int(o["hot_read"]),
                    int(o["hot_write"]),
                    int(o["cooling_threshold"]),
                )
        self._cool()
        return Plan(
            self._moves(epoch),
            notes={
                "hot_units": int(self._hot.sum()),
                "cooling_clock": int(self._clock[0]),
            },
        )

    def _is_hot(self, unit: NDArray[np.intp]) -> NDArray[np.bool_]:
        counts = self._counts[unit]
        reads, writes = counts[:, 0], counts[:, 1]
        return (reads >= self._o["hot_read"]) | (writes >= self._o["hot_write"])

    def _to_tail(self, unit: NDArray[np.integer]) -> None:
        self._stamp[unit] = self._clock[1] + np.arange(len(unit))
        self._clock[1] += len(unit)

    def _cool(self) -> None:
        """Walk the hot lists: halve what missed a cooling, drop what is cold now.

        At most ``cooling_pages`` a round; longest on the list first.
        """
        now = int(self._clock[0])
        if now > self._walked:
            late = np.flatnonzero((self._hot > 0) & (self._cooled < now))
            late = late[np.argsort(self._stamp[late], kind="stable")]
            walk = late[: self._walk_units]
            missed = np.minimum(now - self._cooled[walk], 31)
            self._counts[walk] >>= missed[:, None]
            self._cooled[walk] = now
            if len(walk) == len(late):
                self._walked = now
        hot = np.flatnonzero(self._hot)
        cold = hot[~self._is_hot(hot)]
        cold = cold[np.argsort(self._stamp[cold], kind="stable")]
        self._hot[cold] = 0
        self._to_tail(cold)

    def _per_unit(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return how many pages of every unit are marked, int64[units]."""
        padded = np.zeros(self._units * self._unit_pages, np.int64)
        padded[: self._pages] = mask
        total: NDArray[np.int64] = padded.reshape(self._units, -1).sum(1)
        return total

    def _moves(self, epoch: Epoch) -> Moves:
        """Promote the head of the hot list; demote the head of the cold one."""
        is_fast = self._paths.is_fast(epoch.node)
        is_slow = self._paths.is_lower(epoch.node)
        fast, slow = self._per_unit(is_fast), self._per_unit(is_slow)
        up = np.flatnonzero((self._hot > 0) & (slow > 0))
        up = up[np.argsort(self._stamp[up], kind="stable")]
        down = np.flatnonzero((self._hot == 0) & (fast > 0))
        if len(up) == 0:
            return Moves.none()
        down = down[np.argsort(self._stamp[down], kind="stable")]
        free = epoch.usage.free_pages.copy()
        fast_nodes = np.array(self._paths.fast_nodes)
        free_fast = int(np.maximum(free[fast_nodes], 0).sum())
        below = int(np.maximum(free[self._paths.lower_nodes], 0).sum())
        # Whole units, best first, while free pages or cold units last.
        need = np.cumsum(slow[up])
        gives = np.cumsum(fast[down])
        there = free_fast + (int(min(gives[-1], below)) if len(down) else 0)
        up = up[: int(np.searchsorted(need, min(there, self._move_pages), "right"))]
        if len(up) == 0:
            return Moves.none()
        short = int(need[len(up) - 1]) - free_fast
        down = down[: int(np.searchsorted(gives, short)) + 1] if short > 0 else down[:0]
        demote = self._pages_of(down, is_fast)
        promote = self._pages_of(up, is_slow)
        self._to_tail(down)
        self._to_tail(up)
        to = self._paths.below(0, len(demote), free)
        demote = demote[: len(to)]
        free[fast_nodes] += np.bincount(epoch.node[demote], minlength=256)[fast_nodes]
        at = self._paths.spread(len(promote), fast_nodes, free)
        return Moves.concat(
            moves_to(demote, to, Reason.COLD),
            moves_to(promote[: len(at)], at, Reason.HOT),
        )

    def _pages_of(
        self, unit: NDArray[np.intp], mask: NDArray[np.bool_]
    ) -> NDArray[np.uint32]:
        """Return the marked pages of units, in the order of the units."""
        page = (unit[:, None] * self._unit_pages + np.arange(self._unit_pages)).ravel()
        page = page[page < self._pages]
        marked: NDArray[np.uint32] = page[mask[page]].astype(np.uint32)
        return marked
