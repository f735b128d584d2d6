"""From an endless stream of draws to the epochs that the simulator asks for.

A stream is defined on ticks of half a second and knows nothing of epochs; the
epochs only cut it. So the accesses of a run do not depend on the epoch length.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.core.kernels import kernel
from isotherm.core.units import NS_PER_S
from isotherm.trace.stream import AccessChunk, AccessStream, Background, Pace
from isotherm.workloads.rng import LOW32, S32, draw_words

#: The grain of everything that changes with time.
TICK_S = 0.5
#: Length of a run whose accesses are not counted, and the nominal period of the
#: workloads that change with time.
NOMINAL_S = 120.0
#: Of the draws that choose a program's thread for each access.
THREADS_KEY = np.uint64(0x7468726561647321)


class Stream(Protocol):
    """An endless, seeded stream of accesses; one object is one pass over it."""

    def tick(self, tick: int) -> None:
        """Begin tick ``tick`` = 0, 1, 2...; every tick is announced once."""
        ...

    def fill(self, page: NDArray[np.uint32], write: NDArray[np.uint8] | None) -> None:
        """Write the next ``len(page)`` accesses; ``write`` is None if unwanted."""
        ...


def checked_rate(pace: Pace) -> float:
    """Return the pace's rate.

    Raises:
        UsageError: It has none, or one that is not a number > 0.
    """
    if pace.rate is None:
        raise UsageError(
            "rate: a generated workload has no times of its own, got no rate",
            hint="try --rate 10 (accesses per page per second)",
        )
    if not (math.isfinite(pace.rate) and pace.rate > 0 and pace.epoch_ns > 0):
        raise UsageError(
            f"rate: expected a number > 0 and epochs > 0 ns, got {pace.rate} "
            f"and {pace.epoch_ns} ns",
            hint="try --rate 10",
        )
    return pace.rate


def epoch_counts(pace: Pace, pages: int) -> Iterator[int]:
    """Yield the accesses of each epoch: floor(n (e+1)) - floor(n e), cut at the end.

    ``n`` = rate * pages * epoch seconds. The end is what the pace asks for, or
    120 s. An epoch in which nothing happens (a very low rate) yields 0.

    Raises:
        UsageError: The pace has no rate, or one that is not a number > 0.
    """
    rate = checked_rate(pace)
    per_epoch = rate * pages * (pace.epoch_ns / NS_PER_S)
    total = pace.accesses
    if total is None:
        total = math.floor(rate * pages * NOMINAL_S)
    done, epoch = 0, 0
    while done < total:
        epoch += 1
        end = min(math.floor(per_epoch * epoch), total)
        yield end - done
        done = end


def label_streams_twin(
    page: NDArray[np.uint32], ends: NDArray[np.uint32], label: NDArray[np.uint8]
) -> None:
    """Numpy twin of `label_streams`."""
    label[:] = np.searchsorted(ends, page, side="right")


@kernel(twin=label_streams_twin)
def label_streams(
    page: NDArray[np.uint32], ends: NDArray[np.uint32], label: NDArray[np.uint8]
) -> None:
    """Write which stream's pages each access falls in.

    Args:
        page: Pages, uint32[n], below the last end.
        ends: One past the last page of every stream, uint32[k], ascending, k <= 255.
        label: Number of the stream, uint8[n], written.
    """
    for i in range(page.size):
        low, high = 0, ends.size - 1
        while low < high:
            middle = (low + high) // 2
            if page[i] < ends[middle]:
                high = middle
            else:
                low = middle + 1
        label[i] = low


@dataclass(frozen=True, slots=True)
class Generated:
    """A workload made by a generator.

    Attributes:
        name: Name for tables.
        pages: Footprint; every page is below it.
        start: Opens a fresh stream; each call gives the same accesses.
        writes: True if the stream says which accesses are writes.
        parallelism: Memory-level parallelism by part, where the source of the
            definition states it (part name: misses in flight).
        compressibility: How well its data compress, where it is stated, as
            `isotherm.trace.compressibility.parse_compressibility` reads it.
        streams: What its accesses consist of, where they are not all alike; each
            has pages of its own.
        stream_starts: First page of each stream, ascending from 0; with threads of
            each program.
        threads: How many streams each program consists of, one after the other:
            its threads, which access its pages alike. Empty: one each.
        stray: Share of the accesses that any thread makes, wherever they go.
        background: Traffic of others while it runs.
        births: Pages that are new at a tick, uint32; None: memory stays.
        kind: Which generator made it, whatever it is called; None: several.
    """

    name: str
    pages: int
    start: Callable[[], Stream]
    writes: bool = False
    parallelism: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType({})
    )
    compressibility: str | None = None
    streams: tuple[AccessStream, ...] = ()
    stream_starts: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()
    stray: float = 0.0
    background: tuple[Background, ...] = ()
    births: Callable[[int], NDArray[np.uint32]] | None = None
    kind: str | None = None

    def epochs(self, pace: Pace) -> Iterator[AccessChunk]:
        """Yield the accesses of one epoch after the other (see ``Workload``).

        Raises:
            UsageError: The pace has no rate, or a rate that is not positive.
        """
        rate = checked_rate(pace)  # complain now, not at the first epoch
        return self._chunks(epoch_counts(pace, self.pages), rate)

    def _chunks(self, counts: Iterator[int], rate: float) -> Iterator[AccessChunk]:
        per_tick = rate * self.pages * TICK_S
        stream = self.start()
        page = np.empty(0, np.uint32)
        write = np.empty(0, np.uint8)
        label = np.empty(0, np.uint8)
        ends = np.array([*self.stream_starts[1:], self.pages], np.uint32)
        initiators = np.array([s.initiator or 0 for s in self.streams], np.uint8)
        done, tick, tick_end = 0, -1, 0
        for count in counts:
            if count > len(page):
                page = np.empty(count, np.uint32)
                write = np.empty(count if self.writes else 0, np.uint8)
                label = np.empty(count if self.streams else 0, np.uint8)
            at = 0
            born: list[NDArray[np.uint32]] = []
            while at < count:
                while done >= tick_end:
                    tick += 1
                    tick_end = math.floor(per_tick * (tick + 1))
                    stream.tick(tick)
                    if self.births is not None:
                        born.append(self.births(tick))
                take = min(count - at, tick_end - done)
                stream.fill(
                    page[at : at + take],
                    write[at : at + take] if self.writes else None,
                )
                at += take
                done += take
            new = np.unique(np.concatenate(born)) if born else None
            if not self.streams:
                wrote = write[:count] if self.writes else None
                yield AccessChunk(page[:count], wrote, born=new)
                continue
            label_streams(page[:count], ends, label[:count])
            if self.threads:
                self._choose_threads(label[:count], done - count)
            yield AccessChunk(
                page[:count],
                write[:count] if self.writes else None,
                initiators[label[:count]] if initiators.any() else None,
                stream=label[:count],
                born=new,
            )

    def _choose_threads(self, label: NDArray[np.uint8], made: int) -> None:
        """Put a thread in the place of each access's program.

        Args:
            label: Number of the program, uint8[n], written.
            made: Accesses made before.
        """
        count = np.array(self.threads, np.uint64)
        first = np.cumsum(count) - count
        word = draw_words(THREADS_KEY, made, len(label))
        thread = first[label] + (word & LOW32) % count[label]
        if self.stray:
            strays = (word >> S32) < np.uint64(self.stray * (1 << 32))
            every = np.uint64(count.sum())
            thread = np.where(strays, (word & LOW32) % every, thread)
        label[:] = thread
