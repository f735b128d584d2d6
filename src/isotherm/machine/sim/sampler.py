"""The simulated PMU: every period-th access, with jitter, a ring and losses."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isotherm.trace.stream import AccessChunk

RING_SAMPLES = 1 << 16  # a 2 MiB ring of 32-byte records, drained once an epoch


class Sampled(NamedTuple):
    """Samples in order: page uint32[n], write and initiator uint8[n]."""

    page: NDArray[np.uint32]
    write: NDArray[np.uint8]
    initiator: NDArray[np.uint8]
    period: float  #: accesses per sample kept
    lost: int  #: samples that the ring or the hardware dropped
    #: Stream of each, uint8[n]; None where the workload has none.
    stream: NDArray[np.uint8] | None = None
    latency_ns: NDArray[np.float32] | None = None  #: as in ``Samples``
    stall_ns: NDArray[np.float32] | None = None  #: likewise


class Sampler:
    """Samples accesses in order of their count, as PEBS and IBS do.

    The gap between two samples is uniform in ``[period/2, 3 period/2]``, with a
    mean of exactly the period: real drivers randomise the low bits so that a loop
    cannot hide from the counter.

    Args:
        period: Accesses per sample, >= 1.
        seed: For the gaps and losses.
        loss: Share of samples that the hardware drops, [0, 1).
    """

    def __init__(self, period: int, seed: int, loss: float = 0.0) -> None:
        self.period = period
        self.loss = loss
        self._rng = np.random.default_rng([seed, 0x5A])
        self._next = int(
            self._rng.integers(0, period)
        )  # accesses until the next sample
        self._page: list[NDArray[np.uint32]] = []
        self._write: list[NDArray[np.uint8]] = []
        self._initiator: list[NDArray[np.uint8]] = []
        self._stream: list[NDArray[np.uint8]] = []
        self._held = 0
        self._lost = 0

    def observe(self, chunk: AccessChunk) -> None:
        """See the accesses of a chunk pass by."""
        n = len(chunk)
        if self._next >= n:
            self._next -= n
            return
        low = max(1, self.period // 2)
        high = 2 * self.period - low + 1  # one past the longest
        gaps = self._rng.integers(low, high, size=n // low + 2)
        at = self._next + np.concatenate([[0], np.cumsum(gaps)])
        upto = int(np.searchsorted(at, n))
        self._next = int(at[upto]) - n
        at = at[:upto]
        if self.loss > 0:
            kept = self._rng.random(len(at)) >= self.loss
            self._lost += len(at) - int(kept.sum())
            at = at[kept]
        room = RING_SAMPLES - self._held
        if len(at) > room:
            self._lost += len(at) - room
            at = at[:room]
        self._held += len(at)
        self._page.append(chunk.page[at])
        none = np.zeros(len(at), np.uint8)
        self._write.append(none if chunk.write is None else chunk.write[at])
        self._initiator.append(none if chunk.initiator is None else chunk.initiator[at])
        if chunk.stream is not None:
            self._stream.append(chunk.stream[at])

    def drain(self) -> Sampled:
        """Return the samples since the last drain."""
        lost, held = self._lost, self._held
        period = self.period * (held + lost) / held if held else float(self.period)
        none = np.empty(0, np.uint8)
        seen = Sampled(
            np.concatenate([np.empty(0, np.uint32), *self._page]),
            np.concatenate([none, *self._write]),
            np.concatenate([none, *self._initiator]),
            period,
            lost,
            np.concatenate(self._stream) if self._stream else None,
        )
        self._page, self._write, self._initiator = [], [], []
        self._stream = []
        self._held = self._lost = 0
        return seen
