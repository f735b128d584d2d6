"""What the load of a tier adds to an access, and to a move.

An access to a busy node does not only wait: it makes all others there wait. And a
page that moves is 64 lines read from one node and 64 written to another. Both are
priced at the margin,

    access  L(rho) + w(rho)              w(rho) = rho dL/drho, what one more line
    move    M + 64 (w(from) + w(to))     a line makes all others wait

far from saturation what it is billed. Near it moves had better not share a tier with
accesses: a page is moved cheaper in one epoch that is saturated by moves, a burst, if
all that is to move is worth such an epoch. L is the curve of waiting in a queue of
general service times that measured latency-bandwidth curves follow,

    L(rho) = L0 (1 + k rho^2 / (1 - rho)),    k = QUEUE_SHARE

The load rho is read off the latency that is measured over the unloaded one; what a
tier can carry follows from it and from what was asked for. A line that moves may load
a tier more than an access does, of which many hit a cache: how much more is learnt. So
it is known what the latency would be without our own moves, also while they go on.
Where latency
stays as it is, as on a host whose latencies are firmware's, nothing here does
anything.
"""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import CACHE_LINE_BYTES, NS_PER_S, PAGE_BYTES
from isotherm.policy.plan import Epoch, Moves
from isotherm.topology.model import Topology

#: k of the curve: 1.125 times the unloaded latency at half load, 3 times at 90 %.
#: Colloid measured up to 5 times on a loaded DRAM tier (SOSP'24, section 2).
QUEUE_SHARE: Final = 0.25
PAGE_LINES: Final = PAGE_BYTES // CACHE_LINE_BYTES
SATURATED: Final = 0.97  # beyond this the latency no longer tells the load
MOST_LOAD: Final = 0.98  # where the curve is cut off
LEAST_LOAD: Final = 0.15  # below this the latency does not tell the load yet
#: How fast what a tier can carry follows what an epoch of accesses alone says.
FOLLOW: Final = 0.05
LATENCY_GAIN: Final = 0.1  # how fast a latency whose load is not known follows
MOVES_GAIN: Final = 0.5  # how fast the moves that count follow those made
#: Moves may take so much of what is left of a tier: the queue is twice as long then.
HEADROOM: Final = 0.5
#: From this load on moves come in bursts. Beside accesses a page costs these
#: k rho^2 / (1 - rho)^2 / (1 - HEADROOM) of what a tier carries, in a burst what
#: saturation adds: as much at 0.83. A little less, for what waits loses meanwhile.
BURST: Final = 0.8
ALONE: Final = 0.1  # moves of less than that of what a tier carries do not fill it up
#: Moves in a burst have to promise so much of what saturation costs beyond their
#: price: pages chosen for what is believed of them promise too much. Of noise bursts
#: promised 0.02; of 0.25 those that pay begin to be missed.
SURPLUS: Final = 0.1
KEPT: Final = 0.99  # of what an epoch has told of whose the load is, per epoch
PRIOR: Final = 0.003  # variance of our lines, over their mean squared, that outweighs
#: Moves that take so much of what a tier carries say as much of what a moved line
#: counts for as is taken for granted before: that it counts like an access.
DOUBTED: Final = 0.03
FIRST: Final = 1 / 4  # of the pages that would fit so, while it is taken for granted

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


class Weight:
    """What a line that moves loads a tier with, over what an access does.

    Accesses that hit a cache are no lines, so that it may be many times as much; a
    tier may write more slowly than it reads. It is learnt from what moves add to the
    load, by a regression through the origin that is drawn to 1.

    Attributes:
        now: At least 1, float64[tiers].
    """

    def __init__(self, tiers: int) -> None:
        self._sums = np.zeros((2, tiers))  # x x, x y
        self.now = np.ones(tiers)

    def see(self, moved: Floats, added: Floats, told: NDArray[np.bool_]) -> None:
        """Take note of an epoch.

        Args:
            moved: Lines that moved, over the accesses that a tier carries.
            added: Load beyond that of accesses.
            told: Where both are known.
        """
        seen = np.stack([moved * moved, moved * added])
        self._sums = np.where(told, KEPT * self._sums + seen, self._sums)
        xx, xy = self._sums
        drawn = DOUBTED * DOUBTED
        self.now = np.maximum((drawn + xy) / (drawn + xx), 1.0)

    @property
    def known(self) -> Floats:
        """How much of it has been seen, in [0, 1)."""
        xx: Floats = self._sums[0] * self.now**2
        return xx / (xx + DOUBTED * DOUBTED)


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
        self._room = np.full(tiers, np.inf)  # accesses that a tier carries a second
        self._moves = np.zeros(tiers)  # lines a second of our own
        self._epoch_s = 1.0
        self._ours = Share(tiers)
        self._weight = Weight(tiers)
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
        if self._bursts.any():  # as the last plan knew it: these do not go on
            self._moves[:] = 0.0
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
        told = (load > LEAST_LOAD) & (rate + own > 0)
        full = load >= SATURATED
        self._weigh_moves(load, rate, own, told)
        own = self._weight.now * own
        lines = rate + own
        self._ours.see(lines, load, told & ~full)
        found = lines / np.where(told, load, 1.0)
        before = np.where(np.isinf(self._room), found, self._room)
        found = np.where(full, np.minimum(before, found), found)
        gain = FOLLOW * np.where(own > 0, self._weight.known, 1.0)
        self._room = np.where(told, before + gain * (found - before), self._room)
        moved = np.where(told, own / self._room, 0.0)
        without = np.maximum(load - moved, 0.0)
        believed = np.minimum(np.maximum(without, rate / self._room), SATURATED)
        known = np.where(full, np.where(moved < ALONE, SATURATED, believed), without)
        self.load = np.where(told, known, 0.0)

    def _weigh_moves(
        self, load: Floats, rate: Floats, own: Floats, told: NDArray[np.bool_]
    ) -> None:
        """Learn what moves add to the load, where what accesses do is known."""
        known = told & ~np.isinf(self._room) & (own > 0)
        room = np.where(known, self._room, 1.0)
        moved, added = own / room, load - rate / room
        full = load >= SATURATED  # at least as much: nothing new where it was expected
        known &= ~full | (self._weight.now * moved < added)
        self._weight.see(moved, added, known)

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

        In a burst that is a share of what a saturated epoch costs, as many pages as
        one carries; of a tier that accesses alone saturate it is nothing.
        """
        cost_ns = epoch.move_cost_ns
        waited = queueing_of(self._with_moves())
        waited = np.where(self._bursts, self.load * self._to_full, waited)
        waited *= self._ours.share * self._weight.now
        line_ns = np.append(self._idle_ns * waited, 0.0)
        by_node = PAGE_LINES * line_ns[self._tier[: len(cost_ns)]]
        if not by_node.any():
            return epoch
        return replace(epoch, move_cost_ns=cost_ns + by_node[:, None] + by_node)

    @property
    def _bursts(self) -> NDArray[np.bool_]:
        """Tiers that moves saturate for an epoch rather than share with accesses."""
        bursts: NDArray[np.bool_] = ~np.isinf(self._room) & (self.load >= BURST)
        return bursts

    @property
    def _to_full(self) -> Floats:
        """What saturation adds to an access, over the unloaded latency."""
        most = float(waiting_of(np.array(MOST_LOAD)))
        added: Floats = np.where(
            self.load < SATURATED, most - waiting_of(self.load), 0.0
        )
        return added

    def worth_it(self, moves: Moves) -> Moves:
        """Return moves that are worth the saturation that they take, or none.

        Their price is a share of it, so that as many as an epoch carries have paid
        for it and owe ``SURPLUS``; fewer have to promise the rest, too. Where a tier
        answers later than the one below they are what ends it.
        """
        bursts = self._bursts
        if not bursts.any() or (np.diff(self.marginal_ns) < 0).any():
            return moves
        room = np.where(bursts, self._room, 1.0) * self._epoch_s
        carried = np.maximum(room / (PAGE_LINES * self._weight.now), 1.0)
        lost_ns = self._ours.share * self._idle_ns * self.load * self._to_full * room
        unpaid_ns = lost_ns * (SURPLUS + np.maximum(0.0, 1.0 - len(moves) / carried))
        enough = moves.gain_ns.sum() >= unpaid_ns[bursts].sum()
        return moves if enough else Moves.none()

    def _with_moves(self) -> Floats:
        load: Floats = self.load + self._weight.now * self._moves / self._room
        return load

    def pace(self, most: int) -> int:
        """Return how many pages may move in the next epoch without filling a tier up.

        Args:
            most: What else limits them.
        """
        open_ = ~np.isinf(self._room)
        if not open_.any() or self._bursts.any():
            return most
        share = HEADROOM * (1.0 - self.load) * np.maximum(self._weight.known, FIRST)
        pages = share * self._room * self._epoch_s / (PAGE_LINES * self._weight.now)
        return min(most, max(2, int(pages[open_].min())))


def _unloaded(topology: Topology) -> Floats | None:
    """Return the unloaded latency of nodes, over initiators; None: nobody says."""
    known: dict[int, list[float]] = {}
    for row in topology.performance:
        if row.read_latency_ns is not None:
            known.setdefault(row.node, []).append(row.read_latency_ns.value)
    nodes = [node for tier in topology.tiers for node in tier.nodes]
    asked = max(1, len(topology.initiators))
    if any(len(known.get(n, ())) < asked for n in nodes):
        return None
    out = np.full(max(nodes) + 1, np.nan)
    for node in nodes:
        out[node] = np.mean(known[node])
    return out
