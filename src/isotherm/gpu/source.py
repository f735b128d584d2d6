"""The kernels' own counters as a hint source.

A gather counts what it reads: every access of a page in the host arena, one hit in
``2**hit_shift`` of a page in a slot. That is more than any sampler of a CPU tells,
and no other instrument sees a GPU's reads at all.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.clock import Clock
from isotherm.core.units import NS_PER_S
from isotherm.gpu.backend import Drained
from isotherm.gpu.machine import ASSUMED_HOST_BYTES_S
from isotherm.gpu.mover import Mover
from isotherm.gpu.protocol import Slot
from isotherm.hints.batch import HintBatch, Look, Mechanism, Samples
from isotherm.hints.capability import PLAIN

#: A long epoch is told by samples of it: a tracker takes some 25 ns for each.
MOST_SAMPLES = 1 << 21


class KernelCounters:
    """Drains the counters once an epoch.

    Args:
        mover: The tensor's.
        clock: The tensor's.
        most_pages: Pages with misses that a drain may bring, the hottest; None: all.
        link_bytes_s: What a drain takes of the link, bytes per second.
        most_samples: Accesses that a batch tells of; of more it tells every 2nd,
            4th, and so on.
    """

    mechanism = Mechanism.SAMPLING
    capability = PLAIN

    def __init__(
        self,
        mover: Mover,
        clock: Clock,
        most_pages: int | None = None,
        *,
        link_bytes_s: float = ASSUMED_HOST_BYTES_S,
        most_samples: int = MOST_SAMPLES,
    ) -> None:
        self._mover = mover
        self._clock = clock
        self._most = most_pages
        self._most_samples = most_samples
        self._byte_ns = NS_PER_S / link_bytes_s
        self._since_ns = clock.now_ns()
        self.last: Drained | None = None
        self.hits = self.misses = self.deposits = 0
        self._bad = 0
        self._bad_index: int | None = None

    def look(self, looks: tuple[Look, ...]) -> None:
        """Do nothing: kernels count whatever they read."""

    def fetch(self) -> Drained:
        """Read the counters, set them to zero, add up totals; ``drain`` tells of it."""
        with self._mover.lock:
            pending = self._mover.backend.drain(self._most)
        drained = pending.result()  # moves go on meanwhile
        self.last = drained
        self.hits += drained.hits
        self.misses += drained.misses
        self.deposits += drained.deposits
        self._bad += drained.out_of_range
        if drained.bad_index is not None:
            self._bad_index = drained.bad_index
        return drained

    def take_bad(self) -> tuple[int, int] | None:
        """Return how many indices were outside since the last call, and one of them."""
        count, index = self._bad, self._bad_index
        self._bad, self._bad_index = 0, None
        return (count, -1 if index is None else index) if count else None

    def drain(self) -> tuple[HintBatch, ...]:
        """Return every access that was counted: those fetched last, or fetched now."""
        seen = self.last or self.fetch()
        self.last = None
        now_ns = self._clock.now_ns()
        since_ns, self._since_ns = self._since_ns, now_ns
        if now_ns == since_ns:
            return ()
        protocol = self._mover.protocol
        owner = protocol.owner[seen.hit_slot]
        # A slot that was given away since has had its counter cleared, or will have.
        ours = (owner >= 0) & (protocol.state[seen.hit_slot] >= Slot.LIVE)
        page = np.concatenate([seen.miss_page, owner[ours].astype(np.uint32)])
        hits = seen.hit_count[ours].astype(np.int64) << self._mover.hit_shift
        count = np.concatenate([seen.miss_count.astype(np.int64), hits])
        page, period = _samples(page, count, self._most_samples)
        return (
            HintBatch(
                self.mechanism.value,
                since_ns,
                now_ns,
                Samples(page, None, None, float(period)),
                lost=seen.left_out,
                background_ns=_bytes_of(seen) * self._byte_ns,
            ),
        )


def _samples(
    page: NDArray[np.uint32], count: NDArray[np.int64], most: int
) -> tuple[NDArray[np.uint32], int]:
    """Return the page of every ``period``-th access, in their order, and the period.

    Args:
        page: uint32[n].
        count: Accesses of each.
        most: Samples; the period is the lowest power of two that keeps to it.
    """
    upto = np.cumsum(count)
    total = int(upto[-1]) if len(upto) else 0
    period = 1
    while total > most * period:
        period *= 2
    told = upto // period
    return np.repeat(page, np.diff(told, prepend=0)), period


def _bytes_of(seen: Drained) -> int:
    """Return the bytes that a drain brought over the link."""
    columns = (seen.miss_page, seen.miss_count, seen.hit_slot, seen.hit_count)
    return sum(column.nbytes for column in columns)
