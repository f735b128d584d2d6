"""What the 512 pages of a range are worth together and apart: one pass over pages."""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.policy.cells import Bytes, Cells

SHIFT = 9
SIZE = 1 << SHIFT

Floats = NDArray[np.float64]

#: Columns of what `weigh` fills.
RATE, MISSES, APART, TRAVELLERS = range(4)


def weigh_twin(
    cell: Cells,
    node: Bytes,
    tier: Bytes,
    rate: Floats,
    misses: Floats,
    value: Floats,
    goes: NDArray[np.bool_],
    out: Floats,
    best: Bytes,
    have: NDArray[np.int32],
) -> None:
    """Twin of `weigh`."""
    n, tiers = out.shape[0], value.shape[1]
    of = cell[: n << SHIFT].reshape(n, SIZE).astype(np.int64)
    at = tier[node[: n << SHIFT]].reshape(n, SIZE)
    for t in range(tiers + 1):
        have[:, t] = (at == t).sum(1)
    for b in range(n):
        mine = value[of[b]]
        together = np.zeros(tiers)
        for row in mine:  # one after the other, as the kernel adds
            together += row
        best[b] = int(np.argmax(together))
        apart = mine.max(1) - mine[:, best[b]]
        far = goes[of[b], best[b]] & (apart > 0)
        total = np.zeros(3)
        for i in range(SIZE):
            total[0] += rate[of[b, i]]
            total[1] += misses[of[b, i]]
            total[2] += apart[i] if far[i] else 0.0
        out[b, RATE], out[b, MISSES], out[b, APART] = total
        out[b, TRAVELLERS] = np.count_nonzero(far)


@kernel(twin=weigh_twin)
def weigh(
    cell: Cells,
    node: Bytes,
    tier: Bytes,
    rate: Floats,
    misses: Floats,
    value: Floats,
    goes: NDArray[np.bool_],
    out: Floats,
    best: Bytes,
    have: NDArray[np.int32],
) -> None:
    """Weigh every whole range: its pages together, and apart.

    Args:
        cell: Cell of every page, uint16[pages].
        node: Placement, uint8[pages].
        tier: Tier rank of every node, uint8[256]; the number of tiers: in none.
        rate: Accesses per second of a page of each cell, float64[CELLS].
        misses: TLB misses per second of one, were it small, float64[CELLS].
        value: What one is worth an epoch in each tier, its slot paid, nanoseconds,
            float64[CELLS, tiers].
        goes: Whether a page of it would be moved out of each tier,
            bool[CELLS, tiers].
        out: Filled, float64[ranges, 4]: rate of the range, misses were it small,
            what its pages would gain in tiers of their own, and how many would go.
        best: Filled: the tier that is best for the whole of it, uint8[ranges].
        have: Filled: its pages in each tier, and in none, int32[ranges, tiers + 1].
    """
    tiers = value.shape[1]
    together = np.empty(tiers, np.float64)
    for b in range(out.shape[0]):
        together[:] = 0.0
        have[b, :] = 0
        total = 0.0
        missed = 0.0
        for p in range(b << SHIFT, (b + 1) << SHIFT):
            c = cell[p]
            total += rate[c]
            missed += misses[c]
            have[b, tier[node[p]]] += 1
            for t in range(tiers):
                together[t] += value[c, t]
        there = 0
        for t in range(1, tiers):
            if together[t] > together[there]:
                there = t
        apart = 0.0
        far = 0
        for p in range(b << SHIFT, (b + 1) << SHIFT):
            c = cell[p]
            most = value[c, 0]
            for t in range(1, tiers):
                most = max(most, value[c, t])
            gain = most - value[c, there]
            if goes[c, there] and gain > 0.0:
                apart += gain
                far += 1
        out[b, RATE] = total
        out[b, MISSES] = missed
        out[b, APART] = apart
        out[b, TRAVELLERS] = far
        best[b] = there
