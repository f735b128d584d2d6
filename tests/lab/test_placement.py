"""Where pages are before an experiment begins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.errors import UsageError
from isotherm.lab.placement import (
    check_placement,
    first_access_order,
    place,
    random_order,
)
from isotherm.trace.stream import AccessChunk


def chunks_of(*parts: list[int]) -> list[AccessChunk]:
    """Return chunks of these pages."""
    return [AccessChunk(np.array(part, np.uint32)) for part in parts]


def test_the_fast_tier_fills_first() -> None:
    """Pages go by their order, nodes by their tier and then their number."""
    order = np.array([4, 0, 3, 1, 2, 5], np.uint32)
    node = place(order, np.array([6, 2, 1]), np.array([2, 0, 1]))
    assert [1, 0, 0, 2, 1, 0] == node.tolist()


@given(st.integers(1, 50), st.lists(st.integers(0, 20), min_size=1, max_size=6))
def test_no_node_but_the_last_gets_too_many(pages: int, capacity: list[int]) -> None:
    """Where nobody has room the slowest node takes the rest."""
    rank = np.arange(len(capacity))
    node = place(random_order(pages, 1), np.array(capacity), rank)
    used = np.bincount(node, minlength=len(capacity))
    assert pages == used.sum()
    assert (used[:-1] <= capacity[:-1]).all()
    if sum(capacity) >= pages:
        assert used[-1] <= capacity[-1]


@given(st.integers(1, 300), st.integers(0, 9))
def test_random_order_holds_every_page_once(pages: int, seed: int) -> None:
    """The same seed gives the same order."""
    order = random_order(pages, seed)
    assert list(range(pages)) == sorted(order.tolist())
    assert order.tolist() == random_order(pages, seed).tolist()


def test_random_is_another_order_for_another_seed() -> None:
    """Seeds do not share placements."""
    assert random_order(100, 1).tolist() != random_order(100, 2).tolist()


def test_first_access_order() -> None:
    """By first touch over all chunks; the untouched ones come last, ascending."""
    chunks = chunks_of([7, 3, 7], [], [3, 0, 5, 0])
    expected = [7, 3, 0, 5, 1, 2, 4, 6]
    assert expected == first_access_order(8, chunks).tolist()


def test_first_access_order_stops_reading_once_all_are_seen() -> None:
    """The rest of a long workload is not played twice."""
    chunks = iter(chunks_of([1, 0], [0], [1]))
    assert [1, 0] == first_access_order(2, chunks).tolist()
    assert 2 == len(list(chunks))


@given(st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=5))
def test_first_access_order_holds_every_page_once(parts: list[list[int]]) -> None:
    """Whatever was touched, and however often."""
    order = first_access_order(31, chunks_of(*parts)).tolist()
    assert list(range(31)) == sorted(order)
    touched = list(dict.fromkeys(page for part in parts for page in part))
    assert touched == order[: len(touched)]


def test_an_unknown_placement() -> None:
    """The known ones are named, the nearest suggested."""
    check_placement("random")
    with pytest.raises(UsageError, match="did you mean 'first-access'"):
        check_placement("first-acces")
