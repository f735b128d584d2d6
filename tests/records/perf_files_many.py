"""perf.data files with many samples, made in bulk."""

import numpy as np
from numpy.typing import NDArray

from isotherm.records.perf_fields import Field, Kind
from tests.records.perf_files import attr, memory, numa, perf_data

#: What ``perf mem record -p`` has in its samples, and nothing between.
LOADS = (
    Field.IDENTIFIER
    | Field.TID
    | Field.TIME
    | Field.ADDR
    | Field.CPU
    | Field.PERIOD
    | Field.DATA_SRC
    | Field.PHYS_ADDR
)
RAM, L1 = 13, 1
_LOAD = 2


def many_samples(
    time_ns: NDArray[np.int64],
    vpage: NDArray[np.int64],
    *,
    pid: NDArray[np.int64] | int = 7,
    cpu: NDArray[np.int64] | int = 0,
    period: int = 1,
    level: NDArray[np.int64] | int = RAM,
    event: int = 1,
) -> bytes:
    """Return loads from pages, a record each, in the order given."""
    words = np.zeros((len(time_ns), 9), np.uint64)
    words[:, 0] = int(Kind.SAMPLE) | 2 << 32 | 72 << 48
    words[:, 1] = event
    words[:, 2] = np.asarray(pid) | np.asarray(pid) << 32
    words[:, 3] = time_ns
    words[:, 4] = vpage << 12 | 0x40
    words[:, 5] = cpu
    words[:, 6] = period
    words[:, 7] = _LOAD | np.asarray(level) << 33
    words[:, 8] = 0
    return words.tobytes()


def recording(records: bytes, *, events: int = 1, period: int = 1) -> bytes:
    """Return a file with these records, of a machine of two nodes with two CPUs each.

    Args:
        records: Its samples.
        events: How many events; the n-th has the number n.
        period: Of each event.
    """
    one = attr(LOADS, period=period)
    features = {14: numa({0: "0-1", 1: "2-3"}), 22: memory(1 << 27, {0: 5})}
    return perf_data([(one, [n + 1]) for n in range(events)], records, features)
