"""Several workloads at once: each has its own pages and its share of accesses."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.trace.stream import AccessStream
from isotherm.workloads.rng import GOLDEN, S32, draw_words, generator, mix64, stream_key
from isotherm.workloads.stream import Generated, Stream
from isotherm.workloads.table import apportion

#: Accesses mixed at a time: bounds the scratch memory.
BLOCK = 1 << 18


def _choose_twin(
    part: NDArray[np.uint8],
    count: NDArray[np.int64],
    key: np.uint64,
    first: int,
    ends: NDArray[np.uint64],
) -> None:
    high = draw_words(key, first, len(part)) >> S32
    part[:] = np.searchsorted(ends[:-1], high, side="right")
    count[:] = np.bincount(part, minlength=len(count))


@kernel(_choose_twin)
def choose(
    part: NDArray[np.uint8],
    count: NDArray[np.int64],
    key: np.uint64,
    first: int,
    ends: NDArray[np.uint64],
) -> None:
    """Choose the part that each access comes from.

    Args:
        part: uint8[n], written.
        count: int64[parts], written: accesses of each part.
        key: Key of the draws.
        first: Number of draws made before.
        ends: Cumulated shares in units of 2^-32, uint64[parts].
    """
    state = key + np.uint64(first) * GOLDEN
    count[:] = 0
    for i in range(len(part)):
        state += GOLDEN
        high = mix64(state) >> S32
        chosen = 0
        for k in range(len(ends) - 1):
            if high >= ends[k]:
                chosen = k + 1
        part[i] = chosen
        count[chosen] += 1


def _merge_twin(
    out: NDArray[np.uint32],
    mark: NDArray[np.uint8],
    part: NDArray[np.uint8],
    place: NDArray[np.int64],
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
) -> None:
    for k in range(len(place)):
        mask = part == k
        count = int(mask.sum())
        out[mask] = page[place[k] : place[k] + count]
        if len(mark):
            mark[mask] = write[place[k] : place[k] + count]
        place[k] += count


@kernel(_merge_twin)
def merge(
    out: NDArray[np.uint32],
    mark: NDArray[np.uint8],
    part: NDArray[np.uint8],
    place: NDArray[np.int64],
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
) -> None:
    """Interleave the accesses of the parts in the order chosen.

    Args:
        out: uint32[n], written.
        mark: uint8[n], written; uint8[0] if unwanted.
        part: Part of each access, uint8[n].
        place: First access of each part in ``page``, int64; left at its end.
        page: Accesses, part after part, uint32[n].
        write: Writes likewise; uint8[0] if unwanted.
    """
    marks = len(mark) > 0
    for i in range(len(out)):
        k = part[i]
        at = place[k]
        out[i] = page[at]
        if marks:
            mark[i] = write[at]
        place[k] = at + 1


@dataclass(frozen=True, slots=True)
class MixPart:
    """One part of a mix: a workload over its own pages, and its share.

    Attributes:
        workload: The part's.
        accesses: Its share of the accesses, any scale.
        name: For tables; None: the workload's.
        threads: Initiators that the threads of the part run on at first, one each;
            empty: it is not said who makes the accesses.
    """

    workload: Generated
    accesses: float
    name: str | None = None
    threads: tuple[int, ...] = ()


class MixStream:
    """The parts' streams, interleaved one access at a time."""

    def __init__(self, parts: list[MixPart], key: np.uint64) -> None:
        self._streams: list[Stream] = [part.workload.start() for part in parts]
        self._writes = [part.workload.writes for part in parts]
        self._bases = np.cumsum([0, *(part.workload.pages for part in parts[:-1])])
        shares = np.array([part.accesses for part in parts])
        self._ends = np.cumsum(apportion(shares)).astype(np.uint64)
        self._key = key
        self._made = 0

    def tick(self, tick: int) -> None:
        """Begin a tick in every part."""
        for stream in self._streams:
            stream.tick(tick)

    def fill(self, page: NDArray[np.uint32], write: NDArray[np.uint8] | None) -> None:
        """Write the next ``len(page)`` accesses."""
        for at in range(0, len(page), BLOCK):
            end = min(at + BLOCK, len(page))
            self._fill_block(page[at:end], None if write is None else write[at:end])

    def _fill_block(
        self, page: NDArray[np.uint32], write: NDArray[np.uint8] | None
    ) -> None:
        part = np.empty(len(page), np.uint8)
        count = np.empty(len(self._streams), np.int64)
        choose(part, count, self._key, self._made, self._ends)
        self._made += len(page)
        drawn = np.empty(len(page), np.uint32)
        marks = np.zeros(0 if write is None else len(page), np.uint8)
        ends = np.cumsum(count)
        place = ends - count
        for k, stream in enumerate(self._streams):
            own = slice(place[k], ends[k])
            stream.fill(
                drawn[own],
                marks[own] if write is not None and self._writes[k] else None,
            )
            drawn[own] += np.uint32(self._bases[k])
        empty = np.empty(0, np.uint8)
        merge(page, empty if write is None else write, part, place, drawn, marks)


def build_mix(
    name: str, parts: list[MixPart], seed: int, stray: float = 0.0
) -> Generated:
    """Return several generated workloads side by side.

    Args:
        name: Name for tables.
        parts: 1 to 255 of them; a part's pages follow those of the one before.
        seed: Decides which part each access comes from.
        stray: Share of accesses that any thread makes, where parts have threads.
    """
    key = stream_key(generator(seed, "mix"))
    threads = tuple(max(1, len(part.threads)) for part in parts)
    threaded = any(part.threads for part in parts)
    streams, starts = _streams(parts) if len(parts) > 1 or threaded else ((), ())
    return Generated(
        name,
        sum(part.workload.pages for part in parts),
        lambda: MixStream(parts, key),
        writes=any(part.workload.writes for part in parts),
        parallelism={
            f"{k}.{label}": value
            for k, part in enumerate(parts)
            for label, value in part.workload.parallelism.items()
        },
        streams=streams,
        stream_starts=starts,
        threads=threads if threaded else (),
        stray=stray,
        births=_births(parts),
    )


def _births(parts: list[MixPart]) -> Callable[[int], NDArray[np.uint32]] | None:
    """Return what is born in all parts at a tick; None: nowhere is anything."""
    base, bear = 0, []
    for part in parts:
        if part.workload.births is not None:
            bear.append((base, part.workload.births))
        base += part.workload.pages
    if not bear:
        return None

    def births(tick: int) -> NDArray[np.uint32]:
        return np.concatenate([born(tick) + np.uint32(first) for first, born in bear])

    return births


def _streams(parts: list[MixPart]) -> tuple[tuple[AccessStream, ...], tuple[int, ...]]:
    """Return the streams of all parts, each part a workload, and their first pages."""
    streams: list[AccessStream] = []
    starts: list[int] = []
    base = 0
    for part in parts:
        name = part.name or part.workload.name
        if part.threads:
            streams += [
                AccessStream(f"{name}.{k}", initiator=who, workload=name, thread=True)
                for k, who in enumerate(part.threads)
            ]
            starts.append(base)
        elif part.workload.streams:
            for stream, start in zip(
                part.workload.streams, part.workload.stream_starts, strict=True
            ):
                alone = len(part.workload.streams) == 1
                label = name if alone else f"{name}.{stream.name}"
                streams.append(replace(stream, name=label, workload=name))
                starts.append(base + start)
        else:
            streams.append(AccessStream(name, workload=name))
            starts.append(base)
        base += part.workload.pages
    return tuple(streams), tuple(starts)
