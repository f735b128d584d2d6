"""Trades over the boundaries of an epoch: chains, and tiers that are skipped.

A page that pays at two boundaries goes the whole way in one move, up or down, and
what it pushes out goes on likewise: c from the third tier to the first, v from the
first to the second, u from the second to the third. Two full tiers exchange pages
through a few that the lower one keeps free.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.balance import Balance
from isotherm.policy.cells import CELLS, Cells
from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.policy.switching import trades

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Nodes = NDArray[np.uint8]

#: Of a tier between two others, kept free: through it the one above exchanges.
EXCHANGE: Final = 1 / 256

#: Pages of a boundary by cell, up and down, as moves: (placement, boundary, up, down).
Pick = Callable[[Nodes, int, Ints, Ints], Moves]


@dataclass(frozen=True, slots=True)
class Rung:
    """A boundary as it has settled.

    Attributes:
        advantage: D of every cell.
        cost_ns: M.
        rate: Of every cell.
        balance: How far to go where the upper tier is, or was, the busy one.
        loses: Whether an access takes longer in the upper tier.
    """

    advantage: Floats
    cost_ns: float
    rate: Floats
    balance: Balance
    loses: bool

    def trades(
        self, upper: Ints, lower: Ints, free: int, room: int, limit: int
    ) -> tuple[Ints, Ints]:
        """Return how many pages of each cell go up and down; see `trades`."""
        up, down = trades(
            self.advantage,
            upper,
            lower,
            free,
            self.cost_ns,
            limit,
            room if self.loses else 0,
        )
        if self.balance.step is None:
            return up, down
        return self.balance.within(
            up, down, self.rate, float(self.rate @ (upper + lower))
        )


class Ladder:
    """Placement as the trades made so far will leave it.

    Args:
        epoch: Placement.
        cell: Cell of every page.
        tier: Tier rank of every node, uint8[256].
        population: Pages per cell and tier, int64[CELLS, tiers].
        free: Free pages per tier.
        kept: Of them for exchange alone.
    """

    def __init__(
        self,
        epoch: Epoch,
        cell: Cells,
        tier: NDArray[np.uint8],
        population: Ints,
        free: Ints,
        kept: Ints,
    ) -> None:
        self._cell, self._tier = cell, tier
        self._was = self.node = epoch.node
        self.population, self.free, self.kept = population, free.copy(), kept
        self._parts: list[Moves] = []

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def take(self, part: Moves) -> None:
        """Take moves for made."""
        if not self._parts:
            self.node, self.population = self.node.copy(), self.population.copy()
        before, after = self._tier[self.node[part.page]], self._tier[part.node]
        cell = self._cell[part.page]
        np.subtract.at(self.population, (cell, before), 1)
        np.add.at(self.population, (cell, after), 1)
        np.add.at(self.free, before, 1)
        np.subtract.at(self.free, after, 1)
        self.node[part.page] = part.node
        self._parts.append(part)

    def moves(self) -> Moves:
        """Return one move a page, from where it is to where its chain ends."""
        every = Moves.concat(*self._parts)
        page, first, which = np.unique(
            every.page, return_index=True, return_inverse=True
        )
        gain = np.zeros(len(page))
        np.add.at(gain, which, every.gain_ns.astype(np.float64))
        rank, was = self._tier[self.node[page]], self._tier[self._was[page]]
        up, down = np.flatnonzero(rank < was), np.flatnonzero(rank > was)
        down = down[np.argsort(first[down], kind="stable")]
        up = up[np.argsort(-gain[up], kind="stable")]
        return Moves.concat(
            Moves(
                page[down],
                self.node[page[down]],
                np.zeros(len(down), np.float32),
                np.full(len(down), int(Reason.MAKES_ROOM), np.uint8),
            ),
            Moves(
                page[up],
                self.node[page[up]],
                gain[up].astype(np.float32),
                np.full(len(up), int(Reason.PAYS), np.uint8),
            ),
        )


def climb(ladder: Ladder, rungs: Sequence[Rung], limit: int, pick: Pick) -> Moves:
    """Return the trades of all boundaries as one plan.

    From the slowest boundary up, so that what rises may rise on; then down again,
    so that what was pushed out may go on.

    Args:
        ladder: Where pages are.
        rungs: The boundaries, from the fastest.
        limit: Moves at most.
        pick: Turns counts of cells into moves of pages.
    """
    last = len(rungs) - 1
    for b in [*range(last, -1, -1), *range(1, last + 1)]:
        upper, lower = ladder.population[:, b], ladder.population[:, b + 1]
        free = max(0, int(ladder.free[b] - ladder.kept[b]))
        room = max(0, int(ladder.free[b + 1]))
        up, down = rungs[b].trades(upper, lower, free, room, limit)
        if up.any() or down.any():
            part = pick(ladder.node, b, up, down)
            if last == 0:
                return part
            limit -= len(part)
            ladder.take(part)
    if len(ladder) == 0:
        return Moves.none()
    for b in range(1, last + 1):
        limit -= _make_room(ladder, rungs[b], b, limit, pick)
    return ladder.moves()


def _make_room(ladder: Ladder, rung: Rung, b: int, limit: int, pick: Pick) -> int:
    """Have the least valuable pages leave a tier for what it keeps for exchange."""
    short = int(min(ladder.kept[b] - ladder.free[b], ladder.free[b + 1], limit))
    if short <= 0:
        return 0
    there = ladder.population[:, b]
    order = np.argsort(rung.advantage, kind="stable")
    down = np.zeros(CELLS, np.int64)
    down[order] = np.diff(np.minimum(np.cumsum(there[order]), short), prepend=0)
    ladder.take(pick(ladder.node, b, np.zeros(CELLS, np.int64), down))
    return short
