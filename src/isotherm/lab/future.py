"""What bounds know: the accesses of a whole workload, or what they stall."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.sim.load import Load
from isotherm.policy.bounds import (
    Future,
    KnownFuture,
    count_future,
    count_stall_future,
)
from isotherm.trace.stream import Pace, Workload


def workload_future(
    workload: Workload, pace: Pace, load: Load | None = None
) -> KnownFuture:
    """Return the accesses per page and epoch of a whole workload, for bounds.

    Args:
        workload: The workload.
        pace: How its accesses become time.
        load: Of a machine. Where accesses do not all stall alike on it, what is
            counted is what they stall.
    """
    if load is None or load.alike:
        return count_future((c.page for c in workload.epochs(pace)), workload.pages)
    rows = _rows(workload, pace, len(load.weight))
    return count_stall_future(rows, workload.pages, load.weight)


def serves(future: Future | None, load: Load) -> bool:
    """Return whether a future that somebody counted says what a machine's is."""
    if future is None:
        return False
    return load.alike or getattr(future, "unit", None) is not None


def _rows(
    workload: Workload, pace: Pace, rows: int
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint8]]]:
    """Yield pages and the row of the machine's load that each access is counted in."""
    for chunk in workload.epochs(pace):
        row = chunk.initiator if chunk.stream is None else chunk.stream
        if row is None:
            row = np.zeros(len(chunk), np.uint8)
        yield chunk.page, np.where(row < rows, row, 0).astype(np.uint8)
