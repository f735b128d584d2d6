"""Counts of ranges into evidence of pages and neighbourhoods.

What a device or a table of counters has counted is worth more than any sample of
the same accesses, so it goes first, and what others saw of the same accesses is
then no evidence any more: `Counted` says of which pages and how far back.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import (
    BLOCK_PAGES,
    AccessedBits,
    FaultDelays,
    HintBatch,
    RangeCounts,
    Samples,
)
from isotherm.hotness import arithmetic as ar
from isotherm.hotness import censored, evidence
from isotherm.hotness.streams import StreamShare

COARSE_PAGES = 64  # wider ranges say nothing of a page, only of neighbourhoods
KNOWN_PAGES = 3  # of a block that were counted, for its neighbourhood to count
DEPTH = 1.0  # accesses of a page of mean rate in the look that stands for counts
SURE = 2.0  # thresholds that a page is thought to have had, to be learnt from
TOLD = 0.5  # share of the accesses that have been counted: the rest is little

Floats = NDArray[np.float64]
Shares = NDArray[np.float32]
Pages = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Columns:
    """What evidence of pages goes into.

    Attributes:
        code: Filters, uint16[pages], changed.
        history: Last looks, uint8[pages], changed.
        unit: Reference rate: seconds times it are reference periods.
        mean: Mean rate over the reference rate.
        turns: In how many parts the memory is gone through.
        turn: Which is next.
        salt: Returns a number for rounding.
    """

    code: NDArray[np.uint16]
    history: NDArray[np.uint8]
    unit: float
    mean: float
    turns: int
    turn: int
    salt: Callable[[int], int]


class Counted:
    """What counts have told in one update.

    Attributes:
        share: Of what there was to know of each page's accesses, float32[pages].
        hit: Pages of which accesses have been counted, bool[pages].
        is_coarse: Whether ranges came that name no page.

    Args:
        columns: What evidence goes into.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        pages = len(columns.code)
        self._blocks = -(-pages // BLOCK_PAGES)
        self.share: Shares = np.zeros(pages, np.float32)
        self.hit = np.zeros(pages, np.bool_)
        self.is_coarse = False
        self._count = np.zeros(self._blocks)
        self._time = np.zeros(self._blocks)  # periods of pages
        self._page_time = 0.0  # of one

    def add_pages(self, page: Pages, count: Floats, time: Floats) -> None:
        """Add counts of pages to their neighbourhoods."""
        if len(page):
            block = page // BLOCK_PAGES
            self._count += np.bincount(block, count, self._blocks)
            self._time += np.bincount(block, time, self._blocks)
            self._page_time = max(self._page_time, float(time.max()))

    def add_coarse(self, start: Pages, end: Pages, count: Floats, time: Floats) -> None:
        """Spread counts of ranges of many pages over their blocks."""
        if not len(start):
            return
        self.is_coarse = True
        first, last = start // BLOCK_PAGES, -(-end // BLOCK_PAGES)
        size = last - first
        block = np.repeat(first - np.cumsum(size) + size, size)
        block = block + np.arange(int(size.sum()))
        count = np.repeat(count * BLOCK_PAGES / (end - start), size)
        self._count += np.bincount(block, count, self._blocks)
        whole = np.repeat(time * BLOCK_PAGES, size)
        self._time += np.bincount(block, whole, self._blocks)
        self._page_time = max(self._page_time, float(time.max()))

    def looks(
        self,
        block: NDArray[np.uint32],
        bits: NDArray[np.uint8] | None = None,
        interval: Floats | None = None,
    ) -> tuple[NDArray[np.uint8], Floats]:
        """Return what stands for a look at blocks: counts, where there are any.

        So many bits as pages of such a rate would have set over a time in which
        the mean page is accessed `DEPTH` times; which ones means nothing.

        Args:
            block: uint32[n].
            bits: Their accessed bits; None: not looked at.
            interval: What the bits cover, reference periods.
        """
        time = self._time[block]
        known = (time > 0) & (time >= KNOWN_PAGES * self._page_time)
        rate = self._count[block] / np.where(time > 0, time, 1.0)
        over = min(self._page_time, DEPTH / max(self._columns.mean, 1e-12))
        noise = ar.mix_array(block.astype(np.uint64), self._columns.salt(1))
        draw = (noise >> np.uint64(40)).astype(np.float64) / (1 << 24)
        k = np.floor(BLOCK_PAGES * -np.expm1(-rate * over) + draw).astype(np.int64)
        stands = ((1 << np.minimum(k, BLOCK_PAGES)) - 1).astype(np.uint8)
        if bits is None or interval is None:
            return stands, np.where(known, over, 0.0)
        return np.where(known, stands, bits), np.where(known, over, interval)

    def faults_left(self, seen: FaultDelays) -> FaultDelays:
        """Return the faults and silences of pages that have not been counted."""
        fault = self.share[seen.page] < TOLD
        silent = self.share[seen.silent] < TOLD
        return FaultDelays(
            seen.page[fault],
            seen.delay_s[fault],
            seen.write[fault],
            seen.initiator[fault],
            seen.silent[silent],
            seen.silent_s[silent],
            None if seen.exposure_s is None else seen.exposure_s[fault],
        )

    def bits_left(self, seen: AccessedBits, interval: Floats) -> "BitsLeft | None":
        """Return what bits say beside counts; None where there are none.

        With a share s counted a bit is about the other accesses: about ``1 - s``
        of the time, where none was counted; nothing where some were, as the bit was
        bound to be set then.

        Args:
            seen: Bits of whole blocks.
            interval: What they cover, reference periods; 0: nothing.
        """
        page = seen.block.astype(np.int64)[:, None] * BLOCK_PAGES + np.arange(8)
        inside = page < len(self.share)
        page = np.where(inside, page, 0)
        share = np.where(inside, self.share[page], 0.0)
        some = share.max(axis=1, initial=0.0) > 0
        if not some.any():
            return None
        at = np.flatnonzero(some & (interval > 0))
        page, share = page[at].ravel(), share[at].ravel()
        use = inside[at].ravel() & (share < TOLD) & ~self.hit[page]
        bit = np.unpackbits(seen.bits[at], bitorder="little")
        left = np.repeat(interval[at], BLOCK_PAGES) * (1.0 - share)
        return BitsLeft(
            np.where(some, 0.0, interval),
            page[use].astype(np.uint32),
            bit[use],
            left[use],
        )


@dataclass(frozen=True, slots=True)
class BitsLeft:
    """What accessed bits say beside counts.

    Attributes:
        interval: Of each block, reference periods; 0 where pages of it were counted.
        page: Pages of those blocks of which something is left, uint32[n].
        bit: Their bits, uint8[n].
        left: What they cover, reference periods, float64[n].
    """

    interval: Floats
    page: NDArray[np.uint32]
    bit: NDArray[np.uint8]
    left: Floats

    def see(self, columns: Columns) -> None:
        """Fuse the bits of those pages; their blocks have decayed already."""
        if len(self.page):
            evidence.see(
                columns.code,
                columns.history,
                self.page,
                self.bit,
                self.left,
                0,
                columns.salt(1),
            )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a batch as they are counted: what was seen, not what it stands for.

    Attributes:
        start: int64[n].
        end: int64[n].
        count: Accesses that were counted, float64[n].
        seconds: Exposure that the count stands for, float64[n].
        threshold: Accesses counted from which on a range is named, 0 or >= 1.
        longest_s: What a watched range was counted for.
        share: Of the accesses, those that were counted.
    """

    start: Pages
    end: Pages
    count: Floats
    seconds: Floats
    threshold: float
    longest_s: float
    share: float

    @classmethod
    def of(cls, batch: HintBatch, seen: RangeCounts) -> "_Rows":
        """Return the rows of a batch.

        k crossings of a threshold are k thresholds of accesses, more or less what
        was in the counter before and after: two uniform parts of a threshold, whose
        variance is a sixth of its square beside that of the count.
        """
        start, end = seen.start.astype(np.int64), seen.end.astype(np.int64)
        count = seen.count.astype(np.float64) * seen.share
        seconds = seen.exposure_s.astype(np.float64) * seen.share
        longest_s = (batch.end_ns - batch.start_ns) / NS_PER_S
        if len(seen.exposure_s):
            longest_s = float(seen.exposure_s.max())
        threshold = float(np.ceil(seen.threshold * seen.share - 1e-6))
        if not seen.magnitude and len(start):
            both, at, back = np.unique(
                np.stack([start, end]), axis=1, return_index=True, return_inverse=True
            )
            start, end = both
            count = np.bincount(back.ravel(), count).astype(np.float64)
            weight = count / (count + threshold * threshold / 6.0)
            count, seconds = count * weight, seconds[at] * weight
        return cls(start, end, count, seconds, threshold, longest_s, seen.share)


class CountEvidence:
    """Takes counts in; remembers what is learnt of their sources."""

    def __init__(self) -> None:
        self._streams: dict[str, StreamShare] = {}

    @property
    def share(self) -> float:
        """Accesses counted over those that rates are of, the mean of the sources."""
        if not self._streams:
            return 1.0
        return float(np.mean([s.share for s in self._streams.values()]))

    def add(self, batches: tuple[HintBatch, ...], columns: Columns) -> Counted | None:
        """Fuse all counts; return what they have told, None where nobody counted."""
        told: Counted | None = None
        by_source: dict[str, Shares] = {}
        for batch in batches:
            if not isinstance(batch.seen, RangeCounts):
                continue
            if told is None:
                told = Counted(columns)
            own = by_source.setdefault(batch.source, np.zeros_like(told.share))
            left = np.full(len(own), _unsampled(batches))
            for name, share in by_source.items():
                if name != batch.source:
                    left *= 1.0 - share
            rows = _Rows.of(batch, batch.seen)
            stream = self._streams.setdefault(
                batch.source, StreamShare(batch.capability)
            )
            watched = _inside(batch.seen.watched, len(own))
            chosen = _sure(watched, rows, columns, stream.share)
            page, count = _add_rows(
                batch.seen, rows, columns, stream.share, told, left, own
            )
            if len(chosen) and not (rows.end - rows.start != 1).any():
                found = _counts_of(chosen, page, count, rows.threshold)
                stream.learn(chosen, found / rows.share, rows.longest_s, list(batches))
            if batch.seen.complete:
                watched &= ~_inside(np.stack([rows.start, rows.end], 1), len(own))
                _add_bounds(watched, rows, columns, stream.share, told, left, own)
        if told is not None:
            for share in by_source.values():
                told.share = np.maximum(told.share, share)
        return told


def _unsampled(batches: tuple[HintBatch, ...]) -> float:
    """Return the share of the accesses that no sample stands for already."""
    left = 1.0
    for batch in batches:
        if isinstance(batch.seen, Samples):
            left *= 1.0 - 1.0 / max(1.0, batch.seen.period)
    return left


def _inside(ranges: NDArray[np.int64], pages: int) -> NDArray[np.bool_]:
    """Return which pages lie in any of the ranges [start, end), int64[n, 2]."""
    edge = np.bincount(ranges[:, 0], minlength=pages + 1).astype(np.int64)
    edge -= np.bincount(ranges[:, 1], minlength=pages + 1)
    inside: NDArray[np.bool_] = np.cumsum(edge[:pages]) > 0
    return inside


def _sure(
    watched: NDArray[np.bool_], rows: _Rows, columns: Columns, stream: float
) -> Pages:
    """Return watched pages that were thought to be far above the threshold before.

    They were chosen without looking at the counts, so the chance in those has no
    say in it.
    """
    page = np.flatnonzero(watched)
    if rows.threshold <= 1:
        return page
    mean, _ = evidence.unpack_array(columns.code[page])
    expected = mean * (rows.longest_s * columns.unit * stream * rows.share)
    return page[expected > SURE * rows.threshold]


def _counts_of(chosen: Pages, page: Pages, count: Floats, threshold: float) -> Floats:
    """Return what was counted of pages; those not named: half the threshold."""
    missing = max(0.0, threshold - 1.0) / 2.0
    if not len(page):
        return np.full(len(chosen), missing)
    at = np.minimum(np.searchsorted(page, chosen), len(page) - 1)
    return np.where(page[at] == chosen, count[at], missing)


def _add_rows(
    seen: RangeCounts,
    rows: _Rows,
    columns: Columns,
    stream: float,
    told: Counted,
    left: Floats,
    own: Shares,
) -> tuple[Pages, Floats]:
    """Fuse the ranges that are named; return pages, ascending, and their counts.

    Args:
        seen: The counts.
        rows: As they were counted.
        columns: Changed.
        stream: Accesses counted over accesses.
        told: Neighbourhoods and hits are added.
        left: Share of each page's accesses that nobody else has told.
        own: What this source has told, changed.
    """
    periods = rows.seconds * (columns.unit * stream)
    width = rows.end - rows.start
    coarse = width > COARSE_PAGES
    told.add_coarse(
        rows.start[coarse], rows.end[coarse], rows.count[coarse], periods[coarse]
    )
    some = (width > 1) & ~coarse
    shared = _share_out(
        rows.start[some], width[some], rows.count[some], periods[some], columns, left
    )
    page, back = np.unique(rows.start[width == 1], return_inverse=True)
    count: Floats = np.bincount(back, rows.count[width == 1], len(page)).astype(float)
    time: Floats = np.bincount(back, periods[width == 1], len(page)).astype(float)
    is_cut = seen.magnitude and not seen.complete
    use = (left[page] > 0) & (time > 0)
    censored.add_counts(
        columns.code,
        columns.history,
        page[use].astype(np.uint32),
        count[use] * left[page[use]],
        time[use] * left[page[use]],
        rows.threshold if is_cut else 0.0,
        columns.salt(1),
    )
    told.hit[page[count > 0]] = True
    whole = max(rows.longest_s * columns.unit * stream, 1e-12)
    own[page] = np.minimum(1.0, own[page] + time / whole)
    told.add_pages(page, count, time)
    told.add_pages(*shared)
    return page, count


def _share_out(
    start: Pages,
    width: Pages,
    count: Floats,
    time: Floats,
    columns: Columns,
    left: Floats,
) -> tuple[Pages, Floats, Floats]:
    """Split counts of ranges of several pages; return pages, counts, exposures.

    The pieces of a range that were counted apart are added up; of ranges that
    overlap otherwise the last one decides for the pages that they share.
    """
    if not len(start):
        return start, count, time
    both, back = np.unique(np.stack([start, width]), axis=1, return_inverse=True)
    start, width = both
    count = np.bincount(back.ravel(), count).astype(np.float64)
    time = np.bincount(back.ravel(), time).astype(np.float64)
    first = np.cumsum(width) - width
    size = int(width.sum())
    row = np.empty(size, np.uint32), np.empty(size), np.empty(size)
    apart = np.maximum(left[start], 1e-6)
    censored.split_ranges(
        columns.code, start, width, count * apart, time * apart, first, *row
    )
    page, last = np.unique(row[0][::-1], return_index=True)
    rate, exposure = row[1][::-1][last], row[2][::-1][last]
    noise = ar.mix_array(page.astype(np.uint64), columns.salt(1))
    columns.code[page] = evidence.pack_array(rate, exposure, noise)
    each: Floats = np.repeat(time, width)[::-1][last]
    return page.astype(np.int64), rate * each, each


def _add_bounds(
    absent: NDArray[np.bool_],
    rows: _Rows,
    columns: Columns,
    stream: float,
    told: Counted,
    left: Floats,
    own: Shares,
) -> None:
    """Take what was watched and is not named to have stayed below the threshold.

    Large memory is gone through in turns, each page for all turns at once: fewer
    than ``turns`` times the most that is not named.
    """
    pages, turns = len(absent), columns.turns
    low = pages * columns.turn // turns
    high = pages * (columns.turn + 1) // turns
    page = low + np.flatnonzero(absent[low:high] & (left[low:high] > 0))
    most = max(1.0, rows.threshold) - 1.0
    once = rows.longest_s * rows.share * columns.unit * stream
    if not len(page) or once <= 0:
        return
    time = left[page] * (once * turns)
    news = np.empty(len(page))
    censored.add_bounds(
        columns.code,
        page.astype(np.uint32),
        most * turns + 1.0,
        time,
        news,
        columns.salt(1),
    )
    own[page] = np.minimum(1.0, own[page] + rows.share * news)
    mean, _ = evidence.unpack_array(columns.code[page])
    told.add_pages(page, np.minimum(mean * once, most), np.full(len(page), once))
