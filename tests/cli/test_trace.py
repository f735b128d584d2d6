"""``isotherm trace``."""

import json
from pathlib import Path

import pytest

from isotherm.cli.main import main


def test_import_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Import writes a trace; info says of it what import said."""
    source, out = tmp_path / "a.trace", tmp_path / "a.parquet"
    source.write_bytes(b"l 0x10000 1\ns 0x20000 1\n")
    words = ["trace", "import", str(source), str(out), "--page-bytes", "64KiB"]
    assert 0 == main([*words, "--json"])
    imported = json.loads(capsys.readouterr().out)
    assert 0 == main(["trace", "info", str(out), "--json"])
    assert imported == json.loads(capsys.readouterr().out)
    assert (2, 2, 1, 65536, 131072, "spec") == (
        imported["pages"],
        imported["accesses"],
        imported["writes"],
        imported["page_bytes"],
        imported["footprint_bytes"],
        imported["provenance"]["source"],
    )
    command = "isotherm trace import a.trace a.parquet --page-bytes 65536"
    assert command == imported["provenance"]["command"]


def test_info_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain lines on stdout, nothing on stderr; what is unknown is said to be."""
    source, out = tmp_path / "a.trace", tmp_path / "a.parquet"
    source.write_bytes(b"1\n2\n1\n")
    assert 0 == main(["trace", "import", str(source), str(out)])
    capsys.readouterr()
    assert 0 == main(["trace", "info", str(out)])
    shown = capsys.readouterr()
    assert "2 pages of 4.00 KiB" in shown.out
    assert "writes     unknown" in shown.out
    assert "" == shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trace", "import", "none", "out"], "none: No such file"),
        (["trace", "import", "bad", "out"], "line 41"),
        (["trace", "import", "bad", "out", "--format", "x"], "expected auto or one of"),
        (["trace", "import", "bad", "out", "--page-bytes", "x"], "size"),
        (["trace", "info", "bad"], "isotherm trace import bad"),
        (["trace", "record", "out"], "expected a program after --, or --pid"),
    ],
)
def test_errors(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    """Exit code 2, the reason on stderr, nothing on stdout, no file left."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").write_bytes(b"l 0x10 1\n" * 40 + b"l 0x10\n" + b"l 0x10 1\n" * 9)
    assert 2 == main(words)
    shown = capsys.readouterr()
    assert message in shown.err
    assert "" == shown.out
    assert ["bad"] == [path.name for path in tmp_path.iterdir()]
