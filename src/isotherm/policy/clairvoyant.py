"""Clairvoyant: knows every access to come, and pays for its moves.

At the end of an epoch it looks ``W`` epochs ahead and swaps the most valuable slow
page with the least valuable fast one, then the next pair, as long as the pair's
difference in accesses saves more than the two moves cost. Free fast pages are
filled at the cost of one move. Of a tier between two others a few pages are kept free,
without which two full tiers could not exchange any. ``W`` is the best of a few
windows, found by playing all of them on the counts before the first decision; never
moving is one of them. It is feasible, so a bound that can be reached, but not the
optimum.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import Mechanism
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.bounds import Counts, Future, check_future, pinned_pages
from isotherm.policy.ladder import EXCHANGE
from isotherm.policy.options import read_options
from isotherm.policy.paths import NO_TIER, TierPaths, moves_to
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup
from isotherm.policy.spaces import refuse_renewal
from isotherm.policy.swaps import (
    MAX_VALUE,
    Ranks,
    Values,
    accesses_by_tier,
    choose,
    slide,
)
from isotherm.policy.whose import unnamed_latency
from isotherm.topology.model import Topology, unnamed

WINDOWS = (0, 2, 4, 8, 16, 64, 240)  # epochs; 0 never moves


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


def _within_range(counts: Counts) -> Counts:
    """Return counts whose sum over the longest window a key can hold."""
    most = MAX_VALUE // max(WINDOWS)  # 8.9 million accesses of a page in an epoch
    if counts.size and int(counts.max()) > most:
        return np.minimum(counts, np.uint32(most))
    return counts


def unloaded_latency_ns(
    topology: Topology, otherwise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the read latency of every node to accesses nobody names, float64[nodes].

    Args:
        topology: Who sees what of which node.
        otherwise: Per node; taken whole where the topology lacks any node's.
    """
    known: dict[int, list[float]] = {}
    whose = unnamed(topology)
    for row in topology.performance:
        if row.initiator in whose and row.read_latency_ns is not None:
            known.setdefault(row.node, []).append(row.read_latency_ns.value)
    nodes = [n for tier in topology.tiers for n in tier.nodes]
    latency_ns = otherwise.astype(np.float64)
    if all(n in known for n in nodes):
        for n in nodes:
            latency_ns[n] = sum(known[n]) / len(known[n])
    return latency_ns


class Clairvoyant:
    """Greedy look-ahead with the best window of ``WINDOWS``.

    Args:
        setup: Pages and topology. The option ``parallelism`` (default: the
            machine's) divides latency.
        future: All accesses.
    """

    name = "clairvoyant"
    wants: frozenset[Mechanism] = frozenset()
    uses_tracker = False

    def __init__(self, setup: Setup, future: Future) -> None:
        options = read_options(self.name, setup, {"parallelism": setup.parallelism})
        check_future(self.name, setup, future)
        self._parallelism = max(options["parallelism"], 1.0)
        self._unit: float | None = getattr(future, "unit", None)
        self._pinned = pinned_pages(future)
        self._paths = TierPaths(setup.topology)
        self._counts = _within_range(future.counts)
        self._trader = Trader(setup.pages)
        self._window: Window | None = None
        self._length = 0
        #: Cost of each window, ns, from the first decision on.
        self.cost_ns: dict[int, float] = {}

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the machine's own placement: moves from it are paid for."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Refuse: its state is for one footprint."""
        refuse_renewal(self.name)

    def decide(self, epoch: Epoch) -> Plan:
        """Return the trades that pay within the window, best first."""
        prices = self._prices(epoch)
        rank = self._paths.rank[epoch.node]
        if self._pinned is not None:
            rank[self._pinned] = NO_TIER
        free = np.array(
            [epoch.usage.free_pages[nodes].sum() for nodes in self._paths.tiers]
        )
        kept = self._kept(epoch)
        first = epoch.index + 1
        if not self.cost_ns:
            self._choose_window(first, rank, free - kept, prices)
        if self._length == 0 or first >= len(self._counts):
            return Plan(notes={"window_epochs": self._length})
        if self._window is None or self._window.first > first:
            self._window = Window(self._counts, self._length, first)
        while self._window.first < first:
            self._window.advance()
        room = np.maximum(epoch.usage.free_pages, 0)
        moves = [Moves.none()]
        through: set[int] = set()
        for upper, lower, up, down in self._trader.trades(
            self._window.value, rank, free - kept, prices
        ):
            fills = len(up) - len(down)
            if len(down):
                through.add(lower)
            at = self._paths.spread(fills, self._paths.tiers[upper], room)
            swapped = up[fills:]
            moves += [
                moves_to(down, epoch.node[swapped], Reason.FUTURE),
                moves_to(up[: len(at)], at, Reason.FUTURE),
                moves_to(swapped, epoch.node[down], Reason.FUTURE),
            ]
        for tier in sorted(through):
            moves.insert(0, self._make_room(tier, rank, kept[tier] - free[tier], room))
        return Plan(Moves.concat(*moves), notes={"window_epochs": self._length})

    def _kept(self, epoch: Epoch) -> Values:
        """Return the pages of each tier through which full tiers exchange pages."""
        kept = np.zeros(len(self._paths.tiers), np.int64)
        for rank, nodes in enumerate(self._paths.tiers[1:-1], 1):
            capacity = int(epoch.usage.capacity_pages[nodes].sum())
            kept[rank] = max(1, int(EXCHANGE * capacity))
        return kept

    def _make_room(self, tier: int, rank: Ranks, short: int, room: Values) -> Moves:
        """Have the least valuable pages leave a tier for what it keeps free.

        Args:
            tier: Rank of the tier.
            rank: Tier of every page that is in no move yet.
            short: Pages that it lacks.
            room: Free pages per node; what is given out is taken off.
        """
        if self._window is None or short <= 0 or tier + 1 >= len(self._paths.tiers):
            return Moves.none()
        to = self._paths.spread(int(short), self._paths.tiers[tier + 1], room)
        page = np.flatnonzero(rank == tier)
        cold = page[np.argsort(self._window.value[page], kind="stable")[: len(to)]]
        return moves_to(cold, to[: len(cold)], Reason.FUTURE)

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
        """Return the epoch's costs by tier: means over its nodes, for unnamed accesses.

        Latencies are unloaded where the topology knows them: loaded ones follow
        this policy's own moves and would have it chase them.
        """
        tiers = self._paths.tiers
        otherwise = unnamed_latency(epoch.topology, epoch.latency_ns)
        by_node = unloaded_latency_ns(epoch.topology, otherwise)
        if self._unit is None:
            by_node /= self._parallelism
        else:
            by_node *= self._unit
        latency_ns = np.array([by_node[nodes].mean() for nodes in tiers])
        move_ns = np.array(
            [[epoch.move_cost_ns[np.ix_(a, b)].mean() for b in tiers] for a in tiers]
        )
        return Prices(latency_ns, move_ns, int(epoch.move_limit_pages))
