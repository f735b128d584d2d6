"""benchmarks/quality_machines.py: tables of regret from sweeps."""

import json
from pathlib import Path

import pytest

import quality_machines

#: Slowdowns of a cell by policy: the gap is 1, isotherm's regret 0.2.
SLOWDOWNS = {
    "first-touch": 2.0,
    "static-oracle": 1.0,
    "clairvoyant": 1.1,
    "isotherm": 1.2,
    "memtis": 1.5,
}


def sweep(folder: Path, slowdowns: dict[str, dict[str, float]]) -> Path:
    """Write a sweep's journal with a cell for each workload."""
    rows = [
        {
            "workload": workload,
            "machine": "dram-pmem",
            "fast_ratio": 0.2,
            "policy": policy,
            "slowdown": slowdown,
            "promoted_pages": 3,
            "demoted_pages": 3,
            "pages": 6,
        }
        for workload, cell in slowdowns.items()
        for policy, slowdown in cell.items()
    ]
    path = folder / "sweep.journal"
    lines = [json.dumps({"key": str(i), "result": row}) for i, row in enumerate(rows)]
    path.write_text("\n".join(lines))
    return path


def regrets(sweeps: list[Path]) -> dict[str, float]:
    """Return regret by policy, of sweeps with one cell."""
    return {row["policy"]: row["regret"] for row in quality_machines.read(sweeps)}


def test_cells_without_bounds_are_left_out(tmp_path: Path) -> None:
    """A cell that a stopped sweep has not finished judges nobody."""
    half = {"first-touch": 2.0, "isotherm": 9.0}
    rows = quality_machines.read([sweep(tmp_path, {"zipf": SLOWDOWNS, "gups": half})])
    assert {"zipf"} == {row["workload"] for row in rows}


def test_a_policy_is_compared_on_its_own_cells(tmp_path: Path) -> None:
    """A peer that ran on one of two cells stands beside isotherm on that one."""
    other = {k: v for k, v in SLOWDOWNS.items() if k != "memtis"} | {"isotherm": 1.8}
    rows = quality_machines.read([sweep(tmp_path, {"zipf": SLOWDOWNS, "gups": other})])
    ranked = {r.policy: r for r in quality_machines.by_policy(rows)}
    assert 0.5 == pytest.approx(ranked["isotherm"].mean)
    assert [0.5, 0.2] == pytest.approx([ranked["memtis"].mean, ranked["memtis"].ours])


def test_losses_name_the_peer(tmp_path: Path) -> None:
    """A peer that is 20 % faster is named; one that is not is no loss."""
    lost = SLOWDOWNS | {"memtis": 1.0}
    rows = quality_machines.read([sweep(tmp_path, {"zipf": SLOWDOWNS, "gups": lost})])
    text = quality_machines.losses(rows)
    assert text.startswith("1 of 2 cells.")
    assert "| gups | dram-pmem | 1/5 | 1.20 | 1.00 | memtis | 20% | 0.20 |" in text


def test_one_policy_is_played_anew(tmp_path: Path) -> None:
    """Published cells read as they were; a later run takes the place of one of them."""
    before = regrets([sweep(tmp_path, {"zipf": SLOWDOWNS})])
    kept = tmp_path / "machines.parquet"
    rows = quality_machines.read([tmp_path / "sweep.journal"])
    quality_machines._keep(rows, kept)
    assert before == regrets([kept])
    again = sweep(tmp_path, {"zipf": {"isotherm": 1.1}})
    assert before | {"isotherm": 0.1} == pytest.approx(regrets([kept, again]))


def test_a_flat_workload_has_no_regret_when_it_is_read_again(tmp_path: Path) -> None:
    """Its name says so, where its kind was not kept."""
    path = sweep(tmp_path, {"uniform": SLOWDOWNS})
    kept = tmp_path / "machines.parquet"
    quality_machines._keep(quality_machines.read([path]), kept)
    assert {None} == set(regrets([kept]).values())
