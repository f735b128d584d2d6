"""Betweenness centrality: its arrays are what is stated, its accesses what follows."""

from itertools import islice

import numpy as np
import pytest

from isotherm.lab.fidelity.graphs import (
    Traversal,
    betweenness,
    deeper_share,
    kronecker_miss,
    slowdown,
)
from isotherm.lab.fidelity.play import ClosedLoop
from isotherm.lab.fidelity.published import read_published
from isotherm.lab.fidelity.soar import machine_of
from isotherm.trace.stream import Pace

GB = 1e9


def program(seed: int = 1, pages: int = 512) -> Traversal:
    """Return a small one."""
    return Traversal("bc", pages, betweenness(1.0), seed)


def test_sizes_are_those_stated() -> None:
    """17 GB of neighbours, vectors of 0.5 to 1 GB, some 20 GB in all."""
    sizes = {o.name: o.size_bytes / GB for o in betweenness(1.0)}
    assert 17.2 == pytest.approx(sizes.pop("neighbours"), rel=0.01)
    assert all(0.5 < size < 1.1 for size in sizes.values())
    assert 20 < program().gib < 21


def test_levels_of_a_uniform_graph() -> None:
    """Branching by hand: 32, 1,024, 32,757, 1.04 M, 29.1 M and the rest are found."""
    assert 0.1776 == pytest.approx(deeper_share(), abs=1e-4)
    assert deeper_share() < 0.5  # no edge leads deeper from both its ends


def test_the_cache_keeps_the_heaviest() -> None:
    """A part of the reads hit on a Kronecker graph, by a cache of thousandths of it."""
    assert 0.5 < kronecker_miss() < 0.7


def test_pages_are_born_in_order() -> None:
    """Every page is touched once first, the graph before the vectors."""
    first = next(program().epochs(Pace(rate=10.0)))
    assert list(range(512)) == first.page[:512].tolist()
    assert first.stream is not None
    starts = np.array(program().stream_starts)
    owner = np.searchsorted(starts, first.page, side="right") - 1
    np.testing.assert_array_equal(owner, first.stream)


@pytest.mark.slow
def test_accesses_are_those_of_the_algorithm() -> None:
    """Of two sources each array gets its share, and deltas none in the first half."""
    own = program(pages=4096)
    pace = Pace(rate=100.0)
    per_epoch = 100 * 4096 // 2
    forward = sum(o.forward for o in own.objects) * own.scale
    counts = np.zeros(len(own.objects))
    names = [o.name for o in own.objects]
    epochs = int(2 * own.source_accesses / per_epoch)
    for epoch, chunk in enumerate(islice(own.epochs(pace), epochs)):
        assert chunk.stream is not None
        skip = 4096 if epoch == 0 else 0
        found = np.bincount(chunk.stream[skip:], minlength=len(names))
        if (epoch + 1) * per_epoch < forward:
            assert 0 == found[names.index("deltas")]
        counts += found
    lines = np.array([o.forward + o.backward for o in own.objects])
    np.testing.assert_allclose(counts / counts.sum(), lines / lines.sum(), atol=0.01)


def test_the_same_seed_gives_the_same_accesses() -> None:
    """Bit for bit; another seed gives others."""
    one, two, other = (next(program(seed).epochs(Pace())) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.page, two.page)
    assert not np.array_equal(one.page, other.page)


def test_a_closed_loop_keeps_the_streams() -> None:
    """Cut into other epochs, pages and streams are the same, to the end of the work."""
    pace = Pace(rate=10.0)
    loop = ClosedLoop(program(), lambda last: 777, work=10_000)
    assert program().streams == loop.streams
    assert program().stream_starts == loop.stream_starts
    cut = list(loop.epochs(pace))
    plain = list(islice(program().epochs(pace), 5))
    for name in ("page", "stream"):
        want = np.concatenate([getattr(chunk, name) for chunk in plain])[:10_000]
        got = np.concatenate([getattr(chunk, name) for chunk in cut])
        np.testing.assert_array_equal(want, got)
    assert [777] * 12 + [10_000 - 777 * 12] == [len(chunk) for chunk in cut]


@pytest.mark.slow
def test_all_fast_is_one_and_all_slow_is_the_latency() -> None:
    """The slowdown's ends: 1, and computing beside 190 for 90 ns, bandwidth aside."""
    own = program(pages=256)
    machine = machine_of(read_published("soar"), own.gib)
    ends = [
        slowdown(own, policy, machine, 1, {}, memory_share=0.5, seed=1)
        for policy in ("all-fast", "all-slow")
    ]
    assert 1.0 == pytest.approx(ends[0], abs=1e-6)
    assert 1 + 0.5 * (190 / 90 - 1) == pytest.approx(ends[1], rel=0.1)
