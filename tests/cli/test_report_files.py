"""``isotherm compare --report --export --costs``, as a user runs it."""

import json

import pytest

from isotherm.cli.main import main

pytestmark = pytest.mark.slow

SMALL = ["compare", "--policies", "isotherm", "--workloads", "drift"]
SMALL += ["--pages", "512", "--accesses", "100000", "--jobs", "1"]

PRICES = """\
unit = "EUR a GiB"
source = "a quote"
[per_gib]
dram = 4.0
cxl = 1.0
"""


def test_report_and_charts_are_written(capsys, tmp_path):
    """One run of the command makes the page and the files, with the prices given."""
    pytest.importorskip("vl_convert", reason="vl-convert-python is missing")
    (tmp_path / "prices.toml").write_text(PRICES)
    report, charts = tmp_path / "report.html", tmp_path / "charts"
    command = [*SMALL, "--report", str(report), "--export", str(charts)]
    assert 0 == main([*command, "--costs", str(tmp_path / "prices.toml")])
    said = capsys.readouterr()
    assert f"report: {report}" in said.err
    assert "charts, JSON and PNG of each" in said.err
    text = report.read_text()
    assert "dram 4, cxl 1 a GiB (EUR a GiB; a quote)" in text
    assert 'id="run-0-0"' in text
    cost = json.loads((charts / "cost-drift-on-dram-cxl.vl.json").read_text())
    prices = {
        point["price"]
        for layer in cost["layer"]
        for point in layer["data"]["values"]
        if point.get("policy") == "isotherm"
    }
    assert [pytest.approx(0.4, abs=1e-3)] == list(prices)
    names = {path.name for path in charts.iterdir()}
    heat = "heat-drift-0.2-fast-isotherm"
    assert {f"{heat}.png", f"{heat}.vl.json"} < names


def test_charts_without_a_report(capsys, tmp_path):
    """--export alone keeps the runs over time and writes the charts."""
    pytest.importorskip("vl_convert", reason="vl-convert-python is missing")
    assert 0 == main([*SMALL, "--export", str(tmp_path / "charts"), "--json"])
    assert json.loads(capsys.readouterr().out)["results"]
    assert (tmp_path / "charts" / "latency-drift-0.2-fast-isotherm.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--costs", "prices.toml"], "--costs: expected --report or --export"),
        (["--export", "taken"], "taken: is a file, expected a directory"),
        (["--report", "r.html", "--costs", "none.toml"], "none.toml: "),
    ],
)
def test_mistakes_are_told_before_the_runs(
    capsys, tmp_path, monkeypatch, options, words
):
    """A wrong file is a usage error at once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    (tmp_path / "prices.toml").write_text(PRICES)
    assert 2 == main([*SMALL, *options])
    assert words in capsys.readouterr().err
