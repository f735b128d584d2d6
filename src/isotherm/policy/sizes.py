"""The table of page sizes in a plan: which ranges to collapse, which to split."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class SizeReason(IntEnum):
    """Why a range is to change its page size."""

    FEWER_MISSES = 0  #: collapse: fewer TLB misses are worth more than it costs
    SKEWED = 1  #: split: its pages are worth more apart, each in a tier of its own
    ALWAYS = 2  #: a mode that prices nothing


@dataclass(frozen=True, slots=True)
class SizeChanges:
    """Changes of page size wished for, best first, as columns.

    Attributes:
        page: First flat page of a range of 512, a multiple of 512, uint32[n]; no
            range twice.
        huge: True: collapse it into one huge page; False: split it, bool[n].
        gain_ns: What the range saved an epoch if it had the other size, less what
            it would cost it, float32[n]; NaN where nothing is promised.
        reason: A ``SizeReason``, uint8[n].
    """

    page: NDArray[np.uint32]
    huge: NDArray[np.bool_]
    gain_ns: NDArray[np.float32]
    reason: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.page)

    def take(self, row: NDArray[np.integer] | NDArray[np.bool_]) -> "SizeChanges":
        """Return some rows."""
        return SizeChanges(
            self.page[row], self.huge[row], self.gain_ns[row], self.reason[row]
        )

    @staticmethod
    def none() -> "SizeChanges":
        """Return an empty table."""
        return SizeChanges(
            np.empty(0, np.uint32),
            np.empty(0, np.bool_),
            np.empty(0, np.float32),
            np.empty(0, np.uint8),
        )
