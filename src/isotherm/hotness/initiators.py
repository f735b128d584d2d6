"""Who accesses a region: sample counts per region and initiator."""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.columns import grown
from isotherm.machine.protocol import SpacesChanged
from isotherm.trace.stream import UNKNOWN_INITIATOR

REGION_PAGES = 64
MAX_INITIATORS = 8
ALL_OF_ONE = 1e3  # samples that a region is taken to have where all are of one
MOST_WEIGHT = 1e6  # single floats add up counts of 1 in a sum of 16 million


class InitiatorShares:
    """Counts samples per region of 64 pages; takes memory once two are seen.

    As long as every sample names the same initiator, or none, there is nothing
    to tell apart and no table is kept.

    Args:
        blocks: Blocks of eight pages.
    """

    def __init__(self, blocks: int) -> None:
        self._regions = -(-blocks * 8 // REGION_PAGES)
        self._weight = 1.0
        self._only: int | None = None
        self._counts: NDArray[np.float32] | None = None
        #: Seconds for which it has been gathered.
        self.age_s = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self._counts is None else self._counts.nbytes

    @property
    def samples(self) -> NDArray[np.float32] | None:
        """Samples by region and initiator, the last column of those unknown.

        float32[regions, MAX_INITIATORS + 1], one that comes now counts 1. Where all
        were of one initiator that is known, every region has ``ALL_OF_ONE`` of it.
        None where there are none, or nobody names initiators.
        """
        if self._counts is None:
            if self._only is None or self._only == UNKNOWN_INITIATOR:
                return None
            row = np.zeros(MAX_INITIATORS + 1, np.float32)
            row[self._column(np.array([self._only]))] = ALL_OF_ONE
            return np.broadcast_to(row, (self._regions, len(row)))
        now: NDArray[np.float32] = self._counts / np.float32(self._weight)
        return now

    @property
    def alone(self) -> int | None:
        """The one initiator that all samples named; None: several, or nobody known."""
        return None if self._only == UNKNOWN_INITIATOR else self._only

    def rows(self, start: int, stop: int, step: int = 1) -> NDArray[np.float32] | None:
        """Return ``samples`` of some regions, a copy; None where there is no table."""
        if self._counts is None:
            return None
        part: NDArray[np.float32] = self._counts[start:stop:step] / np.float32(
            self._weight
        )
        return part

    def clear(self) -> None:
        """Forget it all: threads have moved, and say anew who accesses what."""
        self._weight, self._only, self._counts, self.age_s = 1.0, None, None, 0.0

    def add(self, page: NDArray[np.uint32], initiator: NDArray[np.uint8]) -> None:
        """Count samples."""
        if len(page) == 0:
            return
        if self._counts is None:
            first = int(initiator[0])
            if (initiator == first).all() and self._only in (None, first):
                self._only = first
                return
            self._counts = np.zeros((self._regions, MAX_INITIATORS + 1), np.float32)
            if self._only is not None:
                only = self._column(np.array([self._only]))[0]
                self._counts[:, only] = self._weight
        np.add.at(
            self._counts,
            (page.astype(np.int64) // REGION_PAGES, self._column(initiator)),
            np.float32(self._weight),
        )

    def fade(self, keep: float, passed_s: float = 0.0) -> None:
        """Let what was counted weigh so much less than what is to come.

        New counts get a growing weight instead of all old ones a shrinking one.

        Args:
            keep: In (0, 1].
            passed_s: Seconds that have passed.
        """
        self.age_s += passed_s
        self._weight /= keep
        if self._weight > MOST_WEIGHT:
            if self._counts is not None:
                self._counts /= np.float32(self._weight)
            self._weight = 1.0

    def renew(self, blocks: int, change: SpacesChanged) -> None:
        """Forget who accessed renewed pages; make room for new ones."""
        self._regions = -(-blocks * 8 // REGION_PAGES)
        if self._counts is None:
            return
        self._counts = grown(self._counts, self._regions)
        for start, end in change.renewed.tolist():
            self._counts[start // REGION_PAGES : -(-end // REGION_PAGES)] = 0

    def share(self, start_page: int, end_page: int) -> dict[int, float]:
        """Return shares over pages ``[start, end)``; 255 is unknown."""
        if self._counts is None:
            return {UNKNOWN_INITIATOR if self._only is None else self._only: 1.0}
        last = -(-end_page // REGION_PAGES)
        counts = self._counts[start_page // REGION_PAGES : last].sum(0)
        total = float(counts.sum())
        if total == 0:
            return {UNKNOWN_INITIATOR: 1.0}
        names = [*range(MAX_INITIATORS), UNKNOWN_INITIATOR]
        return {
            n: float(c) / total for n, c in zip(names, counts, strict=True) if c > 0
        }

    def _column(self, initiator: NDArray[np.integer]) -> NDArray[np.int64]:
        column: NDArray[np.int64] = np.minimum(initiator, MAX_INITIATORS).astype(
            np.int64
        )
        return column
