"""Evidence of single pages: bits of some pages of a block, faults, silences.

Nothing decays here and no neighbourhood learns; whoever calls sees to that.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import (
    BLOCK_PAGES,
    AccessedBits,
    FaultDelays,
    RegionCounts,
)
from isotherm.hotness import arithmetic as ar
from isotherm.hotness import evidence, regions

WRITE_SHARE = 0.3  # of the accesses: what bits say that only writes set
MOST_SET = 0.98  # share of checks with a set bit: above, any rate is possible

Salts = Callable[[int], int]  # so many draws to come: a salt of their own


def unlike_whole(seen: AccessedBits, whole: AccessedBits) -> AccessedBits | None:
    """Return the blocks of which some pages were not observed; None: none.

    Args:
        seen: All blocks.
        whole: Those of which all pages were observed.
    """
    if seen.observed is None or len(whole.block) == len(seen.block):
        return None
    part = ~np.isin(seen.block, whole.block) & (seen.interval_s > 0)
    if not part.any():
        return None
    return AccessedBits(
        seen.block[part],
        seen.bits[part],
        seen.interval_s[part],
        seen.observed[part],
        seen.opening,
    )


def see_bits(
    code: NDArray[np.uint16],
    history: NDArray[np.uint8],
    seen: AccessedBits,
    unit: float,
    salts: Salts,
    *,
    looks: bool = False,
) -> None:
    """Fuse the bits of the pages that were observed, page by page.

    Where only writes set them a page that is read too is seen through a thinned
    stream: exposure counts by the share of writes, for set and unset bits alike.
    (Set bits in full and no unset ones would find all hot.)

    Args:
        code: Filters, uint16[pages], changed.
        history: Last looks, uint8[pages], changed.
        seen: The bits.
        unit: Reference rate, accesses per page per second.
        salts: For rounding.
        looks: Whether the bits make history; else set ones count like samples.
    """
    page = seen.block.astype(np.int64)[:, None] * BLOCK_PAGES + np.arange(8)
    bit = (seen.bits[:, None] >> np.arange(8)) & 1
    known = np.broadcast_to(seen.interval_s[:, None] > 0, page.shape)
    known = known & (page < len(code))
    if seen.observed is not None:
        known = known & (((seen.observed[:, None] >> np.arange(8)) & 1) > 0)
    if not known.any():
        return
    interval = np.broadcast_to(seen.interval_s[:, None], page.shape)[known]
    scale = unit * (WRITE_SHARE if seen.writes_only else 1.0)
    evidence.see(
        code,
        history,
        page[known].astype(np.uint32),
        bit[known].astype(np.uint8),
        interval.astype(np.float64) * scale,
        int(looks),
        salts(1),
    )


def add_faults(
    code: NDArray[np.uint16],
    history: NDArray[np.uint8],
    seen: FaultDelays,
    unit: float,
    salts: Salts,
) -> None:
    """Add faults and silences; what a silence has told a fault does not repeat.

    Args:
        code: Filters, uint16[pages], changed.
        history: Last looks, uint8[pages], changed.
        seen: Faults and silent pages.
        unit: Reference rate, accesses per page per second.
        salts: For rounding.
    """
    since_s = seen.delay_s if seen.exposure_s is None else seen.exposure_s
    for page, seconds, count in (
        (seen.page, since_s, 1.0),
        (seen.silent, seen.silent_s, 0.0),
    ):
        if len(page):
            exposure = seconds.astype(np.float64) * unit
            evidence.add_events(code, history, page, count, exposure, salts(len(page)))


def spread_checks(
    seen: RegionCounts, blocks: int, unit: float, salt: int
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Spread a region's checks over its blocks, as a look at each.

    Args:
        seen: Checks of regions.
        blocks: Blocks of eight pages that there are.
        unit: Reference rate, accesses per page per second.
        salt: For rounding.

    Returns:
        Block and code of its look, int64[n], uint16[n].
    """
    first = seen.start.astype(np.int64) // BLOCK_PAGES
    last = np.maximum(first + 1, seen.end.astype(np.int64) // BLOCK_PAGES)
    size = last - first
    block = np.repeat(first - np.concatenate([[0], np.cumsum(size)[:-1]]), size)
    block = block + np.arange(int(size.sum()))
    keep = block < blocks
    block = block[keep]
    q = np.minimum(np.repeat(seen.nr_accesses, size)[keep] / seen.checks, MOST_SET)
    k = BLOCK_PAGES * (1.0 - np.power(1.0 - q, seen.checks))
    noise = ar.mix_array(block.astype(np.uint64), salt)
    draw = (noise >> np.uint64(40)).astype(np.float64) / (1 << 24)
    found = np.floor(k + draw).astype(np.int64)
    interval = np.full(len(block), seen.checks * seen.interval_s * unit)
    code: NDArray[np.uint16] = regions.look_code_array(found, interval)
    return block, code
