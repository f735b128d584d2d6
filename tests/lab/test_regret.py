"""Regret against the bounds, and what is judged otherwise."""

from pathlib import Path
from types import ModuleType

import pytest

from isotherm.lab.regret import judge
from isotherm.lab.simulate import SimulationSpec, simulate


def regret_of(rows: list[dict[str, object]]) -> dict[str, object]:
    """Return ``{policy: regret}`` of one cell."""
    return {row["policy"]: row["regret"] for row in judge(rows)}


def test_formula(samples: ModuleType) -> None:
    """Regret is (policy - best bound) / (first-touch - best bound)."""
    rows = [
        samples.result("isotherm", 1.5),
        samples.result("first-touch", 2.2),
        samples.result("static-oracle", 1.3),
        samples.result("clairvoyant", 1.2),
    ]
    found = regret_of(rows)
    assert found["isotherm"] == pytest.approx(0.3)
    assert found["first-touch"] == 1.0
    assert found["clairvoyant"] == 0.0
    assert found["static-oracle"] == pytest.approx(0.1)


def test_the_lower_bound_counts(samples: ModuleType) -> None:
    """Where the static oracle is better than the clairvoyant, it is the bound."""
    rows = [
        samples.result("isotherm", 1.5),
        samples.result("first-touch", 2.0),
        samples.result("static-oracle", 1.0),
        samples.result("clairvoyant", 1.4),
    ]
    assert regret_of(rows)["isotherm"] == pytest.approx(0.5)


def test_small_gaps_are_floored(samples: ModuleType) -> None:
    """A gap below 0.05 is no yardstick: the divisor is 0.05."""
    rows = [
        samples.result("isotherm", 1.02),
        samples.result("first-touch", 1.01),
        samples.result("static-oracle", 1.0),
    ]
    assert regret_of(rows)["isotherm"] == pytest.approx(0.4)


def test_cells_do_not_mix(samples: ModuleType) -> None:
    """Bounds of another seed or ratio are not used."""
    rows = [
        samples.result("isotherm", 1.5, seed=2),
        samples.result("first-touch", 2.0),
        samples.result("clairvoyant", 1.2),
    ]
    assert regret_of(rows)["isotherm"] is None


def test_flat_workloads_have_no_regret(samples: ModuleType) -> None:
    """Uniform and stream are judged by moves and against first-touch."""
    rows = judge(
        [
            samples.result("isotherm", 2.71, workload="uniform"),
            samples.result("first-touch", 2.70, workload="uniform"),
            samples.result("clairvoyant", 2.69, workload="uniform"),
        ]
    )
    assert rows[0]["regret"] is None
    assert rows[0]["vs_first_touch"] == pytest.approx(2.71 / 2.70)
    assert rows[0]["moves_per_page"] == pytest.approx(2 * 4915 / 32768)


def test_hint_settings_share_their_bounds(samples: ModuleType) -> None:
    """A policy at another sampling period is judged by the same bounds."""
    rows = [
        samples.result("isotherm", 1.6, sampling_period=200),
        samples.result("first-touch", 2.2),
        samples.result("clairvoyant", 1.2),
    ]
    assert regret_of(rows)["isotherm"] == pytest.approx(0.4)


def test_trouble_and_options_tell_cells_apart(samples: ModuleType) -> None:
    """A run with faults is not judged by bounds without; no table is an empty one."""
    rows = [
        samples.result("isotherm", 1.6, faults={"busy": 0.1}),
        samples.result("isotherm", 1.7, workload_options={"skew": 2.0}),
        samples.result("isotherm", 1.8, faults={}, workload_options={}),
        samples.result("first-touch", 2.2),
        samples.result("clairvoyant", 1.2),
    ]
    found = [row["regret"] for row in judge(rows)]
    assert [None, None] == found[:2]
    assert found[2] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("name", "kind", "judged"),
    [
        ("uniform", "uniform", False),
        ("mine.toml", "stream", False),
        ("uniform", None, True),  # a trace uniform.parquet
        ("gups", "gups", True),
    ],
)
def test_kind_says_what_is_flat(
    samples: ModuleType, name: str, kind: str | None, judged: bool
) -> None:
    """A file may be called as it likes; what it is decides whether it is judged."""
    rows = [
        samples.result(policy, slowdown, workload=name) | {"workload_kind": kind}
        for policy, slowdown in (("first-touch", 2.0), ("static-oracle", 1.0))
    ]
    assert judged == (judge(rows)[0]["regret"] is not None)


def test_simulations_say_the_kind(tmp_path: Path) -> None:
    """Of a generator and of a file that describes one."""
    path = tmp_path / "mine.toml"
    path.write_text('kind = "uniform"\n')
    for workload in ("uniform", str(path)):
        spec = SimulationSpec("first-touch", workload, pages=64, accesses=640)
        assert "uniform" == simulate(spec)["workload_kind"]
