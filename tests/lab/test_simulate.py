"""One simulation: the JSON contract, costs told apart, and the same every time."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import IsothermError, UnsupportedError, UsageError
from isotherm.hints.batch import Mechanism
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.policy.registry import POLICIES
from isotherm.trace.stream import AccessChunk, Pace

#: The keys that scripts rely on; further ones may be added.
CONTRACT = {
    "policy", "workload", "machine", "fast_ratio", "seed", "rate", "placement",
    "hints", "sampling_period", "accesses", "pages", "simulated_s", "fast_share",
    "slowdown", "mean_latency_ns", "migrated_bytes", "promoted_pages",
    "demoted_pages", "ping_pong_pages", "migration_time_ns", "hint_overhead_ns",
    "tracker_bytes_per_page", "wall_s", "setup_s", "accesses_per_wall_s",
}  # fmt: skip
#: What may differ between two runs of one seed.
WALL = ("wall_s", "setup_s", "accesses_per_wall_s")


def run(policy: str = "isotherm", workload: str = "gups", **rest: Any) -> dict:
    """Return a small simulation's result."""
    figures = {"pages": 1000, "accesses": 100_000, "sampling_period": 200} | rest
    return simulate(SimulationSpec(policy, workload, **figures))


def without_wall(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without what a stopwatch measured."""
    return {key: value for key, value in result.items() if key not in WALL}


class Given:
    """A workload of given epochs."""

    name = "given"

    def __init__(self, pages: int, *epochs: AccessChunk) -> None:
        self.pages = pages
        self._epochs = epochs

    def epochs(self, pace: Pace) -> Iterator[AccessChunk]:
        """Yield them."""
        yield from self._epochs


# ---- what comes out


@pytest.mark.parametrize("policy", POLICIES)
def test_the_json_contract(policy: str) -> None:
    """Every policy's result has every key, is JSON, and adds up."""
    result = run(policy)
    assert set(result) >= CONTRACT
    assert result == json.loads(json.dumps(result))
    assert (policy, "gups", "dram-cxl") == (
        result["policy"],
        result["workload"],
        result["machine"],
    )
    assert (100_000, 1000, 20) == (
        result["accesses"],
        result["pages"],
        result["epochs"],
    )
    assert 10.0 == result["simulated_s"]
    assert 0 <= result["fast_share"] <= 1
    moved = result["promoted_pages"] + result["demoted_pages"]
    assert 4096 * moved == result["migrated_bytes"]
    assert 2500.0 * moved == result["migration_time_ns"]


@pytest.mark.parametrize("policy", POLICIES)
def test_slowdown_is_what_it_is_said_to_be(policy: str) -> None:
    """Latency plus migration plus looking, over all-fast latency: 80 ns an access."""
    result = run(policy)
    spent = (
        result["mean_latency_ns"] * result["accesses"]
        + result["migration_time_ns"]
        + result["hint_overhead_ns"]
    )
    assert result["slowdown"] == pytest.approx(spent / (80 * result["accesses"]))
    fast = result["fast_share"]
    latency = 80 * fast + 250 * (1 - fast)
    assert result["mean_latency_ns"] == pytest.approx(latency)


@pytest.mark.parametrize("workload", ["gups", "uniform", "stream", "btree"])
def test_all_fast_is_exactly_one(workload: str) -> None:
    """With everything in the fast tier nothing is slower, to the bit."""
    result = run("all-fast", workload)
    assert (1.0, 1.0) == (result["slowdown"], result["fast_share"])


def test_all_slow_is_the_ratio_of_latencies() -> None:
    """250 over 80."""
    assert 250 / 80 == run("all-slow")["slowdown"]


def test_bounds_are_in_order() -> None:
    """All-fast, then the best fixed placement, then first touch, then all-slow."""
    names = ("all-fast", "static-oracle", "first-touch", "all-slow")
    slowdown = [run(name)["slowdown"] for name in names]
    assert sorted(slowdown) == slowdown
    assert 4 == len(set(slowdown))


def test_a_policy_without_hints_pays_for_none() -> None:
    """First touch neither looks nor moves."""
    result = run("first-touch")
    assert [] == result["hints"]
    assert 0.0 == result["hint_overhead_ns"] == result["migration_time_ns"]


# ---- the same every time


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_result(policy: str) -> None:
    """All figures but the stopwatch's are identical."""
    assert without_wall(run(policy)) == without_wall(run(policy))


def test_another_seed_gives_another_result() -> None:
    """A seed reaches placement, workload and hints."""
    assert run(seed=1)["slowdown"] != run(seed=2)["slowdown"]


BOTH_BACKENDS = """
import json, sys
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.policy.registry import POLICIES
for policy in POLICIES:
    for machine, hints in (("dram-cxl", None), ("hbm-dram-cxl", None),
                           ("dram-pmem", ("accessed-bit", "hint-fault", "region"))):
        result = simulate(SimulationSpec(
            policy, "scan-zipf", machine, pages=257, accesses=20_000,
            sampling_period=50, hints=hints))
        for key in ("wall_s", "setup_s", "accesses_per_wall_s"):
            del result[key]
        print(json.dumps(result))
"""


@pytest.mark.slow
def test_without_numba_every_policy_gives_the_same_result() -> None:
    """The numpy backend's results are the compiled one's, to the bit."""
    lines = [
        subprocess.run(
            [sys.executable, "-c", BOTH_BACKENDS],
            env={**os.environ, "ISOTHERM_KERNELS": backend},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for backend in ("numba", "numpy")
    ]
    assert 3 * len(POLICIES) == len(lines[0])
    for compiled, plain in zip(*lines, strict=True):
        assert json.loads(compiled) == json.loads(plain)


# ---- hints


@pytest.mark.parametrize(
    "hints",
    [
        subset
        for n in range(len(Mechanism) + 1)
        for subset in itertools.combinations(Mechanism, n)
    ],
)
def test_every_subset_of_hints_runs(hints: tuple[Mechanism, ...]) -> None:
    """isotherm works with whatever a host offers, down to nothing."""  # noqa: D403
    names = tuple(h.value for h in hints)
    result = run(hints=names, accesses=40_000)
    assert sorted(names) == result["hints"]
    assert result["slowdown"] < 5


def test_costs_of_hints_are_told_apart() -> None:
    """Samples and faults are the application's, walks of others a background CPU's."""
    payer = {}
    for policy, hint in (
        ("hemem", "sampling"),
        ("isotherm", "accessed-bit"),
        ("numab2", "hint-fault"),
        ("isotherm", "region"),
    ):
        result = run(policy, hints=(hint,))
        application = result["hint_application_ns"]
        background = result["hint_background_ns"]
        assert application + background == result["hint_overhead_ns"]
        payer[hint] = (application > 0, background > 0)
    assert {
        "sampling": (True, False),
        "accessed-bit": (False, True),
        "hint-fault": (True, False),
        "region": (False, True),
    } == payer


@pytest.mark.parametrize("period", [100, 1000])
def test_samples_cost_200_ns_each(period: int) -> None:
    """Accesses over the period, times the cost of a sample."""
    result = run("hemem", hints=("sampling",), sampling_period=period)
    expected = 100_000 / period * 200
    assert expected == pytest.approx(result["hint_application_ns"], rel=0.05)


def test_a_policy_gets_the_hints_that_it_wants() -> None:
    """Without --hints every mechanism that the policy uses is on, and no other."""
    assert ["accessed-bit", "sampling"] == run("isotherm")["hints"]
    assert ["accessed-bit", "hint-fault"] == run("numab2")["hints"]


@pytest.mark.parametrize("policy", ["tpp", "hemem", "first-touch", "lru"])
def test_hints_that_a_policy_cannot_use_cost_it_nothing(policy: str) -> None:
    """Offered all four mechanisms, a policy pays for those that it reads."""
    every = tuple(h.value for h in Mechanism)
    assert without_wall(run(policy)) == without_wall(run(policy, hints=every))


def test_lost_samples_are_not_seen_and_yet_paid_for() -> None:
    """Half of the samples lost: the same cost, another result; reported."""
    kept = run("hemem", sampling_period=50)
    lossy = run("hemem", sampling_period=50, sampling_loss=0.5)
    assert (0.0, 0.5) == (kept["sampling_loss"], lossy["sampling_loss"])
    assert kept["hint_overhead_ns"] == pytest.approx(
        lossy["hint_overhead_ns"], rel=0.05
    )
    assert kept["slowdown"] != lossy["slowdown"]


def test_what_was_asked_for_is_in_the_result() -> None:
    """Everything that tells two runs apart can be read from their results."""
    result = run(
        "first-touch",
        epoch_s=0.25,
        memory_bound=0.5,
        faults={"pinned": 0.1},
        workload_options={"hot_share": 0.2},
    )
    assert (0.25, 0.5, {"pinned": 0.1}, {"hot_share": 0.2}) == (
        result["epoch_s"],
        result["memory_bound"],
        result["faults"],
        result["workload_options"],
    )


# ---- moving


def test_demand_fill_is_charged_page_by_page() -> None:
    """The cache of lru pays for every page in and every page out."""
    result = run("lru")
    assert result["promoted_pages"] - result["demoted_pages"] == 200
    moved = result["promoted_pages"] + result["demoted_pages"]
    assert 2500.0 * moved == result["migration_time_ns"]


def test_a_machine_that_cannot_fill_on_demand_refuses_lru() -> None:
    """Two fast nodes: the machine is named."""
    with pytest.raises(UnsupportedError, match="two-socket-cxl"):
        run("lru", machine="two-socket-cxl")


def test_moves_keep_to_the_quota() -> None:
    """A fifth of the pages a second at most, for every policy."""
    for policy in ("isotherm", "hemem", "memtis", "numab2", "tpp", "clairvoyant"):
        result = run(policy, "phases")
        tried = result["migrated_bytes"] // 4096
        assert tried <= 0.2 * 1000 * (result["simulated_s"] + 1)


def test_trouble_is_reported_by_errno() -> None:
    """Injected failures are counted, and the run goes on."""
    result = run("clairvoyant", faults={"busy": 0.3, "vanished": 0.2})
    assert {"2", "16"} == set(result["failed_moves"])
    assert 0 == sum(run("clairvoyant")["failed_moves"].values())


# ---- time


def test_a_stream_with_its_own_times() -> None:
    """Without a rate the stream's epochs are the time, idle ones included."""
    page = np.zeros(100, np.uint32)
    first = np.linspace(0, 499_999_999, 100).astype(np.int64)
    chunks = (
        AccessChunk(page, time_ns=first),
        AccessChunk(page[:0], time_ns=first[:0]),
        AccessChunk(page, time_ns=first + 1_000_000_000),
    )
    result = simulate(
        SimulationSpec("isotherm", "given", rate=None), workload=Given(64, *chunks)
    )
    assert (1.5, 200, None) == (
        result["simulated_s"],
        result["accesses"],
        result["rate"],
    )


def test_a_workload_without_accesses_is_an_error() -> None:
    """A slowdown of nothing is no number."""
    with pytest.raises(UsageError, match="expected accesses, got none"):
        simulate(SimulationSpec("first-touch", "given"), workload=Given(64))


def test_a_generator_without_a_rate_is_an_error() -> None:
    """It has no times of its own."""
    with pytest.raises(UsageError):
        run("first-touch", rate=None)


def test_shorter_epochs_cover_the_same_time() -> None:
    """The rate fixes the time, the epoch only cuts it."""
    result = run(epoch_s=0.1)
    assert (10.0, 100) == (result["simulated_s"], result["epochs"])


def test_progress_tells_seconds_simulated() -> None:
    """Once an epoch, up to the end."""
    told: list[float] = []
    spec = SimulationSpec("first-touch", "gups", pages=1000, accesses=20_000)
    simulate(spec, progress=told.append)
    assert [0.5, 1.0, 1.5, 2.0] == told


# ---- figures


def test_placement_by_first_access() -> None:
    """What is touched first is in the fast tier: a stream finds it there."""
    page = np.arange(100, dtype=np.uint32)[::-1].copy()
    spec = SimulationSpec("first-touch", "given", placement="first-access")
    result = simulate(spec, workload=Given(100, AccessChunk(page[:30])))
    assert 20 / 30 == result["fast_share"]


def test_memory_bound_adds_computing_time() -> None:
    """Half of the time is computing: half of the slowdown is felt."""
    result = run("first-touch", memory_bound=0.5)
    assert 1 + 0.5 * (result["slowdown"] - 1) == result["app_slowdown"]
    assert "app_slowdown" not in run("first-touch")


def test_a_machine_of_one_s_own(tmp_path: Path) -> None:
    """A TOML file is a machine; its figures rule."""
    path = tmp_path / "tiny.toml"
    path.write_text(
        'name = "tiny"\ndescription = "x"\n'
        '[[nodes]]\nkind = "dram"\ntier = 0\nread_latency_ns = [100]\n'
        '[[nodes]]\nkind = "cxl"\ntier = 1\nread_latency_ns = [700]\n'
    )
    result = run("all-slow", machine=str(path))
    assert ("tiny", 7.0) == (result["machine"], result["slowdown"])


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"fast_ratio": 0.0}, "fast_ratio"),
        ({"fast_ratio": 1.5}, "fast_ratio"),
        ({"fast_ratio": float("nan")}, "fast_ratio"),
        ({"memory_bound": 0.0}, "memory_bound"),
        ({"pages": 0}, "pages"),
        ({"accesses": -1}, "accesses"),
        ({"rate": 0.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"sampling_period": 0}, "sampling_period"),
        ({"epoch_s": 0.0}, "epoch_s"),
        ({"epoch_s": 1e-12}, "epoch_s"),
        ({"seed": -1}, "seed"),
        ({"placement": "randon"}, "did you mean 'random'"),
        ({"hints": ("samplin",)}, "did you mean 'sampling'"),
        ({"faults": {"bussy": 0.1}}, "did you mean 'busy'"),
        ({"faults": {"busy": 2.0}}, "faults.busy"),
        ({"policy": "isoterm"}, "did you mean 'isotherm'"),
        ({"workload": "gupss"}, "did you mean 'gups'"),
        ({"machine": "dram"}, "no such machine 'dram'"),
        ({"options": {"nonsense": 1.0}, "policy": "tpp"}, "nonsense"),
        ({"workload_options": {"nonsense": 1}}, "nonsense"),
    ],
)
def test_figures_that_make_no_run(figures: dict[str, Any], words: str) -> None:
    """Each is refused by name, as an error of usage."""
    with pytest.raises(IsothermError, match=words) as caught:
        run(**figures)
    assert 2 == caught.value.exit_code


def test_a_spec_is_a_value() -> None:
    """It can be written down and read back, for recordings and workers."""
    spec = SimulationSpec("isotherm", "gups", hints=("sampling",))
    written = json.loads(json.dumps(dataclasses.asdict(spec)))
    written["hints"] = tuple(written["hints"])
    assert spec == SimulationSpec(**written)


@pytest.mark.parametrize("seed", [(1 << 43) + 3, (1 << 44) + 3, (1 << 63) - 1])
def test_large_seeds(seed: int) -> None:
    """Any seed below 2^63 does, and the tracker's salts are words."""
    assert seed == run(accesses=20_000, seed=seed)["seed"]


@pytest.mark.parametrize(
    ("figure", "value", "expected"),
    [
        ("seed", 1 << 63, r"seed: expected from 0 to 2\^63 - 1"),
        ("seed", -1, "seed: expected from 0"),
        ("epoch_s", 100_000.0, "epoch_s: expected at most 3600, got 100000"),
    ],
)
def test_figures_beyond_what_can_be(figure: str, value: float, expected: str) -> None:
    """They are named, with what is expected."""
    with pytest.raises(UsageError, match=expected):
        run(**{figure: value})


def test_an_hour_is_an_epoch() -> None:
    """The longest one runs, and so does one that outlasts a short half-life."""
    assert 1 <= run(pages=64, epoch_s=3600.0, accesses=None)["slowdown"]
