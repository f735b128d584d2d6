"""The access stream: what every workload and every trace hands on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

#: Initiator of an access whose source does not name one.
UNKNOWN_INITIATOR = 255


@dataclass(frozen=True, slots=True)
class AccessChunk:
    """Accesses in order, as columns of equal length.

    Attributes:
        page: Dense page index within the stream's footprint, uint32.
        write: 1 for a write, uint8; None if the stream does not say.
        initiator: Initiator index, uint8, 255 unknown; None if nobody says.
        time_ns: Nanoseconds since the stream began, int64, non-decreasing;
            None where only the order is known.
    """

    page: NDArray[np.uint32]
    write: NDArray[np.uint8] | None = None
    initiator: NDArray[np.uint8] | None = None
    time_ns: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.page)

    def slice(self, start: int, stop: int) -> "AccessChunk":
        """Return accesses ``[start, stop)`` as views."""
        return AccessChunk(
            self.page[start:stop],
            None if self.write is None else self.write[start:stop],
            None if self.initiator is None else self.initiator[start:stop],
            None if self.time_ns is None else self.time_ns[start:stop],
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """How accesses become time (an open loop).

    Attributes:
        epoch_ns: Length of an epoch.
        rate: Accesses per page per second; None: the stream's own times rule.
        accesses: Stop after this many; None: the stream's own end, or 120 s.
    """

    epoch_ns: int = 500_000_000
    rate: float | None = 10.0
    accesses: int | None = None


class Workload(Protocol):
    """A stream of accesses over a footprint, cut into epochs.

    Implementations are seeded: the same arguments give the same accesses, bit
    for bit, on one machine, every time ``epochs`` is called.
    """

    @property
    def name(self) -> str:
        """Name for tables."""
        ...

    @property
    def pages(self) -> int:
        """Footprint: distinct pages; every ``page`` is below it."""
        ...

    def epochs(self, pace: Pace) -> Iterator[AccessChunk]:
        """Yield the accesses of one epoch after the other, in order.

        With a rate, epoch ``e`` holds ``floor(n (e+1)) - floor(n e)`` accesses,
        ``n = rate * pages * epoch seconds``, the last one possibly fewer.
        Arrays may be reused: a chunk is valid until the next is asked for.

        Raises:
            UsageError: No rate was given and the stream has no times.
        """
        ...
