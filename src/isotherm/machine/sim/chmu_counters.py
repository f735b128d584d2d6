"""The counters of a simulated hotness unit: finite, in buckets of eight, or enough.

What a device does when it runs out of counters is its maker's affair. Here a unit
has a bucket; where the bucket is full of others, the access takes one from the
least of them, and a counter that is at 0 then changes hands (the "frequent"
algorithm of Misra and Gries, per bucket). So the hottest keep their counters, and
counts are too low rather than too high.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.machine.sim.llc import mix, mix_array

BUCKET: Final = 8
FREE: Final = 0xFFFFFFFFFFFFFFFF

Words = NDArray[np.uint64]
Tally = NDArray[np.int64]

# Rows of a tally.
TAKEN: Final = 0  # accesses that another unit's counter lost
HOT: Final = 1  # entries written
ROWS: Final = 2


def count_twin(
    unit: Words,
    tag: Words,
    value: Words,
    most: int,
    threshold: int,
    hot: Words,
    tally: Tally,
) -> None:
    """Plain twin of `count`."""
    buckets = len(tag) // BUCKET
    home = (mix_array(unit) % np.uint64(buckets)).tolist() if len(unit) else []
    for own, one in zip(home, unit.tolist(), strict=True):
        rows = range(own * BUCKET, (own + 1) * BUCKET)
        mine = [k for k in rows if tag[k] == one]
        free = [k for k in rows if tag[k] == FREE]
        if mine:
            k = mine[0]
        elif free:
            k = free[0]
            tag[k], value[k] = one, 0
        else:
            k = min(rows, key=lambda row: (int(value[row]), row))
            value[k] -= np.uint64(1)
            tally[TAKEN] += 1
            if value[k] == 0:
                tag[k] = FREE
            continue
        if value[k] < most:
            value[k] += np.uint64(1)
        if threshold > 0 and value[k] >= threshold:
            hot[tally[HOT]] = one
            tally[HOT] += 1
            tag[k] = FREE


@kernel(twin=count_twin)
def count(
    unit: Words,
    tag: Words,
    value: Words,
    most: int,
    threshold: int,
    hot: Words,
    tally: Tally,
) -> None:
    """Count accesses.

    Args:
        unit: Of each access, in order, uint64[n].
        tag: Whose each counter is, uint64[8 x buckets], FREE: nobody's; changed.
        value: The counters, like ``tag``, changed.
        most: Where a counter stops.
        threshold: Always-on mode: a unit that reaches it is written to ``hot`` and
            gives its counter back; 0: nothing is.
        hot: Filled from ``tally[HOT]`` on, uint64[n or more].
        tally: TAKEN and HOT, added to.
    """
    buckets = np.uint64(tag.size // 8)
    free = np.uint64(0xFFFFFFFFFFFFFFFF)
    one = np.uint64(1)
    for i in range(unit.size):
        u = unit[i]
        base = np.int64(mix(u) % buckets) * 8
        k = empty = np.int64(-1)
        least = base
        for way in range(8):
            row = base + np.int64(way)
            if tag[row] == u:
                k = row
                break
            if tag[row] == free:
                if empty < 0:
                    empty = row
            elif value[row] < value[least]:
                least = row
        if k < 0:
            if empty < 0:
                value[least] -= one
                tally[0] += 1
                if value[least] == np.uint64(0):
                    tag[least] = free
                continue
            k = empty
            tag[k] = u
            value[k] = np.uint64(0)
        if value[k] < np.uint64(most):
            value[k] += one
        if threshold > 0 and value[k] >= np.uint64(threshold):
            hot[tally[1]] = u
            tally[1] += 1
            tag[k] = free


class Counters:
    """The counters of one instance.

    Args:
        number: Of counters, rounded up to whole buckets.
        width: Bits of each: it stops at its largest value.
    """

    def __init__(self, number: int, width: int) -> None:
        size = -(-number // BUCKET) * BUCKET
        self._tag = np.full(size, FREE, np.uint64)
        self._value = np.zeros(size, np.uint64)
        self._most = (1 << width) - 1
        self.taken = 0

    def __len__(self) -> int:
        return len(self._tag)

    def clear(self) -> None:
        """Give all counters back."""
        self._tag[:] = FREE

    def count(self, unit: Words, threshold: int = 0) -> Words:
        """Count accesses; return the units that reached a threshold, in order.

        Args:
            unit: Of each access, in order, uint64[n].
            threshold: 0: nothing is returned.
        """
        hot = np.empty(len(unit) if threshold else 0, np.uint64)
        tally = np.zeros(ROWS, np.int64)
        count(unit, self._tag, self._value, self._most, threshold, hot, tally)
        self.taken += int(tally[TAKEN])
        return hot[: tally[HOT]]

    def above(self, threshold: int) -> tuple[Words, Words]:
        """Return units and counts of at least a threshold, in the table's order."""
        row = np.flatnonzero((self._tag != FREE) & (self._value >= threshold))
        return self._tag[row], self._value[row]


class EnoughCounters:
    """A counter for every unit.

    Args:
        units: Of the device's memory.
        width: Bits of each counter.
    """

    taken = 0

    def __init__(self, units: int, width: int) -> None:
        self._value = np.zeros(units, np.int64)
        self._most = (1 << width) - 1

    def clear(self) -> None:
        """Set all counters to 0."""
        self._value[:] = 0

    def count(self, unit: Words, threshold: int = 0) -> Words:
        """Count accesses; return the units that reached a threshold, by number.

        Args:
            unit: Of each access, uint64[n].
            threshold: 0: nothing is returned.
        """
        if not len(unit):
            return unit
        held = self._value
        first, last = int(unit.min()), int(unit.max()) + 1
        held[first:last] += np.bincount(unit.astype(np.int64) - first)
        if threshold == 0:
            np.minimum(held[first:last], self._most, out=held[first:last])
            return unit[:0]
        row = first + np.flatnonzero(held[first:last] >= threshold)
        times = held[row] // threshold
        held[row] -= times * threshold
        return np.repeat(row, times).astype(np.uint64)

    def above(self, threshold: int) -> tuple[Words, Words]:
        """Return units and counts of at least a threshold, by number."""
        row = np.flatnonzero(self._value >= threshold)
        return row.astype(np.uint64), self._value[row].astype(np.uint64)
