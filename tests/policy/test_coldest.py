"""The coldest pages of a node."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.policy.coldest import (
    coldest,
    count_kinds,
    count_kinds_twin,
    pick_kinds,
    pick_kinds_twin,
)

RATE = np.array([5.0, 1.0, 9.0, 3.0])


def test_the_coldest_of_the_node_are_taken() -> None:
    """By their kind's rate, not by its number; the first of those alike."""
    node = np.array([0, 0, 1, 0, 0, 0], np.uint8)
    kind = np.array([0, 1, 1, 3, 3, 2], np.uint16)
    assert [1, 3] == coldest(node, kind, RATE, 0, 2).tolist()
    assert [0, 1, 3, 4, 5] == coldest(node, kind, RATE, 0, 9).tolist()
    but = (np.array([1], np.uint32),)
    assert [3] == coldest(node, kind, RATE, 0, 1, but).tolist()
    assert [] == coldest(node, kind, RATE, 0, 0).tolist()
    assert [] == coldest(node[:0], kind[:0], RATE, 0, 3).tolist()


def test_who_may_give_no_more_keeps_the_rest() -> None:
    """The coldest that each may give, by weight."""
    node, kind = np.zeros(6, np.uint8), np.array([1, 1, 3, 0, 1, 2], np.uint16)
    label = np.array([0, 0, 0, 1, 1, 1], np.uint8)
    give = np.array([1, 2])
    found = coldest(node, kind, RATE, 0, 9, label=label, give=give)
    assert [0, 3, 4] == found.tolist()
    found = coldest(
        node, kind, RATE, 0, 2, label=label, give=give, weight=np.array([9.0, 1.0])
    )
    assert [3, 4] == found.tolist()


def test_of_a_large_memory_windows_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One window a turn, the last one short, all of them in turn."""
    monkeypatch.setattr("isotherm.policy.coldest.SEARCHED", 4)
    node, kind = np.zeros(10, np.uint8), np.ones(10, np.uint16)
    found = [coldest(node, kind, RATE, 0, 2, turn=turn).tolist() for turn in range(4)]
    assert [[0, 1], [4, 5], [8, 9], [0, 1]] == found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_kernels_equal_their_twins(seed: int) -> None:
    """Counts and picks are the plain ones."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 200))
    node = rng.integers(0, 3, n).astype(np.uint8)
    kind = rng.integers(0, 4, n).astype(np.uint16)
    label = rng.integers(0, 2, n).astype(np.uint8)[: n * int(rng.integers(0, 2))]
    skip = rng.random(n) < 0.2
    out = [np.zeros((2, 4), np.int64) for _ in range(2)]
    count_kinds(node, kind, label, skip, 1, out[0])
    count_kinds_twin(node, kind, label, skip, 1, out[1])
    assert np.array_equal(*out)
    wanted = rng.integers(0, 5, (2, 4)).clip(max=out[0])
    picked = [np.full(int(wanted.sum()), -1, np.int64) for _ in range(2)]
    pick_kinds(node, kind, label, skip, 1, wanted.copy(), picked[0])
    pick_kinds_twin(node, kind, label, skip, 1, wanted.copy(), picked[1])
    assert np.array_equal(*picked)
    assert -1 not in picked[0].tolist()
