"""Malformed input in volume: valid records, changed in numpy, from kept seeds.

A batch is drawn from (seed, batch number) alone, so that any single input can be
made again: `Batch.one` returns it, `Batch.name` says which it was. Every row
suffers one to three changes of the kinds in `Change`; one in sixteen stays as it
was, so that a decoder that drops everything is found out, too.

The volume test of a decoder has this shape::

    for batch in batches(valid, count=volume(20_000), seed=SEEDS[0]):
        got = decode_each(batch.data, batch.length)    # a compiled loop over rows
        assert ..., batch.name(row)

Such tests live in files named ``test_*_mutations.py``; ``make mutations`` runs all
of them in full.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

#: Seeds that the tests start from. One that once found a bug is added here.
SEEDS: Final = (20261123, 1, 0x5EED, 0xC41F)
#: Inputs that a decoder must survive in the full run.
FULL: Final = 10_000_000
_MOST_CHANGES: Final = 3
_UNCHANGED: Final = 16  # one row in so many stays valid

#: Values at which arithmetic on sizes, counts and addresses turns over.
EDGES: Final = np.array(
    [
        0,
        1,
        2,
        7,
        8,
        9,
        127,
        128,
        255,
        256,
        32767,
        32768,
        65535,
        65536,
        (1 << 31) - 1,
        1 << 31,
        (1 << 32) - 1,
        1 << 32,
        1 << 47,
        (1 << 52) - 1,
        1 << 56,
        (1 << 63) - 1,
        1 << 63,
        (1 << 64) - 8,
        (1 << 64) - 1,
    ],
    np.uint64,
)


class Change(IntEnum):
    """What is done to a row."""

    FLIP = 0  #: one bit, anywhere
    BYTE = 1  #: one byte becomes a random one
    EDGE = 2  #: an aligned field of 1, 2, 4 or 8 bytes becomes one of EDGES
    CUT = 3  #: the rest is gone
    DROP = 4  #: up to 16 bytes in the middle are gone, what follows moves up
    INSERT = 5  #: up to 16 random bytes appear in the middle
    SPLICE = 6  #: the rest is that of another input at the same place
    REPEAT = 7  #: a piece is copied over another one of the same input
    NOISE = 8  #: everything from a place on is random


@dataclass(frozen=True, slots=True)
class Batch:
    """Malformed inputs of one draw.

    Attributes:
        seed: What it was drawn from,
        number: with the number of the batch.
        data: One input a row, zeros behind its end, uint8[n, width]; rows start
            at multiples of eight, so that a row can be viewed as words.
        length: Bytes of each input, int64[n].
        origin: Which valid input it was made from, int64[n].
        changed: Whether anything was done to it, bool[n]; some rows of which that
            was tried may by chance be what they were.
    """

    seed: int
    number: int
    data: Bytes
    length: NDArray[np.int64]
    origin: NDArray[np.int64]
    changed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.length)

    def one(self, row: int) -> bytes:
        """Return one input."""
        return self.data[row, : self.length[row]].tobytes()

    def name(self, row: int) -> str:
        """Return what a failure says, enough to make the input again."""
        return f"seed {self.seed}, batch {self.number}, row {row}: {self.one(row)!r}"

    def stream(self) -> Bytes:
        """Return all inputs one behind the other, uint8[sum of lengths].

        For formats of records without a length of their own, whose decoders
        cannot lose their place.
        """
        inside = np.arange(self.data.shape[1])[None, :] < self.length[:, None]
        joined: Bytes = self.data[inside]
        return joined


def volume(small: int) -> int:
    """Return how many inputs to try: ``small``, or ``MUTATIONS`` of the environment.

    >>> volume(500)
    500
    """
    return int(os.environ.get("MUTATIONS", small))


def batches(
    valid: Sequence[bytes],
    count: int,
    seed: int = SEEDS[0],
    *,
    rows: int = 16384,
    room: int = 64,
) -> Iterator[Batch]:
    """Yield ``count`` inputs made from valid ones, in batches.

    Args:
        valid: Well-formed inputs, none of them empty.
        count: Inputs in all.
        seed: With the number of the batch decides everything.
        rows: Inputs a batch.
        room: Bytes by which an input may grow at most.
    """
    width = -(-(max(map(len, valid)) + room) // 8) * 8
    pool = np.zeros((len(valid), width), np.uint8)
    for row, data in enumerate(valid):
        pool[row, : len(data)] = np.frombuffer(data, np.uint8)
    sizes = np.array([len(data) for data in valid], np.int64)
    for number, first in enumerate(range(0, count, rows)):
        yield _draw(pool, sizes, min(rows, count - first), seed, number)


def one_batch(valid: Sequence[bytes], rows: int, seed: int, number: int = 0) -> Batch:
    """Return one batch of a draw, as `batches` of as many rows gives it."""
    for batch in batches(valid, rows * (number + 1), seed, rows=rows):
        if batch.number == number:
            return batch
    raise AssertionError


def _draw(
    pool: Bytes, sizes: NDArray[np.int64], n: int, seed: int, number: int
) -> Batch:
    rng = np.random.default_rng([seed, number])
    origin = rng.integers(0, len(pool), n)
    data, length = pool[origin], sizes[origin]
    times = rng.integers(1, _MOST_CHANGES + 1, n)
    times[rng.integers(0, _UNCHANGED, n) == 0] = 0
    for turn in range(_MOST_CHANGES):
        kind = rng.integers(0, len(Change), n)
        kind[times <= turn] = -1
        for change in Change:
            row = np.flatnonzero((kind == change) & (length > 0))
            if len(row):
                _STEPS[change](rng, data, length, row, pool)
    data[np.arange(data.shape[1])[None, :] >= length[:, None]] = 0
    return Batch(seed, number, data, length, origin, times > 0)


def _place(
    rng: np.random.Generator, length: NDArray[np.int64], row: NDArray[np.int64]
) -> NDArray[np.int64]:
    return rng.integers(0, length[row])


def _flip(rng, data, length, row, pool):  # type: ignore[no-untyped-def]  # one shape
    bit = np.uint8(1) << rng.integers(0, 8, len(row)).astype(np.uint8)
    data[row, _place(rng, length, row)] ^= bit


def _byte(rng, data, length, row, pool):  # type: ignore[no-untyped-def]
    data[row, _place(rng, length, row)] = rng.integers(0, 256, len(row), np.uint8)


def _edge(rng, data, length, row, pool):  # type: ignore[no-untyped-def]
    value = EDGES[rng.integers(0, len(EDGES), len(row))]
    size = np.int64(1) << rng.integers(0, 4, len(row))
    start = _place(rng, length, row) // size * size
    for k in range(8):
        inside = (k < size) & (start + k < length[row])
        byte = (value >> np.uint64(8 * k)).astype(np.uint8)
        data[row[inside], (start + k)[inside]] = byte[inside]


def _cut(rng, data, length, row, pool):  # type: ignore[no-untyped-def]
    length[row] = _place(rng, length, row)


def _drop(rng, data, length, row, pool):  # type: ignore[no-untyped-def]
    at = _place(rng, length, row)[:, None]
    gone = np.minimum(rng.integers(1, 17, len(row)), length[row] - at[:, 0])
    to = np.arange(data.shape[1])[None, :]
    source = np.where(to < at, to, to + gone[:, None])
    source = np.minimum(source, data.shape[1] - 1)
    data[row] = np.take_along_axis(data[row], source, 1)
    length[row] -= gone


def _insert(rng, data, length, row, pool):  # type: ignore[no-untyped-def]
    at = _place(rng, length, row)[:, None]
    more = np.minimum(rng.integers(1, 17, len(row)), data.shape[1] - length[row])
    to = np.arange(data.shape[1])[None, :]
    source = np.where(to < at, to, np.maximum(to - more[:, None], at))
    wide = np.take_along_axis(data[row], source, 1)
    fresh = (to >= at) & (to < at + more[:, None])
    wide[fresh] = rng.integers(0, 256, int(fresh.sum()), np.uint8)
    data[row] = wide
    length[row] += more


def _splice(rng, data, length, row, pool):  # type: ignore[no-untyped-def]
    other = pool[rng.integers(0, len(pool), len(row))]
    at = _place(rng, length, row)[:, None]
    data[row] = np.where(np.arange(data.shape[1])[None, :] < at, data[row], other)


def _repeat(rng, data, length, row, pool):  # type: ignore[no-untyped-def]
    source, target = _place(rng, length, row), _place(rng, length, row)
    size = rng.integers(1, 33, len(row))
    size = np.minimum(size, length[row] - np.maximum(source, target))
    was = data[row]
    for k in range(32):
        inside = k < size
        rows = np.flatnonzero(inside)
        data[row[inside], (target + k)[inside]] = was[rows, (source + k)[inside]]


def _noise(rng, data, length, row, pool):  # type: ignore[no-untyped-def]
    at = _place(rng, length, row)[:, None]
    fresh = rng.integers(0, 256, (len(row), data.shape[1]), np.uint8)
    data[row] = np.where(np.arange(data.shape[1])[None, :] < at, data[row], fresh)


_STEPS: Final = {
    Change.FLIP: _flip,
    Change.BYTE: _byte,
    Change.EDGE: _edge,
    Change.CUT: _cut,
    Change.DROP: _drop,
    Change.INSERT: _insert,
    Change.SPLICE: _splice,
    Change.REPEAT: _repeat,
    Change.NOISE: _noise,
}
