"""Moves rounded to whole huge pages, within the room that they leave each other."""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGES_PER_HUGE_PAGE
from isotherm.policy.plan import Epoch, Moves, Reason

#: A huge page of which so many pages are to move moves whole; else it stays.
HALF = PAGES_PER_HUGE_PAGE // 2

Ints = NDArray[np.int64]


def whole_moves(
    moves: Moves,
    epoch: Epoch,
    huge: NDArray[np.bool_],
    tier: NDArray[np.uint8],
    tiers: int,
) -> Moves:
    """Return moves of which every huge page moves with all of its pages, or none.

    Args:
        moves: Wishes by page, best first within each direction.
        epoch: Placement and usage.
        huge: Which ranges are huge, bool[pages // 512].
        tier: Tier rank of every node, uint8[256]; the number of tiers: in none.
        tiers: Tiers there are.

    Returns:
        In the same order; a huge page stands where its first page stood. What no
        tier has room for is left out, and so are pages that make room for nobody.
    """
    block = moves.page.astype(np.int64) // PAGES_PER_HUGE_PAGE
    inside = block < len(huge)
    inside[inside] = huge[block[inside]]
    if not inside.any():
        return moves
    rows = np.flatnonzero(inside)
    _, first, count = np.unique(block[rows], return_index=True, return_counts=True)
    chosen = count >= HALF
    at = rows[first[chosen]]
    row = np.sort(np.concatenate([np.flatnonzero(~inside), at]))
    size = np.where(inside[row], PAGES_PER_HUGE_PAGE, 1)
    row, size = _within_room(row, size, moves, epoch, tier, tiers)
    out = moves.take(np.repeat(row, size))
    begin = np.cumsum(size) - size
    number = np.arange(len(out)) - np.repeat(begin, size)
    base = np.where(size > 1, block[row] * PAGES_PER_HUGE_PAGE, moves.page[row])
    page = np.repeat(base, size) + number
    return Moves(page.astype(np.uint32), out.node, out.gain_ns, out.reason)


def _within_room(
    row: Ints,
    size: Ints,
    moves: Moves,
    epoch: Epoch,
    tier: NDArray[np.uint8],
    tiers: int,
) -> tuple[Ints, Ints]:
    """Return the rows of moves that fit, with their sizes; every tier but the last.

    Args:
        row: Rows of ``moves``: a page, or the first of a huge page.
        size: Pages of each.
        moves: All wishes.
        epoch: Placement and usage.
        tier: Tier rank of every node.
        tiers: Tiers there are.
    """
    src = tier[epoch.node[moves.page[row]]]
    dst = tier[moves.node[row]]
    free = np.zeros(tiers + 1, np.int64)
    room = np.maximum(0, epoch.usage.free_pages)
    np.add.at(free, tier[: len(room)], room)
    keep = np.ones(len(row), np.bool_)
    kept = len(row) + 1
    while np.count_nonzero(keep) < kept:  # what one tier refuses stays in another
        kept = int(np.count_nonzero(keep))
        for t in range(tiers - 1):
            going = keep & (src == t) & (dst != t)
            coming = keep & (dst == t) & (src != t)
            left = int(size[going].sum())
            fits = np.cumsum(np.where(coming, size, 0)) <= left + free[t]
            keep &= ~coming | fits
            needed = int(size[keep & coming].sum()) - int(free[t])
            makes = going & (moves.reason[row] == Reason.MAKES_ROOM)
            before = np.cumsum(np.where(going, size, 0)) - np.where(going, size, 0)
            keep &= ~(makes & (before >= max(0, needed)))
    return row[keep], size[keep]
