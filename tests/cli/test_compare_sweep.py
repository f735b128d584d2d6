"""compare: several hint settings, and the place for decoded traces."""

import json

import pytest

from isotherm.cli.compare import with_hints_named
from isotherm.cli.main import main

SMALL = ("--pages", "256", "--accesses", "10240", "--jobs", "1")


def run_main(*words: str) -> int:
    """Run the command line and return its exit code."""
    try:
        return int(main(list(words)) or 0)
    except SystemExit as end:
        return int(end.code or 0)


def test_every_hint_setting_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Each --hints is a setting of its own; bounds and first-touch run once."""
    words = ("compare", "--policies", "isotherm", "--workloads", "gups", *SMALL)
    hints = ("--hints", "sampling", "--hints", "sampling,accessed-bit")
    assert run_main(*words, *hints, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    ours = [row["hints"] for row in rows if row["policy"] == "isotherm"]
    assert [["sampling"], ["accessed-bit", "sampling"]] == ours
    assert len(rows) == 2 + 5


def test_policies_under_different_hints_have_different_names() -> None:
    """What looks is named with what it looked at; what does not keeps its name."""
    rows = [
        {"policy": "tpp", "hints": []},
        {"policy": "isotherm", "hints": ["sampling"]},
        {"policy": "first-touch", "hints": []},
    ]
    assert ["tpp (no hints)", "isotherm (sampling)", "first-touch"] == [
        row["policy"] for row in with_hints_named(rows)
    ]


def test_trace_cache_is_a_size(capsys: pytest.CaptureFixture[str]) -> None:
    """A negative size is a usage error."""
    assert run_main("compare", *SMALL, "--trace-cache=-1") == 2
    assert "trace cache" in capsys.readouterr().err
