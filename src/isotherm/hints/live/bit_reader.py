"""The seam between a page's accessed bit and how one host shows it."""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGES_PER_HUGE_PAGE
from isotherm.hints.batch import BLOCK_PAGES

#: Bits are read by the granule: 512 pages, aligned, one page-table page.
GRANULE: Final = PAGES_PER_HUGE_PAGE
#: Bytes of bits in a granule: one a block of eight pages.
GRANULE_BLOCKS: Final = GRANULE // BLOCK_PAGES

Bits = NDArray[np.uint8]
Granules = NDArray[np.int64]


class BitReader(Protocol):
    """Reads and clears accessed bits of processes."""

    @property
    def name(self) -> str:
        """Name of the source, for ``explain`` and metrics."""
        ...

    def open(self) -> None:
        """Take what is needed.

        Raises:
            UnsupportedError: This host has it not.
            NotPermittedError: We may not.
        """
        ...

    def close(self) -> None:
        """Give everything back; may be called again."""
        ...

    def read(self, pid: int, granule: Granules) -> tuple[Bits, NDArray[np.bool_]]:
        """Return the bits of granules, and which could be read.

        A page without memory was not accessed: its bit is 0.

        Args:
            pid: Whose.
            granule: Virtual page numbers // 512, int64[n], ascending.

        Returns:
            uint8[n, 64], bit i of byte j is page ``512 g + 8 j + i``; bool[n]. All
            unread where the process is gone.
        """
        ...

    def clear(
        self, pid: int, granule: Granules, mapped: NDArray[np.int64]
    ) -> Bits | None:
        """Clear the bits of granules.

        Args:
            pid: Whose.
            granule: As for ``read``.
            mapped: The managed pages, int64[m, 2], virtual ``[start, end)``.

        Returns:
            uint8[n, 64] with a 1 for each page whose bit stays set whatever we do:
            it says nothing. None where there is no such page.
        """
        ...

    def clears_all(self, pid: int, pages: int) -> bool:
        """Return whether clearing any granule clears the whole process.

        Args:
            pid: Whose.
            pages: Pages of it that are managed.
        """
        ...
