"""Where pages are before an experiment begins."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.trace.stream import AccessChunk

PLACEMENTS = {
    "random": "anywhere: a host that has run for weeks",
    "first-access": "in order of first touch, fast tier first",
    "slowest": "all in the slowest tier: a host that has pushed its memory out",
}


def place(
    order: NDArray[np.uint32],
    capacity: NDArray[np.int64],
    tier_rank: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Return the node of every page, filling nodes fastest tier first.

    Args:
        order: All pages, in the order in which they are placed, uint32[pages].
        capacity: Pages per node.
        tier_rank: Tier rank per node.
    """
    node = np.full(len(order), np.argmax(tier_rank), np.uint8)  # if nobody has room
    done = 0
    for k in np.argsort(tier_rank, kind="stable"):
        upto = min(len(order), done + int(capacity[k]))
        node[order[done:upto]] = k
        done = upto
    return node


def random_order(pages: int, seed: int) -> NDArray[np.uint32]:
    """Return pages in random order."""
    order = np.arange(pages, dtype=np.uint32)
    np.random.default_rng([seed, 0x91]).shuffle(order)
    return order


def first_access_order(pages: int, chunks: Iterable[AccessChunk]) -> NDArray[np.uint32]:
    """Return pages in order of first touch; untouched ones last, ascending."""
    seen = np.zeros(pages, np.bool_)
    parts = []
    left = pages
    for chunk in chunks:
        fresh = chunk.page[~seen[chunk.page]]
        if len(fresh):
            unique, first = np.unique(fresh, return_index=True)
            parts.append(unique[np.argsort(first, kind="stable")])
            seen[unique] = True
            left -= len(unique)
        if left == 0:
            break
    parts.append(np.flatnonzero(~seen).astype(np.uint32))
    return np.concatenate(parts)


def check_placement(name: str) -> None:
    """Raise UsageError for a placement that nobody knows."""
    if name not in PLACEMENTS:
        known = ", ".join(PLACEMENTS)
        raise UsageError(
            f"placement: expected {known}, got {name!r}{did_you_mean(name, PLACEMENTS)}"
        )
