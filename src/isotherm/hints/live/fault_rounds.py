"""When a page that faulted had been poisoned: rounds, worked out from the faults.

The kernel does not say when task_numa_work() (kernel/sched/fair.c) poisoned a
page. But it poisons whole stretches at once, 256 MiB of a mapping by default, and
a page faults at most once for each time that it is poisoned. So:

* a second fault of a page proves that its stretch was poisoned again in between;
  that opens a new *round* for its granule of 512 pages;
* some page of a granule is touched almost at once: its first fault is taken for
  the time of the poisoning. A granule that opens a round within 50 ms of a
  neighbour of the same process takes over the neighbour's time: they are of one
  stretch, as two stretches are poisoned 100 ms apart at least;
* how late the very first fault was is not known: that one is left out;
* that a page is silent is said only of one that has faulted before, from the time
  that its granule's round began: what the scanner passes over is never called cold.

So a delay is too short by the time that the hottest page of the granule took:
little for hot pages and their neighbours, up to all of it for a page that is alone.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.core.units import PAGES_PER_HUGE_PAGE

#: Bits of a page's state.
KNOWN: Final = 1  # it had memory when it was last looked at, or has faulted since
FAULTED: Final = 2  # in the present round
SEEN: Final = 4  # it has had a hint fault: the scanner comes by here
NEVER: Final = -(1 << 62)  # of a granule without a round
#: Granules to either side that may be of the same stretch: 16 MiB each way.
REACH: Final = 8
#: task_scan_min() never lets two stretches of a process be closer than 100 ms.
HORIZON_NS: Final = 50_000_000
GRANULE: Final = PAGES_PER_HUGE_PAGE

# What a fault was.
FIRST_TOUCH: Final = 0  # there was no page before
UNDATED: Final = 1  # the first of its stretch: nobody knows how late
DATED: Final = 2

Times = NDArray[np.int64]
State = NDArray[np.uint8]


def follow_twin(
    page: NDArray[np.uint32],
    time_ns: Times,
    start: int,
    state: State,
    owner: NDArray[np.int32],
    armed_ns: Times,
    told_ns: Times,
    horizon_ns: int,
    kind: State,
    delay_ns: Times,
    exposure_ns: Times,
    silent: NDArray[np.uint32],
    silent_ns: Times,
) -> tuple[int, int]:
    """Plain twin of `follow`."""
    silents = 0
    granules = len(armed_ns)
    for k in range(start, len(page)):
        p, now = int(page[k]), int(time_ns[k])
        g = p // GRANULE
        if not state[p] & KNOWN:
            state[p] |= KNOWN
            kind[k] = FIRST_TOUCH
            continue
        open_round = armed_ns[g] == NEVER or bool(state[p] & FAULTED)
        if open_round:
            if silents + GRANULE > len(silent):
                return k, silents
            before = int(armed_ns[g])
            began = now
            for side in (-1, 1):
                for n in range(g + side, g + side * (REACH + 1), side):
                    if n < 0 or n >= granules or owner[n] != owner[g]:
                        break
                    near = int(armed_ns[n])
                    if before < near <= now and now - near < horizon_ns:
                        began = min(began, near)
                        break
            first = g * GRANULE
            run = state[first : first + GRANULE]
            if before != NEVER:
                quiet = np.flatnonzero((run & (SEEN | FAULTED)) == SEEN)
                n = len(quiet)
                silent[silents : silents + n] = first + quiet
                silent_ns[silents : silents + n] = began - max(before, int(told_ns[g]))
                silents += n
            run &= np.uint8(0xFF ^ FAULTED)
            armed_ns[g] = began
            told_ns[g] = began
        dated = not (open_round and armed_ns[g] == now)
        state[p] |= FAULTED | SEEN
        kind[k] = DATED if dated else UNDATED
        delay_ns[k] = now - armed_ns[g]
        exposure_ns[k] = now - max(int(armed_ns[g]), int(told_ns[g]))
    return len(page), silents


@kernel(twin=follow_twin)
def follow(
    page: NDArray[np.uint32],
    time_ns: Times,
    start: int,
    state: State,
    owner: NDArray[np.int32],
    armed_ns: Times,
    told_ns: Times,
    horizon_ns: int,
    kind: State,
    delay_ns: Times,
    exposure_ns: Times,
    silent: NDArray[np.uint32],
    silent_ns: Times,
) -> tuple[int, int]:
    """Follow faults in order of time, opening rounds as they prove them.

    Args:
        page: Flat pages, uint32[n].
        time_ns: When they faulted, int64[n], ascending.
        start: First row to follow.
        state: Bits of every flat page, a whole number of granules, changed.
        owner: Process of every granule, int32.
        armed_ns: When the round of a granule began, or NEVER, changed.
        told_ns: Up to when its silence is told, changed.
        horizon_ns: Rounds that open within this time may be of one stretch.
        kind: What each fault was, uint8[n], written.
        delay_ns: From poisoning to the fault, int64[n], written where dated.
        exposure_ns: The part of it that no silence has told, int64[n], written.
        silent: Pages of closed rounds that never faulted in them, written.
        silent_ns: For how long no one had said so, written.

    Returns:
        The row to go on from when there is room again in ``silent``, and how many
        silent pages were written.
    """
    silents = 0
    granules = armed_ns.size
    for k in range(start, page.size):
        p, now = np.int64(page[k]), time_ns[k]
        g = p // GRANULE
        if not state[p] & np.uint8(KNOWN):
            state[p] |= np.uint8(KNOWN)
            kind[k] = FIRST_TOUCH
            continue
        open_round = armed_ns[g] == NEVER or (state[p] & np.uint8(FAULTED)) != 0
        if open_round:
            if silents + GRANULE > silent.size:
                return k, silents
            before = armed_ns[g]
            began = now
            for side in (-1, 1):
                n = g + side
                for _ in range(REACH):
                    if n < 0 or n >= granules or owner[n] != owner[g]:
                        break
                    near = armed_ns[n]
                    if before < near <= now and now - near < horizon_ns:
                        began = min(began, near)
                        break
                    n += side
            first = g * GRANULE
            since = max(before, told_ns[g])
            for q in range(first, first + GRANULE):
                bits = state[q]
                if before != NEVER and (bits & np.uint8(SEEN | FAULTED)) == SEEN:
                    silent[silents] = q
                    silent_ns[silents] = began - since
                    silents += 1
                state[q] = bits & np.uint8(0xFF ^ FAULTED)
            armed_ns[g] = began
            told_ns[g] = began
        dated = not (open_round and armed_ns[g] == now)
        state[p] |= np.uint8(FAULTED | SEEN)
        kind[k] = DATED if dated else UNDATED
        delay_ns[k] = now - armed_ns[g]
        exposure_ns[k] = now - max(armed_ns[g], told_ns[g])
    return page.size, silents
