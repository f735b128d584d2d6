"""Poisoned page-table entries of the simulated machine."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.machine.sim.play import NODE_MASK, POISONED


class FaultsTaken(NamedTuple):
    """Hint faults in order, as columns."""

    page: NDArray[np.uint32]
    delay_s: NDArray[np.float32]  #: since the page was poisoned
    exposure_s: NDArray[np.float32]  #: since then or its last silent report
    write: NDArray[np.uint8]
    initiator: NDArray[np.uint8]


def poison_range_twin(
    flags: NDArray[np.uint8],
    since_s: NDArray[np.float32],
    told_s: NDArray[np.float32],
    start: int,
    end: int,
    node: int,
    now_s: float,
    silent: NDArray[np.uint32],
    silent_s: NDArray[np.float32],
    out: NDArray[np.int64],
) -> None:
    """Numpy twin of `poison_range`."""
    f = flags[start:end]
    mine = np.ones(len(f), np.bool_) if node < 0 else (f & NODE_MASK) == node
    was = (f & POISONED) != 0
    old = np.flatnonzero(mine & was)
    silent[: len(old)] = start + old
    silent_s[: len(old)] = np.float32(now_s) - told_s[start + old]
    since_s[start:end][mine & ~was] = np.float32(now_s)
    told_s[start:end][mine] = np.float32(now_s)
    f[mine] |= np.uint8(POISONED)
    out[0] += int(mine.sum())
    out[1] = len(old)
    out[2] += int(mine.sum()) - len(old)


@kernel(twin=poison_range_twin)
def poison_range(
    flags: NDArray[np.uint8],
    since_s: NDArray[np.float32],
    told_s: NDArray[np.float32],
    start: int,
    end: int,
    node: int,
    now_s: float,
    silent: NDArray[np.uint32],
    silent_s: NDArray[np.float32],
    out: NDArray[np.int64],
) -> None:
    """Poison pages ``[start, end)`` on a node (-1: any).

    A page that is poisoned already keeps its time: change_pte_range()
    (mm/mprotect.c) skips pte_protnone() entries before it stamps the page.

    Args:
        flags: Page flags, changed.
        since_s: When each page was poisoned, changed.
        told_s: When each page was poisoned or last reported, changed.
        start: First page.
        end: One past the last.
        node: Only pages on it; -1 for all.
        now_s: Time.
        silent: Filled with pages that were poisoned already.
        silent_s: Filled with the seconds since their last report.
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
                silent_s[k] = np.float32(now_s) - told_s[p]
                k += 1
            else:
                flags[p] = f | np.uint8(POISONED)
                since_s[p] = np.float32(now_s)
                out[2] += 1
            told_s[p] = np.float32(now_s)
    out[1] = k
