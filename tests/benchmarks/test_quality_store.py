"""Finished runs and the code that made them."""

from pathlib import Path
from typing import Any

import pytest

import quality_store
from quality_store import Runs, Stale


def row(policy: str, code: str, slowdown: float = 1.5) -> dict[str, Any]:
    """Return a run as it is kept."""
    return {"policy": policy, "workload": "zipf", "code": code, "slowdown": slowdown}


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the digest of every policy's code, to be changed by the test."""
    digests = dict.fromkeys(("isotherm", "lru"), "old")
    monkeypatch.setattr(
        quality_store, "code_of", lambda policy, workload: digests.get(policy, "old")
    )
    return digests


@pytest.fixture
def path(tmp_path: Path, code: dict[str, str]) -> Path:
    """Return a store of one run of isotherm and one of lru, by the old code."""
    path = tmp_path / "runs.parquet"
    with Runs(path) as runs:
        rows = {"a": row("isotherm", "old"), "b": row("lru", "old")}
        runs.done.update(rows)
        runs.save(list(rows.values()), list(rows))
    return path


def policies(runs: Runs) -> list[str]:
    """Return whose runs are there to be used."""
    return sorted(row["policy"] for row in runs.done.values())


def test_only_runs_of_this_code_are_used(path: Path, code: dict[str, str]):
    """A changed isotherm's run is not used, lru's is."""
    code["isotherm"] = "new"
    with Runs(path) as runs:
        assert (["lru"], 1) == (policies(runs), runs.stale)


def test_runs_set_aside_come_back_with_their_code(path: Path, code: dict[str, str]):
    """New code's run stands beside the old one; either code finds its own."""
    code["isotherm"] = "new"
    with Runs(path) as runs:
        runs.add("a", row("isotherm", "", 1.2))
        runs.save([runs.done["a"]], ["a"])
    code["isotherm"] = "old"
    with Runs(path) as runs:
        assert (1, 1, 1.5) == (runs.stale, runs.back, runs.done["a"]["slowdown"])
        runs.save([], [])
    code["isotherm"] = "new"
    with Runs(path) as runs:
        assert 1.2 == runs.done["a"]["slowdown"]


def test_a_reader_that_ends_early_loses_nothing(path: Path, code: dict[str, str]):
    """Opened under other code and closed without saving, the file is as before."""
    code["isotherm"] = "new"
    with Runs(path):
        pass
    code["isotherm"] = "old"
    with Runs(path) as runs:
        assert (["isotherm", "lru"], 0) == (policies(runs), runs.stale)


def test_stale_runs_are_used_where_that_is_asked_for(path: Path, code: dict[str, str]):
    """They count as stale, and are there."""
    code["isotherm"] = "new"
    with Runs(path, Stale.USE) as runs:
        assert (["isotherm", "lru"], 1) == (policies(runs), runs.stale)


def test_isotherm_alone_may_be_made_again(path: Path, code: dict[str, str]):
    """Peers' runs of other code are used; isotherm's come back with their code."""
    code |= {"isotherm": "new", "lru": "new"}
    with Runs(path, Stale.OURS) as runs:
        assert (["lru"], 2) == (policies(runs), runs.stale)
        runs.save([], [])
    code["isotherm"] = "old"
    with Runs(path, Stale.OURS) as runs:
        assert (["isotherm", "lru"], 1) == (policies(runs), runs.back)


def test_dropped_runs_are_gone(path: Path, code: dict[str, str]):
    """Those of other code do not come back with it."""
    code["isotherm"] = "new"
    with Runs(path, Stale.DROP) as runs:
        runs.save([], [])
    code["isotherm"] = "old"
    with Runs(path) as runs:
        assert (["lru"], 0) == (policies(runs), runs.back)


def test_a_run_during_which_code_changed_is_marked(path: Path, code: dict[str, str]):
    """It is of neither code, and made again the next time."""
    with Runs(path) as runs:
        code["lru"] = "new"
        runs.add("b", row("lru", ""))
        assert (1, "changed while it ran") == (runs.mixed, runs.done["b"]["code"])
    with Runs(path) as runs:
        assert ["isotherm"] == policies(runs)
