"""Placing by hand: who makes room, what is written back, what is given back."""

import numpy as np
from numpy.typing import NDArray

from isotherm.gpu.mover import Mover
from isotherm.gpu.protocol import HBM, Slot, SlotProtocol
from isotherm.gpu.tiering import Tiering

#: Rounds of writing back: one is enough, unless pages are on their way meanwhile.
MOST_ROUNDS = 16


def coldest(
    protocol: SlotProtocol,
    tiering: Tiering | None,
    count: int,
    *,
    besides: NDArray[np.uint32],
) -> NDArray[np.uint32]:
    """Return so many pages in device memory with the lowest rates, pinned ones never.

    Args:
        protocol: Knows who is there.
        tiering: Knows their rates; before its first epoch the lowest pages go.
        count: How many.
        besides: Pages that are to stay.
    """
    page = np.flatnonzero(protocol.place == HBM).astype(np.uint32)
    page = page[~np.isin(page, besides)]
    page = page[~protocol.is_pinned(page)]
    view = None if tiering is None else tiering.view
    if view is not None:
        page = page[np.argsort(view.rate(page), kind="stable")]
    return page[:count]


def bring(mover: Mover, tiering: Tiering | None, page: NDArray[np.uint32]) -> int:
    """Promote pages by copies; the coldest others make room.

    Returns:
        Pages that are there, or will be.
    """
    protocol = mover.protocol
    with mover.lock:
        away = page[protocol.place[page] != HBM]
        lack = len(away) - protocol.room
        if lack > 0:
            mover.demote(coldest(protocol, tiering, lack, besides=page))
        mover.promote(page, copy=True)
        return int(np.count_nonzero(protocol.place[page] == HBM))


def bring_now(mover: Mover, tiering: Tiering | None, page: NDArray[np.uint32]) -> int:
    """Promote pages as ``bring`` does, and wait until they are there; return how many.

    A page that waited for a slot to be deposited in is copied in a second round.
    """
    protocol = mover.protocol
    there = 0
    for _ in range(MOST_ROUNDS):
        promised = bring(mover, tiering, page)
        mover.settle()
        with mover.lock:
            slot = protocol.slot_of[page]
            state = protocol.state[slot[slot >= 0]]
            there = int(np.count_nonzero(state == Slot.LIVE))
        if there >= promised:
            break
    return there


def write_back(mover: Mover) -> int:
    """Copy dirty pages out, wait for it; return how many there were.

    What is written meanwhile may be left dirty.
    """
    count = 0
    for _ in range(MOST_ROUNDS):
        mover.settle()  # a slot that is on its way is not flushed
        with mover.lock:
            pending = mover.backend.dirty_slots()
        dirty = pending.result()
        with mover.lock:
            mover.protocol.flush(dirty)
        mover.settle()
        count += len(dirty)
        if not len(dirty):
            break
    return count


def send_away(mover: Mover, page: NDArray[np.uint32]) -> None:
    """Let pages be on the host alone, and nobody read them there, until let go.

    Whoever calls this ends it by ``protocol.hold(page, on=False)``.
    """
    protocol = mover.protocol
    with mover.lock:
        protocol.hold(page)

    def are_away() -> bool:
        mover.demote(page)  # again: one that was written too fast had stayed
        return bool((protocol.slot_of[page] < 0).all()) and protocol.settled

    mover.settle(are_away)
    mover.backend.synchronise()


def give_back(mover: Mover, slots: int) -> None:
    """Empty the slots from ``slots`` on and give them back to the device."""
    protocol = mover.protocol

    def is_shrunk() -> bool:
        protocol.shrink(slots)  # again, for the same reason
        return protocol.is_shrunk and protocol.settled

    mover.settle(is_shrunk)
    with mover.lock:
        mover.backend.shrink(slots)
