"""The expander's compiled loops equal their twins, byte for byte."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import BACKEND, TWINS
from isotherm.machine.sim import expander_blocks as blocks

pytestmark = pytest.mark.skipif(
    BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: there is only the twin"
)
SEEDS = st.integers(0, 2**32 - 1)
PAGES = st.integers(1, 120)
NODE = 2


def both(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return the compiled function and its twin."""
    return list(TWINS[f"{function.__module__}.{function.__name__}"])


class Device:
    """Columns of a device in any state that it can be in."""

    def __init__(self, seed: int, pages: int) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.flags = rng.integers(0, 256, pages).astype(np.uint8)
        self.flags = (self.flags & 0xF8) | (self.flags % 3)
        here = (self.flags & 7) == NODE
        self.lines = np.where(here, rng.integers(1, 65, pages), 0).astype(np.uint8)
        sets = int(rng.integers(1, 5))
        self.tag = np.full(sets * blocks.WAYS, blocks.EMPTY, np.uint32)
        for page in np.flatnonzero(here)[:: int(rng.integers(1, 4))].tolist():
            first = page % sets * blocks.WAYS
            self.tag[first + int(rng.integers(blocks.WAYS))] = page
        self.used_at = rng.permutation(len(self.tag)).astype(np.int64)
        self.dirty = rng.integers(0, 2, len(self.tag)).astype(np.uint8)
        self.books = np.zeros(blocks.BOOKS, np.int64)
        self.books[blocks.USED] = self.lines.sum()
        self.books[blocks.CLOCK] = len(self.tag)
        self.media = int(self.lines.sum() + rng.integers(0, 200))
        share = rng.random()
        self.mix = np.array([rng.integers(2**32), rng.integers(99), share, 30.0, 0.5])

    def state(self) -> list[list[int]]:
        """Return every column."""
        dirty = np.where(self.tag == blocks.EMPTY, 0, self.dirty)
        columns = (self.flags, self.lines, self.tag, self.used_at, dirty, self.books)
        return [column.tolist() for column in columns]


def test_every_kernel_is_held_to_its_twin() -> None:
    """The tests below name every kernel of the module."""
    names = {n.rpartition(".")[2] for n in TWINS if n.startswith(blocks.__name__)}
    assert {"store_all", "access_blocks", "place_blocks"} == names


@settings(max_examples=60, deadline=None)
@given(SEEDS, PAGES, st.integers(0, 300), st.booleans())
def test_access_blocks(seed: int, pages: int, n: int, writes: bool) -> None:
    """Cache, books and stored sizes agree, with and without writes."""
    results = []
    for function in both(blocks.access_blocks):
        device = Device(seed, pages)
        page = device.rng.integers(0, pages, n).astype(np.uint32)
        write = device.rng.integers(0, 2, n if writes else 0).astype(np.uint8)
        function(
            device.flags,
            page,
            write,
            NODE,
            device.tag,
            device.used_at,
            device.dirty,
            device.lines,
            device.media,
            device.mix,
            device.books,
        )
        results.append(device.state())
        assert device.books[blocks.USED] == device.lines.sum()
        assert device.books[blocks.USED] <= device.media
    assert results[0] == results[1]


@settings(max_examples=60, deadline=None)
@given(SEEDS, PAGES, st.integers(0, 120))
def test_place_blocks(seed: int, pages: int, n: int) -> None:
    """Moves, errnos, stored sizes agree; no page but a stored one takes lines."""
    results = []
    for function in both(blocks.place_blocks):
        device = Device(seed, pages)
        rng = device.rng
        page = rng.integers(0, pages, n).astype(np.uint32)
        node = rng.integers(0, 3, n).astype(np.uint8)
        used = np.bincount(device.flags & 7, minlength=3).astype(np.int64)
        capacity = used + rng.integers(0, 9, 3)
        moved = np.zeros((3, 3), np.int64)
        errno = (rng.random(n) < 0.1).astype(np.int16) * 16
        function(
            device.flags,
            page,
            node,
            used,
            capacity,
            moved,
            errno,
            NODE,
            device.tag,
            device.lines,
            device.media,
            device.mix,
            device.books,
        )
        state = [used.tolist(), moved.tolist(), errno.tolist(), *device.state()]
        results.append(state)
        assert device.books[blocks.USED] == device.lines.sum()
        assert ((device.lines > 0) == ((device.flags & 7) == NODE)).all()
        assert (used <= capacity).all()
    assert results[0] == results[1]


@settings(max_examples=40, deadline=None)
@given(SEEDS, PAGES)
def test_store_all(seed: int, pages: int) -> None:
    """Stored sizes and books agree."""
    results = []
    for function in both(blocks.store_all):
        device = Device(seed, pages)
        page = np.flatnonzero((device.flags & 7) == NODE).astype(np.uint32)
        function(page, device.lines, device.mix, device.books)
        results.append(device.state())
    assert results[0] == results[1]
