"""SOAR, step by step."""

import dataclasses

import msgspec
import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import HintBatch, Mechanism, Samples
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.machine.protocol import Space, SpacesChanged
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.soar import DEFAULTS, NEVER, Soar, amortised_latency, score

EPOCH_NS = 500_000_000
PERIOD = 2000.0


def told(page: list[int], latency: list[float], waited: list[float]) -> HintBatch:
    """Return samples that tell latency and stall."""
    seen = Samples(
        np.array(page, np.uint32),
        None,
        None,
        PERIOD,
        np.array(latency, np.float32),
        np.array(waited, np.float32),
    )
    return HintBatch("sampling", 0, EPOCH_NS, seen)


def policy_of(table, *spaces: tuple[int, int], **options: float) -> Soar:
    """Return the policy, told of objects; it profiles for a second."""
    setup = table.setup(profile_s=1, **options)
    objects = tuple(Space(base, pages, "object") for base, pages in spaces)
    return Soar(dataclasses.replace(setup, spaces=objects))


def halves(bench):
    """Return four pages of each of two objects, of which two each are fast."""
    return bench([0, 0, 1, 1, 0, 0, 1, 1], [4, 8])


HALVES = ((0, 4), (4, 4))


# ---- the formulas


@pytest.mark.parametrize(
    ("parallelism", "expected"), [(1.0, 100.0), (7.0, 40.0), (2.0, 65.0)]
)
def test_amortised_latency_lies_between_the_ends(
    parallelism: float, expected: float
) -> None:
    """A chase has 100 cycles, seven misses in flight 40, as on their Skylake."""
    assert expected == pytest.approx(amortised_latency(1 / parallelism))


@pytest.mark.parametrize(
    ("aol", "expected"),
    [
        (100.0, [0.80, 0.17, 0.03]),  # nothing overlaps: by misses alone
        (70.0, [0.80 / 2, 0.17 * 2, 0.03 * 2]),  # hot from 0.6, cold below 0.4
        (50.0, [0.80 / 4, 0.17, 0.03]),  # hot from 0.7, cold below 0.03
        (42.0, [0.80 / 8, 0.17, 0.03]),
        (30.0, [0.80 / 12, 0.17, 0.03]),
    ],
)
def test_hot_objects_overlap_and_cold_ones_wait(
    aol: float, expected: list[float]
) -> None:
    """Algorithm 1, with the steps of the authors' script."""
    share = np.array([0.80, 0.17, 0.03])
    assert expected == pytest.approx(score(share, 1.0, aol, 80.0).tolist())
    doubled = score(share, 2.0, aol, 80.0)
    assert (2 * np.array(expected)).tolist() == pytest.approx(doubled.tolist())


def test_the_coldest_objects_gain_most_at_low_latency() -> None:
    """Below 3 % of the misses, by the whole factor."""
    share = np.array([0.98, 0.02])
    assert [0.98 / 8, 0.02 * 8] == pytest.approx(score(share, 1.0, 41.0, 80.0).tolist())


# ---- the profile


def test_an_interval_has_a_predicted_slowdown(bench) -> None:
    """Stall over time, by K = 1 / (0.87 + 24.67 / AOL), shared by misses."""
    policy = policy_of(halves(bench), *HALVES)
    table = halves(bench)
    for _ in range(2):
        table.step(policy, told([0, 4, 5], [100, 100, 100], [100, 100, 100]))
    pressure = 2 * 3 * 100 * PERIOD / 1e9
    slowdown = pressure / (0.87 + 24.67 / 100)
    assert policy.score.tolist() == pytest.approx([slowdown / 3, 2 * slowdown / 3])


def test_hits_are_no_misses(bench) -> None:
    """What a cache answered counts for nothing, nor does what is not told."""
    table = halves(bench)
    policy = policy_of(table, *HALVES)
    for _ in range(2):
        table.step(policy, told([0, 0, 1, 4], [4, 4, 0, 100], [0, 0, 0, 100]))
    assert 0 == policy.score[0]
    assert 0 < policy.score[1]


def test_without_latencies_every_sample_is_a_miss(bench, hint) -> None:
    """Then misses alone rank: nothing is known to overlap."""
    table = halves(bench)
    policy = policy_of(table, *HALVES)
    for _ in range(2):
        table.step(policy, hint.samples([0, 4, 5]))
    low, high = policy.score
    assert high == pytest.approx(2 * low)


def test_objects_are_what_is_told_or_of_one_size(bench) -> None:
    """Spaces, else pages of a size, else everything is one."""
    table = halves(bench)
    assert 2 == len(policy_of(table, *HALVES).score)
    assert 4 == len(policy_of(table, *HALVES, object_pages=2).score)
    assert 1 == len(policy_of(table).score)


# ---- the placement


def play(table, policy: Soar, *batches: HintBatch) -> list:
    """Return the moves of each epoch."""
    return [table.step(policy, batch).moves for batch in batches]


def chase_and_sweep(parallelism: float = 7.0) -> HintBatch:
    """Return samples of a sweep, twice as many, and of a chase."""
    waited = [100 / parallelism] * 8 + [100.0] * 4
    return told([0, 1, 2, 3] * 2 + [4, 5, 6, 7], [100.0] * 12, waited)


def test_between_the_ends_the_cold_object_wins(bench) -> None:
    """AOL 62, as of their microbenchmark: two thirds halved, one third doubled."""
    table = halves(bench)
    policy = policy_of(table, *HALVES)
    moves = play(table, policy, *[chase_and_sweep(6.0)] * 3)
    assert [0, 4, 0] == [len(m) for m in moves]
    assert [1] * 4 + [0] * 4 == table.node.tolist()


def test_without_overlap_the_hotter_object_wins(bench) -> None:
    """All wait for every miss: twice the misses are worth twice as much."""
    table = halves(bench)
    policy = policy_of(table, *HALVES)
    play(table, policy, *[chase_and_sweep(1.0)] * 3)
    assert [0] * 4 + [1] * 4 == table.node.tolist()


def test_size_counts(bench) -> None:
    """A small object goes before a large one of the same score."""
    table = bench([0, 0, 1, 1, 1, 1, 1, 1], [2, 8])
    policy = policy_of(table, (0, 6), (6, 2))
    play(table, policy, *[told([0, 6], [100, 100], [100, 100])] * 2)
    assert [1, 1, 1, 1, 1, 1, 0, 0] == table.node.tolist()


def test_what_does_not_fit_is_placed_as_far_as_it_goes(bench) -> None:
    """What is in fast memory stays there first."""
    table = bench([1, 1, 0, 1, 0, 1], [3, 8])
    policy = policy_of(table, (0, 4), (4, 2))
    play(table, policy, *[told([0, 1, 2, 3], [100] * 4, [100] * 4)] * 2)
    assert [0, 0, 0, 1, 1, 1] == table.node.tolist()


def test_what_was_never_missed_stays(bench) -> None:
    """Free room is not taken from those of whom nothing is known."""
    table = bench([1, 1, 0, 0, 1, 1], [4, 8])
    policy = policy_of(table, (0, 2), (2, 4))
    play(table, policy, *[told([0, 1], [100] * 2, [100] * 2)] * 2)
    assert [0, 0, 0, 0, 1, 1] == table.node.tolist()


def test_sampling_ends_with_the_profile(bench) -> None:
    """From then on a placement costs nothing to keep."""
    table = halves(bench)
    policy = policy_of(table, *HALVES)
    table.step(policy, chase_and_sweep())
    (look,) = table.step(policy, chase_and_sweep()).look
    assert (Mechanism.SAMPLING, NEVER) == (look.mechanism, look.period)
    assert () == table.step(policy, chase_and_sweep()).look


def test_moves_that_failed_are_wished_for_again(bench) -> None:
    """What is not where it is to stay goes on being moved."""
    table = halves(bench)
    policy = policy_of(table, *HALVES)
    play(table, policy, chase_and_sweep(6.0))
    before = table.step(policy, chase_and_sweep(6.0), apply=False).moves
    again = table.step(policy, chase_and_sweep(6.0)).moves
    assert before.page.tolist() == again.page.tolist()
    assert 4 == len(again)


def test_a_footprint_that_changes_is_refused(bench) -> None:
    """Objects are those of one footprint."""
    with pytest.raises(UnsupportedError, match="soar"):
        policy_of(halves(bench)).renew(SpacesChanged(9, np.empty((0, 2), np.int64)))


def test_options_are_documented_defaults() -> None:
    """Those of the page."""
    assert {"profile_s", "object_pages", "interval_s"} <= set(DEFAULTS)


@pytest.mark.slow
def test_cold_on_dram_in_the_simulator() -> None:
    """The chase's half is placed in fast memory, and stays."""
    machine = msgspec.structs.replace(load_machine("dram-cxl"), uniform_stall=False)
    spec = SimulationSpec(
        "soar", "cold-on-dram", pages=2048, accesses=2048 * 600, fast_ratio=0.5,
        sampling_period=200,
    )  # fmt: skip
    result = simulate(spec, machine=machine)
    shares = {s["name"]: s["fast_share"] for s in result["streams"]}
    assert shares["chase"] > 0.7
    assert shares["sequential"] < 0.3
