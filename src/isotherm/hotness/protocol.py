"""The seam of the hot-memory abstraction: batches in, a view out."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import HintBatch
from isotherm.machine.protocol import SpacesChanged

if TYPE_CHECKING:
    from isotherm.hotness.stall import StallView  # brings numba


class HotnessView(Protocol):
    """What is known of every page's access rate, at one moment.

    Rates are accesses per page per second. A view is valid until the tracker's
    next update; it computes what it is asked for and holds no copy.
    """

    @property
    def pages(self) -> int:
        """Length of the flat page index."""
        ...

    @property
    def mean_rate(self) -> float:
        """Mean rate over all pages."""
        ...

    def rate(self, page: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Return the posterior mean rate of pages."""
        ...

    def stall_rate(self, page: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Return the rate of pages in accesses that stall like the mean one.

        The rate itself where no source tells what accesses stall.
        """
        ...

    def deviation(self, page: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Return the posterior standard deviation of the rate of pages."""
        ...

    def range_rate(self, start_page: int, end_page: int) -> tuple[float, float]:
        """Return mean rate per page and its deviation over ``[start, end)``."""
        ...

    def region_rate(self) -> NDArray[np.float32]:
        """Return the recent rate of every region, float32[regions]."""
        ...

    def huge_page_rate(self) -> NDArray[np.float32]:
        """Return the mean rate of every run of 512 pages, float32."""
        ...

    def hottest(self, count: int) -> NDArray[np.uint32]:
        """Return the hottest pages, hottest first, ties by page number."""
        ...

    def coldest(self, count: int) -> NDArray[np.uint32]:
        """Return the coldest pages, coldest first, ties by page number."""
        ...

    def histogram(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return octave edges of the rate (k+1) and pages in each bin (k)."""
        ...

    def initiator_share(self, start_page: int, end_page: int) -> dict[int, float]:
        """Return the share of accesses per initiator; 255 is unknown."""
        ...


class HotnessTracker(Protocol):
    """Keeps evidence; a few bytes a page."""

    @property
    def bytes_per_page(self) -> float:
        """State kept for a page, all of it."""
        ...

    def renew(self, change: SpacesChanged) -> None:
        """Put pages that have a new owner or none back to the prior; grow.

        Called before ``update`` where spaces have changed.
        """
        ...

    def forget_accessors(self) -> None:
        """Forget who accesses what, and nothing else: threads have been moved."""
        ...

    def update(
        self, batches: tuple[HintBatch, ...], now_ns: int, access_rate: float | None
    ) -> HotnessView:
        """Fuse one epoch's evidence and return the view at ``now_ns``.

        Args:
            batches: What the sources saw.
            now_ns: End of the epoch.
            access_rate: Accesses per page per second as counted by the PMU
                (counting, not sampling); None where there is none.
        """
        ...


class EvidenceView(HotnessView, Protocol):
    """A view that also shows the evidence columns, for consumers in bulk.

    Attributes stand for whole columns; they must not be written to.
    """

    @property
    def reference(self) -> float:
        """The rate that codes are relative to, accesses per page per second."""
        ...

    @property
    def code(self) -> NDArray[np.uint16]:
        """Filter of every page: ten bits of mean, six of exposure."""
        ...

    @property
    def history(self) -> NDArray[np.uint8]:
        """The last six looks at every page, newest in bit 0."""
        ...

    @property
    def region(self) -> NDArray[np.uint8]:
        """Region rate code of every block of eight pages."""
        ...

    @property
    def ahead(self) -> NDArray[np.int64]:
        """Blocks that sweeps will pass in the next epoch, ranges, int64[n, 2]."""
        ...

    @property
    def sweep_worth_watching(self) -> bool:
        """Whether a sweep is about that may be worth moving out of the way of."""
        ...

    @property
    def futile_share(self) -> float:
        """Share of the accesses in sweeps over everything, left alone, [0, 1]."""
        ...

    @property
    def bits_trust(self) -> float:
        """How far accessed bits show where the accesses go, in [0, 1]."""
        ...

    @property
    def counted_share(self) -> float:
        """Accesses that devices count over those that rates are of; 1: unknown."""
        ...

    @property
    def stall(self) -> "StallView | None":
        """What accesses stall, by block; None where no source tells."""
        ...

    @property
    def initiator_counts(self) -> NDArray[np.float32] | None:
        """Samples by region of 64 pages and initiator, the last column unknown.

        float32[regions, initiators + 1]; None while there is nothing to tell apart.
        """
        ...

    @property
    def initiators_age_s(self) -> float:
        """Seconds for which it has been gathered who accesses what."""
        ...

    @property
    def fresh_blocks(self) -> tuple[int, int]:
        """Blocks worked out anew in the last update, [first, last)."""
        ...
