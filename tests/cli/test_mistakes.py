"""What people mistype: told at once, in a line or two, with what to type instead."""

import json
import time

import pytest

from isotherm.cli.main import main

SMALL = ("--workload", "gups", "--pages", "512", "--accesses", "50000")


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code and what stood on stderr."""
    code = main(words)
    captured = capsys.readouterr()
    assert "" == captured.out
    return code, captured.err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sim", "no verb is called 'sim'; did you mean simulate?"),
        ("comapre", "no verb is called 'comapre'; did you mean compare?"),
        ("xyzzy", "no verb is called 'xyzzy'"),
    ],
)
def test_an_unknown_verb(
    capsys: pytest.CaptureFixture[str], word: str, said: str
) -> None:
    """A short line, with the verb that is near, and where all of them are."""
    expected = f"error: {said}\n  hint: isotherm --help\n"
    assert (2, expected) == told(capsys, word, "--json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("topology weight", "topology: there is no 'weight'; did you mean 'weights'?"),
        ("config chek", "config: there is no 'chek'; did you mean 'check'?"),
        ("pods wach", "wach: no such file; did you mean 'watch'?"),
        ("topology xyzzy", "found 'xyzzy', expected options"),
        ("--topology weight", 'Unknown command "--topology".'),
    ],
)
def test_an_unknown_object(
    capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    """What a verb has that is near is named, where one can stand without it, too."""
    code, found = told(capsys, *words.split())
    assert (2, f"error: {said}") == (code, found[: len(said) + 7])


@pytest.mark.parametrize("address", ["foo", "10.0.0.1", "http://a:1", "a:b", ":8786"])
@pytest.mark.parametrize("verb", ["compare", "plan"])
def test_a_scheduler_is_a_host_and_a_port(
    capsys: pytest.CaptureFixture[str], verb: str, address: str
) -> None:
    """Anything else is refused before somebody waits for it."""
    code, said = told(capsys, verb, "--workload", "gups", "--scheduler", address)
    assert 2 == code
    assert (
        f"error: scheduler: expected HOST:PORT, such as 10.0.0.1:8786, got {address!r}"
        in said
    )


@pytest.mark.slow
def test_nobody_at_the_address_is_known_at_once() -> None:
    """A port that nobody listens at is not asked again and again."""
    pytest.importorskip("distributed", reason="dask.distributed is missing")
    from isotherm.core.errors import IsothermError
    from isotherm.lab.cluster import _connect

    begun = time.monotonic()
    with pytest.raises(IsothermError, match=r"cannot connect: .*refused"):
        _connect("127.0.0.1:1")
    assert time.monotonic() - begun < 5  # it was 10 and more


@pytest.mark.parametrize("verb", ["compare", "plan"])
@pytest.mark.parametrize("name", ["x.csv", "x.json", "x"])
def test_finished_runs_are_parquet(
    capsys: pytest.CaptureFixture[str], tmp_path, verb: str, name: str
) -> None:
    """A name that says otherwise is refused, and nothing is written."""
    out = str(tmp_path / name)
    code, said = told(capsys, verb, "--workload", "gups", "--out", out)
    assert 2 == code
    assert "expected a name that ends in .parquet" in said
    assert f"--out {tmp_path / 'x.parquet'}" in said
    assert [] == list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("text", ["40%", "0.4", "2/5"])
def test_a_share_is_written_as_people_do(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """``--memory-bound`` takes what ``--fast-ratio`` takes."""
    words = ("simulate", "--policy", "first-touch", *SMALL, "--memory-bound", text)
    assert 0 == main([*words, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert 0.4 == result["memory_bound"]
    slower = result["slowdown"] - 1
    assert result["app_slowdown"] == pytest.approx(1 + 0.4 * slower)


@pytest.mark.parametrize("verb", ["simulate", "compare"])
def test_a_share_that_is_none(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """Both verbs name the option and what was found."""
    code, said = told(capsys, verb, "--memory-bound", "140%")
    assert 2 == code
    assert "error: memory bound: expected a share in (0, 1], got '140%'" in said


@pytest.mark.slow
@pytest.mark.parametrize("text", ["150%", "1.5", "3/2"])
def test_a_slowdown_may_be_more_than_double(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """``plan --max-slowdown`` beyond 100 % is a question like any other."""
    words = ("plan", *SMALL, "--policies", "first-touch", "--seeds", "1", "--jobs", "1")
    assert 0 == main([*words, "--max-slowdown", text, "--json"])
    (need,) = json.loads(capsys.readouterr().out)["policies"]
    assert need["mean_ratio"] < 0.5  # three quarters of all that is slow costs


@pytest.mark.parametrize(
    "address", ["300.1.1.1", "127.0.0.1:80", "", "a b", "1.2.3", "::g", "http://x"]
)
def test_what_is_no_address_is_not_listened_on(
    capsys: pytest.CaptureFixture[str], address: str
) -> None:
    """That is usage, not something that this host lacks."""
    code, said = told(capsys, "serve", "--listen", address)
    assert 2 == code
    assert (
        f"listen: expected an address of this host, or a name, got {address!r}" in said
    )


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "fe80::1%lo", "localhost", "a-b.c"]
)
def test_what_may_be_an_address(address: str) -> None:
    """Whether somebody can listen there is found by trying."""
    from isotherm.cli.serve import check_address

    assert check_address(address) is None


@pytest.mark.slow
def test_gains_are_told_with_their_times(
    capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    """Promised and earned span different times: the table says which."""
    run = str(tmp_path / "run")
    words = ("--workload", "drift", "--pages", "1024", "--accesses", "600000")
    assert 0 == main(["simulate", *words, "--record", run])
    capsys.readouterr()
    assert 0 == main(["explain", run, "--pages", "0-1023"])
    said = capsys.readouterr().out
    assert "promised" in said
    assert "until it moved again or the run ended" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 80
