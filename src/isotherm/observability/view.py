"""What a screen shows of a run: one document, whatever the run is.

``isotherm top`` and ``isotherm serve`` draw a ``View`` and know nothing else. A
running daemon makes one of its own state, a recording makes one for any moment of
its time; both are JSON with raw units, and small: at most so many ranges and moves,
and a heat map of at most ``HEAT_ROWS`` by ``HEAT_COLUMNS``.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGE_BYTES

#: What ranges are ordered by; addresses ascend, the others descend.
RangeOrder = Literal["heat", "size", "address"]
#: Ranges in a view, the hottest; moves, the latest.
RANGES: Final = 64
MOVES: Final = 64
HEAT_ROWS: Final = 96
HEAT_COLUMNS: Final = 48
#: Moments that are kept; when twice as many are there, every other one goes.
MOMENTS: Final = 240
#: Neighbours whose heat differs by less than this factor are one range.
ALIKE: Final = 2.0
#: ... and whose share in the fastest tier differs by less than this.
SHARE_ALIKE: Final = 0.25


class TierView(msgspec.Struct, frozen=True, kw_only=True):
    """A tier; the first is the fastest.

    Attributes:
        name: For people: ``DRAM``, ``CXL memory``.
        nodes: Ids of its nodes.
        latency_ns: Of a read, by the first initiator; None: not known.
        capacity_bytes: All of it.
        used_bytes: In use by anybody.
        managed_bytes: Of what is managed.
    """

    name: str
    nodes: tuple[int, ...]
    latency_ns: float | None
    capacity_bytes: int
    used_bytes: int
    managed_bytes: int


class OwnerView(msgspec.Struct, frozen=True, kw_only=True):
    """A process, or what a recording calls an owner.

    Attributes:
        pid: None: it is no process of this host.
        name: For people.
        tier_bytes: Its memory in every tier.
        rate: Estimated accesses per second of all of it; None: not known.
    """

    pid: int | None
    name: str
    tier_bytes: tuple[int, ...]
    rate: float | None


class RangeView(msgspec.Struct, frozen=True, kw_only=True):
    """Memory that is about as hot from end to end.

    Attributes:
        owner: Index into ``owners``.
        start: First address, bytes.
        end: One past the last.
        rate: Estimated accesses per page per second.
        fast_share: Share of its pages in the fastest tier.
        nr_pages: With memory.
    """

    owner: int
    start: int
    end: int
    rate: float
    fast_share: float
    nr_pages: int


class MoveView(msgspec.Struct, frozen=True, kw_only=True):
    """Pages beside each other that were tried at once, for one reason.

    Attributes:
        time_s: Seconds since the start.
        owner: Index into ``owners``; None: it has gone.
        start: Address of the first page.
        nr_pages: How many.
        src: Node that they came from, 255 unknown.
        dst: Node that they were to go to.
        reason: Why.
        gain_ns: Promised by all of them; None: nothing was said.
        errno: 0 where they moved.
    """

    time_s: float
    owner: int | None
    start: int
    nr_pages: int
    src: int
    dst: int
    reason: str
    gain_ns: float | None
    errno: int


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant: who shares the fastest tier, and pays. Of a recording: over all of it.

    Attributes:
        name: Its name.
        profile: What its terms stand on.
        bytes: Its memory.
        fast_bytes: Of it in the fastest tier.
        guarantee_bytes: Guaranteed of that tier.
        lent_bytes: Of the guarantee, and held by others.
        borrowed_bytes: Held beyond the guarantee.
        fast_share: Share of its accesses that the fastest tier serves; None: unknown.
        slowdown: Against all of its memory fast; None: unknown.
        price_ns: Of a fast slot for an epoch; None: nobody has settled one.
        pool: ``common``, ``owed`` or ``capped``: whom that is settled with.
        charged_bytes: Moves that it pays for.
    """

    name: str
    profile: str
    bytes: int
    fast_bytes: int
    guarantee_bytes: int
    lent_bytes: int
    borrowed_bytes: int
    fast_share: float | None
    slowdown: float | None
    price_ns: float | None
    pool: str | None
    charged_bytes: int


class FlowView(msgspec.Struct, frozen=True, kw_only=True):
    """What moved from a tier to another: pages, since the start and lately."""

    src: int
    dst: int
    pages: int
    recent_pages: int


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one time, for a line over time; totals are since the start."""

    time_s: float
    fast_share: float | None
    promoted_pages: int
    demoted_pages: int
    brake_share: float
    price_ns: float | None


class HeatView(msgspec.Struct, frozen=True, kw_only=True):
    """Heat by range and time.

    Attributes:
        owner: Of every row, index into ``owners``.
        start: Address that every row begins with.
        end: One past its last.
        time_s: Ends of the columns.
        rate: Accesses per page per second, [rows][columns]; None: not known.
        fast_share: Share of the row's pages in the fastest tier, likewise.
    """

    owner: tuple[int, ...]
    start: tuple[int, ...]
    end: tuple[int, ...]
    time_s: tuple[float, ...]
    rate: tuple[tuple[float | None, ...], ...]
    fast_share: tuple[tuple[float | None, ...], ...]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A run at one moment.

    Attributes:
        live: It goes on by itself.
        title: What is managed, or what was run on what.
        policy: Who decides.
        dry_run: Nothing is moved.
        time_s: Seconds since its start.
        end_s: Of a recording: its length; None: it goes on.
        epochs: Decisions so far.
        epoch_s: Seconds between two.
        fast_share: Share of accesses served by the fastest tier; None: unknown.
        prices_ns: Of a place above every boundary between tiers, per epoch.
        brake_share: What the brake lets through.
        cpu_share: Of one core, taken by the daemon; None: of no daemon.
        cpu_budget: Of one core, allowed.
        promised_ns: By moves followed to their end.
        realised_ns: By the same.
        promoted_pages: Since the start.
        demoted_pages: Since the start.
        failed_pages: Tries that failed.
        hints: Observations by source since the start.
        nr_ranges: All of them; ``ranges`` are some.
        tenants: None where there are no tenants.
        moments: In order of time.
    """

    live: bool
    title: str
    policy: str
    dry_run: bool
    time_s: float
    end_s: float | None
    epochs: int
    epoch_s: float
    fast_share: float | None
    prices_ns: tuple[float, ...]
    brake_share: float
    cpu_share: float | None
    cpu_budget: float | None
    promised_ns: float | None
    realised_ns: float | None
    promoted_pages: int
    demoted_pages: int
    failed_pages: int
    hints: dict[str, int]
    tiers: tuple[TierView, ...]
    owners: tuple[OwnerView, ...]
    ranges: tuple[RangeView, ...]
    moves: tuple[MoveView, ...]
    flows: tuple[FlowView, ...]
    moments: tuple[Moment, ...]
    heat: HeatView | None = None
    nr_ranges: int = 0
    tenants: tuple[TenantView, ...] = ()


class Moments:
    """Keeps a line over time in bounded memory: older points thin out evenly."""

    def __init__(self) -> None:
        self._kept: deque[Moment] = deque()
        self._every = 1
        self._seen = 0

    def add(self, moment: Moment) -> None:
        """Take in the next one."""
        if self._seen % self._every == 0:
            self._kept.append(moment)
        self._seen += 1
        if len(self._kept) >= 2 * MOMENTS:
            self._kept = deque(list(self._kept)[::2])
            self._every *= 2

    def all(self) -> tuple[Moment, ...]:
        """Return what is kept, in order of time."""
        return tuple(self._kept)


def tenant_views(report: Sequence[Mapping[str, Any]]) -> tuple[TenantView, ...]:
    """Return tenants as screens show them, of a live run's report or a result's."""
    found = []
    for row in report:
        live = "bytes" in row
        whole, fast, own = (
            (row["bytes"], row["fast_bytes"], row["guarantee_bytes"])
            if live
            else (
                PAGE_BYTES * round(row[name])
                for name in ("pages", "mean_fast_pages", "guarantee_pages")
            )
        )
        found.append(
            TenantView(
                name=row["name"],
                profile=row["profile"],
                bytes=whole,
                fast_bytes=fast,
                guarantee_bytes=own,
                lent_bytes=max(0, min(own, whole) - fast),
                borrowed_bytes=max(0, fast - own),
                fast_share=row["fast_share"],
                slowdown=row["slowdown"],
                price_ns=row["price_ns"],
                pool=row["pool"],
                charged_bytes=PAGE_BYTES * row["paid_moves"],
            )
        )
    return tuple(found)


def choose_ranges(
    order: RangeOrder, rate: NDArray[np.floating], size: NDArray[np.floating]
) -> NDArray[np.int64]:
    """Return rows, in order of address now, in another order, int64[n]."""
    if order == "address":
        return np.arange(len(rate))
    return np.argsort(-(rate if order == "heat" else size), kind="stable")


def alike_runs(
    new: NDArray[np.bool_], rate: NDArray[np.floating], share: NDArray[np.floating]
) -> NDArray[np.int64]:
    """Return where runs of neighbours that are about as hot begin, int64[runs].

    Args:
        new: Where a neighbourhood begins, bool[n].
        rate: Of every row, no NaN.
        share: In the fastest tier, of every row.

    A row that differs from its neighbour, not from the run's mean, begins a run: a
    slope is one range.
    """
    if len(rate) == 0:
        return np.empty(0, np.int64)
    before, after = rate[:-1], rate[1:]
    differs = (after > ALIKE * before + 1e-3) | (before > ALIKE * after + 1e-3)
    differs |= np.abs(np.diff(share)) >= SHARE_ALIKE
    begins = new.copy()
    begins[0] = True
    begins[1:] |= differs
    return np.flatnonzero(begins)


def runs_of_pages(
    page: NDArray[np.integer], *columns: NDArray[np.integer]
) -> list[tuple[int, int]]:
    """Return rows [a, b) of pages beside each other, alike in all columns, n > 0."""
    apart = np.diff(page.astype(np.int64)) != 1
    for column in columns:
        apart |= np.diff(column.astype(np.int64)) != 0
    begins = np.concatenate([[0], np.flatnonzero(apart) + 1, [len(page)]])
    return list(pairwise(begins.tolist()))


def rows_of(table: NDArray[np.floating]) -> tuple[tuple[float | None, ...], ...]:
    """Return a table as tuples, NaN as None, four digits each."""
    size = np.abs(np.where(np.isfinite(table) & (table != 0), table, 1.0))
    # What is smaller than any figure here has no four digits left: 10**309 is none.
    size = np.maximum(size.astype(np.float64), 1e-290)
    scale = 10.0 ** (3.0 - np.floor(np.log10(size)))
    digits = (np.round(table * scale) / scale).astype(object)
    digits[np.isnan(table)] = None
    return tuple(map(tuple, digits.tolist()))
