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
