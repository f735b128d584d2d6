"""Where threads would best run: arithmetic on known matrices of accesses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.policy.cpu_steps import step_costs, step_costs_twin
from isotherm.policy.cpus import Accesses, Placed, Prices, Threads, place_threads

NEAR_NS, FAR_NS, SLOW_NS = 80.0, 140.0, 250.0
LATENCY = np.array([[NEAR_NS, FAR_NS, SLOW_NS], [FAR_NS, NEAR_NS, SLOW_NS + 60]])
PRICES = Prices(LATENCY, 2500.0, 1000.0, 30.0)


def threads(socket: list[int], may: list[list[bool]] | None = None) -> Threads:
    """Return threads that use a CPU each, on two sockets that are full."""
    count = len(socket)
    each = -(-count // 2)
    return Threads(
        np.arange(count),
        np.array(socket),
        np.ones((count, 2), np.bool_) if may is None else np.array(may),
        np.ones(count),
        np.array([each, each], np.float64),
    )


def accesses(
    table: list[list[float]],
    pages: list[list[float]],
    far: list[list[float]] | None = None,
) -> Accesses:
    """Return the same accesses to regions in both halves, a sample each access."""
    near = np.array(table, np.float64)
    none = np.zeros((len(near), 3))
    return Accesses(
        np.stack([near / 2, near / 2]),
        none if far is None else np.array(far, np.float64),
        np.array(pages, np.float64),
        np.array([0, 1]),
        1.0,
    )


def groups(placed: Placed) -> tuple[list[int], list[int]]:
    """Return the threads of each socket."""
    return tuple(np.flatnonzero(placed.socket == k).tolist() for k in range(2))  # type: ignore[return-value]


def test_threads_that_share_memory_come_together() -> None:
    """Two programs of two threads each, scattered: an exchange puts them apart."""
    table = [[1e4, 0], [1e4, 0], [0, 1e4], [0, 1e4]]
    found = place_threads(
        threads([0, 1, 0, 1]), accesses(table, [[8, 8], [8, 8]]), PRICES
    )
    assert [{0, 1}, {2, 3}] == sorted(map(set, groups(found)), key=min)
    assert found.is_sure
    # Half of the accesses were far and are not; memory moves 8 pages a program.
    saved = 2 * 1e4 * (FAR_NS - NEAR_NS) * 30
    assert found.gain_ns == pytest.approx(saved, rel=0.01)


def test_groups_on_each_others_sockets_are_turned_round() -> None:
    """Where memory is on the other side of both, threads move and memory stays."""
    table = [[1e4, 0], [1e4, 0], [0, 1e4], [0, 1e4]]
    found = place_threads(
        threads([0, 0, 1, 1]), accesses(table, [[0, 64], [64, 0]]), PRICES
    )
    assert ([2, 3], [0, 1]) == groups(found)
    assert 128 == found.moved_pages
    assert found.gain_ns == pytest.approx(128 * 2500 - 4 * 1000)


def test_what_all_share_moves_nobody() -> None:
    """Where every thread accesses everything no assignment is better."""
    found = place_threads(
        threads([0, 1, 0, 1]), accesses([[1e3, 1e3]] * 4, [[8, 8], [8, 8]]), PRICES
    )
    assert [0, 1, 0, 1] == found.socket.tolist()
    assert 0 == found.gain_ns


def test_a_thread_goes_where_its_memory_is_that_cannot_follow() -> None:
    """Accesses to a node of another tier count by where they are."""
    far = [[0, 0, 0], [0, 0, 1e5]]
    found = place_threads(
        threads([0, 1]), accesses([[0.0], [0.0]], [[1, 1]], far), PRICES
    )
    assert [1, 0] == found.socket.tolist()
    assert found.gain_ns == pytest.approx(1e5 * 60 * 30 - 2 * 1000)


def test_a_thread_stays_where_it_alone_may_run() -> None:
    """A socket that its affinity excludes is none."""
    table = [[1e4, 0], [1e4, 0], [0, 1e4], [0, 1e4]]
    may = [[True, True], [False, True], [True, False], [True, True]]
    found = place_threads(
        threads([0, 1, 0, 1], may), accesses(table, [[8, 8], [8, 8]]), PRICES
    )
    assert (1, 0) == (found.socket[1], found.socket[2])
    assert [1, 1, 0, 0] == found.socket.tolist()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1 << 20),
    count=st.integers(2, 9),
    regions=st.integers(1, 6),
    spare=st.floats(0, 3),
)
def test_no_socket_is_overloaded_and_no_advice_is_dearer(
    seed: int, count: int, regions: int, spare: float
) -> None:
    """Whatever is accessed: CPUs are not asked for beyond what there is or was."""
    rng = np.random.default_rng(seed)
    socket = rng.integers(0, 2, count)
    demand = rng.random(count)
    used = np.bincount(socket, demand, 2)
    who = Threads(
        np.arange(count), socket, rng.random((count, 2)) < 0.8, demand, used + spare
    )
    near = rng.exponential(1e3, (2, count, regions))
    found = place_threads(
        who,
        Accesses(
            near,
            rng.exponential(1e3, (count, 3)),
            rng.integers(0, 64, (regions, 2)).astype(np.float64),
            np.array([0, 1]),
            100.0,
        ),
        PRICES,
    )
    after = np.bincount(found.socket, demand, 2)
    assert (after <= used + spare + 1e-6).all()
    moved = np.flatnonzero(found.socket != socket)
    assert who.may[moved, found.socket[moved]].all()
    assert np.isfinite([found.gain_ns, found.error_ns, found.cost_ns]).all()


def test_chance_is_not_advice() -> None:
    """Few samples of threads that access everything alike are never sure of a gain."""
    rng = np.random.default_rng(7)
    sure = 0
    for _ in range(30):
        near = rng.poisson(0.8, (2, 8, 32)).astype(np.float64) * 100
        found = place_threads(
            threads([0, 1] * 4),
            Accesses(
                near, np.zeros((8, 3)), np.full((32, 2), 8.0), np.array([0, 1]), 100
            ),
            PRICES,
        )
        sure += found.is_sure and found.gain_ns > 0.01 * found.cost_ns
    assert 0 == sure


@given(st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_steps_cost_what_the_twin_says(seed: int) -> None:
    """Bit for bit: of two equal steps either backend takes the same."""
    rng = np.random.default_rng(seed)
    threads, regions, sockets = 6, int(rng.integers(1, 9)), 2
    socket = rng.integers(0, sockets, threads)
    near = rng.integers(0, 3, (threads, regions)) * 50.0
    by_node = rng.random((regions, 2)) * 1e6
    near_ns = rng.random((sockets, 2)) * 1e4
    who = np.stack(
        [rng.integers(0, threads, 20), rng.integers(-1, threads, 20)], axis=1
    )
    who[who[:, 0] == who[:, 1], 1] = -1
    to = rng.integers(0, sockets, (20, 2))
    found, twin = np.empty(20), np.empty(20)
    step_costs(who, to, socket, near, by_node, near_ns, found)
    step_costs_twin(who, to, socket, near, by_node, near_ns, twin)
    assert twin.tolist() == found.tolist()
    for k in range(20):  # what it means, said plainly
        cost = by_node.copy()
        for side in range(2):
            if who[k, side] >= 0:
                step = near_ns[to[k, side]] - near_ns[socket[who[k, side]]]
                cost += np.outer(near[who[k, side]], step)
        change = (cost.min(1) - by_node.min(1)).sum()
        assert found[k] == pytest.approx(change, abs=1e-6)
