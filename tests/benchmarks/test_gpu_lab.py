"""The tables of machines with a GPU: columns, order, and what page size costs."""

from pathlib import Path

import pytest

import gpu_lab


def test_without_the_trace_its_column_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fetched, and nothing stands for it; a named one must be there."""
    monkeypatch.setenv("ISOTHERM_SHARED", str(tmp_path))
    assert gpu_lab.find_trace(None) is None
    assert list(gpu_lab.GRIDS) == list(gpu_lab.grids(None, tmp_path))
    with pytest.raises(SystemExit, match="no such trace"):
        gpu_lab.find_trace(tmp_path / "mine.jsonl.gz")


def test_policies_by_their_mean_and_bounds_last() -> None:
    """A table of one machine; a run that is refused leaves its cell empty."""
    columns = {
        "one": {("m", "isotherm"): 2.0, ("m", "lru"): 1.5, ("m", "all-fast"): 1.0},
        "two": {("m", "isotherm"): 1.1, ("m", "all-fast"): 1.0},
    }
    lines = gpu_lab.table("m", columns).splitlines()
    assert "`m`" == lines[0]
    assert ["| isotherm | 2.00 | 1.10 |", "| lru | 1.50 |  |"] == lines[4:6]
    assert "| all-fast | 1.00 | 1.00 |" == lines[6]


def test_rows_of_a_page_are_kept() -> None:
    """What a table says comes back; another table of the page does not."""
    columns = {
        "one": {("m", "lru"): 1.5, ("n", "lru"): 3.0},
        "two": {("m", "tpp"): 2.0},
    }
    page = "\n\n".join(gpu_lab.table(machine, columns) for machine in ("m", "n"))
    page += "\n\n| rows a page | 1 |\n|---|---:|\n| Zipf 1 | 0.5 |\n"
    assert columns == gpu_lab.kept(page, ("one", "two"))
    assert {"one": {}} == gpu_lab.kept(page, ("one",))


def test_larger_pages_never_hit_more_often() -> None:
    """What page size costs: each row of the table falls."""
    for line in gpu_lab.dilution(rows=1 << 14).splitlines()[2:]:
        rates = [float(cell) for cell in line.strip("| ").split("|")[1:]]
        assert sorted(rates, reverse=True) == rates
        assert 0 < rates[-1] < rates[0] < 1
