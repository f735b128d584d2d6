"""Which pages change places between two tiers: the clairvoyant's inner loops."""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel
from isotherm.policy.bounds import Counts

#: Accesses that a page can be worth: they share an int64 with a page number.
MAX_VALUE = (1 << 31) - 1
PAGE_MASK = (1 << 32) - 1

Values = NDArray[np.int64]
Ranks = NDArray[np.uint8]


def slide_twin(value: Values, enter: Counts, leave: Counts) -> None:
    """Twin of `slide`."""
    value += enter
    value -= leave


@kernel(twin=slide_twin)
def slide(value: Values, enter: Counts, leave: Counts) -> None:
    """Move the window by one epoch: add its new last row, take off its first."""
    for p in range(value.size):
        value[p] += np.int64(enter[p]) - np.int64(leave[p])


def accesses_by_tier_twin(row: Counts, rank: Ranks, out: Values) -> None:
    """Twin of `accesses_by_tier`."""
    for tier in range(len(out)):
        out[tier] += int(row[rank == tier].sum(dtype=np.int64))


@kernel(twin=accesses_by_tier_twin)
def accesses_by_tier(row: Counts, rank: Ranks, out: Values) -> None:
    """Add one epoch's accesses to ``out``, int64[tiers]."""
    for p in range(row.size):
        if rank[p] < out.size:
            out[rank[p]] += np.int64(row[p])


@compiled
def keep_above(value: Values, count: int, floor: float) -> int:
    """Compact the first ``count`` values to those above a floor; return how many."""
    k = 0
    for i in range(count):
        x = value[i]
        value[k] = x
        k += 1 if x > floor else 0
    return k


@compiled
def keep_below(value: Values, count: int, ceiling: float) -> int:
    """Compact the first ``count`` values to those below; return how many."""
    k = 0
    for i in range(count):
        x = value[i]
        value[k] = x
        k += 1 if x < ceiling else 0
    return k


def choose_twin(
    value: Values,
    rank: Ranks,
    upper: int,
    lower: int,
    free: int,
    fill_above: float,
    swap_above: float,
    limit: int,
    up: NDArray[np.int64],
    down: NDArray[np.int64],
    out: Values,
) -> None:
    """Twin of `choose`: sorts everything."""
    slow = np.flatnonzero(rank == lower)
    slow = slow[np.argsort(-value[slow], kind="stable")]
    fast = np.flatnonzero(rank == upper)
    fast = fast[np.argsort(value[fast], kind="stable")]
    fill = int(np.count_nonzero(value[slow[:free]] > fill_above))
    fill = min(fill, limit)
    up[:fill] = slow[:fill]
    n = min(len(slow) - fill, len(fast))
    gain = value[slow[fill : fill + n]] - value[fast[:n]]
    n = min(int(np.count_nonzero(gain > swap_above)), (limit - fill) // 2)
    up[fill : fill + n] = slow[fill : fill + n]
    down[:n] = fast[:n]
    out[0], out[1] = fill, n


@kernel(twin=choose_twin)
def choose(
    value: Values,
    rank: Ranks,
    upper: int,
    lower: int,
    free: int,
    fill_above: float,
    swap_above: float,
    limit: int,
    up: NDArray[np.int64],
    down: NDArray[np.int64],
    out: Values,
) -> None:
    """Choose what to move between two tiers, best first, ties by page.

    Sorts only what can be part of a trade: bisects for the value at which trades
    stop, then gathers the pages beyond it.

    Args:
        value: Accesses within the window, int64[pages], 0 to 2^31 - 1.
        rank: Tier of every page, uint8[pages].
        upper: The faster tier.
        lower: The slower one.
        free: Free pages of the faster tier.
        fill_above: A free page is filled by a page worth more than this.
        swap_above: Pages change places when their values differ by more.
        limit: Most moves: a fill is one, a swap two.
        up: Filled: fills, then promotions of swaps, int64[pages].
        down: Filled: demotions of swaps, int64[pages].
        out: Set: fills, swaps, int64[2].
    """
    slow = np.empty(rank.size, np.int64)  # values
    fast = np.empty(rank.size, np.int64)
    nr_slow = 0
    nr_fast = 0
    most = np.int64(-1)
    least = np.int64(MAX_VALUE)
    for p in range(rank.size):
        if rank[p] == lower:
            slow[nr_slow] = value[p]
            nr_slow += 1
            most = max(most, value[p])
        elif rank[p] == upper:
            fast[nr_fast] = value[p]
            nr_fast += 1
            least = min(least, value[p])
    fill = 0
    if free > 0:
        for i in range(nr_slow):
            if slow[i] > fill_above:
                fill += 1
        fill = min(fill, free, limit)
    out[0] = fill
    out[1] = 0
    if fill == 0 and (nr_fast == 0 or most - least <= swap_above):
        return
    # Smallest x with #(slow >= x) - fill <= #(fast < x - swap_above): so many can
    # be paired; what is worth exactly x - 1 may fill the rest of the pairs.
    lo = np.int64(0)
    hi = most + 1
    if fill == 0:  # only pages that could trade at all
        lo = max(lo, np.int64(least + swap_above))
        nr_slow = keep_above(slow, nr_slow, least + swap_above)
        nr_fast = keep_below(fast, nr_fast, most - swap_above)
    while lo < hi:
        x = (lo + hi) // 2
        over = -fill
        for i in range(nr_slow):
            if slow[i] >= x:
                over += 1
        under = 0
        for i in range(nr_fast):
            if x - fast[i] > swap_above:
                under += 1
        if over <= under:
            hi = x
        else:
            lo = x + 1
    nr_up = 0
    nr_down = 0
    for p in range(rank.size):
        if rank[p] == lower:
            if value[p] >= lo - 1:
                slow[nr_up] = ((MAX_VALUE - value[p]) << 32) | p
                nr_up += 1
        elif rank[p] == upper and lo - value[p] > swap_above:
            fast[nr_down] = (value[p] << 32) | p
            nr_down += 1
    keys_up = np.sort(slow[:nr_up])
    keys_down = np.sort(fast[:nr_down])
    for i in range(fill):
        up[i] = keys_up[i] & PAGE_MASK
    n = min(nr_up - fill, nr_down, (limit - fill) // 2)
    swaps = 0
    for i in range(n):
        mine = MAX_VALUE - (keys_up[fill + i] >> 32)
        theirs = keys_down[i] >> 32
        if mine - theirs <= swap_above:
            break
        up[fill + i] = keys_up[fill + i] & PAGE_MASK
        down[i] = keys_down[i] & PAGE_MASK
        swaps += 1
    out[1] = swaps
