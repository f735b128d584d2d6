"""Memory that is new: pages given back and allocated again, as the kernel does."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UnsupportedError
from isotherm.machine.sim import play

if TYPE_CHECKING:
    from isotherm.machine.sim.machine import SimMachine


def bear(machine: "SimMachine", page: NDArray[np.uint32]) -> None:
    """Give pages back and allocate them anew.

    Down the tiers, to the first node with free pages above its low watermark
    (rmqueue(), ALLOC_WMARK_LOW); the last tier takes what is left. Free of cost:
    every node's pages take as long to allocate. A tier that is a demand-filled cache
    goes on as it is.

    Args:
        machine: The machine.
        page: Pages, no page twice.

    Raises:
        UnsupportedError: The machine compresses: it may refuse a page.
    """
    if machine.expander is not None:
        raise UnsupportedError(
            f"machine {machine.spec.name}: memory that is born on a compressing"
            " expander is not simulated",
            hint="take a machine without an expander",
        )
    bill, nodes = machine.bill, len(machine.capacity)
    bill.births += len(page)
    if machine.demand_fill is not None:
        return
    old = machine.flags[page]
    machine.nr_poisoned -= int(np.count_nonzero(old & play.POISONED))
    machine.used -= np.bincount(old & play.NODE_MASK, minlength=nodes)
    usage, rank = machine.usage(), machine.tier_rank
    room = np.maximum(0, usage.free_pages - usage.low_pages)
    order = np.lexsort((-room, rank))
    room[order[-1]] = len(page)
    node = np.repeat(order, room[order])[: len(page)].astype(np.uint8)
    machine.flags[page] = node
    machine.used += np.bincount(node, minlength=nodes)
    machine.moved_by_hand()
    bill.fast_births += int((rank[node] == 0).sum())


def ranges(born: list[NDArray[np.uint32]]) -> NDArray[np.int64]:
    """Return the ranges [start, end) of pages, int64[n, 2], ascending.

    >>> ranges([np.array([5, 3, 4], np.uint32), np.array([9, 3], np.uint32)]).tolist()
    [[3, 6], [9, 10]]
    """
    page = np.unique(np.concatenate(born)).astype(np.int64)
    first = np.flatnonzero(np.diff(page, prepend=-2) > 1)
    last = np.append(first[1:], len(page)) - 1
    return np.stack([page[first], page[last] + 1], axis=1)
