"""Sweeps that lose a worker, or are killed themselves: nothing lost, nothing twice."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from isotherm.lab.batches import Cell, cut
from isotherm.lab.compare import compare
from isotherm.lab.grid import Grid, spec_key
from isotherm.lab.store import ResultStore

pytest.importorskip("pyarrow")


@pytest.fixture(scope="session")
def helper() -> ModuleType:
    """Return the module with the sweeps."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import sweep_helper
    finally:
        sys.path.pop(0)
    return sweep_helper


def start(folder: Path, way: str) -> subprocess.Popen[str]:
    """Start a sweep in a process of its own."""
    program = "import sweep_helper; sweep_helper.main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, way, str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
    )


def finish(run: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]]]:
    """Return how many runs were resumed, and the results."""
    out, _ = run.communicate(timeout=300)
    assert run.returncode == 0
    resumed, rows = json.loads(out.splitlines()[-1])
    return resumed, rows


def stored(path: Path) -> list[str]:
    """Return the keys in a Parquet file, as often as they are there."""
    import pyarrow.parquet as pq

    keys: list[str] = pq.read_table(path)["key"].to_pylist()
    return keys


def runs_of(folder: Path) -> Counter[str]:
    """Return how often each run was finished."""
    return Counter(line.split()[0] for line in whole_lines(folder / "runs"))


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a file, less one that was cut off."""
    return path.read_text().split("\n")[:-1]


def is_running(process: int) -> bool:
    """Return whether a process is there, and no zombie."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(") ")[2][0] not in "ZX"


def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds, two minutes at most."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "waited for two minutes"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pool", "cluster"])
def test_lost_worker_loses_and_doubles_nothing(
    tmp_path: Path, helper: ModuleType, way: str
) -> None:
    """A worker killed in the middle of a run: every result once, and the same."""
    if way == "cluster":
        pytest.importorskip("distributed", reason="dask.distributed is not installed")
    _, rows = finish(start(tmp_path, way))
    undisturbed = compare(helper.specs(), jobs=1).results
    assert helper.plain(undisturbed) == rows
    cells = [Cell(i, spec_key(s), s) for i, s in enumerate(helper.specs())]
    keys = [cell.key for cell in cells]
    assert sorted(keys) == sorted(stored(tmp_path / "sweep.parquet"))
    times = runs_of(tmp_path)
    assert set(keys) == set(times)
    twice = {key for key, count in times.items() if count > 1}
    assert max(times.values()) <= 2
    if way == "pool":  # its workers write to the journal themselves
        # The other worker is ended too, maybe between a run and the line it writes.
        assert len(twice) <= 1
        return
    victims = next(
        batch
        for batch in cut(cells, 2)
        if any(cell.spec.seed == helper.VICTIM for cell in batch)
    )
    assert twice <= {cell.key for cell in victims}


@pytest.mark.slow
def test_killed_sweep_repeats_no_finished_run(
    tmp_path: Path, helper: ModuleType
) -> None:
    """Of 1,000 runs, none that was finished at the kill is made again."""
    first = start(tmp_path, "many")
    runs = tmp_path / "runs"
    until(lambda: runs.exists() and runs.read_bytes().count(b"\n") > 300)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    workers = {int(line.split()[1]) for line in whole_lines(runs)}
    until(lambda: not any(is_running(worker) for worker in workers))
    journal = tmp_path / "sweep.parquet.journal"
    kept = {json.loads(line)["key"] for line in whole_lines(journal)}
    before = runs_of(tmp_path)
    assert len(kept) < helper.MANY
    resumed, rows = finish(start(tmp_path, "many"))
    assert len(kept) == resumed
    times = runs_of(tmp_path)
    assert helper.MANY == len(rows) == len(times)
    assert helper.MANY == len(stored(tmp_path / "sweep.parquet"))
    assert all(times[key] == 1 for key in kept)
    # A worker may die between the end of a run and the line that it writes.
    assert len(before) - len(kept) <= len(workers)
    assert sum(times.values()) - helper.MANY <= len(workers)


@pytest.mark.slow
def test_documented_queries(
    tmp_path: Path, helper: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queries of the reference page answer on the file of a sweep."""
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    page = Path(__file__).parents[2] / "docs" / "reference" / "sweeps.md"
    queries = re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    settings = (("sampling",), ("accessed-bit",))
    common = replace(helper.specs(1)[0], pages=256, accesses=10240)
    specs = Grid(
        ["tpp", "isotherm"], ["gups"], hint_settings=settings, common=common
    ).specs()
    with ResultStore(tmp_path / "sweep.parquet") as store:
        found = compare(specs, jobs=1, store=store)
    answers = [duckdb.sql(query).fetchall() for query in queries]
    assert len(answers) == 3
    mean_regret = {row[0]: row[1] for row in answers[0]}
    ours = [r["regret"] for r in found.results if r["policy"] == "isotherm"]
    assert mean_regret["isotherm"] == pytest.approx(sum(ours) / len(ours))
    slower = {(r["policy"]) for r in found.results if r["vs_first_touch"] > 1.01}
    assert {row[0] for row in answers[1]} <= slower
    assert {row[1] for row in answers[2] if row[0] == "isotherm"} == {
        '["sampling"]',
        '["accessed-bit"]',
    }
