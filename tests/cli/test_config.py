"""``isotherm config``: what is set, what can be, and whether a file is right."""

import json
from pathlib import Path

import msgspec
import pytest

from isotherm.cli.main import main
from isotherm.daemon.config import Config


def test_check_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 with the key; 0 for a file that can be used."""
    path = tmp_path / "isotherm.toml"
    path.write_text('[loop]\npolicy = "isoterm"\n')
    assert 2 == main(["config", "check", str(path)])
    assert "loop.policy" in capsys.readouterr().err
    path.write_text("[loop]\nepoch_s = 2.0\n")
    assert 0 == main(["config", "check", str(path)])


def test_schema_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON Schema with bounds and descriptions; what is unknown is refused."""
    assert 0 == main(["config", "schema"])
    found = json.loads(capsys.readouterr().out)["$defs"]
    sections = msgspec.to_builtins(Config())
    assert sorted(sections) == sorted(found["Config"]["properties"])
    assert not found["Config"]["additionalProperties"]
    for section, keys in sections.items():
        kind = type(getattr(Config(), section)).__name__
        assert sorted(keys) == sorted(found[kind]["properties"])
    epoch = found["LoopConfig"]["properties"]["epoch_s"]
    assert (0, 60) == (epoch["exclusiveMinimum"], epoch["maximum"])
