"""benchmarks/stall.py: the table and the bar, from given slowdowns."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "stall.py"


@pytest.fixture(scope="module")
def stall() -> ModuleType:
    """Return the script as a module."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec = importlib.util.spec_from_file_location("bench_stall", SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def rows_of(stall: ModuleType, slowdowns: dict[str, list[float]]) -> list[dict]:
    """Return the same slowdowns, one of each seed, in every cell."""
    return [
        {
            "machine": machine,
            "ratio": ratio,
            "run": name,
            "seed": seed,
            "slowdown": slowdown,
            "chase": 0.5,
        }
        for machine in stall.machines()
        for ratio in stall.RATIOS
        for name, each in slowdowns.items()
        for seed, slowdown in enumerate(each, 1)
    ]


def test_gains_are_seed_by_seed(stall: ModuleType) -> None:
    """Time of accesses alone over that of isotherm, less one."""
    rows = rows_of(stall, {stall.BLIND: [2.0, 3.0], stall.AWARE: [1.6, 2.0]})
    assert [0.25, 0.5] == pytest.approx(stall.gains(rows, "dram-cxl-fast", "1/2"))


def test_the_table_has_a_row_a_cell(stall: ModuleType) -> None:
    """Means over seeds, the gain, its worst seed, and what the best placement gains."""
    figures = {name: [1.5, 1.5] for name in stall.RUNS}
    figures |= {stall.BLIND: [2.0, 2.0], "static-oracle": [1.25, 1.25]}
    figures[stall.AWARE] = [1.6, 1.25]
    lines = stall.table(rows_of(stall, figures)).splitlines()
    assert 2 + 2 * len(stall.RATIOS) == len(lines)
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert ["42.5%", "25.0%", "60.0%", "0.50", "0.50"] == cells[-5:]


def test_machines_tell_misses_apart(stall: ModuleType) -> None:
    """On neither do all accesses stall alike."""
    assert not any(spec.uniform_stall for spec in stall.machines().values())
