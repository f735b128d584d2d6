"""Trades between tiers: settle the price of each boundary, swap what pays.

A decision is made for a cell and carried out on pages of it.
"""

from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import BLOCK_PAGES
from isotherm.hotness.protocol import EvidenceView
from isotherm.policy.balance import Balance
from isotherm.policy.cells import Cells, take
from isotherm.policy.ladder import EXCHANGE, Ladder, Rung, climb
from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.policy.switching import Boundary, Transitions
from isotherm.topology.model import Topology

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Nodes = NDArray[np.uint8]


class Market:
    """The boundaries between tiers, one price each.

    Args:
        topology: Nodes and tiers.
        tier: Tier rank of every node, uint8[256]; the number of tiers: in none.
        epoch_s: Length of an epoch.
    """

    def __init__(
        self, topology: Topology, tier: NDArray[np.uint8], epoch_s: float
    ) -> None:
        self._topology = topology
        self._tier = tier
        self._tiers = len(topology.tiers)
        self._epoch_s = epoch_s
        self._boundaries = [Boundary() for _ in range(self._tiers - 1)]
        self._balances = [Balance() for _ in self._boundaries]

    @property
    def price_ns(self) -> list[float]:
        """Price of an upper slot for an epoch, per boundary, from the fastest."""
        return [boundary.price or 0.0 for boundary in self._boundaries]

    @property
    def advantage_ns(self) -> list[Floats]:
        """Advantage of the upper tier for a page of each cell, per boundary."""
        return [boundary.advantage for boundary in self._boundaries]

    def repace(self, epoch_s: float) -> None:
        """Go on with epochs of another length."""
        for boundary in self._boundaries:
            boundary.repace(epoch_s / self._epoch_s)
        self._epoch_s = epoch_s

    def trade(
        self,
        epoch: Epoch,
        cell: Cells,
        rate: Floats,
        population: NDArray[np.int64],
        transitions: Transitions,
        tier_ns: Floats,
        threshold: float,
        limit: int,
    ) -> tuple[Moves, dict[str, float]]:
        """Settle every boundary's price and return the trades that pay, with notes.

        Args:
            epoch: Placement, usage, costs, which blocks are fresh.
            cell: Cell of every page.
            rate: Of every cell.
            population: Pages per cell and tier, int64[CELLS, tiers].
            transitions: Where pages go next.
            tier_ns: What one more access takes in each tier.
            threshold: Rate of the coldest page that would fit into the first tier.
            limit: Moves at most.
        """
        moved = transitions.count.sum(1) + transitions.count.sum(0)
        busy = (moved > 0.5 * transitions.weight) | (population.sum(1) > 0)
        cells = np.flatnonzero(busy)
        chance = transitions.among(cells)
        lasting = transitions.watch()
        if lasting < 1.0:
            chance *= np.float32(lasting)
        free = self._free(epoch)
        notes: dict[str, float] = {}
        rungs: list[Rung] = []
        for b, boundary in enumerate(self._boundaries):
            cost_ns = self._move_cost(epoch, b)
            saved_ns = float(tier_ns[b + 1] - tier_ns[b]) * self._epoch_s
            balance = self._balances[b]
            balance.follow(saved_ns)
            advantage = boundary.settle(
                saved_ns * rate,
                cost_ns,
                population[:, b],
                population[:, b + 1],
                cells,
                chance,
                saved_ns * threshold,
                int(free[b]),
            )
            notes[f"price_ns_{b}"] = boundary.price or 0.0
            notes[f"cost_ns_{b}"] = cost_ns
            rungs.append(Rung(advantage, cost_ns, rate, balance, saved_ns < 0))
        ladder = Ladder(epoch, cell, self._tier, population, free, self._kept(epoch))

        def pick(node: Nodes, b: int, up: Ints, down: Ints) -> Moves:
            at, rung = replace(epoch, node=node), rungs[b]
            return self._pick(at, cell, b, up, down, rung.advantage, rung.cost_ns)

        return climb(ladder, rungs, limit, pick), notes

    def _kept(self, epoch: Epoch) -> NDArray[np.int64]:
        """Return the pages of each tier that are for exchange alone."""
        kept = np.zeros(self._tiers + 1, np.int64)
        for rank, tier in enumerate(self._topology.tiers[1:-1], 1):
            capacity = int(epoch.usage.capacity_pages[list(tier.nodes)].sum())
            kept[rank] = max(1, int(EXCHANGE * capacity))
        return kept

    def _free(self, epoch: Epoch) -> NDArray[np.int64]:
        free = np.zeros(self._tiers + 1, np.int64)
        room = np.maximum(0, epoch.usage.free_pages)
        np.add.at(free, self._tier[: len(room)], room)
        return free

    def _move_cost(self, epoch: Epoch, b: int) -> float:
        """Return M of a boundary: the mean of its paths, both ways."""
        tiers = self._topology.tiers
        upper, lower = list(tiers[b].nodes), list(tiers[b + 1].nodes)
        up = epoch.move_cost_ns[np.ix_(lower, upper)].mean()
        down = epoch.move_cost_ns[np.ix_(upper, lower)].mean()
        return float(up + down) / 2.0

    def _pick(
        self,
        epoch: Epoch,
        cell: Cells,
        b: int,
        up: NDArray[np.int64],
        down: NDArray[np.int64],
        advantage: Floats,
        cost_ns: float,
    ) -> Moves:
        # Pages are picked where cells are fresh; the rest has its turn later.
        fresh = cast("EvidenceView", epoch.hotness).fresh_blocks
        low = BLOCK_PAGES * fresh[0]
        high = min(len(cell), BLOCK_PAGES * fresh[1])
        up_page = np.empty(int(up.sum()), np.uint32)
        down_page = np.empty(int(down.sum()), np.uint32)
        filled = len(up_page) - len(down_page)
        n_up, n_down = take(
            cell[low:high],
            epoch.node[low:high],
            self._tier,
            b,
            (epoch.index * 2654435761) % max(1, high - low),
            up,
            down,
            up_page,
            down_page,
        )
        up_page, down_page = up_page[:n_up] + low, down_page[:n_down] + low
        worth = advantage[cell[up_page]]
        order = np.argsort(-worth, kind="stable")
        up_page, worth = up_page[order], worth[order]
        loss = advantage[cell[down_page]]
        order = np.argsort(loss, kind="stable")
        # What leaves without another's coming may; else each comes for one that goes.
        leaving = max(0, -filled)
        n_up, n_down = min(n_up, n_down + max(0, filled)), min(n_up + leaving, n_down)
        up_page, worth = up_page[:n_up], worth[:n_up]
        down_page, loss = down_page[order][:n_down], loss[order][:n_down]
        tiers = self._topology.tiers
        lower_node = self._roomiest(epoch, tiers[b + 1].nodes)
        vacated = epoch.node[down_page]
        here = np.full(n_up, self._roomiest(epoch, tiers[b].nodes), np.uint8)
        swapped = min(n_up, n_down)
        here[n_up - swapped :] = vacated[:swapped]
        # The gain of a swap is promised with its promotion; its demotion makes room.
        gain = worth - cost_ns
        gain[n_up - swapped :] -= loss[:swapped] + cost_ns
        return Moves.concat(
            Moves(
                down_page,
                np.full(n_down, lower_node, np.uint8),
                np.zeros(n_down, np.float32),
                np.full(n_down, int(Reason.MAKES_ROOM), np.uint8),
            ),
            Moves(
                up_page,
                here,
                gain.astype(np.float32),
                np.full(n_up, int(Reason.PAYS), np.uint8),
            ),
        )

    def _roomiest(self, epoch: Epoch, nodes: tuple[int, ...]) -> int:
        free = epoch.usage.free_pages[list(nodes)]
        return nodes[int(np.argmax(free))]
