"""A tiered tensor in use: reading, writing, deciding, placing by hand."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.gpu.tiered import RowIndexError, TieredTensor
from isotherm.topology.model import Source

ROWS, DIM = 4000, 32
TABLE = np.arange(ROWS * DIM, dtype=np.float32).reshape(ROWS, DIM)
DEADLINE_S = 60.0


def zipf(batches: int, size: int = 2000, seed: int = 1) -> Iterator[np.ndarray]:
    """Yield batches of rows with a few that are hot."""
    random = np.random.default_rng(seed)
    weight = 1.0 / np.arange(1, ROWS + 1) ** 1.1
    upto = np.cumsum(weight / weight.sum())
    row = random.permutation(ROWS)
    for _ in range(batches):
        yield row[np.minimum(np.searchsorted(upto, random.random(size)), ROWS - 1)]


def make(**options: Any) -> TieredTensor:
    """Return a tensor of the table, a tenth of it in device memory."""
    defaults: dict[str, Any] = {"backend": "numpy", "deterministic": True}
    return TieredTensor.from_host(TABLE, **(defaults | options))


@pytest.mark.slow
@pytest.mark.parametrize("writable", [False, True])
def test_hot_rows_come_to_device_memory(writable: bool) -> None:
    """Reads return the rows; after some epochs most of them are hits."""
    with make(writable=writable, epoch_rows=2000) as tensor:
        for row in zipf(40):
            np.testing.assert_array_equal(TABLE[row], tensor.gather(row))
        tensor.settle()
        before = tensor.stats()
        for row in zipf(10):
            tensor.gather(row)
        after = tensor.stats()
        hits = after.hits - before.hits
        misses = after.misses - before.misses
        assert hits > 3 * misses
        assert 0 < after.resident <= after.slots == 400
        assert after.deposits == after.promoted > 0
        assert after.hit_rate == after.hits / (after.hits + after.misses)


@pytest.mark.slow
def test_same_calls_same_placement() -> None:
    """Two deterministic tensors that are read alike are alike to the last bit."""
    found = []
    for _ in range(2):
        with make(writable=True, epoch_rows=1000) as tensor:
            for i, row in enumerate(zipf(25)):
                tensor.gather(row)
                if i % 5 == 4:
                    tensor.scatter_(row[:50], TABLE[row[:50]] + 1)
            tensor.settle()
            device = tensor.backend
            state = [device.peek(n).tobytes() for n in ("loc", "slots", "ver", "dirty")]
            found.append((tensor.stats(), state))
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_thread_decides_beside_the_launches() -> None:
    """With a thread hot rows come without a call for it, and reads stay right."""
    tensor = make(deterministic=False, epoch_rows=2000)
    deadline = time.monotonic() + DEADLINE_S
    while tensor.stats().promoted < 100 and time.monotonic() < deadline:
        for row in zipf(3):
            np.testing.assert_array_equal(TABLE[row], tensor.gather(row))
    assert tensor.stats().promoted >= 100
    tensor.stop()
    tensor.settle()
    epochs = tensor.stats().epochs
    tensor.gather(np.arange(100))
    assert epochs == tensor.stats().epochs
    tensor.step()
    assert epochs + 1 == tensor.stats().epochs
    tensor.close()


@pytest.mark.slow
def test_by_hand_nothing_is_decided_until_it_is_asked_for() -> None:
    """A manual tensor ends an epoch at each step, and only there."""
    with make(deterministic=False, engine="manual", epoch_rows=1) as tensor:
        for row in zipf(5):
            tensor.gather(row)
        assert 0 == tensor.stats().epochs
        for row in zipf(10):
            tensor.gather(row)
            tensor.step()
        assert 10 == tensor.stats().epochs
        assert tensor.stats().promoted > 0


def test_bags_and_blocks() -> None:
    """Sums of rows and whole pages are what the table has."""
    with make(page=4) as tensor:
        index, offsets = np.array([1, 2, 3, 100, 7]), np.array([0, 3, 3])
        expected = np.stack([TABLE[1:4].sum(0), np.zeros(DIM), TABLE[[100, 7]].sum(0)])
        np.testing.assert_array_equal(expected, tensor.gather_bag(index, offsets))
        mean = tensor.gather_bag(index, offsets, mean=True)
        np.testing.assert_array_equal(expected[0] / np.float32(3), mean[0])
        blocks = TABLE.reshape(-1, 4, DIM)
        np.testing.assert_array_equal(blocks[[5, 0]], tensor.read_blocks([5, 0]))
        assert (ROWS, DIM) == tensor.shape
        assert ROWS == len(tensor)


def test_writes_are_read_and_flushed() -> None:
    """A write is seen at once, by the host after a flush."""
    with make(writable=True) as tensor:
        row = np.array([3, 500, 3999])
        tensor.prefetch(row, wait=True)
        tensor.scatter_(row, np.zeros((3, DIM), np.float32))
        assert not tensor.gather(row).any()
        assert row.tolist() == tensor.dirty_pages().tolist()
        assert tensor.host_rows()[3].any()
        assert 3 == tensor.flush()
        assert not tensor.host_rows()[row].any()
        assert 0 == len(tensor.dirty_pages())
        assert 3 == tensor.stats().saved


def test_a_tensor_that_is_not_writable_refuses() -> None:
    """scatter_ says what to do."""
    with make() as tensor, pytest.raises(UsageError, match="writable"):
        tensor.scatter_([1], TABLE[:1])


def test_values_of_another_shape_are_refused() -> None:
    """A write of rows too long or too few is refused before anything is written."""
    with make(writable=True) as tensor:
        with pytest.raises(UsageError, match=r"expected \[2, 32\]"):
            tensor.scatter_([1, 2], TABLE[:1])
        np.testing.assert_array_equal(TABLE[:4], tensor.gather(np.arange(4)))


@pytest.mark.slow
def test_the_coldest_make_room_for_what_is_fetched() -> None:
    """A prefetch into full device memory displaces cold pages, not hot ones."""
    with make(epoch_rows=2000) as tensor:
        for row in zipf(40):
            tensor.gather(row)
        rows = next(zipf(1))
        hot = np.unique(rows, return_counts=True)
        hottest = hot[0][np.argsort(-hot[1])][:20]
        place = tensor.mover.protocol.place
        away = np.flatnonzero(place != 0)[:50]
        assert 50 == tensor.prefetch(away, wait=True)
        assert (tensor.backend.peek("loc")[away] >= 0).all()
        assert (place[hottest] == 0).all()


@pytest.mark.slow
def test_pinned_pages_stay() -> None:
    """No policy and no prefetch displaces a pinned page, until it is let go."""
    with make(epoch_rows=1000) as tensor:
        cold = np.arange(3900, 3950)
        assert 50 == tensor.pin(cold)
        for row in zipf(30):
            tensor.gather(row)
        tensor.prefetch(np.arange(0, 340))
        assert (tensor.backend.peek("loc")[cold] >= 0).all()
        tensor.pin(cold, on=False)
        for row in zipf(30, seed=2):
            tensor.gather(row)
        assert (tensor.mover.protocol.place[cold] != 0).any()


def test_more_than_fits_cannot_be_pinned() -> None:
    """A pin beyond the slots says how many there are."""
    with make() as tensor, pytest.raises(UsageError, match="400 slots"):
        tensor.pin(np.arange(500))


def test_the_host_arena_is_lent() -> None:
    """For reading it is up to date; for writing nobody else holds the pages."""
    with make(writable=True) as tensor:
        tensor.prefetch([7, 8], wait=True)
        tensor.scatter_([7], np.zeros((1, DIM), np.float32))
        with tensor.host([7]) as view:
            assert not view[7].any()
            with pytest.raises(ValueError, match="read-only"):
                view[7] = 1
        with tensor.host([7, 8], "w") as view:
            assert (tensor.backend.peek("loc")[[7, 8]] == -1).all()
            assert 0 == tensor.prefetch([7])
            view[7] = 5
        np.testing.assert_array_equal(
            np.full((1, DIM), 5, np.float32), tensor.gather([7])
        )
        assert 1 == tensor.prefetch([7], wait=True)
        assert (tensor.gather([7]) == 5).all()


@pytest.mark.slow
def test_device_memory_is_given_back() -> None:
    """After shrink there are fewer slots, all reads are right, and moves go on."""
    with make(epoch_rows=1000) as tensor:
        for row in zipf(20):
            tensor.gather(row)
        size = tensor.geometry.page_bytes
        assert 150 * size == tensor.shrink(150 * size - 1)
        assert 250 == tensor.stats().slots
        assert tensor.stats().resident <= 250
        for row in zipf(20, seed=3):
            np.testing.assert_array_equal(TABLE[row], tensor.gather(row))
        assert 250 * size == tensor.shrink(1 << 40)
        assert 0 == tensor.stats().resident
        np.testing.assert_array_equal(TABLE[:9], tensor.gather(np.arange(9)))


@pytest.mark.parametrize("bad", [-1, ROWS])
def test_an_index_outside_is_found_at_once(bad: int) -> None:
    """With check="sync" the call itself says which index it was, and where."""
    with make(check="sync") as tensor:
        with pytest.raises(RowIndexError, match=f"got {bad} at 1, 1 in all"):
            tensor.gather(np.array([4, bad]))
        with pytest.raises(IndexError):
            tensor.prefetch([bad])


@pytest.mark.parametrize("bad", [-1, ROWS])
def test_an_index_outside_is_found_later(bad: int) -> None:
    """Without, row 0 is read, and a later call says how many there were; once."""
    with make(deterministic=False, engine="manual") as tensor:
        np.testing.assert_array_equal(TABLE[[4, 0]], tensor.gather(np.array([4, bad])))
        with pytest.raises(RowIndexError, match=f"1 outside.* {bad}"):
            tensor.step()
        tensor.gather([1])
        tensor.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hbm_bytes": "ten"}, "size"),
        ({"hbm_bytes": "110%"}, "0% to 100%"),
        ({"hbm_bytes": -1}, "at least 0"),
        ({"page": "huge"}, "page"),
        ({"page": 0}, "page"),
        ({"engine": "steam"}, "engine"),
        ({"check": "never"}, "check"),
        ({"backend": "tpu"}, "backend"),
        ({"dtype": "float16"}, "the array is of float32"),
        ({"row_dim": 31}, "row_dim"),
        ({"policy": "lru3"}, "lru3"),
    ],
)
def test_arguments_that_are_wrong_are_named(
    options: dict[str, Any], message: str
) -> None:
    """Each says what was expected."""
    with pytest.raises(UsageError, match=message):
        TieredTensor.from_host(TABLE, **options)


def test_a_shape_is_a_tensor_of_zeros() -> None:
    """Without values rows are zero, of the type and page asked for."""
    with TieredTensor.from_host(
        (100, 7), "int8", page=3, backend="numpy", writable=True
    ) as tensor:
        assert not tensor.gather(np.arange(100)).any()
        tensor.scatter_([99], np.full((1, 7), 9, np.int8))
        assert 9 * 7 == int(tensor.gather(np.arange(100)).sum())
        assert 34 == tensor.geometry.pages


def test_figures_say_who_gave_them() -> None:
    """Given ones are configured; those of a CPU in place of a GPU are assumed."""
    with make(deterministic=False, engine="manual") as tensor:
        assert tensor.tiering is not None
        rows = tensor.tiering.loop.machine.topology.performance
        assert [Source.ASSUMED] * 2 == [
            row.read_bandwidth_mib_s.source for row in rows if row.read_bandwidth_mib_s
        ]
    with make(bandwidths=(3e12, 5e10)) as tensor:
        assert tensor.tiering is not None
        row = tensor.tiering.loop.machine.topology.performance[1]
        assert row.read_bandwidth_mib_s is not None
        assert 5e10 / (1 << 20) == row.read_bandwidth_mib_s.value


def test_another_policy_can_decide() -> None:
    """Any policy of the lab may: here a fixed one that moves nothing."""
    with make(policy="first-touch", epoch_rows=1000) as tensor:
        for row in zipf(10):
            tensor.gather(row)
        assert 0 == tensor.stats().resident
        assert tensor.stats().epochs > 0


def test_backends_that_are_not_installed_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message names what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="torch is not installed"):
        make(backend="torch")
