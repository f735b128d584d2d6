"""Options become a request, and wrong ones are refused before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from vmtest.cli import main, parse_request

ROOT = Path(__file__).resolve().parents[2]


def test_options_become_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option arrives where it belongs."""
    monkeypatch.setenv("PASSED", "on")
    monkeypatch.delenv("ABSENT", raising=False)
    words = (
        "--layout cxl --kernel newer --memory 768 --cpus 4 --share /tmp --out /x "
        "--folder /usr --env A=b=c --env PASSED --env ABSENT --module zram --append q "
        "--console /c --tick 0 --cgroup --late --limit 9 --accelerator auto --verbose "
        "-- isotherm --help"
    )
    request, fetch_only = parse_request(words.split())
    assert not fetch_only
    assert ("isotherm", "--help") == request.command
    assert ("cxl", "newer", 4) == (request.layout.name, request.kernel, request.cpus)
    assert (768, 1024) == tuple(node.memory_mib for node in request.layout.nodes)
    assert (Path("/tmp"),) == request.shares  # noqa: S108  only named
    assert (Path("/x"), Path("/usr"), Path("/c")) == (
        request.out,
        request.folder,
        request.console,
    )
    assert (("A", "b=c"), ("PASSED", "on")) == request.environment
    assert (("zram",), "q") == (request.modules, request.kernel_arguments)
    assert (0, 9, "auto") == (request.tick_ms, request.limit_s, request.accelerator)
    assert request.cgroup
    assert request.late
    assert request.verbose


def test_the_command_runs_here_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The working directory is the caller's."""
    monkeypatch.chdir(tmp_path)
    assert tmp_path == parse_request(["--", "true"])[0].folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "no command"),
        ("--layout ring -- true", "invalid choice: 'ring'"),
        ("--kernel 2.4 -- true", "invalid choice: '2.4'"),
        ("--memory 512,x -- true", "expected numbers of MiB, found 512,x"),
        ("--memory 1 -- true", "node 0: expected at least 256 MiB, found 1"),
        ("--late -- true", "--late needs --layout cxl"),
        ("--limit 0 -- true", "--limit"),
        ("--env =x -- true", "not a name: ''"),
        ("--env a;b=x -- true", "not a name: 'a;b'"),
    ],
)
def test_wrong_options_exit_with_2(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says what is wrong."""
    with pytest.raises(SystemExit) as left:
        parse_request(words.split())
    assert 2 == left.value.code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--share", "{tmp}/none"], "none: cannot be shared: not a folder"),
        (["--share", "{tmp}/a b"], "a space or comma in its name"),
        (["--layout", "two-socket", "--cpus", "1"], "expected at least 2, found 1"),
    ],
)
def test_what_cannot_be_started_exits_with_125(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message, on the error stream, before anything is fetched."""
    (tmp_path / "a b").mkdir()
    monkeypatch.setenv("VMTEST_CACHE", str(tmp_path / "cache"))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vmtest"),
            *(option.replace("{tmp}", str(tmp_path)) for option in options),
            *("--", "true"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (125, "") == (done.returncode, done.stdout)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "fetching" not in done.stderr


def test_help_names_every_layout(capsys: pytest.CaptureFixture[str]) -> None:
    """What can be chosen is in the help."""
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for name in ("two-tier", "three-tier", "two-socket", "cxl", "flat"):
        assert f"\n  {name} " in said
