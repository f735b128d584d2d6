"""What a hint source hands to the tracker, and what it is asked to look at.

Each mechanism sees accesses in its own way, so each has its own columns; the
header says when, what it cost, and what was lost. The tracker turns all of
them into one thing: evidence about an access rate.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.capability import PLAIN, Capability

#: Page-table entries are read in blocks of this many pages: one cache line.
BLOCK_PAGES = 8


class Mechanism(StrEnum):
    """How accesses are seen; also the names for ``--hints``."""

    SAMPLING = "sampling"
    ACCESSED_BIT = "accessed-bit"
    HINT_FAULT = "hint-fault"
    REGION = "region"
    CHMU = "chmu"


class LiveMechanism(StrEnum):
    """How accesses are seen on a live host only: nothing simulates these."""

    WRITE = "write-tracking"
    PAGE_OUT = "page-out"
    COUNTER_TABLE = "counter-table"


@dataclass(frozen=True, slots=True)
class Samples:
    """Every ``period``-th access, one row a sample, in order of time (PEBS, IBS, SPE).

    Attributes:
        page: Flat page, uint32[n].
        write: 1 for a write, uint8[n]; None if unknown.
        initiator: uint8[n], 255 unknown; None if the source cannot name it.
        period: Accesses per sample, after correction for losses.
        latency_ns: How long the access took, float32[n], 0 unknown; None if the
            source cannot tell.
        stall_ns: For how much of that its processor waited for it and for nothing
            else, float32[n], NaN unknown; None if the source cannot tell. (Intel's
            retire latency is one; misses in flight at a time share theirs.)
        thread: Which thread accessed, int64[n], -1 unknown; None if the source
            cannot tell. Never a ground for moving memory: it is for those who place
            threads.
    """

    page: NDArray[np.uint32]
    write: NDArray[np.uint8] | None
    initiator: NDArray[np.uint8] | None
    period: float
    latency_ns: NDArray[np.float32] | None = None
    stall_ns: NDArray[np.float32] | None = None
    thread: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class AccessedBits:
    """Accessed bits of blocks of eight pages, read at ``end_ns`` of the batch.

    Attributes:
        block: Flat page // 8, uint32[n], ascending.
        bits: Bit i is page ``8 block + i``, uint8[n].
        interval_s: Seconds over which the bits were gathered, float32[n]; 0: unknown,
            the bits were never cleared before.
        observed: Which pages were looked at, like ``bits``; None: all eight.
        opening: The walk that opened a window: what gathered since the look
            before. A batch for the window itself follows.
        writes_only: Only writes set the bits: a set one is an access like any
            other, an unset one says nothing of reads.
        initiator: Who accesses the pages of each block, uint8[n], 255 unknown; None
            if nobody can say. A bit does not name who set it: this is where the
            processes run whose memory it is.
    """

    block: NDArray[np.uint32]
    bits: NDArray[np.uint8]
    interval_s: NDArray[np.float32]
    observed: NDArray[np.uint8] | None = None
    opening: bool = False
    writes_only: bool = False
    initiator: NDArray[np.uint8] | None = None

    def whole_blocks(self, pages: int) -> "AccessedBits":
        """Return the blocks that say something of every page.

        The unset bit of a page that was not looked at says nothing, nor does a
        bit that gathered for nobody knows how long. Of bits that only writes set
        none is left: to take the set ones alone would find everything hot.

        Args:
            pages: Length of the flat page index; the last block ends with it.
        """
        known = self.interval_s > 0
        if self.writes_only:
            known = np.zeros_like(known)
        if self.observed is not None:
            there = np.minimum(pages - self.block.astype(np.int64) * BLOCK_PAGES, 8)
            whole = (1 << there) - 1
            known &= (self.observed & whole) == whole
        if known.all():
            return self
        row = np.flatnonzero(known)
        return AccessedBits(
            self.block[row],
            self.bits[row],
            self.interval_s[row],
            opening=self.opening,
        )


@dataclass(frozen=True, slots=True)
class FaultDelays:
    """Hint faults: how long after poisoning a page was touched.

    Attributes:
        page: Flat page that faulted, uint32[n], in order of fault.
        delay_s: Seconds from poisoning to the fault, float32[n].
        write: 1 for a write, uint8[n].
        initiator: uint8[n], 255 unknown.
        silent: Flat pages that stayed poisoned without a fault, uint32[m].
        silent_s: Seconds since their poisoning or last report, float32[m].
        exposure_s: Seconds from poisoning or the last silent report to the fault,
            float32[n]: what the fault adds to the silent reports before it. None:
            the delay itself.
    """

    page: NDArray[np.uint32]
    delay_s: NDArray[np.float32]
    write: NDArray[np.uint8]
    initiator: NDArray[np.uint8]
    silent: NDArray[np.uint32]
    silent_s: NDArray[np.float32]
    exposure_s: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class RegionCounts:
    """Region sampling (DAMON): of ``checks`` looks, ``nr_accesses`` found a bit.

    Attributes:
        start: First flat page, uint32[n], ascending.
        end: One past the last, uint32[n].
        nr_accesses: uint32[n], at most ``checks``.
        age: Aggregations for which the region has been stable, uint32[n].
        checks: Looks per aggregation.
        interval_s: Sampling interval: what one look covers.
    """

    start: NDArray[np.uint32]
    end: NDArray[np.uint32]
    nr_accesses: NDArray[np.uint32]
    age: NDArray[np.uint32]
    checks: int
    interval_s: float


@dataclass(frozen=True, slots=True)
class RangeCounts:
    """Accesses counted by range: hot lists of devices, tables of counters.

    A device counts by its own unit; where that is several pages of the host, or
    pieces of several, a row is the range that they span and its count is the
    pages' together: which of them it was is not known. A batch is of one counting
    epoch, or of one stretch of time: it lists a range twice only where its pieces
    were counted apart.

    Attributes:
        start: First flat page, uint32[n], ascending; ranges may overlap.
        end: One past the last, uint32[n].
        count: Accesses of all pages of the range, corrected for down-sampling,
            float32[n].
        exposure_s: Seconds over which they were counted, float32[n].
        watched: Flat ranges [start, end) that were counted at all, int64[k, 2],
            ascending, not overlapping.
        threshold: Ranges with fewer accesses were not reported; 0: all were.
        complete: What was watched and is not listed stayed below the threshold;
            False where the list overflowed or counters ran out: then absence
            says nothing.
        share: Of the accesses of a watched page, those that were counted, (0, 1]:
            1 over the down-sampling factor, or the part of an interleaved page
            that lies on the device. ``count`` and ``threshold`` are already
            divided by it; it says how much was seen.
        magnitude: ``count`` is a number of accesses; False: every row stands for
            one crossing of the threshold (always-on mode), ``count`` is the
            threshold, and the rows of one range add up.
    """

    start: NDArray[np.uint32]
    end: NDArray[np.uint32]
    count: NDArray[np.float32]
    exposure_s: NDArray[np.float32]
    watched: NDArray[np.int64]
    threshold: float = 0.0
    complete: bool = True
    share: float = 1.0
    magnitude: bool = True


#: What a batch may hold.
Seen = Samples | AccessedBits | FaultDelays | RegionCounts | RangeCounts


@dataclass(frozen=True, slots=True)
class HintBatch:
    """Observations of one source over one stretch of time.

    Attributes:
        source: Name of the source, for ``explain`` and metrics.
        start_ns: When the observation began.
        end_ns: When it ended.
        seen: The columns.
        lost: Observations that the mechanism dropped.
        application_ns: Time that looking took from the application.
        background_ns: Time that looking took on some other CPU.
        capability: What the source's observations stand for.
    """

    source: str
    start_ns: int
    end_ns: int
    seen: Seen
    lost: int = 0
    application_ns: float = 0.0
    background_ns: float = 0.0
    capability: Capability = PLAIN


@dataclass(frozen=True, slots=True)
class Look:
    """Where and how to look in the next epoch.

    Attributes:
        mechanism: What to look with.
        start_page: First flat page, a multiple of eight.
        end_page: One past the last flat page.
        stripes: Look at one block of eight pages in this many.
        stripe: Which: blocks ``b`` with ``b % stripes == stripe``.
        window_s: Accessed bits: clear, wait so long, read (two walks); None:
            read what gathered since the bits were last cleared (one walk).
            Sampling: not used.
        node: Only pages that are on this node now; None: all.
        period: Sampling: accesses per sample; None: leave as it is.
    """

    mechanism: Mechanism | LiveMechanism
    start_page: int
    end_page: int
    stripes: int = 1
    stripe: int = 0
    window_s: float | None = None
    node: int | None = None
    period: int | None = None


class HintSource(Protocol):
    """A driver of one mechanism."""

    @property
    def mechanism(self) -> Mechanism | LiveMechanism:
        """How it sees."""
        ...

    @property
    def capability(self) -> Capability:
        """What its observations stand for; every batch of it says the same."""
        ...

    def look(self, looks: tuple[Look, ...]) -> None:
        """Prepare the next epoch; looks for other mechanisms are ignored."""
        ...

    def drain(self) -> tuple[HintBatch, ...]:
        """Return what was seen since the last drain, with what it cost."""
        ...
