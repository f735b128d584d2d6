"""The search for the fast memory that is enough."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.lab.capacity import STEPS, Need, Question, fast_needed, slowdown_of
from isotherm.lab.compare import Comparison, compare
from isotherm.lab.simulate import SimulationSpec, simulate

COMMON = SimulationSpec("isotherm", "zipf", pages=1024, accesses=100_000)


def runs_of(needed):
    """Return runs in which a policy keeps the slowdown from a ratio on."""
    made = []

    def runs(specs):
        made.extend(specs)
        rows = [
            {"slowdown": 1.0 if s.fast_ratio >= needed[s.policy, s.seed] else 2.0}
            for s in specs
        ]
        return Comparison(results=rows)

    return runs, made


@given(st.floats(0, 1), st.floats(0, 1))
def test_finds_the_smallest_ratio_on_the_grid(one, other):
    """Each seed's threshold, rounded up to a step; six runs each."""
    runs, made = runs_of({("tpp", 1): one, ("tpp", 2): other})
    question = Question(["tpp"], COMMON, 0.05, seeds=(1, 2))
    (need,) = fast_needed(question, runs)
    expected = [max(1, int(np.ceil(x * STEPS))) / STEPS for x in (one, other)]
    assert expected == need.ratios
    assert len(made) <= 12


def test_all_of_it_where_nothing_less_keeps_it():
    """A policy that is always too slow needs everything fast."""
    runs, _ = runs_of({("tpp", 1): 2.0})
    (need,) = fast_needed(Question(["tpp"], COMMON, 0.05, seeds=(1,)), runs)
    assert ([1.0], [1.0]) == (need.ratios, need.slowdowns)


def test_windows_are_the_replicas_of_a_trace():
    """Equal parts of it, all with the first seed that is asked for."""
    question = Question(["tpp"], COMMON, 0.05, seeds=(7, 2), windows=3)
    assert [("1/3", 7), ("2/3", 7), ("3/3", 7)] == [
        (spec.workload_options["window"], spec.seed) for spec in question.replicas()
    ]


def test_interval_is_students():
    """Three replicas: mean 0.5, standard error 0.0577, t of 4.303."""
    low, high = Need("tpp", [0.4, 0.5, 0.6]).interval()
    assert (0.5 - 4.3027 * 0.057735, 0.5 + 4.3027 * 0.057735) == pytest.approx(
        (low, high), abs=1e-4
    )


def test_one_replica_has_no_interval():
    """Nothing can be said of the spread; where all agree it is one step."""
    assert Need("tpp", [0.4]).interval() is None
    low, high = Need("tpp", [0.5, 0.5]).interval()
    assert 1 / STEPS == pytest.approx(high - low)


def test_the_programs_slowdown_counts_where_it_is_known():
    """memory_bound adds it."""
    assert 1.1 == slowdown_of({"slowdown": 2.0, "app_slowdown": 1.1})
    assert 2.0 == slowdown_of({"slowdown": 2.0})


@pytest.mark.slow
def test_the_answer_keeps_the_slowdown_and_a_step_less_does_not():
    """On real runs: what first-touch needs for 50 % more memory time."""
    question = Question(["first-touch"], COMMON, 0.5, seeds=(1,))
    (need,) = fast_needed(question, lambda specs: compare(specs, jobs=1))
    found = {}
    for ratio in (need.ratios[0], need.ratios[0] - 1 / STEPS):
        spec = SimulationSpec(
            "first-touch", "zipf", pages=1024, accesses=100_000, fast_ratio=ratio
        )
        found[ratio] = simulate(spec)["slowdown"]
    at, below = found.values()
    assert at <= 1.5 < below
