"""What steps of threads between sockets change, of memory that follows them.

Of many steps few are taken, and each changes only what its threads access.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel

#: Steps times regions times nodes that the twin holds at once: they stay in a cache.
_BLOCK: Final = 1 << 15


def step_costs_twin(
    who: NDArray[np.int64],
    to: NDArray[np.int64],
    socket: NDArray[np.int64],
    near: NDArray[np.float64],
    by_node: NDArray[np.float64],
    near_ns: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Numpy twin of `step_costs`."""
    least = by_node.min(1)
    block = max(1, _BLOCK // max(1, by_node.size))
    for at in range(0, len(who), block):
        one, goal = who[at : at + block], to[at : at + block]
        cost = np.repeat(by_node[None], len(one), axis=0)
        for side in range(2):
            real = np.flatnonzero(one[:, side] >= 0)
            thread = one[real, side]
            step_ns = near_ns[goal[real, side]] - near_ns[socket[thread]]
            cost[real] += near[thread][:, :, None] * step_ns[:, None, :]
        # Summed one after another, as the loop does.
        total = np.cumsum(cost.min(2) - least, axis=1)
        out[at : at + block] = total[:, -1] if total.shape[1] else 0.0


@kernel(twin=step_costs_twin)
def step_costs(
    who: NDArray[np.int64],
    to: NDArray[np.int64],
    socket: NDArray[np.int64],
    near: NDArray[np.float64],
    by_node: NDArray[np.float64],
    near_ns: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Say by how much each step changes the cost of accesses, memory following.

    Args:
        who: The one or two threads of each step, int64[k, 2]; second -1: only one.
        to: Sockets that they go to, int64[k, 2].
        socket: Where every thread is before, int64[t].
        near: Accesses per second, float64[t, regions].
        by_node: Cost of each region on each node before, float64[regions, f].
        near_ns: Of an access per second to each node, float64[sockets, f].
        out: float64[k], set.
    """
    regions, nodes = by_node.shape
    for k in range(len(who)):
        one, other = who[k, 0], who[k, 1]
        here, there = socket[one], to[k, 0]
        total = 0.0
        for r in range(regions):
            first = near[one, r]
            second = near[other, r] if other >= 0 else 0.0
            if first == 0.0 and second == 0.0:
                continue
            before = after = np.inf
            for n in range(nodes):
                cost = by_node[r, n]
                before = min(before, cost)
                cost += first * (near_ns[there, n] - near_ns[here, n])
                if other >= 0:
                    cost += second * (near_ns[to[k, 1], n] - near_ns[socket[other], n])
                after = min(after, cost)
            total += after - before
        out[k] = total
