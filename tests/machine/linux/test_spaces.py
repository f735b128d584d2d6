"""Flat pages are given to mappings, kept by them, and given up with them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.machine.linux.intervals import EMPTY, covered, normalised
from isotherm.machine.linux.spaces import GRANULE, NO_PAGE, NO_PID, SpaceMap

Ranges = list[tuple[int, int]]


def ranges(rows: Ranges) -> np.ndarray:
    """Return rows as a column table, int64[n, 2]."""
    return np.array(rows, np.int64).reshape(-1, 2)


def vpages(rows: Ranges) -> np.ndarray:
    """Return every page number of some ranges, ascending."""
    whole = [np.arange(a, b) for a, b in normalised(ranges(rows))]
    return np.concatenate([np.empty(0, np.int64), *whole]).astype(np.uint64)


some_ranges = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(1, 900)).map(
        lambda x: (x[0], x[0] + x[1])
    ),
    max_size=5,
)


def test_a_page_is_found_from_both_sides() -> None:
    """flat_pages and locate are each other's inverse; what is not mapped has none."""
    spaces = SpaceMap()
    spaces.update(7, ranges([(1000, 1100), (9000, 9001)]))
    flat = spaces.flat_pages(7, np.array([999, 1000, 1099, 1100, 9000], np.uint64))
    assert [True, False, False, True, False] == (flat == NO_PAGE).tolist()
    pid, vpage = spaces.locate(flat[[1, 2, 4]])
    assert ([7, 7, 7], [1000, 1099, 9000]) == (pid.tolist(), vpage.tolist())
    assert (spaces.flat_pages(8, np.array([1000], np.uint64)) == NO_PAGE).all()
    beyond = spaces.locate(np.array([spaces.pages, NO_PAGE], np.uint32))
    assert [NO_PID, NO_PID] == beyond[0].tolist()


@pytest.mark.parametrize("start", [0, 1, 511, 512, 70000])
def test_flat_and_virtual_pages_align_alike(start: int) -> None:
    """Modulo a huge page they are equal, wherever the mapping begins."""
    spaces = SpaceMap()
    spaces.update(1, ranges([(3, 5)]))
    spaces.update(2, ranges([(start, start + 700)]))
    for row in spaces.ranges(2).tolist():
        assert row[0] % GRANULE == row[2] % GRANULE


def test_a_mapping_that_grows_keeps_its_pages() -> None:
    """Only what is new is renewed; the flat pages of the rest stay."""
    spaces = SpaceMap()
    spaces.update(1, ranges([(512, 2048)]))
    spaces.update(2, ranges([(512, 1024)]))
    before = spaces.flat_pages(1, vpages([(512, 2048)]))
    assert 2048 == int(np.diff(spaces.take_renewed()).sum())
    assert spaces.update(1, ranges([(512, 1000), (1000, 4096)]))
    assert before.tolist() == spaces.flat_pages(1, vpages([(512, 2048)])).tolist()
    renewed = spaces.take_renewed()
    new = spaces.flat_pages(1, vpages([(2048, 4096)])).astype(np.int64)
    assert sorted(new.tolist()) == [p for a, b in renewed for p in range(a, b)]


def test_nothing_new_is_no_change() -> None:
    """The same ranges again, however they are split, change nothing."""
    spaces = SpaceMap()
    assert spaces.update(1, ranges([(10, 30)]))
    version = spaces.version
    assert not spaces.update(1, ranges([(20, 30), (10, 20)]))
    assert not spaces.forget(2)
    assert version == spaces.version


def test_given_up_pages_rest_before_a_new_owner_has_them() -> None:
    """They are not given out again before somebody was told that they are void."""
    spaces = SpaceMap()
    spaces.update(1, ranges([(0, 1024)]))
    spaces.take_renewed()
    assert spaces.forget(1)
    spaces.update(2, ranges([(0, 512)]))
    assert [1024] == spaces.ranges(2)[:, 2].tolist()
    assert [[0, 1536]] == spaces.take_renewed().tolist()
    spaces.update(3, ranges([(0, 512)]))
    assert [0] == spaces.ranges(3)[:, 2].tolist()
    assert 1536 == spaces.pages


def test_the_index_has_an_end() -> None:
    """What does not fit is left out and counted, and taken in when there is room."""
    spaces = SpaceMap(most_granules=2)
    spaces.update(1, ranges([(0, 512)]))
    spaces.update(2, ranges([(0, 2048)]))
    assert 3 * GRANULE == spaces.left_out_pages
    assert 1024 == spaces.mapped_pages == spaces.pages
    spaces.forget(1)
    spaces.take_renewed()
    spaces.update(2, ranges([(0, 2048)]))
    assert 2 * GRANULE == spaces.left_out_pages


@given(st.lists(st.tuples(st.integers(1, 3), some_ranges), max_size=8))
def test_any_history_keeps_the_map_one_to_one(
    history: list[tuple[int, Ranges]],
) -> None:
    """Every managed page has one flat page, every change is told, alignment holds."""
    spaces = SpaceMap()
    owned: dict[int, Ranges] = {}
    flat: dict[tuple[int, int], int] = {}
    for pid, rows in history:
        spaces.update(pid, ranges(rows))
        owned[pid] = rows
        now: dict[tuple[int, int], int] = {}
        for who, what in owned.items():
            page = vpages(what)
            at = spaces.flat_pages(who, page)
            assert not (at == NO_PAGE).any()
            assert (at % GRANULE == page % GRANULE).all()
            back = spaces.locate(at)
            assert (back[0] == who).all()
            assert (back[1] == page).all()
            now |= {
                (who, p): f for p, f in zip(page.tolist(), at.tolist(), strict=True)
            }
        assert len(set(now.values())) == len(now)
        assert all(f < spaces.pages for f in now.values())
        renewed = spaces.take_renewed()
        changed = [f for key, f in now.items() if flat.get(key) != f]
        changed += [f for key, f in flat.items() if now.get(key) != f]
        assert all(flat[key] == now[key] for key in flat.keys() & now.keys())
        told = covered(renewed, np.array(changed, np.int64))
        assert told.all()
        assert len(set(changed)) == int(np.diff(renewed).sum())
        flat = now
    assert spaces.pids() == tuple(p for p in sorted(owned) if len(vpages(owned[p])))


def test_extents_tile_what_is_mapped() -> None:
    """All extents together hold every mapped page once, ascending by base."""
    spaces = SpaceMap()
    spaces.update(5, ranges([(700, 900), (100, 101)]))
    spaces.update(3, ranges([(1 << 35, (1 << 35) + 600)]))
    base, end, start, pid = spaces.extents()
    assert (base[1:] >= end[:-1]).all()
    assert 801 == int((end - base).sum()) == spaces.mapped_pages
    assert {3, 5} == set(pid.tolist())
    assert start.tolist() == spaces.locate(base.astype(np.uint32))[1].tolist()
    assert EMPTY.shape == (0, 2)
