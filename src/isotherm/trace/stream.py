"""The access stream: what every workload and every trace hands on."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import ConfigError

#: Initiator of an access whose source does not name one.
UNKNOWN_INITIATOR = 255


@dataclass(frozen=True, slots=True)
class AccessStream:
    """Accesses that are made alike: a thread, or one of several workloads.

    Attributes:
        name: For tables.
        parallelism: Misses in flight at a time, >= 1: each stalls for its latency
            over so many. None: as its initiator has it.
        miss_share: Accesses that reach memory, of all that the stream lists, in
            (0, 1]; the others hit the line that one before them has fetched.
        initiator: Who makes them; None: the machine's first initiator.
        workload: Which workload they belong to; None: the one that there is.
        thread: A thread of a program: it may be run on another initiator.
    """

    name: str
    parallelism: float | None = None
    miss_share: float = 1.0
    initiator: int | None = None
    workload: str | None = None
    thread: bool = False


class Background(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Traffic of others on a node, within a window of time.

    Attributes:
        node: Which node.
        read_gb_s: Read from it, gigabytes per second of a machine of reference size.
        write_gb_s: Written to it.
        from_s: Seconds since the start when it begins.
        until_s: When it ends; None: never.
        in_flight: Lines that it has under way at any time, on a machine of reference
            size: traffic that waits for memory, so that there is less of it where
            memory is slow. It comes on top of the other two.
        written_back: Lines written for each of these read.
    """

    node: int
    read_gb_s: float = 0.0
    write_gb_s: float = 0.0
    from_s: float = 0.0
    until_s: float | None = None
    in_flight: float = 0.0
    written_back: float = 0.0

    def check(self, where: str) -> None:
        """Raise ConfigError where a figure is out of range."""
        for name in (
            *("node", "read_gb_s", "write_gb_s", "from_s"),
            *("in_flight", "written_back"),
        ):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{where}.{name}: expected >= 0, got {value}")
        if self.until_s is not None and not self.from_s < self.until_s < math.inf:
            raise ConfigError(
                f"{where}.until_s: expected > {self.from_s:g} (from_s), "
                f"got {self.until_s:g}"
            )


@dataclass(frozen=True, slots=True)
class AccessChunk:
    """Accesses in order, as columns of equal length.

    Attributes:
        page: Dense page index within the stream's footprint, uint32.
        write: 1 for a write, uint8; None if the stream does not say.
        initiator: Initiator index, uint8, 255 unknown; None if nobody says.
        time_ns: Nanoseconds since the stream began, int64, non-decreasing;
            None where only the order is known.
        stream: Which of the workload's ``streams`` each belongs to, uint8; None
            where it has none.
        born: Pages whose memory has been given back, and that are new when the first
            access of the chunk comes, uint32[k]; None where memory stays.
    """

    page: NDArray[np.uint32]
    write: NDArray[np.uint8] | None = None
    initiator: NDArray[np.uint8] | None = None
    time_ns: NDArray[np.int64] | None = None
    stream: NDArray[np.uint8] | None = None
    born: NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.page)

    def slice(self, start: int, stop: int) -> "AccessChunk":
        """Return accesses ``[start, stop)`` as views."""
        return AccessChunk(
            self.page[start:stop],
            None if self.write is None else self.write[start:stop],
            None if self.initiator is None else self.initiator[start:stop],
            None if self.time_ns is None else self.time_ns[start:stop],
            None if self.stream is None else self.stream[start:stop],
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

    One that consists of several has ``streams`` (`AccessStream`, at most 255), and
    its chunks say which; one that shares the machine with others may say what they
    ask of it in ``background`` (`Background`).

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
