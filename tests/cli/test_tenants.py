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
    assert 5 == main(["tenants"])
    assert "isotherm run --tenants FILE" in capsys.readouterr().err


def test_tenants_are_not_the_kernels(tmp_path: Path, capsys) -> None:
    """--mover kernel and --tenants exclude each other; so do two kinds of targets."""
    path = tmp_path / "t.toml"
    path.write_text(TEXT)
    assert 2 == main(["run", "--tenants", str(path), "--mover", "kernel"])
    assert "the kernel's movers know none" in capsys.readouterr().err
    assert 2 == main(["run", "--tenants", str(path), "--pid", "1"])
    assert "--tenants and -- COMMAND" in capsys.readouterr().err


def test_the_configuration_may_name_the_file(tmp_path: Path, capsys) -> None:
    """[target] tenants stands for --tenants; a peer that knows none is refused."""
    path, config = tmp_path / "t.toml", tmp_path / "c.toml"
    path.write_text(TEXT)
    config.write_text(f'[target]\ntenants = "{path}"\n[loop]\npolicy = "tpp"\n')
    assert 2 == main(["run", "--config", str(config), "--mover", "kernel"])
    assert "the kernel's movers know none" in capsys.readouterr().err


def test_a_policy_that_knows_no_tenants_is_refused() -> None:
    """Terms that nobody keeps are no terms; with sharing none there are none."""
    check_policy(parse_tenants(TEXT, "t"), "isotherm")
    check_policy(parse_tenants(f'sharing = "none"\n{TEXT}', "t"), "tpp")
    with pytest.raises(UsageError, match="policy 'tpp' knows no tenants"):
        check_policy(parse_tenants(TEXT, "t"), "tpp")
