"""``isotherm plan``, as a user runs it."""

import json

import pytest

from isotherm.cli.main import main

SMALL = ["--pages", "512", "--accesses", "40000", "--jobs", "1"]


@pytest.mark.slow
def test_answers_in_json(capsys, tmp_path):
    """Ratios in steps of 1/64, prices, advice; a second time nothing is run."""
    out = tmp_path / "plan.parquet"
    command = ["plan", *SMALL, "--seeds", "1,2", "--max-slowdown", "50%"]
    command += ["--policies", "isotherm,first-touch", "--json", "--out", str(out)]
    assert 0 == main(command)
    first = json.loads(capsys.readouterr().out)
    assert ["isotherm", "first-touch"] == [p["policy"] for p in first["policies"]]
    for row in first["policies"]:
        assert 2 == len(row["ratios"])
        assert all(ratio * 64 == round(ratio * 64) for ratio in row["ratios"])
        assert max(row["slowdowns"]) <= 1.5
    assert first["costs"]["source"] == "assumed"
    assert 0 == main(command)
    assert first == json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_answers_for_people_fit_80_columns(capsys):
    """Prices and advice are sentences, and wrapped."""
    command = ["plan", *SMALL, "--max-slowdown", "50%", "--policies", "first-touch"]
    assert 0 == main(command)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Prices a GiB") for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.slow
def test_commands_only_for_what_pays(capsys):
    """A kernel that is left as it is gets no commands; numactl needs no root."""
    command = ["plan", *SMALL, "--advise", "--fast-ratio", "1/4"]
    assert 0 == main(command)
    out = capsys.readouterr().out
    told = "As root:" in out or "Start it as:" in out
    assert told == ("Leave the kernel as it is" not in out)
    assert ("Start it as:" in out) == ("Use interleave:" in out)


@pytest.mark.slow
def test_a_fleet_of_traces(capsys, tmp_path):
    """One answer a host, and what to buy for all."""
    for host in ("one", "two"):
        rows = "".join(f"{i % 97},{i * 1000}\n" for i in range(20000))
        (tmp_path / f"{host}.csv").write_text("page,time_ns\n" + rows)
        target = str(tmp_path / f"{host}.parquet")
        assert 0 == main(["trace", "import", str(tmp_path / f"{host}.csv"), target])
    capsys.readouterr()
    command = ["plan", "--fleet", str(tmp_path), "--jobs", "1", "--rate", "10"]
    command += ["--max-slowdown", "80%", "--windows", "2", "--json"]
    assert 0 == main(command)
    found = json.loads(capsys.readouterr().out)
    assert 2 == len(found["hosts"])
    assert 3 == len(found["policies"][0]["ratios"])


@pytest.mark.slow
def test_advises_settings_of_the_kernel(capsys):
    """One setting a mechanism, best first, with the commands that make it so."""
    command = ["plan", *SMALL, "--advise", "--fast-ratio", "1/4", "--json"]
    assert 0 == main(command)
    found = json.loads(capsys.readouterr().out)
    slowdowns = [s["slowdown"] for s in found["settings"]]
    assert sorted(slowdowns) == slowdowns
    assert {"first-touch", "interleave", "weighted-interleave", "numab2", "damon"} == {
        s["mechanism"] for s in found["settings"]
    }
    for setting in found["settings"]:
        assert (setting["mechanism"] == "first-touch") == (not setting["commands"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-slowdown", "0"], "expected a share"),
        (["--policies", "isothurm"], "did you mean"),
        (["--fleet", "/nonexistent"], "expected a directory"),
        (["--costs", "/nonexistent.toml"], "nonexistent.toml"),
        (["--windows", "0"], "windows"),
        (["--windows", "3", "--workload", "zipf"], "zipf is a generator"),
        (["--advise", "--fleet", "hosts"], "expected one workload"),
    ],
)
def test_wrong_options(capsys, words, says):
    """One line, exit code 2."""
    assert 2 == main(["plan", *words])
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--max-slowdown", "max slowdown"),
        ("--memory-bound", "memory bound"),
        ("--fast-ratio", "fast ratio"),
    ],
)
def test_wrong_shares_are_named(capsys, option, name):
    """The error says which option has a share that is none."""
    assert 2 == main(["plan", option, "-7"])
    assert f"error: {name}: expected a share " in capsys.readouterr().err
