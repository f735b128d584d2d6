"""What a move costs, learnt per path from what batches cost.

A batch of ``n`` pages, ``h`` of them huge, costs

    cost_ns = fixed + page * (n - h) + huge * h

(one system call and one TLB flush, then unmap, copy and remap per page; the
shape is that of migrate_pages() with batched flushes). The three are fitted per
(from, to) by least squares of the *relative* error, with old observations
forgotten and the configured machine as a prior that a few batches outweigh.
One batch that took far longer than expected is no news.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isotherm.core.units import HUGE_PAGE_BYTES, NS_PER_S, PAGE_BYTES

#: One batch tells its cost to about this part of it.
_NOISE = 0.25
#: Batches cheaper than so many pages count as if they cost so much: their error
#: is in the fixed part, not in proportion.
_FLOOR_PAGES = 16
#: A batch counts as so many times as dear as expected at most. A thread that was
#: not let run for 20 ms says nothing of moves; costs that have really risen are
#: believed after a few batches.
_DEAREST = 4.0
#: What was observed loses 1 - 1/e of its weight in so long, seconds: were moves
#: believed to be too dear, none would be made that shows the contrary.
_MEMORY_S = 300.0
#: Less than this is rounding, not a negative cost.
_ROUNDING_NS = 1e-3


@dataclass(frozen=True, slots=True)
class CostPrior:
    """What is believed before the first move; scalars or [nodes, nodes].

    Attributes:
        page_ns: Per 4 KiB page. The default is the cost model of ``dram-cxl``.
        fixed_ns: Per batch.
        huge_ns: Per 2 MiB page; None: what the 4 KiB figure says for copying
            512 pages at 0.4 of their cost. The share of copying in a full
            batch of small pages is about 35 %, in one of huge pages 97 %
            (batched migrate_pages patches, v6), so this errs on the dear side.
    """

    page_ns: ArrayLike = 2500.0
    fixed_ns: ArrayLike = 0.0
    huge_ns: ArrayLike | None = None


class CostModel:
    """Learns fixed, per-page and per-huge-page cost of every path.

    Args:
        nodes: Number of nodes.
        prior: What is believed at first.
        memory_batches: An observation loses 1 - 1/e of its weight in so many
            later batches on its path.
    """

    def __init__(
        self,
        nodes: int,
        prior: CostPrior | None = None,
        *,
        memory_batches: float = 200.0,
    ) -> None:
        prior = prior or CostPrior()
        shape = (nodes, nodes)
        page = np.broadcast_to(np.asarray(prior.page_ns, np.float64), shape)
        fixed = np.broadcast_to(np.asarray(prior.fixed_ns, np.float64), shape)
        huge = (
            page * (0.4 * HUGE_PAGE_BYTES / PAGE_BYTES)
            if prior.huge_ns is None
            else np.broadcast_to(np.asarray(prior.huge_ns, np.float64), shape)
        )
        if (page <= 0).any() or (huge <= 0).any() or (fixed < 0).any():
            raise ValueError("prior: expected page_ns, huge_ns > 0 and fixed_ns >= 0")
        #: float64[nodes, nodes, 3]: fixed, page, huge.
        self._prior = np.stack([fixed, page, huge], axis=-1)
        self._theta = self._prior.copy()
        self._keep = float(np.exp(-1.0 / memory_batches))
        #: Prior precision: what is believed is known to its own size, the fixed
        #: part to sixteen pages (a call and a flush: tens of microseconds).
        spread = self._prior.copy()
        spread[..., 0] = np.maximum(fixed, _FLOOR_PAGES * page)
        #: Normal equations, float64[nodes, nodes, 3, 3] and [nodes, nodes, 3].
        self._prior_gram = (_NOISE / spread)[..., None] ** 2 * np.eye(3)
        self._gram = np.zeros((*shape, 3, 3))
        #: What was observed beyond the prior's expectation, same weights.
        self._excess = np.zeros((*shape, 3))
        self._stale: set[tuple[int, int]] = set()
        #: Batches seen, int64[nodes, nodes].
        self.batches = np.zeros(shape, np.int64)

    def grow(self, nodes: int) -> None:
        """Make room for more nodes; what is believed of a new path is the last one's.

        Args:
            nodes: Number of nodes now; fewer than before change nothing.
        """
        more = nodes - len(self._prior)
        if more <= 0:
            return
        width = ((0, more), (0, more))
        self._prior = np.pad(self._prior, (*width, (0, 0)), mode="edge")
        gram = np.pad(self._prior_gram, (*width, (0, 0), (0, 0)), mode="edge")
        self._prior_gram = gram
        self._theta, theta = self._prior.copy(), self._theta
        self._theta[:-more, :-more] = theta
        self._gram = np.pad(self._gram, (*width, (0, 0), (0, 0)))
        self._excess = np.pad(self._excess, (*width, (0, 0)))
        self.batches = np.pad(self.batches, width)

    def observe(
        self,
        src: int,
        node: int,
        pages: NDArray[np.integer],
        cost_ns: NDArray[np.float64],
        huge: NDArray[np.integer] | None = None,
    ) -> None:
        """Learn from batches on one path, oldest first.

        Args:
            src: Where from.
            node: Where to.
            pages: Pages moved by each batch, huge ones counted once, [k].
            cost_ns: What each batch cost, float64[k].
            huge: How many were huge, [k]; None: none.
        """
        count = len(pages)
        if count == 0:
            return
        rows = np.ones((count, 3))
        rows[:, 2] = 0 if huge is None else huge
        rows[:, 1] = pages - rows[:, 2]
        prior = self._prior[src, node]
        expected = rows @ prior + _FLOOR_PAGES * prior[1]
        age = np.arange(count - 1, -1, -1, dtype=np.float64)
        weight = self._keep**age / expected**2
        now = rows @ self._fit()[src, node]
        now += _FLOOR_PAGES * self._theta[src, node, 1]
        cost_ns = np.minimum(cost_ns, _DEAREST * np.maximum(now, expected))
        faded = self._keep**count
        weighted = rows * weight[:, None]
        self._gram[src, node] *= faded
        self._gram[src, node] += weighted.T @ rows
        self._excess[src, node] *= faded
        self._excess[src, node] += weighted.T @ (cost_ns - rows @ prior)
        self.batches[src, node] += count
        self._stale.add((src, node))

    def fade(self, passed_ns: float) -> None:
        """Forget a little, as time passes."""
        seen = np.argwhere(self.batches > 0).tolist()
        if seen and passed_ns > 0:
            keep = float(np.exp(-passed_ns / NS_PER_S / _MEMORY_S))
            self._gram *= keep
            self._excess *= keep
            self._stale.update((src, node) for src, node in seen)

    def _fit(self) -> NDArray[np.float64]:
        for path in sorted(self._stale):
            gram = self._prior_gram[path] + self._gram[path]
            target = gram @ self._prior[path] + self._excess[path]
            theta = np.linalg.solve(gram, target)
            free = np.ones(3, np.bool_)
            # What would be negative is zero, and the others fit around it.
            while (theta < -_ROUNDING_NS).any():
                free &= theta > 0
                theta = np.zeros(3)
                theta[free] = np.linalg.solve(gram[np.ix_(free, free)], target[free])
            np.maximum(theta, 0.0, out=theta)
            self._theta[path] = theta
        self._stale.clear()
        return self._theta

    @property
    def fixed_ns(self) -> NDArray[np.float64]:
        """Fixed cost of a batch, float64[nodes, nodes], [from, to]."""
        return self._fit()[..., 0].copy()

    def expected_ns_per_page(self, batch_pages: float) -> NDArray[np.float64]:
        """Return the cost of one 4 KiB page in a batch, float64[nodes, nodes].

        Args:
            batch_pages: Pages in the batch, > 0. The diagonal is 0.
        """
        theta = self._fit()
        cost = theta[..., 0] / batch_pages + theta[..., 1]
        np.fill_diagonal(cost, 0.0)
        return cost

    def expected_ns_per_huge_page(self, batch_pages: float) -> NDArray[np.float64]:
        """Return the cost of one 2 MiB page in a batch of such; see above."""
        theta = self._fit()
        cost = theta[..., 0] / batch_pages + theta[..., 2]
        np.fill_diagonal(cost, 0.0)
        return cost
