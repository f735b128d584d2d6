"""Generators that change at most once: zipf, gups, gups-shift, uniform, stream."""

import numpy as np

from isotherm.workloads import spec
from isotherm.workloads.density import flat, power
from isotherm.workloads.draw import MixtureStream
from isotherm.workloads.layout import scatter_chunks, scatter_pages
from isotherm.workloads.rng import generator, stream_key
from isotherm.workloads.stream import TICK_S, Generated
from isotherm.workloads.table import Part, build_table

NO_MAP = np.empty(0, np.uint32)


def hot_set_pages(pages: int, share: float) -> int:
    """Return the size of a hot set, at least one page."""
    return max(1, min(pages, int(pages * share)))


def build_zipf(own: spec.Zipf, name: str, pages: int, seed: int) -> Generated:
    """Return Zipf over single pages in random order.

    The page at rank r = 1, 2... has weight r^-exponent (YCSB's
    ZipfianGenerator with its constant 0.99, scrambled).
    """
    rng = generator(seed, "zipf")
    page_map = scatter_pages(pages, rng)
    key = stream_key(rng)
    table = build_table([Part(1.0, power(pages, own.exponent))])
    return Generated(
        name,
        pages,
        lambda: MixtureStream(table, page_map, key, own.write_share),
        writes=own.write_share is not None,
    )


def build_gups(
    own: spec.Gups | spec.GupsShift, name: str, pages: int, seed: int
) -> Generated:
    """Return random updates, most of them in a hot set (HeMem's microbenchmark).

    An update is in the hot set with probability ``hot_share``, else anywhere;
    reads and writes 1:1. gups-shift moves the hot set by half the footprint at
    ``shift_s``, to pages that were cold.
    """
    rng = generator(seed, "gups")
    page_map = scatter_chunks(pages, own.contiguity, rng)
    key = stream_key(rng)
    hot = hot_set_pages(pages, own.hot_pages)
    parts = [Part(own.hot_share, flat(hot)), Part(1 - own.hot_share, flat(pages))]
    table = build_table(parts)
    shift_tick = round(own.shift_s / TICK_S) if isinstance(own, spec.GupsShift) else -1
    moved = min(pages // 2, pages - hot)

    def on_tick(stream: MixtureStream, tick: int) -> None:
        if tick == shift_tick:
            stream.table.move(0, moved)

    return Generated(
        name,
        pages,
        lambda: MixtureStream(table, page_map, key, own.write_share, on_tick),
        writes=own.write_share is not None,
    )


def build_uniform(own: spec.Uniform, name: str, pages: int, seed: int) -> Generated:
    """Return accesses that fall on every page alike."""
    key = stream_key(generator(seed, "uniform"))
    table = build_table([Part(1.0, flat(pages))])
    return Generated(
        name,
        pages,
        lambda: MixtureStream(table, NO_MAP, key, own.write_share),
        writes=own.write_share is not None,
    )


def build_stream(own: spec.Stream, name: str, pages: int, seed: int) -> Generated:
    """Return a sweep over all pages in order, ``burst`` accesses at each."""
    key = stream_key(generator(seed, "stream"))
    table = build_table([Part(1.0, None, span=pages)], own.burst)
    return Generated(
        name,
        pages,
        lambda: MixtureStream(table, NO_MAP, key, own.write_share),
        writes=own.write_share is not None,
    )
