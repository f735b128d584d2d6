"""The coldest pages of a node: counted by kind, chosen by kind, picked one by one.

Two passes over a window of the memory, whatever is in it; what is ordered is kinds of
page, never pages.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel

#: Of a large memory, so many pages are looked at in an epoch.
SEARCHED: Final = 1 << 20

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kinds = NDArray[np.uint16]

_NOBODY: Final = np.empty(0, np.uint8)


def coldest(
    node: Bytes,
    kind: Kinds,
    rate: Floats,
    at: int,
    count: int,
    but: tuple[NDArray[np.uint32], ...] = (),
    turn: int = 0,
    label: Bytes | None = None,
    give: Ints | None = None,
    weight: Floats | None = None,
) -> Ints:
    """Return the coldest pages of a node, ascending, int64[at most ``count``].

    Of a memory of more than ``SEARCHED`` pages one window, another each turn.

    Args:
        node: Placement, uint8[pages].
        kind: Kind of every page, uint16[pages].
        rate: Of every kind.
        at: The node.
        count: Pages wanted.
        but: Pages that are out of the question.
        turn: Which window, counted from 0, going round.
        label: Whose every page is, uint8[pages]; None: nobody asks.
        give: Pages that each of them may give, int64[tenants].
        weight: What a page of each counts beside another's as warm.
    """
    windows = -(-len(node) // SEARCHED)
    low = turn % max(1, windows) * SEARCHED
    high = min(len(node), len(kind), low + SEARCHED)
    if count <= 0 or high <= low:
        return np.empty(0, np.int64)
    skip = np.zeros(high - low, np.bool_)
    for pages in but:
        inside = pages[(pages >= low) & (pages < high)]
        skip[inside.astype(np.int64) - low] = True
    whose = _NOBODY if label is None else label[low:high]
    tenants = 1 if give is None or label is None else len(give)
    there = np.zeros((tenants, len(rate)), np.int64)
    count_kinds(node[low:high], kind[low:high], whose, skip, at, there)
    if give is not None and label is not None:
        there = _within(there, rate, give)
    heat = rate[None, :] * (np.ones(tenants) if weight is None else weight)[:, None]
    order = np.argsort(heat.ravel(), kind="stable")
    upto = np.minimum(np.cumsum(there.ravel()[order]), count)
    wanted = np.zeros(there.size, np.int64)
    wanted[order] = np.diff(upto, prepend=0)
    out = np.empty(int(wanted.sum()), np.int64)
    pick_kinds(
        node[low:high],
        kind[low:high],
        whose,
        skip,
        at,
        wanted.reshape(there.shape),
        out,
    )
    return out + low


def _within(there: Ints, rate: Floats, give: Ints) -> Ints:
    """Return pages by tenant and kind of which nobody gives more than it may."""
    order = np.argsort(rate, kind="stable")
    upto = np.minimum(np.cumsum(there[:, order], 1), np.maximum(give, 0)[:, None])
    found = np.empty_like(there)
    found[:, order] = np.diff(upto, axis=1, prepend=0)
    return found


def count_kinds_twin(
    node: Bytes, kind: Kinds, label: Bytes, skip: Flags, at: int, out: Ints
) -> None:
    """Numpy twin of `count_kinds`."""
    here = np.flatnonzero((node == at) & ~skip)
    row = label[here].astype(np.int64) if len(label) else np.zeros(len(here), np.int64)
    flat = row * out.shape[1] + kind[here]
    out += np.bincount(flat, minlength=out.size).reshape(out.shape)


@kernel(twin=count_kinds_twin)
def count_kinds(
    node: Bytes, kind: Kinds, label: Bytes, skip: Flags, at: int, out: Ints
) -> None:
    """Count the pages of a node by tenant and kind.

    Args:
        node: Placement, uint8[pages].
        kind: uint16[pages].
        label: Whose every page is, uint8[pages]; empty: all are of one.
        skip: Pages that do not count, bool[pages].
        at: The node.
        out: int64[tenants, kinds], added to.
    """
    one = label.size == 0
    for p in range(node.size):
        if node[p] == at and not skip[p]:
            row = 0 if one else np.int64(label[p])
            out[row, kind[p]] += 1


def pick_kinds_twin(
    node: Bytes,
    kind: Kinds,
    label: Bytes,
    skip: Flags,
    at: int,
    wanted: Ints,
    out: Ints,
) -> None:
    """Numpy twin of `pick_kinds`."""
    here = np.flatnonzero((node == at) & ~skip)
    row = label[here].astype(np.int64) if len(label) else np.zeros(len(here), np.int64)
    flat = row * wanted.shape[1] + kind[here]
    by_kind = np.argsort(flat, kind="stable")
    count = np.bincount(flat, minlength=wanted.size)
    before = np.cumsum(count) - count
    number = np.empty(len(here), np.int64)
    number[by_kind] = np.arange(len(here)) - before[flat[by_kind]]
    out[:] = here[number < wanted.ravel()[flat]]
    wanted[:] = 0


@kernel(twin=pick_kinds_twin)
def pick_kinds(
    node: Bytes,
    kind: Kinds,
    label: Bytes,
    skip: Flags,
    at: int,
    wanted: Ints,
    out: Ints,
) -> None:
    """Pick so many pages of a node of each tenant and kind, the first of each.

    Args:
        node: Placement, uint8[pages].
        kind: uint16[pages].
        label: Whose every page is, uint8[pages]; empty: all are of one.
        skip: Pages that are left, bool[pages].
        at: The node.
        wanted: Pages, no more than there are, int64[tenants, kinds], used up.
        out: Filled with pages, ascending, int64[all wanted].
    """
    one = label.size == 0
    done = 0
    for p in range(node.size):
        if done == out.size:
            break
        if node[p] == at and not skip[p]:
            row = 0 if one else np.int64(label[p])
            if wanted[row, kind[p]] > 0:
                wanted[row, kind[p]] -= 1
                out[done] = p
                done += 1
