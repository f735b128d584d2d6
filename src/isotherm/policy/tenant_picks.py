"""From trades of cells to moves of pages, on nodes where tenants' pages may be."""

from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import BLOCK_PAGES
from isotherm.hotness.protocol import EvidenceView
from isotherm.policy.cells import CELLS, Cells, take
from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.policy.tenant_trades import Deals
from isotherm.policy.tenants import Labels
from isotherm.topology.model import Topology

#: Worth of a page that must not stay below, beyond all that heat can be worth.
MUST: Final = 1e15

Floats = NDArray[np.float64]


class Picks:
    """Picks the pages of trades.

    Args:
        topology: Nodes and tiers.
        tier: Tier rank of every node, uint8[256]; the number of tiers: in none.
        may: Nodes that each tenant's pages may be on, bool[T, 256].
    """

    def __init__(
        self, topology: Topology, tier: NDArray[np.uint8], may: NDArray[np.bool_]
    ) -> None:
        self._topology, self._tier, self._may = topology, tier, may

    def pick(
        self,
        epoch: Epoch,
        cell: Cells,
        label: Labels,
        b: int,
        deals: Deals,
        advantage: Floats,
        cost_ns: float,
    ) -> tuple[Moves, Labels]:
        """Choose pages of the cells that trade; return moves, and who pays each."""
        # Pages are picked where cells are fresh; the rest has its turn later.
        fresh = cast("EvidenceView", epoch.hotness).fresh_blocks
        low = BLOCK_PAGES * fresh[0]
        high = min(len(cell), len(label), BLOCK_PAGES * fresh[1])
        key = label[low:high].astype(np.uint16)
        key *= np.uint16(CELLS)
        key += cell[low:high]
        up, out = deals.up.ravel(), int(deals.out.sum())
        down = (deals.down + deals.out).ravel()
        up_page = np.empty(int(up.sum()), np.uint32)
        down_page = np.empty(int(down.sum()), np.uint32)
        filled = max(0, len(up_page) - len(down_page))
        n_up, n_down = take(
            key,
            epoch.node[low:high],
            self._tier,
            b,
            (epoch.index * 2654435761) % max(1, high - low),
            up.copy(),
            down.copy(),
            up_page,
            down_page,
        )
        flat = advantage.ravel()
        up_page, of = _ordered(up_page[:n_up], key, flat, best_first=True)
        down_page, from_ = _ordered(down_page[:n_down], key, flat, best_first=False)
        n_up, n_down = min(n_up, n_down + filled), min(n_down, n_up + out)
        up_page, of = up_page[:n_up] + np.uint32(low), of[:n_up]
        down_page, from_ = down_page[:n_down] + np.uint32(low), from_[:n_down]
        swapped = max(0, min(n_up - filled, n_down))
        here = np.full(n_up, self._roomiest(epoch, b), np.uint8)
        here[n_up - swapped :] = epoch.node[down_page[:swapped]]
        below = np.full(n_down, self._roomiest(epoch, b + 1), np.uint8)
        must = flat[of] >= MUST / 2
        gain = flat[of] - cost_ns
        sold = flat[from_[:swapped]]
        gain[n_up - swapped :] -= np.where(sold >= MUST / 2, sold - MUST, sold)
        gain[n_up - swapped :] -= cost_ns
        payer = deals.payers(from_)
        moves = Moves.concat(
            Moves(
                down_page,
                self._allowed(epoch, label[down_page], below, b + 1),
                np.zeros(n_down, np.float32),
                np.full(n_down, int(Reason.MAKES_ROOM), np.uint8),
            ),
            Moves(
                up_page,
                self._allowed(epoch, label[up_page], here, b),
                np.where(must, np.nan, gain).astype(np.float32),
                np.where(must, int(Reason.PROMISED), int(Reason.PAYS)).astype(np.uint8),
            ),
        )
        who = np.concatenate([payer, (of // CELLS).astype(np.uint8)])
        fits = self._may[label[moves.page], moves.node]
        return moves.take(np.flatnonzero(fits)), who[fits]

    def _roomiest(self, epoch: Epoch, rank: int) -> int:
        nodes = self._topology.tiers[rank].nodes
        return nodes[int(np.argmax(epoch.usage.free_pages[list(nodes)]))]

    def _allowed(
        self, epoch: Epoch, whose: Labels, node: NDArray[np.uint8], rank: int
    ) -> NDArray[np.uint8]:
        """Return the nodes, others of the tier where a cpuset forbids them."""
        for t in np.unique(whose[~self._may[whose, node]]).tolist():
            nodes = [n for n in self._topology.tiers[rank].nodes if self._may[t, n]]
            if nodes:
                free = epoch.usage.free_pages[nodes]
                bad = (whose == t) & ~self._may[whose, node]
                node[bad] = nodes[int(np.argmax(free))]
        return node


def _ordered(
    page: NDArray[np.uint32], key: Cells, worth: Floats, *, best_first: bool
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return pages by worth, and the tenant's cell of each."""
    of = key[page].astype(np.int64)
    order = np.argsort(-worth[of] if best_first else worth[of], kind="stable")
    return page[order], of[order]
