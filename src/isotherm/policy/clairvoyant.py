"""Clairvoyant: knows every access to come, and pays for its moves.

At the end of an epoch it looks ``W`` epochs ahead and swaps the most valuable slow
page with the least valuable fast one, then the next pair, as long as the pair's
difference in accesses saves more than the two moves cost. Free fast pages are
filled at the cost of one move. ``W`` is the best of a few windows, found by
playing all of them on the counts before the first decision; never moving is one
of them. It is feasible, so a bound that can be reached, but not the optimum.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel
from isotherm.hints.batch import Mechanism
from isotherm.policy.bounds import Counts, Future, check_future
from isotherm.policy.options import read_options
from isotherm.policy.paths import NO_TIER, TierPaths, moves_to
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup

WINDOWS = (0, 2, 4, 8, 16, 64, 240)  # epochs; 0 never moves
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


@dataclass(frozen=True, slots=True)
class Prices:
    """What accesses and moves cost, tier by tier, in nanoseconds.

    Attributes:
        latency_ns: Of one access, float64[tiers].
        move_ns: Of one page, float64[tiers, tiers], [from, to].
        limit: Most moves per epoch.
    """

    latency_ns: NDArray[np.float64]
    move_ns: NDArray[np.float64]
    limit: int

    def pairs(self) -> list[tuple[int, int]]:
        """Return (upper, lower) tiers, the widest gap in latency first."""
        tiers = range(len(self.latency_ns))
        gap = {
            (u, v): float(self.latency_ns[v] - self.latency_ns[u])
            for u in tiers
            for v in tiers
            if u < v and self.latency_ns[v] > self.latency_ns[u]
        }
        return sorted(gap, key=lambda pair: (-gap[pair], pair))


class Trader:
    """Chooses the moves of one epoch; keeps the scratch columns.

    Args:
        pages: Length of the flat page index.
    """

    def __init__(self, pages: int) -> None:
        self._up = np.empty(pages, np.int64)
        self._down = np.empty(pages, np.int64)
        self._out = np.zeros(2, np.int64)

    def trades(
        self, value: Values, rank: Ranks, free: Values, prices: Prices
    ) -> Iterator[tuple[int, int, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield upper tier, lower tier, pages up (fills first), pages down.

        ``rank`` is a scratch copy: pages that were chosen are taken out of it, so
        none is chosen twice. The columns are valid until the next is asked for.
        """
        left = prices.limit
        for upper, lower in prices.pairs():
            gap = prices.latency_ns[lower] - prices.latency_ns[upper]
            one = prices.move_ns[lower, upper]
            both = one + prices.move_ns[upper, lower]
            choose(
                value,
                rank,
                upper,
                lower,
                max(0, int(free[upper])),
                float(one / gap),
                float(both / gap),
                left,
                self._up,
                self._down,
                self._out,
            )
            fill, swaps = int(self._out[0]), int(self._out[1])
            if fill + swaps == 0:
                continue
            up, down = self._up[: fill + swaps], self._down[:swaps]
            rank[up] = NO_TIER
            rank[down] = NO_TIER
            left -= fill + 2 * swaps
            yield upper, lower, up, down


class Window:
    """Accesses of the next ``length`` epochs, page by page.

    Args:
        counts: The future, [epochs, pages].
        length: Epochs.
        first: The first epoch within the window.
    """

    def __init__(self, counts: Counts, length: int, first: int) -> None:
        self._counts = counts
        self._length = length
        self.first = first
        self.value: Values = counts[first : first + length].sum(0, dtype=np.int64)
        self._none: Counts = np.zeros_like(counts[0])

    def advance(self) -> None:
        """Move on by one epoch."""
        counts, enter = self._counts, self.first + self._length
        slide(
            self.value,
            counts[enter] if enter < len(counts) else self._none,
            counts[self.first] if self.first < len(counts) else self._none,
        )
        self.first += 1


def play_window(
    counts: Counts, length: int, first: int, rank: Ranks, free: Values, prices: Prices
) -> float:
    """Return what a window costs from an epoch to the end: accesses and moves, ns.

    Args:
        counts: The future, [epochs, pages].
        length: Epochs that it looks ahead.
        first: First epoch that moves can help.
        rank: Tier of every page before that, uint8[pages].
        free: Free pages per tier, int64.
        prices: What things cost.
    """
    rank, free = rank.copy(), free.copy()
    trader = Trader(len(rank))
    accesses = np.zeros(len(free), np.int64)
    moved_ns = 0.0
    window = Window(counts, length, first)
    while window.first < len(counts):
        if length:
            before = rank.copy()
            for upper, lower, up, down in trader.trades(
                window.value, before, free, prices
            ):
                rank[up] = upper
                rank[down] = lower
                moved_ns += len(up) * float(prices.move_ns[lower, upper])
                moved_ns += len(down) * float(prices.move_ns[upper, lower])
                free[upper] -= len(up) - len(down)
                free[lower] += len(up) - len(down)
        accesses_by_tier(counts[window.first], rank, accesses)
        window.advance()
    return float(accesses @ prices.latency_ns) + moved_ns


class Clairvoyant:
    """Greedy look-ahead with the best window of ``WINDOWS``.

    Args:
        setup: Pages and topology. The option ``parallelism`` divides latency, as
            the machine's memory-level parallelism does.
        future: All accesses.
    """

    name = "clairvoyant"
    wants: frozenset[Mechanism] = frozenset()
    uses_tracker = False

    def __init__(self, setup: Setup, future: Future) -> None:
        options = read_options(self.name, setup, {"parallelism": 1.0})
        check_future(self.name, setup, future)
        self._parallelism = max(options["parallelism"], 1.0)
        self._paths = TierPaths(setup.topology)
        self._counts = future.counts
        self._trader = Trader(setup.pages)
        self._window: Window | None = None
        self._length = 0
        #: Cost of each window, ns, from the first decision on.
        self.cost_ns: dict[int, float] = {}

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the machine's own placement: moves from it are paid for."""
        return node

    def decide(self, epoch: Epoch) -> Plan:
        """Return the trades that pay within the window, best first."""
        prices = self._prices(epoch)
        rank = self._paths.rank[epoch.node]
        free = np.array(
            [epoch.usage.free_pages[nodes].sum() for nodes in self._paths.tiers]
        )
        first = epoch.index + 1
        if not self.cost_ns:
            self._choose_window(first, rank, free, prices)
        if self._length == 0 or first >= len(self._counts):
            return Plan(notes={"window_epochs": self._length})
        if self._window is None or self._window.first > first:
            self._window = Window(self._counts, self._length, first)
        while self._window.first < first:
            self._window.advance()
        room = np.maximum(epoch.usage.free_pages, 0)
        moves = [Moves.none()]
        for upper, _, up, down in self._trader.trades(
            self._window.value, rank, free, prices
        ):
            fills = len(up) - len(down)
            at = self._paths.spread(fills, self._paths.tiers[upper], room)
            swapped = up[fills:]
            moves += [
                moves_to(down, epoch.node[swapped], Reason.FUTURE),
                moves_to(up[: len(at)], at, Reason.FUTURE),
                moves_to(swapped, epoch.node[down], Reason.FUTURE),
            ]
        return Plan(Moves.concat(*moves), notes={"window_epochs": self._length})

    def _choose_window(
        self, first: int, rank: Ranks, free: Values, prices: Prices
    ) -> None:
        """Play every window on the counts; keep the cheapest."""
        for length in WINDOWS:
            self.cost_ns[length] = play_window(
                self._counts, length, first, rank, free, prices
            )
        self._length = min(self.cost_ns, key=lambda w: (self.cost_ns[w], w))

    def _prices(self, epoch: Epoch) -> Prices:
        """Return the epoch's costs by tier: means over its nodes and initiators."""
        tiers = self._paths.tiers
        by_node = epoch.latency_ns.mean(0) / self._parallelism
        latency_ns = np.array([by_node[nodes].mean() for nodes in tiers])
        move_ns = np.array(
            [[epoch.move_cost_ns[np.ix_(a, b)].mean() for b in tiers] for a in tiers]
        )
        return Prices(latency_ns, move_ns, int(epoch.move_limit_pages))
