"""The command line itself: help, errors, exit codes, streams."""

import os
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from isotherm import __version__
from isotherm.cli import main as cli
from isotherm.core.errors import (
    NotPermittedError,
    TargetGoneError,
    UnsupportedError,
    UsageError,
)

VERBS = (
    *("demo", "simulate", "compare", "plan", "explain", "topology", "trace"),
    *("doctor", "workload", "fidelity"),
)


def isotherm(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "isotherm", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,  # type: ignore[call-overload]  # cwd, env
    )


def test_installed_command_is_there() -> None:
    """The console script stands beside the interpreter and knows its version."""
    script = Path(sys.executable).with_name("isotherm")
    if not script.exists():
        pytest.skip(f"isotherm is not installed beside {sys.executable}")
    run = subprocess.run(
        [script, "--version"], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout.strip()) == (0, __version__)


@pytest.mark.slow
def test_help_is_quick() -> None:
    """The help costs well under a second of CPU time, however busy the machine is."""
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = isotherm("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert run.returncode == 0
    assert min(took) < 1.0


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    """Neither numpy nor a table library is imported to show the help."""
    code = (
        "import sys; from isotherm.cli.main import main; main(['--help']);"
        "heavy = {'numpy', 'numba', 'pyarrow', 'duckdb', 'altair', 'vl_convert'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert run.stderr.strip() == "[]"


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """Every verb stands in the help, with a line on what it does."""
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb, _, line in cli.VERBS:
        assert verb in text
        assert line in text


@pytest.mark.parametrize("where", [where for _, where, _ in cli.VERBS])
def test_no_line_of_an_epilogue_is_broken(where: str) -> None:
    """Examples can be pasted: the console wraps at 80, through a command as well."""
    module, _, app = where.partition(":")
    epilogue = getattr(import_module(module), app).help_epilogue
    assert max(map(len, epilogue.splitlines())) <= 80


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_ends_with_examples(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help of a verb gives examples and says what it costs, within 80 columns."""
    assert cli.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    tail = text[text.index("Examples:") :]
    assert f"isotherm {verb}" in tail
    assert "Overhead" in tail
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["simulat"], "did you mean simulate?"),
        (["--jsno"], "--jsno"),
        (["simulate", "--polici", "tpp"], "--policy"),
        (["simulate", "--pages", "many"], "--pages"),
        (["simulate", "--policy", "isoterm"], "did you mean 'isotherm'"),
        (["simulate", "--workload", "gasp"], "workload 'gasp'"),
        (
            ["simulate", "--workload", "no/such.parquet"],
            "no/such.parquet: no such file",
        ),
        (["simulate", "--machine", "dram-cx"], "did you mean 'dram-cxl'"),
        (["simulate", "--fast-ratio", "1.5"], "fast ratio: expected a share"),
        (["simulate", "--fast-ratio", "1/0"], "fast ratio: expected a share"),
        (["simulate", "--hints", "samplin"], "did you mean 'sampling'"),
        (["simulate", "--placement", "randm"], "did you mean 'random'"),
        (["simulate", "--rate", "-1"], "rate: expected"),
        (["simulate", "--option", "x"], "option: expected name=number"),
        (["simulate", "--pages", "0"], "pages: expected at least 1"),
        (["compare", "--seeds", "a"], "seeds: expected a number"),
        (["compare", "--fast-ratios", ","], "fast ratios: expected a comma"),
        (["compare", "--report", "/no/such/dir/x.html"], "/no/such/dir"),
        (["explain", "/no/such/recording", "--pages", "1"], "no recording here"),
        (["explain", "run", "--pages", "9-1"], "expected first <= last"),
        (["explain", "run", "--pages", "a-b"], "expected first-last"),
    ],
)
def test_usage_errors(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong word ends with 2, one error line on stderr and nothing on stdout."""
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    first = shown.err.splitlines()[0]
    assert first.startswith("error: ")
    assert says.lower() in first.lower()
    assert all(line.startswith("  hint: ") for line in shown.err.splitlines()[1:])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x: wrong"), 2),
        (UnsupportedError("x: missing"), 3),
        (NotPermittedError("x: no", hint="be root"), 4),
        (TargetGoneError("x: gone"), 5),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("oops"), 1),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each kind of error has its exit code, and no traceback reaches a person."""

    def fail(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main(["demo"]) == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert ("hint: be root" in shown) == (code == 4)


@pytest.mark.parametrize(
    "words",
    [
        ["simulate", "--record", "run"],
        ["compare", "--out", "out.parquet"],
        ["top", "--recording", "run"],
    ],
)
def test_a_package_that_is_not_installed(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 3, one line, and the extra that brings it; nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert cli.main(words) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "error: pyarrow is not installed",
        "  hint: pip install 'isotherm[trace]'",
    ]
    assert [] == list(tmp_path.iterdir())


def test_an_import_of_ours_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is unexpected: no extra would bring it."""

    def fail(words: list[str]) -> int:
        raise ModuleNotFoundError("no", name="isotherm.gone")

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main(["demo"]) == 1
    assert "unexpected ModuleNotFoundError" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["simulate", "--list"], ["simulate", "--list", "--json"], ["--help"]]
)
def test_a_full_disk_behind_stdout(words: list[str]) -> None:
    """One line says so and the exit code is 1, whoever prints."""
    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(
            [sys.executable, "-m", "isotherm", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    said = b"error: stdout: cannot write: No space left on device\n"
    assert (1, said) == (run.returncode, run.stderr)


def test_interrupted_verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C within a verb ends with 130 and one word."""
    from isotherm.lab import catalogue

    def interrupt(name: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "check_policy", interrupt)
    assert cli.main(["simulate"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("way", ["option", "environment"])
def test_debug_shows_where(
    way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --debug or ISOTHERM_DEBUG=1 an unexpected error brings its traceback."""

    def fail(words: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_run", fail)
    if way == "environment":
        monkeypatch.setenv("ISOTHERM_DEBUG", "1")
    assert cli.main(["--debug"] if way == "option" else []) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_after_dashes_is_not_ours() -> None:
    """What follows ``--`` belongs to the command that is run."""
    words = ["trace", "record", "o", "--", "ls", "--debug"]
    assert cli._take_debug(words)[1] == words


@pytest.mark.slow
def test_closed_pipe_is_quiet() -> None:
    """A reader that goes away early causes no complaint."""
    run = subprocess.run(
        [
            "bash",
            "-o",
            "pipefail",
            "-c",
            f"{sys.executable} -m isotherm simulate --list --json | true",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_list_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is no colour, and lines fit 80 columns."""
    assert cli.main(["simulate", "--list"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    for name in ("isotherm", "clairvoyant", "zipf", "dram-cxl", "accessed-bit"):
        assert name in text


@pytest.mark.parametrize(
    "words",
    [
        ["simulate", "--seed", "1.5"],
        ["compare", "--pages", "64.9"],
        ["plan", "--windows", "1.5"],
        ["stop", "1.5"],
        ["trace", "record", "x", "--pid", "1", "--pid", "2.5"],
    ],
)
def test_fractions_are_not_rounded(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a whole number is expected a fraction is an error of usage."""
    assert 2 == cli.main(words)
    assert "expected a whole number, got" in capsys.readouterr().err


def test_reader_of_a_table_has_gone() -> None:
    """That is no error, whoever prints: exit code 0, nothing on stderr."""
    pipe, writer = os.pipe()
    os.close(pipe)
    command = [sys.executable, "-m", "isotherm", "simulate", "--pages", "64"]
    command += ["--accesses", "640"]
    with os.fdopen(writer, "wb") as gone:
        run = subprocess.run(
            command, stdout=gone, stderr=subprocess.PIPE, timeout=120, check=False
        )
    said = [line for line in run.stderr.splitlines() if b"first start" not in line]
    assert (0, []) == (run.returncode, said)


@pytest.mark.parametrize("words", [["--help"], ["simulate", "--list"], ["--version"]])
def test_closed_stdout(words: list[str]) -> None:
    """Who has closed it wants nothing: no error of ours."""
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "isotherm"]
    run = subprocess.run(
        [*shell, *words], stderr=subprocess.PIPE, timeout=120, check=False
    )
    assert (0, b"") == (run.returncode, run.stderr)
