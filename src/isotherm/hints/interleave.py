"""Where memory of a CXL device stands in the host: interleave arithmetic.

A region of host memory is dealt out to ``ways`` devices in granules: granule ``k``
of the region belongs to the device at position ``k % ways``, as its granule
``k // ways`` (CXL 3.2, 8.2.4.20.13; for 3, 6 and 12 ways the same, since the
device divides what the host has left of its address by three). So

    host offset = ((d // G) W + position) G + d % G,    d = device offset

A unit that a device counts is whole in device memory. In the host it is whole only
if it fits into a granule; else it lies in pieces, one granule in ``ways``.

Left out: XOR arithmetic, in which the position also depends on higher bits.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGE_BYTES

WAYS: Final = (1, 2, 3, 4, 6, 8, 12, 16)
LEAST_GRANULARITY: Final = 256
MOST_GRANULARITY: Final = 16384

Addresses = NDArray[np.uint64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces of host memory that units stand for, one row a piece.

    Attributes:
        unit: Index into the units that were asked for, int64[n], ascending.
        frame: First page frame, int64[n].
        frames: Frames that the piece touches, at least 1, int64[n].
        part: Share of the unit's memory that the piece is, float64[n].
        share: Share of the frames' memory that the piece is of, float64[n]: below
            1 other units, here or on other devices, hold the rest.
    """

    unit: Counts
    frame: Counts
    frames: Counts
    part: NDArray[np.float64]
    share: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Window:
    """The part of one device in one region: an endpoint decoder.

    Attributes:
        host: First host address of the region, a multiple of the page size.
        size: Bytes of the region, all devices together.
        ways: Devices in the region.
        granularity: Bytes in a row from one device.
        position: Of this device, 0 to ways - 1.
        device: First device address.

    Raises:
        ValueError: Figures that no decoder can have.
    """

    host: int
    size: int
    ways: int = 1
    granularity: int = LEAST_GRANULARITY
    position: int = 0
    device: int = 0

    def __post_init__(self) -> None:
        if self.ways not in WAYS:
            raise ValueError(f"ways: expected one of {WAYS}, got {self.ways}")
        g = self.granularity
        if not LEAST_GRANULARITY <= g <= MOST_GRANULARITY or g & (g - 1):
            raise ValueError(
                f"granularity: expected a power of two from {LEAST_GRANULARITY} to "
                f"{MOST_GRANULARITY}, got {g}"
            )
        if not 0 <= self.position < self.ways:
            raise ValueError(
                f"position: expected 0 to {self.ways - 1}, got {self.position}"
            )
        if self.size <= 0 or self.size % (self.ways * g):
            raise ValueError(
                f"size: expected a multiple of {self.ways} x {g}, got {self.size}"
            )
        if self.host < 0 or self.host % PAGE_BYTES or self.device < 0:
            raise ValueError(
                f"expected a page of the host and a device address, got "
                f"{self.host:#x} and {self.device:#x}"
            )
        if self.device % g:
            raise ValueError(
                f"device: expected a multiple of {g}, got {self.device:#x}"
            )
        if self.host + self.size > 1 << 52 or self.device + self.size > 1 << 52:
            raise ValueError(
                f"expected addresses of at most 52 bits, got {self.size} bytes at "
                f"{self.host:#x} and {self.device:#x}"
            )

    @property
    def device_size(self) -> int:
        """Bytes of this device in the region."""
        return self.size // self.ways

    def to_host(self, address: Addresses) -> Addresses:
        """Return the host addresses of device addresses in the window, uint64[n]."""
        g = np.uint64(self.granularity)
        offset = address - np.uint64(self.device)
        granule = offset // g * np.uint64(self.ways) + np.uint64(self.position)
        found: Addresses = np.uint64(self.host) + granule * g + offset % g
        return found

    def to_device(self, address: Addresses) -> tuple[Addresses, NDArray[np.int64]]:
        """Return device addresses and positions of host addresses in the region.

        The addresses hold for each position's device if its window begins where
        this one does; this device has those where the position is its own.
        """
        g, ways = np.uint64(self.granularity), np.uint64(self.ways)
        offset = address - np.uint64(self.host)
        granule = offset // g
        position = (granule % ways).astype(np.int64)
        return np.uint64(self.device) + granule // ways * g + offset % g, position

    def holds(self, unit: Addresses, shift: int) -> NDArray[np.bool_]:
        """Return whether units of ``2^shift`` bytes lie wholly in the window."""
        first = -(-self.device >> shift)
        end = (self.device + self.device_size) >> shift
        inside: NDArray[np.bool_] = (unit >= first) & (unit < end)
        return inside

    def pieces(self, unit: Addresses, shift: int) -> Pieces:
        """Return where units stand in the host.

        Args:
            unit: Numbers of units that the window holds, uint64[n].
            shift: A unit has ``2^shift`` bytes.

        A piece is a granule of the unit; where its granules touch every page of
        their span, a row is the span.
        """
        size, g = 1 << shift, self.granularity
        row = np.arange(len(unit))
        start = self.to_host(unit << np.uint64(shift)).astype(np.int64)
        one = np.ones(len(unit))
        if size <= g:
            return self._rows(row, start, size, one, size)
        each = size // g
        if self.ways * g > PAGE_BYTES:
            step = np.arange(each) * (self.ways * g)
            start = (start[:, None] + step).ravel()
            row = np.repeat(row, each)
            return self._rows(row, start, g, np.full(len(row), 1 / each), g)
        return self._rows(row, start, (each - 1) * self.ways * g + g, one, size)

    def _rows(
        self, row: Counts, start: Counts, span: int, part: NDArray[np.float64], own: int
    ) -> Pieces:
        """Return rows of ``span`` bytes of which ``own`` are the unit's."""
        first = start // PAGE_BYTES
        frames = (start + span - 1) // PAGE_BYTES - first + 1
        share = own / (frames * PAGE_BYTES)
        return Pieces(row, first, frames, part, share)

    def frames(self) -> tuple[int, int]:
        """Return the region's page frames, [first, end)."""
        return self.host // PAGE_BYTES, -(-(self.host + self.size) // PAGE_BYTES)
