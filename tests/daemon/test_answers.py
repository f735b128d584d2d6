"""``explain`` of a running daemon: the socket, its rules, and what it answers."""

import json
import os
import socket
import stat
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isotherm.core.errors import (
    IsothermError,
    NotPermittedError,
    TargetGoneError,
    UnsupportedError,
    UsageError,
)
from isotherm.daemon.answers import Answers
from isotherm.daemon.coarse import CoarseMachine, CoarseSource
from isotherm.daemon.config import Config
from isotherm.daemon.service import Service
from isotherm.daemon.socket import ExplainSocket, Question, ask
from isotherm.daemon.why_live import Part, explain_live
from isotherm.machine.protocol import Space
from isotherm.migration.engine import MigrationEngine
from tests.daemon.owned import Owned

PID, START = 4242, 0x7F00_0000_0000
SPACES = (
    Space(0, 1024, f"pid {PID} [heap]", START // 4096),
    Space(1024, 2048, f"pid {PID}", START // 4096 + 5000),
    Space(3072, 1024, "pid 77", 99),
)


@pytest.fixture
def answers(playing, tmp_path):
    """Return a service that has run for half a minute, and its answers."""
    played = playing()
    made = Answers(played.service, tmp_path / "s", "pid 4242")
    made.history.machine = Owned(played.machine, SPACES)
    played.service.run(played.wait, 30.0)
    yield made
    made.close()


@pytest.mark.slow
def test_a_dry_run_answers_what_it_would_have_moved(playing, tmp_path):
    """As its result does; nothing has moved."""
    played = playing(dry_run=True)
    with Answers(played.service, tmp_path / "s", "pid 4242") as made:
        played.service.run(played.wait, 10.0)
        state, result = made.state(), played.service.result()
    assert state["promoted_pages"] == result["promoted_pages"] > 0
    assert state["demoted_pages"] == result["demoted_pages"]
    assert 0 == played.service.tally.promoted_pages


@pytest.mark.slow
def test_an_answer_agrees_with_the_machine(answers):
    """Pages per node, moves and groups are those of the simulator."""
    machine = answers.history.machine
    found = explain_live(answers.history, PID)
    node = machine.placement()[:3072]
    assert (node == 0).sum() == found["end_pages_per_node"]["0"]
    assert 3072 == found["nr_pages"] == sum(g["nr_pages"] for g in found["why"])
    moved = [m for m in found["moves"] if m["errno"] == 0]
    promoted = {m["page"] for m in moved if m["dst"] == 0}
    group = next(g for g in found["why"] if g["what"] == "promoted")
    pages = {p for a, b in group["pages"] for p in range(a, b + 1)}
    assert pages <= promoted
    assert all(m["src"] != m["dst"] for m in moved)
    assert any(m["earned_ns"] is not None for m in moved)
    starts = [run["start"] for run in found["ranges"]]
    assert START in starts
    rates = [run["rate"] for run in found["ranges"]]
    assert sorted(rates, reverse=True) == rates
    assert json.loads(json.dumps(found)) == found


@pytest.mark.slow
def test_promoted_pages_earn_what_they_save(answers):
    """Earned is accesses times latency saved, less the cost: it grows with heat."""
    found = explain_live(answers.history, PID)
    up = [m for m in found["moves"] if m["dst"] == 0 and m["earned_ns"] is not None]
    down = [m for m in found["moves"] if m["dst"] == 1 and m["earned_ns"] is not None]
    assert np.mean([m["earned_ns"] for m in up[: len(up) // 2]]) > 0
    assert all(m["earned_ns"] <= 0 for m in down)


@pytest.mark.slow
def test_a_range_is_a_part_of_the_whole(answers):
    """Addresses cut exactly, across spaces too; groups name virtual pages."""
    begin = START + 1000 * 4096
    end = START + 5010 * 4096
    found = explain_live(answers.history, PID, begin, end)
    assert 24 + 10 == found["nr_pages"]
    pages = [p for g in found["why"] for a, b in g["pages"] for p in range(a, b + 1)]
    first = START // 4096
    expected = [*range(first + 1000, first + 1024), *range(first + 5000, first + 5010)]
    assert expected == sorted(pages)


@pytest.mark.slow
def test_answers_in_units_name_the_memory_that_they_cover(playing, tmp_path):
    """In units of eight pages addresses are those of single pages, sizes whole."""
    played = playing()
    machine = Owned(played.machine, SPACES)
    source = played.service.loop.sources[0]
    source.open = source.close = lambda: None
    service = Service(
        CoarseMachine(machine, 8),
        (CoarseSource(source, 8),),
        Config(),
        lambda m: MigrationEngine(m, quota_pages_per_s=6400.0),
        lambda: True,
        unit_pages=8,
        cpu_ns=lambda: 0,
    )
    played.service = service
    made = Answers(service, tmp_path / "s")
    try:
        service.run(played.wait, 30.0)
        path = made.socket.path
        found = ask(path, Question("explain", PID))
        assert 8 * 4096 == found["page_bytes"]
        assert 8 == found["state"]["unit_pages"]
        assert (1024 + 2048) // 8 == found["nr_pages"]
        assert START == found["range"][0]
        assert START + (5000 + 2048) * 4096 == found["range"][1]
        assert START in {run["start"] for run in found["ranges"]}
        part = ask(path, Question("explain", PID, START + 4096, START + 9 * 4096))
        assert [START, START + 16 * 4096] == part["range"]
        assert 2 == part["nr_pages"]
        moved = [m["page"] * found["page_bytes"] for m in found["moves"]]
        assert moved
        assert all(START <= at < found["range"][1] for at in moved)
        status = ask(path, Question("status"))
        mapped = {p["pid"]: p["mapped_bytes"] for p in status["processes"]}
        assert {PID: 3072 * 4096, 77: 1024 * 4096} == mapped
    finally:
        made.close()


def test_ranges_of_nobody_are_refused():
    """A process that is not managed has gone; a range outside is a usage error."""
    with pytest.raises(TargetGoneError, match="pid 5: not managed"):
        Part(SPACES, 5)
    with pytest.raises(UsageError, match="no managed memory"):
        Part(SPACES, PID, 0, 4096)


@pytest.mark.slow
def test_the_socket_answers_what_a_call_would(answers):
    """Asked through the socket, the answer is the same document."""
    path = answers.socket.path
    said = ask(path, Question("explain", PID, START, START + 4096))
    assert 1 == said["nr_pages"]
    status = ask(path, Question("status"))
    assert [PID, 77] == sorted((p["pid"] for p in status["processes"]), reverse=True)
    assert 30 == status["epochs"]
    with pytest.raises(TargetGoneError, match="not managed"):
        ask(path, Question("explain", 5))
    with pytest.raises(UsageError):
        ask(path, Question("explain"))


@pytest.fixture
def echo(tmp_path):
    """Return a socket that answers with the question."""
    made = ExplainSocket(tmp_path / "s", lambda q: {"ask": q.ask, "pid": q.pid})
    yield made
    made.close()


def test_the_socket_is_private_and_goes_away(tmp_path):
    """Mode 0600 from the first moment; no file and no thread remain."""
    before = threading.active_count()
    path = tmp_path / "s"
    path.touch()  # what a dead daemon has left
    made = ExplainSocket(path, lambda q: {})
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    made.close()
    made.close()
    assert not path.exists()
    assert before == threading.active_count()


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"\n",
        b'{"ask": "stop"}\n',
        b'{"ask": "status", "x": 1}\n',
        b'{"ask": "explain", "pid": "4242; rm"}\n',
        b"x" * 70_000,
    ],
)
def test_wrong_questions_get_an_error_and_hurt_nobody(echo, line):
    """The next question is answered as ever."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(echo.path))
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        said = json.loads(client.makefile("rb").read())
    assert 2 == said["error"]["exit_code"]
    assert {"ask": "status", "pid": None} == ask(echo.path, Question("status"))


def said_to(path, line):
    """Send bytes as they are; return what is said, None where nothing is."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile("rb").read()
    return json.loads(answer)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    line=st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(Question.__struct_fields__) | st.text(max_size=5),
                inner,
                max_size=4,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_get_an_answer_or_an_error(echo, line, monkeypatch):
    """Whatever is sent, the document is one of the two, and the daemon lives."""
    monkeypatch.setattr("isotherm.daemon.socket.QUESTIONS_PER_S", 1e9)
    found = said_to(echo.path, line + b"\n")
    assert 1 == found["version"]
    assert ("answer" in found) != ("error" in found)


def test_a_later_version_is_refused(echo):
    """In words, not by a guess at what the question means."""
    found = said_to(echo.path, b'{"ask": "status", "version": 2}\n')
    assert "of version 2, expected 1" in found["error"]["message"]


def test_too_many_questions_are_told_to_wait(echo, monkeypatch):
    """After the burst; later there are answers again."""
    clock = iter(float(at) for at in [*([1000.0] * 61), 1001.0])
    monkeypatch.setattr("isotherm.daemon.socket.time.monotonic", lambda: next(clock))
    echo._tokens, echo._filled_s = 60.0, 1000.0
    line = b'{"ask": "status"}\n'
    found = [said_to(echo.path, line) for _ in range(62)]
    assert ["answer" in one for one in found] == [True] * 60 + [False, True]
    assert "questions a second" in found[60]["error"]["message"]


def test_a_client_that_leaves_hurts_nobody(echo):
    """Connecting and going away is no reason to stop."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(echo.path))
    assert "status" == ask(echo.path, Question("status"))["ask"]


def test_a_failing_answer_is_told(tmp_path):
    """An unexpected error reaches the client in words, and the daemon lives."""
    made = ExplainSocket(tmp_path / "s", lambda q: {"x": 1 // 0})
    with pytest.raises(Exception, match="ZeroDivisionError"):
        ask(made.path, Question("status"))
    with pytest.raises(Exception, match="ZeroDivisionError"):
        ask(made.path, Question("status"))
    made.close()


def test_nobody_listening_is_said(tmp_path):
    """A socket that is not there, or whose daemon died, is a target that has gone."""
    with pytest.raises(TargetGoneError):
        ask(tmp_path / "s", Question("status"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(TargetGoneError):
        ask(tmp_path / "s", Question("status"))


@contextmanager
def saying(path, line):
    """Serve one line to one client, as a daemon that is not ours may."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def reply():
            with server.accept()[0] as client:
                client.recv(1 << 16)
                client.sendall(line + b"\n")

        thread = threading.Thread(target=reply)
        thread.start()
        yield
        thread.join(20)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b'{"error": {}}',
        b'{"error": {"message": 7}}',
        b'{"error": {"message": "x", "hint": [], "exit_code": {}}}',
        b'{"answer": \xff}',
        b"[" * 5000,
    ],
)
def test_what_is_no_answer_is_told_in_a_sentence(tmp_path, line):
    """A daemon is another user's program: whatever it says ends in one error."""
    with (
        saying(tmp_path / "s", line),
        pytest.raises(IsothermError, match="not an answer"),
    ):
        ask(tmp_path / "s", Question("status"))


def test_a_terminal_obeys_no_answer(tmp_path):
    """Escapes in what another user's daemon says are question marks here."""
    line = rb'{"answer": {"a\u001b]0;b\u0007": "\u009b2J\\u001b\n"}}'
    with saying(tmp_path / "s", line):
        assert {"a?]0;b?": "?2J\\u001b\n"} == ask(tmp_path / "s", Question("status"))
    error = b'{"error": {"message": "\xc2\x9b2J\\u001bc"}}'
    with saying(tmp_path / "t", error), pytest.raises(IsothermError) as caught:
        ask(tmp_path / "t", Question("status"))
    assert "?2J?c" == caught.value.message


def test_a_link_to_another_socket_is_not_followed(tmp_path, echo):
    """Who owns the folder may put one there; root would speak to somebody else."""
    (tmp_path / "link").symlink_to(echo.path)
    with pytest.raises(NotPermittedError):
        ask(tmp_path / "link", Question("status"))


def test_a_path_too_long_for_a_socket_is_refused(tmp_path):
    """The kernel's limit is 108 bytes; the message says what to set."""
    with pytest.raises(UnsupportedError) as caught:
        ExplainSocket(Path(tmp_path) / ("x" * 120), lambda q: {})
    assert "ISOTHERM_RUN_DIRECTORY" in str(caught.value.hint)


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: cannot become another user")
def test_other_users_are_refused(tmp_path):
    """Even where the file lets them in, the kernel's word about the peer counts."""
    folder = tempfile.TemporaryDirectory()  # not below pytest's private folder
    Path(folder.name).chmod(0o755)
    echo = ExplainSocket(Path(folder.name) / "s", lambda q: {})
    echo.path.chmod(0o666)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(echo.path))
                client.sendall(b'{"ask": "status"}\n')
                os.write(writer, client.recv(4096))
        except BaseException as error:  # noqa: BLE001  # told to the parent
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = json.loads(pipe.read())
    echo.close()
    folder.cleanup()
    assert 4 == said["error"]["exit_code"]
