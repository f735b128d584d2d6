"""Larger units: a machine and hint sources in units of several pages.

State is kept by the flat page. Where memory is so large that this does not keep
the budget, everything above the machine sees units of 2, 4, ... 512 pages instead:
a unit is where its first page is, moves as a whole, is accessed as often as all of
its pages together, and costs as much to move. So gains and costs of a unit are in
proportion, and no part above knows.

Spaces begin at granules of 512 pages that no two processes share, so a unit has one
owner.
"""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.clock import Clock
from isotherm.core.columns import joined
from isotherm.daemon.sources import LiveSource
from isotherm.hints.batch import (
    BLOCK_PAGES,
    AccessedBits,
    FaultDelays,
    HintBatch,
    LiveMechanism,
    Look,
    Mechanism,
    RangeCounts,
    Samples,
    Seen,
)
from isotherm.hints.capability import Capability
from isotherm.machine.protocol import (
    NOT_PRESENT,
    Machine,
    MoveResult,
    Space,
    SpacesChanged,
    Usage,
)
from isotherm.topology.model import Topology

#: Pages moved in one call of the machine.
MOST_AT_ONCE: Final = 1 << 14


class CoarseMachine:
    """A machine in units.

    Args:
        machine: In pages.
        unit: Pages in a unit, a power of two from 1 to 512.
    """

    def __init__(self, machine: Machine, unit: int) -> None:
        self.inner = machine
        self.unit = unit

    @property
    def clock(self) -> Clock:
        """The machine's."""
        return self.inner.clock

    @property
    def topology(self) -> Topology:
        """The machine's."""
        return self.inner.topology

    @property
    def pages(self) -> int:
        """Units."""
        return -(-self.inner.pages // self.unit)

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Spaces in units; one that shares its first unit begins after it."""
        found: list[Space] = []
        reached = 0
        for space in self.inner.spaces:
            base = max(space.base // self.unit, reached)
            end = -(-(space.base + space.pages) // self.unit)
            if base < end:
                first = space.start_page + base * self.unit - space.base
                found.append(Space(base, end - base, space.owner, first // self.unit))
                reached = end
        return tuple(found)

    def refresh(self) -> SpacesChanged | None:
        """See what spaces did; a unit of which a part is renewed is renewed."""
        change = self.inner.refresh()
        if change is None:
            return None
        start = change.renewed[:, 0] // self.unit
        end = -(-change.renewed[:, 1] // self.unit)
        renewed = joined(np.stack([start, end], axis=1))
        return SpacesChanged(self.pages, renewed, change.topology)

    def usage(self) -> Usage:
        """Return capacity and use in units; free units are whole ones."""
        usage, unit = self.inner.usage(), self.unit
        capacity = usage.capacity_pages // unit
        return Usage(
            capacity,
            capacity - usage.free_pages // unit,
            -(-usage.min_pages // unit),
            -(-usage.low_pages // unit),
            -(-usage.high_pages // unit),
            -(-usage.promo_pages // unit),
        )

    def placement(self) -> NDArray[np.uint8]:
        """Return the node of every unit: of its first page that has memory."""
        node, unit = self.inner.placement(), self.unit
        coarse = node[::unit].copy()
        empty = np.flatnonzero(coarse == NOT_PRESENT)
        for offset in range(1, unit):
            if len(empty) == 0:
                break
            page = empty * unit + offset
            inside = page < len(node)
            coarse[empty[inside]] = node[page[inside]]
            empty = empty[coarse[empty] == NOT_PRESENT]
        return coarse

    def latency_ns(self) -> NDArray[np.float64]:
        """Return the machine's latencies: of one access, as ever."""
        return self.inner.latency_ns()

    def access_rate(self) -> float | None:
        """Return accesses per unit per second."""
        rate = self.inner.access_rate()
        return None if rate is None else rate * self.unit

    @property
    def parallelism(self) -> float:
        """The machine's."""
        return self.inner.parallelism

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Move units; one has moved if more of its pages moved than did not.

        Its errno is that of the first page that did not.
        """
        here = self.inner.placement()
        at_once = max(1, MOST_AT_ONCE // self.unit)
        errno, cost_ns = [np.empty(0, np.int16)], 0.0
        for first in range(0, len(page), at_once):
            some = slice(first, first + at_once)
            result = self._move(page[some], node[some], here)
            errno.append(result.errno)
            cost_ns += result.cost_ns
        return MoveResult(np.concatenate(errno), cost_ns)

    def _move(
        self, page: NDArray[np.uint32], node: NDArray[np.uint8], here: NDArray[np.uint8]
    ) -> MoveResult:
        """Move so many units as fit one call."""
        single = page.astype(np.int64)[:, None] * self.unit + np.arange(self.unit)
        there = single < len(here)
        there[there] = here[single[there]] != NOT_PRESENT
        row, _ = np.nonzero(there)
        result = self.inner.move(single[there].astype(np.uint32), node[row])
        failed = result.errno != 0
        nr_failed = np.bincount(row[failed], minlength=len(page))
        nr_tried = np.bincount(row, minlength=len(page))
        errno = np.zeros(len(page), np.int16)
        bad, first = np.unique(row[failed], return_index=True)
        errno[bad] = result.errno[failed][first]
        errno[nr_failed * 2 < nr_tried] = 0
        errno[nr_tried == 0] = 2  # ENOENT: nothing of it has memory
        return MoveResult(errno, result.cost_ns)


class CoarseSource:
    """A hint source in units.

    Args:
        source: In pages.
        unit: Pages in a unit.
    """

    def __init__(self, source: LiveSource, unit: int) -> None:
        self.inner = source
        self.unit = unit

    @property
    def mechanism(self) -> Mechanism | LiveMechanism:
        """The source's."""
        return self.inner.mechanism

    @property
    def capability(self) -> Capability:
        """The source's."""
        return self.inner.capability

    def open(self) -> None:
        """Begin to look."""
        self.inner.open()

    def close(self) -> None:
        """Stop; may be called again."""
        self.inner.close()

    def look(self, looks: tuple[Look, ...]) -> None:
        """Pass on looks; stripes are of blocks of eight pages then."""
        self.inner.look(
            tuple(
                replace(
                    look,
                    start_page=look.start_page * self.unit,
                    end_page=look.end_page * self.unit,
                )
                for look in looks
            )
        )

    def drain(self) -> tuple[HintBatch, ...]:
        """Return what was seen, in units."""
        return tuple(
            replace(batch, seen=coarsened(batch.seen, self.unit))
            for batch in self.inner.drain()
        )


def coarsened(seen: Seen, unit: int) -> Seen:
    """Return observations of pages as observations of units of so many pages."""
    if isinstance(seen, Samples):
        return replace(seen, page=_units(seen.page, unit))
    if isinstance(seen, AccessedBits):
        return _coarse_bits(seen, unit)
    if isinstance(seen, FaultDelays):
        return _coarse_faults(seen, unit)
    if isinstance(seen, RangeCounts):
        watched = np.stack(
            [seen.watched[:, 0] // unit, -(-seen.watched[:, 1] // unit)], axis=1
        )
        return replace(
            seen,
            start=_units(seen.start, unit),
            end=_units(seen.end + np.uint32(unit - 1), unit),
            watched=joined(watched),
        )
    # A check looks at one page of many: the unit is accessed ``unit`` times as often.
    return replace(
        seen,
        start=_units(seen.start, unit),
        end=((seen.end.astype(np.int64) + unit - 1) // unit).astype(np.uint32),
        interval_s=seen.interval_s / unit,
    )


def _units(page: NDArray[np.uint32], unit: int) -> NDArray[np.uint32]:
    return (page // np.uint32(unit)).astype(np.uint32)


def _coarse_bits(seen: AccessedBits, unit: int) -> AccessedBits:
    """Return bits of units: set if a page of it was accessed that was looked at."""
    looked = seen.observed
    mask = np.full(len(seen.block), 255, np.uint8) if looked is None else looked
    bits = np.unpackbits(seen.bits & mask, bitorder="little").reshape(-1, BLOCK_PAGES)
    saw = np.unpackbits(mask, bitorder="little").reshape(-1, BLOCK_PAGES)
    part = min(unit, BLOCK_PAGES)  # pages of a unit within a block
    per_block = BLOCK_PAGES // part
    set_ = bits.reshape(-1, per_block, part).any(axis=2).ravel()
    observed = saw.reshape(-1, per_block, part).any(axis=2).ravel()
    piece = seen.block.astype(np.int64)[:, None] * per_block + np.arange(per_block)
    index = piece.ravel() // max(1, unit // BLOCK_PAGES)
    interval = np.repeat(seen.interval_s.astype(np.float64), per_block)
    # From pieces to units, then to blocks of eight units; both ascending.
    first = _firsts(index)
    set_ = np.logical_or.reduceat(set_, first) if len(first) else set_
    observed = np.logical_or.reduceat(observed, first) if len(first) else observed
    interval, index = interval[first], index[first]
    block = index // BLOCK_PAGES
    first = _firsts(block)
    weight = (1 << (index % BLOCK_PAGES)).astype(np.int64)
    if len(first) == 0:
        none = np.empty(0, np.uint8)
        return replace(seen, bits=none, observed=none)
    return replace(
        seen,
        block=block[first].astype(np.uint32),
        bits=np.add.reduceat(weight * set_, first).astype(np.uint8),
        interval_s=interval[first].astype(np.float32),
        observed=np.add.reduceat(weight * observed, first).astype(np.uint8),
    )


def _coarse_faults(seen: FaultDelays, unit: int) -> FaultDelays:
    """Return the first fault of every unit, and units that stayed silent."""
    page = _units(seen.page, unit)
    _, first = np.unique(page, return_index=True)
    first.sort()
    silent, at = np.unique(_units(seen.silent, unit), return_index=True)
    quiet = ~np.isin(silent, page)
    return replace(
        seen,
        page=page[first],
        delay_s=seen.delay_s[first],
        write=seen.write[first],
        initiator=seen.initiator[first],
        silent=silent[quiet],
        silent_s=seen.silent_s[at[quiet]],
        exposure_s=None if seen.exposure_s is None else seen.exposure_s[first],
    )


def _firsts(index: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return where each value of an ascending column begins."""
    if len(index) == 0:
        return np.empty(0, np.intp)
    return np.flatnonzero(np.concatenate([[True], index[1:] != index[:-1]]))
