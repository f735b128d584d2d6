"""The frame table's compiled loops equal their twins, and an ordinary dictionary."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import BACKEND, TWINS
from isotherm.hints.live import frame_table as table

pytestmark = pytest.mark.skipif(
    BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: there is only the twin"
)
SEEDS = st.integers(0, 2**32 - 1)
PAGES = 200


def both(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return the compiled function and its twin."""
    return list(TWINS[f"{function.__module__}.{function.__name__}"])


def entries(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return pagemap entries: some absent, hidden, beyond, shared."""
    frame = rng.integers(0, 3000, count).astype(np.uint64)
    frame[rng.random(count) < 0.1] = 0
    frame[rng.random(count) < 0.05] = np.uint64(1 << 40)
    present = rng.random(count) < 0.9
    flags = rng.integers(0, 2, count).astype(np.uint64) << np.uint64(61)
    return frame | flags | np.where(present, np.uint64(1 << 63), np.uint64(0))


def store(
    function: Callable[..., int], entry: np.ndarray, first: int, columns: tuple
) -> tuple:
    """Update until all is taken over, growing as the map does."""
    frame, tables = columns
    done = 0
    while True:
        done += function(
            entry[done:],
            first + done,
            frame,
            tables.directory,
            tables.page,
            tables.used,
            tables.free,
            tables.state,
        )
        if done == len(entry):
            return columns
        tables.grow(entry[done])


def test_every_kernel_is_held_to_its_twin() -> None:
    """The tests below name every kernel of the module."""
    names = {n.rpartition(".")[2] for n in TWINS if n.startswith(table.__name__)}
    assert {"store_entries", "update", "find"} == names


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_tables_are_the_same_and_right(seed: int) -> None:
    """Turns of any length: equal columns, and what a dictionary would say."""
    rng = np.random.default_rng(seed)
    made = [(np.zeros(PAGES, np.uint32), table.Tables()) for _ in range(2)]
    for _ in range(8):
        first = int(rng.integers(0, PAGES - 1))
        entry = entries(rng, int(rng.integers(1, PAGES - first + 1)))
        for function, columns in zip(both(table.update), made, strict=True):
            store(function, entry, first, columns)
        (frame, tables), (other_frame, other) = made
        assert frame.tolist() == other_frame.tolist()
        for name in ("page", "used", "state"):
            assert getattr(tables, name).tolist() == getattr(other, name).tolist()
        asked = np.concatenate([np.arange(3000), [1 << 40, 1 << 32]]).astype(np.uint64)
        answers = []
        for function in both(table.find):
            out = np.zeros(len(asked), np.uint32)
            found = function(asked, tables.directory, tables.page, out)
            assert found == np.count_nonzero(out != table.NOBODY)
            answers.append(out.tolist())
        assert answers[0] == answers[1]
        on = {f: [] for f in frame.tolist()}
        for page, at in enumerate(frame.tolist()):
            on[at].append(page)
        for wanted, page in zip(asked.tolist(), answers[0], strict=True):
            # A frame that the first of its pages has left waits for a turn.
            assert page == table.NOBODY or page in on[wanted]
            if len(on.get(wanted, ())) == 1 and wanted and page == table.NOBODY:
                assert tables.state[table.SHARED] > 0
        counts = np.bincount(
            np.repeat(np.arange(len(tables.used)), table.CHUNK),
            weights=tables.page != table.NOBODY,
        )
        assert counts.astype(int).tolist() == tables.used.tolist()


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_entries_alone(seed: int) -> None:
    """Frames and counts agree where nobody looks frames up."""
    results = []
    for function in both(table.store_entries):
        rng = np.random.default_rng(seed)
        frame = rng.integers(0, 3000, PAGES).astype(np.uint32)
        state = np.zeros(table.STATE, np.int64)
        function(entries(rng, PAGES - 7), 5, frame, state)
        results.append([frame.tolist(), state.tolist()])
    assert results[0] == results[1]


def test_chunks_are_used_again() -> None:
    """Pages that move from one chunk to the next need no more of them."""
    frame, tables = np.zeros(1, np.uint32), table.Tables()
    for turn in range(1, 500):
        entry = np.array([turn * table.CHUNK], np.uint64) | np.uint64(1 << 63)
        store(table.update, entry, 0, (frame, tables))
    assert tables.state[table.NEXT] <= 3
    assert 1 == tables.used.sum()
