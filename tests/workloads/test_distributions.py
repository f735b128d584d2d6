"""Every generator puts its accesses where its definition says."""

import numpy as np
import pytest

from isotherm.trace.stream import Pace
from isotherm.workloads.btree import level_sizes
from isotherm.workloads.density import bell, flat, power
from isotherm.workloads.embedding import ACCESS_SHARE, reuse_density
from isotherm.workloads.layout import chunk_starts, scatter_chunks, scatter_pages
from isotherm.workloads.registry import make_workload
from isotherm.workloads.table import Part, alias_slots, apportion, build_table

PAGES = 4096


def heat(name: str, options: dict | None = None, pages: int = PAGES, rate: float = 20):
    """Return accesses per epoch and page, int64[epochs, pages]."""
    chunks = make_workload(name, pages, 1, options).epochs(Pace(rate=rate))
    return np.array([np.bincount(chunk.page, minlength=pages) for chunk in chunks])


def top(counts: np.ndarray, share: float) -> float:
    """Return the share of the accesses that the hottest ``share`` of pages get."""
    hottest = np.sort(counts)[::-1]
    return float(hottest[: int(len(counts) * share)].sum() / counts.sum())


def zipf_top(pages: int, exponent: float, share: float) -> float:
    """Return the exact share of the hottest pages under Zipf's law."""
    weight = np.arange(1, pages + 1.0) ** -exponent
    return float(weight[: int(pages * share)].sum() / weight.sum())


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.99, 1.0, 1.5])
@pytest.mark.parametrize("span", [1, 2, 600, 100_000])
def test_power_density_is_zipf(exponent: float, span: int) -> None:
    """Every rank's weight is within 0.4 % of its exact one, every bin's to 1e-6."""
    weight = np.arange(1, span + 1.0) ** -exponent
    weight /= weight.sum()
    density = power(span, exponent)
    per_rank = np.repeat(density.weight / density.length, density.length)
    assert span == len(per_rank)
    assert np.abs(per_rank / weight - 1).max() < 0.004
    exact = np.add.reduceat(weight, density.start)
    assert np.abs(density.weight / exact - 1).max() < 1e-5


def test_bell_density_is_normal() -> None:
    """68.3 % of a bell lie within one standard deviation."""
    density = bell(100_000, 5000.0)
    inside = np.abs(density.start + density.length / 2 - 50_000) < 5000
    assert abs(float(density.weight[inside].sum()) - 0.6827) < 0.002


def test_units_sum_to_one_exactly() -> None:
    """Apportioned shares sum to 2^32, and none is off by more than a unit."""
    weight = np.random.default_rng(1).random(1000) ** 8
    units = apportion(weight)
    assert units.sum() == 1 << 32
    assert np.abs(units - weight / weight.sum() * 2**32).max() < 1


def test_alias_slots_hold_the_shares() -> None:
    """Summed over its slots, every bin has exactly its apportioned mass."""
    weight = np.random.default_rng(2).random(777) ** 4
    slots, shift = alias_slots(weight)
    full = 1 << shift
    mass = np.zeros(len(slots), np.int64)
    np.add.at(mass, np.arange(len(slots)), slots[:, 0].astype(np.int64))
    np.add.at(mass, slots[:, 1], full - slots[:, 0].astype(np.int64))
    assert mass[:777].tolist() == apportion(weight).tolist()


def test_a_turned_part_wraps() -> None:
    """Turning shifts every bin modulo the span; moving changes the base."""
    table = build_table([Part(1.0, flat(10), base=5)])
    table.turn(0, -3)
    assert table.rows.tolist() == [[12, 10, 15, 10]]
    table.move(0, 20)
    assert table.rows.tolist() == [[20, 10, 30, 10]]


@pytest.mark.parametrize("contiguity", [1, 7, 64, 10_000, "ragged"])
def test_chunks_cover_every_page_once(contiguity: int | str) -> None:
    """A chunked order is a permutation, whatever the chunk."""
    order = scatter_chunks(1000, contiguity, np.random.default_rng(1))
    assert np.sort(order).tolist() == list(range(1000))
    assert order.dtype == np.uint32


def test_ragged_chunks_have_odd_lengths() -> None:
    """Ragged chunks are 16 to 192 pages, 64 on average, aligned to nothing."""
    lengths = np.diff(chunk_starts(1 << 20, "ragged", np.random.default_rng(1)))[:-1]
    assert (lengths.min(), lengths.max()) == (16, 192)
    assert abs(lengths.mean() - 64) < 4
    starts = np.cumsum(lengths)
    assert abs((starts % 64 == 0).mean() - 1 / 64) < 0.005


def test_chunks_are_aligned() -> None:
    """Chunks of 64 pages stay whole and aligned."""
    order = scatter_chunks(640, 64, np.random.default_rng(1)).reshape(10, 64)
    assert (order % 64 == np.arange(64)).all()


def test_scattered_pages_are_a_permutation() -> None:
    """Every page comes once, in another order for another seed."""
    first = scatter_pages(500, np.random.default_rng(1))
    assert np.sort(first).tolist() == list(range(500))
    assert first.tolist() != scatter_pages(500, np.random.default_rng(2)).tolist()


@pytest.mark.slow
def test_zipf_share_of_the_hottest_pages() -> None:
    """The hottest 1, 10 and 50 % of pages get what Zipf 0.99 gives them."""
    total = heat("zipf").sum(axis=0)
    for share in (0.01, 0.1, 0.5):
        assert abs(top(total, share) - zipf_top(PAGES, 0.99, share)) < 0.005


def test_gups_hot_set() -> None:
    """1/16 of the pages get 0.9 + 0.1/16 of the updates, in whole chunks."""
    total = heat("gups").sum(axis=0)
    assert abs(top(total, 1 / 16) - 0.90625) < 0.002
    hot = total > total.mean()
    assert hot.sum() == PAGES // 16
    assert set(hot.reshape(-1, 64).sum(axis=1).tolist()) == {0, 64}


def test_gups_writes_half_the_time() -> None:
    """Reads and writes are 1:1."""
    chunk = next(make_workload("gups", PAGES).epochs(Pace(rate=100.0)))
    assert chunk.write is not None
    assert abs(chunk.write.mean() - 0.5) < 0.01


def test_gups_shift_moves_once_at_60_s() -> None:
    """The hot set of the second minute has no page of the first one's."""
    counts = heat("gups-shift")
    hot = counts > 5 * counts.mean()
    before, after = counts[:120].sum(axis=0), counts[120:].sum(axis=0)
    first = before > before.mean()
    second = after > after.mean()
    assert (first.sum(), second.sum()) == (256, 256)
    assert not (first & second).any()
    assert (hot[119] & first).sum() > 250
    assert (hot[120] & second).sum() > 250


def test_uniform_is_poisson() -> None:
    """Counts of single pages vary as chance alone has them."""
    total = heat("uniform").sum(axis=0)
    assert abs(total.var() / total.mean() - 1) < 0.1


def test_stream_visits_pages_in_order() -> None:
    """64 accesses at each page, page after page, then from the start again."""
    chunks = make_workload("stream", 10).epochs(Pace(rate=10.0, accesses=1000))
    page = np.concatenate([chunk.page.copy() for chunk in chunks])
    assert page.tolist() == [i // 64 % 10 for i in range(1000)]


def test_scan_zipf_sweeps_while_it_draws() -> None:
    """40 % of the accesses sweep: 64 at each page, one page after the other."""
    counts = heat("scan-zipf", {"exponent": 0.0}, rate=10.0)
    swept = counts > 32  # the others get 3 on average
    assert abs(np.median(swept.sum(axis=1)) - 10 * 0.5 * 0.4 * PAGES / 64) <= 2
    assert swept[:33].any(axis=0).all()
    chunk = next(make_workload("scan-zipf", PAGES).epochs(Pace(rate=10.0)))
    last = np.flatnonzero(chunk.page == chunk.page[-200:][swept_page(chunk.page)])
    assert 1 < np.median(np.diff(last)) < 8


def swept_page(page: np.ndarray) -> int:
    """Return where, in the last 200 accesses, a page begins that the sweep is at."""
    values, first, count = np.unique(page[-200:], return_index=True, return_counts=True)
    assert len(values) == len(count)
    return int(first[count.argmax()])


def test_drift_passes_every_page_once() -> None:
    """The bell's centre takes 120 s around; within 2 sigma lie 0.81 + 0.03."""
    counts = heat("drift", {"contiguity": PAGES})  # one chunk: pages in order
    position = np.arange(PAGES)
    angle = np.exp(2j * np.pi * position / PAGES)
    centre = np.angle((counts * angle).sum(axis=1)) / (2 * np.pi) * PAGES % PAGES
    expected = np.arange(240) / 240 * PAGES
    off = (centre - expected + PAGES / 2) % PAGES - PAGES / 2
    assert np.abs(off).max() < PAGES / 100
    near = np.abs((position - expected[:, None] + PAGES / 2) % PAGES - PAGES / 2)
    inside = counts[near < PAGES / 10].sum() / counts.sum()
    assert abs(inside - (0.85 * 0.9545 + 0.15 * 0.2)) < 0.005


def test_latest_follows_the_head() -> None:
    """The hottest page is the newest, and the head passes a quarter in 120 s."""
    counts = heat("latest", {"contiguity": PAGES})
    assert counts[0].argmax() in (0, PAGES - 1)
    assert abs(int(counts[-2:].sum(axis=0).argmax()) - PAGES // 4 * 239 / 240) < 8
    weight = 1 / (np.arange(PAGES) + 1 + PAGES / 2000) ** 0.99
    expected = weight[: PAGES // 100].sum() / weight.sum()
    behind = (int(counts[0].argmax()) - np.arange(PAGES // 100)) % PAGES
    assert abs(counts[0][behind].sum() / counts[0].sum() - expected) < 0.01


@pytest.mark.slow
def test_phases_take_turns() -> None:
    """Phases 0 and 2 share their hot pages, phases 0 and 1 do not."""
    counts = heat("phases")
    hot = [set(np.argsort(-counts[k : k + 20].sum(axis=0))[:40]) for k in (0, 20, 40)]
    assert len(hot[0] & hot[2]) > 30
    assert len(hot[0] & hot[1]) < 5
    assert abs(top(counts[:20].sum(axis=0), 0.1) - zipf_top(PAGES, 0.9, 0.1)) < 0.01


@pytest.mark.slow
def test_graph_frontier_jumps() -> None:
    """5 % of the chunks get 45 % of the accesses, others every 2 to 6 s."""
    counts = heat("graph", rate=50.0)
    chunks = counts.reshape(240, -1, 64).min(axis=2)  # every page of a chunk is hot
    hot = [frozenset(np.flatnonzero(row > 50).tolist()) for row in chunks]
    jumps = [e for e in range(1, 240) if hot[e] != hot[e - 1]]
    lengths = np.diff(jumps)
    assert {3, 4} >= {len(own) for own in hot}
    assert (lengths.min() >= 4, lengths.max() <= 12) == (True, True)
    assert len(jumps) > 20


def test_btree_levels() -> None:
    """Each look-up reads the root, an inner node of each level and a leaf."""
    assert level_sizes(32768, 128) == [32511, 254, 2, 1]
    for pages in (1, 2, 3, 5, 100, 1000, 4097):
        assert 1 <= sum(level_sizes(pages, 8)) <= pages
    total = heat("btree").sum(axis=0)
    levels = len(level_sizes(PAGES, 128))
    assert abs(total.max() / total.sum() - 1 / levels) < 0.001


def test_btree_leaves_are_zipf() -> None:
    """The leaves, every third access of three levels, are drawn by Zipf's law."""
    leaves = level_sizes(PAGES, 128)[0]
    chunk = next(make_workload("btree", PAGES).epochs(Pace(rate=1000.0)))
    total = np.bincount(chunk.page[2::3], minlength=PAGES)
    assert (total > 0).sum() <= leaves
    assert abs(top(total, 0.1) - zipf_top(leaves, 0.99, 0.1)) < 0.01


def test_cold_on_dram_halves() -> None:
    """A page of the sweep has 13.6 times the accesses of a page of the chase."""
    workload = make_workload("cold-on-dram", PAGES)
    total = heat("cold-on-dram").sum(axis=0)
    ratio = total[: PAGES // 2].sum() / total[PAGES // 2 :].sum()
    assert abs(ratio - 13.6) < 0.1
    assert workload.parallelism == {"sequential": 7.0, "chase": 1.0}


@pytest.mark.slow
def test_kv_cache_common_block_is_hottest() -> None:
    """Every request reads the first block at every step; most blocks rest."""
    counts = heat("kv-cache", pages=32768)
    total = counts.sum(axis=0)
    assert (total[:16] > 3 * np.sort(total[16:])[-1]).all()
    live = (counts[120:] > 0).mean(axis=1)
    assert 0.05 < live.mean() < 0.3
    assert (total > 0).mean() > 0.8


def test_kv_cache_appends() -> None:
    """Writes are appended tokens and prefilled blocks, a few among many reads."""
    chunks = make_workload("kv-cache", 8192).epochs(Pace(rate=20.0))
    marks = [float(chunk.write.mean()) for chunk in chunks]
    assert 0.0005 < float(np.mean(marks)) < 0.05


def test_embedding_reuse_matches_the_trace() -> None:
    """Accesses by reuse bin, hottest first, are those of the published histogram."""
    density = reuse_density(10**7)
    mean_share = density.weight / density.length
    assert (np.diff(mean_share) <= mean_share[:-1] * 1e-9).all()
    shares = np.array(ACCESS_SHARE[::-1]) / sum(ACCESS_SHARE)
    cumulated = np.cumsum(density.weight)
    for share in np.cumsum(shares):
        assert np.abs(cumulated - share).min() < 1e-9
    ends = density.start + density.length
    assert abs(np.interp(0.02 * 10**7, ends, cumulated) - 0.49) < 0.02


@pytest.mark.slow
def test_embedding_drift_replaces_rows() -> None:
    """With drift the hottest pages change; without it they stay."""
    for drift, low, high in ((0.0, 60, 100), (5.0, 0, 30)):
        counts = heat("embedding", {"drift": drift, "rows_per_page": 8}, rate=100.0)
        first = set(np.argsort(-counts[:20].sum(axis=0))[:100])
        last = set(np.argsort(-counts[-20:].sum(axis=0))[:100])
        assert low <= len(first & last) <= high
