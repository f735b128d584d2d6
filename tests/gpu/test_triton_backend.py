"""Triton's device: its modes beside the reference, in the interpreter or on a GPU."""

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.gpu import numpy_backend
from isotherm.gpu.backend import Backend, Drained, Geometry, Launch
from tests.gpu.devices import host_arena

ROW = Geometry(rows=200, row_dim=33, dtype="float32", rows_per_page=1, slots=24)
PAIR = Geometry(rows=200, row_dim=16, dtype="float32", rows_per_page=2, slots=24)
BLOCK = Geometry(rows=96, row_dim=40, dtype="float16", rows_per_page=4, slots=9)
GEOMETRIES = {"row": ROW, "pair": PAIR, "block": BLOCK}
MODES: dict[str, dict[str, Any]] = {
    "fused": {},
    "apart": {"apart_bytes": 1},
    "split": {"mode": "split"},
    "sorted": {"mode": "split-sorted", "programs": 2},
    "staged": {"zero_copy": False},
}


def make(geometry: Geometry, host: np.ndarray, **options: Any) -> Any:
    """Return a device of Triton's."""
    for needs in ("torch", "triton"):
        if importlib.util.find_spec(needs) is None:
            pytest.skip(f"{needs} is not installed; make gpu has it")
    from isotherm.gpu import triton_backend

    return triton_backend.create(geometry, host, **options)


def told(drained: Drained) -> tuple[Any, ...]:
    """Return all that a drain says, but for deposits, in comparable form."""
    columns = (drained.miss_page, drained.miss_count, drained.hit_slot)
    columns += (drained.hit_count,)  # type: ignore[assignment]  # one more
    numbers = (drained.hits, drained.misses, drained.out_of_range, drained.bad_index)
    return (*(column.tolist() for column in columns), *numbers)


def play(device: Backend, seed: int) -> list[Any]:
    """Run launches and moves drawn by a seed; return all that can be seen of them."""
    random = np.random.default_rng(seed)
    g = device.geometry
    seen: list[Any] = []
    published: dict[int, int] = {}  # page: slot
    free = list(range(g.slots))
    for epoch in range(1, 13):
        index = random.integers(0, g.rows, random.integers(1, 70))
        launch = Launch(epoch, salt=epoch * 77, hit_shift=int(random.integers(0, 3)))
        kind = ("gather", "blocks", "bag", "scatter")[epoch % 4]
        if kind == "gather":
            index[0] = g.rows if epoch == 4 else index[0]
            out = device.empty((len(index), g.row_dim))
            device.gather(device.array(index), out, launch).result()
            seen.append(device.numpy(out).tobytes())
        elif kind == "blocks":
            table = np.unique(index // g.rows_per_page).astype(np.int32)
            out = device.empty((len(table), g.rows_per_page, g.row_dim))
            device.read_blocks(device.array(table), out, launch).result()
            seen.append(device.numpy(out).tobytes())
        elif kind == "bag":
            offsets = np.sort(random.integers(0, len(index), 9))
            offsets[0] = 0
            out = device.empty((9, g.row_dim))
            device.gather_bag(
                device.array(index), device.array(offsets), out, launch
            ).result()
            seen.append(device.numpy(out).tobytes())
        else:
            values = np.arange(len(index) * g.row_dim, dtype=g.dtype) % 17
            values = values.reshape(len(index), g.row_dim)
            rows = np.unique(index)
            device.scatter(
                device.array(rows), device.array(values[: len(rows)]), launch
            ).result()
        # Some come, some go; what is dirty stays.
        pages = [p for p in np.unique(index // g.rows_per_page) if p not in published]
        come = np.array(pages[:3], np.uint32)
        slot = np.array(free[: len(come)], np.uint32)
        come = come[: len(slot)]
        version = device.copy_in(come, slot).result()
        status = device.commit(come, slot, version).result().tolist()
        free = free[len(slot) :]
        published |= dict(zip(come.tolist(), slot.tolist(), strict=True))
        go = np.array(sorted(published)[::4], np.uint32)
        left = np.array([published[int(p)] for p in go], np.uint32)
        gone = device.unpublish(go, left).result().tolist()
        for page, answer in zip(go.tolist(), gone, strict=True):
            if answer == 0:
                free.append(published.pop(page))
        seen += [status, gone, device.dirty_slots().result().tolist()]
        seen.append(told(device.drain().result()))
    seen += [device.peek(name).tobytes() for name in ("loc", "dirty")]
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("shape", sorted(GEOMETRIES))
def test_every_mode_does_what_the_reference_does(mode: str, shape: str) -> None:
    """The same launches and moves give the same bytes, answers and counts."""
    geometry = GEOMETRIES[shape]
    expected = play(numpy_backend.create(geometry, host_arena(geometry)), seed=5)
    device = make(geometry, host_arena(geometry), **MODES[mode])
    actual = play(device, seed=5)
    device.close()
    assert expected == actual


@pytest.mark.parametrize("mode", ["fused", "apart", "split"])
@pytest.mark.parametrize("shape", ["row", "pair"])
def test_every_mode_deposits(mode: str, shape: str) -> None:
    """A wanted page is in its slot after a read of one of its rows, whole."""
    geometry = GEOMETRIES[shape]
    host = host_arena(geometry)
    device = make(geometry, host, **MODES[mode])
    page, slot = np.array([7, 50], np.uint32), np.array([3, 11], np.uint32)
    device.want(page, slot).result()
    index = page.astype(np.int64) * geometry.rows_per_page
    out = device.empty((2, geometry.row_dim))
    device.gather(device.array(index), out, Launch(8)).result()
    assert [8, 8] == device.deposited(slot).result().tolist()
    used = geometry.rows_per_page * geometry.row_bytes
    np.testing.assert_array_equal(host[page, :used], device.peek("slots")[slot, :used])
    assert 2 == device.drain().result().deposits
    device.close()


@pytest.mark.parametrize("shape", ["row", "pair"])
def test_bags_deposit(shape: str) -> None:
    """Rows that a bag adds up are deposited like others."""
    geometry = GEOMETRIES[shape]
    host = host_arena(geometry)
    device = make(geometry, host)
    page, slot = np.array([7], np.uint32), np.array([3], np.uint32)
    device.want(page, slot).result()
    index = device.array(np.array([1, 7 * geometry.rows_per_page, 2]))
    out = device.empty((1, geometry.row_dim))
    device.gather_bag(index, device.array(np.array([0])), out, Launch(8)).result()
    assert [8] == device.deposited(slot).result().tolist()
    used = geometry.rows_per_page * geometry.row_bytes
    np.testing.assert_array_equal(host[7, :used], device.peek("slots")[3, :used])
    device.close()


def test_the_first_of_two_deposits_is_stamped() -> None:
    """A page that every launch reads is ready when the first of them has ended."""
    device = make(ROW, host_arena(ROW))
    slot = np.array([2], np.uint32)
    device.want(np.array([5], np.uint32), slot).result()
    out = device.empty((1, ROW.row_dim))
    for epoch in (6, 7):
        device.gather(device.array(np.array([5])), out, Launch(epoch)).result()
    assert [6] == device.deposited(slot).result().tolist()
    device.close()


def test_without_a_device_to_read_the_host_nothing_is_deposited() -> None:
    """Staged reads are gathered by the CPU: they say so, and leave slots alone."""
    device = make(ROW, host_arena(ROW), zero_copy=False)
    assert (False, False) == (device.deposits, device.zero_copy)
    before = device.peek("slots")
    device.want(np.array([5], np.uint32), np.array([2], np.uint32)).result()
    out = device.empty((1, ROW.row_dim))
    device.gather(device.array(np.array([5])), out, Launch(6)).result()
    np.testing.assert_array_equal(before, device.peek("slots"))
    device.close()


def test_an_uncounted_device_counts_nothing() -> None:
    """With ``count=False`` reads are right and drains are empty."""
    host = host_arena(ROW)
    device = make(ROW, host, count=False)
    out = device.empty((3, ROW.row_dim))
    device.gather(device.array(np.array([5, 5, 9])), out, Launch(1)).result()
    expected = host[[5, 5, 9], : ROW.row_bytes].view(np.float32)
    np.testing.assert_array_equal(expected, device.numpy(out))
    drained = device.drain().result()
    assert (0, 0, []) == (drained.hits, drained.misses, drained.miss_page.tolist())
    device.close()


def test_more_counters_than_a_list_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain lists again until nothing is left, and loses no count."""
    device = make(ROW, host_arena(ROW))
    from isotherm.gpu import triton_steps

    monkeypatch.setattr(triton_steps, "MOST_LISTED", 16)
    index = np.concatenate([np.arange(50), np.arange(20)])
    out = device.empty((70, ROW.row_dim))
    device.gather(device.array(index), out, Launch(1)).result()
    drained = device.drain().result()
    assert list(range(50)) == drained.miss_page.tolist()
    assert [2] * 20 + [1] * 30 == drained.miss_count.tolist()
    assert 70 == drained.misses
    device.close()


def test_rows_of_an_odd_number_of_bytes() -> None:
    """Words are as wide as divide a row: 1 byte of 33, 2 of 66, 4 of 132."""
    for dtype, word in (("uint8", 1), ("float16", 2), ("float32", 4)):
        geometry = replace(ROW, dtype=dtype)
        device = make(geometry, host_arena(geometry))
        assert word == device.state.word_bytes
        device.close()


def test_an_unknown_mode() -> None:
    """It is refused by name."""
    with pytest.raises(UsageError, match="mode: expected one of fused, split"):
        make(ROW, host_arena(ROW), mode="fast")
