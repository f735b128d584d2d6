"""Workloads that differ in how heat lies inside huge pages: silo and liblinear."""

import numpy as np

from isotherm.core.errors import UsageError
from isotherm.workloads import spec
from isotherm.workloads.density import density_from_edges, flat, power
from isotherm.workloads.draw import MixtureStream
from isotherm.workloads.layout import scatter_chunks, scatter_pages
from isotherm.workloads.rng import generator, stream_key
from isotherm.workloads.stream import Generated
from isotherm.workloads.table import Part, build_table

#: Pages that an arena allocator takes at once: a huge page's worth.
ARENA_PAGES = 512
MAX_RECORDS = 1 << 31


def build_silo(own: spec.Silo, name: str, pages: int, seed: int) -> Generated:
    """Return YCSB on an in-memory database: a dense index, and scattered records.

    Part of the accesses walk the index, whose nodes lie in arenas of their own and
    are alike; the rest are reads of records, Zipf by record, ``records_per_page`` of
    them in a page, wherever the hash put them: every range of records has a few hot
    pages among many lukewarm ones (skewed inside).

    Raises:
        UsageError: More records than the draws tell apart.
    """
    rng = generator(seed, "silo")
    index = min(max(1, int(pages * own.index_pages)), pages - 1)
    records = (pages - index) * own.records_per_page
    if not 1 <= records < MAX_RECORDS:
        raise UsageError(
            f"{name}: records_per_page: expected fewer than {MAX_RECORDS} records"
            f" in all and at least one, got {records}"
        )
    order = scatter_chunks(pages, ARENA_PAGES, rng)
    place = scatter_pages(records, rng)
    place //= np.uint32(own.records_per_page)
    page_map = np.concatenate([order[:index], order[index:][place]])
    key = stream_key(rng)
    parts = [Part(1 - own.index_share, power(records, own.exponent), base=index)]
    if index and own.index_share > 0:
        parts.append(Part(own.index_share, flat(index)))
    table = build_table(parts)
    return Generated(
        name,
        pages,
        lambda: MixtureStream(table, page_map, key, own.write_share),
        writes=own.write_share is not None,
    )


def build_liblinear(own: spec.Liblinear, name: str, pages: int, seed: int) -> Generated:
    """Return training over dense arrays: ranges differ, the pages of each are alike.

    Ranges of 512 pages have Zipf weights in random order (uniform inside).
    """
    rng = generator(seed, "liblinear")
    order = scatter_chunks(pages, ARENA_PAGES, rng)
    ranges = -(-pages // ARENA_PAGES)
    edges = np.minimum(np.arange(ranges + 1, dtype=np.int64) * ARENA_PAGES, pages)
    weight = np.arange(1, ranges + 1, dtype=np.float64) ** -own.exponent
    weight *= np.diff(edges) / ARENA_PAGES
    key = stream_key(rng)
    table = build_table([Part(1.0, density_from_edges(edges, weight))])
    return Generated(
        name,
        pages,
        lambda: MixtureStream(table, order, key, own.write_share),
        writes=own.write_share is not None,
    )
