"""Free pages per node, with what is on its way to and from it."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from isotherm.core.columns import grown
from isotherm.machine.protocol import Usage
from isotherm.migration.queue import Path


class NodeRoom:
    """What each node has, as it was told, and as our own moves change it.

    Args:
        tier_rank: Rank of every node's tier, 0 for the fastest, uint8[nodes].
    """

    def __init__(self, tier_rank: NDArray[np.uint8]) -> None:
        nodes = len(tier_rank)
        self._rank = tier_rank
        #: Pages each node has, and uses as far as is known; int64[nodes].
        self._capacity = np.zeros(nodes, np.int64)
        self._used = np.zeros(nodes, np.int64)
        #: Pages in flight to, and from, each node; int64[nodes].
        self.arriving = np.zeros(nodes, np.int64)
        self.leaving = np.zeros(nodes, np.int64)
        #: Nodes that said ENOMEM since the last usage, bool[nodes].
        self._full = np.zeros(nodes, np.bool_)
        #: True while use has changed by our own moves alone.
        self._own = False

    def retier(self, tier_rank: NDArray[np.uint8]) -> None:
        """Take other ranks, of as many nodes as before or more.

        A new node has no room until somebody has counted.
        """
        nodes = len(tier_rank)
        self._rank = tier_rank
        self._capacity, self._used, self.arriving, self.leaving, self._full = (
            grown(column, nodes)
            for column in (
                self._capacity,
                self._used,
                self.arriving,
                self.leaving,
                self._full,
            )
        )

    def learn(self, usage: Usage) -> None:
        """Take over what somebody has counted; a node that is not told of has none."""
        known = min(len(self._capacity), len(usage.capacity_pages))
        self._capacity[:known] = usage.capacity_pages[:known]
        self._used[:known] = usage.used_pages[:known]
        self._capacity[known:] = self._used[known:] = 0
        self._full[:] = False
        self._own = False

    def free(self, node: int) -> int:
        """Return the free pages of a node that nothing in flight will take."""
        if self._full[node]:
            return 0
        free = self._capacity[node] - self._used[node] - self.arriving[node]
        return max(int(free), 0)

    def into(self, paths: Iterable[Path]) -> dict[int, int]:
        """Return the room of every destination, as ``{node: pages}``."""
        return {node: self.free(node) for node in {p[1] for p in paths}}

    def start(self, path: Path, pages: int) -> None:
        """Note that pages are on their way.

        Raises:
            AssertionError: There is no room for them.
        """
        if pages > self.free(path[1]):
            raise AssertionError(f"node {path[1]}: {pages} pages into less room")
        self.arriving[path[1]] += pages
        self.leaving[path[0]] += pages
        self._own = True

    def end(
        self,
        src: NDArray[np.uint8],
        node: NDArray[np.uint8],
        tried: NDArray[np.int64],
        moved: NDArray[np.int64],
    ) -> None:
        """Note that batches are done.

        Args:
            src: Where from, per batch.
            node: Where to, per batch.
            tried: Pages in the batch.
            moved: Pages of it that moved.
        """
        np.subtract.at(self.arriving, node, tried)
        np.subtract.at(self.leaving, src, tried)
        np.add.at(self._used, node, moved)
        np.subtract.at(self._used, src, moved)

    def close(self, node: NDArray[np.uint8]) -> None:
        """Take nodes for full until their usage is told again."""
        self._full[node] = True

    def shortage(
        self, waiting: dict[Path, int], up: list[Path], down: list[Path]
    ) -> tuple[dict[int, int], int]:
        """Return the pages that must leave each node, and room on its way.

        Fastest tier first: what leaves a node wants room in the next.

        Args:
            waiting: Moves that wait, per path.
            up: The paths of promotions.
            down: The paths of demotions.
        """
        wanted = dict.fromkeys((n for p in (*up, *down) for n in p), 0)
        for path in up:
            wanted[path[1]] += waiting.get(path, 0)
        need: dict[int, int] = {}
        promised = 0
        for node in sorted(wanted, key=lambda n: (int(self._rank[n]), n)):
            short = max(wanted[node] - self.free(node), 0)
            coming = min(short, int(self.leaving[node]))
            promised += coming
            left = need[node] = short - coming
            for path in down:
                if path[0] == node:
                    going = min(left, waiting.get(path, 0))
                    wanted[path[1]] += going
                    left -= going
        return need, promised

    def holds(self, pages_in_flight: int) -> dict[str, bool]:
        """Return the invariants of this table, by name."""
        over = self._used + self.arriving > np.maximum(self._capacity, self._used)
        return {
            "arriving": int(self.arriving.sum()) == pages_in_flight,
            "leaving": int(self.leaving.sum()) == pages_in_flight,
            "nothing negative": bool((self.arriving >= 0).all())
            and bool((self.leaving >= 0).all()),
            # Somebody else may fill a node while our pages are on their way.
            "capacity": not self._own or not over.any(),
        }
