"""run, stop and config on the command line."""

import os
import subprocess
import sys

import msgspec
import pytest

from isotherm.cli.main import main
from isotherm.daemon.config import Config, render_config


@pytest.fixture(autouse=True)
def run_directory(tmp_path, monkeypatch):
    """Keep away from daemons of this host."""
    monkeypatch.setenv("ISOTHERM_RUN_DIRECTORY", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "error: target: expected one of --pid, --cgroup, --pods, --tenants and"),
        (
            ["--pid", "1", "--", "true"],
            "error: target: expected one of --pid, --cgroup, --pods, --tenants and",
        ),
        (["--pid", "x"], "error: pid: expected a process id, got 'x'"),
        (["--pid", "1", "--duration", "0"], "error: duration: expected seconds > 0"),
        (["--pid", "1", "--epoch", "0"], "error: expected `float` > 0.0"),
        (["--pid", "1", "--mover", "magic"], 'error: Invalid value "magic"'),
        (["--pid", "1", "--mover", "kernel", "--huge-pages"], "error: huge-pages: the"),
        (["--pid", "1", "--config", "/no/such"], "error: /no/such: cannot be read"),
    ],
)
def test_wrong_words_end_with_two(words, said, capsys):
    """What is wrong with the command line is said before anything is done."""
    assert 2 == main(["run", *words])
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--hints", "damom"],
            "error: hints: expected idle-page, ",
        ),
        (["--hints", "auto,damon"], 'error: hints: "auto" stands alone'),
        (["--hints", "write-tracking"], "error: hints: write-tracking changes some"),
        (["--metrics", ":99999"], "error: metrics: expected HOST:PORT, got ':99999'"),
        (["--metrics", "foo:bar"], "error: metrics: expected HOST:PORT, got 'foo:bar"),
        (["--record", "{full}"], "error: {full}: holds other files (notes.txt)"),
    ],
)
def test_words_are_checked_before_the_host(words, said, tmp_path, monkeypatch, capsys):
    """Whoever asks and whatever this host has: a wrong word ends with 2."""
    from isotherm.daemon import preflight

    def ask(root):
        pytest.fail("the host is asked before the words are right")

    monkeypatch.setattr(preflight, "check_permitted", ask)
    (tmp_path / "notes.txt").touch()
    words = [word.format(full=tmp_path) for word in words]
    assert 2 == main(["run", "--pid", str(os.getpid()), "--dry-run", *words])
    assert capsys.readouterr().err.startswith(said.format(full=tmp_path))


def test_a_command_that_is_not_there_is_named_first(tmp_path, monkeypatch, capsys):
    """By its name, and by a path to a file that cannot be run."""
    from isotherm.daemon import preflight

    monkeypatch.setattr(preflight, "check_permitted", lambda root: pytest.fail("asked"))
    assert 2 == main(["run", "--", "nosuchcommand", "-x"])
    said = "error: nosuchcommand: cannot be started: No such file or directory\n"
    assert said == capsys.readouterr().err
    closed = tmp_path / "closed"
    closed.touch(mode=0o600)
    assert 2 == main(["run", "--", str(closed)])
    said = f"error: {closed}: cannot be started: Permission denied\n"
    assert said == capsys.readouterr().err


def test_pids_may_be_several_words_or_a_list(monkeypatch):
    """--pid takes numbers one after the other, and comma lists, none twice."""
    pytest.importorskip("numba", reason="the loop is not imported without numba")
    from isotherm.daemon import preflight, session

    asked = []

    def run_session(request, checked):
        asked.append(request)
        return session.Ended(7, {"fast_share": None})

    monkeypatch.setattr(preflight, "preflight", lambda request: None)
    monkeypatch.setattr(session, "run_session", run_session)
    words = ["run", "--pid", "4", "5,4", "--limit", "50", "--epoch", "120", "--json"]
    assert 2 == main(words)  # an epoch is at most a minute
    words[words.index("120")] = "2"
    assert 7 == main([*words, "--hints", "damon, page-out", "--intrusive"])
    assert (4, 5) == asked[0].pids
    assert 50.0 == asked[0].config.migration.limit_mib_s
    assert 2.0 == asked[0].config.loop.epoch_s
    assert ("damon", "page-out") == asked[0].config.sources.use
    assert asked[0].intrusive
    assert 7 == main(["run", "--json", "--", "sleep", "--help"])
    assert ("sleep", "--help") == asked[1].command


def test_stop_without_a_run(capsys):
    """Nobody runs: that is said, and no error."""
    assert 0 == main(["stop"])
    assert "no isotherm runs\n" == capsys.readouterr().out
    assert 0 == main(["stop", "--all", "--json"])
    found = msgspec.json.decode(capsys.readouterr().out)
    assert {"stopped": [], "recovered": []} == found
    assert 2 == main(["stop", "4242"])


def test_config_show_and_check(tmp_path, capsys):
    """What is shown can be checked; what is wrong ends with 2."""
    assert 0 == main(["config", "show", os.devnull])
    shown = capsys.readouterr().out
    assert render_config(Config()) == shown
    path = tmp_path / "isotherm.toml"
    path.write_text(shown)
    assert 0 == main(["config", "check", str(path)])
    assert f"{path}: fine\n" == capsys.readouterr().out
    path.write_text("[loop]\nepoch = 1\n")
    assert 2 == main(["config", "check", str(path)])
    assert "did you mean 'epoch_s'?" in capsys.readouterr().err
    assert 0 == main(["config", "show", os.devnull, "--json"])
    assert 1.0 == msgspec.json.decode(capsys.readouterr().out)["loop"]["epoch_s"]


@pytest.mark.slow
def test_help_is_quick_to_import():
    """Run --help imports neither numba nor numpy."""
    code = (
        "import sys; from isotherm.cli.main import main; main(['run', '--help']);"
        "sys.exit('numba' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode
    assert "isotherm run --pid 4242 --dry-run" in done.stdout
