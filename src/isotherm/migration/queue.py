"""Moves that wait: one queue a path, best first, taken from the head.

A path is a pair (from, to) of nodes. Within a path order is the plan's. Where
several paths compete, for the room of one node or for the quota, the plan's
order decides between them too.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

Path = tuple[int, int]


class PathQueues:
    """Waiting moves, sorted by path; the columns are never written again.

    Args:
        page: Flat page, uint32[n], in the plan's order.
        node: Where to, uint8[n].
        src: Where from, uint8[n].
    """

    def __init__(
        self,
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        src: NDArray[np.uint8],
    ) -> None:
        key = src.astype(np.uint16) << np.uint16(8)
        key |= node
        if (key[1:] >= key[:-1]).all():
            order = np.arange(len(key), dtype=np.uint32)
        else:
            # A stable sort of 16-bit keys is a radix sort: 4 ms for a million.
            order = np.argsort(key, kind="stable").astype(np.uint32)
            key, page, node, src = key[order], page[order], node[order], src[order]
        self._page, self._node, self._src = page, node, src
        self._order = order
        cut = np.flatnonzero(np.diff(key)) + 1 if len(key) else np.empty(0, np.intp)
        starts = [0, *cut.tolist()] if len(key) else []
        ends = [*cut.tolist(), len(key)] if len(key) else []
        #: ``{(from, to): [head, end)}``
        self._head: dict[Path, int] = {}
        self._end: dict[Path, int] = {}
        for start, end in zip(starts, ends, strict=True):
            path = (int(key[start]) >> 8, int(key[start]) & 255)
            self._head[path] = start
            self._end[path] = end
        self._length = len(page)

    @staticmethod
    def empty() -> "PathQueues":
        """Return queues without moves."""
        return PathQueues(
            np.empty(0, np.uint32), np.empty(0, np.uint8), np.empty(0, np.uint8)
        )

    def __len__(self) -> int:
        return self._length

    @property
    def waiting(self) -> dict[Path, int]:
        """Waiting moves of every path that has some, as ``{(from, to): count}``."""
        return {
            path: self._end[path] - head
            for path, head in self._head.items()
            if head < self._end[path]
        }

    def columns(
        self,
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint8]]:
        """Return what waits, in the plan's order: pages, destination, source."""
        keep = np.zeros(len(self._page), np.bool_)
        for path, head in self._head.items():
            keep[head : self._end[path]] = True
        at = np.flatnonzero(keep)
        at = at[np.argsort(self._order[at])]
        return self._page[at], self._node[at], self._src[at]

    def pick(
        self,
        paths: Iterable[Path],
        limit: int,
        room: Mapping[int, int],
        leaving: Mapping[int, int] | None = None,
    ) -> dict[Path, int]:
        """Return how many moves to take from the head of each path.

        Args:
            paths: The paths that may be taken from.
            limit: Pages in all, >= 0.
            room: Pages that each destination can take; a node that is not
                named takes any number.
            leaving: Pages that may leave each source; None: any number.
        """
        waiting = self.waiting
        count = {p: min(waiting.get(p, 0), room.get(p[1], limit)) for p in paths}
        for node in {p[1] for p in count}:
            into = [p for p in count if p[1] == node]
            self._trim(count, into, room.get(node, limit))
        if leaving is not None:
            for node in {p[0] for p in count}:
                out = [p for p in count if p[0] == node]
                self._trim(count, out, leaving.get(node, 0))
        self._trim(count, list(count), limit)
        return {p: n for p, n in count.items() if n > 0}

    def _trim(self, count: dict[Path, int], paths: list[Path], limit: int) -> None:
        """Lower counts so that together they stay within ``limit``, best first."""
        if sum(count[p] for p in paths) <= limit:
            return
        if limit <= 0:
            count.update(dict.fromkeys(paths, 0))
            return
        if len(paths) == 1:
            count[paths[0]] = limit
            return
        order = {p: self._order[self._head[p] :][: count[p]] for p in paths}
        last = np.partition(np.concatenate(list(order.values())), limit - 1)[limit - 1]
        for path in paths:
            count[path] = int(np.searchsorted(order[path], last, side="right"))

    def take(
        self, path: Path, count: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint8]]:
        """Take ``count`` moves from the head: pages, destination, source (views)."""
        start = self._head[path]
        stop = start + count
        self._head[path] = stop
        self._length -= count
        return self._page[start:stop], self._node[start:stop], self._src[start:stop]


def has_duplicates(page: NDArray[np.uint32], pages: int) -> bool:
    """Return whether a page occurs twice, uint32[n] below ``pages``."""
    if len(page) < pages >> 6:
        ordered = np.sort(page)
        return bool((ordered[1:] == ordered[:-1]).any())
    seen = np.zeros(pages, np.bool_)
    seen[page] = True
    return int(np.count_nonzero(seen)) != len(page)
