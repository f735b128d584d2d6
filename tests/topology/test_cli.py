"""``isotherm topology`` on recorded machines: what it prints and how it ends."""

import json
from pathlib import Path

import pytest

from isotherm.cli.topology import app
from isotherm.core.errors import ConfigError, TopologyError


def run(*words: object) -> int:
    """Run the verb and return its exit code; errors come through."""
    return app(
        [str(word) for word in words],
        exit_on_error=False,
        result_action="return_value",
    )


@pytest.fixture
def root(tmp_path: Path, dram_cxl) -> Path:
    """Return a recorded two-tier machine."""
    return dram_cxl().tar(tmp_path / "machine.tar.gz", "w:gz")


def test_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints one document on stdout and nothing else."""
    assert 0 == run("--root", root, "--json")
    out, err = capsys.readouterr()
    assert [[0], [1]] == [tier["nodes"] for tier in json.loads(out)["tiers"]]
    assert "" == err


def test_text(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json people get the tiers first."""
    assert 0 == run("--root", root)
    assert capsys.readouterr().out.startswith("tiers, fastest first\n  0: node 0")


def test_cxl_devices_of_a_listing(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--cxl-list shows devices and their health, in words and as JSON."""
    path = tmp_path / "cxl.json"
    path.write_text('[{"memdev": "mem0", "health": {"temperature": 45}}]')
    assert 0 == run("--root", root, "--cxl-list", path)
    assert "CXL memory devices\n  mem0    45 °C\n" in capsys.readouterr().out
    assert 0 == run("--root", root, "--cxl-list", path, "--json")
    (device,) = json.loads(capsys.readouterr().out)["cxl_devices"]
    assert ("mem0", 45) == (device["name"], device["health"]["temperature"])
    path.write_text("mem0 is well")
    with pytest.raises(TopologyError, match="expected the JSON of cxl list"):
        run("--root", root, "--cxl-list", path)


def test_overrides(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of overrides is applied to what was read."""
    path = tmp_path / "o.toml"
    path.write_text('[[node]]\nid = 1\nkind = "remote"\n')
    assert 0 == run("--root", root, "--overrides", path, "--json")
    node = json.loads(capsys.readouterr().out)["nodes"][1]
    assert ("remote", "configured") == (node["kind"], node["kind_source"])


def test_a_replaced_machine_needs_no_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With mode = "replace" the root is not even looked at."""
    path = tmp_path / "o.toml"
    path.write_text(
        'mode = "replace"\n[[node]]\nid = 0\nkind = "dram"\ncapacity = 4096\n'
    )
    assert 0 == run("--root", tmp_path / "gone", "--overrides", path, "--json")
    assert 4096 == json.loads(capsys.readouterr().out)["nodes"][0]["capacity_bytes"]


def test_record(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is recorded prints as the machine did."""
    out = tmp_path / "out.tar.gz"
    assert 0 == run("record", out, "--root", root)
    run("--root", root, "--json")
    first = capsys.readouterr().out
    run("--root", out, "--json")
    assert first == capsys.readouterr().out


def test_errors_come_through(tmp_path: Path, root: Path) -> None:
    """A missing root and a broken file end as the errors that main() prints."""
    with pytest.raises(TopologyError):
        run("--root", tmp_path / "gone")
    path = tmp_path / "o.toml"
    path.write_text("x = 1")
    with pytest.raises(ConfigError):
        run("--root", root, "--overrides", path)
