"""How much of a tier each tenant is owed, and who shares a price with whom.

Of slots that all cost the same each tenant would hold its pages above one line of
heat. Guarantees and maxima bend that: who is owed more than it would hold has a
lower price, who may not hold so much a higher one (the multipliers of Karush, Kuhn
and Tucker in the problem of saving most under those bounds).

What is owed is what is *used* of a guarantee. A tenant with all of its guarantee
would save so much; with the fewest slots that keep it within ``lend`` of that time
it has what was promised, and whoever pays more may have the rest until it is wanted
back.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Who a tenant's price is settled with.
COMMON, OWED, CAPPED = 0, 1, 2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What tenants may have of one tier, as columns: float64 or int64[tenants].

    Attributes:
        entitled: Slots guaranteed.
        cap: Slots at most.
        weight: What their gain counts.
        lend: Share of its time by which a tenant may fall short of its guarantee.
        firm: Slots of those guaranteed that come first where all together are more
            than there are; None: all of them.
    """

    entitled: Ints
    cap: Ints
    weight: Floats
    lend: Floats
    firm: Ints | None = None


@dataclass(frozen=True, slots=True)
class Shares:
    """What heat and bounds make of a tier's slots, as columns over tenants.

    Attributes:
        entitled: Slots guaranteed that it has pages for, int64.
        owed: Slots that it gets before all others, int64: what is used of those.
        cap: Slots at most, int64.
        slots: What it would hold if only heat counted, float64.
        pool: ``COMMON``, ``OWED`` or ``CAPPED``, uint8: whom its price is settled with.
        promised: Share of its time that the best pages in those slots save over
            pages drawn blindly, float64.
        promised_all: The same of all memory, were there no tenants.
    """

    entitled: Ints
    owed: Ints
    cap: Ints
    slots: Floats
    pool: NDArray[np.uint8]
    promised: Floats
    promised_all: float


def derive_shares(
    rate: Floats, pages: Ints, capacity: int, bounds: Bounds, saved: float
) -> Shares:
    """Return what each tenant is owed of a tier, and what it would hold.

    Args:
        rate: Of every cell.
        pages: Pages of each tenant and cell in this tier and the next, [T, cells].
        capacity: Slots that there are for them.
        bounds: What they may have.
        saved: Share of the lower tier's latency that the upper saves, [0, 1).
    """
    order = np.argsort(-rate, kind="stable")
    heat, of = rate[order], pages[:, order]
    upto = np.cumsum(of, 1)
    work = np.cumsum(of * heat, 1)
    total = upto[:, -1]
    cap = np.minimum(bounds.cap, total)
    entitled = np.minimum(bounds.entitled, cap)
    owed = _owed(upto, work, entitled, bounds.lend, saved)
    owed = _fitted(owed, owed if bounds.firm is None else bounds.firm, capacity)
    low = np.maximum(upto - of, owed[:, None])
    room = np.maximum(np.minimum(upto, cap[:, None]) - low, 0)
    worth = (bounds.weight[:, None] * heat).ravel()
    best = np.argsort(-worth, kind="stable")
    before = np.cumsum(room.ravel()[best]) - room.ravel()[best]
    taken = np.zeros(room.size)
    taken[best] = np.clip(capacity - int(owed.sum()) - before, 0, room.ravel()[best])
    more = taken.reshape(room.shape).sum(1)
    slots = owed + more
    pool = np.full(len(total), COMMON, np.uint8)
    pool[(slots >= cap) & (cap < total)] = CAPPED
    pool[(owed > 0) & (more < 0.5) & (owed < total)] = OWED
    inside = np.array([_at(slots[t], upto[t], work[t]) for t in range(len(total))])
    promised = _promised(inside, work[:, -1], slots, total, saved)
    together = np.array([capacity], np.float64)
    best_all = np.array([_at(capacity, upto.sum(0), work.sum(0))])
    all_work, all_pages = np.array([work[:, -1].sum()]), np.array([total.sum()])
    everything = _promised(best_all, all_work, together, all_pages, saved)
    return Shares(entitled, owed, cap, slots, pool, promised, float(everything[0]))


def _promised(
    inside: Floats,
    work: Floats,
    slots: Floats,
    pages: Ints | Floats,
    saved: float,
) -> Floats:
    """Return the share of time that the best pages in some slots save over blind."""
    ratio = np.minimum(slots / np.maximum(pages, 1), 1.0)
    share = inside / np.maximum(work, 1e-12)
    gain: Floats = saved * (share - ratio) / np.maximum(1.0 - saved * ratio, 1e-9)
    return gain


def _fitted(owed: Ints, firm: Ints, capacity: int) -> Ints:
    """Return what is owed of so many slots: what is firm first, the rest in parts."""
    first = np.minimum(owed, firm)
    fitted, left = np.zeros_like(owed), max(0, capacity)
    for part in (first, owed - first):
        asked = int(part.sum())
        given = part if asked <= left else (part * (left / asked)).astype(np.int64)
        fitted += given
        left -= int(given.sum())
    return fitted


def _owed(upto: Ints, work: Floats, entitled: Ints, lend: Floats, saved: float) -> Ints:
    """Return the fewest slots that keep each tenant within ``lend`` of its promise.

    Time is in units of what the lower tier's latency would take.
    """
    owed = entitled.copy()
    for t in np.flatnonzero((entitled > 0) & (lend > 0)):
        has = _at(entitled[t], upto[t], work[t])
        time = work[t, -1] - saved * has
        enough = has - lend[t] * time / max(saved, 1e-9)
        if enough <= 0:
            owed[t] = 0
            continue
        i = int(np.searchsorted(work[t], enough))
        before, above = (0, 0.0) if i == 0 else (upto[t, i - 1], work[t, i - 1])
        step = (upto[t, i] - before) / max(work[t, i] - above, 1e-12)
        owed[t] = min(entitled[t], int(np.ceil(before + (enough - above) * step)))
    return owed


def _at(slots: float, upto: Ints, work: Floats) -> float:
    """Return the accesses of a tenant's hottest pages, so many."""
    return float(np.interp(slots, np.append(0, upto), np.append(0.0, work)))


def partition(
    entitled: Ints, cap: Ints, weight: Floats, pages: Ints, capacity: int
) -> Ints:
    """Return fixed parts of a tier: guarantees, and the rest by weight.

    Args:
        entitled: Slots guaranteed, int64[T].
        cap: Slots at most.
        weight: Of each.
        pages: Pages of each: nobody's part is larger.
        capacity: Slots.
    """
    most = np.minimum(cap, pages)
    part = np.minimum(entitled, most).astype(np.float64)
    for _ in range(len(part)):
        left = capacity - part.sum()
        open_ = part < most
        if left < 1 or not open_.any():
            break
        share = np.where(open_, weight, 0.0)
        part = np.minimum(part + left * share / share.sum(), most)
    found: Ints = part.astype(np.int64)
    return found
