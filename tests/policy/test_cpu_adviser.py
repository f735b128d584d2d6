"""The adviser's windows: who acts when, and what it knows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.hints.batch import HintBatch, Samples
from isotherm.machine.protocol import SpacesChanged
from isotherm.machine.sim.spec import load_machine
from isotherm.policy import cpu_adviser
from isotherm.policy.cpu_adviser import (
    NOWHERE,
    CpuAdvice,
    CpuAdviser,
    count_regions,
    count_regions_twin,
)
from isotherm.policy.cpus import Threads
from isotherm.policy.homes import WINDOW_S
from isotherm.topology.model import Topology

PAGES = 1024
LATENCY = np.array([[80.0, 140.0, 250.0], [140.0, 80.0, 310.0]])
COST = np.full((3, 3), 2500.0)


@pytest.fixture
def topology() -> Topology:
    """Return two sockets and an expander."""
    return load_machine("two-socket-cxl").topology([PAGES, PAGES, PAGES])


def threads(socket: list[int]) -> Threads:
    """Return threads of a CPU each on two sockets of two."""
    count = len(socket)
    return Threads(
        np.arange(count),
        np.array(socket),
        np.ones((count, 2), np.bool_),
        np.ones(count),
        np.array([2.0, 2.0]),
    )


def split(rng: np.random.Generator, thread: np.ndarray | None = None) -> HintBatch:
    """Return samples: threads 0 and 1 in the lower half, 2 and 3 in the upper."""
    who = rng.integers(0, 4, 2000) if thread is None else thread
    page = rng.integers(0, PAGES // 2, len(who)) + (who >= 2) * (PAGES // 2)
    seen = Samples(
        page.astype(np.uint32), None, None, 2000.0, thread=who.astype(np.int64)
    )
    return HintBatch("sampling", 0, 1, seen)


def window(
    adviser: CpuAdviser, socket: list[int], crossed: int = 0
) -> CpuAdvice | None:
    """Let a window pass; return what is advised at its end."""
    rng = np.random.default_rng(1)
    node = rng.integers(0, 2, PAGES).astype(np.uint8)
    half = WINDOW_S / 2
    adviser.see((split(rng),), node, half, crossed)
    assert not adviser.is_due
    adviser.see((split(rng),), node, half, 0)
    assert adviser.is_due
    return adviser.advise(threads(socket), node, LATENCY, COST, 1.0, 0)


def test_advice_comes_at_the_end_of_a_window(topology: Topology) -> None:
    """Scattered threads are put together by what they access; then all is well."""
    adviser = CpuAdviser(topology, PAGES, acts=True)
    advice = window(adviser, [0, 1, 0, 1])
    assert advice is not None
    placed = np.array([0, 1, 0, 1])
    placed[advice.id] = advice.target
    assert placed[0] == placed[1] != placed[2] == placed[3]
    assert advice.gain > 0.1
    assert window(adviser, placed.tolist()) is None
    assert 2 == adviser.windows
    document = advice.to_dict()
    assert {"time_s", "gain", "error", "fewer_pages", "threads"} == set(document)


def test_one_acts_in_a_window(topology: Topology) -> None:
    """Where pages crossed no thread moves; the next window is the adviser's."""
    adviser = CpuAdviser(topology, PAGES, acts=True)
    assert window(adviser, [0, 1, 0, 1], crossed=1) is None
    assert adviser.wants_quiet
    assert 1 == adviser.busy_windows
    assert window(adviser, [0, 1, 0, 1]) is not None
    assert not adviser.wants_quiet


def test_who_only_says_says_so_in_every_window(topology: Topology) -> None:
    """Without acting it neither waits for the mover nor makes it wait."""
    adviser = CpuAdviser(topology, PAGES, acts=False)
    assert window(adviser, [0, 1, 0, 1], crossed=5) is not None
    assert not adviser.wants_quiet
    assert 0 == adviser.busy_windows


def test_rates_of_processes_stand_for_threads_that_nobody_names(
    topology: Topology,
) -> None:
    """A process whose memory is on the other socket, where another's is here."""
    adviser = CpuAdviser(topology, PAGES, acts=True)
    owner = np.repeat([0, 2], PAGES // 2)
    node = np.repeat(np.array([1, 0], np.uint8), PAGES // 2)
    page = np.arange(PAGES, dtype=np.uint32)
    adviser.see((), node, WINDOW_S, 0)
    adviser.take_rates(page, owner, np.full(PAGES, 50.0), node)
    who = Threads(
        np.array([0, 2]),
        np.array([0, 1]),
        np.ones((2, 2), np.bool_),
        np.ones(2),
        np.array([1.0, 1.0]),
    )
    advice = adviser.advise(who, node, LATENCY, COST, 1.0, 0)
    assert advice is not None
    assert [(0, 1), (2, 0)] == list(
        zip(advice.id.tolist(), advice.target.tolist(), strict=True)
    )
    assert PAGES == advice.fewer_pages


def test_renewed_pages_are_forgotten_and_growth_is_taken(topology: Topology) -> None:
    """Evidence of pages that went is no evidence; more pages than before fit in."""
    adviser = CpuAdviser(topology, PAGES, acts=True)
    rng = np.random.default_rng(1)
    node = np.zeros(PAGES, np.uint8)
    adviser.see((split(rng),), node, WINDOW_S, 0)
    adviser.renew(SpacesChanged(PAGES, np.array([[0, PAGES]])))
    assert adviser.advise(threads([0, 1, 0, 1]), node, LATENCY, COST, 1.0, 0) is None
    adviser.renew(SpacesChanged(8 * PAGES, np.empty((0, 2), np.int64)))
    wide = np.zeros(8 * PAGES, np.uint8)
    adviser.see((split(rng),), wide, WINDOW_S, 0)
    assert adviser.is_due


def test_threads_that_have_ended_make_room(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as can be told apart have come and gone: new ones are seen."""
    monkeypatch.setattr(cpu_adviser, "MOST_THREADS", 8)
    adviser = CpuAdviser(topology, PAGES, acts=True)
    node = np.zeros(PAGES, np.uint8)
    ended = split(np.random.default_rng(2), np.tile(np.arange(100, 108), 50))
    adviser.see((ended,), node, 0.0, 0)
    advice = [window(adviser, [0, 1, 0, 1]) for _ in range(14)]
    assert advice[0] is None
    assert advice[-1] is not None


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_the_count_of_regions_equals_its_twin(seed: int) -> None:
    """The compiled count is the plain one; what is on no node does not count."""
    rng = np.random.default_rng(seed)
    shift = int(rng.integers(0, 4))
    node = rng.choice(np.array([0, 1, 2, 255], np.uint8), int(rng.integers(0, 90)))
    column = np.full(256, NOWHERE, np.uint8)
    column[[0, 2]] = 0, 1
    out = [np.zeros((90, 2), np.int64) for _ in range(2)]
    count_regions(node, column, shift, out[0])
    count_regions_twin(node, column, shift, out[1])
    assert np.array_equal(*out)
    assert [int((node == n).sum()) for n in (0, 2)] == out[0].sum(0).tolist()


def test_of_large_regions_some_pages_stand(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of them is asked; the counts are those of all, to a twentieth."""
    node = np.random.default_rng(1).integers(0, 3, PAGES * 64).astype(np.uint8)
    adviser = CpuAdviser(topology, len(node), acts=True)
    exact = adviser.pages_on(node)
    assert [int((node == n).sum()) for n in (0, 1)] == exact.sum(0).tolist()
    monkeypatch.setattr(cpu_adviser, "ASKED_SHIFT", 4)
    about = adviser.pages_on(node)
    assert exact.sum(0).tolist() == pytest.approx(about.sum(0).tolist(), rel=0.05)
