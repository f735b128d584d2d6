"""``isotherm trace``."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
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
    assert shlex.join(["isotherm", *words]) == imported["provenance"]["command"]


def test_the_command_can_be_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names with spaces are quoted in it, and folders are not left out."""
    source, out = tmp_path / "a trace", tmp_path / "out 1.parquet"
    source.write_bytes(b"1\n2\n")
    words = ["trace", "import", str(source), str(out), "--format", "lirs"]
    assert 0 == main([*words, "--json"])
    command = json.loads(capsys.readouterr().out)["provenance"]["command"]
    assert ["isotherm", *words] == shlex.split(command)


def test_terminated_import_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM ends it with 143 and no file half-written."""
    pipe, out = tmp_path / "a.trace", tmp_path / "out"
    os.mkfifo(pipe)
    out.mkdir()
    command = [sys.executable, "-m", "isotherm", "trace", "import", str(pipe)]
    run = subprocess.Popen([*command, str(out / "a.parquet"), "--format", "lirs"])
    try:
        with pipe.open("wb", buffering=0) as file:
            file.write(b"1\n" * 5_000_000)
            until(lambda: list(out.iterdir()))
            run.terminate()  # before the pipe's end, which it would take for its own
        assert 143 == run.wait(60)
        assert [] == list(out.iterdir())
    finally:
        run.kill()
        run.wait()


def until(true: Callable[[], object]) -> None:
    """Wait until something holds, at most a minute."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


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
