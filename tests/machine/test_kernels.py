"""The simulator's compiled loops equal their numpy twins, byte for byte."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import BACKEND, TWINS
from isotherm.machine.sim import play, poison

pytestmark = pytest.mark.skipif(
    BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: there is only the twin"
)
SEEDS = st.integers(0, 2**32 - 1)
PAGES = st.integers(1, 200)
KERNELS = {
    f"isotherm.machine.sim.{name}"
    for name in (
        "play.play_plain",
        "play.play_full",
        "play.take_faults",
        "play.read_bits",
        "play.nodes_of",
        "play.place",
        "poison.poison_range",
    )
}


def both(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return the compiled function and its twin."""
    return list(TWINS[f"{function.__module__}.{function.__name__}"])


def flags_of(
    rng: np.random.Generator, pages: int, nodes: int = play.MAX_NODES
) -> np.ndarray:
    """Return flags of whole blocks: any bits set, nodes below ``nodes``."""
    flags = rng.integers(0, 256, -(-pages // 8) * 8).astype(np.uint8)
    return (flags & 0xF8) | (flags & play.NODE_MASK) % nodes


def test_every_kernel_is_held_to_its_twin() -> None:
    """The tests below name every kernel of the two modules."""
    modules = (play.__name__, poison.__name__)
    assert {name for name in TWINS if name.rpartition(".")[0] in modules} == KERNELS


@settings(max_examples=40, deadline=None)
@given(SEEDS, PAGES, st.integers(0, 500), st.integers(0, 255), st.booleans())
def test_play_plain(seed: int, pages: int, n: int, mask: int, long: bool) -> None:
    """Flags and counts agree, also beyond what the counting lanes hold at once."""
    mask &= ~play.NODE_MASK
    results = []
    for function in both(play.play_plain):
        rng = np.random.default_rng(seed)
        flags = flags_of(rng, pages, 4)
        page = rng.integers(0, pages, n + long * play.LANE_FLUSH).astype(np.uint32)
        counts = np.zeros(play.MAX_NODES, np.int64)
        function(flags, page, mask, counts)
        assert len(page) == counts.sum()
        results.append((flags.tobytes(), counts.tolist()))
    assert results[1] == results[0]


def test_counting_lanes_do_not_overflow() -> None:
    """A node that takes every access of a long run is counted to the last."""
    flags = np.full(8, 3, np.uint8)
    counts = np.zeros(8, np.int64)
    n = 3 * play.LANE_FLUSH + 4099
    play.play_plain(flags, np.zeros(n, np.uint32), play.ACCESSED, counts)
    assert [0, 0, 0, n, 0, 0, 0, 0] == counts.tolist()
    assert [3 | play.ACCESSED, *[3] * 7] == flags.tolist()


@settings(max_examples=60, deadline=None)
@given(
    SEEDS, PAGES, st.integers(0, 500), st.integers(1, 3), st.booleans(), st.booleans()
)
def test_play_full(
    seed: int, pages: int, n: int, who: int, writes: bool, named: bool
) -> None:
    """Reads, writes and initiators are told apart alike; unknown ones are 0."""
    results = []
    for function in both(play.play_full):
        rng = np.random.default_rng(seed)
        flags = flags_of(rng, pages)
        page = rng.integers(0, pages, n).astype(np.uint32)
        write = rng.integers(0, 3, n if writes else 0).astype(np.uint8)
        initiator = rng.choice([0, 1, 2, 255], n if named else 0).astype(np.uint8)
        counts = np.zeros((who, 2, play.MAX_NODES), np.int64)
        function(flags, page, write, initiator, play.ACCESSED, counts)
        assert n == counts.sum()
        assert int((write > 0).sum()) == counts[:, 1].sum()
        results.append((flags.tobytes(), counts.tolist()))
    assert results[1] == results[0]


@settings(max_examples=60, deadline=None)
@given(SEEDS, PAGES, st.integers(0, 500))
def test_take_faults(seed: int, pages: int, n: int) -> None:
    """The same pages fault at the same accesses, each once, and are plain after."""
    results = []
    for function in both(play.take_faults):
        rng = np.random.default_rng(seed)
        flags = flags_of(rng, pages)
        poisoned = int(((flags & play.POISONED) != 0).sum())
        page = rng.integers(0, pages, n).astype(np.uint32)
        fault_page = np.zeros(min(n, poisoned), np.uint32)
        fault_at = np.zeros(len(fault_page), np.int64)
        k = int(function(flags, page, fault_page, fault_at))
        assert poisoned - k == int(((flags & play.POISONED) != 0).sum())
        found = (fault_page[:k].tolist(), fault_at[:k].tolist())
        results.append((k, flags.tobytes(), found))
    assert results[1] == results[0]
    _, _, (fault_page_list, at) = results[0]
    assert len(set(fault_page_list)) == len(fault_page_list)
    assert sorted(at) == at


@settings(max_examples=60, deadline=None)
@given(SEEDS, PAGES, st.integers(0, 25), st.integers(1, 5), st.integers(-1, 7))
def test_read_bits(seed: int, pages: int, first: int, step: int, node: int) -> None:
    """Bits, pages looked at and entries agree; what was read is clear after."""
    results = []
    blocks = -(-pages // 8)
    first = min(first, blocks)
    for function in both(play.read_bits):
        flags = flags_of(np.random.default_rng(seed), pages)
        count = -(-(blocks - first) // step)
        bits, observed = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
        entries = int(
            function(flags, first, blocks, step, play.ACCESSED, node, bits, observed)
        )
        assert int(np.unpackbits(observed).sum()) == entries
        assert not (bits & ~observed).any()
        again = np.zeros(count, np.uint8)
        function(flags, first, blocks, step, play.ACCESSED, node, again, observed)
        assert not again.any()
        results.append((flags.tobytes(), bits.tolist(), observed.tolist(), entries))
    assert results[1] == results[0]


@given(SEEDS, PAGES)
def test_nodes_of(seed: int, pages: int) -> None:
    """The node column is the low three bits of the flags."""
    flags = flags_of(np.random.default_rng(seed), pages)
    results = []
    for function in both(play.nodes_of):
        out = np.zeros(pages, np.uint8)
        function(flags, out)
        results.append(out.tolist())
    assert results[1] == results[0] == [int(f) & 7 for f in flags[:pages]]


@settings(max_examples=60, deadline=None)
@given(SEEDS, PAGES, st.integers(0, 100), st.integers(1, 8))
def test_place(seed: int, pages: int, n: int, nodes: int) -> None:
    """Moves, refusals and counts agree; no node gets more than it holds."""
    results = []
    for function in both(play.place):
        rng = np.random.default_rng(seed)
        flags = flags_of(rng, pages, nodes)[:pages]
        used = np.bincount(flags & play.NODE_MASK, minlength=nodes)
        capacity = used + rng.integers(0, 4, nodes)
        page = rng.integers(0, pages, n).astype(np.uint32)
        node = rng.integers(0, nodes, n).astype(np.uint8)
        errno = np.where(rng.random(n) < 0.1, 2, 0).astype(np.int16)
        moved = np.zeros((nodes, nodes), np.int64)
        function(flags, page, node, used, capacity, moved, errno)
        assert (used <= capacity).all()
        held = np.bincount(flags & play.NODE_MASK, minlength=nodes)
        assert held.tolist() == used.tolist()
        results.append((flags.tobytes(), used.tolist(), moved.tolist(), errno.tolist()))
    assert results[1] == results[0]


@settings(max_examples=60, deadline=None)
@given(SEEDS, PAGES, st.integers(-1, 7), st.integers(0, 2**32 - 1))
def test_poison_range(seed: int, pages: int, node: int, now: int) -> None:
    """Poisoned pages, silent ones and their times agree."""
    results = []
    for function in both(poison.poison_range):
        rng = np.random.default_rng(seed)
        flags = flags_of(rng, pages)
        since = rng.integers(0, 2**32, pages).astype(np.uint32)
        told = since + rng.integers(0, 2**32, pages).astype(np.uint32)
        start, end = sorted(rng.integers(0, pages + 1, 2).tolist())
        silent = np.zeros(end - start, np.uint32)
        waited = np.zeros(end - start, np.uint32)
        out = np.array([5, 0, 7], np.int64)
        function(flags, since, told, start, end, node, now, silent, waited, out)
        columns = (flags, since, told, silent, waited)
        results.append((out.tolist(), *(c.tobytes() for c in columns)))
        walked, old, fresh = (out - [5, 0, 7]).tolist()
        assert walked == old + fresh
    assert results[1] == results[0]
