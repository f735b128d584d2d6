"""The compiled loops of the workloads equal their numpy twins."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import BACKEND, TWINS
from isotherm.workloads import btree, draw, embedding, mix
from isotherm.workloads.density import bell, flat, power
from isotherm.workloads.registry import WORKLOADS
from isotherm.workloads.rng import draw_words, mix64, mix64_array
from isotherm.workloads.table import Part, build_table

pytestmark = pytest.mark.skipif(
    BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: there is only the twin"
)
SEEDS = st.integers(0, 2**63)


def both(module: object, name: str) -> tuple:
    """Return the compiled function and its twin."""
    return TWINS[f"{module.__name__}.{name}"]


def test_splitmix_matches_its_published_output() -> None:
    """Draws of key 1234567 are the first outputs of the published generator."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert draw_words(np.uint64(1234567), 0, 3).tolist() == expected


@given(SEEDS)
def test_scalar_and_array_hash_agree(word: int) -> None:
    """The kernels' hash and the twins' hash are one function."""
    array = mix64_array(np.array([word], np.uint64))
    assert int(mix64(np.uint64(word))) == int(array[0])


@settings(max_examples=30, deadline=None)
@given(
    seed=SEEDS,
    count=st.integers(0, 5000),
    first=st.integers(0, 2**40),
    pages=st.integers(1, 5000),
    burst=st.integers(1, 70),
    sweep=st.integers(0, 10**6),
    mapped=st.booleans(),
    writes=st.booleans(),
    turn=st.integers(-(10**6), 10**6),
)
def test_draws_equal_their_twin(
    seed: int,
    count: int,
    first: int,
    pages: int,
    burst: int,
    sweep: int,
    mapped: bool,
    writes: bool,
    turn: int,
) -> None:
    """Pages, writes and the sweep's position are the same to the bit."""
    parts = [
        Part(0.5, power(pages, 0.9)),
        Part(0.2, bell(pages, 1 + pages / 20)),
        Part(0.1, flat(pages)),
        Part(0.2, None, span=pages),
    ]
    table = build_table(parts, burst)
    table.turn(1, turn)
    page_map = np.arange(pages if mapped else 0, dtype=np.uint32)[::-1].copy()
    results = []
    for function in both(draw, "draw"):
        page = np.empty(count, np.uint32)
        write = np.empty(count if writes else 0, np.uint8)
        end = function(
            page,
            write,
            np.uint64(seed),
            first,
            table.slots,
            table.shift,
            table.rows,
            page_map,
            sweep % (burst * pages),
            pages,
            burst,
            1 << 30,
        )
        results.append((page.tolist(), write.tolist(), int(end)))
    assert results[1] == results[0]
    assert all(page < pages for page in results[0][0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 999), st.integers(1, 3000))
def test_tree_walks_equal_their_twin(seed: int, start: int, count: int) -> None:
    """A cut anywhere in a look-up gives the same nodes."""
    rng = np.random.default_rng(seed)
    divisor = np.array([64, 8, 1], np.uint32)
    base = np.array([74, 64, 0], np.uint32)
    nodes = rng.permutation(76).astype(np.uint32)
    leaf = rng.integers(0, 64, 1001 + count).astype(np.uint32)
    update = rng.integers(0, 2, 1001 + count).astype(np.uint8)
    results = []
    for function in both(btree, "walk"):
        page, write = np.empty(count, np.uint32), np.empty(count, np.uint8)
        function(page, write, leaf, update, start % 3, divisor, base, nodes)
        results.append((page.tolist(), write.tolist()))
    assert results[1] == results[0]


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 10**6), st.sampled_from([0, 1, 2**31, 2**33]))
def test_row_places_equal_their_twin(seed: int, pages: int, age: int) -> None:
    """Rows lie in the same pages at every age."""
    results = []
    for function in both(embedding, "place_rows"):
        page = np.arange(1000, dtype=np.uint32)
        function(page, np.uint64(seed), pages, np.uint64(age))
        results.append(page.tolist())
    assert results[1] == results[0]
    assert max(results[0]) < pages


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 4000), st.integers(1, 5))
def test_mixing_equals_its_twin(seed: int, count: int, parts: int) -> None:
    """Which part an access comes from, and the merge, are the same to the bit."""
    ends = np.cumsum(np.full(parts, (1 << 32) // parts)).astype(np.uint64)
    results = []
    for choose, merge in zip(both(mix, "choose"), both(mix, "merge"), strict=True):
        part, taken = np.empty(count, np.uint8), np.empty(parts, np.int64)
        choose(part, taken, np.uint64(seed), 7, ends)
        out, mark = np.empty(count, np.uint32), np.empty(count, np.uint8)
        drawn = np.arange(count, dtype=np.uint32)
        marks = (drawn % 2).astype(np.uint8)
        merge(out, mark, part, np.cumsum(taken) - taken, drawn, marks)
        results.append((part.tolist(), taken.tolist(), out.tolist(), mark.tolist()))
    assert results[1] == results[0]
    assert sorted(results[0][2]) == list(range(count))


CHECKSUMS = """
import zlib
from isotherm.trace.stream import Pace
from isotherm.workloads.registry import WORKLOADS, make_workload
for name in WORKLOADS:
    total = 0
    for chunk in make_workload(name, 3001).epochs(Pace(accesses=200_000)):
        total = zlib.crc32(chunk.page.tobytes(), total)
        total = total if chunk.write is None else zlib.crc32(chunk.write, total)
    print(name, total)
"""


@pytest.mark.slow
def test_without_numba_every_workload_is_the_same() -> None:
    """ISOTHERM_KERNELS=numpy gives every generator's accesses bit for bit."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", CHECKSUMS],
            env={**os.environ, "ISOTHERM_KERNELS": backend},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for backend in ("numba", "numpy")
    ]
    assert outputs[1] == outputs[0]
    assert outputs[0].count("\n") == len(WORKLOADS)
