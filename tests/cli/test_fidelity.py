"""``isotherm fidelity``: tables, JSON, exit codes."""

import json

import pytest

from isotherm.cli import main as cli


@pytest.mark.slow
def test_json_has_published_and_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """One document; each figure with what was published, and where."""
    assert 0 == cli.main(["fidelity", "thermostat", "--quick", "--json"])
    out = json.loads(capsys.readouterr().out)
    (experiment,) = out["experiments"]
    figure = experiment["tables"][0]["figures"][0]
    assert (0, None) == (out["pairs"], out["pairs_right_share"])
    assert "ASPLOS" in experiment["source"]
    assert 0.5 == figure["published"]
    assert figure["error"] == pytest.approx(figure["ours"] - 0.5)


@pytest.mark.slow
def test_the_table_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress goes to stderr, the table to stdout, in 80 columns."""
    assert 0 == cli.main(["fidelity", "thermostat", "--quick", "--check"])
    out, err = capsys.readouterr()
    assert "thermostat" in err
    assert "unseen: median" in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_an_unknown_experiment_is_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, before anything is played."""
    assert 2 == cli.main(["fidelity", "coloid"])
    assert "did you mean 'colloid'" in capsys.readouterr().err
