"""Layouts are consistent, and take other memory sizes."""

import pytest

from vmtest.errors import GuestError
from vmtest.layout import LAYOUTS, Layout


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_distances_are_a_slit(layout: Layout) -> None:
    """Square, symmetric, 10 on the diagonal and more elsewhere."""
    count = len(layout.nodes)
    assert [count] * count == [len(row) for row in layout.distances]
    for i in range(count):
        for j in range(count):
            assert layout.distances[j][i] == layout.distances[i][j]
            assert (i == j) == (layout.distances[i][j] == 10)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_initiator_sees_every_node(layout: Layout) -> None:
    """Each node has as many figures as there are nodes with CPUs."""
    assert 0 in layout.initiators
    for node in layout.nodes:
        assert len(layout.initiators) == len(node.access)


def test_memory_named_replaces_and_the_rest_stays() -> None:
    """Sizes are given from node 0 on."""
    layout = LAYOUTS["three-tier"].with_memory((300, 128))
    assert (300, 128, 1024) == tuple(node.memory_mib for node in layout.nodes)
    assert LAYOUTS["three-tier"].distances == layout.distances


@pytest.mark.parametrize(
    ("name", "sizes", "words"),
    [
        ("two-tier", (512, 512, 512), "found 3 sizes, expected at most 2"),
        ("two-tier", (128,), "node 0: expected at least 256 MiB, found 128"),
        ("two-tier", (512, 0), "node 1: expected at least 64 MiB, found 0"),
        ("cxl", (512, 300), "node 1: expected a multiple of 256 MiB"),
    ],
)
def test_sizes_that_cannot_be_are_refused(
    name: str, sizes: tuple[int, ...], words: str
) -> None:
    """The message says the node, what was found and what was expected."""
    with pytest.raises(GuestError, match=words):
        LAYOUTS[name].with_memory(sizes)


def test_slow_motion_slows_what_is_claimed_of_memory_and_keeps_the_order() -> None:
    """Latency and bandwidth alike, so that the kernel's tiers stay as they are."""
    before = LAYOUTS["two-tier"].nodes
    after = LAYOUTS["two-tier"].in_slow_motion(25).nodes
    assert [2500, 10000] == [node.access[0].latency_ns for node in after]
    assert [1024, 256] == [node.access[0].bandwidth_mib_s for node in after]
    assert [n.memory_mib for n in before] == [n.memory_mib for n in after]


@pytest.mark.parametrize("factor", [0.5, 101])
def test_slow_motion_that_cannot_be_is_refused(factor: float) -> None:
    """The message says what was found and what was expected."""
    with pytest.raises(GuestError, match=f"expected 1 to 100, found {factor:g}"):
        LAYOUTS["two-tier"].in_slow_motion(factor)
