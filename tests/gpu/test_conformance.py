"""What every backend owes to ``isotherm.gpu.backend``, one suite for all."""

from dataclasses import replace

import numpy as np
import pytest

from isotherm.gpu.backend import (
    CHANGED,
    DIRTY,
    DONE,
    ITEM_BYTES,
    ON_HOST,
    Backend,
    Geometry,
    Launch,
    wanted,
)
from isotherm.gpu.elements import as_stored, as_sums
from tests.gpu.devices import Maker, host_arena, rows_of

ROW = Geometry(rows=37, row_dim=33, dtype="float32", rows_per_page=1, slots=7)
PAIR = Geometry(rows=37, row_dim=16, dtype="float32", rows_per_page=2, slots=7)
BLOCK = Geometry(rows=61, row_dim=24, dtype="float16", rows_per_page=4, slots=5)
GEOMETRIES = [ROW, PAIR, BLOCK]
INDEX = np.array([0, 5, 5, 36, 2, 20, 5, 11, 36, 8])


def u32(*values: int) -> np.ndarray:
    """Return a column of pages or slots."""
    return np.array(values, np.uint32)


def publish(device: Backend, page: np.ndarray, slot: np.ndarray) -> None:
    """Copy pages in and publish them."""
    version = device.copy_in(page, slot).result()
    status = device.commit(page, slot, version).result()
    assert [DONE] * len(page) == status.tolist()


def gather(device: Backend, index: np.ndarray, launch: Launch) -> np.ndarray:
    """Return rows, read into an output that held other bytes before."""
    g = device.geometry
    out = device.array(np.full((len(index), g.row_bytes), 0xA5, np.uint8).view(bits(g)))
    if g.dtype == "bfloat16":
        out = device.empty((len(index), g.row_dim))
    device.gather(device.array(index), out, launch).result()
    return device.numpy(out)


def bits(geometry: Geometry) -> np.dtype:
    """Return the numpy type of the elements."""
    return np.dtype("uint16" if geometry.dtype == "bfloat16" else geometry.dtype)


@pytest.mark.parametrize("dtype", sorted(ITEM_BYTES))
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_rows_are_read_in_both_arenas(
    make_device: Maker, dtype: str, index_dtype: str
) -> None:
    """A gather returns the same bytes wherever a row lies, for every type."""
    geometry = replace(ROW, dtype=dtype)
    host = host_arena(geometry)
    expected = rows_of(geometry, host)
    device = make_device(geometry, host)
    publish(device, u32(5, 36, 7), u32(6, 0, 3))
    actual = gather(device, INDEX.astype(index_dtype), Launch(1))
    np.testing.assert_array_equal(expected[INDEX], actual)
    device.close()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_slot_is_read_not_the_host(make_device: Maker, geometry: Geometry) -> None:
    """A published page is read in its slot: what the host holds then is not seen."""
    host = host_arena(geometry)
    expected = rows_of(geometry, host)
    device = make_device(geometry, host)
    publish(device, u32(2, 1), u32(4, 2))
    device.synchronise()
    host[[2, 1]] = 0xEE
    rows = np.arange(geometry.rows_per_page, 3 * geometry.rows_per_page)
    actual = gather(device, rows, Launch(1))
    np.testing.assert_array_equal(expected[rows], actual)
    loc = device.peek("loc")
    assert [ON_HOST, 2, 4] == loc[:3].tolist()
    assert (loc[3:] == ON_HOST).all()
    device.close()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_unpublished_pages_are_read_in_the_host(
    make_device: Maker, geometry: Geometry
) -> None:
    """After unpublish readers go to the host arena."""
    host = host_arena(geometry)
    device = make_device(geometry, host)
    publish(device, u32(0, 3), u32(1, 0))
    assert [DONE, DONE] == device.unpublish(u32(3, 0), u32(0, 1)).result().tolist()
    device.synchronise()
    host[0] = host[1]
    actual = gather(device, np.array([0]), Launch(1))
    np.testing.assert_array_equal(rows_of(geometry, host)[:1], actual)
    device.close()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_wanted_page_is_deposited(make_device: Maker, geometry: Geometry) -> None:
    """A gather stores a wanted page in its slot, all of it, and its epoch with it."""
    host = host_arena(geometry)
    device = make_device(geometry, host)
    page, slot = u32(3, 4), u32(2, 0)
    version = device.want(page, slot).result()
    assert [wanted(2), wanted(0)] == device.peek("loc")[3:5].tolist()
    rows = np.array([3, 3, 0]) * geometry.rows_per_page
    actual = gather(device, rows, Launch(9))
    np.testing.assert_array_equal(rows_of(geometry, host)[rows], actual)
    expected = [9, 0] if device.deposits else [0, 0]
    assert expected == device.deposited(slot).result().tolist()
    if device.deposits:
        used = geometry.rows_per_page * geometry.row_bytes
        np.testing.assert_array_equal(
            host[3][:used], device.peek("slots")[2][:used], strict=True
        )
        device.commit(page[:1], slot[:1], version[:1]).result()
        np.testing.assert_array_equal(actual, gather(device, rows, Launch(10)))
    device.close()


def test_nothing_is_deposited_where_it_must_not(make_device: Maker) -> None:
    """A launch without deposits leaves slots alone; a new want clears the epoch."""
    host = host_arena(ROW)
    device = make_device(ROW, host)
    device.want(u32(3), u32(2)).result()
    before = device.peek("slots")
    gather(device, np.array([3]), Launch(9, deposit=False))
    assert [0] == device.deposited(u32(2)).result().tolist()
    np.testing.assert_array_equal(before, device.peek("slots"))
    if device.deposits:
        gather(device, np.array([3]), Launch(10))
        assert [10] == device.deposited(u32(2)).result().tolist()
    device.unpublish(u32(3), u32(2)).result()
    device.want(u32(4), u32(2)).result()
    assert [0] == device.deposited(u32(2)).result().tolist()
    device.close()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_bags(make_device: Maker, dtype: str, mean: bool, weighted: bool) -> None:
    """A bag is the sum or mean of its rows; an empty one is zero."""
    geometry = replace(BLOCK, dtype=dtype)
    host = host_arena(geometry)
    rows = as_sums(rows_of(geometry, host), dtype)
    device = make_device(geometry, host)
    publish(device, u32(1, 0, 9), u32(4, 0, 1))
    offsets = np.array([0, 0, 3, 7, 9])
    ends = [*offsets[1:], len(INDEX)]
    weights = np.array([0.5, 1, 2, 0, -1, 1, 4, 1, 1, 0.25], np.float32)
    factor = weights[:, None] if weighted else np.ones((10, 1), np.float32)
    parts = (rows[INDEX] * factor).astype(rows.dtype)
    expected = np.array(
        [
            parts[a:b].sum(axis=0) / (max(1, b - a) if mean else 1)
            for a, b in zip(offsets, ends, strict=True)
        ],
        rows.dtype,
    )
    out = device.empty((5, geometry.row_dim))
    device.gather_bag(
        device.array(INDEX),
        device.array(offsets),
        out,
        Launch(1),
        mean=mean,
        weights=device.array(weights) if weighted else None,
    ).result()
    np.testing.assert_array_equal(as_stored(expected, dtype), device.numpy(out))
    drained = device.drain().result()
    assert len(INDEX) == drained.hits + drained.misses
    device.close()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_blocks(make_device: Maker, geometry: Geometry) -> None:
    """Whole pages are read, and deposited where they are wanted, of any size."""
    host = host_arena(geometry)
    whole = rows_of(geometry, host).reshape(
        geometry.pages, geometry.rows_per_page, geometry.row_dim
    )
    device = make_device(geometry, host)
    publish(device, u32(2), u32(1))
    version = device.want(u32(6), u32(3)).result()
    table = np.array([6, 2, 0, 6], np.int32)
    out = device.empty((4, geometry.rows_per_page, geometry.row_dim))
    device.read_blocks(device.array(table), out, Launch(4)).result()
    np.testing.assert_array_equal(whole[table], device.numpy(out))
    epoch = device.deposited(u32(3)).result().tolist()
    if epoch == [4]:
        device.commit(u32(6), u32(3), version).result()
        device.synchronise()
        host[6] = 0xEE
        device.read_blocks(device.array(table), out, Launch(5)).result()
        np.testing.assert_array_equal(whole[table], device.numpy(out))
    else:
        assert not device.deposits
        assert [0] == epoch
    device.close()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_writes_go_where_the_row_is(make_device: Maker, geometry: Geometry) -> None:
    """A write reaches the copy that readers see, marks the slot and the version."""
    host = host_arena(geometry)
    expected = rows_of(geometry, host)
    device = make_device(geometry, host)
    n = geometry.rows_per_page
    publish(device, u32(1, 2), u32(3, 0))
    index = np.array([n, 4 * n])
    values = rows_of(geometry, host_arena(geometry, seed=2))[:2]
    before = host.copy()
    device.scatter(device.array(index), device.array(values), Launch(1)).result()
    expected[index] = values
    everything = np.arange(geometry.rows)
    np.testing.assert_array_equal(
        expected[: geometry.rows], gather(device, everything, Launch(2))
    )
    device.synchronise()
    np.testing.assert_array_equal(before[1], host[1])  # the slot's is the newest
    assert [3] == device.dirty_slots().result().tolist()
    version = device.peek("ver")
    assert version[1] > 0
    assert version[4] > 0
    assert version[2] == 0
    device.close()


def test_a_page_written_meanwhile_is_not_published(make_device: Maker) -> None:
    """Commit refuses a copy that is older than the last write."""
    host = host_arena(ROW)
    device = make_device(ROW, host)
    page, slot = u32(4, 5), u32(1, 2)
    version = device.copy_in(page, slot).result()
    device.scatter(
        device.array(np.array([4])), device.array(np.ones((1, 33), "f4")), Launch(1)
    ).result()
    assert [CHANGED, DONE] == device.commit(page, slot, version).result().tolist()
    assert [ON_HOST, 2] == device.peek("loc")[4:6].tolist()
    device.close()


def test_dirty_pages_stay_until_they_are_written_back(make_device: Maker) -> None:
    """Unpublish refuses a dirty slot; copied out and clean it lets go of it."""
    host = host_arena(ROW)
    device = make_device(ROW, host)
    page, slot = u32(4), u32(1)
    publish(device, page, slot)
    one = device.array(np.ones((1, 33), "f4"))
    device.scatter(device.array(np.array([4])), one, Launch(1)).result()
    assert [DIRTY] == device.unpublish(page, slot).result().tolist()
    version = device.copy_out(page, slot).result()
    two = device.array(np.full((1, 33), 2, "f4"))
    device.scatter(device.array(np.array([4])), two, Launch(2)).result()
    assert [CHANGED] == device.clean(page, slot, version).result().tolist()
    assert [DIRTY] == device.unpublish(page, slot).result().tolist()
    version = device.copy_out(page, slot).result()
    assert [DONE] == device.clean(page, slot, version).result().tolist()
    assert [] == device.dirty_slots().result().tolist()
    assert [DONE] == device.unpublish(page, slot).result().tolist()
    np.testing.assert_array_equal(
        np.full((1, 33), 2, "f4"), gather(device, np.array([4]), Launch(3))
    )
    device.synchronise()
    assert [2.0] * 33 == host[4][: 33 * 4].view("f4").tolist()
    device.close()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_counters(make_device: Maker, geometry: Geometry) -> None:
    """Every miss and, without sampling, every hit is counted once; a drain clears."""
    host = host_arena(geometry)
    device = make_device(geometry, host)
    n = geometry.rows_per_page
    page = INDEX // n
    resident = np.unique(page)[:2].astype(np.uint32)
    publish(device, resident, u32(3, 1))
    gather(device, INDEX, Launch(6))
    actual = device.drain().result()
    missed = page[~np.isin(page, resident)]
    pages, counts = np.unique(missed, return_counts=True)
    assert pages.tolist() == actual.miss_page.tolist()
    assert counts.tolist() == actual.miss_count.tolist()
    hit = {1: int((page == resident[1]).sum()), 3: int((page == resident[0]).sum())}
    assert sorted(hit) == actual.hit_slot.tolist()
    assert [hit[1], hit[3]] == actual.hit_count.tolist()
    assert sum(hit.values()) == actual.hits
    assert len(missed) == actual.misses
    again = device.drain().result()
    assert (0, 0, 0, 0) == (
        len(again.miss_page),
        len(again.hit_slot),
        again.hits,
        again.misses,
    )
    device.close()


def test_a_sample_of_hits(make_device: Maker) -> None:
    """With a shift of 2 about a quarter of the hits is counted, another each time."""
    host = host_arena(ROW)
    device = make_device(ROW, host)
    publish(device, u32(4), u32(0))
    index = np.full(512, 4)
    counted = []
    for salt in (1, 2, 77777):
        gather(device, index, Launch(1, salt=salt, hit_shift=2))
        drained = device.drain().result()
        assert 512 == drained.hits
        counted.append(int(drained.hit_count.sum()))
    # 128 expected; the hash spreads consecutive rows evenly.
    assert all(100 <= count <= 156 for count in counted), counted
    device.close()


def test_the_highest_counts_of_a_drain(make_device: Maker) -> None:
    """A limited drain returns the pages with most misses and says what it left out."""
    host = host_arena(ROW)
    device = make_device(ROW, host)
    gather(device, np.array([1, 9, 9, 9, 3, 3, 20]), Launch(1))
    drained = device.drain(2).result()
    assert [3, 9] == drained.miss_page.tolist()
    assert [2, 3] == drained.miss_count.tolist()
    assert (2, 7) == (drained.left_out, drained.misses)
    device.close()


@pytest.mark.parametrize("bad", [-1, 37, 1 << 30])
def test_an_index_outside_is_told(make_device: Maker, bad: int) -> None:
    """It reads row 0, writes nothing, and the next drain tells of it."""
    host = host_arena(ROW)
    expected = rows_of(ROW, host)
    device = make_device(ROW, host)
    actual = gather(device, np.array([3, bad]), Launch(1))
    np.testing.assert_array_equal(expected[[3, 0]], actual)
    drained = device.drain().result()
    assert (1, bad) == (drained.out_of_range, drained.bad_index)
    device.scatter(
        device.array(np.array([bad, 3])),
        device.array(np.ones((2, 33), "f4")),
        Launch(2),
    ).result()
    expected[3] = 1
    np.testing.assert_array_equal(
        expected, gather(device, np.arange(ROW.rows), Launch(3))
    )
    assert 1 == device.drain().result().out_of_range
    device.close()


def test_empty_launches(make_device: Maker) -> None:
    """Nothing asked is nothing done."""
    device = make_device(ROW, host_arena(ROW))
    assert (0, 33) == gather(device, np.empty(0, np.int64), Launch(1)).shape
    none = np.empty(0, np.uint32)
    assert 0 == len(device.copy_in(none, none).result())
    assert 0 == len(device.commit(none, none, none).result())
    assert 0 == len(device.unpublish(none, none).result())
    assert 0 == device.drain().result().misses
    device.close()


def test_slots_are_given_back(make_device: Maker) -> None:
    """After shrink the pages in the slots that stay are still read there."""
    host = host_arena(ROW)
    expected = rows_of(ROW, host)
    device = make_device(ROW, host)
    publish(device, u32(4), u32(1))
    device.shrink(3)
    assert 3 <= device.geometry.slots < 7
    device.synchronise()
    host[4] = 0xEE
    np.testing.assert_array_equal(
        expected[[4, 5]], gather(device, np.array([4, 5]), Launch(1))
    )
    publish(device, u32(6), u32(2))
    assert 2 == device.peek("loc")[6]
    device.close()


def test_a_tensor_without_slots(make_device: Maker) -> None:
    """All on the host works: what is left where device memory is exhausted."""
    geometry = replace(ROW, slots=0)
    host = host_arena(geometry)
    device = make_device(geometry, host)
    np.testing.assert_array_equal(
        rows_of(geometry, host)[INDEX], gather(device, INDEX, Launch(1))
    )
    assert len(INDEX) == device.drain().result().misses
    device.close()
    device.close()
