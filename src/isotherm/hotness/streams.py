"""How many of the accesses a source sees, where sources see unlike ones.

A counter behind the caches counts misses, a sampler of loads counts hits too, a
counter of writes sees no reads. The rate that is kept is one of the accesses that
most sources see; of what such a counter sees a share is learnt, one for all pages:
from pages that both see, by the samples and accessed bits that came over the same
time (docs/adr/0020-whose-accesses.md).
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import BLOCK_PAGES, AccessedBits, HintBatch, Samples
from isotherm.hints.capability import PLAIN, Capability

WRITES = 0.3  #: share of the accesses that are writes, before anything is known
DOUBT = 200.0  # accesses that the first guess weighs as much as
KEEP = 0.99  # of what has been learnt, per update: some 50 s
MOST_STEP = 0.3  # of the logarithm, per update
SHALLOW = 0.5  # deepest bits that are learnt from, in counting times

Floats = NDArray[np.float64]


def is_plain(capability: Capability) -> bool:
    """Return whether a source sees the accesses that rates are of."""
    return _first_share(capability) == 1.0 and (
        capability.post_cache == PLAIN.post_cache
        and capability.sees_prefetch == PLAIN.sees_prefetch
    )


def _first_share(capability: Capability) -> float:
    """Return the share of the accesses that are seen, before any has been."""
    if capability.sees_reads and capability.sees_writes:
        return 1.0
    return 1.0 - WRITES if capability.sees_reads else WRITES


class StreamShare:
    """The share that one source counts of the accesses that rates are of.

    Newton's step on the log-likelihood of what others saw, given the counts:
    samples are Poisson, their mean the counts over share and period; of c counted
    accesses in t none fell into a part u of t with ``(1 - u / share)^c``, which is
    what a clear accessed bit says.

    Args:
        capability: Of the source.
    """

    def __init__(self, capability: Capability) -> None:
        self._is_plain = is_plain(capability)
        self._log = float(np.log(1.0 / _first_share(capability)))  # of 1 / share
        self._known = DOUBT

    @property
    def share(self) -> float:
        """Accesses counted over accesses that there were; above 1 with prefetch."""
        return float(np.exp(-self._log))

    def learn(
        self,
        page: NDArray[np.int64],
        count: Floats,
        t_s: float,
        others: list[HintBatch],
    ) -> None:
        """Compare counts with what others saw of the same pages.

        Args:
            page: Pages that were chosen for what was known before, int64[n],
                ascending.
            count: What was counted of each, float64[n].
            t_s: Over how long.
            others: All batches; those of the same time are used.
        """
        if self._is_plain or not len(page) or t_s <= 0:
            return
        per = float(np.exp(self._log))
        score = news = 0.0
        for batch in others:
            seen = batch.seen
            if isinstance(seen, Samples):
                found = _rows(page, seen.page.astype(np.int64)) >= 0
                expected = per * float(count.sum()) / seen.period
                score += float(np.count_nonzero(found)) - expected
                news += expected
            elif isinstance(seen, AccessedBits) and not seen.opening:
                s, i = self._from_bits(page, count, t_s, seen, per)
                score, news = score + s, news + i
        self._known = DOUBT + KEEP * (self._known - DOUBT) + news
        step = score / self._known
        self._log += min(max(step, -MOST_STEP), MOST_STEP)

    def _from_bits(
        self,
        page: NDArray[np.int64],
        count: Floats,
        t_s: float,
        seen: AccessedBits,
        per: float,
    ) -> tuple[float, float]:
        """Return slope and curvature of the log-likelihood of bits."""
        if seen.writes_only:
            return 0.0, 0.0
        depth = np.repeat(seen.interval_s.astype(np.float64) / t_s * per, BLOCK_PAGES)
        looked = (
            seen.block.astype(np.int64)[:, None] * BLOCK_PAGES + np.arange(BLOCK_PAGES)
        ).ravel()
        bit = np.unpackbits(seen.bits, bitorder="little")
        use = (depth > 0) & (depth <= SHALLOW)
        if seen.observed is not None:
            use &= np.unpackbits(seen.observed, bitorder="little") > 0
        row = _rows(page, looked)
        use &= row >= 0
        c, u, on = count[row[use]], depth[use], bit[use] > 0
        some = c > 0
        c, u, on = c[some], u[some], on[some]
        clear = np.exp(c * np.log1p(-u))
        slope = c * u / (1.0 - u)
        odds = clear / np.maximum(1.0 - clear, 1e-12)
        score = np.where(on, slope * odds, -slope)
        return float(score.sum()), float((slope * slope * odds).sum())


def _rows(page: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where in ``page``, ascending, each wanted page stands; -1: nowhere."""
    at = np.minimum(np.searchsorted(page, wanted), len(page) - 1)
    found: NDArray[np.int64] = np.where(page[at] == wanted, at, -1)
    return found
