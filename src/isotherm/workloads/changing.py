"""Generators whose hot pages change: scan-zipf, drift, latest, phases, graph."""

import numpy as np
from numpy.typing import NDArray

from isotherm.trace.stream import AccessStream
from isotherm.workloads import spec
from isotherm.workloads.density import bell, flat, power
from isotherm.workloads.draw import MixtureStream
from isotherm.workloads.layout import (
    chunk_pages,
    chunk_starts,
    scatter_chunks,
    scatter_pages,
)
from isotherm.workloads.rng import generator, stream_key
from isotherm.workloads.stream import TICK_S, Generated
from isotherm.workloads.table import Part, build_table


def build_scan_zipf(own: spec.ScanZipf, name: str, pages: int, seed: int) -> Generated:
    """Return Zipf with a sweep running through it.

    ``scan_share`` of the accesses sweep over all pages, chunk after chunk,
    ``burst`` at each page, interleaved with the others one by one.
    """
    rng = generator(seed, "scan-zipf")
    page_map = np.empty(2 * pages, np.uint32)
    scatter_pages(pages, rng, page_map[:pages])
    scatter_chunks(pages, own.contiguity, rng, page_map[pages:])
    key = stream_key(rng)
    table = build_table(
        [
            Part(1 - own.scan_share, power(pages, own.exponent)),
            Part(own.scan_share, None, base=pages, span=pages),
        ],
        own.burst,
    )
    return Generated(
        name,
        pages,
        lambda: MixtureStream(table, page_map, key, own.write_share),
        writes=own.write_share is not None,
    )


def build_drift(own: spec.Drift, name: str, pages: int, seed: int) -> Generated:
    """Return a bell-shaped hot set that moves over the whole footprint.

    Its centre passes every page once in ``period_s``; its standard deviation
    is ``sigma`` of the footprint; the rest of the accesses are uniform.
    """
    rng = generator(seed, "drift")
    page_map = scatter_chunks(pages, own.contiguity, rng)
    key = stream_key(rng)
    table = build_table(
        [
            Part(own.hot_share, bell(pages, max(0.5, own.sigma * pages))),
            Part(1 - own.hot_share, flat(pages)),
        ]
    )

    def on_tick(stream: MixtureStream, tick: int) -> None:
        centre = int(tick * TICK_S / own.period_s * pages)
        stream.table.turn(0, centre - pages // 2)

    return Generated(
        name,
        pages,
        lambda: MixtureStream(table, page_map, key, own.write_share, on_tick),
        writes=own.write_share is not None,
    )


def build_latest(own: spec.Latest, name: str, pages: int, seed: int) -> Generated:
    """Return accesses that prefer what was written last (YCSB D).

    The head advances by ``advance`` of the footprint in ``period_s``; the page
    r behind it has weight (r + 1 + pages / 2000)^-exponent. With ``births`` the pages
    that the head comes to are new memory: what was there, the oldest, has been given
    back.
    """
    rng = generator(seed, "latest")
    order = scatter_chunks(pages, own.contiguity, rng)
    # Index k stands for "k behind page 0": the reversed order, so that the
    # head moves by turning the table down.
    page_map = np.concatenate([order[:1], order[:0:-1]])
    key = stream_key(rng)
    table = build_table([Part(1.0, power(pages, own.exponent, 1.0 + pages / 2000))])

    def head(tick: int) -> int:
        return int(tick * TICK_S / own.period_s * pages * own.advance)

    def on_tick(stream: MixtureStream, tick: int) -> None:
        stream.table.turn(0, -head(tick))

    def births(tick: int) -> NDArray[np.uint32]:
        passed = np.arange(head(max(tick - 1, 0)) + 1, head(tick) + 1)
        return order[passed[-pages:] % pages].astype(np.uint32)

    return Generated(
        name,
        pages,
        lambda: MixtureStream(table, page_map, key, own.write_share, on_tick),
        writes=own.write_share is not None,
        births=births if own.births else None,
    )


def build_phases(own: spec.Phases, name: str, pages: int, seed: int) -> Generated:
    """Return two Zipf orders of single pages that take turns every ``phase_s``."""
    rng = generator(seed, "phases")
    page_map = np.empty(2 * pages, np.uint32)
    scatter_pages(pages, rng, page_map[:pages])
    scatter_pages(pages, rng, page_map[pages:])
    key = stream_key(rng)
    table = build_table([Part(1.0, power(pages, own.exponent))])

    def on_tick(stream: MixtureStream, tick: int) -> None:
        stream.table.move(0, pages if int(tick * TICK_S / own.phase_s) % 2 else 0)

    return Generated(
        name,
        pages,
        lambda: MixtureStream(table, page_map, key, own.write_share, on_tick),
        writes=own.write_share is not None,
    )


def build_graph(own: spec.Graph, name: str, pages: int, seed: int) -> Generated:
    """Return a traversal: skewed vertex data, and a frontier that jumps.

    The frontier is a random set of chunks, ``frontier_pages`` of the
    footprint; a level lasts 2 to 6 s, uniformly in steps of half a second.
    """
    rng = generator(seed, "graph")
    size = max(1, int(pages * own.frontier_pages))
    page_map = np.concatenate([scatter_pages(pages, rng), np.zeros(size, np.uint32)])
    starts = chunk_starts(pages, own.contiguity, rng)
    key = stream_key(rng)
    table = build_table(
        [
            Part(1 - own.frontier_share, power(pages, own.exponent)),
            Part(own.frontier_share, flat(size), base=pages),
        ]
    )

    def start() -> MixtureStream:
        levels = generator(seed, "graph levels")
        ends = 0

        def on_tick(stream: MixtureStream, tick: int) -> None:
            nonlocal ends
            if tick < ends:
                return
            ends = tick + int(levels.integers(4, 13))
            order = levels.permutation(len(starts) - 1)
            enough = np.searchsorted(np.cumsum(np.diff(starts)[order]), size) + 1
            frontier = chunk_pages(starts, order[:enough])[:size]
            stream.page_map[pages:] = frontier

        return MixtureStream(table, page_map.copy(), key, own.write_share, on_tick)

    return Generated(name, pages, start, writes=own.write_share is not None)


def build_cold_on_dram(
    own: spec.ColdOnDram, name: str, pages: int, seed: int
) -> Generated:
    """Return SOAR's microbenchmark: the hotter half needs the fast tier less.

    Thread A sweeps the first half with seven misses in flight; thread B chases
    pointers in random order over the second half, one miss at a time; a page
    of A has ``heat`` times the accesses of a page of B. Accesses are loads: A's
    are of 8 bytes in order, so that one in ``loads_per_line`` misses the line that
    the others hit, while every load of B misses.
    """
    key = stream_key(generator(seed, "cold-on-dram"))
    first = max(1, pages // 2)
    rest = pages - first
    parts = [Part(own.heat * first, None, span=first)]
    if rest:
        parts.append(Part(float(rest), flat(rest), base=first))
    table = build_table(parts, own.burst)
    no_map = np.empty(0, np.uint32)
    return Generated(
        name,
        pages,
        lambda: MixtureStream(table, no_map, key, own.write_share),
        writes=own.write_share is not None,
        parallelism={"sequential": own.sweep_parallelism, "chase": 1.0},
        streams=(
            AccessStream("sequential", own.sweep_parallelism, 1 / own.loads_per_line),
            AccessStream("chase", 1.0),
        )[: 2 if rest else 1],
        stream_starts=(0, first)[: 2 if rest else 1],
    )
