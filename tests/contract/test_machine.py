"""What every machine keeps, simulated or not."""

import itertools
from typing import Any

import numpy as np

from isotherm.machine.protocol import NOT_PRESENT


def present(machine: Any) -> np.ndarray:
    """Return the pages that have memory, uint32."""
    return np.flatnonzero(machine.placement() != NOT_PRESENT).astype(np.uint32)


def ids(machine: Any) -> list[int]:
    """Return the nodes that are in a tier, fastest first."""
    return [node for tier in machine.topology.tiers for node in tier.nodes]


def move(machine: Any, page: list[int], node: list[int]) -> Any:
    """Move pages, each to its node."""
    return machine.move(np.array(page, np.uint32), np.array(node, np.uint8))


def test_spaces_tile_the_flat_index(bench: Any) -> None:
    """They ascend, do not overlap, and end within the index; huge pages align."""
    machine = bench.machine
    spaces = machine.spaces
    assert len(spaces) > 0
    ends = [space.base + space.pages for space in spaces]
    assert all(space.pages > 0 for space in spaces)
    assert all(end <= s.base for end, s in zip(ends, spaces[1:], strict=False))
    assert machine.pages >= ends[-1]
    if bench.is_exact:
        assert machine.pages == ends[-1]
    assert all(space.owner for space in spaces)
    assert all(space.base % 512 == space.start_page % 512 for space in spaces)


def test_what_no_space_holds_has_no_memory(bench: Any) -> None:
    """Page numbers between and behind the spaces are nobody's."""
    machine = bench.machine
    held = np.zeros(machine.pages, np.bool_)
    for space in machine.spaces:
        held[space.base : space.base + space.pages] = True
    assert set(machine.placement()[~held].tolist()) <= {NOT_PRESENT}


def test_spaces_change_with_a_refresh_only(bench: Any) -> None:
    """A refresh says what has changed; the index never shrinks."""
    machine = bench.machine
    for _ in range(3):
        pages, spaces = machine.pages, machine.spaces
        bench.touch(np.arange(64))
        assert (pages, spaces) == (machine.pages, machine.spaces)
        change = machine.refresh()
        if change is None:
            assert (pages, spaces) == (machine.pages, machine.spaces)
            continue
        assert pages <= change.pages == machine.pages == len(machine.placement())
        renewed = change.renewed
        assert (np.int64, 2) == (renewed.dtype, renewed.shape[1])
        flat = renewed.ravel()
        assert (np.diff(flat) >= 0).all(), "ascending, not overlapping"
        assert (renewed[:, 0] < renewed[:, 1]).all()
        assert not len(flat) or (flat[0] >= 0 and flat[-1] <= change.pages)


def test_every_node_with_memory_is_in_one_tier(bench: Any) -> None:
    """No node twice, no tier empty, every node known."""
    topology = bench.machine.topology
    nodes = ids(bench.machine)
    assert len(set(nodes)) == len(nodes)
    assert all(tier.nodes for tier in topology.tiers)
    assert set(nodes) <= {node.id for node in topology.nodes}


def test_placement_names_nodes(bench: Any) -> None:
    """One byte a page: a node of the topology, or 255 for no memory."""
    machine = bench.machine
    node = machine.placement()
    assert (machine.pages,) == node.shape
    assert np.uint8 == node.dtype
    assert set(node.tolist()) <= {*ids(machine), NOT_PRESENT}
    assert len(present(machine)) >= 64


def test_usage_is_indexed_by_node(bench: Any) -> None:
    """Columns of one length, marks in order, and room for what is placed."""
    machine = bench.machine
    usage = machine.usage()
    width = max(ids(machine)) + 1
    columns = (
        usage.capacity_pages, usage.used_pages, usage.min_pages,
        usage.low_pages, usage.high_pages, usage.promo_pages,
    )  # fmt: skip
    for column in columns:
        assert np.int64 == column.dtype
        assert len(column) >= width
        assert (column >= 0).all()
    for lower, higher in itertools.pairwise(columns[2:]):
        assert (lower <= higher).all()
    assert (usage.free_pages == usage.capacity_pages - usage.used_pages).all()
    counted = np.bincount(machine.placement()[present(machine)], minlength=width)
    if bench.is_exact:
        assert counted.tolist() == usage.used_pages.tolist()
    else:
        assert (counted[:width] <= usage.used_pages[:width]).all()


def test_latency_is_known_for_every_node(bench: Any) -> None:
    """One row an initiator, finite and above 0, before and after the first access."""
    machine = bench.machine
    for _ in range(2):
        latency = machine.latency_ns()
        assert len(machine.topology.initiators) == latency.shape[0]
        assert np.float64 == latency.dtype
        used = latency[:, ids(machine)]
        assert np.isfinite(used).all()
        assert (used > 0).all()
        bench.touch(np.arange(64))


def test_time_does_not_run_backwards(bench: Any) -> None:
    """The clock counts whole nanoseconds, and goes on while pages are touched."""
    clock = bench.machine.clock
    before = clock.now_ns()
    assert isinstance(before, int)
    bench.touch(np.arange(64))
    assert clock.now_ns() > before


def test_the_access_rate_is_unknown_or_a_rate(bench: Any) -> None:
    """Never below 0, and None rather than 0 where nobody counts."""
    machine = bench.machine
    assert machine.access_rate() is None or machine.access_rate() >= 0
    bench.touch(np.arange(64))
    rate = machine.access_rate()
    assert rate is None or rate > 0


def test_a_page_goes_where_there_is_room_and_back(bench: Any) -> None:
    """Placement and usage follow; a move costs time."""
    machine = bench.machine
    fast, slow = ids(machine)[0], ids(machine)[-1]
    page = int(np.flatnonzero(machine.placement() == slow)[0])
    before = machine.usage().used_pages
    for here, there in ((slow, fast), (fast, slow)):
        result = move(machine, [page], [there])
        assert [0] == result.errno.tolist()
        assert result.cost_ns > 0
        assert there == machine.placement()[page]
        if bench.is_exact:
            change = machine.usage().used_pages - before
            expected = np.zeros_like(change)
            if there == fast:
                expected[[here, there]] = [-1, 1]
            assert expected.tolist() == change.tolist()


def test_a_page_that_is_there_already_stays(bench: Any) -> None:
    """No error, no change."""
    machine = bench.machine
    before = machine.placement().copy()
    page = present(machine)[:8]
    result = machine.move(page, before[page])
    assert [0] * 8 == result.errno.tolist()
    assert (before == machine.placement()).all()


def test_an_empty_batch(bench: Any) -> None:
    """No pages, no errno, no cost."""
    result = move(bench.machine, [], [])
    assert ((0,), 0.0) == (result.errno.shape, result.cost_ns)


def test_a_page_that_cannot_move_is_data(bench: Any) -> None:
    """A node that is not there is that page's errno; the others still move."""
    machine = bench.machine
    fast, slow = ids(machine)[0], ids(machine)[-1]
    pages = np.flatnonzero(machine.placement() == slow)[:2].tolist()
    missing = next(n for n in range(254) if n not in ids(machine))
    result = move(machine, pages, [missing, fast])
    assert np.int16 == result.errno.dtype
    assert result.errno[0] > 0
    assert 0 == result.errno[1]
    assert [slow, fast] == machine.placement()[pages].tolist()


def test_a_full_node_takes_no_more(bench: Any) -> None:
    """However much is asked for, no node goes beyond its capacity."""
    machine = bench.machine
    fast = ids(machine)[0]
    page = present(machine)
    result = machine.move(page, np.full(len(page), fast, np.uint8))
    assert len(page) == len(result.errno)
    assert ((machine.placement()[page] == fast) == (result.errno == 0)).all()
    usage = machine.usage()
    assert (usage.used_pages <= usage.capacity_pages).all()
