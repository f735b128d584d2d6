"""What a batch says before any filter has seen it."""

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import (
    BLOCK_PAGES,
    AccessedBits,
    FaultDelays,
    HintBatch,
    RangeCounts,
    Samples,
)

MOST_SET = 0.98  # share of set bits that a rate is taken of: above, any is possible


def check(batch: HintBatch, pages: int) -> None:
    """Refuse evidence of pages that there are not.

    Args:
        batch: The batch.
        pages: Length of the flat page index.

    Raises:
        ValueError: A page lies beyond the flat index.
    """
    seen = batch.seen
    if isinstance(seen, Samples):
        columns: tuple[NDArray[np.integer], ...] = (seen.page,)
    elif isinstance(seen, FaultDelays):
        columns = (seen.page, seen.silent)
    elif isinstance(seen, AccessedBits):
        columns = (seen.block * np.uint32(BLOCK_PAGES),)
    elif isinstance(seen, RangeCounts):
        columns = (seen.end - np.uint32(1), seen.watched[:, 1] - 1)
    else:
        columns = (seen.start,)
    most = max((int(column.max()) for column in columns if len(column)), default=-1)
    if most >= pages:
        raise ValueError(f"{batch.source}: page {most}, expected below {pages}")


def first_rate(
    batches: tuple[HintBatch, ...], pages: int, epoch_s: float
) -> float | None:
    """Return a mean rate from the first bits, counts or samples alone.

    Args:
        batches: Of one epoch.
        pages: Length of the flat page index.
        epoch_s: Length of an epoch.

    Returns:
        Accesses per page per second; None: nothing says any.
    """
    for batch in batches:
        seen = batch.seen
        if isinstance(seen, AccessedBits):
            seen = seen.whole_blocks(pages)
            if not len(seen.block):
                continue
            share = np.unpackbits(seen.bits).mean()
            interval_s = float(seen.interval_s.mean())
            if interval_s > 0 and share > 0:
                return float(-np.log1p(-min(share, MOST_SET)) / interval_s)
        if isinstance(seen, RangeCounts) and float(seen.exposure_s.sum()) > 0:
            watched = int((seen.watched[:, 1] - seen.watched[:, 0]).sum())
            seconds = float(seen.exposure_s.mean())
            return float(seen.count.sum()) / max(1, watched) / seconds or None
        if isinstance(seen, Samples) and len(seen.page):
            return len(seen.page) * seen.period / (pages * epoch_s)
    return None
