"""benchmarks/cpu_adviser.py and births.py: tables and bars, from given figures."""

from types import ModuleType

import pytest

from tests.benchmarks.scripts import load


@pytest.fixture(scope="module")
def cpus() -> ModuleType:
    """Return the script of the adviser."""
    return load("cpu_adviser")


@pytest.fixture(scope="module")
def births() -> ModuleType:
    """Return the script of births."""
    return load("births")


def adviser_rows(cpus: ModuleType, **changed: float) -> list[dict]:
    """Return a row a case that meets every bar, but for what is changed."""
    row = {
        "seed": 1,
        "off": 0.5,
        "on": 0.1,
        "last": 0.05,
        "moves": 0,
        "reversals": 0,
        "crossed_off": 100,
        "crossed_on": 50,
        "slowdown_off": 2.0,
        "slowdown_on": 1.5,
    }
    return [{"case": case, **row, **changed} for case in cpus.CASES]


def test_the_advisers_bars(cpus: ModuleType) -> None:
    """Each is missed by what it forbids, in the cases that it is for."""
    assert [] == cpus.failures(adviser_rows(cpus))
    partitioned = [c for c in cpus.CASES.values() if c.partitioned and not c.turned]
    assert len(partitioned) == len(cpus.failures(adviser_rows(cpus, on=0.3)))
    assert len(cpus.CASES) == len(cpus.failures(adviser_rows(cpus, reversals=1)))
    idle = [c for c in cpus.CASES.values() if not c.partitioned]
    assert len(idle) == len(cpus.failures(adviser_rows(cpus, moves=2)))
    turned = [c for c in cpus.CASES.values() if c.turned]
    assert len(turned) == len(cpus.failures(adviser_rows(cpus, crossed_on=100)))


def test_the_advisers_table(cpus: ModuleType) -> None:
    """A line a case, in the order of the cases."""
    lines = cpus.table(adviser_rows(cpus)).splitlines()
    assert 2 + len(cpus.CASES) == len(lines)
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert ["50.0%", "10.0%", "5.0%", "100", "50", "2.000", "1.500"] == cells[1:8]


@pytest.mark.slow
def test_a_case_is_played(cpus: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads as the case says, and the scheduler's turn in the middle."""
    monkeypatch.setattr(cpus, "SECONDS", 15)
    monkeypatch.setattr(cpus, "TURN_S", 5.0)
    case = cpus.CASES["4 of 2, grouped, turned round"]
    result = cpus.play(case, "apply", 512, 1)
    assert 8 == len(result["streams"])
    assert result["cpu_advice"]["windows"] == 1


def test_the_births_bar_and_table(births: ModuleType) -> None:
    """With room no slower than without, and at least half born fast."""
    rows = [
        {
            "pace": pace,
            "run": name,
            "slowdown": 2.0,
            "fast": 0.5,
            "born": 0.6,
            "moved": 1.0,
        }
        for pace in births.PACES
        for name in births.RUNS
    ]
    assert [] == births.failures(rows)
    assert 2 + len(births.RUNS) == len(births.table(rows).splitlines())
    for row in rows:
        if row["run"] == births.WITH:
            row |= {"slowdown": 2.1, "born": 0.4}
    assert 2 * len(births.PACES) == len(births.failures(rows))
