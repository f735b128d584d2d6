"""``isotherm tenants``: a file is shown and checked; with nobody to ask it says so."""

import json
from pathlib import Path

import pytest

from isotherm.cli.main import main
from isotherm.core.errors import UsageError
from isotherm.daemon.tenant_members import check_policy
from isotherm.policy.tenant_file import parse_tenants

TEXT = """
[[tenant]]
name = "db"
profile = "keep-out-of-cxl"
guarantee = "2GiB"
cgroup = "db.slice"
"""


@pytest.fixture(autouse=True)
def run_directory(tmp_path, monkeypatch):
    """Keep away from daemons of this host."""
    monkeypatch.setenv("ISOTHERM_RUN_DIRECTORY", str(tmp_path / "run"))


def test_a_file_is_shown_with_its_profiles(tmp_path: Path, capsys) -> None:
    """What the profile says stands beside what the tenant says."""
    path = tmp_path / "t.toml"
    path.write_text(TEXT)
    assert 0 == main(["tenants", "--check", str(path), "--json"])
    shown = json.loads(capsys.readouterr().out)
    row = shown["tenants"][0]
    assert ("db", ["cxl"], 0.0) == (row["name"], row["keep_out"], row["lend"])
    assert 0 == main(["tenants", "--check", str(path)])
    assert "keep-out-of-cxl" in capsys.readouterr().out


def test_a_wrong_file_ends_with_two(tmp_path: Path, capsys) -> None:
    """The message names file and field."""
    path = tmp_path / "t.toml"
    path.write_text(TEXT.replace("2GiB", "much"))
    assert 2 == main(["tenants", "--check", str(path)])
    assert f"error: {path}: tenant[0].guarantee" in capsys.readouterr().err


def test_nobody_runs(capsys) -> None:
    """Without a daemon there is nothing to show: 5, and how to start one."""
    for words in (["tenants"], ["tenants", "--json"]):
        assert 5 == main(words)
        found = capsys.readouterr()
        assert ("", True) == (found.out, "isotherm run --tenants FILE" in found.err)


def test_tenants_are_not_the_kernels(tmp_path: Path, capsys) -> None:
    """--mover kernel and --tenants exclude each other; so do two kinds of targets."""
    path = tmp_path / "t.toml"
    path.write_text(TEXT)
    assert 2 == main(["run", "--tenants", str(path), "--mover", "kernel"])
    assert "the kernel's movers know none" in capsys.readouterr().err
    assert 2 == main(["run", "--tenants", str(path), "--pid", "1"])
    assert "--tenants and -- COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["tenants", "pods"])
def test_tenants_and_huge_pages_exclude_each_other(
    tmp_path: Path, capsys, target: str
) -> None:
    """Said at once, as a mistake of usage; tenants that are only reported may go on."""
    path, config = tmp_path / "t.toml", tmp_path / "c.toml"
    path.write_text(TEXT)
    config.write_text("[huge_pages]\nuse = true\n")
    words = ["--tenants", str(path)] if target == "tenants" else ["--pods=-"]
    assert 2 == main(["run", *words, "--huge-pages"])
    assert "markets of tenants trade small pages" in capsys.readouterr().err
    assert 2 == main(["run", *words, "--config", str(config)])
    assert "markets of tenants trade small pages" in capsys.readouterr().err
    path.write_text(f'sharing = "none"\n{TEXT}')
    assert 0 != main(["run", "--tenants", str(path), "--huge-pages"])
    assert "markets of tenants" not in capsys.readouterr().err


def test_the_configuration_may_name_the_file(tmp_path: Path, capsys) -> None:
    """[target] tenants stands for --tenants; a peer that knows none is refused."""
    path, config = tmp_path / "t.toml", tmp_path / "c.toml"
    path.write_text(TEXT)
    config.write_text(f'[target]\ntenants = "{path}"\n[loop]\npolicy = "tpp"\n')
    assert 2 == main(["run", "--config", str(config)])
    assert "policy 'tpp' knows no tenants" in capsys.readouterr().err
    config.write_text(f'[target]\ntenants = "{path}"\n')
    assert 2 == main(["run", "--config", str(config), "--mover", "kernel"])
    assert "the kernel's movers know none" in capsys.readouterr().err


def test_a_policy_that_knows_no_tenants_is_refused() -> None:
    """Terms that nobody keeps are no terms; with sharing none there are none."""
    check_policy(parse_tenants(TEXT, "t"), "isotherm")
    check_policy(parse_tenants(f'sharing = "none"\n{TEXT}', "t"), "tpp")
    with pytest.raises(UsageError, match="policy 'tpp' knows no tenants"):
        check_policy(parse_tenants(TEXT, "t"), "tpp")
