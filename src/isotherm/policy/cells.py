"""Cells: what the policy tells pages apart by.

A page's cell is (its last looks, its own rate, its region's rate), each in a few
steps relative to the mean. Thousands of pages share a cell, so a cell's true
rate and where its pages go next can be learnt within seconds; a decision is
made for a cell and carried out on its pages.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.hotness import arithmetic as ar
from isotherm.hotness.evidence import HISTORY_MASK
from isotherm.hotness.regions import REGION_CODES, region_rate_array

OWN_STEPS = 2.0  # per octave of a page's own rate
REGION_STEPS = 2.0  # per octave of a region's rate
HISTORY_LEVELS = 4
OWN_LEVELS = 14  # 7 octaves: 1/11 to 11 times the mean
REGION_LEVELS = 11
NOT_COUNTED = 255
OWN_CODES = 4  # of a page's own rate in one of a region's: 32 and 8 an octave
ALONE_LEVELS = OWN_LEVELS * REGION_LEVELS  # of the own rate where there is no other
ALONE_STEPS = 8.0  # per octave: 19 octaves, 1/780 to 780 times the mean
AHEAD = HISTORY_LEVELS * OWN_LEVELS * REGION_LEVELS  # first cell ahead of a front
CELLS = AHEAD + OWN_LEVELS  # there only the own rate counts

Bytes = NDArray[np.uint8]
Cells = NDArray[np.uint16]
Table = NDArray[np.int32]


def history_table() -> Table:
    """Return the history part of the cell for each of 64 histories.

    0: nothing in the last four looks; 1: something, but not in the newest;
    2: the newest alone of the last two; 3: both of the last two.
    """
    h = np.arange(HISTORY_MASK + 1)
    newest, before = h & 1, (h >> 1) & 1
    level = np.where(newest == 1, 2 + before, ((h & 0xF) != 0).astype(np.int64))
    return (level * OWN_LEVELS * REGION_LEVELS).astype(np.int32)


def own_table(relative: float) -> Table:
    """Return the own-rate part of the cell for each rate code.

    Args:
        relative: Reference rate over the mean rate.
    """
    rate = ar.decode_array(np.arange(ar.RATE_CODES), ar.RATE_SHIFT, ar.RATE_OFFSET)
    step = np.floor(np.log2(rate * relative) * OWN_STEPS + OWN_LEVELS / 2 + 0.5)
    return (np.clip(step, 0, OWN_LEVELS - 1) * REGION_LEVELS).astype(np.int32)


def region_table(relative: float) -> Table:
    """Return the region part of the cell for each region code."""
    rate = region_rate_array(np.arange(REGION_CODES, dtype=np.uint8)) * relative
    step = np.floor(np.log2(rate) * REGION_STEPS + REGION_LEVELS / 2 + 0.5)
    return np.clip(step, 0, REGION_LEVELS - 1).astype(np.int32)


def alone_table(relative: float) -> Table:
    """Return the cell, but for history, by the own rate alone, for each rate code.

    Where a page's neighbours say nothing of it, their part of the cell goes to the
    own rate, in finer and more steps.

    Args:
        relative: Reference rate over the mean rate.
    """
    rate = ar.decode_array(np.arange(ar.RATE_CODES), ar.RATE_SHIFT, ar.RATE_OFFSET)
    step = np.floor(np.log2(rate * relative) * ALONE_STEPS + ALONE_LEVELS / 2 + 0.5)
    return np.clip(step, 0, ALONE_LEVELS - 1).astype(np.int32)


def alone_features() -> NDArray[np.float64]:
    """Return `features` for `alone_table`: the region's column is 0."""
    z = features()
    step = np.arange(AHEAD) % ALONE_LEVELS
    z[:, HISTORY_LEVELS] = (step - ALONE_LEVELS / 2) * np.log(2.0) / ALONE_STEPS
    z[:, HISTORY_LEVELS + 1] = 0.0
    return z


def features() -> NDArray[np.float64]:
    """Return the regressors of every cell, float64[AHEAD, HISTORY_LEVELS + 3].

    One column per history level, ln of own and of region rate over the mean, 1.
    """
    cell = np.arange(AHEAD)
    region = cell % REGION_LEVELS
    own = cell // REGION_LEVELS % OWN_LEVELS
    history = cell // (REGION_LEVELS * OWN_LEVELS)
    octave = np.log(2.0)
    z = np.ones((AHEAD, HISTORY_LEVELS + 3))
    z[:, :HISTORY_LEVELS] = 0.0
    z[cell, history] = 1.0
    z[:, HISTORY_LEVELS] = (own - OWN_LEVELS / 2) * octave / OWN_STEPS
    z[:, HISTORY_LEVELS + 1] = (region - REGION_LEVELS / 2) * octave / REGION_STEPS
    return z


def assign_twin(
    code: NDArray[np.uint16],
    history: Bytes,
    region: Bytes,
    node: Bytes,
    tier: Bytes,
    by_history: Table,
    by_own: Table,
    by_region: Table,
    first: int,
    last: int,
    cell: Cells,
    counted: Bytes,
    population: NDArray[np.int32],
    transitions: NDArray[np.float32],
    weight: float,
    stride: int,
    ahead: NDArray[np.int64],
    shift: NDArray[np.int8],
) -> None:
    """Numpy twin of `assign`."""
    page = np.arange(8 * first, min(8 * last, len(code)))
    if not len(page):
        return
    rate = (code[page] >> ar.EXPOSURE_BITS).astype(np.int64)
    around = region[page // 8].astype(np.int64)
    if len(shift):
        step = shift[page // 8].astype(np.int64)
        rate = np.clip(rate + OWN_CODES * step, 0, ar.RATE_CODES - 1)
        around = np.clip(around + step, 0, REGION_CODES - 1)
    part = by_region[around]
    new = part + by_history[history[page] & HISTORY_MASK]
    new = new + by_own[rate]
    in_way = np.zeros(len(page), np.bool_)
    for low, high in ahead.tolist():
        in_way |= (page // 8 >= low) & (page // 8 < high)
    own = by_own[rate[in_way]] // REGION_LEVELS
    new[in_way] = AHEAD + own
    was = counted[page]
    before = was != NOT_COUNTED
    old = cell[page].astype(np.int64)
    np.subtract.at(population, (old[before], was[before]), 1)
    now = tier[node[page]]
    np.add.at(population, (new, now), 1)
    if weight > 0:
        none = population.shape[1] - 1
        followed = ((page // 8) % stride == 0) & (was < none) & (now < none)
        # One after the other, as the kernel adds: single floats are not associative.
        np.add.at(transitions, (old[followed], new[followed]), np.float32(weight))
    cell[page] = new
    counted[page] = now


@kernel(twin=assign_twin)
def assign(
    code: NDArray[np.uint16],
    history: Bytes,
    region: Bytes,
    node: Bytes,
    tier: Bytes,
    by_history: Table,
    by_own: Table,
    by_region: Table,
    first: int,
    last: int,
    cell: Cells,
    counted: Bytes,
    population: NDArray[np.int32],
    transitions: NDArray[np.float32],
    weight: float,
    stride: int,
    ahead: NDArray[np.int64],
    shift: NDArray[np.int8],
) -> None:
    """Put the pages of blocks ``[first, last)`` into their cells; keep the counts.

    Args:
        code: Filters, uint16[pages].
        history: Look histories, uint8[pages].
        region: Region rate codes, uint8[blocks].
        node: Placement, uint8[pages].
        tier: Tier rank of every node, uint8[256]; that of 255, of pages without
            memory, is the number of tiers, like that of nodes in no tier.
        by_history: `history_table`.
        by_own: `own_table`.
        by_region: `region_table`.
        first: First block.
        last: One past the last.
        cell: In: cells so far; out: of this epoch, uint16[pages].
        counted: The tier that a page is counted in, uint8[pages], changed;
            ``NOT_COUNTED`` before its first time.
        population: Pages per cell and tier, int32[CELLS, tiers + 1], changed; the
            last column holds pages in no tier.
        transitions: Weight of pages that went from cell to cell, in a tier before
            and after, added to.
        weight: Weight of one page; 0: do not count.
        stride: Count one block in so many.
        ahead: Blocks ahead of sweeps, ranges, ascending, int64[n, 2].
        shift: What is added to the rates of a block's pages, and around it, in
            codes of a region's rate, int8[blocks]; int8[0]: nothing.
    """
    pages = code.size
    none = population.shape[1] - 1
    at = 0
    for j in range(first, last):
        while at < len(ahead) and j >= ahead[at, 1]:
            at += 1
        in_way = at < len(ahead) and j >= ahead[at, 0]
        step = np.int64(shift[j]) if shift.size > 0 else np.int64(0)
        around = np.int64(region[j]) + step
        part = by_region[min(max(around, np.int64(0)), np.int64(REGION_CODES - 1))]
        follow = weight > 0 and j % stride == 0
        for p in range(8 * j, min(8 * j + 8, pages)):
            own = np.int64(code[p] >> ar.EXPOSURE_BITS)
            if step != 0:
                own = min(
                    max(own + OWN_CODES * step, np.int64(0)),
                    np.int64(ar.RATE_CODES - 1),
                )
            new = part + by_history[history[p] & HISTORY_MASK] + by_own[own]
            if in_way:
                new = AHEAD + by_own[own] // REGION_LEVELS
            old = cell[p]
            now = tier[node[p]]
            was = counted[p]
            if follow and was < none and now < none:
                transitions[old, new] += np.float32(weight)
            if new != old or now != was:
                if was != NOT_COUNTED:
                    population[old, was] -= 1
                population[new, now] += 1
                cell[p] = new
                counted[p] = now


def recount_twin(
    page: NDArray[np.uint32],
    node: Bytes,
    tier: Bytes,
    cell: Cells,
    counted: Bytes,
    population: NDArray[np.int32],
) -> None:
    """Numpy twin of `recount`."""
    page = np.unique(page)
    now = tier[node[page]]
    np.subtract.at(population, (cell[page], counted[page]), 1)
    np.add.at(population, (cell[page], now), 1)
    counted[page] = now


@kernel(twin=recount_twin)
def recount(
    page: NDArray[np.uint32],
    node: Bytes,
    tier: Bytes,
    cell: Cells,
    counted: Bytes,
    population: NDArray[np.int32],
) -> None:
    """Count pages in the tier where they are now.

    Args:
        page: Pages that moved and were counted before, uint32[n]; one that has
            moved there and back between two epochs may stand there twice.
        node: Placement, uint8[pages].
        tier: Tier rank of every node, uint8[256].
        cell: uint16[pages].
        counted: The tier that a page is counted in, uint8[pages], changed.
        population: Pages per cell and tier, int32[CELLS, tiers + 1], changed.
    """
    for i in range(page.size):
        p = page[i]
        c = cell[p]
        population[c, counted[p]] -= 1
        now = tier[node[p]]
        population[c, now] += 1
        counted[p] = now


def take_twin(
    cell: Cells,
    node: Bytes,
    tier: Bytes,
    upper: int,
    start: int,
    up: NDArray[np.int64],
    down: NDArray[np.int64],
    up_page: NDArray[np.uint32],
    down_page: NDArray[np.uint32],
) -> tuple[int, int]:
    """Numpy twin of `take`."""
    turn = np.concatenate([np.arange(start, len(cell)), np.arange(start)])
    of, rank = cell[turn], tier[node[turn]].astype(np.int64)
    n_up = _pick_first(turn, of, rank == upper + 1, up, up_page)
    n_down = _pick_first(turn, of, rank == upper, down, down_page)
    return n_up, n_down


def _pick_first(
    page: NDArray[np.int64],
    cell: Cells,
    there: NDArray[np.bool_],
    wanted: NDArray[np.int64],
    out: NDArray[np.uint32],
) -> int:
    """Pick the first ``wanted`` pages of each cell of those there, in order."""
    at = np.flatnonzero(there & (wanted[cell] > 0))
    of = cell[at]
    by_cell = np.argsort(of, kind="stable")
    count = np.bincount(of, minlength=len(wanted))
    before = np.cumsum(count) - count
    number = np.empty(len(at), np.int64)  # of a page among those of its cell
    number[by_cell] = np.arange(len(at)) - before[of[by_cell]]
    picked = page[at[number < wanted[of]]]
    np.subtract(wanted, count, out=wanted, where=wanted > 0)
    np.maximum(wanted, 0, out=wanted)
    out[: len(picked)] = picked
    return len(picked)


@kernel(twin=take_twin)
def take(
    cell: Cells,
    node: Bytes,
    tier: Bytes,
    upper: int,
    start: int,
    up: NDArray[np.int64],
    down: NDArray[np.int64],
    up_page: NDArray[np.uint32],
    down_page: NDArray[np.uint32],
) -> tuple[int, int]:
    """Pick so many pages of each cell, going round the memory from ``start``.

    Args:
        cell: uint16[pages].
        node: Placement, uint8[pages].
        tier: Tier rank of every node, uint8[256].
        upper: Rank of the upper tier of the boundary.
        start: First page.
        up: Pages wanted from the lower tier per cell, int64[CELLS], used up.
        down: Pages wanted from the upper tier per cell, int64[CELLS], used up.
        up_page: Filled.
        down_page: Filled.

    Returns:
        Pages picked up and down.
    """
    pages = cell.size
    left = up.sum() + down.sum()
    wanted = np.zeros(up.size, np.uint8)  # one look rules out most pages
    for c in range(up.size):
        if up[c] > 0 or down[c] > 0:
            wanted[c] = 1
    n_up = 0
    n_down = 0
    for i in range(pages):
        p = start + i
        if p >= pages:
            p -= pages
        c = cell[p]
        if wanted[c] == 0:
            continue
        t = np.int64(tier[node[p]])
        if t == upper + 1 and up[c] > 0:
            up[c] -= 1
            up_page[n_up] = p
            n_up += 1
        elif t == upper and down[c] > 0:
            down[c] -= 1
            down_page[n_down] = p
            n_down += 1
        else:
            continue
        if up[c] == 0 and down[c] == 0:
            wanted[c] = 0
        left -= 1
        if left == 0:
            break
    return n_up, n_down
