"""The malformed inputs are what they claim to be, and can be made again."""

import numpy as np

from tests.records.mutation import SEEDS, Change, batches, one_batch

VALID = (bytes(range(1, 81)), bytes(40), b"\xff" * 24)


def test_a_batch_can_be_made_again() -> None:
    """Seed and number decide every byte."""
    again = one_batch(VALID, 100, SEEDS[0], 2)
    first = list(batches(VALID, 300, SEEDS[0], rows=100))[2]
    assert again.name(0) == first.name(0)
    assert np.array_equal(again.data, first.data)
    other = one_batch(VALID, 100, SEEDS[1], 2)
    assert not np.array_equal(again.data, other.data)


def test_rows_that_are_left_alone_are_the_valid_ones() -> None:
    """Some inputs stay valid, most do not."""
    batch = one_batch(VALID, 4000, SEEDS[0])
    same = np.array([batch.one(i) == VALID[batch.origin[i]] for i in range(4000)])
    assert same[~batch.changed].all()
    assert 100 < (~batch.changed).sum() < 500
    assert 3000 < (~same).sum()


def test_inputs_shrink_and_grow_within_their_row() -> None:
    """Cut, dropped and inserted bytes change the length; nothing lies behind it."""
    batch = one_batch(VALID, 4000, SEEDS[2])
    size = np.array([len(v) for v in VALID])[batch.origin]
    assert (batch.length < size).any()
    assert (batch.length > size).any()
    assert batch.length.min() >= 0
    assert batch.length.max() <= batch.data.shape[1]
    behind = np.arange(batch.data.shape[1])[None, :] >= batch.length[:, None]
    assert not batch.data[behind].any()
    assert batch.length.sum() == len(batch.stream())


def test_every_kind_of_change_happens() -> None:
    """Each of the kinds alone makes inputs that differ from the valid one."""
    from tests.records import mutation

    rng = np.random.default_rng(1)
    pool = np.frombuffer(VALID[0] + bytes(16), np.uint8)[None, :]
    for change in Change:
        data, length = np.repeat(pool, 64, 0), np.full(64, 80)
        mutation._STEPS[change](rng, data, length, np.arange(64), pool[:, ::-1])
        touched = (data != pool).any(axis=1) | (length != 80)
        assert 32 <= touched.sum(), change
