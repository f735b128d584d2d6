"""Samples of several events of a file, as columns and in order of time."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.records.perf_attr import EventAttr
from isotherm.records.perf_fields import Counts, Field, SampleLayout, Shape
from isotherm.records.perf_sample import Words, gather

#: What is read of samples, one column each; an event that lacks one gives 0.
COLUMNS: Final = (
    Field.TID,
    Field.TIME,
    Field.ADDR,
    Field.CPU,
    Field.PERIOD,
    Field.WEIGHT,
    Field.DATA_SRC,
    Field.PHYS_ADDR,
    Field.CGROUP,
    Field.DATA_PAGE_SIZE,
)
_TIME_ROW: Final = COLUMNS.index(Field.TIME)


@dataclass(frozen=True, slots=True)
class FileSamples:
    """Samples of a file as columns, in order of time.

    Attributes:
        columns: One row for each of `COLUMNS`, uint64[10, n]; WEIGHT has the whole
            word where the event gives WEIGHT_STRUCT.
        event: Which event each is of, uint16[n].
    """

    columns: Words
    event: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.event)

    def column(self, one: Field) -> Words:
        """Return one of `COLUMNS`, uint64[n]."""
        found: Words = self.columns[COLUMNS.index(one)]
        return found

    @property
    def pid(self) -> NDArray[np.int32]:
        """Process of every sample, int32[n]."""
        return self.column(Field.TID).astype(np.uint32).view(np.int32)

    @property
    def tid(self) -> NDArray[np.int32]:
        """Thread of every sample, int32[n]."""
        high = self.column(Field.TID) >> np.uint64(32)
        return high.astype(np.uint32).view(np.int32)

    @property
    def cpu(self) -> NDArray[np.int32]:
        """CPU of every sample, int32[n]."""
        return self.column(Field.CPU).astype(np.uint32).view(np.int32)

    @property
    def weight(self) -> NDArray[np.uint32]:
        """Cycles of latency, where the PMU gives them: the low half, uint32[n]."""
        return self.column(Field.WEIGHT).astype(np.uint32)


@lru_cache(64)  # files have few kinds of event
def _layout(sample_type: Field, shape: Shape) -> SampleLayout:
    wanted = {*COLUMNS, Field.WEIGHT_STRUCT}
    return SampleLayout.by_steps(sample_type, shape, wanted)


class EventReader:
    """Reads samples of one event into `COLUMNS`."""

    def __init__(self, attr: EventAttr) -> None:
        self.id_word = attr.id_word
        layout = _layout(attr.sample_type, attr.shape)
        self.least = max(layout.words, (self.id_word or 0) + 1)
        self._program = layout.program
        self._row = [
            COLUMNS.index(Field.WEIGHT if f is Field.WEIGHT_STRUCT else f)
            for f in layout.fields
        ]

    def read(self, words: Words, at: NDArray[np.int64], tally: Counts) -> Words:
        """Return the columns of the samples at some places, uint64[10, n]."""
        found = np.empty((max(1, len(self._row)), len(at)), np.uint64)
        n = int(gather(words, at, self._program, found, tally))
        columns = np.zeros((len(COLUMNS), n), np.uint64)
        for k, row in enumerate(self._row):
            columns[row] = found[k, :n]
        return columns


def joined(parts: list[FileSamples]) -> FileSamples:
    """Return samples one behind the other."""
    none = np.empty((len(COLUMNS), 0), np.uint64)
    return FileSamples(
        np.concatenate([none, *(p.columns for p in parts)], axis=1),
        np.concatenate([np.empty(0, np.uint16), *(p.event for p in parts)]),
    )


def rows_of(samples: FileSamples, row: NDArray[np.int64] | slice) -> FileSamples:
    """Return some of the samples."""
    return FileSamples(samples.columns[:, row], samples.event[row])


class Rounds:
    """Samples in order of time, as far as the rounds say that it is known."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._pending: list[FileSamples] = []
        self._ready: list[FileSamples] = []
        self._limit = self._latest = 0

    def add(self, samples: FileSamples) -> None:
        """Take samples of the present round, in any order."""
        if len(samples):
            self._pending.append(samples)
            latest = int(samples.columns[_TIME_ROW].max())
            self._latest = max(self._latest, latest)

    def end_round(self) -> Iterator[FileSamples]:
        """Yield what no later round can come before."""
        held = joined(self._pending)
        held = rows_of(held, np.argsort(held.columns[_TIME_ROW], kind="stable"))
        limit = np.uint64(self._limit)
        split = int(np.searchsorted(held.columns[_TIME_ROW], limit, side="right"))
        self._ready.append(rows_of(held, slice(0, split)))
        self._pending = [rows_of(held, slice(split, None))]
        self._limit = self._latest
        if sum(map(len, self._ready)) >= self._least:
            yield joined(self._ready)
            self._ready = []

    def finish(self) -> Iterator[FileSamples]:
        """Yield the rest."""
        self._limit = self._latest
        yield from self.end_round()
        rest = joined(self._ready)
        if len(rest):
            yield rest
