"""A run over time in bounded memory: small series and a page-heat matrix.

Epochs are folded into at most ``MAX_BINS`` bins of equal length: when all bins
are full, neighbours are joined two by two and every bin covers twice as many
epochs. So a report of a run of any length holds the same few hundred kilobytes.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_BINS: Final = 512
#: Rows of the heat matrix of a report: about one row per screen pixel and a half.
MAX_ROWS: Final = 256

#: Additive series, one value per bin.
SUMS: Final = (
    "dt_ns",
    "accesses",
    "fast_accesses",
    "latency_ns",  # time that the accesses waited, all together
    "all_fast_ns",  # the same, had all of it been in fast memory; NaN if not told
    "application_ns",
    "background_ns",
    "migration_ns",
    "promoted_pages",
    "demoted_pages",
    "failed_pages",
    "planned_pages",
)


def region_pages_for(pages: int, rows: int = MAX_ROWS) -> int:
    """Return the pages of a region so that ``pages`` make at most ``rows`` regions.

    >>> region_pages_for(32768), region_pages_for(100), region_pages_for(257)
    (128, 1, 2)
    """
    return max(1, -(-pages // rows))


@dataclass(frozen=True, slots=True)
class Timeline:
    """One run over time, folded into bins.

    Attributes:
        pages: Length of the flat page index.
        region_pages: Pages of one row of the matrices; the last may have fewer.
        epochs: Epochs in every bin, int64[bins].
        series: Per bin, float64[bins] each, by the names in ``SUMS``.
        heat: True accesses per page per second, float32[bins, rows].
        fast_share: Share of a row's pages in the fastest tier, float32[bins, rows].
        notes: Figures behind the decisions (the policy's own names), mean per
            bin, float64[bins] each; NaN where the policy gave none.
    """

    pages: int
    region_pages: int
    epochs: NDArray[np.int64]
    series: dict[str, NDArray[np.float64]]
    heat: NDArray[np.float32]
    fast_share: NDArray[np.float32]
    notes: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def end_s(self) -> NDArray[np.float64]:
        """Simulated seconds at the end of every bin."""
        return np.cumsum(self.series["dt_ns"]) / 1e9


class TimelineBuilder:
    """Folds epochs into a ``Timeline``.

    Args:
        pages: Length of the flat page index.
        region_pages: Pages per row that ``add`` is given.
        max_bins: Bins at most; an even number.
    """

    def __init__(self, pages: int, region_pages: int, max_bins: int = MAX_BINS) -> None:
        self._pages = pages
        self._region_pages = region_pages
        self._max_bins = max_bins
        rows = -(-pages // region_pages)
        self._row_pages = np.full(rows, region_pages, np.float64)
        self._row_pages[-1] = pages - region_pages * (rows - 1)
        self._per_bin = 1
        self._bins = 0
        self._epochs = np.zeros(max_bins, np.int64)
        self._sums = np.zeros((len(SUMS), max_bins))
        self._heat = np.zeros((max_bins, rows))
        self._fast = np.zeros((max_bins, rows))
        self._notes: dict[str, NDArray[np.float64]] = {}
        self._note_epochs: dict[str, NDArray[np.int64]] = {}

    def add(
        self,
        sums: dict[str, float],
        heat: NDArray[np.floating],
        fast_share: NDArray[np.floating],
        notes: dict[str, float],
    ) -> None:
        """Add one epoch.

        Args:
            sums: Values by the names in ``SUMS``; a missing one is 0.
            heat: True accesses of every row in this epoch, [rows].
            fast_share: Share of every row's pages in the fastest tier, [rows].
            notes: Figures behind the decision.
        """
        if self._bins and self._epochs[self._bins - 1] < self._per_bin:
            at = self._bins - 1
        else:
            if self._bins == self._max_bins:
                self._fold()
            at = self._bins
            self._bins += 1
        self._epochs[at] += 1
        for row, name in enumerate(SUMS):
            self._sums[row, at] += sums.get(name, 0.0)
        self._heat[at] += heat
        self._fast[at] += fast_share
        for name, value in notes.items():
            if name not in self._notes:
                self._notes[name] = np.zeros(self._max_bins)
                self._note_epochs[name] = np.zeros(self._max_bins, np.int64)
            if np.isfinite(value):
                self._notes[name][at] += value
                self._note_epochs[name][at] += 1

    def _fold(self) -> None:
        """Join neighbouring bins; every bin then covers twice as many epochs."""
        half = self._max_bins // 2
        for column in (
            self._epochs,
            *self._sums,
            *self._notes.values(),
            *self._note_epochs.values(),
        ):
            column[:half] = column[::2] + column[1::2]
            column[half:] = 0
        for matrix in (self._heat, self._fast):
            matrix[:half] = matrix[::2] + matrix[1::2]
            matrix[half:] = 0
        self._bins = half
        self._per_bin *= 2

    def build(self) -> Timeline:
        """Return what was added so far."""
        n = self._bins
        series = {name: self._sums[row, :n].copy() for row, name in enumerate(SUMS)}
        seconds = np.maximum(series["dt_ns"], 1.0)[:, None] / 1e9
        notes = {}
        for name, total in self._notes.items():
            count = self._note_epochs[name][:n]
            mean = np.full(n, np.nan)
            np.divide(total[:n], count, out=mean, where=count > 0)
            notes[name] = mean
        return Timeline(
            pages=self._pages,
            region_pages=self._region_pages,
            epochs=self._epochs[:n].copy(),
            series=series,
            heat=(self._heat[:n] / seconds / self._row_pages).astype(np.float32),
            fast_share=(
                self._fast[:n] / np.maximum(self._epochs[:n], 1)[:, None]
            ).astype(np.float32),
            notes=notes,
        )
