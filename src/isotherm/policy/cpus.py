"""Where threads would best run, from who accesses what: pure arithmetic.

A thread is worth moving where that saves what moving memory could not: memory that
two sockets' threads share is far from one of them wherever it is. So an assignment of
threads to sockets is judged by what accesses cost once memory has followed them,
moves paid for:

    J(s) = sum over regions r of min over nodes n of
             stay * sum over threads t of a(t, r) L(s(t), n)
             + move * pages of r that are not on n
         + stay * sum over threads of accesses to other memory, where it is

a(t, r) the accesses of thread t to region r in memory that may follow, L loaded
latencies. Threads are moved, or exchanged between sockets, one best step after the
other, while J falls and no socket is asked for more CPUs than it has or had.

What was chosen by one half of the samples is judged by the other: the best of many
assignments looks better than it is on the samples that chose it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.cpu_steps import step_costs

#: An exchange is looked for among so many threads of a socket, those that gain most.
EXCHANGED: Final = 24
#: Steps at most.
MOST_STEPS: Final = 128
#: Standard errors that a gain has to exceed.
SURE: Final = 4.0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads, or processes where nobody tells threads apart, as columns.

    Attributes:
        id: Who, int64[t].
        socket: Initiator that each runs on now, int64[t].
        may: Whether it may run on each initiator, bool[t, initiators].
        demand: CPUs that it uses, float64[t].
        room: CPUs of each initiator that may be used, float64[initiators].
    """

    id: Ints
    socket: Ints
    may: NDArray[np.bool_]
    demand: Floats
    room: Floats

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True, slots=True)
class Accesses:
    """Who accesses what, accesses per second.

    Attributes:
        near: To memory that may follow, in two halves: float64[2, t, regions].
        far: To other memory, by node: float64[t, nodes].
        pages: Pages of each region on each node that may follow, float64[regions, f].
        nodes: Those nodes, int64[f].
        unit: Accesses per second that one sample stands for.
    """

    near: Floats
    far: Floats
    pages: Floats
    nodes: Ints
    unit: float


@dataclass(frozen=True, slots=True)
class Prices:
    """What accesses and moves cost.

    Attributes:
        latency_ns: float64[initiators, nodes].
        move_ns: Of a page from one node to another of its tier.
        thread_ns: Of a thread: what it has in the caches it leaves.
        stay_s: Seconds for which things are taken to stay as they are.
    """

    latency_ns: Floats
    move_ns: float
    thread_ns: float
    stay_s: float


@dataclass(frozen=True, slots=True)
class Placed:
    """An assignment of threads, and what is expected of it.

    Attributes:
        socket: Initiator of each thread, int64[t].
        gain_ns: Saved in ``stay_s``, judged by samples that did not choose it.
        error_ns: Standard error of that.
        cost_ns: What accesses cost in that time as threads are, memory following.
        near_ns: The same if all were near and nothing had to move.
        moved_pages: Pages that memory moves less, if threads move first.
    """

    socket: Ints
    gain_ns: float
    error_ns: float
    cost_ns: float
    near_ns: float
    moved_pages: float

    @property
    def is_sure(self) -> bool:
        """Whether it is a gain beyond chance."""
        return self.gain_ns > SURE * self.error_ns


def place_threads(threads: Threads, accesses: Accesses, prices: Prices) -> Placed:
    """Return the best assignment that steps from the present one lead to."""
    whole = accesses.near.sum(0)
    now = threads.socket
    gains, costs, ends = [], [], []
    for half in range(2):
        # Chosen by one half, judged by the other, each scaled to the whole.
        choosing, judging = 2 * accesses.near[half], 2 * accesses.near[1 - half]
        chosen = _search(threads, choosing, accesses, prices)
        before, _ = _judged(now, choosing, judging, accesses, prices)
        after, _ = _judged(chosen, choosing, judging, accesses, prices)
        moving_ns = prices.thread_ns * np.count_nonzero(chosen != now)
        gains.append(before - after - moving_ns)
        costs.append(before)
        ends.append(chosen)
    best = _search(threads, whole, accesses, prices, ends)
    _, pages_before = _judged(now, whole, whole, accesses, prices)
    _, pages_after = _judged(best, whole, whole, accesses, prices)
    moves = bool((best != now).any())
    return Placed(
        best,
        float(np.mean(gains)) if moves else 0.0,
        _error(now, best, whole, accesses, prices),
        float(np.mean(costs)),
        _near(now, whole, accesses, prices),
        float(pages_before - pages_after),
    )


def _error(
    now: Ints, best: Ints, whole: Floats, accesses: Accesses, prices: Prices
) -> float:
    """Return the standard error of a gain: that of the samples that it is made of."""
    latency_ns = prices.latency_ns
    far = accesses.far * (latency_ns[best] - latency_ns[now]) ** 2
    square = float(far.sum())
    if len(accesses.nodes):
        step = np.zeros_like(whole)
        for socket, sign in ((best, 1.0), (now, -1.0)):
            node = accesses.nodes[_follow(socket, whole, accesses, prices)]
            step += sign * latency_ns[socket][:, node]
        square += float((_of_memory(whole, accesses.pages) * step**2).sum())
    return float(np.sqrt(square * accesses.unit)) * prices.stay_s


def _near(now: Ints, whole: Floats, accesses: Accesses, prices: Prices) -> float:
    """Return what accesses cost if every one were from the nearest socket."""
    cost = float((accesses.far * prices.latency_ns.min(0)).sum())
    if len(accesses.nodes):
        least = prices.latency_ns[now][:, accesses.nodes].min(1)
        cost += float((_of_memory(whole, accesses.pages).sum(1) * least).sum())
    return cost * prices.stay_s


# ---- the search


def _search(
    threads: Threads,
    near: Floats,
    accesses: Accesses,
    prices: Prices,
    begins: Sequence[Ints] = (),
) -> Ints:
    """Return who runs where: the best end of several walks.

    One begins with the present assignment, one with every thread where its memory is:
    where two groups are on each other's sockets, the first step of one that moves
    thread by thread tears them apart, and does not pay. Others begin where walks on
    parts of the samples ended: of programs that the present tears all alike, the first
    steps are chance, and one walk may come to rest with a program still torn.
    """
    sockets = len(threads.room)
    used = np.bincount(threads.socket, threads.demand, sockets).astype(np.float64)
    most = np.maximum(threads.room, used)
    near = _of_memory(near, accesses.pages)
    there = _where_memory_is(threads, near, most, accesses, prices)
    best, least = _walk(threads.socket, threads, near, most, accesses, prices)
    for begin in (there, *begins):
        end, cost = _walk(begin, threads, near, most, accesses, prices)
        if cost < least * (1 - 1e-9):
            best, least = end, cost
    return best


def _where_memory_is(
    threads: Threads, near: Floats, most: Floats, accesses: Accesses, prices: Prices
) -> Ints:
    """Return each thread's socket by where memory is now, who gains most first.

    The present assignment where they do not all fit so.
    """
    may = threads.may.copy()
    may[np.arange(len(threads)), threads.socket] = True
    held = accesses.pages / np.maximum(accesses.pages.sum(1), 1.0)[:, None]
    cost = accesses.far @ prices.latency_ns.T
    cost += (near @ held) @ prices.latency_ns[:, accesses.nodes].T
    cost[~may] = np.inf
    socket, used = threads.socket.copy(), np.zeros(len(most))
    gain = cost[np.arange(len(socket)), socket] - cost.min(1)
    for row in np.argsort(-gain, kind="stable").tolist():
        choices = np.argsort(cost[row], kind="stable").tolist()
        fits = used + threads.demand[row] <= most + 1e-9
        places = [k for k in choices if may[row, k] and fits[k]]
        if not places:
            return threads.socket.copy()
        socket[row] = places[0]
        used[places[0]] += threads.demand[row]
    return socket


def _walk(
    begin: Ints,
    threads: Threads,
    near: Floats,
    most: Floats,
    accesses: Accesses,
    prices: Prices,
) -> tuple[Ints, float]:
    """Take the best step while one pays; return who runs where, and its cost."""
    sockets = len(threads.room)
    socket = begin.copy()
    cost = float(_cost(_by_socket(socket, near, sockets)[None], accesses, prices)[0])
    cost += _far(socket, accesses, prices)
    cost += prices.thread_ns * np.count_nonzero(socket != threads.socket)
    for _ in range(MOST_STEPS):
        who, to = _candidates(socket, threads, near, most, accesses, prices)
        if len(who) == 0:
            break
        asked = _costs(socket, who, to, near, accesses, prices)
        asked = asked + prices.thread_ns * _stirred(socket, who, to, threads)
        at = int(asked.argmin())
        if asked[at] >= cost * (1 - 1e-9):
            break
        for one, there in zip(who[at].tolist(), to[at].tolist(), strict=True):
            if one >= 0:
                socket[one] = there
        cost = float(asked[at])
    return socket, cost


def _candidates(
    socket: Ints,
    threads: Threads,
    near: Floats,
    most: Floats,
    accesses: Accesses,
    prices: Prices,
) -> tuple[Ints, Ints]:
    """Return steps: threads, int64[k, 2] (-1: none), and where to, int64[k, 2]."""
    sockets = len(threads.room)
    used = np.bincount(socket, threads.demand, sockets).astype(np.float64)
    row, there = np.nonzero(threads.may & (socket[:, None] != np.arange(sockets)))
    who = np.stack([row, np.full(len(row), -1)], axis=1)
    to = np.stack([there, there], axis=1)
    free = used[there] + threads.demand[row] <= most[there] + 1e-9
    parts = [(who[free], to[free])]
    full = np.flatnonzero(~free)
    if len(full):
        alone = _costs(socket, who[full], to[full], near, accesses, prices)
        parts.append(
            _exchanges(socket, threads, used, most, row[full], there[full], alone)
        )
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _exchanges(
    socket: Ints,
    threads: Threads,
    used: Floats,
    most: Floats,
    row: Ints,
    there: Ints,
    alone: Floats,
) -> tuple[Ints, Ints]:
    """Return exchanges between sockets of threads that gain most by themselves."""
    sockets = len(threads.room)
    who, to = [np.empty((0, 2), np.int64)], [np.empty((0, 2), np.int64)]
    order = np.argsort(alone, kind="stable")
    row, there = row[order], there[order]
    for a in range(sockets):
        for b in range(a + 1, sockets):
            out = row[(socket[row] == a) & (there == b)][:EXCHANGED]
            back = row[(socket[row] == b) & (there == a)][:EXCHANGED]
            one, other = (grid.ravel() for grid in np.meshgrid(out, back))
            more = threads.demand[other] - threads.demand[one]
            fits = (used[a] + more <= most[a] + 1e-9) & (
                used[b] - more <= most[b] + 1e-9
            )
            pair = np.stack([one, other], axis=1)[fits]
            who.append(pair)
            to.append(np.tile(np.array([b, a]), (len(pair), 1)))
    return np.concatenate(who), np.concatenate(to)


def _stirred(socket: Ints, who: Ints, to: Ints, threads: Threads) -> Ints:
    """Return the threads that are not where they were, after each step, int64[k]."""
    count = np.full(len(who), np.count_nonzero(socket != threads.socket))
    for side in range(2):
        one = who[:, side]
        real = one >= 0
        before = socket[one] != threads.socket[one]
        after = to[:, side] != threads.socket[one]
        count += np.where(real, after.astype(np.int64) - before, 0)
    return count


# ---- what an assignment costs


def _of_memory(near: Floats, pages: Floats) -> Floats:
    """Return accesses without those to regions that have no page that may follow."""
    kept: Floats = near * (pages.sum(1) > 0)[None, :]
    return kept


def _by_socket(socket: Ints, near: Floats, sockets: int) -> Floats:
    """Return accesses to regions by initiator, float64[initiators, regions]."""
    return np.stack([near[socket == k].sum(0) for k in range(sockets)])


def _costs(
    socket: Ints,
    who: Ints,
    to: Ints,
    near: Floats,
    accesses: Accesses,
    prices: Prices,
) -> Floats:
    """Return J after each step, threads' own moves apart, float64[k]."""
    latency_ns = prices.latency_ns
    cost = np.zeros(len(who))
    if len(accesses.nodes):
        by = _by_socket(socket, near, len(latency_ns))[None]
        by_node = _by_node(by, accesses, prices)[0]
        near_ns = np.ascontiguousarray(latency_ns[:, accesses.nodes] * prices.stay_s)
        step_costs(who, to, socket, near, by_node, near_ns, cost)
        cost += by_node.min(1).sum()
    for side in range(2):
        real = who[:, side] >= 0
        thread = who[real, side]
        step_ns = latency_ns[to[real, side]] - latency_ns[socket[thread]]
        cost[real] += (accesses.far[thread] * step_ns).sum(1) * prices.stay_s
    return cost + _far(socket, accesses, prices)


def _cost(by: Floats, accesses: Accesses, prices: Prices) -> Floats:
    """Return what accesses to memory that follows cost, float64[k].

    Args:
        by: Accesses by initiator and region, float64[k, initiators, regions].
        accesses: Where the regions' pages are.
        prices: Latencies, and the cost of a move.
    """
    if not len(accesses.nodes):
        return np.zeros(len(by))
    cost = _by_node(by, accesses, prices)
    found: Floats = cost.min(2).sum(1)
    return found


def _follow(socket: Ints, near: Floats, accesses: Accesses, prices: Prices) -> Ints:
    """Return where memory of each region goes, as a column of its nodes."""
    near = _of_memory(near, accesses.pages)
    by = _by_socket(socket, near, len(prices.latency_ns))[None]
    found: Ints = _by_node(by, accesses, prices)[0].argmin(1)
    return found


def _by_node(by: Floats, accesses: Accesses, prices: Prices) -> Floats:
    """Return the cost of every region on every node, float64[k, regions, f]."""
    near_ns = prices.latency_ns[:, accesses.nodes] * prices.stay_s
    away = accesses.pages.sum(1)[:, None] - accesses.pages
    cost: Floats = np.einsum("ksr,sf->krf", by, near_ns)
    cost += away[None] * prices.move_ns
    return cost


def _far(socket: Ints, accesses: Accesses, prices: Prices) -> float:
    latency_ns = prices.latency_ns[socket]
    return float((accesses.far * latency_ns).sum() * prices.stay_s)


def _judged(
    socket: Ints, choosing: Floats, judging: Floats, accesses: Accesses, prices: Prices
) -> tuple[float, float]:
    """Return J by some samples where others said where memory goes; pages moved."""
    if not len(accesses.nodes):
        return _far(socket, accesses, prices), 0.0
    sockets = len(prices.latency_ns)
    judging = _of_memory(judging, accesses.pages)
    chosen = _follow(socket, choosing, accesses, prices)
    cost = _by_node(_by_socket(socket, judging, sockets)[None], accesses, prices)[0]
    row = np.arange(len(chosen))
    moved = accesses.pages.sum(1) - accesses.pages[row, chosen]
    found = float(cost[row, chosen].sum()) + _far(socket, accesses, prices)
    return found, float(moved[accesses.pages.sum(1) > 0].sum())
