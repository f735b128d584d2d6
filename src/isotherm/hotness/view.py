"""What consumers ask of the tracker: by page, range, region and huge page."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGES_PER_HUGE_PAGE
from isotherm.hotness import arithmetic as ar
from isotherm.hotness import evidence, regions
from isotherm.hotness.initiators import InitiatorShares
from isotherm.hotness.stall import StallView

if TYPE_CHECKING:
    from isotherm.hotness.tracker import GammaTracker

_CHUNK = 1 << 16  # pages decoded at once: bounded memory at any size


class TrackerView:
    """A view of a `GammaTracker`; implements ``HotnessView``."""

    def __init__(self, tracker: "GammaTracker") -> None:
        self._tracker = tracker

    @property
    def pages(self) -> int:
        """Length of the flat page index."""
        return self._tracker.pages

    @property
    def mean_rate(self) -> float:
        """Mean rate over all pages."""
        return self._tracker.mean_rate

    @property
    def reference(self) -> float:
        """The rate that codes are relative to."""
        return self._tracker.reference or 1.0

    @property
    def code(self) -> NDArray[np.uint16]:
        """Filter codes, uint16[pages] (a view: do not write)."""
        return self._tracker.code

    @property
    def history(self) -> NDArray[np.uint8]:
        """Look histories, uint8[pages] (a view: do not write)."""
        return self._tracker.history

    @property
    def region(self) -> NDArray[np.uint8]:
        """Region rate codes per block, uint8[blocks] (a view: do not write)."""
        return self._tracker.region

    @property
    def ahead(self) -> NDArray[np.int64]:
        """Blocks that sweeps will pass in the next epoch, ranges, int64[n, 2]."""
        return self._tracker.ahead

    @property
    def sweep_worth_watching(self) -> bool:
        """Whether a sweep is about that may be worth moving out of the way of."""
        return self._tracker.sweep_worth_watching

    @property
    def futile_share(self) -> float:
        """Share of the accesses in sweeps over everything, left alone, [0, 1]."""
        return self._tracker.futile_share

    @property
    def bits_trust(self) -> float:
        """How far accessed bits show where the accesses go, in [0, 1]."""
        return self._tracker.bits_trust

    @property
    def counted_share(self) -> float:
        """Accesses that devices count over those that rates are of; 1: unknown."""
        return self._tracker.counted_share

    @property
    def stall(self) -> StallView | None:
        """What accesses stall, by block; None where no source tells."""
        return None if self._tracker.stall is None else self._tracker.stall.view

    @property
    def fresh_blocks(self) -> tuple[int, int]:
        """Blocks whose region was worked out in the last update, [first, last)."""
        return self._tracker.fresh_blocks

    def rate(self, page: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Return the posterior mean rate of pages."""
        mean, _ = evidence.unpack_array(self._tracker.code[page])
        return (mean * self.reference).astype(np.float32)

    def stall_rate(self, page: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Return the rate of pages in accesses that stall like the mean one."""
        rate, stall = self.rate(page), self.stall
        if stall is None:
            return rate
        return (rate * stall.relative(page)).astype(np.float32)

    def deviation(self, page: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Return the posterior deviation: sqrt(a) / b of the Gamma."""
        mean, exposure = evidence.unpack_array(self._tracker.code[page])
        return (np.sqrt(mean / exposure) * self.reference).astype(np.float32)

    def range_rate(self, start_page: int, end_page: int) -> tuple[float, float]:
        """Return mean rate per page and its deviation over ``[start, end)``.

        Raises:
            ValueError: The range is empty or leaves the page index.
        """
        if not 0 <= start_page < end_page <= self.pages:
            raise ValueError(
                f"range: expected 0 <= start < end <= {self.pages}, "
                f"got [{start_page}, {end_page})"
            )
        total = variance = 0.0
        for first in range(start_page, end_page, _CHUNK):
            code = self._tracker.code[first : min(end_page, first + _CHUNK)]
            mean, exposure = evidence.unpack_array(code)
            total += float(mean.sum())
            variance += float((mean / exposure).sum())
        count = end_page - start_page
        return total / count * self.reference, variance**0.5 / count * self.reference

    def region_rate(self) -> NDArray[np.float32]:
        """Return the recent rate around every block of eight pages."""
        rate = regions.region_rate_array(self._tracker.region) * self.reference
        return rate.astype(np.float32)

    def huge_page_rate(self) -> NDArray[np.float32]:
        """Return the mean rate of every run of 512 pages."""
        out = np.empty(-(-self.pages // PAGES_PER_HUGE_PAGE), np.float32)
        for i in range(len(out)):
            first = i * PAGES_PER_HUGE_PAGE
            mean, _ = evidence.unpack_array(
                self._tracker.code[first : first + PAGES_PER_HUGE_PAGE]
            )
            out[i] = mean.mean() * self.reference
        return out

    def hottest(self, count: int) -> NDArray[np.uint32]:
        """Return the hottest pages, hottest first, ties by page number."""
        return self._extreme(count, hottest=True)

    def coldest(self, count: int) -> NDArray[np.uint32]:
        """Return the coldest pages, coldest first, ties by page number."""
        return self._extreme(count, hottest=False)

    def histogram(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return octave edges of the rate (k+1) and pages in each bin (k)."""
        counts = np.zeros(1 << 5, np.int64)
        for first in range(0, self.pages, _CHUNK):
            code = self._tracker.code[first : first + _CHUNK]
            octave = code >> (ar.EXPOSURE_BITS + 5)
            counts += np.bincount(octave, minlength=len(counts))
        edges = np.exp2(np.arange(len(counts) + 1) - 12.0) * self.reference
        return edges, counts

    def initiator_share(self, start_page: int, end_page: int) -> dict[int, float]:
        """Return the share of accesses per initiator; 255 is unknown."""
        return self._tracker.initiators.share(start_page, end_page)

    @property
    def initiator_counts(self) -> NDArray[np.float32] | None:
        """Samples by region of 64 pages and initiator; see ``InitiatorShares``."""
        return self._tracker.initiators.samples

    @property
    def initiators_age_s(self) -> float:
        """Seconds for which it has been gathered who accesses what."""
        return self._tracker.initiators.age_s

    @property
    def initiators(self) -> InitiatorShares:
        """Who accesses each region, for consumers in bulk."""
        return self._tracker.initiators

    def _extreme(self, count: int, *, hottest: bool) -> NDArray[np.uint32]:
        """Cut at a histogram of codes first, so that only candidates are sorted."""
        count = min(count, self.pages)
        if count <= 0:
            return np.empty(0, np.uint32)
        mean = self._tracker.code >> ar.EXPOSURE_BITS
        have = np.bincount(mean, minlength=ar.RATE_CODES)
        if hottest:
            inside = np.cumsum(have[::-1])
            cut = ar.RATE_CODES - 1 - int(np.searchsorted(inside, count))
            found = np.flatnonzero(mean >= cut)
            order = np.argsort(-mean[found].astype(np.int32), kind="stable")
        else:
            cut = int(np.searchsorted(np.cumsum(have), count))
            found = np.flatnonzero(mean <= cut)
            order = np.argsort(mean[found], kind="stable")
        return found[order[:count]].astype(np.uint32)
