"""The best fixed placement where nodes queue: hot pages are not all put in one tier.

Where a node is loaded, an access costs more than its latency: it makes all others
wait. The sum over nodes of accesses times loaded latency is convex in how accesses
are shared out, so that the best sharing is found by going towards the placement that
is best at the present marginal costs, as far as that helps, and again (Frank and
Wolfe 1956, as in the assignment of traffic to roads). The pages of a step are taken
evenly from all degrees of heat, so that every sharing can be had.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

STEPS: Final = 24
#: Parts of a step that are tried, the longest first.
LENGTHS: Final = (1.0, 0.5, 0.25, 0.125, 0.06, 0.03, 0.015, 0.007)
#: A step that gains less is the last one; so much less a placement has to cost to be
#: taken for the one that knows of no load.
LEAST_GAIN: Final = 1e-4
DIFFERENCE: Final = 0.01  # of all accesses: for slopes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Nodes = NDArray[np.uint8]


class RunCost(Protocol):
    """What a fixed placement would cost over a run."""

    @property
    def idle_ns(self) -> Floats:
        """Unloaded latency of every node, float64[nodes]."""
        ...

    def accesses(self, node: Nodes) -> Floats:
        """Return accesses by epoch and node, of the epochs that are looked at."""
        ...

    def stall_ns(self, accesses: Floats) -> float:
        """Return the stall of accesses, float64[epochs, nodes]."""
        ...


def best_split(
    starts: Sequence[Nodes],
    heat: Floats,
    room: Ints,
    cost: RunCost,
    nearest: Floats | None,
    loose: NDArray[np.bool_] | None = None,
) -> Nodes:
    """Return the best fixed placement that is found from given ones.

    Args:
        starts: Placements to begin with, the first the best where nothing queues.
        heat: Accesses, or stall, of every page over the run.
        room: Pages that each node holds.
        cost: Of a placement.
        nearest: Unloaded stall of every page on every node, float64[pages, nodes];
            None: accesses of all pages are alike.
        loose: Pages that can be placed, for which the room is; None: all.
    """
    order = np.argsort(-heat, kind="stable")
    if loose is not None:
        order = order[loose[order]]
    best = starts[0]
    least = (1.0 - LEAST_GAIN) * cost.stall_ns(cost.accesses(best))
    for start in starts:
        ns, found = _descend(start, order, room, cost, nearest)
        if ns < least:
            least, best = ns, _within(found, order, room)
    return best


def _descend(
    now: Nodes, order: Ints, room: Ints, cost: RunCost, nearest: Floats | None
) -> tuple[float, Nodes]:
    """Return stall and placement where no step helps any more."""
    best = cost.stall_ns(cost.accesses(now))
    for _ in range(STEPS):
        marginal = _marginal(cost.accesses(now), best, cost)
        if nearest is None:
            target = _fill(order, marginal, room, now)
        else:
            target = _assign(nearest * (marginal / cost.idle_ns), order, room, now)
        found: tuple[float, Nodes] | None = None
        for length in LENGTHS:
            tried = _towards(now, target, length, order, len(room))
            ns = cost.stall_ns(cost.accesses(tried))
            if ns < best * (1.0 - LEAST_GAIN) and (found is None or ns < found[0]):
                found = ns, tried
            elif found is not None:
                break
        if found is None:
            break
        best, now = found
    return best, now


def _marginal(by_node: Floats, stall_ns: float, cost: RunCost) -> Floats:
    """Return what one more access costs on each node, by differences."""
    nodes = by_node.shape[1]
    step = DIFFERENCE * by_node.sum(1)
    out = np.empty(nodes)
    for node in range(nodes):
        more = by_node.copy()
        more[:, node] += step
        out[node] = (cost.stall_ns(more) - stall_ns) / step.sum()
    return out


def _fill(order: Ints, marginal: Floats, room: Ints, now: Nodes) -> Nodes:
    """Return hottest pages on the cheapest node, as far as it has room, and so on."""
    target = now.copy()
    at = 0
    for node in np.argsort(marginal, kind="stable"):
        upto = at + int(max(0, room[node]))
        target[order[at:upto]] = node
        at = min(upto, len(order))
    return target


def _assign(cost_ns: Floats, order: Ints, room: Ints, now: Nodes) -> Nodes:
    """Return pages with most at stake on their cheapest node that has room."""
    target, left = now.copy(), room.astype(np.int64).copy()
    ranked = cost_ns.argsort(1, kind="stable")
    spread = np.ptp(cost_ns[order], axis=1)
    stake = order[np.argsort(-spread, kind="stable")]
    for turn in range(cost_ns.shape[1]):
        refused = np.zeros(len(stake), np.bool_)
        wish = ranked[stake, turn]
        for node in range(cost_ns.shape[1]):
            mine = np.flatnonzero(wish == node)
            fits, over = (
                mine[: max(0, int(left[node]))],
                mine[max(0, int(left[node])) :],
            )
            target[stake[fits]] = node
            left[node] -= len(fits)
            refused[over] = True
        stake = stake[refused]
    return target


def _towards(
    now: Nodes, target: Nodes, length: float, order: Ints, nodes: int
) -> Nodes:
    """Return a placement part of the way to another one, evenly over heat."""
    out = now.copy()
    key = now[order].astype(np.int64) * nodes + target[order]
    for pair in np.unique(key):
        if pair // nodes == pair % nodes:
            continue
        group = order[key == pair]
        turn = np.floor(np.arange(1, len(group) + 1) * length)
        out[group[np.diff(turn, prepend=0.0) > 0]] = pair % nodes
    return out


def _within(placed: Nodes, order: Ints, room: Ints) -> Nodes:
    """Return a placement without the few pages that rounding put in too many."""
    out = placed.copy()
    for node in range(len(room)):
        here = order[out[order] == node]
        over = here[max(0, int(room[node])) :]
        if len(over):
            free = room - np.bincount(out[order], minlength=len(room))
            out[over] = int(np.argmax(free))
    return out
