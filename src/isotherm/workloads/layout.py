"""Where a workload's structures lie: orders of pages that keep chunks together.

A program's hot structures come in runs of neighbouring pages (an array, an
arena, a huge page's worth of heap). A layout is a permutation of the pages that
keeps such runs whole and scatters the runs: index ``i`` of a structure lies in
page ``order[i]``.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: Pages per chunk, aligned; or "ragged": random lengths, aligned to nothing.
Contiguity = int | Literal["ragged"]

RAGGED_MIN_PAGES = 16
RAGGED_MAX_PAGES = 192


def scatter_pages(
    pages: int, rng: np.random.Generator, out: NDArray[np.uint32] | None = None
) -> NDArray[np.uint32]:
    """Return a random order of single pages, uint32[pages], 4 bytes a page.

    Args:
        pages: Footprint.
        rng: Decides the order.
        out: Where to write it, uint32[pages]; a new array otherwise.
    """
    order = np.empty(pages, np.uint32) if out is None else out
    order[:] = np.arange(pages, dtype=np.uint32)
    rng.shuffle(order)
    return order


def chunk_starts(
    pages: int, contiguity: Contiguity, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return where the chunks begin, increasing from 0, with ``pages`` at the end.

    With an integer every chunk has that many pages (the last one possibly
    fewer) and is aligned to it. Ragged chunks have 16 + geometric lengths of
    mean 64, cut at 192 pages.
    """
    if contiguity == "ragged":
        lengths = np.empty(0, np.int64)
        while lengths.sum() < pages:
            more = RAGGED_MIN_PAGES - 1 + rng.geometric(1 / 49, pages // 48 + 8)
            lengths = np.concatenate([lengths, np.minimum(more, RAGGED_MAX_PAGES)])
        ends = np.cumsum(lengths)
        inner = ends[ends < pages]
    else:
        inner = np.arange(contiguity, pages, contiguity, dtype=np.int64)
    return np.concatenate([[0], inner, [pages]]).astype(np.int64)


def chunk_pages(
    starts: NDArray[np.int64],
    chosen: NDArray[np.int64],
    out: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint32]:
    """Return the pages of the chosen chunks, chunk after chunk, uint32.

    Args:
        starts: From ``chunk_starts``.
        chosen: Chunk numbers, in the order wanted.
        out: Where to write them, of their total length; a new array otherwise.
    """
    lengths = (starts[1:] - starts[:-1])[chosen]
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    shift = (starts[:-1][chosen] - (ends - lengths)).astype(np.int64)
    order = np.empty(total, np.uint32) if out is None else out
    order[:] = np.arange(total, dtype=np.uint32)
    # Wraps modulo 2^32 where a chunk moves down: exact.
    order += np.repeat(shift.astype(np.uint32), lengths)
    return order


def scatter_chunks(
    pages: int,
    contiguity: Contiguity,
    rng: np.random.Generator,
    out: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint32]:
    """Return an order of pages in which chunks stay whole, uint32[pages].

    Args:
        pages: Footprint.
        contiguity: Pages per chunk (>= 1), or "ragged".
        rng: Decides lengths and order.
        out: Where to write it, uint32[pages]; a new array otherwise.
    """
    starts = chunk_starts(pages, contiguity, rng)
    return chunk_pages(starts, rng.permutation(len(starts) - 1), out)
