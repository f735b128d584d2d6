"""What the load of a tier adds to an access, and to a move.

An access to a busy node does not only wait: it makes all others there wait. And a
page that moves is 64 lines read from one node and 64 written to another. Both are
priced at the margin,

    access  L(rho) + w(rho)              w(rho) = rho dL/drho, what one more line
    move    M + 64 (w(from) + w(to))     a line makes all others wait

so that near saturation a move has to save some 130 accesses, whatever they take, and
far from it what it is billed. L is the curve of waiting in a queue of general service
times that measured latency-bandwidth curves follow,

    L(rho) = L0 (1 + k rho^2 / (1 - rho)),    k = QUEUE_SHARE

The load rho is read off the latency that is measured over the unloaded one; what a
tier can carry follows from it and from the lines that were asked for. So it is known
what the latency would be without our own moves, also while they go on. Where latency
stays as it is, as on a host whose latencies are firmware's, nothing here does
anything.
"""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import CACHE_LINE_BYTES, NS_PER_S, PAGE_BYTES
from isotherm.policy.plan import Epoch
from isotherm.topology.model import Topology

#: k of the curve: 1.125 times the unloaded latency at half load, 3 times at 90 %.
#: Colloid measured up to 5 times on a loaded DRAM tier (SOSP'24, section 2).
QUEUE_SHARE: Final = 0.25
PAGE_LINES: Final = PAGE_BYTES // CACHE_LINE_BYTES
SATURATED: Final = 0.97  # beyond this the latency no longer tells the load
MOST_LOAD: Final = 0.98  # where the curve is cut off
LEAST_LOAD: Final = 0.15  # below this the latency does not tell the load yet
FOLLOW: Final = 0.3  # how fast what a tier can carry follows what an epoch says
LATENCY_GAIN: Final = 0.1  # how fast a latency whose load is not known follows
MOVES_GAIN: Final = 0.5  # how fast the moves that count follow those made
#: Moves may take so much of what is left of a tier, and, where little is left, at
#: least so much of what it carries.
HEADROOM: Final = 0.6
LEAST_SHARE: Final = 0.1
#: Beyond this load moves cannot make it worse, and are what ends it.
FULL: Final = 0.95
ALONE: Final = 0.1  # moves that are less of an epoch's lines cause no saturation
KEPT: Final = 0.99  # of what an epoch has told of whose the load is, per epoch
PRIOR: Final = 0.003  # variance of our lines, over their mean squared, that outweighs

Floats = NDArray[np.float64]


def load_of(factor: Floats) -> Floats:
    """Return the load at which latency is so many times the unloaded one.

    >>> load_of(np.array([1.0, 1.125, 3.025])).round(3).tolist()
    [0.0, 0.5, 0.9]
    """
    extra = np.maximum(0.0, factor - 1.0) / QUEUE_SHARE
    load: Floats = 0.5 * (np.sqrt(extra * extra + 4.0 * extra) - extra)
    return np.minimum(load, MOST_LOAD)


def waiting_of(load: Floats) -> Floats:
    """Return what an access waits for others, over the unloaded latency."""
    load = np.minimum(load, MOST_LOAD)
    waits: Floats = QUEUE_SHARE * load * load / (1.0 - load)
    return waits


def queueing_of(load: Floats) -> Floats:
    """Return what an access makes others wait, over the unloaded latency.

    >>> queueing_of(np.array([0.0, 0.5])).tolist()
    [0.0, 0.375]
    """
    load = np.minimum(load, MOST_LOAD)
    return waiting_of(load) * (2.0 - load) / (1.0 - load)


class Share:
    """How much of a tier's load answers to what we ask of it: the rest is others'.

    Where our own lines fall and the load does not, it is not ours. A regression of
    the load on our lines, drawn to the line through the origin, on which all of it
    is ours, as long as our lines have hardly varied.
    """

    def __init__(self, tiers: int) -> None:
        self._sums = np.zeros((5, tiers))  # 1, x, y, x x, x y
        self.share = np.ones(tiers)

    def see(self, lines: Floats, load: Floats, told: NDArray[np.bool_]) -> None:
        """Take note of an epoch.

        Args:
            lines: Asked of each tier by the managed pages and by their moves.
            load: Of each tier.
            told: Where the latency tells it.
        """
        seen = np.stack([np.ones_like(lines), lines, load, lines**2, lines * load])
        self._sums = np.where(told, KEPT * self._sums + seen, self._sums)
        n, x, y, xx, xy = self._sums
        n = np.maximum(n, 1e-9)
        mean, level = x / n, y / n
        drawn = PRIOR * mean * mean
        spread = np.maximum(xx / n - mean * mean, 0.0) + drawn
        whole = level / np.maximum(mean, 1e-9)
        slope = (xy / n - mean * level + drawn * whole) / np.maximum(spread, 1e-9)
        at_all = lines * slope / np.maximum(load, 1e-9)
        self.share = np.where(told, np.clip(at_all, 0.0, 1.0), self.share)


class TierLoads:
    """The load of every tier, from the fastest.

    Args:
        topology: Tiers, and what an access takes where nothing else goes on.
        tier: Tier rank of every node, uint8[256]; the number of tiers: in none.
        balances: Whether load counts at all; without, latencies are the unloaded
            ones.

    Attributes:
        load: Of what is asked for but by our own moves, float64[tiers].
    """

    def __init__(
        self, topology: Topology, tier: NDArray[np.uint8], *, balances: bool = True
    ) -> None:
        self._tier, self._nodes = tier, [list(t.nodes) for t in topology.tiers]
        tiers = len(self._nodes)
        self._unloaded = _unloaded(topology)
        self._balances = balances
        self._least_ns = np.full(tiers, np.inf)
        self._idle_ns = np.zeros(tiers)  # over the parallelism
        self._level = np.ones(tiers)  # latency over the unloaded one, followed slowly
        self._room = np.full(tiers, np.inf)  # lines that a tier carries a second
        self._moves = np.zeros(tiers)  # lines a second of our own
        self._epoch_s = 1.0
        self._ours = Share(tiers)
        self.load = np.zeros(tiers)

    def follow(self, epoch: Epoch, tier_ns: Floats, rate: Floats) -> None:
        """Take note of an epoch.

        Args:
            epoch: Its latencies, and the moves that were made.
            tier_ns: What an access took in every tier, over the parallelism.
            rate: Accesses a second that each tier is believed to get.
        """
        self._epoch_s = epoch.dt_ns / NS_PER_S
        factor = self._factor(epoch.latency_ns)
        self._idle_ns = tier_ns / factor
        if not self._balances:
            factor = np.ones_like(factor)
        self._level = self._level + LATENCY_GAIN * (factor - self._level)
        own = self._moved_lines(epoch) / self._epoch_s
        self._moves = self._moves + MOVES_GAIN * (own - self._moves)
        self._follow_room(load_of(factor), rate, own)

    def _factor(self, latency_ns: Floats) -> Floats:
        """Return what latencies are over the unloaded ones, in the mean, by tier."""
        by_node = latency_ns.mean(0)
        now_ns = np.array([by_node[nodes].mean() for nodes in self._nodes])
        self._least_ns = np.minimum(self._least_ns, now_ns)
        idle_ns = self._least_ns
        if self._unloaded is not None:
            idle_ns = np.array([self._unloaded[nodes].mean() for nodes in self._nodes])
        factor: Floats = np.maximum(now_ns / idle_ns, 1.0)
        return factor

    def _follow_room(self, load: Floats, rate: Floats, own: Floats) -> None:
        lines = rate + own
        told = (load > LEAST_LOAD) & (lines > 0)
        full = load >= SATURATED
        self._ours.see(lines, load, told & ~full)
        found = lines / np.where(told, load, 1.0)
        before = np.where(np.isinf(self._room), found, self._room)
        followed = before + FOLLOW * (found - before)
        room = np.where(full, np.minimum(before, found), followed)
        self._room = np.where(told, room, self._room)
        without = load * rate / np.where(told, lines, 1.0)
        known = np.where(full, np.maximum(without, rate / self._room), without)
        alone = full & (own < ALONE * lines)
        self.load = np.where(told, np.where(alone, SATURATED, known), 0.0)

    def _moved_lines(self, epoch: Epoch) -> Floats:
        """Return the lines that moves read from and wrote to each tier."""
        lines = np.zeros(len(self._nodes) + 1)
        outcome = epoch.outcome
        went = outcome.errno == 0
        np.add.at(lines, self._tier[outcome.node[went]], 1.0)
        if outcome.src is not None:
            np.add.at(lines, self._tier[outcome.src[went]], 1.0)
        found: Floats = PAGE_LINES * lines[:-1]
        return found

    @property
    def quiet_ns(self) -> Floats:
        """What an access takes where we move nothing."""
        return self._loaded_ns(1.0 + waiting_of(self.load))

    @property
    def marginal_ns(self) -> Floats:
        """What one more access takes, and makes others wait."""
        load = self._with_moves()
        others = self._ours.share * queueing_of(load)
        return self._loaded_ns(1.0 + waiting_of(load) + others)

    def _loaded_ns(self, factor: Floats) -> Floats:
        known = ~np.isinf(self._room)
        loaded_ns: Floats = self._idle_ns * np.where(known, factor, self._level)
        return loaded_ns

    def price(self, epoch: Epoch) -> Epoch:
        """Return the epoch with what moves make others wait among their cost.

        Of a tier that is full nothing: its queue is as long as it gets, and moves are
        what ends it.
        """
        cost_ns = epoch.move_cost_ns
        load = self._with_moves()
        waited = self._ours.share * np.where(self.load < FULL, queueing_of(load), 0.0)
        line_ns = np.append(self._idle_ns * waited, 0.0)
        by_node = PAGE_LINES * line_ns[self._tier[: len(cost_ns)]]
        if not by_node.any():
            return epoch
        return replace(epoch, move_cost_ns=cost_ns + by_node[:, None] + by_node)

    def _with_moves(self) -> Floats:
        load: Floats = self.load + self._moves / self._room
        return load

    def pace(self, most: int) -> int:
        """Return how many pages may move in the next epoch without filling a tier up.

        Args:
            most: What else limits them.
        """
        open_ = ~np.isinf(self._room) & (self.load < FULL)
        if not open_.any():
            return most
        share = np.maximum(HEADROOM * (1.0 - self.load[open_]), LEAST_SHARE)
        pages = share * self._room[open_] * self._epoch_s / PAGE_LINES
        return min(most, max(2, int(pages.min())))


def _unloaded(topology: Topology) -> Floats | None:
    """Return the unloaded latency of nodes, over initiators; None: nobody says."""
    known: dict[int, list[float]] = {}
    for row in topology.performance:
        if row.read_latency_ns is not None:
            known.setdefault(row.node, []).append(row.read_latency_ns.value)
    nodes = [node for tier in topology.tiers for node in tier.nodes]
    if any(len(known.get(n, ())) < len(topology.initiators) for n in nodes):
        return None
    out = np.full(max(nodes) + 1, np.nan)
    for node in nodes:
        out[node] = np.mean(known[node])
    return out
