"""The clairvoyant bound: what it trades, what it pays, which window it takes."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.kernels import TWINS
from isotherm.policy.bounds import KnownFuture
from isotherm.policy.clairvoyant import (
    WINDOWS,
    Clairvoyant,
    Prices,
    Window,
    play_window,
    unloaded_latency_ns,
)
from isotherm.policy.swaps import (
    accesses_by_tier,
    accesses_by_tier_twin,
    choose,
    choose_twin,
    slide,
    slide_twin,
)
from isotherm.topology.model import (
    AccessPerformance,
    Figure,
    Initiator,
    InitiatorKind,
    Source,
)

GPU = Initiator(2, InitiatorKind.GPU, None, "gpu0")
TWO_TIERS = Prices(np.array([80.0, 250.0]), np.full((2, 2), 2500.0), 1 << 31)
NEED = 2 * 2500 / 170  # accesses that pay for a swap: 29.4
ROW = st.lists(st.integers(0, 60), min_size=6, max_size=6)


def pair_of(name, kernel, twin):
    """Return the compiled function and its twin."""
    return TWINS.get(f"isotherm.policy.swaps.{name}", (kernel, twin))


def future(*rows):
    """Return a future of these counts."""
    return KnownFuture(np.array(rows, np.uint16))


def test_swaps_when_two_moves_pay(bench, hint):
    """30 accesses more in the slow page pay for two moves, 29 do not."""
    for more, moves in ((30, [(0, 1), (1, 0)]), (29, [])):
        table = bench([0, 1], [1, 2])
        policy = Clairvoyant(table.setup(), future([0, 0], [0, more]))
        assert moves == hint.moves(table.step(policy))


def test_what_happens_now_is_past(bench, hint):
    """The epoch that has just ended is worth nothing."""
    table = bench([0, 1], [1, 2])
    policy = Clairvoyant(table.setup(), future([0, 999], [0, 0]))
    assert [] == hint.moves(table.step(policy))


def test_fills_free_pages_at_the_cost_of_one(bench, hint):
    """15 accesses pay for one move (14.7), 14 do not; best first."""
    table = bench([1, 1, 1, 1], [4, 4])
    policy = Clairvoyant(table.setup(), future([0] * 4, [15, 14, 99, 0]))
    assert [(2, 0), (0, 0)] == hint.moves(table.step(policy))


def test_swaps_best_first(bench, hint):
    """The hottest slow page takes the place of the coldest fast one."""
    table = bench([0, 0, 1, 1], [2, 4])
    policy = Clairvoyant(table.setup(), future([0] * 4, [9, 5, 80, 90]))
    assert [(1, 1), (0, 1), (3, 0), (2, 0)] == hint.moves(table.step(policy))


def test_keeps_to_the_move_limit(bench, hint):
    """With two moves an epoch only the best swap is made."""
    table = bench([0, 0, 1, 1], [2, 4], limit=2)
    policy = Clairvoyant(table.setup(), future([0] * 4, [9, 5, 80, 90]))
    assert [(1, 1), (3, 0)] == hint.moves(table.step(policy))


def test_takes_the_window_that_pays(bench):
    """Pages that alternate every epoch: no window pays; steady ones: a long one."""
    table = bench([0, 1], [1, 2])
    policy = Clairvoyant(table.setup(), future(*[[20, 0], [0, 20]] * 10))
    assert 0 == table.step(policy).notes["window_epochs"]
    policy = Clairvoyant(table.setup(), future(*[[0, 4]] * 20))
    table.index = 0
    assert 8 == table.step(policy).notes["window_epochs"]


def test_replays_what_it_played(bench):
    """Deciding epoch by epoch costs exactly what playing the window said."""
    rng = np.random.default_rng(3)
    counts = rng.poisson(rng.gamma(0.3, 60, (30, 1, 64)).repeat(4, 1)).reshape(120, 64)
    table = bench([0] * 16 + [1] * 48, [16, 64])
    policy = Clairvoyant(table.setup(), future(*counts))
    cost_ns = 0.0
    for t in range(len(counts)):
        if t:
            cost_ns += float((counts[t] * np.array([80.0, 250.0])[table.node]).sum())
        cost_ns += 2500.0 * len(table.step(policy).moves)
    assert min(policy.cost_ns.values()) == cost_ns
    assert list(WINDOWS) == list(policy.cost_ns)
    assert cost_ns < policy.cost_ns[0]


def test_counts_beyond_a_key_are_cut(bench, hint):
    """A page accessed four thousand million times an epoch is still the best."""
    table = bench([0, 1, 1], [1, 2])
    counts = np.array([[0, 0, 0], [0, 9, (1 << 32) - 1]] * 3, np.uint32)
    policy = Clairvoyant(table.setup(), KnownFuture(counts))
    assert [(0, 1), (2, 0)] == hint.moves(table.step(policy))


def test_three_tiers(bench, hint):
    """The widest gap trades first; no page moves twice."""
    table = bench([0, 1, 2], [1, 1, 3], tiers=((0,), (1,), (2,)))
    policy = Clairvoyant(table.setup(), future([0, 0, 0], [0, 50, 100]))
    assert [(0, 2), (2, 0)] == hint.moves(table.step(policy))
    assert [0, 1, 2] == sorted(table.node.tolist())


def test_parallelism_divides_latency(bench, hint):
    """With two accesses in flight it takes twice as many to pay."""
    table = bench([0, 1], [1, 2])
    setup = table.setup(parallelism=2)
    policy = Clairvoyant(setup, future([0, 0], [0, 58]))
    assert [] == hint.moves(table.step(policy))


def test_latencies_are_the_unloaded_ones(bench):
    """The topology's figures are taken, or, where one is missing, the epoch's.

    Of CPUs, if they come first: a GPU's accesses nobody would leave unnamed.
    """
    table = bench([0, 1], [1, 2])
    now = np.array([800.0, 900.0])
    topology = table.setup().topology
    first = topology.initiators[0]
    both = (first, replace(first, id=1, node=1), GPU)
    topology = replace(topology, initiators=both)
    assert [800, 900] == unloaded_latency_ns(topology, now).tolist()
    rows = [
        AccessPerformance(i, n, Figure(ns, Source.FIRMWARE))
        for i, n, ns in ((0, 0, 80.0), (0, 1, 250.0), (1, 0, 120.0), (2, 0, 9.0))
    ]
    known = replace(topology, performance=tuple(rows))
    assert [100, 250] == unloaded_latency_ns(known, now).tolist()
    half = replace(topology, performance=tuple(rows[:1]))
    assert [800, 900] == unloaded_latency_ns(half, now).tolist()


@given(rows=st.lists(ROW, min_size=1, max_size=8), length=st.integers(1, 4))
def test_a_window_slides(rows, length):
    """However far it has moved, a window holds the sum of its epochs."""
    counts = np.array(rows, np.uint16)
    window = Window(counts, length, 0)
    for first in range(len(rows) + 1):
        assert counts[first : first + length].sum(0).tolist() == window.value.tolist()
        window.advance()


@given(value=ROW, enter=ROW, leave=ROW)
def test_slide_equals_twin(value, enter, leave):
    """Kernel and twin add and take off alike."""
    found = []
    for function in pair_of("slide", slide, slide_twin):
        column = np.array(value, np.int64)
        function(column, np.array(enter, np.uint16), np.array(leave, np.uint16))
        found.append(column.tolist())
    assert found[1] == found[0]


@given(row=ROW, rank=st.lists(st.sampled_from([0, 1, 2, 255]), min_size=6, max_size=6))
def test_accesses_by_tier_equals_twin(row, rank):
    """Kernel and twin count alike; pages in no tier do not count."""
    found = []
    for function in pair_of(
        "accesses_by_tier", accesses_by_tier, accesses_by_tier_twin
    ):
        out = np.zeros(3, np.int64)
        function(np.array(row, np.uint16), np.array(rank, np.uint8), out)
        found.append(out.tolist())
    assert found[1] == found[0]


@given(data=st.data())
def test_choose_equals_twin(data):
    """Bisecting and sorting the few gives what sorting everything gives."""
    n = data.draw(st.integers(0, 14))
    top = data.draw(st.sampled_from([3, 60, 1 << 20]))
    value = data.draw(st.lists(st.integers(0, top), min_size=n, max_size=n))
    rank = data.draw(st.lists(st.sampled_from([0, 1, 2]), min_size=n, max_size=n))
    free = data.draw(st.integers(0, 4))
    need = data.draw(st.floats(0, 40))
    limit = data.draw(st.sampled_from([0, 1, 2, 3, 5, 1 << 31]))
    found = []
    for function in pair_of("choose", choose, choose_twin):
        up, down = np.zeros(n, np.int64), np.zeros(n, np.int64)
        out = np.zeros(2, np.int64)
        columns = np.array(value, np.int64), np.array(rank, np.uint8)
        function(*columns, 0, 1, free, need / 2, need, limit, up, down, out)
        fill, swaps = out.tolist()
        found.append((fill, swaps, up[: fill + swaps].tolist(), down[:swaps].tolist()))
    assert found[1] == found[0]


@pytest.mark.slow
def test_all_windows_are_played_quickly():
    """32,768 pages and 240 epochs: all windows within a few seconds on any host."""
    rng = np.random.default_rng(1)
    rates = rng.gamma(0.5, 10, 32768)
    counts = rng.poisson(rates, (240, 32768)).astype(np.uint16)
    rank = (rng.random(32768) > 0.2).astype(np.uint8)
    free = np.array([0, 1])
    play_window(counts[:2], 2, 1, rank, free, TWO_TIERS)  # compile
    start = time.process_time()
    costs = [play_window(counts, w, 1, rank, free, TWO_TIERS) for w in WINDOWS]
    assert time.process_time() - start < 5
    assert min(costs) < costs[0]


def test_full_tiers_exchange_through_a_page_that_leaves(bench, hint):
    """Pages 0 and 1 change places; page 2, worth least, leaves the full second tier."""
    table = bench([0, 1, 1], [1, 2, 3], tiers=((0,), (1,), (2,)))
    policy = Clairvoyant(table.setup(), future([0, 0, 0], [10, 90, 9]))
    assert {(1, 0), (0, 1), (2, 2)} == set(hint.moves(table.step(policy)))


def test_pinned_pages_are_not_tried(bench, hint):
    """The hottest page cannot move: the next one takes the slot."""
    table = bench([0, 1, 1], [1, 3])
    counts = np.array([[0, 0, 0], [0, 900, 500]], np.uint16)
    known = KnownFuture(counts, pinned=np.array([False, True, False]))
    policy = Clairvoyant(table.setup(), known)
    assert {(2, 0), (0, 1)} == set(hint.moves(table.step(policy)))
