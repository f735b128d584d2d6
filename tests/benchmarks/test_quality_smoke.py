"""The quality benchmark on eighteen cells, small enough for every day."""

from pathlib import Path

import pytest

import quality
from quality_report import read_bars

COMMAND = [
    *("--quick", "--only", "main", "--no-tune", "--jobs", "1"),
    *("--workloads", "zipf,gups,latest,btree,kv-cache,uniform"),
    *("--policies", "memtis,numab2", "--pages", "8192"),
]


@pytest.mark.slow
def test_isotherm_holds_its_bars_on_eighteen_cells(tmp_path: Path):
    """Regret, first-touch and the peers; a second start makes no run again."""
    args = quality.parse_arguments([*COMMAND, "--out", str(tmp_path)])
    path = quality.run_all(args)
    got = {bar.name: bar.value for bar in read_bars(path)}
    assert 18 == got["cells"]
    assert got["mean regret"] <= 0.20
    assert got["highest regret of a cell"] <= 0.45
    assert got["slower than first-touch, worst cell"] <= 0.01
    assert got["within 2 % of the best peer"] >= 0.95
    # A quarter of the pages that the bar of 0.2 is for.
    assert got["moves over pages on uniform and stream"] <= 0.3

    made = []
    quality.work, work = lambda *given: made.append(given), quality.work
    try:
        assert path == quality.run_all(args)
    finally:
        quality.work = work
    assert [] == made


@pytest.mark.slow
def test_runs_of_other_code_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A kept run whose code differs is dropped, unless stale runs are wanted."""
    one = ["--quick", "--only", "main", "--no-tune", "--jobs", "1", "--pages", "512"]
    one += ["--workloads", "zipf", "--ratios", "1/5", "--policies", "first-touch"]
    args = quality.parse_arguments([*one, "--out", str(tmp_path)])
    quality.run_all(args)
    store = tmp_path / quality.RUNS
    with quality.Runs(store) as runs:
        assert 4 == len(runs.done)
    same = quality.code_of
    monkeypatch.setattr(
        quality, "code_of", lambda p, w: "new" if p == "isotherm" else same(p, w)
    )
    with quality.Runs(store) as runs:
        kept = sorted(row["policy"] for row in runs.done.values())
        assert ["clairvoyant", "first-touch", "static-oracle"] == kept
        key, row = next(iter(runs.done.items()))
        runs._code[row["policy"]] = "what it was when the benchmark began"
        runs.add(key, row)
        assert (1, "changed while it ran") == (runs.mixed, runs.done[key]["code"])
    with quality.Runs(store, keep_stale=True) as runs:
        assert (4, 2) == (len(runs.done), runs.stale)
