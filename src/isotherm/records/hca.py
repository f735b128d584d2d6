"""Power10's hot-cold affinity tables: eight bytes a page, decoded in bulk.

The nest counts accesses of a stretch of memory and ages the counts. One entry is a
big-endian word; from its upper end:

=====  =====================================================================
bits   field
=====  =====================================================================
16     accesses of this period: exponent 4, mantissa 12: ``m << (2 * e)``
3      age: periods since the count was last written
1      generation
12     accesses of the period before: exponent 4, mantissa 8
7      logarithm of the time
25     the last five sockets that accessed the page, five bits each
=====  =====================================================================

That is the order in which the driver's description names them; its macros were
not to be had. ``big_endian`` and ``upper_first`` turn it round where hardware shows
that it is another: `looks_right` tells from a table.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_WIDTHS: Final = (16, 3, 1, 12, 7, 5, 5, 5, 5, 5)
ENTRY_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class HotCold:
    """Entries of a table, one a page.

    Attributes:
        count: Accesses of this period, float64[n]: up to 2^42.
        previous: Accesses of the period before, float64[n].
        age: Periods without an access, uint8[n], 0 to 7.
        generation: uint8[n].
        timelog: uint8[n].
        socket: The last five sockets, uint8[5, n].
    """

    count: NDArray[np.float64]
    previous: NDArray[np.float64]
    age: NDArray[np.uint8]
    generation: NDArray[np.uint8]
    timelog: NDArray[np.uint8]
    socket: NDArray[np.uint8]

    @property
    def score(self) -> NDArray[np.float64]:
        """How hot each page is: ``previous + count / (age + 1)``, as the kernel's."""
        score: NDArray[np.float64] = self.previous + self.count / (self.age + 1.0)
        return score


def decode_hca(
    data: bytes, *, big_endian: bool = True, upper_first: bool = True
) -> HotCold:
    """Return the entries of a table; bytes behind the last whole one are left.

    Args:
        data: The table, or whole entries of it.
        big_endian: Order of the bytes.
        upper_first: Whether the first field stands in the upper bits.

    >>> entry = (3 << 12 | 5) << 48 | 2 << 45 | 1 << 44 | (1 << 8 | 7) << 32
    >>> table = decode_hca(entry.to_bytes(8, "big"))
    >>> table.count[0], table.age[0], table.previous[0], table.score[0]
    (np.float64(320.0), np.uint8(2), np.float64(28.0), np.float64(134.66666666666669))
    """
    whole = len(data) // ENTRY_BYTES * ENTRY_BYTES
    form = ">u8" if big_endian else "<u8"
    word = np.frombuffer(data[:whole], form).astype(np.uint64)
    parts: list[Words] = []
    below = 64 if upper_first else 0
    for width in _WIDTHS:
        if upper_first:
            below -= width
        parts.append((word >> np.uint64(below)) & np.uint64((1 << width) - 1))
        if not upper_first:
            below += width
    count, age, generation, previous, timelog, *sockets = parts
    return HotCold(
        _float(count, 12),
        _float(previous, 8),
        age.astype(np.uint8),
        generation.astype(np.uint8),
        timelog.astype(np.uint8),
        np.stack(sockets).astype(np.uint8),
    )


def _float(value: Words, mantissa: int) -> NDArray[np.float64]:
    """Return ``m << (2 * e)`` of numbers with ``mantissa`` bits of m below e."""
    low = (value & np.uint64((1 << mantissa) - 1)).astype(np.float64)
    exponent = (value >> np.uint64(mantissa)).astype(np.int64)
    found: NDArray[np.float64] = np.ldexp(low, 2 * exponent)
    return found


def looks_right(table: HotCold, sockets: int) -> bool:
    """Return whether a table can be what it was read as.

    Read in the wrong order, sockets that the machine has not got turn up.

    Args:
        table: Entries of pages of which some were accessed.
        sockets: Sockets of the machine.
    """
    used = (table.count > 0) | (table.previous > 0) | table.socket.any(axis=0)
    if not used.any():
        return True
    return bool((table.socket[:, used] < sockets).mean() > 0.99)
