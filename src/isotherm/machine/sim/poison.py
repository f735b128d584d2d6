"""Poisoned page-table entries of the simulated machine."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.machine.sim.play import NODE_MASK, POISONED

#: Times of poisoning are 32 bits of 100 µs since the page table was opened; a
#: difference modulo 2^32 is right up to 119 hours.
TICK_NS = 100_000
_WRAP = 0xFFFFFFFF


class FaultsTaken(NamedTuple):
    """Hint faults in order, as columns."""

    page: NDArray[np.uint32]
    delay_s: NDArray[np.float32]  #: since the page was poisoned
    exposure_s: NDArray[np.float32]  #: since then or its last silent report
    write: NDArray[np.uint8]
    initiator: NDArray[np.uint8]


def poison_range_twin(
    flags: NDArray[np.uint8],
    since: NDArray[np.uint32],
    told: NDArray[np.uint32],
    start: int,
    end: int,
    node: int,
    now: int,
    silent: NDArray[np.uint32],
    waited: NDArray[np.uint32],
    out: NDArray[np.int64],
) -> None:
    """Numpy twin of `poison_range`."""
    f = flags[start:end]
    mine = np.ones(len(f), np.bool_) if node < 0 else (f & NODE_MASK) == node
    was = (f & POISONED) != 0
    old = np.flatnonzero(mine & was)
    silent[: len(old)] = start + old
    waited[: len(old)] = (now - told[start + old].astype(np.int64)) & _WRAP
    since[start:end][mine & ~was] = now
    told[start:end][mine] = now
    f[mine] |= np.uint8(POISONED)
    out[0] += int(mine.sum())
    out[1] = len(old)
    out[2] += int(mine.sum()) - len(old)


@kernel(twin=poison_range_twin)
def poison_range(
    flags: NDArray[np.uint8],
    since: NDArray[np.uint32],
    told: NDArray[np.uint32],
    start: int,
    end: int,
    node: int,
    now: int,
    silent: NDArray[np.uint32],
    waited: NDArray[np.uint32],
    out: NDArray[np.int64],
) -> None:
    """Poison pages ``[start, end)`` on a node (-1: any).

    A page that is poisoned already keeps its time: change_pte_range()
    (mm/mprotect.c) skips pte_protnone() entries before it stamps the page.

    Args:
        flags: Page flags, changed.
        since: Tick at which each page was poisoned, uint32[pages], changed.
        told: Tick of its poisoning or last report, uint32[pages], changed.
        start: First page.
        end: One past the last.
        node: Only pages on it; -1 for all.
        now: Tick, below 2^32.
        silent: Filled with pages that were poisoned already.
        waited: Filled with the ticks since their last report.
        out: int64[3]: entries walked (added to), silent pages (set), newly
            poisoned (added to).
    """
    k = 0
    for p in range(start, end):
        f = flags[p]
        if node < 0 or np.int64(f & np.uint8(NODE_MASK)) == node:
            out[0] += 1
            if f & np.uint8(POISONED):
                silent[k] = p
                waited[k] = (np.int64(now) - np.int64(told[p])) & np.int64(_WRAP)
                k += 1
            else:
                flags[p] = f | np.uint8(POISONED)
                since[p] = now
                out[2] += 1
            told[p] = now
    out[1] = k
