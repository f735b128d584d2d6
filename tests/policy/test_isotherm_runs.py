"""Isotherm end to end, on small workloads."""

import pytest

from isotherm.lab.simulate import SimulationSpec, simulate

pytestmark = pytest.mark.slow
PAGES = 8192


def run(policy, workload, machine="dram-cxl", *, epochs=120, **rest):
    """Return the result of a run of so many epochs of half a second."""
    accesses = PAGES * 10 * epochs // 2
    return simulate(
        SimulationSpec(
            policy, workload, machine, pages=PAGES, accesses=accesses, **rest
        )
    )


def test_gups_is_far_better_than_first_touch():
    """Most of what the fast tier could bring is brought, with few moves."""
    still, moved = run("first-touch", "gups"), run("isotherm", "gups")
    assert moved["slowdown"] - 1 < 0.3 * (still["slowdown"] - 1)
    assert moved["promoted_pages"] + moved["demoted_pages"] < PAGES


def test_uniform_is_left_alone():
    """Nothing to gain: few moves, and looking costs half a per cent at most."""
    still, moved = run("first-touch", "uniform"), run("isotherm", "uniform")
    assert 2000 == moved["sampling_period"]
    assert moved["promoted_pages"] + moved["demoted_pages"] < 0.2 * PAGES
    assert moved["slowdown"] < 1.005 * still["slowdown"]


def test_a_free_tier_is_filled_whatever_is_hot():
    """Flat memory, all of it below a tier with room for it: nothing to know."""
    spec = SimulationSpec(
        *("isotherm", "uniform"),
        pages=4 * PAGES,
        accesses=4 * PAGES * 60,
        rate=1.0,
        fast_ratio=1.0,
        placement="slowest",
    )
    assert simulate(spec)["promoted_pages"] > 0.95 * 4 * PAGES


def test_all_heat_together_may_be_worth_too_little():
    """Half in HBM, the rest in DRAM that answers 4 ns later: not a move is made."""
    still, moved = (
        run(policy, "cold-on-dram", "hbm-dram-cxl", fast_ratio=0.5)
        for policy in ("first-touch", "isotherm")
    )
    assert 0 == moved["promoted_pages"] + moved["demoted_pages"]
    assert moved["slowdown"] < 1.005 * still["slowdown"]


@pytest.mark.parametrize("period", [2000, 20000])
def test_chance_in_the_first_samples_moves_nothing(period):
    """Two fifths of the pages were moved where the first five epochs were believed."""
    pages = 32768
    spec = SimulationSpec(
        *("isotherm", "uniform"),
        pages=pages,
        accesses=pages * 10 * 8,
        fast_ratio=0.5,
        seed=2,
        sampling_period=period,
    )
    moved = simulate(spec)
    assert moved["promoted_pages"] + moved["demoted_pages"] < 0.02 * pages


def test_a_run_repeats():
    """One seed, one result, to the last bit."""
    timing = {"wall_s", "setup_s", "accesses_per_wall_s"}
    first, again = (
        {
            k: v
            for k, v in run("isotherm", "drift", epochs=40).items()
            if k not in timing
        }
        for _ in range(2)
    )
    assert first == again


def test_three_tiers():
    """On HBM, DRAM and CXL it is better than leaving pages where they are."""
    still = run("first-touch", "gups", "hbm-dram-cxl")
    moved = run("isotherm", "gups", "hbm-dram-cxl")
    assert moved["promoted_pages"] > 0
    assert moved["slowdown"] - 1 < 0.7 * (still["slowdown"] - 1)


@pytest.mark.parametrize("hints", [("sampling",), ("accessed-bit",)])
def test_one_source_is_enough_to_gain(hints):
    """With samples or bits alone it is still better than first-touch."""
    still, moved = run("first-touch", "gups"), run("isotherm", "gups", hints=hints)
    assert moved["slowdown"] - 1 < 0.8 * (still["slowdown"] - 1)


def test_hint_faults_alone_are_not_given_up_before_memory_was_poisoned():
    """Few pages have faulted at first; the others may be as hot."""
    still = run("first-touch", "zipf", epochs=240)
    moved = run("isotherm", "zipf", epochs=240, hints=("hint-fault",))
    assert moved["slowdown"] - 1 < 0.95 * (still["slowdown"] - 1)


@pytest.mark.parametrize("hint", ["hint-fault", "region"])
def test_a_weak_source_alone_is_heard(hint):
    """Hint faults or regions alone move pages, and to some gain."""
    still = run("first-touch", "gups", epochs=240)
    moved = run("isotherm", "gups", epochs=240, hints=(hint,))
    assert moved["promoted_pages"] > 0
    assert moved["hint_overhead_ns"] > 0
    assert moved["slowdown"] < still["slowdown"]


def test_the_tracker_says_what_it_holds():
    """About four bytes a page."""
    assert 3.9 < run("isotherm", "gups", epochs=4)["tracker_bytes_per_page"] <= 4.2
