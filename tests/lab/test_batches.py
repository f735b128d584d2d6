"""Batches: every run once, in order, small ones together, large ones alone."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.errors import IsothermError
from isotherm.lab.batches import (
    BATCH_S,
    MAX_BATCH,
    RUN_S,
    Cell,
    Job,
    cut,
    expected_s,
    run_batch,
    work,
)
from isotherm.lab.simulate import SimulationSpec

SMALL = SimulationSpec(policy="first-touch", workload="gups", pages=64, accesses=640)


def cells_of(specs: list[SimulationSpec]) -> list[Cell]:
    """Return the runs of a sweep."""
    return [Cell(i, str(i), spec) for i, spec in enumerate(specs)]


@given(
    st.lists(st.sampled_from([None, 640, 10**6, 10**9]), max_size=300),
    st.integers(1, 8),
)
def test_every_run_is_in_one_batch(accesses: list[int | None], workers: int) -> None:
    """Batches hold every run once, in order, none is empty or too long."""
    cells = cells_of([replace(SMALL, accesses=count) for count in accesses])
    batches = cut(cells, workers)
    assert cells == [cell for batch in batches for cell in batch]
    for batch in batches:
        assert 1 <= len(batch) <= MAX_BATCH
        cost_s = sum(expected_s(cell.spec) for cell in batch)
        assert len(batch) == 1 or cost_s <= BATCH_S + 1e-9


def test_small_runs_go_together() -> None:
    """Of ten thousand runs of milliseconds a batch holds as many as its time allows."""
    batches = cut(cells_of([SMALL] * 10_000), 2)
    assert int(BATCH_S / expected_s(SMALL)) == len(batches[0])


def test_few_runs_are_spread() -> None:
    """Sixteen small runs on two workers go one by one."""
    assert len(cut(cells_of([SMALL] * 16), 2)) == 16


def test_trace_and_timeline_go_alone() -> None:
    """A whole trace, and a run that brings its timeline, are batches of their own."""
    cells = cells_of([SMALL] * 1000)
    trace = replace(SMALL, workload="trace.parquet", accesses=None)
    cells[500] = Cell(500, "500", trace)
    cells[700] = Cell(700, "700", SMALL, keep_timeline=True)
    alone = [b[0].index for b in cut(cells, 1) if len(b) == 1]
    assert {500, 700} <= set(alone)
    assert expected_s(trace) == float("inf")


def test_expected_time_is_of_accesses() -> None:
    """Pages times rate times 120 s, or the accesses that were asked for."""
    spec = SimulationSpec(policy="tpp", workload="gups", pages=1000, rate=10.0)
    assert RUN_S + 1_200_000 / 30e6 == pytest.approx(expected_s(spec))
    assert RUN_S + 640 / 30e6 == pytest.approx(expected_s(SMALL))


def test_another_version_is_refused() -> None:
    """A worker with another isotherm makes no runs."""
    job = Job(work, "token", 0, version="0.0.0")
    with pytest.raises(IsothermError, match=r"expected 0\.0\.0"):
        run_batch(job, cells_of([SMALL]))


def test_error_is_of_its_run_alone() -> None:
    """A run that fails leaves the rest of its batch as it is."""
    wrong = replace(SMALL, fast_ratio=2.0)
    done = run_batch(Job(work, "token", 0), cells_of([SMALL, wrong, SMALL]))
    assert [0, 1, 2] == list(done.answers)
    assert isinstance(done.answers[1], IsothermError)
    assert not isinstance(done.answers[2], IsothermError)
